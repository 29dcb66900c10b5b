"""Checkpoints: :func:`save` and :func:`load` of a tree of tensors; :func:`save_kept` retains the latest and the best.

A file contains, in this order,

* one line of text, ``funrl checkpoint 2``: what it is, and the version of the format;
* the length of the header, an unsigned 64-bit little-endian integer;
* the header, JSON: ``meta``, and for each leaf its path, dtype, shape and size in bytes;
* the bytes of the leaves in the order of :func:`funrl.tree.leaves`, little-endian;
* the SHA-256 of all that precedes.

Nothing in it is executed (no pickle), and numbers are restored bit for bit, including the payloads of NaNs.
"""

import hashlib
import json
import math
import os
import re
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

import torch

from funrl import _check, tree
from funrl._files import read_json, write_atomic
from funrl.tree import same_rows

__all__ = ["CheckpointError", "best", "check_keep", "latest", "load", "save", "save_kept", "write_atomic"]

_KIND = b"funrl checkpoint "
# 1: agents had one flat state; 2: State(actor, learner).
_VERSION = 2
_WRITERS = {"1": "funrl 0.1 before agents became State(actor, learner)"}
_DIGEST_BYTES = hashlib.sha256().digest_size
_KEPT = re.compile(r"step-\d{12,}")
_CHUNK_BYTES = 1 << 20


class CheckpointError(ValueError):
    """Error: a file is not a checkpoint, is damaged, or contains another tree. The message names the file and the reason."""


def save(value: Any, path: str | os.PathLike, meta: dict[str, Any] | None = None) -> None:
    """Write a tree of tensors to a file, atomically.

    The bytes are written to a temporary file in the same folder and flushed to the disk; then the file is renamed to ``path``. So
    after a crash of the process or machine there is either the old file or the new one.

    Args:
        value: a tree of tensors of any shape, dtype and device. It is not modified.
        path: the file; its folder is created if missing.
        meta: further JSON data: dicts, lists, strings, numbers, booleans and None.

    Raises:
        TypeError: if a leaf of ``value`` is not a tensor, ``path`` is not a path, or ``meta`` is not JSON data.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save({"w": torch.ones(2)}, f"{folder}/state", {"update": 7})
        ...     load(f"{folder}/state", {"w": torch.zeros(2)})
        ({'w': tensor([1., 1.])}, {'update': 7})
    """
    _check.path("checkpoint.save", path)
    leaves = tree.leaves(value)
    for name, leaf in zip(tree.paths(value), leaves, strict=True):
        _check.tensor(f"checkpoint.save: leaf {name}", leaf, "wrap it in torch.tensor, or put it in meta")
    rows = [
        {"path": name, "dtype": _dtype(leaf), "shape": list(leaf.shape), "bytes": leaf.numel() * leaf.element_size()}
        for name, leaf in zip(tree.paths(value), leaves, strict=True)
    ]
    try:
        header = json.dumps({"meta": {} if meta is None else meta, "leaves": rows}).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"checkpoint.save: meta: expected JSON data, got {meta!r} ({error})") from None

    def write(file: BinaryIO) -> None:
        digest = hashlib.sha256()
        for part in (_KIND + b"%d\n" % _VERSION, struct.pack("<Q", len(header)), header):
            digest.update(part)
            file.write(part)
        for leaf in leaves:
            part = _bytes(leaf.detach().cpu().contiguous()).numpy().data
            digest.update(part)
            file.write(part)
        file.write(digest.digest())

    write_atomic(path, write)


