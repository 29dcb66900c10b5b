"""Readers of files: D4RL's HDF5 layout, OGBench's npz layout, and folders of npz or safetensors files."""

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from funrl import _check, tree
from funrl.env import Transition
from funrl.offline._dataset import Dataset, from_transitions
from funrl.offline._files import save
from funrl.offline._layouts import check_rows, columns_of, from_arrays, rename
from funrl.offline._views import merge


def d4rl(
    path: str | os.PathLike,
    *,
    spaces: Any = None,
    folder: str | os.PathLike | None = None,
    dtype: torch.dtype | None = torch.float32,
    rows: int = 100_000,
) -> Dataset:
    """Read an HDF5 file in D4RL's layout: ``observations``, ``actions``, ``rewards``, ``terminals``, and perhaps ``timeouts`` and
    ``next_observations``.

    ``terminals`` become ``terminated`` and ``timeouts`` ``truncated``. Without ``next_observations`` rows that end by a timeout, and the
    last row of the file, are dropped, as their successors are not there; ``notes`` says how many.

    Args:
        path: the file.
        spaces: as for :func:`funrl.offline.datasets.from_transitions`.
        folder: write the rows there, part by part, and return them memory-mapped: for files that are larger than memory. None: in memory.
        dtype: of floating-point columns; None: that of the file.
        rows: rows of a part, about, as parts end with episodes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, no HDF5 file, lacks a column, or a column is shorter than the others; the message names the place.
        TypeError: if an argument has another type.
        ImportError: without h5py (the extra ``minari``).

    Example:
        >>> d4rl("/nowhere.hdf5")
        Traceback (most recent call last):
        ...
        FileNotFoundError: [Errno 2] No such file or directory: '/nowhere.hdf5'

    Reference: J. Fu et al., "D4RL: Datasets for Deep Data-Driven Reinforcement Learning", 2020, arXiv:2004.07219.
    """
    _check.instance("d4rl: path", path, (str, os.PathLike), "give the file", "a path")
    with open(path, "rb"):  # raises an error that names a missing file
        pass
    if dtype is not None:
        _check.instance("d4rl: dtype", dtype, torch.dtype, "such as torch.float32")
    _check.integer("d4rl: rows", rows, 1)
    with _hdf5(path) as file:
        found = rename(str(path), _entries(str(path), file), needed=("observation", "action", "reward", "terminated"))
        parts = _parts(str(path), found, spaces, dtype, rows)
        return save(parts, folder) if folder is not None else merge(*parts)


@contextlib.contextmanager
def _hdf5(path: str | os.PathLike) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise ImportError('reading HDF5 files needs h5py: pip install "funrl[minari]"') from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path}: the file is truncated, damaged or no HDF5 file ({error}); restore a copy") from None


def _entries(place: str, group: Any) -> dict[str, Any]:
    """Return the columns of a group of an HDF5 file, in dicts where there are groups in it."""
    found = {}
    for name, value in group.items():
        if value is None:
            raise ValueError(f"{place}: {name} leads nowhere: the file is damaged, or another file of it is missing; restore a copy")
        if not hasattr(value, "dtype"):
            found[name] = _entries(place, value)
        elif value.shape:
            found[name] = value
    return found


def _parts(place: str, found: dict[str, Any], spaces: Any, dtype: torch.dtype | None, rows: int) -> Iterator[Dataset]:
    """Yield parts of a file that end with episodes; the last one ends with the file."""
    check_rows(place, found, "the rewards have")
    size = len(found["reward"])
    ends = np.asarray(found["terminated"]).reshape(size) != 0
    if "truncated" in found:
        ends = ends | (np.asarray(found["truncated"]).reshape(size) != 0)
    if spaces is None and size > rows:
        first = from_arrays(place, tree.map(lambda x: x[:rows], found), dtype=dtype, last=False)
        spaces = (first.observation_space, first.action_space)
    borders, begin = [], 0
    places = np.flatnonzero(ends) + 1
    while begin < size:
        later = places[places >= min(begin + rows, size)]
        begin_next = int(later[0]) if len(later) > 1 and size - begin > rows else size  # the last part has an end of its own
        borders.append((begin, begin_next))
        begin = begin_next
    if not size:
        borders = [(0, 0)]
    for low, high in borders:
        columns = tree.map(lambda x, low=low, high=high: x[low:high], found)
        where = place if len(borders) == 1 else f"{place}: rows {low} to {high}"
        yield from_arrays(where, columns, spaces=spaces, dtype=dtype)


