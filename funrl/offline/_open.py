"""Data sets by one name: of Minari, a file, or a folder."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from funrl import _check, tree
from funrl.env import AnyEnv
from funrl.offline._dataset import Dataset, check_dataset
from funrl.offline._files import load, save
from funrl.offline._minari import minari, to_minari
from funrl.offline._readers import d4rl, directory

_NAMES = "minari:ID, a Minari folder, a folder of datasets.save, FILE.hdf5, FILE.npz, FILE.safetensors, or a folder of such files"


def open_dataset(name: str | os.PathLike, *, spaces: Any = None) -> Dataset:
    """Open a data set by its name on the command line.

    Args:
        name: ``minari:ID``; a folder of Minari or of :func:`funrl.offline.datasets.save`; a file in D4RL's HDF5 layout, an npz or a
            safetensors file; or a folder of such files.
        spaces: as for :func:`funrl.offline.datasets.from_transitions`.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        ValueError: if the data is damaged, or the name has none of these forms.

    Example:
        >>> open_dataset("data.txt")
        Traceback (most recent call last):
        ...
        FileNotFoundError: data.txt: there is no such data; expected minari:ID, a Minari folder, a folder of datasets.save, FILE.hdf5, ...
    """
    text = os.fspath(_check.instance("open_dataset: name", name, (str, os.PathLike), f"give {_NAMES}", "a path"))
    if text in ("", "minari:"):
        raise ValueError(f"open_dataset: name: expected {_NAMES}, got {text!r}")
    if text.startswith("minari:"):
        return minari(text.removeprefix("minari:"), spaces=spaces)
    path = Path(text)
    if not path.exists():
        raise FileNotFoundError(f"{text}: there is no such data; expected {_NAMES}")
    if (path / "dataset.json").exists():
        return load(path)
    if (path / "metadata.json").exists() or (path / "data" / "metadata.json").exists():
        return minari(path, spaces=spaces)
    if path.suffix in (".hdf5", ".h5"):
        return d4rl(path, spaces=spaces)
    if path.is_dir() or path.suffix in (".npz", ".safetensors"):
        return directory(path, spaces=spaces)
    raise ValueError(f"{text}: expected {_NAMES}")


def write(dataset: Dataset, name: str | os.PathLike, *, env: AnyEnv | None = None, algorithm: str = "") -> None:
    """Write a data set to a place that is named as on the command line.

    Args:
        dataset: the data.
        name: ``minari:ID`` or ``minari:./FOLDER`` (:func:`funrl.offline.datasets.to_minari`), FILE.npz, FILE.safetensors, or another name:
            a folder of :func:`funrl.offline.datasets.save`.
        env: the environment, for Minari.
        algorithm: the name of the algorithm that recorded it, for Minari.

    Raises:
        FileExistsError: if the file is there already.
        ValueError: if the name is empty or that of an HDF5 file; or as the functions above.

    Example:
        >>> import tempfile, funrl
        >>> from funrl.offline.datasets import record
        >>> data = record(None, funrl.random.key(0), env=funrl.envs.make("Pendulum-v1"), num_steps=40, num_envs=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(data, f"{folder}/random.npz")
        ...     tree.equal(open_dataset(f"{folder}/random.npz", spaces=funrl.envs.make("Pendulum-v1")).transition, data.transition)
        True
    """
    check_dataset("write", dataset)
    text = os.fspath(_check.instance("write: name", name, (str, os.PathLike), "give a file, a folder, or minari:ID", "a path"))
    if text in ("", "minari:"):
        raise ValueError(f"write: name: expected a file, a folder, or minari:ID, got {text!r}")
    if text.startswith("minari:"):
        to_minari(dataset, text.removeprefix("minari:"), env=env, algorithm=algorithm)
        return
    path = Path(text)
    if path.suffix in (".hdf5", ".h5"):
        raise ValueError(f"write: name: HDF5 files are only read, got {text}; give FILE.npz, FILE.safetensors, a folder, or minari:ID")
    if path.suffix not in (".npz", ".safetensors"):
        save(dataset, path)
        return
    if path.exists():
        raise FileExistsError(f"{path}: it is there already; delete it, or choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = dataset.transition
    columns = {
        "observations": rows.observation, "actions": rows.action, "rewards": rows.reward, "terminations": rows.terminated,
        "truncations": rows.truncated, "next_observations": rows.next_observation, "ends": dataset.end,
    }  # fmt: skip
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {key: x.numpy() for key, x in tree.flatten_keys(columns).items()}
        np.savez(path, **arrays)
    else:
        tree.save(columns, path)
