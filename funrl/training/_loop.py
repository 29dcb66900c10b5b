"""The training loop."""

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from funrl import _check, checkpoint, compiler, runs
from funrl.algos import Algorithm
from funrl.populations import Population
from funrl.runs import Folder, RunError, checking, load_checkpoint
from funrl.training import _experience as experience, hooks as calling
from funrl.training._agents import agent_keys, evaluate_agents, gathered
from funrl.training._begin import Job, Result, Start, anneal_longer, begin_log, enter, finish
from funrl.training._interrupt import Interrupt
from funrl.training._log import Log, bad_parameters

if TYPE_CHECKING:
    from funrl.distributed import Group

__all__ = ["Result", "train"]


def train(
    algo: Algorithm,
    key: torch.Tensor,
    total_steps: int,
    *,
    num_agents: int | None = None,
    hparams: Mapping[str, torch.Tensor] | None = None,
    population: Population | None = None,
    diverged: str = "stop",
    group: "Group | None" = None,
    chunk: int | None = None,
    collector: Any = None,
    hooks: Sequence[calling.Hook | calling.Every] = (),
    out: str | os.PathLike | None = None,
    resume: bool = False,
    evaluate_episodes: int = 100,
    checkpoint_every: float = 10.0,
    progress: bool = True,
    backend: str = "auto",
    notes: Mapping[str, Any] | None = None,
) -> Result:
    """Train one agent, or K agents as one program, and evaluate them.

    Agent k has the key ``split(key, K)[k]``; it starts from ``algo.init(fold_in(agent_key, 0))``, and update
    i = 1, 2, ... is ``algo.step(fold_in(agent_key, i), state)``. So the random numbers of an agent do not depend on K, and a run that was
    interrupted and resumed gives bit-equal results (on the same machine, with the same version of torch).

    A host environment allows one agent only, and a resumed run starts new episodes there, so its results differ.

    With a collector (:mod:`funrl.collectors`) update i is ``algo.learn(fold_in(agent_key, i), state, batch.transition)`` on its next
    batch, before which the parameters are published. The checkpoints contain its state: with a synchronous collector and deterministic
    environments a resumed run gives the same results; with an asynchronous one the frames that were in flight are collected
    again, and their number is printed. The metrics have ``staleness`` too: how many versions the parameters of a batch were behind.

    With ``out`` the files of the run go to that folder, which one run at a time may use: ``config.json``, ``metrics.csv`` (a row for each
    update and agent), ``checkpoint/state`` and, at the end, ``evaluation.json`` and, if matplotlib is installed, ``learning_curve.png``.
    A resumed run writes the rows after its checkpoint again; the old rows are moved to ``metrics.csv.cut``.

    The agents may differ in their hyperparameters: with ``hparams={"learning_rate": tensor[K]}`` they have them from the first update on.
    They are in ``config.json`` and, as ``hparams.NAME``, in the columns of ``metrics.csv``; a resumed run has the same. A ``population``
    draws them from the key, and its agents may exchange parameters and hyperparameters (:func:`funrl.populations.pbt`).

    With a ``group`` (:func:`funrl.distributed.join`) the agents are divided among its processes, and with a ``chunk`` into programs of
    that many agents. Up to ``torch.get_num_threads()`` of them run at the same time, a core each, and take memory. Agent k is the same as
    without, and for one chunk size its results by compiled programs are bit-equal for any number of threads and processes, also after a
    resume with another number. Rank 0 writes the metrics; the checkpoint has a file for each chunk.

    The run stops as soon as a metric named ``..._loss``, ``entropy``, ``approximate_kl`` or ``gradient_norm`` is
    not finite. Metrics are checked twice a second and before each checkpoint. Parameters are checked before each checkpoint, so that
    every checkpoint is finite.
    Ctrl-C ends the run with a checkpoint after the running update; a second Ctrl-C ends it at once.

    Args:
        algo: the algorithm.
        key: a key [], or the agents' own keys [K]; its device is the device of the agents.
        total_steps: the environment steps of each agent, rounded down to whole updates.
        num_agents: K >= 1; None: as many as there are hyperparameters or keys, or one. With one agent, the leaves of the state have no
            dimension for agents.
        hparams: numbers [K] for each agent, by the name of a hyperparameter that is not a static field; None: those of ``algo.config``,
            or of the resumed run.
        population: a :class:`funrl.populations.Population` of ``algo``, which has the number of agents and their hyperparameters.
        diverged: ``"stop"`` the run when the first agent diverges, or ``"continue"`` it: :attr:`Result.diverged` says which agent diverged
            and when, and the others are as without it.
        group: the processes that train the agents; each calls this function with the same arguments. Their number has to divide the
            number of chunks. The result has the state of this process's agents, and the metrics and evaluations of all. Without hooks,
            collectors, host environments and exchange between agents. A learner of :func:`funrl.distributed.data_parallel` is one agent.
        chunk: C, the agents of a program; divides K. None: all agents of a process, or the chunk of the resumed run.
        collector: the source of experience for one agent; None: ``algo.env``. It has to act with ``algo.act``, its batches have to be
            [num_steps, num_envs] of the algorithm's configuration, and its ``total_frames`` -1, or enough for the run. It is
            not closed here.
        hooks: functions ``hook(step, state, metrics)`` to call after each update, or at the intervals of :func:`funrl.training.every`;
            :mod:`funrl.training.hooks` documents them and has ready-made ones.
        out: the folder of the run; created if missing. ``None``: nothing is written.
        resume: whether to continue the run in ``out`` from its last checkpoint. The configuration has to be the same, except that
            ``total_steps`` may be greater. If the algorithm has ``anneal_steps``, the learning rate is 0 beyond them, so they have to be
            at least ``total_steps``; they may be greater than before too, and then give the learning rate from there on. A finished run
            is only evaluated, and a run without a checkpoint starts from the beginning.
        evaluate_episodes: the number of episodes of each agent's final evaluation, without exploration; 0: none.
        checkpoint_every: the seconds between two checkpoints, at least 0. There is also one after the first update and one at the end.
        progress: whether to show on stderr that the step is compiling, and then a progress bar.
        backend: as for :func:`funrl.compile`; a resumed run uses its first backend again, which ``config.json`` names.
        notes: further entries for ``config.json``, such as the seed; a resumed run has to give the same.

    Returns:
        A :class:`Result`.

    Raises:
        RunError: a ValueError: if an argument is out of its range; if ``out`` cannot be written, contains another run, or is in use by
            another process; with ``resume``, if it contains no run, one with another configuration, or one that lost its checkpoint.
            Nothing has been written then.
        funrl.checkpoint.CheckpointError: if the checkpoint to resume from is damaged or of another run. Nothing has been written.
        KeyboardInterrupt: after Ctrl-C.
        Diverged: if a loss or a parameter is not finite, unless ``diverged`` is "continue". The last checkpoint stays.
        OSError: if the folder becomes unwritable later.

    Warns:
        UserWarning: if metrics of updates before the checkpoint to resume from are missing.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> result = train(algo, funrl.random.key(0), 48, evaluate_episodes=0, progress=False, backend="eager")
        >>> result.updates, result.steps, sorted(result.metrics)[:2]
        (3, 48, ['approximate_kl', 'clip_fraction'])
    """
    _check_arguments(algo, key, total_steps, num_agents, evaluate_episodes, checkpoint_every, out, resume, diverged)
    called, folder = calling.flatten(hooks), None if out is None else Folder(out)
    before = runs.read_config(folder.path) if folder is not None and resume else None
    agents = gathered(algo, key, num_agents, hparams, population, before)
    num_agents = agents.num_agents
    chunk = before.get("chunk") if before is not None and chunk is None else chunk
    proceed, notes = diverged == "continue", notes or {}
    job = Job(algo, key, total_steps, agents, folder, resume, evaluate_episodes, checkpoint_every, progress, proceed, backend, notes)
    if _is_sharded(algo, num_agents, group, chunk):
        _check_sharded({"hooks": called, "collector": collector, "env": algo.host, "population": agents.exchange})
        from funrl.training._sharded import train_sharded  # here, because it loads sockets and worker processes

        return train_sharded(job, group, chunk)
    _check_sources(algo, collector, num_agents)
    with contextlib.ExitStack() as stack:
        started = time.perf_counter()
        keys = agent_keys(key, num_agents)
        state = agents.begin(algo, keys)
        job = job.with_backend()
        stack.enter_context(compiler.using(job.backend))
        source = _source(job, keys, state, collector)
        load = functools.partial(_loaded, job, source, state)
        start = enter(job, {"collector": experience.kind_of(collector)}, Start(state, diverged=[0] * num_agents), stack, load)
        log = begin_log(job, start, stack)
        result = _updates(job, keys, source, start, called, log, lambda: start.seconds + time.perf_counter() - started)
        if evaluate_episodes:
            result = result._replace(evaluation=evaluate_agents(algo, result.state, key, evaluate_episodes, num_agents=num_agents))
        finish(job, result.evaluation, log)
    return result


