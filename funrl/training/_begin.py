"""The beginning and the end of a run: its result, its folder, and the point from which it starts or resumes."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from funrl import compiler, record, runs
from funrl.acting import Evaluation
from funrl.algos import Algorithm
from funrl.runs import Folder, check_metrics, check_no_checkpoint_is_lost
from funrl.training._agents import Agents
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


class Job(NamedTuple):
    """A run that is to be done: arguments of :func:`funrl.train` by these names.

    Attributes:
        agents: those that the arguments describe.
        folder: the folder ``out``, or None.
        proceed: whether agents that diverge do not end the run.
    """

    algo: Algorithm
    key: torch.Tensor
    total_steps: int
    agents: Agents
    folder: Folder | None
    resume: bool
    evaluate_episodes: int
    checkpoint_every: float
    progress: bool
    proceed: bool
    backend: str
    notes: Mapping[str, Any]

    @property
    def num_updates(self) -> int:
        return self.total_steps // self.algo.steps_per_update

    def with_backend(self) -> "Job":
        """Return the job with the backend that was asked for, or that of the resumed run, or the default for the device of its key."""
        name = self.backend
        if name == "auto" and self.resume and self.folder is not None:
            name = runs.read_config(self.folder.path).get("backend", name)
        return self._replace(backend=compiler.backend(self.key.device)[0] if name == "auto" else name)


class Start(NamedTuple):
    """The point from which a run starts or resumes."""

    state: Any
    update: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    remark: str = ""
    diverged: list[int] | None = None


def enter(job: Job, own: Mapping[str, Any], start: Start, stack: contextlib.ExitStack, load: Callable[[bool], Start | None]) -> Start:
    """Lock the folder, and write the configuration into it; return the point from which the run starts or resumes.

    ``own``: further entries of the configuration. ``load(longer)`` reads the checkpoint, or returns None if there is none; ``longer``: the
    learning rate falls later than before.
    """
    folder, num_agents = job.folder, job.agents.num_agents
    if folder is None:
        return start
    notes = {**own, **job.agents.notes, "backend": job.backend, **job.notes}
    if job.resume and "backend" not in runs.read_config(folder.path):  # a run of an earlier version
        del notes["backend"]
    config = runs.describe(job.algo, job.key.flatten()[0], job.total_steps, num_agents, notes)
    stack.enter_context(folder.lock())
    if job.resume:
        before = folder.check_agrees(config)
        other = before["options"].get("anneal_steps") != config["options"].get("anneal_steps")
        loaded = load(other and "anneal_steps" not in config.get("hparams", {}))
        if loaded is not None:
            check_metrics(folder, loaded.update, num_agents)
            start = loaded._replace(diverged=loaded.diverged or start.diverged)
        else:
            check_no_checkpoint_is_lost(folder)
    else:
        folder.check_free()
    folder.write_config(config)
    return start


def begin_log(job: Job, start: Start, stack: contextlib.ExitStack) -> Log:
    """Return the log of a run, which prints what begins, or that the run is finished."""
    algo, folder, num_agents = job.algo, job.folder, job.agents.num_agents
    lost = start.diverged if job.proceed else None
    log = Log(algo, folder, num_agents, start.update, job.progress, columns=job.agents.columns(), diverged=lost)
    stack.enter_context(compiler.listening(log.part))
    if job.resume and not start.update:
        log.say("no checkpoint yet: starting from the beginning")
    if start.update >= job.num_updates:
        steps = start.update * algo.steps_per_update
        log.say(f"the run in {folder} is finished: it has {steps:,} steps already; give more steps to continue")
        return log
    agents = "1 agent" if num_agents == 1 else f"{num_agents} agents"
    place = f", in {folder}" if folder else ""
    log.say(f"training {agents} of {algo.name} on {algo.env.name}, {job.num_updates * algo.steps_per_update:,} steps each{place}")
    if start.update:
        log.say(f"continuing after update {start.update:,}" + (f"; {start.remark}" if start.remark else ""))
    return log


def anneal_longer(state: Any, anneal_steps: float) -> Any:
    """Return a state whose learning rate falls over another number of steps."""
    hparams: Any = getattr(state.learner, "hparams", None)
    if not hasattr(hparams, "anneal_steps"):
        return state
    hparams = hparams.replace(anneal_steps=torch.full_like(hparams.anneal_steps, anneal_steps))
    return state.replace(learner=state.learner.replace(hparams=hparams))


def finish(job: Job, evaluation: Evaluation | None, log: Log) -> None:
    """Write the evaluation into the folder, and draw the learning curve; from data no episode ends, so that there is none."""
    if job.folder is None:
        return
    if evaluation is not None:
        job.folder.write_evaluation(evaluation)
    if job.folder.metrics.exists() and job.algo.data is None:
        _draw(job.folder, job.algo, log)


def _draw(folder: Folder, algo: Algorithm, log: Log) -> None:
    """Draw the learning curve, or print why it cannot be drawn; such an error must not end the run."""
    try:
        record.learning_curve(record.read_metrics(folder.metrics), folder.curve, title=f"{algo.name} on {algo.env.name}")
    except (ImportError, ValueError, OSError) as error:
        log.say(f"no {folder.curve.name}: {' '.join(str(error).split())}")
