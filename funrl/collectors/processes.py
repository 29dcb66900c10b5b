"""Collectors whose environments are stepped by worker processes: all on one batch, or each on batches of its own."""

import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch

from funrl import random, tree
from funrl.collectors.collector import Collector, CollectorState
from funrl.collectors.fleet import Done, Fleet
from funrl.collectors.ledger import Collected, Ledger
from funrl.collectors.memory import Published, spec
from funrl.env import Env, HostError, Place

__all__ = ["asynchronous", "synchronous"]

CreateEnv = Callable[[], Env]


def synchronous(
    create_env: CreateEnv | Sequence[CreateEnv],
    act: Any,
    params: Any,
    *,
    num_workers: int,
    frames_per_batch: int,
    total_frames: int,
    max_frames_per_traj: int = -1,
    split_trajectories: bool = False,
    device: torch.device | str | None = None,
    policy_device: torch.device | str | None = None,
    env_params: Any = None,
    key: torch.Tensor | None = None,
    restart_workers: bool = False,
    timeout: float = 60.0,
) -> Collector:
    """Collect with worker processes that make each batch together.

    A batch is begun when it is asked for, with the parameters that were published last; between batches the workers wait. The same
    key gives the same batches, however fast each worker is, and whether or not one was lost and replaced.

    Args:
        create_env: a function that returns an :class:`~funrl.env.Env`, single or batched, in the worker; it travels by cloudpickle, so that
            a lambda will do. Or a list of them, one for each worker.
        act: ``act(params, key, observation) -> (action, extras)`` for a single observation, or a :class:`funrl.policies.StatefulPolicy`.
            None: random actions.
        params: what ``act`` takes, a tree of tensors; may be ().
        num_workers: W, how many processes.
        frames_per_batch: how many steps a batch has, over all B copies of all workers, of which it is a multiple: T = frames / B.
        total_frames: after how many steps it ends, with a whole batch; -1: never.
        max_frames_per_traj: after how many steps an episode is truncated; -1: by its environment only.
        split_trajectories: whether a batch is cut where episodes end: a row [T] for each, padded, in place of [T, B].
        device: where batches go; None: to the CPU.
        policy_device: where ``act`` runs, in each worker; None: on the CPU.
        env_params: the physical constants of the environments, such as ``state.learner.env_params``; None: their ``default_params``.
        key: int64 [], from which all resets and actions come; ``random.key(0)`` by default.
        restart_workers: whether a worker that dies or hangs is replaced: a new one replays the running episodes, which takes a
            deterministic environment, and makes the batch again.
        timeout: how many seconds one step or reset of a worker's environment may take before it is taken for lost.

    Returns:
        A :class:`Collector`.

    Raises:
        TypeError: if ``create_env`` or ``act`` cannot be sent to a process, or ``params`` holds something else than tensors.
        ValueError: if a number is out of range, or ``frames_per_batch`` no multiple of the copies.
        HostError: here or when a batch is asked for, if an environment or ``act`` raises, dies, hangs or returns NaN; it names the worker.
            All processes are ended then.

    Example:
        >>> import funrl
        >>> create_env = lambda: funrl.envs.gymnasium.make("Pendulum-v1", num_envs=3)
        >>> with synchronous(create_env, None, (), num_workers=1, frames_per_batch=30, total_frames=60) as collector:
        ...     for batch in collector:
        ...         print(batch.transition.reward.shape, batch.step_count[-1])
        torch.Size([10, 3]) tensor([9, 9, 9])
        torch.Size([10, 3]) tensor([19, 19, 19])
    """
    return _Synchronous(
        "collectors.synchronous",
        create_env,
        act,
        params,
        num_workers=num_workers,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        max_frames_per_traj=max_frames_per_traj,
        split_trajectories=split_trajectories,
        device=device,
        policy_device=policy_device,
        env_params=env_params,
        key=key,
        restart_workers=restart_workers,
        timeout=timeout,
    )


