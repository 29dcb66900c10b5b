"""Training loop on the host: compiles and calls an algorithm's step, logs metrics, and saves checkpoints."""

from funrl.runs import Run, RunError, load_run
from funrl.training import hooks
from funrl.training._agents import evaluate_agents
from funrl.training._log import Diverged
from funrl.training._loop import Result, train
from funrl.training._sweeps import read_sweep as read_sweep, train_populations
from funrl.training.hooks import Stop, every
from funrl.training.presets import PRESETS, Preset, preset

__all__ = [
    "PRESETS",
    "Diverged",
    "Preset",
    "Result",
    "Run",
    "RunError",
    "Stop",
    "evaluate_agents",
    "every",
    "hooks",
    "load_run",
    "preset",
    "train",
    "train_populations",
]
