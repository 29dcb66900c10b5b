"""What a run leaves behind: its folder, rows of metrics, and pictures of them."""

from funrl.record.folder import Folder, RunError, describe, options_of, read_config, rebuild
from funrl.record.metrics import MetricsFile, read_metrics
from funrl.record.plots import learning_curve

__all__ = ["Folder", "MetricsFile", "RunError", "describe", "learning_curve", "options_of", "read_config", "read_metrics", "rebuild"]
