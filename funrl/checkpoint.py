"""Trees of tensors in files that are whole or not there: :func:`save` and :func:`load`.

A file holds, in this order,

* one line of text, ``funrl checkpoint 1``: what it is, and the version of the format;
* the length of the header, an unsigned 64-bit little-endian integer;
* the header, JSON: ``meta``, and for each leaf its path, dtype, shape and size in bytes;
* the bytes of the leaves in the order of :func:`funrl.tree.leaves`, little-endian;
* the SHA-256 of all that precedes.

It is read without executing anything from it (no pickle), and numbers come back bit for bit, also the payloads of NaNs.
"""

import hashlib
import json
import os
import struct
import sys
from typing import Any, BinaryIO

import torch

from funrl import tree
from funrl.tree.storage import write_atomic

__all__ = ["CheckpointError", "load", "save", "write_atomic"]

_KIND = b"funrl checkpoint "
_VERSION = 1
_DIGEST_BYTES = hashlib.sha256().digest_size


class CheckpointError(ValueError):
    """A file is no checkpoint, is damaged, or holds another tree than was asked for. The message says which file and why."""


def save(path: str | os.PathLike, value: Any, meta: dict[str, Any] | None = None) -> None:
    """Write a tree of tensors to a file, all of it or nothing.

    The bytes go to a temporary file beside ``path``, to the disk, and only then take the name ``path``; so a process or
    machine that dies leaves either the old file or the new one.

    Args:
        path: the file; its folder is made where it is missing.
        value: a tree of tensors of any shape, dtype and device. It is only read.
        meta: what else to keep, as JSON can: dicts, lists, strings, numbers, booleans and None.

    Raises:
        TypeError: if a leaf of ``value`` is not a tensor, or JSON cannot hold ``meta``.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/state", {"w": torch.ones(2)}, {"update": 7})
        ...     load(f"{folder}/state", {"w": torch.zeros(2)})
        ({'w': tensor([1., 1.])}, {'update': 7})
    """
    leaves = tree.leaves(value)
    for name, leaf in zip(tree.paths(value), leaves, strict=True):
        if not isinstance(leaf, torch.Tensor):
            raise TypeError(
                f"checkpoint.save: leaf {name}: expected a tensor, got {type(leaf).__name__}; wrap it in torch.tensor, or put it in meta"
            )
    rows = [
        {"path": name, "dtype": _dtype(leaf), "shape": list(leaf.shape), "bytes": leaf.numel() * leaf.element_size()}
        for name, leaf in zip(tree.paths(value), leaves, strict=True)
    ]
    try:
        header = json.dumps({"meta": {} if meta is None else meta, "leaves": rows}).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"checkpoint.save: meta: expected what JSON can hold, got {meta!r} ({error})") from None

    def write(file: BinaryIO) -> None:
        digest = hashlib.sha256()
        for part in (_KIND + b"%d\n" % _VERSION, struct.pack("<Q", len(header)), header):
            digest.update(part)
            file.write(part)
        for leaf in leaves:
            part = memoryview(_bytes(leaf.detach().cpu().contiguous()).numpy())
            digest.update(part)
            file.write(part)
        file.write(digest.digest())

    write_atomic(path, write)


def load(path: str | os.PathLike, like: Any, *, device: torch.device | str | None = None) -> tuple[Any, dict[str, Any]]:
    """Read a tree of tensors that :func:`save` wrote.

    Args:
        path: the file.
        like: a tree with the structure, shapes and dtypes that the file has to have; its numbers are not used. Nodes are
            compared by the paths to their leaves, and so a list passes for a tuple.
        device: where the tensors go; by default where those of ``like`` are.

    Returns:
        The tree, and what :func:`save` got as ``meta``.

    Raises:
        CheckpointError: if the file is missing, is none of ours or of another version, is truncated or damaged, or holds
            a tree unlike ``like`` (the leaf is named).

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/state", {"w": torch.ones(2)})
        ...     try:
        ...         load(f"{folder}/state", {"w": torch.ones(3)})
        ...     except CheckpointError as error:
        ...         print(str(error).replace(folder, "folder"))
        folder/state: leaf ['w'] is float32 [2] in the file, but float32 [3] was expected; it belongs to another configuration
    """
    expected, form = tree.flatten(like)
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            header = _read_header(file, path, digest)
            _check_leaves(header["leaves"], tree.paths(like), expected, path)
            leaves = []
            for leaf in expected:
                values = torch.empty(leaf.shape, dtype=leaf.dtype, device="cpu")
                buffer = memoryview(_bytes(values).numpy())
                file.readinto(buffer)
                digest.update(buffer)
                leaves.append(values)
            if file.read(_DIGEST_BYTES) != digest.digest():
                raise CheckpointError(f"{path}: the checkpoint is damaged, its checksum is wrong; restore a copy or start anew")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the checkpoint: {error.strerror or error}") from None
    leaves = [values.to(leaf.device if device is None else device) for values, leaf in zip(leaves, expected, strict=True)]
    return tree.unflatten(form, leaves), header["meta"]


