"""Records of runs: the folder of a run, metrics files, loggers, learning curves and videos."""

from funrl.record import loggers
from funrl.record.aggregate import bootstrap_interval, interquartile_mean
from funrl.record.films import film, grid, video
from funrl.record.folder import Folder, RunError, check_algorithm, describe, options_of, read_config, rebuild
from funrl.record.loggers import Logger
from funrl.record.metrics import MetricsFile, read_metrics
from funrl.record.plots import learning_curve, learning_curves

__all__ = [
    "Folder",
    "Logger",
    "MetricsFile",
    "RunError",
    "bootstrap_interval",
    "check_algorithm",
    "describe",
    "film",
    "grid",
    "interquartile_mean",
    "learning_curve",
    "learning_curves",
    "loggers",
    "options_of",
    "read_config",
    "read_metrics",
    "rebuild",
    "video",
]
