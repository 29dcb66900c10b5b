"""Trees in files, in memory-mapped files, and in memory that other processes or devices can access.

In files, the name of a leaf is the keys of its path joined with dots, such as ``layers.0.weight``. The metadata of the file records keys
that contain a dot (:func:`~funrl.tree.flatten_keys`).

Files are not trusted: any fault in one is an error that names the file.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch

from funrl import _check
from funrl._files import naming, read_json, write_atomic, write_tensors
from funrl.tree._names import _entries, _split, flatten_keys, unflatten_keys
from funrl.tree._walks import check_like, describe_leaf, flatten, leaves, map, paths, unflatten

_ALONE = "(the whole tree)"
_INDEX = "index.json"
_NAMES = "funrl.names"  # metadata key of the names of leaves that differ from those of flatten_keys
_RESERVED = "__metadata__"  # reserved by safetensors


def save(tree: Any, path: str | os.PathLike) -> None:
    """Write a tree of tensors to one file in the safetensors format, atomically. Nothing in such a file is ever executed.

    Args:
        tree: tensors of any shape, dtype and device. Static fields and the types of nodes are not saved.
        path: the file; its folder is created if missing.

    Raises:
        TypeError: if a leaf is not a tensor, or ``path`` is not a path.
        ValueError: if two leaves would have the same name.
        OSError: if the file cannot be written; an old file remains.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save({"w": torch.ones(2)}, f"{folder}/net.safetensors")
        ...     load(f"{folder}/net.safetensors")
        {'w': tensor([1., 1.])}
    """
    _check.path("tree.save", path)
    tensors = {name: x.detach().cpu().contiguous() for name, x in _named(tree, "tree.save").items()}
    names = _file_names(list(tensors))
    other = {short: name for short, name in names.items() if _plain(short) != name}
    metadata = {_NAMES: json.dumps(other)} if other else None
    write_atomic(path, lambda file: write_tensors(file, {short: tensors[name] for short, name in names.items()}, metadata))


def load(path: str | os.PathLike, like: Any = None) -> Any:
    """Read a tree that :func:`save` wrote, onto the CPU.

    Args:
        path: the file.
        like: a tree with the structure, shapes and dtypes that the file has to have; its values are not used. None: return the
            contents of the file in nested dicts.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged or not a safetensors file, or its tree differs from ``like`` (the message names the leaf).

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save([torch.ones(1), {"b": torch.zeros(2)}], f"{folder}/file")
        ...     load(f"{folder}/file", like=[torch.zeros(1), {"b": torch.zeros(2)}])
        [tensor([1.]), {'b': tensor([0., 0.])}]
    """
    with open(path, "rb"):  # raises an error that names a missing file
        pass
    try:
        with safetensors.safe_open(path, "pt") as file:
            names = _names_in(file.metadata() or {})
            named = {names.get(name, _plain(name)): file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError, UnicodeError) as error:
        raise ValueError(f"{path}: the file is damaged or no safetensors file ({error}); restore a copy") from None
    except _Damaged as error:
        raise ValueError(f"{path}: the file is damaged: {error}; restore a copy") from None
    return _structured(named, like, path)


class _Damaged(Exception):
    """Error: a file is damaged."""


def _named(tree: Any, what: str) -> dict[str, torch.Tensor]:
    for path, x in zip(paths(tree), leaves(tree), strict=True):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{what}: leaf {path} is {describe_leaf(x)}; expected a tensor: wrap it in torch.tensor")
    if _entries(tree) is None and tree is not None:
        return {_ALONE: tree}
    named = flatten_keys(tree)
    return {f"\\{_ALONE}": named[_ALONE]} if list(named) == [_ALONE] else named


def _short(name: str) -> str:
    """Return a name of flatten_keys without backslashes, as in files of other libraries."""
    return ".".join(_split(name, "."))


def _plain(short: str) -> str:
    """Return the name of flatten_keys for a name whose keys contain no dots."""
    return short.replace("\\", "\\\\")


def _file_names(names: list[str]) -> dict[str, str]:
    """Return a dict from names in the file to names of flatten_keys."""
    result: dict[str, str] = {}
    for name in names:
        short = _short(name)
        while short in result or short == _RESERVED:
            short = f"\\{short}"
        result[short] = name
    return result


def _names_in(metadata: dict[str, str]) -> dict[str, str]:
    """Return the names that differ, as _file_names recorded them."""
    try:
        names = read_json(metadata.get(_NAMES, "{}").encode())
    except ValueError as error:
        raise _Damaged(f"its names of leaves cannot be read ({error})") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise _Damaged("its names of leaves are no text")
    return names


def _structured(named: dict[str, torch.Tensor], like: Any, path: Any) -> Any:
    """Return the read leaves as a tree like ``like``, or in nested dicts."""
    if like is None:
        if list(named) == [_ALONE]:
            return named[_ALONE]
        try:
            return unflatten_keys({_ALONE if name == f"\\{_ALONE}" else name: x for name, x in named.items()})
        except ValueError as error:
            raise ValueError(f"{path}: the tree in the file is damaged: {error}; restore a copy") from None
    expected = _named(like, "like")
    short = {_short(name): name for name in expected}
    named = {name if name in expected else short.get(_short(name), name): x for name, x in named.items()}
    check_like(named, expected, f"{path}: the tree in the file", "like")
    return unflatten(flatten(like)[1], [named[name] for name in expected])


def memmap(tree: Any, folder: str | os.PathLike) -> Any:
    """Write a tree of tensors to files, and return a tree of tensors that are memory-mapped to these files.

    The tensors need no memory until they are read, and the system may free that memory again. A write to a tensor changes the file, and
    every process that has mapped the file sees it.

    Args:
        tree: tensors of any shape and dtype.
        folder: it is created, and must not contain a tree yet.

    Raises:
        TypeError: if a leaf is not a tensor.
        ValueError: if there is a tree in the folder, or two leaves would have the same name.
        OSError: if the files cannot be written.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     value = memmap({"a": torch.zeros(2)}, folder)
        ...     value["a"][1] = 5
        ...     load_memmap(folder)
        {'a': tensor([0., 5.])}
    """
    return _map_new(tree, folder, "tree.memmap", lambda file, x: file.write(_bytes(x).numpy().data))


def memmap_like(tree: Any, folder: str | os.PathLike) -> Any:
    """Return zeros with the shapes and dtypes of ``tree``, memory-mapped to new files. They need disk space only where data is written.

    Args:
        tree: tensors, of which only shape and dtype matter, such as tensors on the device ``meta``.
        folder: it is created, and must not contain a tree yet.

    Raises:
        TypeError, ValueError, OSError: as for :func:`memmap`.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     memmap_like({"a": torch.ones(1_000_000, 3, device="meta")}, folder)["a"][-1]
        tensor([0., 0., 0.])
    """
    return _map_new(tree, folder, "tree.memmap_like", lambda file, x: file.truncate(x.numel() * x.element_size()))


def _map_new(tree: Any, folder: Any, what: str, write: Callable[[BinaryIO, torch.Tensor], Any]) -> Any:
    named = _named(tree, what)
    folder = Path(folder)
    if (folder / _INDEX).exists():
        raise ValueError(f"{what}: {folder} holds a tree already; open it with load_memmap, or give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (name, x) in enumerate(named.items()):
        file_name = f"{i}.{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:100]}.bin"
        (folder / file_name).unlink(missing_ok=True)  # a link there may lead elsewhere
        with naming(folder / file_name), open(folder / file_name, "wb") as file:
            write(file, x.detach())
        rows.append({"name": name, "dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape), "file": file_name})
    # Last, so that an incomplete folder has no index.
    write_atomic(folder / _INDEX, lambda file: file.write(json.dumps(rows, indent=1).encode()))
    return load_memmap(folder, tree)


def load_memmap(folder: str | os.PathLike, like: Any = None) -> Any:
    """Return the tree that :func:`memmap` wrote to a folder, as tensors that are memory-mapped to its files.

    Args:
        folder: the folder.
        like: a tree with the structure, shapes and dtypes that the files have to have. None: return nested dicts.

    Raises:
        ValueError: if the folder does not contain a complete tree, its index is damaged or names a link or a file outside the folder, a
            file is truncated, or the tree differs from ``like`` (the message names the leaf).

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = memmap((torch.zeros(2), torch.tensor([True])), folder)
        ...     load_memmap(folder, like=(torch.zeros(2), torch.tensor([False])))
        (tensor([0., 0.]), tensor([True]))
    """
    folder = Path(folder)
    try:
        named = _map_files(folder)
    except FileNotFoundError:
        raise ValueError(f"{folder}: there is no complete tree here (no {_INDEX}); give a folder that memmap wrote") from None
    except _Damaged as error:
        raise ValueError(f"{folder}: {_INDEX} is damaged: {error}; restore a copy") from None
    return _structured(named, like, folder)


def _map_files(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors that the index of a folder names. The index is not trusted."""
    try:
        rows = read_json((folder / _INDEX).read_bytes())
    except ValueError as error:
        raise _Damaged(error) from None
    if not isinstance(rows, list):
        raise _Damaged(f"expected a list of files, got a {type(rows).__name__}")
    named: dict[str, torch.Tensor] = {}
    files = set()
    for i, row in enumerate(rows):
        row = row if isinstance(row, dict) else {}
        name, file, dtype = row.get("name"), row.get("file"), row.get("dtype")
        shape: Any = row.get("shape")
        kind = getattr(torch, dtype, None) if isinstance(dtype, str) else None
        if not isinstance(name, str) or not isinstance(file, str) or not isinstance(kind, torch.dtype) or not _is_shape(shape):
            raise _Damaged(f"entry {i}: expected a name, a file, a shape and a dtype of torch")
        if name in named or file in files:
            raise _Damaged(f"entry {i}: its name or its file occurs twice")
        if Path(file).name != file or "\0" in file:
            raise _Damaged(f"entry {i}: expected the name of a file in this folder, got {file[:200]!r}")
        files.add(file)
        named[name] = _map_file(folder / file, shape, kind)  # pyright: ignore
    return named


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in shape)