def load(path: str | os.PathLike, like: Any, *, at: str = "", device: torch.device | str | None = None) -> tuple[Any, dict[str, Any]]:
    """Read a tree of tensors that :func:`save` wrote.

    Args:
        path: the file.
        like: a tree with the structure, shapes and dtypes that the file has to have; its values are not used. Nodes are
            compared by the paths to their leaves, so a list matches a tuple. The number of recorded actions in a collector's state may
            differ.
        at: the path of the part of the file's tree to load, such as ``"['params']"``, whose structure is ``like``; other parts are ignored.
        device: the device of the tensors; by default the devices of ``like``.

    Returns:
        The tree, and the ``meta`` of :func:`save`.

    Raises:
        CheckpointError: if the file is missing, is not a checkpoint of funrl or has another version, is truncated or damaged, or its
            tree differs from ``like`` (the message names the leaf).

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save({"w": torch.ones(2)}, f"{folder}/state")
        ...     try:
        ...         load(f"{folder}/state", {"w": torch.ones(3)})
        ...     except CheckpointError as error:
        ...         print(str(error).replace(folder, "folder"))
        folder/state: leaf ['w'] is float32 [2] in the file, but float32 [3] was expected; it belongs to another configuration
    """
    expected, form = tree.flatten(like)
    paths = [at + name.removeprefix("[0]") for name in tree.paths((like,))] if at else tree.paths(like)
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            header = _read_header(file, path, digest)
            wanted = [_inside(row["path"], at) for row in header["leaves"]]
            _check_leaves([row for row, mine in zip(header["leaves"], wanted, strict=True) if mine], paths, expected, like, path)
            leaves, coming = [], iter(expected)
            for row, mine in zip(header["leaves"], wanted, strict=True):
                if not mine:
                    _pass_over(file, row["bytes"], digest)
                    continue
                values = torch.empty(row["shape"], dtype=next(coming).dtype, device="cpu")
                buffer = _bytes(values).numpy().data
                file.readinto(buffer)
                digest.update(buffer)
                leaves.append(values)
            if file.read(_DIGEST_BYTES) != digest.digest():
                raise CheckpointError(f"{path}: the checkpoint is damaged, its checksum is wrong; restore a copy or start a new run")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the checkpoint: {error.strerror or error}") from None
    leaves = [values.to(leaf.device if device is None else device) for values, leaf in zip(leaves, expected, strict=True)]
    return tree.unflatten(form, leaves), header["meta"]


def save_kept(
    folder: str | os.PathLike, step: int, value: Any, meta: dict[str, Any] | None = None, *, keep: int = 1, score: float | None = None
) -> Path:
    """Write a checkpoint to a folder of checkpoints, then remove all but the latest ones and the best.

    The files are named ``step-`` and twelve digits. After a crash of the process or machine at least the retained ones exist.

    Args:
        folder: the folder; it is created if missing. Other files in it are not changed.
        step: the step of the run, at least 0.
        value: as for :func:`save`.
        meta: as for :func:`save`; ``step`` and ``score`` are added.
        keep: the number of latest checkpoints to retain, at least 1.
        score: the score of the checkpoint; the first one with the greatest score is retained. None or NaN: no score.

    Returns:
        The file.

    Raises:
        ValueError: if ``step`` is below 0 or ``keep`` below 1, or one is not an integer.
        TypeError: as :func:`save`.
        OSError: if the file cannot be written; no other file is removed then.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for step, score in ((10, 1.0), (20, 3.0), (30, 2.0), (40, 0.0)):
        ...         path = save_kept(folder, step, {"w": torch.ones(2)}, keep=1, score=score)
        ...     path.name, latest(folder).name, best(folder).name, sorted(os.listdir(folder))
        ('step-000000000040', 'step-000000000040', 'step-000000000020', ['step-000000000020', 'step-000000000040'])
    """
    check_keep(keep)
    _check.integer("checkpoint.save_kept: step", step, 0)
    score = None if score is None or math.isnan(score) else float(score)
    path = Path(folder) / f"step-{step:012d}"
    save(value, path, {**({} if meta is None else meta), "step": step, "score": score})
    files = _kept(folder)
    stay = {*files[-keep:], path, _best(files)}
    for file in files:
        if file not in stay:
            file.unlink(missing_ok=True)
    return path


def latest(folder: str | os.PathLike) -> Path:
    """Return the checkpoint with the greatest step in a folder of :func:`save_kept`.

    Raises:
        CheckpointError: if there is none.

    Example:
        >>> latest("/nowhere")
        Traceback (most recent call last):
        ...
        funrl.checkpoint.CheckpointError: /nowhere: there is no checkpoint of save_kept; give the folder that it wrote to
    """
    files = _kept(folder)
    if not files:
        raise CheckpointError(f"{folder}: there is no checkpoint of save_kept; give the folder that it wrote to")
    return files[-1]


def best(folder: str | os.PathLike) -> Path:
    """Return the checkpoint with the greatest score in a folder of :func:`save_kept`.

    Raises:
        CheckpointError: if there is none with a score.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_kept(folder, 10, {"w": torch.ones(2)}, score=1.0)
        ...     best(folder) == path
        True
    """
    path = _best(_kept(folder))
    if path is None:
        raise CheckpointError(f"{folder}: no checkpoint there has a score; give scores to save_kept, or use the latest")
    return path


def check_keep(keep: int) -> None:
    """Raise a ValueError unless ``keep`` is an integer of at least 1.

    Example:
        >>> check_keep(0)
        Traceback (most recent call last):
        ...
        ValueError: keep: expected an integer of at least 1, got 0
    """
    _check.integer("keep", keep, 1)


