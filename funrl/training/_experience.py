"""The sources of a run's experience: a compiled program with pure environments, host environments, or a collector."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import random, tree
from funrl.acting import start
from funrl.algos import Algorithm, State
from funrl.checkpoint import CheckpointError
from funrl.compiler import compile
from funrl.populations import Exchange, PopulationState, advance
from funrl.runs import RunError
from funrl.training._agents import over_agents


class Experience(NamedTuple):
    """The functions with which the training loop updates, saves and resumes.

    Attributes:
        update: ``update(keys, number, state) -> (state, metrics)``; it may overwrite the tensors of ``state``.
        kept: ``kept(state)``: the tree that a checkpoint stores.
        resume: ``resume(loaded, number) -> (state, remark)``: continue from such a tree, of update ``number``; the remark is for the user.
    """

    update: Callable[[torch.Tensor, torch.Tensor, Any], tuple[Any, dict[str, torch.Tensor]]]
    kept: Callable[[Any], Any] = lambda state: state
    resume: Callable[[Any, int], tuple[Any, str]] = lambda loaded, number: (loaded, "")


def pure(algo: Algorithm, num_agents: int, backend: Any) -> Experience:
    """Return one compiled program for all agents. A checkpoint stores their state and nothing else."""
    return Experience(compile(over_agents(_step(algo), num_agents, (0, None, 0)), donate=2, backend=backend))


def exchanging(algo: Algorithm, exchange: Exchange, state: Any, backend: Any) -> Experience:
    """Return one compiled program for all agents and their exchange. A checkpoint stores the pair of their state and its memory."""
    memory = exchange.init(state)

    def advanced(keys: torch.Tensor, number: torch.Tensor, whole: PopulationState) -> Any:
        return advance(algo, exchange, torch.func.vmap(lambda k: random.fold_in(k, number))(keys), whole)

    program = compile(advanced, donate=2, backend=backend)

    def update(keys: torch.Tensor, number: torch.Tensor, state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        nonlocal memory
        whole, metrics = program(keys, number, PopulationState(state, memory))
        memory = whole.memory
        return whole.agents, metrics

    def resume(loaded: tuple[Any, Any], number: int) -> tuple[Any, str]:
        nonlocal memory
        state, memory = loaded
        return state, ""

    return Experience(update, lambda state: (state, memory), resume)


def on_the_host(algo: Algorithm, key: torch.Tensor) -> Experience:
    """Return a step that is not compiled. The environments end with the process, so that a resumed run starts new episodes."""
    if algo.data is not None:
        return Experience(_step(algo))  # batches of files: nothing ends with the process

    def resume(state: Any, number: int) -> tuple[Any, str]:
        learner = state.learner.in_new_episodes()
        new_key = random.fold_in(random.fold_in(key, -2), number)
        actor = start(new_key, getattr(learner, "env_params", None), env=algo.env, act=algo.act, params=learner.params)
        return State(actor, learner), (
            f"{algo.env.name} runs outside torch and ended with its process: new episodes begin, and all else continues; "
            "a synchronous collector can resume within episodes"
        )

    return Experience(_step(algo), resume=resume)


def collected(algo: Algorithm, collector: Any, backend: Any) -> Experience:
    """Return a compiled learning step on a collector's batches. The parameters are published before each batch."""
    learn = compile(lambda k, number, learner, batch: algo.learn(random.fold_in(k, number), learner, batch), donate=2, backend=backend)
    checked = False

    def update(k: torch.Tensor, number: torch.Tensor, state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        nonlocal checked
        collector.update_params(state.learner.params)
        try:
            batch = next(collector)
        except StopIteration:
            raise RunError(
                f"collector: it ended after {collector.frames:,} frames, before the run did; make it with total_frames=-1"
            ) from None
        if not checked:
            _check_batch(batch, algo)
            checked = True
        staleness = collector.version - batch.version.max()
        staleness = staleness.to(batch.return_so_far.to(k.device))
        learner, metrics = learn(k, number, state.learner, tree.to(batch.transition, k.device))
        return State(state.actor, learner), {**metrics, "staleness": staleness}

    def kept(state: Any) -> tuple[Any, Any]:
        return state, collector.state()

    def resume(loaded: tuple[Any, Any], number: int) -> tuple[Any, str]:
        state, inside = loaded
        try:
            collector.restore(inside)
        except ValueError as error:
            raise CheckpointError(f"the checkpoint is not of this collector: {error}") from error
        lost = collector.lost_frames
        return state, f"{lost:,} frames that were in flight at the checkpoint are collected again" if lost else ""

    return Experience(update, kept, resume)


def kind_of(collector: Any) -> str | None:
    """Return the name of a collector in ``config.json``, such as ``"synchronous"``.

    Example:
        >>> kind_of(None) is None
        True
    """
    return None if collector is None else type(collector).__name__.lstrip("_").lower()


def _step(algo: Algorithm) -> Callable[..., Any]:
    return lambda k, number, state: algo.step(random.fold_in(k, number), state)


def _check_batch(batch: Any, algo: Algorithm) -> None:
    """Raise a RunError unless a batch has the shape [T, B] that ``algo`` learns from."""
    count, config = batch.step_count, algo.config
    if not bool(((count[1:] == count[:-1] + 1) | (count[1:] == 0)).all()):
        raise RunError("collector: expected batches [T, B], with time first; make it with split_trajectories=False")
    if tuple(count.shape) != (config.num_steps, config.num_envs):
        raise RunError(
            f"collector: expected batches [{config.num_steps}, {config.num_envs}] (num_steps by num_envs of {algo.name}), got "
            f"{list(count.shape)}; make it with frames_per_batch={algo.steps_per_update}, and with as many copies of the environment"
        )