def _map_file(path: Path, shape: list[int], kind: torch.dtype) -> torch.Tensor:
    count = math.prod(shape)
    try:
        found = path.lstat()
    except (OSError, ValueError):
        found = None
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path}: expected a file, got a link or the like, which may lead out of the folder; copy the file here")
    size = -1 if found is None else found.st_size
    if size != count * kind.itemsize:
        raise ValueError(f"{path}: the file is damaged: it has {size} bytes, and should have {count * kind.itemsize}; restore a copy")
    try:
        return torch.from_file(str(path), shared=True, size=count, dtype=kind).reshape(shape) if count else torch.empty(shape, dtype=kind)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{path}: cannot be mapped as {kind} {shape} ({str(error).splitlines()[0]}); make it writable") from None


def _bytes(x: torch.Tensor) -> torch.Tensor:
    return x.cpu().contiguous().reshape(-1).view(torch.uint8)


def share_memory(tree: Any) -> Any:
    """Copy every leaf to shared memory, which other processes access when the tree is sent to them. Leaves in shared memory are not copied.

    Example:
        >>> import torch
        >>> share_memory({"a": torch.zeros(2)})["a"].is_shared()
        True
    """
    return map(lambda x: x if x.is_shared() else x.detach().clone().share_memory_(), tree)


def pin_memory(tree: Any) -> Any:
    """Copy every leaf on the CPU to page-locked memory, from which an asynchronous copy to an accelerator is possible.

    Without an accelerator the tree is returned unchanged.

    Example:
        >>> import torch
        >>> pin_memory({"a": torch.zeros(2)})
        {'a': tensor([0., 0.])}
    """
    if not torch.accelerator.is_available():
        return tree
    return map(lambda x: x.pin_memory() if x.device.type == "cpu" else x, tree)
