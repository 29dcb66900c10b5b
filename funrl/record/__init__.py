"""Records of runs: the folder of a run, metrics files, loggers, learning curves and videos."""

from funrl.record import loggers
from funrl.record.aggregate import (
    bootstrap_interval,
    interquartile_mean,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)
from funrl.record.films import film, grid, video
from funrl.record.folder import Folder, RunError, check_algorithm, describe, options_of, read_config, rebuild
from funrl.record.loggers import Logger
from funrl.record.metrics import MetricsFile, read_metrics
from funrl.record.plots import learning_curve, learning_curves
from funrl.record.tables import comparison, configurations, hyperparameters, score_matrix

__all__ = [
    "Folder",
    "Logger",
    "MetricsFile",
    "RunError",
    "bootstrap_interval",
    "check_algorithm",
    "comparison",
    "configurations",
    "describe",
    "film",
    "grid",
    "hyperparameters",
    "interquartile_mean",
    "learning_curve",
    "learning_curves",
    "loggers",
    "optimality_gap",
    "options_of",
    "performance_profile",
    "probability_of_improvement",
    "read_config",
    "read_metrics",
    "rebuild",
    "score_matrix",
    "video",
]
