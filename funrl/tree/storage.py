"""Trees in files, in mapped files, and in memory that other processes or devices reach.

In files, leaves are known by the names that :func:`~funrl.tree.flatten_keys` gives them, such as ``layers.0.weight``.
"""

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch

from funrl.tree.names import _entries, flatten_keys, unflatten_keys
from funrl.tree.nodes import check_like, describe_leaf, flatten, leaves, map, paths, unflatten

__all__ = ["load", "load_memmap", "memmap", "memmap_like", "pin_memory", "save", "share_memory", "write_atomic"]

_ALONE = "(the whole tree)"
_INDEX = "index.json"


def save(tree: Any, path: str | os.PathLike) -> None:
    """Write a tree of tensors to one file in the safetensors format, all of it or nothing. Nothing in it is ever executed.

    Args:
        tree: tensors of any shape, dtype and device. Static fields and the types of nodes are not kept.
        path: the file; its folder is made where it is missing.

    Raises:
        TypeError: if a leaf is not a tensor.
        ValueError: if two leaves would have one name.
        OSError: if the file cannot be written; what was there before stays.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save({"w": torch.ones(2)}, f"{folder}/net.safetensors")
        ...     load(f"{folder}/net.safetensors")
        {'w': tensor([1., 1.])}
    """
    tensors: dict[str, torch.Tensor] = {}
    memory = []
    for name, x in _named(tree, "tree.save").items():
        x = x.detach().cpu().contiguous()
        place = x.untyped_storage().data_ptr()
        tensors[name] = x.clone() if place in memory or x.untyped_storage().nbytes() != x.nbytes else x
        memory.append(place)

    def write(file: BinaryIO) -> None:
        try:
            safetensors.torch.save_file(tensors, file.name)
        except safetensors.SafetensorError as error:
            raise OSError(f"{path}: cannot write the tree: {error}") from None

    write_atomic(path, write)


def load(path: str | os.PathLike, like: Any = None) -> Any:
    """Read a tree that :func:`save` wrote, onto the CPU.

    Args:
        path: the file.
        like: a tree with the structure, shapes and dtypes that the file has to have; its numbers are not used. None: whatever is
            there, in nested dicts.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged or no safetensors file, or holds a tree unlike ``like`` (the leaf is named).

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save([torch.ones(1), {"b": torch.zeros(2)}], f"{folder}/file")
        ...     load(f"{folder}/file", like=[torch.zeros(1), {"b": torch.zeros(2)}])
        [tensor([1.]), {'b': tensor([0., 0.])}]
    """
    with open(path, "rb"):  # an error of its own, that names the file, where there is none
        pass
    try:
        named = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: the file is damaged or no safetensors file ({error}); restore a copy") from None
    return _structured(named, like, path)


def _named(tree: Any, what: str) -> dict[str, torch.Tensor]:
    for path, x in zip(paths(tree), leaves(tree), strict=True):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{what}: leaf {path} is {describe_leaf(x)}; expected a tensor: wrap it in torch.tensor")
    return {_ALONE: tree} if _entries(tree) is None and tree is not None else flatten_keys(tree)


def _structured(named: dict[str, torch.Tensor], like: Any, path: Any) -> Any:
    """Return what was read as a tree like ``like``, or in nested dicts."""
    if like is None:
        return named[_ALONE] if list(named) == [_ALONE] else unflatten_keys(named)
    expected = _named(like, "like")
    check_like(named, expected, f"{path}: the tree in the file", "like")
    return unflatten(flatten(like)[1], [named[name] for name in expected])


def write_atomic(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Make the file ``path`` of what ``write(file)`` writes, or leave everything as it was.

    Args:
        path: the file; its folder is made where it is missing.
        write: writes to a binary file.

    Raises:
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomic(f"{folder}/note", lambda file: file.write(b"done"))
        ...     Path(folder, "note").read_text()
        'done'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name, not a random one: what a killed process left there is written over by the next.
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name itself has to reach the disk
        finally:
            os.close(folder)


def memmap(tree: Any, folder: str | os.PathLike) -> Any:
    """Write a tree of tensors to files, and return the tree whose tensors are those files.

    The tensors take no memory of the process until they are read, and then the system may take it back. Whatever is written into them is
    written to the files, and seen by every process that has mapped them.

    Args:
        tree: tensors of any shape and dtype.
        folder: is made; it must not hold a tree yet.

    Raises:
        TypeError: if a leaf is not a tensor.
        ValueError: if there is a tree in the folder, or two leaves would have one name.
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
    """Return zeros of the shapes and dtypes of ``tree`` that are files. They take room on the disk only where something is written.

    Args:
        tree: tensors, of which only shape and dtype matter; those on the device ``meta`` have no more.
        folder: is made; it must not hold a tree yet.

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
        with open(folder / file_name, "wb") as file:
            write(file, x.detach())
        rows.append({"name": name, "dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape), "file": file_name})
    # Last, so that a folder is whole or none.
    write_atomic(folder / _INDEX, lambda file: file.write(json.dumps(rows, indent=1).encode()))
    return load_memmap(folder, tree)


def load_memmap(folder: str | os.PathLike, like: Any = None) -> Any:
    """Return the tree that :func:`memmap` wrote to a folder, as tensors that are its files.

    Args:
        folder: the folder.
        like: a tree with the structure, shapes and dtypes that the files have to have. None: whatever is there, in nested dicts.

    Raises:
        ValueError: if the folder holds no whole tree, a file is truncated, or the tree is unlike ``like`` (the leaf is named).

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = memmap((torch.zeros(2), torch.tensor([True])), folder)
        ...     load_memmap(folder, like=(torch.zeros(2), torch.tensor([False])))
        (tensor([0., 0.]), tensor([True]))
    """
    folder = Path(folder)
    try:
        rows = json.loads((folder / _INDEX).read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder}: there is no whole tree here (no {_INDEX}); give a folder that memmap wrote") from None
    return _structured({row["name"]: _map_file(folder / row["file"], row["shape"], row["dtype"]) for row in rows}, like, folder)


def _map_file(path: Path, shape: list[int], dtype: str) -> torch.Tensor:
    kind = getattr(torch, dtype)
    count = math.prod(shape)
    size = path.stat().st_size if path.exists() else -1
    if size != count * kind.itemsize:
        raise ValueError(f"{path}: the file is damaged: it has {size} bytes, and should have {count * kind.itemsize}; restore a copy")
    return torch.from_file(str(path), shared=True, size=count, dtype=kind).reshape(shape) if count else torch.empty(shape, dtype=kind)


def _bytes(x: torch.Tensor) -> torch.Tensor:
    return x.cpu().contiguous().reshape(-1).view(torch.uint8)


def share_memory(tree: Any) -> Any:
    """Copy every leaf to memory that other processes share when the tree is sent to them; leaves that are there already stay.

    Example:
        >>> import torch
        >>> share_memory({"a": torch.zeros(2)})["a"].is_shared()
        True
    """
    return map(lambda x: x if x.is_shared() else x.detach().clone().share_memory_(), tree)


def pin_memory(tree: Any) -> Any:
    """Copy every leaf on the CPU to page-locked memory, from which a copy to an accelerator can run beside other work.

    Without an accelerator there is nothing to copy to, and the tree stays as it is.

    Example:
        >>> import torch
        >>> pin_memory({"a": torch.zeros(2)})
        {'a': tensor([0., 0.])}
    """
    if not torch.accelerator.is_available():
        return tree
    return map(lambda x: x.pin_memory() if x.device.type == "cpu" else x, tree)