def asynchronous(
    create_env: CreateEnv | Sequence[CreateEnv],
    act: Any,
    params: Any,
    *,
    num_workers: int,
    frames_per_batch: int,
    total_frames: int,
    max_frames_per_traj: int = -1,
    split_trajectories: bool = False,
    device: torch.device | str | None = None,
    policy_device: torch.device | str | None = None,
    env_params: Any = None,
    key: torch.Tensor | None = None,
    restart_workers: bool = False,
    timeout: float = 60.0,
    queue_size: int = 2,
    max_staleness: int | None = None,
) -> Collector:
    """Collect with worker processes that each make batches of their own, while the learner learns from others.

    A batch is of one worker: T = ``frames_per_batch`` divided by its copies. They come in the order in which they are finished. Each is
    made with the parameters that were the latest when it was begun; how many versions these are behind when it is handed over is its
    staleness. A learner that publishes once a batch keeps it below ``num_workers * queue_size``, if all workers are equally fast.

    Args:
        create_env: as for :func:`synchronous`.
        act: likewise.
        params: likewise.
        num_workers: likewise.
        frames_per_batch: how many steps a batch has; a multiple of the copies of each worker.
        total_frames: as for :func:`synchronous`.
        max_frames_per_traj: likewise.
        split_trajectories: likewise.
        device: likewise.
        policy_device: likewise.
        env_params: likewise.
        key: likewise; what a worker draws for its n-th batch is always the same, but the order of batches and their parameters are not.
        restart_workers: likewise.
        timeout: likewise.
        queue_size: how many batches each worker makes before the first of them is taken; then it waits.
        max_staleness: a batch that is more versions behind is not handed over but counted in ``discarded_frames``, and does not count
            towards ``total_frames``; ``num_workers * queue_size`` by default. At least 0.

    Returns:
        A :class:`Collector`.

    Raises:
        TypeError: as :func:`synchronous`.
        ValueError: likewise.
        HostError: likewise.

    Example:
        >>> import funrl
        >>> create_env = lambda: funrl.envs.gymnasium.make("Pendulum-v1", num_envs=3)
        >>> with asynchronous(create_env, None, (), num_workers=1, frames_per_batch=60, total_frames=120) as collector:
        ...     for batch in collector:
        ...         collector.update_params(())
        ...         print(batch.transition.reward.shape, int(batch.version.max()) <= collector.version)
        torch.Size([20, 3]) True
        torch.Size([20, 3]) True

    Reference: L. Espeholt et al., "IMPALA: scalable distributed deep-RL with importance weighted actor-learner architectures", 2018,
    arXiv:1802.01561.
    """
    what = "collectors.asynchronous"
    _check_count(what, "num_workers", num_workers)
    _check_count(what, "queue_size", queue_size)
    max_staleness = num_workers * queue_size if max_staleness is None else max_staleness
    _check_count(what, "max_staleness", max_staleness, 0)
    return _Asynchronous(
        what,
        create_env,
        act,
        params,
        num_workers=num_workers,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        max_frames_per_traj=max_frames_per_traj,
        split_trajectories=split_trajectories,
        device=device,
        policy_device=policy_device,
        env_params=env_params,
        key=key,
        restart_workers=restart_workers,
        timeout=timeout,
        num_slots=queue_size,
        max_staleness=max_staleness,
    )


