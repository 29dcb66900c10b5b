"""Reading of a run's folder: its configuration, algorithm and state."""

import functools
import importlib
import os
import sys
import warnings
from typing import Any, NamedTuple

import torch

from funrl import checkpoint, random, tree
from funrl.algos import Algorithm
from funrl.record import read_metrics
from funrl.runs._folder import Folder, RunError, check_algorithm, read_config, rebuild
from funrl.runs._parts import check_notes, load_parts


class Run(NamedTuple):
    """Contents of a run's folder.

    Attributes:
        algo: the algorithm with its options.
        state: its state at the last checkpoint; leaves [K, ...] with K > 1 agents.
        config: the contents of config.json.
        updates: the number of updates until that checkpoint.
    """

    algo: Algorithm
    state: Any
    config: dict[str, Any]
    updates: int


def load_run(
    out: str | os.PathLike,
    *,
    algo: Algorithm | None = None,
    file: str | os.PathLike | None = None,
    device: torch.device | str = "cpu",
    trust: bool = False,
) -> Run:
    """Read the folder of a run. Nothing in it is executed, and only parts of funrl and gymnasium are imported.

    Args:
        out: the folder.
        algo: the algorithm, if the names of algorithm and environment are not enough to make it again: one of your own, or one with
            an environment with settings or transforms. None: it is made from the configuration.
        file: the checkpoint to read, such as ``funrl.checkpoint.best(f"{out}/checkpoint")``; None: the latest, from which a run resumes.
        device: the device of the state.
        trust: whether to allow the import of a module that the environment's name contains (``gymnasium:MODULE:ID``). This runs its code.

    Returns:
        A :class:`Run`.

    Raises:
        RunError: if the folder contains no run or no checkpoint yet, or the run cannot be read, is not of ``algo``, or cannot be made
            again (because the environment has settings or transforms that its name does not contain, or a package is missing).
        funrl.checkpoint.CheckpointError: if the checkpoint is damaged.

    Example:
        >>> import tempfile, funrl
        >>> algo, key = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8), funrl.random.key(0)
        >>> with tempfile.TemporaryDirectory() as out:  # by hand, what train writes
        ...     folder = Folder(out)
        ...     folder.write_config(funrl.runs.describe(algo, key, 48, num_agents=1))
        ...     checkpoint.save(algo.init(key), folder.checkpoint, {"update": 0, "seconds": 0.0, "compile_seconds": 0.0})
        ...     run = load_run(out)
        >>> run.updates, run.state.learner.num_steps
        (0, tensor(0))
    """
    folder = Folder(out)
    config = read_config(out)
    # The configuration may contain anything, so that making the algorithm may raise anything.
    try:
        if algo is None:
            algo = rebuild(config, trust=trust)
        else:
            check_algorithm(config, algo)
    except Exception as error:
        raise RunError(f"{folder.config}: cannot make the algorithm again: {error}") from error
    if file is None and not folder.checkpoint.exists() and not folder.manifest.exists():
        raise RunError(f"{folder}: the run has no checkpoint yet; wait for its first update, or resume it (train --resume)")
    try:
        like = algo.init(random.key(0, "cpu"))
        if (num_agents := config["num_agents"]) > 1:
            like = tree.map(lambda x: x.expand(num_agents, *x.shape), like)  # expand, as K copies may not fit into memory
    except Exception as error:
        raise RunError(f"{folder.config}: cannot make the state of the algorithm: {error}") from error
    if file is not None:
        state, meta = checkpoint.load(file, like, device=device)
        if not isinstance(meta, dict) or type(meta.get("step")) is not int:
            raise checkpoint.CheckpointError(f"{file}: its notes have no step; give one that training.hooks.checkpoints wrote")
        return Run(algo, state, config, meta["step"] // algo.steps_per_update)
    # With a collector, or an exchange between agents, the checkpoint is a pair of the learner's state and theirs, which is not used here.
    state, meta = load_checkpoint(
        folder, like, at="[0]" if config.get("collector") or config.get("population", {}).get("exchange") else "", device=device
    )
    return Run(algo, state, config, meta["update"])


def named(text: str | None) -> Algorithm | None:
    """Return the user's algorithm named ``MODULE:NAME``, an Algorithm or a function that returns one; None for None.

    Raises:
        RunError: if the name has another form, or there is no such algorithm.

    Example:
        >>> named("funrl.algos:names")
        Traceback (most recent call last):
        ...
        funrl.runs._folder.RunError: --algo: funrl.algos:names: expected an Algorithm or a function that returns one, got list
    """
    if text is None:
        return None
    module, _, name = text.partition(":")
    if not module or not name:
        raise RunError(f"--algo: expected MODULE:NAME, such as my_algorithms:make, got {text!r}")
    try:
        sys.path.insert(0, os.getcwd())  # as for python -m
        algo: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
        algo = algo if isinstance(algo, Algorithm) else algo()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise RunError(f"--algo: {text}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(algo, Algorithm):
        raise RunError(f"--algo: {text}: expected an Algorithm or a function that returns one, got {type(algo).__name__}")
    return algo


def load_checkpoint(folder: Folder, like: Any, *, at: str = "", device: torch.device | str | None = None) -> tuple[Any, dict[str, Any]]:
    """Load the checkpoint from which a run is resumed, as :func:`funrl.checkpoint.load` does, and check its notes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as out:
        ...     checkpoint.save((), Folder(out).checkpoint, {"update": 3, "seconds": 1.5, "compile_seconds": 0.5})
        ...     load_checkpoint(Folder(out), ())
        ((), {'update': 3, 'seconds': 1.5, 'compile_seconds': 0.5})
    """
    if folder.manifest.exists():
        return load_parts(folder, like, device)
    state, meta = checkpoint.load(folder.checkpoint, like, at=at, device=device)
    check_notes(folder.checkpoint, meta)
    return state, meta


def check_no_checkpoint_is_lost(folder: Folder) -> None:
    """Raise a RunError if there are metrics of more than the one update that precedes the first checkpoint.

    Example:
        >>> check_no_checkpoint_is_lost(Folder("/nowhere"))
    """
    try:
        count = int(max(read_metrics(folder.metrics).get("update", ()), default=0))
    except FileNotFoundError:
        return
    except (ValueError, OverflowError, OSError) as error:
        raise RunError(f"{folder.checkpoint}: missing, and {folder.metrics.name} cannot be read: {error}; restore them") from None
    if count > 1:
        raise RunError(
            f"{folder.checkpoint}: missing, although {folder.metrics.name} has {count:,} updates; restore it, or train in another folder"
        )


def check_metrics(folder: Folder, done: int, num_agents: int) -> None:
    """Warn if metrics of the updates up to the checkpoint are missing; raise a RunError if they cannot be read.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     check_metrics(Folder("/nowhere"), 3, 1)
        >>> print(caught[0].message)
        /nowhere/metrics.csv: it is missing; the run continues after update 3 without the earlier metrics: restore it if there is a copy
    """
    try:
        numbers = read_metrics(folder.metrics).get("update", ())
    except FileNotFoundError:
        fault = f"it is missing; the run continues after update {done:,} without the earlier metrics"
    except (ValueError, OSError) as error:
        text = str(error).removeprefix(f"{folder.metrics}: ")
        raise RunError(f"{folder.metrics}: cannot be read: {text}; restore it, or move it away to continue without it") from None
    else:
        lost = done * num_agents - sum(1 for number in numbers if 1 <= number <= done)
        if lost <= 0:
            return
        fault = f"it lacks {lost:,} of the {done * num_agents:,} rows up to update {done:,}; the run continues without them"
    warnings.warn(f"{folder.metrics}: {fault}: restore it if there is a copy", stacklevel=4)