def _kept(folder: str | os.PathLike) -> list[Path]:
    """Return a dict from steps to the checkpoints of a folder."""
    try:
        files = [path for path in Path(folder).iterdir() if _KEPT.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        files = []
    return sorted(files, key=lambda path: int(path.name[5:]))


def _best(files: list[Path]) -> Path | None:
    scores = [(score, path) for path in files if (score := _score(path)) is not None]
    return max(scores, key=lambda pair: pair[0])[1] if scores else None


def _score(path: Path) -> float | None:
    """Return the score of a checkpoint; a damaged one has no score."""
    try:
        with open(path, "rb") as file:
            score = _read_header(file, path, hashlib.sha256())["meta"].get("score")
    except (OSError, CheckpointError, AttributeError):
        return None
    return score if isinstance(score, float) and not math.isnan(score) else None


def _inside(path: str, at: str) -> bool:
    return not at or path == at or path.startswith((f"{at}.", f"{at}["))


def _pass_over(file: BinaryIO, size: int, digest: Any) -> None:
    while size:
        part = file.read(min(size, _CHUNK_BYTES))
        if not part:
            return  # the checksum will detect the damage
        digest.update(part)
        size -= len(part)


def _read_header(file: BinaryIO, path: Any, digest: Any) -> dict[str, Any]:
    """Read the header, and check that the file has the length that it implies."""
    size = os.fstat(file.fileno()).st_size
    first = file.readline(64)
    if not first.startswith(_KIND) or not first.endswith(b"\n"):
        cut = len(first) < len(_KIND) and _KIND.startswith(first)
        reason = f"the file is truncated, it has {size} bytes" if cut else "it is not a checkpoint of funrl"
        raise CheckpointError(f"{path}: {reason}; give a file that checkpoint.save wrote")
    version = first[len(_KIND) : -1].decode("ascii", "replace")
    if version != str(_VERSION):
        writer = _WRITERS.get(version, "another funrl")
        raise CheckpointError(
            f"{path}: the checkpoint has format version {version}, of {writer}, expected {_VERSION}; read it with that one"
        )
    if sys.byteorder != "little":
        raise CheckpointError(f"{path}: the checkpoint is little-endian, but this machine is not; convert it on one that is")
    packed = file.read(8)
    length = struct.unpack("<Q", packed)[0] if len(packed) == 8 else size
    start = len(first) + 8 + length
    if start + _DIGEST_BYTES > size:
        raise CheckpointError(f"{path}: the checkpoint is truncated, it has only {size} bytes; restore a copy or start a new run")
    text = file.read(length)
    for part in (first, packed, text):
        digest.update(part)
    try:
        header = read_json(text)
        header["meta"]
        if not all(_is_row(row) for row in header["leaves"]):
            raise TypeError
        expected = start + sum(row["bytes"] for row in header["leaves"]) + _DIGEST_BYTES
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: the checkpoint is damaged, its header cannot be read; restore a copy or start a new run") from None
    if size != expected:
        fault = "truncated" if size < expected else "damaged"
        raise CheckpointError(
            f"{path}: the checkpoint is {fault}, it has {size} bytes and should have {expected}; restore a copy or start a new run"
        )
    return header


def _is_row(row: dict[str, Any]) -> bool:
    sizes = [row["bytes"], *row["shape"]]
    return isinstance(row["path"], str) and isinstance(row["dtype"], str) and all(type(n) is int and n >= 0 for n in sizes)


def _check_leaves(rows: list[dict[str, Any]], paths: list[str], leaves: list[torch.Tensor], like: Any, path: Any) -> None:
    there = {row["path"]: row for row in rows}
    missing = [name for name in paths if name not in there]
    extra = [name for name in there if name not in paths]
    if missing or extra:
        detail = f"it has no leaf {missing[0]}" if missing else f"its leaf {extra[0]} was not expected"
        raise CheckpointError(f"{path}: the checkpoint holds another structure: {detail}; it belongs to another configuration")
    sizes = []
    for i, (name, leaf) in enumerate(zip(paths, leaves, strict=True)):
        row = there[name]
        sizes.append(math.prod(row["shape"]) * leaf.element_size())
        alike = row["shape"] == list(leaf.shape) or same_rows(like, i, row["shape"], leaf.shape)
        if not alike or row["dtype"] != _dtype(leaf):
            raise CheckpointError(
                f"{path}: leaf {name} is {row['dtype']} {row['shape']} in the file, but {_dtype(leaf)} {list(leaf.shape)} was expected; "
                "it belongs to another configuration"
            )
    if [row["path"] for row in rows] != paths or [row["bytes"] for row in rows] != sizes:
        raise CheckpointError(f"{path}: the checkpoint is damaged, its header is inconsistent; restore a copy or start a new run")


def _bytes(x: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a contiguous tensor on the CPU as a uint8 view."""
    return x.reshape(-1).view(torch.uint8)


def _dtype(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
