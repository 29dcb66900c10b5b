"""Data sets in folders of memory-mapped files, in safetensors files, and streams of their batches."""

import dataclasses
import json
import math
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from funrl import _check, tree
from funrl._files import read_json, write_atomic
from funrl.env import Transition
from funrl.offline._dataset import Dataset, check_dataset
from funrl.spaces import Binary, Box, Dict, Discrete, MultiDiscrete, Tuple

_NOTES = "dataset.json"
_DAMAGED = "it is damaged or of another program; restore a copy"
_SPACES: dict[Any, Any] = {kind.__name__: kind for kind in (Binary, Box, Dict, Discrete, MultiDiscrete, Tuple)}


def save(dataset: Dataset | Iterable[Dataset], folder: str | os.PathLike) -> Dataset:
    """Write a data set to a folder of memory-mapped files, and return it from there.

    Args:
        dataset: the data; or its parts, such as an iterator of them, of which only one is in memory at a time.
        folder: it is created, and must not contain a data set yet.

    Raises:
        ValueError: if there are no parts, they differ in their columns or spaces, or the folder is not empty of data.
        OSError: if the files cannot be written.

    Example:
        >>> import tempfile
        >>> from funrl.env import Transition
        >>> from funrl.offline.datasets import from_transitions
        >>> flags = torch.tensor([False, True])
        >>> rows = Transition(torch.zeros(2, 1), torch.tensor([0, 1]), torch.ones(2), flags, ~flags, torch.ones(2, 1), {})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(from_transitions(rows), folder)
        ...     load(folder).return_to_go
        tensor([1., 1.])
    """
    _check.path("datasets.save", folder)
    folder = Path(folder)
    source: Any = [dataset] if isinstance(dataset, Dataset | torch.Tensor) else dataset
    parts = iter(_check.instance("datasets.save: dataset", source, Iterable, "datasets.open_dataset opens files", "a Dataset"))
    first = next(parts, None)
    if first is None:
        raise ValueError("datasets.save: dataset: expected at least one part, got none")
    check_dataset("datasets.save", first)
    if (folder / _NOTES).exists():
        raise ValueError(f"datasets.save: {folder} holds a data set already; open it with datasets.load, or give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    files = {path: open(folder / f"column{i}.bin", "wb") for i, path in enumerate(tree.paths(_plain(first)))}
    shapes, size, notes = tree.map(lambda x: x[:0], _plain(first)), 0, dict.fromkeys(first.notes)
    try:
        part: Dataset | None = first
        while part is not None:
            plain = _plain(part)
            tree.check_like(tree.map(lambda x: x[:0], plain), shapes, "datasets.save: a part", "the first one")
            if (part.observation_space, part.action_space) != (first.observation_space, first.action_space):
                raise ValueError("datasets.save: a part has other spaces than the first one; give all of them the same spaces")
            for path, x in zip(tree.paths(plain), tree.leaves(plain), strict=True):
                x.detach().cpu().contiguous().numpy().tofile(files[path])
            size, notes = size + part.size, {**notes, **dict.fromkeys(part.notes)}
            part = next(parts, None)
    finally:
        for file in files.values():
            file.close()
    columns = [
        {"keys": keys, "dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape[1:]), "file": f"column{i}.bin"}
        for i, (keys, x) in enumerate(zip(_walk(shapes, []), tree.leaves(shapes), strict=True))
    ]
    spaces = [space_to_json(first.observation_space), space_to_json(first.action_space)]
    text = {"size": size, "spaces": spaces, "notes": list(notes), "columns": columns}
    write_atomic(folder / _NOTES, lambda file: file.write(json.dumps(text, indent=1).encode()))  # last: without it there is no data set
    return load(folder)


def load(folder: str | os.PathLike) -> Dataset:
    """Open a folder that :func:`save` wrote, memory-mapped: the system reads rows when they are used, and may drop them from memory.

    Raises:
        ValueError: if there is no data set, or a file is missing, truncated or damaged; the message names it.

    Example: see :func:`save`.

        >>> load("/nowhere")
        Traceback (most recent call last):
        ...
        ValueError: /nowhere: there is no complete data set here (no dataset.json); give a folder that datasets.save wrote
    """
    folder = Path(_path("datasets.load", folder))
    text = _read_notes(folder)
    plain: dict[str, Any] = {}
    try:
        for row in text["columns"]:
            _put(plain, row["keys"], _mapped(folder / row["file"], text["size"], row["shape"], row["dtype"]))
        return _whole(plain, text)
    except (AttributeError, KeyError, OverflowError, RuntimeError, TypeError):
        raise ValueError(f"{folder / _NOTES}: {_DAMAGED}") from None


def _path(what: str, folder: Any) -> Any:
    return _check.instance(f"{what}: folder", folder, (str, os.PathLike), "give the folder that datasets.save wrote", "a path")


def _whole(plain: dict[str, Any], text: dict[str, Any]) -> Dataset:
    columns = _tuples(plain["transition"])
    transition = Transition(**{"extras": {}, **columns}, place=())
    seen, chosen = text["spaces"]
    return Dataset(transition, plain["end"], plain["return_to_go"], seen, chosen, tuple(text["notes"]))


def _plain(dataset: Dataset) -> dict[str, Any]:
    rows = dataset.transition
    names = ("observation", "action", "reward", "terminated", "truncated", "next_observation", "extras")
    columns = {name: getattr(rows, name) for name in names if tree.leaves(getattr(rows, name))}
    return {"transition": columns, "end": dataset.end, "return_to_go": dataset.return_to_go}


def _walk(value: Any, names: list[Any]) -> Iterable[list[Any]]:
    """Yield the keys of each leaf, in the order of tree.leaves."""
    if isinstance(value, dict | tuple):
        for name in sorted(value) if isinstance(value, dict) else range(len(value)):
            yield from _walk(value[name], [*names, name])
    else:
        yield names


def _tuples(value: Any) -> Any:
    """Return nested dicts with tuples in the place of those whose keys are numbers."""
    if not isinstance(value, dict):
        return value
    parts = {key: _tuples(part) for key, part in value.items()}
    return tuple([parts[i] for i in range(len(parts))]) if parts and all(isinstance(key, int) for key in parts) else parts


def _put(plain: dict[str, Any], keys: list[Any], value: Any) -> None:
    *inner, last = keys
    for key in inner:
        plain = plain.setdefault(key, {})
    plain[last] = value


def _read_notes(folder: Path) -> dict[str, Any]:
    try:
        text = read_json((folder / _NOTES).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: there is no complete data set here (no {_NOTES}); give a folder that datasets.save wrote") from None
    except ValueError as error:
        raise ValueError(f"{folder / _NOTES}: it is damaged ({error}); restore a copy") from None
    try:
        text["spaces"] = [space_from_json(space) for space in text["spaces"]]
        good = type(text["size"]) is int and text["size"] > 0 and len(text["spaces"]) == 2
        good = good and all(isinstance(note, str) for note in text["notes"])
        good = good and all(len(row["keys"]) and Path(row["file"]).name == row["file"] for row in text["columns"])
        good = good and all(type(n) is int and n >= 0 for row in text["columns"] for n in row["shape"])
    except (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{folder / _NOTES}: {_DAMAGED}")
    return text


def _mapped(path: Path, size: int, shape: list[int], dtype: str) -> torch.Tensor:
    kind = getattr(torch, dtype)
    item = math.prod(shape) * kind.itemsize
    try:
        got = path.stat().st_size
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: it cannot be read ({error}); restore a copy of the data set") from None
    if got != size * item:
        whole = f"; row {got // item if item else 0} is where it breaks off" if got < size * item else ""
        raise ValueError(f"{path}: expected {size * item:,} bytes of {size:,} rows, got {got:,}{whole}; restore a copy")
    if not size * item:
        return torch.zeros((size, *shape), dtype=kind)
    return torch.from_file(str(path), shared=False, size=size * math.prod(shape), dtype=kind).reshape(size, *shape)


class Stream:
    """Batches of a data set in files, read row by row, so that memory holds only one batch; :func:`stream` makes one.

    Attributes:
        dataset: the same data, memory-mapped.
        host: True, as rows are read outside compiled programs.
    """

    host = True

    def __init__(self, folder: str | os.PathLike) -> None:
        self.dataset, self._text = load(folder), _read_notes(Path(folder))
        self._rows = [row for row in self._text["columns"] if row["keys"][0] == "transition"]
        self._arrays: list[Any] = []
        for row in self._rows:
            self._arrays.append(np.memmap(Path(folder) / row["file"], row["dtype"], "r", shape=(self.size, *row["shape"])))
            self._arrays[-1].base.madvise(mmap.MADV_RANDOM)

    @property
    def size(self) -> int:
        """The number of transitions."""
        return self.dataset.size

    def rows(self, index: torch.Tensor) -> Any:
        """Return the transitions of some rows, int64 [U, N], in memory. The pages that were read are given back after every N rows."""
        order = index.reshape(index.shape[0], -1).numpy()
        plain: dict[str, Any] = {}
        for row, array in zip(self._rows, self._arrays, strict=True):
            out = np.empty((*order.shape, *array.shape[1:]), array.dtype)
            for part, rows in zip(out, order, strict=True):
                np.take(array, rows, axis=0, out=part)
                array.base.madvise(mmap.MADV_DONTNEED)
            _put(plain, row["keys"], torch.from_numpy(out).reshape(*index.shape, *array.shape[1:]))
        nothing = torch.zeros(index.shape)
        return _whole({**plain, "end": nothing, "return_to_go": nothing}, self._text).transition


def stream(folder: str | os.PathLike) -> Stream:
    """Open a folder that :func:`save` wrote as a stream: learners read each batch from the files, and have no other rows in memory.

    A learner that is made with a stream reads on the host between two compiled programs, and so trains one agent at a time.

    Raises:
        ValueError: as for :func:`load`.

    Example:
        >>> import tempfile
        >>> from funrl.env import Transition
        >>> from funrl.offline.datasets import from_transitions
        >>> flags = torch.tensor([False, True])
        >>> rows = Transition(torch.zeros(2, 1), torch.tensor([0, 1]), torch.tensor([1.0, 2.0]), flags, ~flags, torch.ones(2, 1), {})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(from_transitions(rows), folder)
        ...     stream(folder).rows(torch.tensor([[1, 0, 1]])).reward
        tensor([[2., 1., 2.]])
    """
    return Stream(_path("datasets.stream", folder))


def space_to_json(space: Any) -> Any:
    """Return a space, or one of its fields, as values of JSON.

    Example:
        >>> space_to_json(Discrete(3))
        {'kind': 'Discrete', 'n': 3, 'start': 0}
    """
    if isinstance(space, torch.Tensor):
        return [str(x) for x in space.flatten().tolist()]
    if isinstance(space, torch.dtype):
        return str(space).removeprefix("torch.")
    if isinstance(space, dict):
        return {name: space_to_json(part) for name, part in space.items()}
    if isinstance(space, tuple):
        return [space_to_json(part) for part in space]
    if type(space).__name__ in _SPACES:
        parts = {field.name: space_to_json(getattr(space, field.name)) for field in dataclasses.fields(space) if field.init}
        return {"kind": type(space).__name__, **parts}
    return _check.instance("datasets.save", space, (int, str, type(None)), expected="a space of funrl.spaces")


def space_from_json(text: Any) -> Any:
    """Return the space that :func:`space_to_json` wrote.

    Raises:
        ValueError: if it is no space; or as the spaces themselves.

    Example:
        >>> space_from_json(space_to_json(Box(-1.0, 1.0, (2,))))
        Box(-1, 1, (2,), torch.float32)
    """
    if text is None:
        return None
    kind: Any = _SPACES.get(text.get("kind")) if isinstance(text, dict) else None
    if kind is None:
        raise ValueError(f"expected a space, got {text!r:.100}")
    fields: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in text.items() if name != "kind"}
    if kind is Dict:
        fields["spaces"] = {name: space_from_json(part) for name, part in fields["spaces"].items()}
    if kind is Tuple:
        fields["spaces"] = tuple([space_from_json(part) for part in fields["spaces"]])
    if kind is Box:
        fields["dtype"] = getattr(torch, fields["dtype"])
        read, exact = (float, torch.float64) if fields["dtype"].is_floating_point else (int, torch.int64)
        bounds = {name: torch.tensor([read(x) for x in fields[name]], dtype=exact) for name in ("low", "high")}
        fields |= {name: x.reshape(fields["shape"]) for name, x in bounds.items()}
    return kind(**fields)
