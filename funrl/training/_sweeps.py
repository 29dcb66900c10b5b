"""Sweeps on the disk: a folder for each chunk of agents, a table of all, and resuming."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from funrl import record
from funrl._files import read_json, write_json
from funrl.env import on_host
from funrl.populations import Chunk, Population, Records, Table, chunk_size, run
from funrl.record import hyperparameters
from funrl.runs import Folder, RunError, checking, describe, differences, reading, writing
from funrl.training._loop import train

_FORMAT = 1


def train_populations(
    populations: Population | Sequence[Population],
    key: torch.Tensor,
    total_steps: int,
    *,
    out: str | os.PathLike,
    resume: bool = False,
    chunk: int | None = None,
    checkpoint_every: float = 10.0,
    progress: bool = True,
    backend: str = "auto",
    notes: Mapping[str, Any] | None = None,
) -> Table:
    """Train populations as :func:`funrl.populations.run` does, with files, so that a sweep that was killed can be resumed to the same bits.

    The folder has ``sweep.json`` (what was asked for), ``chunk-000`` and so on (a run of :func:`funrl.train` for each chunk of agents, with
    its ``config.json``, ``metrics.csv`` and checkpoint), and at the end ``table.csv``, a row an agent, and ``sweep.png``, if matplotlib is
    installed. An agent that diverges goes on, and the table says when it did.

    Args:
        populations: a population, or several, one for each algorithm of :func:`funrl.populations.by_value`.
        key: int64 [].
        total_steps: environment steps of each agent, rounded down to whole updates.
        out: the folder; created if missing.
        resume: whether to go on with the sweep in ``out``, which has to be the same. Its chunks keep their sizes.
        chunk: as for :func:`funrl.populations.run`.
        checkpoint_every: the seconds between two checkpoints.
        progress: whether to show the progress of each chunk on stderr.
        backend: as for :func:`funrl.compile`.
        notes: further entries for ``sweep.json``; a resumed sweep has to give the same.

    Returns:
        A :class:`funrl.populations.Table`.

    Raises:
        RunError: if an argument is out of its range; if ``out`` has another sweep, or none to resume. Nothing has been written then.
        funrl.checkpoint.CheckpointError: if a checkpoint is damaged.

    Example:
        >>> import tempfile, funrl
        >>> from funrl import populations
        >>> algo = funrl.algos.a2c.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> rates = populations.sweep(algo, {"learning_rate": [1e-3, 1e-2]}, 2)
        >>> with tempfile.TemporaryDirectory() as out:
        ...     table = train_populations(rates, funrl.random.key(0), 48, out=out, progress=False, backend="eager")
        ...     sorted(x.name for x in Path(out).iterdir())
        ['chunk-000', 'sweep.json', 'sweep.png', 'table.csv']
    """
    several = [populations] if isinstance(populations, Population) else list(populations)
    folder, path = Path(out), Path(out) / "sweep.json"
    exchanging = [p for p in several if isinstance(p, Population) and p.exchange is not None]
    if exchanging and len(several) > 1:
        raise RunError(f"populations: one whose agents exchange what they do is trained alone, got {len(several)}; train one after another")
    if not resume and os.path.lexists(path):
        raise RunError(f"{folder}: another sweep is here; resume it (--resume), or choose another folder (--out)")
    before = read_sweep(folder) if resume else None
    chunk = before["chunk"] if before is not None and chunk is None else chunk
    pieces: list[Chunk] = []

    def enter(size: int) -> None:
        config = _describe(several, key, total_steps, size, notes)
        if before is not None:
            _check_agrees(folder, before, config)
        with writing(folder):
            write_json(path, config)

    def trained(piece: Chunk) -> Records:
        if not pieces:
            enter(size)
        pieces.append(piece)
        place = folder / f"chunk-{piece.number:03}"
        options: dict[str, Any] = {"out": place, "resume": Folder(place).config.exists(), "evaluate_episodes": 0, "diverged": "continue"}
        options |= {"checkpoint_every": checkpoint_every, "progress": progress, "backend": backend}
        if piece.exchange is not None:
            result = train(piece.algo, key, total_steps, population=exchanging[0], **options)
        else:
            result = train(piece.algo, piece.keys, total_steps, num_agents=len(piece.keys), hparams=piece.hparams, **options)
        return _records(Folder(place), len(piece.keys), result.diverged)

    with checking():
        size = _size(several, chunk, key)
        table = run(several, key, total_steps, chunk=size, train=trained)
    table.save(folder / "table.csv")
    try:
        hyperparameters(table, folder / "sweep.png", title=f"{several[0].algo.name} on {several[0].algo.env.name}")
    except ImportError:
        pass  # it is drawn where matplotlib is installed, as learning curves are
    return table


def read_sweep(out: str | os.PathLike) -> dict[str, Any]:
    """Read ``sweep.json``.

    Raises:
        RunError: if the folder has no sweep, or it cannot be read.

    Example:
        >>> read_sweep("/nowhere")
        Traceback (most recent call last):
        ...
        funrl.runs._folder.RunError: /nowhere: there is no sweep here (no sweep.json); give the folder that a sweep was written to
    """
    path = Path(out) / "sweep.json"
    missing = f"there is no sweep here (no {path.name}); give the folder that a sweep was written to"
    with reading(path, "restore it, or choose another folder", missing):
        config = read_json(path.read_bytes())
        if config["format"] != _FORMAT or type(config["chunk"]) is not int or type(config["notes"]) is not dict:
            raise TypeError
    return config


def _size(populations: Sequence[Any], chunk: int | None, key: Any) -> int:
    """Return the size of chunks; of arguments that :func:`funrl.populations.run` refuses, anything."""
    if not isinstance(key, torch.Tensor) or not all(isinstance(p, Population) and not on_host(p.algo.env) for p in populations):
        return 1
    return chunk_size(populations, chunk, key.device) if populations else 1


def _describe(populations: Sequence[Population], key: torch.Tensor, total_steps: int, chunk: int, notes: Any) -> dict[str, Any]:
    runs = [describe(p.algo, key, total_steps, p.num_agents, {"population": dict(p.settings)}) for p in populations]
    return json.loads(json.dumps({"format": _FORMAT, "chunk": chunk, "notes": dict(notes or {}), "populations": runs}))


def _check_agrees(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    if len(before["populations"]) != len(now["populations"]):
        raise RunError(
            f"{folder}: cannot resume: the sweep there has {len(before['populations'])} populations, not {len(now['populations'])}"
        )
    differing = differences(before, now, ("chunk", "notes"))
    for one, other in zip(before["populations"], now["populations"], strict=True):
        differing += differences(one, other, sorted({*one, *other}))
    for name, old, new in differing:
        raise RunError(
            f"{folder}: cannot resume: the sweep there has {name} = {old!r}, not {new!r}; use the same, or another folder (--out)"
        )


def _records(folder: Folder, num_agents: int, diverged: Sequence[int]) -> Records:
    """Return the records of the agents in ``metrics.csv``."""
    columns = record.read_metrics(folder.metrics)
    shaped = {name: x.reshape(-1, num_agents) for name, x in columns.items()}
    curves = shaped.get("episode_return", np.full(shaped["update"].shape, np.nan))
    history = {name: x for name, x in shaped.items() if name == "parent" or name.startswith("hparams.")} if "parent" in shaped else {}
    return Records(curves, np.asarray(diverged, dtype=np.int64), history)