class _Processes(Collector):
    """What both kinds share: the workers, what they are told, and what is made of their batches."""

    def __init__(
        self,
        what: str,
        create_env: Any,
        act: Any,
        params: Any,
        *,
        num_workers: int,
        frames_per_batch: int,
        total_frames: int,
        max_frames_per_traj: int,
        split_trajectories: bool,
        device: Any,
        policy_device: Any,
        env_params: Any,
        key: torch.Tensor | None,
        restart_workers: bool,
        timeout: float,
        num_slots: int = 1,
    ):
        key = random.key(0) if key is None else key
        super().__init__(what, act, params, key, frames_per_batch, total_frames, max_frames_per_traj, split_trajectories, device)
        _check_count(what, "num_workers", num_workers)
        if not isinstance(timeout, (int, float)) or not timeout > 0:
            raise ValueError(f"{what}: timeout: expected a number of seconds above 0, got {timeout!r}")
        create_envs = [create_env] * num_workers if callable(create_env) else list(create_env)
        if len(create_envs) != num_workers or not all(map(callable, create_envs)):
            raise ValueError(
                f"{what}: create_env: expected a function, or one for each of {num_workers} workers; got {create_env!r}; give lambda: env"
            )
        self._lock = threading.RLock()
        published = Published(spec(params))
        published.write(params, 0)
        self._fleet = Fleet(
            what,
            create_envs,
            act,
            key,
            published,
            device=None if policy_device is None else torch.device(policy_device),
            max_frames=max_frames_per_traj,
            env_params=None if env_params is None else tree.to(env_params, torch.device("cpu")),
            timeout=timeout,
            restart=restart_workers,
        )
        try:
            self._ledger = self._furnish(what, frames_per_batch, num_slots)
        except BaseException:
            self.close()
            raise
        self._fleet.part = self._ledger.part

    def _furnish(self, what: str, frames_per_batch: int, num_slots: int) -> Ledger:
        """Share the steps of a batch out among the copies of the workers, and give the workers the memory that they write to."""
        facts = self._fleet.facts
        copies = [each.num_envs or 1 for each in facts]
        self._batch_copies = self._shared_out(copies)
        for num in self._batch_copies:
            if frames_per_batch % num:
                whose = "all workers have" if len(set(self._batch_copies)) == 1 and num != copies[0] else "a worker has"
                raise ValueError(f"{what}: frames_per_batch: expected a multiple of the {num} copies that {whose}, got {frames_per_batch}")
        steps = [frames_per_batch // num for num in self._batch_copies]
        self._fleet.furnish(steps, num_slots)
        limit = max(each.max_episode_steps for each in facts)
        return Ledger(copies, steps, facts[0].transition.action, facts[0].after, limit)

    def close(self) -> None:
        self._fleet.close()

    @property
    def restarts(self) -> int:
        return self._fleet.restarts

    @property
    def processes(self) -> tuple[int, ...]:
        return tuple(seat.process.pid for seat in self._fleet.seats)

    @abstractmethod
    def _shared_out(self, copies: list[int]) -> list[int]:
        """Return for each worker how many copies make a batch that it has a part in."""

    def _gather(self, dones: list[Done]) -> Collected:
        """Make a batch of what lies in memory: one copy of it, which takes it to its device."""
        slots = [self._fleet.slot(done) for done in dones]
        parts = [slot["transition"] for slot in slots]
        if self._device is not None and self._device.type != "cpu":
            parts = [tree.to(part, self._device) for part in parts]
        elif len(parts) == 1:
            parts = [tree.clone(parts[0])]
        transition = parts[0] if len(parts) == 1 else tree.cat(parts, 1)
        books = []
        for done, slot in zip(dones, slots, strict=True):
            played, expected = slot["transition"], int(self._ledger.state.batches[done.worker])
            if done.number != expected:
                raise HostError(
                    f"{self._what}: worker {done.worker} gave its batch {done.number} where {expected} was due; make the collector anew"
                )
            books.append(self._ledger.enter(done.worker, played.reward, played.done, played.action, slot["after"]))
        step_count, return_so_far, traj_ids = (torch.cat(columns, 1).to(self._device) for columns in zip(*books, strict=True))
        for done in dones:
            self._fleet.take(done)
        self.staleness = self.version - dones[0].version
        return Collected(
            transition=transition.replace(place=Place(traj_ids, step_count, return_so_far)),
            step_count=step_count,
            return_so_far=return_so_far,
            traj_ids=traj_ids,
            mask=torch.ones_like(step_count, dtype=torch.bool),
            version=torch.full_like(step_count, dones[0].version),
        )

    def _publish(self, params: Any, version: int) -> None:
        if self._fleet.closed:
            raise HostError(f"{self._what} is closed; make it anew")
        with self._lock:
            self._fleet.published.write(params, version)

    def _resume(self, state: CollectorState) -> None:
        with self._lock:
            self._fleet.drop()
            self._ledger.restore(state.ledger)
            self._fleet.published.renumber(int(state.version))
            self._fleet.restore()


class _Synchronous(_Processes):
    """One batch at a time, of all workers."""

    def _shared_out(self, copies: list[int]) -> list[int]:
        return [sum(copies)] * len(copies)

    def _collect(self) -> Collected:
        with self._lock:  # nothing is published in mid-batch
            for worker, number in enumerate(self._ledger.state.batches.tolist()):
                self._fleet.ask(worker, 0, number)
            return self._gather(sorted(self._fleet.next(len(self._ledger.columns))))


class _Asynchronous(_Processes):
    """Batches of each worker, as they are finished; each slot that is free is filled."""

    def __init__(self, *args: Any, num_slots: int, max_staleness: int, **options: Any):
        self._num_slots, self._max_staleness = num_slots, max_staleness
        super().__init__(*args, num_slots=num_slots, **options)
        self._asked: Any = None  # the number of the next batch to ask each worker for; None: of none yet

    def _shared_out(self, copies: list[int]) -> list[int]:
        return copies

    def _collect(self) -> Collected:
        if self._asked is None:
            self._asked = self._ledger.state.batches.tolist()
            for slot in range(self._num_slots):
                for worker in range(len(self._asked)):
                    self._ask(worker, slot)
        while True:
            (done,) = self._fleet.next()
            stale = self.version - done.version > self._max_staleness
            batch = self._gather([done])
            self._ask(done.worker, done.slot)
            if not stale:
                return batch
            self.discarded_frames += batch.mask.numel()

    def _ask(self, worker: int, slot: int) -> None:
        self._fleet.ask(worker, slot, self._asked[worker])
        self._asked[worker] += 1

    def _in_flight(self) -> int:
        if self._asked is None:
            return 0
        behind = torch.tensor(self._asked) - self._ledger.state.batches
        return int(behind.sum()) * self._frames_per_batch

    def _resume(self, state: CollectorState) -> None:
        self._asked = None
        super()._resume(state)


def _check_count(what: str, name: str, number: Any, least: int = 1) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"{what}: {name}: expected an integer of at least {least}, got {number!r}")