def _loaded(job: Job, source: experience.Experience, like: Any, longer: bool) -> Start | None:
    if job.folder is None or not job.folder.checkpoint.exists():
        return None
    loaded, meta = load_checkpoint(job.folder, source.kept(like))
    state, remark = source.resume(loaded, meta["update"])
    state = anneal_longer(state, job.algo.config.anneal_steps) if longer else state
    return Start(state, meta["update"], meta["seconds"], meta["compile_seconds"], remark, meta.get("diverged"))


def _source(job: Job, keys: torch.Tensor, state: Any, collector: Any) -> experience.Experience:
    algo, agents = job.algo, job.agents
    if agents.exchange is not None:
        return experience.exchanging(algo, agents.exchange, state, job.backend)
    if collector is not None:
        return experience.collected(algo, collector, job.backend)
    return experience.on_the_host(algo, keys) if algo.host else experience.pure(algo, agents.num_agents, job.backend)


def _is_sharded(algo: Algorithm, num_agents: int, group: "Group | None", chunk: int | None) -> bool:
    """Return whether the agents are in chunks, or in several processes."""
    if group is not None:
        from funrl import distributed

        if not isinstance(group, distributed.Group):
            raise RunError(f"group: expected that of distributed.join, got {group!r}")
    processes = algo.given.get("processes")
    if processes is not None and (num_agents, processes) != (1, 1 if group is None else group.size):
        raise RunError(f"group: the algorithm is one agent in {processes} processes of data_parallel; give its group, and one agent")
    return chunk is not None or processes is not None or (group is not None and group.size > 1)


