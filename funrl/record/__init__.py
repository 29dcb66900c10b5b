"""Records of runs: metrics files, loggers, learning curves, videos and reports."""

from funrl.record import loggers
from funrl.record._aggregate import (
    bootstrap_interval,
    interquartile_mean,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)
from funrl.record._films import film, grid, video
from funrl.record._metrics import MetricsFile, read_metrics
from funrl.record._plots import learning_curve, learning_curves
from funrl.record._report import RunRecord, report
from funrl.record._tables import comparison, configurations, hyperparameters, score_matrix
from funrl.record.loggers import Logger

__all__ = [
    "Logger",
    "MetricsFile",
    "RunRecord",
    "bootstrap_interval",
    "comparison",
    "configurations",
    "film",
    "grid",
    "hyperparameters",
    "interquartile_mean",
    "learning_curve",
    "learning_curves",
    "loggers",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
    "read_metrics",
    "report",
    "score_matrix",
    "video",
]
