"""What is in the folder of a run: read, checked, and made again."""

import math
import os
from typing import Any, NamedTuple

import torch

from funrl import checkpoint, random, record
from funrl.algos import Algorithm
from funrl.record import Folder, RunError
from funrl.training.agents import agent_keys, over_agents

__all__ = ["Run", "check_no_checkpoint_is_lost", "load_checkpoint", "load_run"]


class Run(NamedTuple):
    """What is in the folder of a run.

    Attributes:
        algo: the algorithm, as it was made.
        state: its state at the last checkpoint; leaves [K, ...] with K > 1 agents.
        config: what is in config.json.
        updates: updates until that checkpoint.
    """

    algo: Algorithm
    state: Any
    config: dict[str, Any]
    updates: int


def load_run(out: str | os.PathLike, *, file: str | os.PathLike | None = None, device: torch.device | str = "cpu") -> Run:
    """Read the folder of a run.

    Args:
        out: the folder.
        file: the checkpoint to read, such as ``funrl.checkpoint.best(f"{out}/checkpoint")``; None: the one that the run is resumed from.
        device: where the state goes.

    Returns:
        A :class:`Run`.

    Raises:
        RunError: if the folder holds no run, or none that can be read or made again (such as that of an environment with settings or
            transforms, which its name does not tell, or that lacks a package), or there is no checkpoint yet.
        funrl.checkpoint.CheckpointError: if the checkpoint is damaged.

    Example:
        >>> import tempfile, funrl
        >>> algo, key = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8), funrl.random.key(0)
        >>> with tempfile.TemporaryDirectory() as out:  # by hand, what train writes
        ...     folder = Folder(out)
        ...     folder.write_config(record.describe(algo, key, 48, num_agents=1))
        ...     checkpoint.save(folder.checkpoint, algo.init(key), {"update": 0, "seconds": 0.0, "compile_seconds": 0.0})
        ...     run = load_run(out)
        >>> run.updates, run.state.num_steps
        (0, tensor(0))
    """
    folder = Folder(out)
    config = record.read_config(out)
    try:
        algo = record.rebuild(config)
    except (ValueError, TypeError, ImportError) as error:
        raise RunError(f"{folder.config}: cannot make the algorithm again: {error}") from None
    if file is None and not folder.checkpoint.exists():
        raise RunError(f"{folder}: the run has no checkpoint yet; wait for its first update, or go on with it (train --resume)")
    like = over_agents(algo.init, config["num_agents"])(agent_keys(random.key(0, "cpu"), config["num_agents"]))
    if file is not None:
        state, meta = checkpoint.load(file, like, device=device)
        if type(meta.get("step")) is not int:
            raise checkpoint.CheckpointError(f"{file}: it does not say its step; give one that training.hooks.checkpoints wrote")
        return Run(algo, state, config, meta["step"] // algo.steps_per_update)
    # With a collector its state is beside the learner's, and is of no use without the collector.
    state, meta = load_checkpoint(folder, like, at="[0]" if config.get("collector") else "", device=device)
    return Run(algo, state, config, meta["update"])


def load_checkpoint(folder: Folder, like: Any, *, at: str = "", device: torch.device | str | None = None) -> tuple[Any, dict[str, Any]]:
    """Return what :func:`funrl.checkpoint.load` does of the checkpoint that a run is resumed from, whose notes are checked.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as out:
        ...     checkpoint.save(Folder(out).checkpoint, (), {"update": 3, "seconds": 1.5, "compile_seconds": 0.5})
        ...     load_checkpoint(Folder(out), ())
        ((), {'update': 3, 'seconds': 1.5, 'compile_seconds': 0.5})
    """
    state, meta = checkpoint.load(folder.checkpoint, like, at=at, device=device)
    for name, kind in (("update", int), ("seconds", float), ("compile_seconds", float)):
        fault = None
        if not isinstance(meta, dict) or name not in meta:
            fault = f"it does not say its {name}"
        elif type(meta[name]) not in (int, kind) or not 0 <= meta[name] < math.inf:
            fault = f"its {name} is {meta[name]!r}"
        if fault:
            raise checkpoint.CheckpointError(f"{folder.checkpoint}: {fault}, so it is not of a run; restore it or start anew")
    return state, meta


def check_no_checkpoint_is_lost(folder: Folder) -> None:
    """Raise a RunError if there are metrics of more than the one update that precedes the first checkpoint.

    Example:
        >>> check_no_checkpoint_is_lost(Folder("/nowhere"))
    """
    try:
        count = int(max(record.read_metrics(folder.metrics).get("update", ()), default=0))
    except FileNotFoundError:
        return
    except (ValueError, OverflowError, OSError) as error:
        raise RunError(f"{folder.checkpoint}: missing, and {folder.metrics.name} cannot be read: {error}; restore them") from None
    if count > 1:
        raise RunError(
            f"{folder.checkpoint}: missing, although {folder.metrics.name} has {count:,} updates; restore it, or train in another folder"
        )
