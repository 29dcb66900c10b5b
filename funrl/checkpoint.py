"""Checkpoints: :func:`save` and :func:`load` of a tree of tensors; :func:`save_kept` retains the latest and the best.

A checkpoint is a file in the safetensors format, which other libraries read too: a tensor for each leaf, named by its path. Its
metadata has, each as JSON, ``funrl.checkpoint`` (the version of the format), ``meta``, ``leaves`` (path, dtype and shape of each leaf, in
the order of :func:`funrl.tree.leaves`) and ``sha256`` (a digest of ``meta``, ``leaves`` and all bytes of the leaves in that order).

Nothing in it is executed (no pickle), and numbers are restored bit for bit, including the payloads of NaNs.
"""

import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import safetensors
import torch

from funrl import _check, tree
from funrl._files import read_json, write_atomic, write_tensors
from funrl.tree import same_rows

__all__ = ["CheckpointError", "best", "latest", "load", "save", "save_kept"]

_VERSION = 3
# Files of versions 1 and 2 began with a line of text.
_OLD = re.compile(rb"funrl checkpoint (\d+)\n")
_WRITERS = {1: "funrl 0.1 before agents became State(actor, learner)", 2: "funrl 0.1 before checkpoints became safetensors"}
_KEPT = re.compile(r"step-\d{12,}")
_REMEDY = "restore a copy or start a new run"


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
    rows = [[name, _dtype(leaf), list(leaf.shape)] for name, leaf in zip(tree.paths(value), leaves, strict=True)]
    try:
        meta_text = json.dumps({} if meta is None else meta)
    except (TypeError, ValueError) as error:
        raise TypeError(f"checkpoint.save: meta: expected JSON data, got {meta!r} ({error})") from None
    stored = [_stored(_dense(leaf.detach().cpu())) for leaf in leaves]
    rows_text = json.dumps(rows)
    metadata = {
        "funrl.checkpoint": str(_VERSION),
        "meta": meta_text,
        "leaves": rows_text,
        "sha256": _digest(meta_text, rows_text, stored),
    }
    write_atomic(path, lambda file: write_tensors(file, {row[0]: x for row, x in zip(rows, stored, strict=True)}, metadata))


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
    with _opened(path) as file:
        metadata = _metadata(file, path)
        rows = _rows(metadata, path)
        stored = [_tensor(file, name, path) for name, _, _ in rows]
        if metadata["sha256"] != _digest(metadata["meta"], metadata["leaves"], stored):
            raise CheckpointError(f"{path}: the checkpoint is damaged, its checksum is wrong; {_REMEDY}")
    mine = [i for i, row in enumerate(rows) if _inside(row[0], at)]
    _check_leaves([rows[i] for i in mine], paths, expected, like, path)
    leaves = []
    for i, leaf in zip(mine, expected, strict=True):
        values = torch.empty(rows[i][2], dtype=leaf.dtype, device="cpu")
        _bytes(values).copy_(_bytes(stored[i]))
        leaves.append(values.to(leaf.device if device is None else device))
    return tree.unflatten(form, leaves), _json(metadata, "meta", path)


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
        with _opened(path) as file:
            score = _json(_metadata(file, path), "meta", path).get("score")
    except (CheckpointError, AttributeError):
        return None
    return score if isinstance(score, float) and not math.isnan(score) else None


def _inside(path: str, at: str) -> bool:
    return not at or path == at or path.startswith((f"{at}.", f"{at}["))


def _opened(path: Any) -> Any:
    """Open a file of tensors."""
    try:
        with open(path, "rb") as file:
            old = _OLD.match(file.read(64))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the checkpoint: {error.strerror or error}") from None
    if old:
        raise _of_another_version(path, int(old[1]))
    try:
        return safetensors.safe_open(path, "pt")
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: it is not a checkpoint of funrl, or it is truncated or damaged ({error}); {_REMEDY}") from None


def _of_another_version(path: Any, version: int) -> CheckpointError:
    writer = _WRITERS.get(version, "another funrl")
    return CheckpointError(f"{path}: the checkpoint has format version {version}, of {writer}, expected {_VERSION}; read it with that one")


def _metadata(file: Any, path: Any) -> dict[str, str]:
    metadata = file.metadata() or {}
    version = metadata.get("funrl.checkpoint", "")
    if not version.isdecimal() or not {"meta", "leaves", "sha256"} <= set(metadata):
        raise CheckpointError(f"{path}: it is not a checkpoint of funrl; give a file that checkpoint.save wrote")
    if int(version) != _VERSION:
        raise _of_another_version(path, int(version))
    return metadata


def _json(metadata: dict[str, str], name: str, path: Any) -> Any:
    """Return JSON of the metadata, which is not trusted."""
    try:
        return read_json(metadata[name].encode())
    except ValueError:
        raise CheckpointError(f"{path}: the checkpoint is damaged, its {name} cannot be read; {_REMEDY}") from None


def _rows(metadata: dict[str, str], path: Any) -> list[Any]:
    """Return path, dtype and shape of each leaf."""
    rows = _json(metadata, "leaves", path)
    if not isinstance(rows, list) or not all(isinstance(row, list) and list(map(type, row)) == [str, str, list] for row in rows):
        raise CheckpointError(f"{path}: the checkpoint is damaged, its list of leaves cannot be read; {_REMEDY}")
    return rows


def _tensor(file: Any, name: str, path: Any) -> torch.Tensor:
    try:
        return file.get_tensor(name)
    except (safetensors.SafetensorError, RuntimeError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path}: the checkpoint is damaged, leaf {name} cannot be read ({error}); {_REMEDY}") from None


def _check_leaves(rows: list[Any], paths: list[str], leaves: list[torch.Tensor], like: Any, path: Any) -> None:
    there = [name for name, _, _ in rows]
    if there != paths:
        missing, extra = [name for name in paths if name not in there], [name for name in there if name not in paths]
        detail = f"it has no leaf {missing[0]}" if missing else f"its leaf {(extra or there)[0]} was not expected"
        raise CheckpointError(f"{path}: the checkpoint holds another structure: {detail}; it belongs to another configuration")
    for i, ((name, dtype, shape), leaf) in enumerate(zip(rows, leaves, strict=True)):
        if dtype != _dtype(leaf) or not (shape == list(leaf.shape) or same_rows(like, i, shape, leaf.shape)):
            raise CheckpointError(
                f"{path}: leaf {name} is {dtype} {shape} in the file, but {_dtype(leaf)} {list(leaf.shape)} was expected; "
                "it belongs to another configuration"
            )


def _dense(x: torch.Tensor) -> torch.Tensor:
    """Return a contiguous tensor; one element of a row counts as contiguous for torch, whatever its stride is."""
    x = x.contiguous()
    return x if x.reshape(-1).stride() == (1,) else x.clone(memory_format=torch.contiguous_format)


def _stored(x: torch.Tensor) -> torch.Tensor:
    """Return a leaf as safetensors can write it: complex numbers as pairs."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _digest(meta: str, rows: str, stored: list[torch.Tensor]) -> str:
    digest = hashlib.sha256(f"{len(meta)} {meta} {rows}".encode())
    for x in stored:
        digest.update(_bytes(x).numpy().data)
    return digest.hexdigest()


def _bytes(x: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a contiguous tensor on the CPU as a uint8 view."""
    return (torch.view_as_real(x) if x.is_complex() else x).reshape(-1).view(torch.uint8)


def _dtype(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
