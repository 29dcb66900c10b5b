"""Training loop on the host: compiles and calls an algorithm's step, logs metrics, and saves checkpoints."""

from funrl.record import RunError
from funrl.training import hooks
from funrl.training.agents import evaluate_agents
from funrl.training.hooks import Stop, every
from funrl.training.log import Diverged
from funrl.training.loop import Result, train
from funrl.training.presets import PRESETS, Preset, preset
from funrl.training.runs import Run, load_run
from funrl.training.sweeps import read_sweep, train_populations

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
    "read_sweep",
    "train",
    "train_populations",
]