def _read_header(file: BinaryIO, path: Any, digest: Any) -> dict[str, Any]:
    """Read up to the first leaf, and check that the file is as long as its header says."""
    size = os.fstat(file.fileno()).st_size
    first = file.readline(64)
    if not first.startswith(_KIND) or not first.endswith(b"\n"):
        cut = len(first) < len(_KIND) and _KIND.startswith(first)
        reason = f"the file is truncated, it has {size} bytes" if cut else "it is not a checkpoint of funrl"
        raise CheckpointError(f"{path}: {reason}; give a file that checkpoint.save wrote")
    version = first[len(_KIND) : -1].decode("ascii", "replace")
    if version != str(_VERSION):
        raise CheckpointError(
            f"{path}: the checkpoint has format version {version}, expected {_VERSION}; read it with the funrl that wrote it"
        )
    if sys.byteorder != "little":
        raise CheckpointError(f"{path}: the checkpoint is little-endian, but this machine is not; convert it on one that is")
    packed = file.read(8)
    length = struct.unpack("<Q", packed)[0] if len(packed) == 8 else size
    start = len(first) + 8 + length
    if start + _DIGEST_BYTES > size:
        raise CheckpointError(f"{path}: the checkpoint is truncated, it has only {size} bytes; restore a copy or start anew")
    text = file.read(length)
    for part in (first, packed, text):
        digest.update(part)
    try:
        header = json.loads(text)
        rows = [(row["path"], row["dtype"], row["shape"], row["bytes"]) for row in header["leaves"]]
        expected = start + sum(row[3] for row in rows) + _DIGEST_BYTES
        header["meta"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: the checkpoint is damaged, its header cannot be read; restore a copy or start anew") from None
    if size != expected:
        fault = "truncated" if size < expected else "damaged"
        raise CheckpointError(
            f"{path}: the checkpoint is {fault}, it has {size} bytes and should have {expected}; restore a copy or start anew"
        )
    return header


def _check_leaves(rows: list[dict[str, Any]], paths: list[str], leaves: list[torch.Tensor], path: Any) -> None:
    there = {row["path"]: row for row in rows}
    missing = [name for name in paths if name not in there]
    extra = [name for name in there if name not in paths]
    if missing or extra:
        detail = f"it has no leaf {missing[0]}" if missing else f"its leaf {extra[0]} was not expected"
        raise CheckpointError(f"{path}: the checkpoint holds another structure: {detail}; it belongs to another configuration")
    for name, leaf in zip(paths, leaves, strict=True):
        row = there[name]
        if (row["dtype"], row["shape"]) != (_dtype(leaf), list(leaf.shape)):
            raise CheckpointError(
                f"{path}: leaf {name} is {row['dtype']} {row['shape']} in the file, but {_dtype(leaf)} {list(leaf.shape)} was expected; "
                "it belongs to another configuration"
            )
    if [row["path"] for row in rows] != paths or [row["bytes"] for row in rows] != [x.numel() * x.element_size() for x in leaves]:
        raise CheckpointError(f"{path}: the checkpoint is damaged, its header contradicts itself; restore a copy or start anew")


def _bytes(x: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a contiguous tensor on the CPU as a uint8 view."""
    return x.reshape(-1).view(torch.uint8)


def _dtype(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
