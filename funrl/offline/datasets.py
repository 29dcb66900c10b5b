"""Data sets of transitions: reading and writing them, their statistics, and views of them.

A :class:`Dataset` has whole episodes, or pieces of them, one after another, with true successors. Rewards are finite, flags tell
termination from truncation, and actions are those of the space, or a warning says how many are not.
"""

from funrl.offline._dataset import Dataset, from_rollouts, from_transitions
from funrl.offline._files import Stream, load, save, stream
from funrl.offline._minari import minari, to_minari
from funrl.offline._open import open_dataset, write
from funrl.offline._readers import d4rl, directory, ogbench
from funrl.offline._recording import from_replay, record
from funrl.offline._views import Window, merge, moments, n_step, normalize_observations, scale_rewards, select, top, windows

__all__ = [
    "Dataset",
    "Stream",
    "Window",
    "d4rl",
    "directory",
    "from_replay",
    "from_rollouts",
    "from_transitions",
    "load",
    "merge",
    "minari",
    "moments",
    "n_step",
    "normalize_observations",
    "ogbench",
    "open_dataset",
    "record",
    "save",
    "scale_rewards",
    "select",
    "stream",
    "to_minari",
    "top",
    "windows",
    "write",
]