def ogbench(
    path: str | os.PathLike,
    *,
    reward: Callable[[Any, Any, Any], tuple[torch.Tensor, torch.Tensor]] | None = None,
    spaces: Any = None,
    dtype: torch.dtype | None = torch.float32,
) -> Dataset:
    """Read an npz file in OGBench's layout: ``observations``, ``actions`` and ``terminals``, which mark the last state of a trajectory.

    That state has no action: its row is only the successor of the one before. The trajectories are truncated there, not terminated.
    Rewards are those of the file, with ``masks`` (0 where terminated), or those of a function.

    Args:
        path: the file.
        reward: ``reward(observation, action, next_observation) -> (reward [N], terminated [N])``, for files without rewards.
        spaces: as for :func:`funrl.offline.datasets.from_transitions`.
        dtype: of floating-point columns; None: that of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, lacks a column, or there are neither rewards nor ``reward``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/play.npz", observations=np.arange(4.0)[:, None], actions=np.zeros((4, 1)), terminals=[0, 0, 0, 1])
        ...     data = ogbench(f"{folder}/play.npz", reward=lambda x, a, y: (y[:, 0], y[:, 0] > 2))
        >>> data.transition.reward, data.transition.terminated, data.transition.truncated
        (tensor([1., 2., 3.]), tensor([False, False,  True]), tensor([False, False,  True]))

    Reference: S. Park, K. Frans, B. Eysenbach, S. Levine, "OGBench: Benchmarking Offline Goal-Conditioned RL", 2024, arXiv:2410.20092.
    """
    place = str(_check.instance("ogbench: path", path, (str, os.PathLike), "give the file", "a path"))
    arrays = _npz(path)
    found = rename(place, arrays, needed=("observation", "action", "terminated"))
    columns = columns_of(place, {name: found[name] for name in ("observation", "action", "terminated")}, dtype)
    last, observation, action = columns["terminated"], columns["observation"], columns["action"]
    if not len(last) == len(observation) == len(action):
        got = f"{len(observation)} observations, {len(action)} actions and {len(last)} terminals"
        raise ValueError(f"{place}: expected columns of one length, got {got}; the file is cut off or mixed")
    if len(last) < 2:
        raise ValueError(f"{place}: it is empty: expected at least one transition, got none")
    rows = (~last).nonzero().squeeze(-1)
    rows = rows[rows < len(last) - 1]
    seen, chosen, after = observation[rows], action[rows], observation[rows + 1]
    if "reward" in found:
        columns = columns_of(place, {"reward": found["reward"], "end": arrays.get("masks", np.ones(len(last)))}, dtype)
        for name, x in (("rewards", columns["reward"]), ("masks", columns["end"])):
            if x.shape != last.shape:
                raise ValueError(f"{place}: {name}: expected {list(last.shape)}, as the terminals, got {list(x.shape)}; restore a copy")
        values, terminated = columns["reward"][rows], ~columns["end"][rows]
    elif reward is not None:
        made = reward(seen, chosen, after)
        if not isinstance(made, tuple) or len(made) != 2:
            got = f"{len(made)} values" if isinstance(made, tuple) else f"a {type(made).__name__}"
            raise TypeError(
                f"ogbench: reward: expected a function that returns rewards [N] and terminations [N], got one that returns {got}"
            )
        values, terminated = made
    else:
        raise ValueError(f"{place}: reward: expected a function, as the file has no rewards, got None; it returns rewards and terminations")
    truncated = last[rows + 1]
    transition = Transition(
        observation=seen, action=chosen, reward=values, terminated=terminated, truncated=truncated, next_observation=after, extras={}
    )
    return from_transitions(transition, spaces=spaces, what=place)


def directory(
    path: str | os.PathLike,
    *,
    spaces: Any = None,
    folder: str | os.PathLike | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> Dataset:
    """Read all npz or safetensors files of a directory, or one such file, in the order of their names.

    Their columns have the names of D4RL (``observations``, ...), Minari (``terminations``, ...) or of a :class:`funrl.env.Transition`.
    An entry of observations that are dicts is ``observations/NAME`` or ``observations.NAME``. A file of a single episode may have one more
    observation than rewards, the last successor. Files without successors lose rows, as for :func:`d4rl`.

    Args:
        path: the directory, or a file.
        spaces: as for :func:`funrl.offline.datasets.from_transitions`.
        folder: as for :func:`d4rl`; the parts are the files.
        dtype: of floating-point columns; None: that of the files.

    Raises:
        FileNotFoundError: if there is no such directory.
        ValueError: if there is no file, or one is damaged or lacks a column; the message names it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/0.npz", observations=np.arange(3.0)[:, None], actions=np.zeros((2, 1)), rewards=[1.0, 2.0],
        ...              terminations=[False, True])
        ...     directory(folder).transition.next_observation.squeeze(-1)
        tensor([1., 2.])
    """
    path = Path(_check.instance("directory: path", path, (str, os.PathLike), "give the directory, or a file", "a path"))
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".npz", ".safetensors"))
        if not files:
            raise ValueError(f"{path}: expected files *.npz or *.safetensors, got none")
    else:
        files = [path]
    if spaces is None and len(files) > 1:
        first = _file(files[0], None, dtype)
        spaces = (first.observation_space, first.action_space)
    parts = (_file(file, spaces, dtype) for file in files)
    return save(parts, folder) if folder is not None else merge(*parts)


def _file(path: Path, spaces: Any, dtype: torch.dtype | None) -> Dataset:
    arrays = _npz(path) if path.suffix == ".npz" else tree.flatten_keys(tree.load(path))
    found = rename(str(path), _nested(str(path), arrays), needed=("observation", "action", "reward"))
    columns = columns_of(str(path), found, dtype)
    first = tree.leaves(columns["observation"])
    one_more = "next_observation" not in columns and first and len(first[0]) == len(columns["reward"]) + 1
    if one_more:
        observation = columns["observation"]
        columns["next_observation"] = tree.map(lambda x: x[1:], observation)
        columns["observation"] = tree.map(lambda x: x[:-1], observation)
    return from_arrays(str(path), columns, spaces=spaces, dtype=dtype)


def _nested(where: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the columns with those named ``a/b`` or ``a.b`` in dicts."""
    found: dict[str, Any] = {}
    for name, x in arrays.items():
        *inner, last = name.replace("/", ".").split(".")
        place = found
        for key in inner:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ValueError(f"{where}: expected {key!r} to be a column or a dict of them, got both {key!r} and {name!r}")
        place[last] = x
    return found


def _npz(path: str | os.PathLike) -> dict[str, Any]:
    with open(path, "rb") as opened:
        try:
            with np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, AttributeError, TypeError) as error:
            raise ValueError(f"{path}: the file is truncated, damaged or no npz file ({error}); restore a copy") from None
