"""The beginning and the end of a run: its result, its folder, and the point from which it starts or resumes."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from funrl import compiler, record, runs
from funrl.acting import Evaluation
from funrl.algos import Algorithm
from funrl.runs import Folder, check_metrics, check_no_checkpoint_is_lost
from funrl.training._log import Log


class Result(NamedTuple):
    """Result of :func:`train`.

    Attributes:
        state: the algorithm's state; leaves [K, ...] with K > 1 agents.
        metrics: the metrics of the last update, tensors [] or [K]; empty if no update was left to do.
        evaluation: :class:`funrl.acting.Evaluation` with leaves [N] or [K, N]; None without episodes.
        updates: the number of updates so far.
        steps: the environment steps of each agent so far.
        seconds: the seconds of training, compilation and the runs before a ``resume`` included.
        compile_seconds: the seconds until the end of the first update.
        stopped: the reason why a hook ended the run early, or None.
        diverged: with ``diverged="continue"``, the update at which each agent diverged, 0 if it did not.
    """

    state: Any
    metrics: dict[str, torch.Tensor]
    evaluation: Evaluation | None
    updates: int
    steps: int
    seconds: float
    compile_seconds: float
    stopped: str | None = None
    diverged: tuple[int, ...] = ()


class Asked(NamedTuple):
    """The arguments of :func:`funrl.train` by these names; ``proceed``: agents that diverge do not end the run."""

    evaluate_episodes: int
    checkpoint_every: float
    progress: bool
    proceed: bool
    notes: Mapping[str, Any]


class Start(NamedTuple):
    """The point from which a run starts or resumes."""

    state: Any
    update: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    remark: str = ""
    diverged: list[int] | None = None


def enter(
    folder: Folder,
    config: dict[str, Any],
    start: Start,
    resume: bool,
    stack: contextlib.ExitStack,
    load: Callable[[bool], Start | None],
) -> Start:
    """Lock the folder, and write the configuration into it; return the point from which the run starts or resumes.

    ``load(longer)`` reads the checkpoint, or returns None if there is none; ``longer``: the learning rate falls later than before.
    """
    stack.enter_context(folder.lock())
    if resume:
        before = folder.check_agrees(config)
        other = before["options"].get("anneal_steps") != config["options"].get("anneal_steps")
        loaded = load(other and "anneal_steps" not in config.get("hparams", {}))
        if loaded is not None:
            check_metrics(folder, loaded.update, config["num_agents"])
            start = loaded._replace(diverged=loaded.diverged or start.diverged)
        else:
            check_no_checkpoint_is_lost(folder)
    else:
        folder.check_free()
    folder.write_config(config)
    return start


def announce(log: Log, algo: Algorithm, folder: Folder | None, num_agents: int, num_updates: int, start: Start, resume: bool) -> None:
    """Print what begins, or that the run is finished."""
    if resume and not start.update:
        log.say("no checkpoint yet: starting from the beginning")
    if start.update >= num_updates:
        steps = start.update * algo.steps_per_update
        log.say(f"the run in {folder} is finished: it has {steps:,} steps already; give more steps to continue")
        return
    agents = "1 agent" if num_agents == 1 else f"{num_agents} agents"
    place = f", in {folder}" if folder else ""
    log.say(f"training {agents} of {algo.name} on {algo.env.name}, {num_updates * algo.steps_per_update:,} steps each{place}")
    if start.update:
        log.say(f"continuing after update {start.update:,}" + (f"; {start.remark}" if start.remark else ""))


def anneal_longer(state: Any, anneal_steps: float) -> Any:
    """Return a state whose learning rate falls over another number of steps."""
    hparams: Any = getattr(state.learner, "hparams", None)
    if not hasattr(hparams, "anneal_steps"):
        return state
    hparams = hparams.replace(anneal_steps=torch.full_like(hparams.anneal_steps, anneal_steps))
    return state.replace(learner=state.learner.replace(hparams=hparams))


def chosen_backend(asked: str, key: torch.Tensor, begun: Folder | None) -> str:
    """Return the backend of a run: the given one, or that of the resumed run, or the default for the device of its key."""
    if asked == "auto" and begun is not None and begun.config.exists():
        asked = runs.read_config(begun.path).get("backend", asked)
    return compiler.backend(key.device)[0] if asked == "auto" else asked


def finish(folder: Folder | None, algo: Algorithm, evaluation: Evaluation | None, log: Log) -> None:
    """Write the evaluation into the folder, and draw the learning curve; from data no episode ends, so that there is none."""
    if folder is None:
        return
    if evaluation is not None:
        folder.write_evaluation(evaluation)
    if folder.metrics.exists() and algo.data is None:
        _draw(folder, algo, log)


def _draw(folder: Folder, algo: Algorithm, log: Log) -> None:
    """Draw the learning curve, or print why it cannot be drawn; such an error must not end the run."""
    try:
        record.learning_curve(record.read_metrics(folder.metrics), folder.curve, title=f"{algo.name} on {algo.env.name}")
    except (ImportError, ValueError, OSError) as error:
        log.say(f"no {folder.curve.name}: {' '.join(str(error).split())}")