def _check_sharded(given: dict[str, Any]) -> None:
    """Raise if an argument was given that does not go with chunks of agents."""
    what = next((name for name, value in given.items() if value), None)
    if what is not None:
        raise RunError(f"{what}: not with chunks of agents, which may be in several processes; leave group and chunk out")


def _updates(
    job: Job,
    keys: torch.Tensor,
    source: experience.Experience,
    start: Start,
    hooks: list[tuple[int, calling.Hook]],
    log: Log,
    seconds: Callable[[], float],
) -> Result:
    """Do the updates that are left, with their hooks, metrics and checkpoints."""
    algo, folder, num_updates = job.algo, job.folder, job.num_updates
    state, number, stopped = start.state, start.update, None
    metrics: dict[str, torch.Tensor] = {}
    begun, compiling, last_save, interrupt = seconds(), 0.0, -math.inf, Interrupt()
    try:
        for number in range(start.update + 1, num_updates + 1):
            state, metrics = source.update(keys, torch.tensor(number, device=keys.device), state)
            log.add(number, seconds(), metrics)
            if number == start.update + 1:
                log.flush()
                compiling = seconds() - begun
                log.start_bar(num_updates, compiling)
                interrupt.wait_for_update()
            step = number * algo.steps_per_update
            if hooks:
                state, stopped = calling.call(hooks, step - algo.steps_per_update, step, state, metrics)
            due = folder is not None and seconds() - last_save >= job.checkpoint_every
            if due or number == num_updates or interrupt.asked or stopped:
                log.flush()
                log.check_parameters(number, bad_parameters(state.learner.params, log.num_agents), number == num_updates)
                if folder is not None:
                    log.sync()
                    meta = {"update": number, "seconds": seconds(), "compile_seconds": start.compile_seconds + compiling}
                    meta |= {"diverged": log.diverged} if log.diverged is not None else {}
                    checkpoint.save(source.kept(state), folder.checkpoint, meta)
                    log.saved, last_save = number, seconds()
            if interrupt.asked:
                raise KeyboardInterrupt
            if stopped:
                log.say(f"stopped after {step:,} steps: {stopped}")
                break
    finally:
        interrupt.restore()
        log.close()
    steps, compiling = number * algo.steps_per_update, start.compile_seconds + compiling
    return Result(state, metrics, None, number, steps, seconds(), compiling, stopped, tuple(log.diverged or ()))


def _check_arguments(
    algo: Algorithm,
    key: Any,
    total_steps: int,
    num_agents: int | None,
    evaluate_episodes: int,
    checkpoint_every: float,
    out: Any,
    resume: bool,
    diverged: str,
) -> None:
    if not isinstance(algo, Algorithm):
        raise RunError(f"train: algo: expected an Algorithm, got {type(algo).__name__}; funrl.algos.make returns one")
    if not isinstance(key, torch.Tensor) or key.dtype != torch.int64 or key.ndim > 1 or not key.numel():
        got = f"{str(key.dtype).removeprefix('torch.')} {list(key.shape)}" if isinstance(key, torch.Tensor) else repr(key)
        raise RunError(f"train: key: expected a key (int64 []) or a key for each agent ([K]), got {got}; funrl.random.key(seed) makes one")
    with checking():
        _check.integer("total_steps", total_steps, 1)
        _check.integer("num_agents", 1 if num_agents is None else num_agents, 1)
        _check.integer("evaluate_episodes", evaluate_episodes, 0)
        _check.one_of("diverged", diverged, ("stop", "continue"))
    if total_steps < algo.steps_per_update:
        raise RunError(
            f"total_steps: one update takes {algo.steps_per_update:,} steps, got {total_steps:,}; ask for more, or make updates smaller"
        )
    if not checkpoint_every >= 0:
        raise RunError(f"checkpoint_every: expected at least 0 seconds, got {checkpoint_every!r}")
    if resume and out is None:
        raise RunError("resume: out is None, so that there is no run to resume; give the folder of the run")


def _check_sources(algo: Algorithm, collector: Any, num_agents: int) -> None:
    if algo.host and num_agents > 1:
        what = f"{algo.env.name} runs outside torch" if algo.data is None else "a stream is read outside torch"
        raise RunError(f"num_agents: {what} and takes one agent, got {num_agents}; train one after another")
    if collector is None:
        return
    if not all(hasattr(collector, name) for name in ("__next__", "update_params", "state", "restore", "num_envs")):
        raise RunError(f"collector: expected one that funrl.collectors makes, got {type(collector).__name__}")
    if num_agents > 1:
        raise RunError(f"num_agents: a collector gathers for one agent, got {num_agents}; train one after another")
