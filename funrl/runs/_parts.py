"""Checkpoints in parts: a file for each chunk of agents, which several processes write, and a manifest that makes them one checkpoint."""

import math
from pathlib import Path
from typing import Any

import torch

from funrl import checkpoint, tree
from funrl._files import read_json, write_json
from funrl.checkpoint import CheckpointError
from funrl.runs._folder import Folder, reading

__all__ = ["check_notes", "finish_parts", "load_part", "load_parts", "read_manifest", "save_part"]


def save_part(folder: Folder, update: int, index: int, value: Any) -> None:
    """Write the part of a chunk, atomically. It counts once :func:`finish_parts` has named it."""
    checkpoint.save(value, folder.manifest.with_name(_name(update, index)), {"update": update})


def finish_parts(folder: Folder, num_parts: int, meta: dict[str, Any]) -> None:
    """Make the parts of an update one checkpoint, atomically, and then remove all other parts.

    Args:
        folder: the folder of the run.
        num_parts: the number of parts; all have been written.
        meta: JSON data with ``update``, ``seconds`` and ``compile_seconds``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as out:
        ...     for i in range(2):
        ...         save_part(Folder(out), 3, i, torch.tensor([i]))
        ...     finish_parts(Folder(out), 2, {"update": 3, "seconds": 1.5, "compile_seconds": 0.5})
        ...     load_parts(Folder(out), torch.tensor([0, 0]))
        (tensor([0, 1]), {'update': 3, 'seconds': 1.5, 'compile_seconds': 0.5})
    """
    names = [_name(meta["update"], i) for i in range(num_parts)]
    write_json(folder.manifest, {"parts": names, "meta": meta})
    for path in folder.manifest.parent.iterdir():
        if path.name.startswith(("part-", ".part-")) and path.name not in names:
            path.unlink(missing_ok=True)


def read_manifest(folder: Folder) -> tuple[list[Path], dict[str, Any]]:
    """Return the files of the parts, in the order of their agents, and the notes.

    Raises:
        CheckpointError: if the manifest is missing or damaged.
    """
    with reading(folder.manifest, "restore a copy, or start a new run", kind=CheckpointError):
        manifest = read_json(folder.manifest.read_bytes())
        names, meta = manifest["parts"], manifest["meta"]
        if not names or names != [_name(meta["update"], i) for i in range(len(names))]:
            raise TypeError
    check_notes(folder.manifest, meta)
    return [folder.manifest.with_name(name) for name in names], meta


def load_part(path: Path, update: int, like: Any, device: torch.device | str | None = None) -> Any:
    """Return the agents of a chunk.

    Raises:
        CheckpointError: if the file is missing or damaged, or of another update or tree.
    """
    value, meta = checkpoint.load(path, like, device=device)
    if meta != {"update": update}:
        raise CheckpointError(f"{path}: expected the part of update {update}, got the notes {meta}; restore it, or start a new run")
    return value


def load_parts(folder: Folder, like: Any, device: torch.device | str | None = None) -> tuple[Any, dict[str, Any]]:
    """Return the agents of all chunks, leaves [K, ...] like those of ``like``, and the notes.

    Raises:
        CheckpointError: as for :func:`read_manifest` and :func:`load_part`.
    """
    paths, meta = read_manifest(folder)
    if "processes" in meta:  # each has a part of the environments of one agent, and the same parameters
        like = tree.map(lambda x: x.unsqueeze(0), like)
        return tree.index(load_part(paths[0], meta["update"], like, device), 0), meta
    count = tree.leaves(like)[0].shape[0]
    some = tree.map(lambda x: x[: count // len(paths)], like)
    return tree.cat([load_part(path, meta["update"], some, device) for path in paths]), meta


def check_notes(path: Any, meta: Any) -> None:
    """Raise a CheckpointError unless the notes of a checkpoint are those of a run."""
    for name, kind in (("update", int), ("seconds", float), ("compile_seconds", float)):
        fault = None
        if not isinstance(meta, dict) or name not in meta:
            fault = f"it does not say its {name}"
        elif type(meta[name]) not in (int, kind) or not 0 <= meta[name] < math.inf:
            fault = f"its {name} is {meta[name]!r}"
        if fault:
            raise CheckpointError(f"{path}: {fault}, so it is not of a run; restore it or start a new run")


def _name(update: int, index: int) -> str:
    return f"part-{update:012d}-{index:05d}"
