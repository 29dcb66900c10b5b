"""Collectors with worker processes: all workers contribute to one batch, or each worker makes complete batches."""

import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.collectors._collector import Collector, CollectorState
from funrl.collectors._local import LocalWorkers
from funrl.collectors._memory import spec
from funrl.collectors._messages import Transport
from funrl.collectors._pool import FinishedBatch, Pool
from funrl.collectors._tracker import Collected, EpisodeTracker
from funrl.collectors._worker import WorkerSpec
from funrl.env import AnyEnv, HostError, Place

CreateEnv = Callable[[], AnyEnv]


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

    A batch is collected when it is requested, with the latest parameters; between batches the workers wait. The same key gives the same
    batches, however fast the workers are, and also if a worker was lost and replaced.

    Args:
        create_env: a function that returns a :class:`~funrl.env.VectorEnv`, or an :class:`~funrl.env.Env`, which counts as one copy; each
            worker calls it. Or a list of such functions, one for each worker. cloudpickle sends them, so a lambda is allowed.
        act: ``act(params, key, observation) -> (action, extras)`` for a single observation, or a :class:`funrl.policies.StatefulPolicy`.
            None: random actions.
        params: the parameters of ``act``, a tree of tensors; may be ().
        num_workers: W, the number of processes.
        frames_per_batch: the number of steps in a batch [T, B], T * B; a multiple of B, the copies of all workers together.
        total_frames: the number of steps after which the iteration ends, rounded up to whole batches; -1: never.
        max_frames_per_traj: the number of steps after which an episode is truncated; -1: only its environment truncates.
        split_trajectories: whether a batch is cut where episodes end: one padded row [T] for each trajectory instead of [T, B].
        device: the device of the batches; None: the CPU.
        policy_device: the device of ``act`` in each worker; None: the CPU.
        env_params: the physical constants of the environments, such as ``state.learner.env_params``; None: their ``default_params``.
        key: int64 [], the source of all random numbers of resets and actions; ``random.key(0)`` by default.
        restart_workers: whether to replace a worker that dies or hangs. The new worker replays the actions of the running episodes,
            and collects the batch again. If an environment is not deterministic, so that the replay differs, this is an error.
        timeout: the number of seconds that one step or reset of an environment may take before its worker counts as lost.

    Returns:
        A :class:`Collector`.

    Raises:
        TypeError: if ``create_env`` or ``act`` cannot be sent to a process, or a leaf of ``params`` is not a tensor.
        ValueError: if a number is out of range, or ``frames_per_batch`` is not a multiple of the number of copies.
        HostError: here or when a batch is requested, if an environment or ``act`` raises, dies, hangs or returns NaN. It names the worker,
            and all processes have ended.

    Example:
        >>> import funrl
        >>> create_env = lambda: funrl.envs.gymnasium.make("Pendulum-v1", num_envs=3)
        >>> with synchronous(create_env, None, (), num_workers=1, frames_per_batch=30, total_frames=60) as collector:
        ...     for batch in collector:
        ...         print(batch.transition.reward.shape, batch.step_count[-1])
        torch.Size([10, 3]) tensor([9, 9, 9])
        torch.Size([10, 3]) tensor([19, 19, 19])
    """
    return Synchronous("collectors.synchronous", **locals())


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
    """Collect with worker processes that each make complete batches, while the learner learns from earlier ones.

    A batch [T, B] comes from one worker with B copies. Batches are delivered in the order in which they are finished. A worker uses the
    parameters that are the latest when it begins a batch. The staleness of a batch is the number of newer versions at its delivery. If
    the learner calls ``update_params`` once for each batch and all workers are equally fast, the staleness stays below
    ``num_workers * queue_size``.

    Args:
        frames_per_batch: the number of steps of a batch; a multiple of the copies of each worker.
        key: as for :func:`synchronous`. With the same key the n-th batch of a worker has the same random numbers, but the order of
            batches, and the parameters that acted, depend on time.
        queue_size: the number of finished batches that a worker may have before it waits.
        max_staleness: the largest staleness of a delivered batch, at least 0; ``num_workers * queue_size`` by default. Batches that are
            staler are dropped; they count in ``discarded_frames`` and not in ``total_frames``.
        create_env: as for :func:`synchronous`, like all other arguments that are not described here.

    Returns:
        A :class:`Collector`.

    Raises:
        TypeError, ValueError, HostError: as :func:`synchronous`.

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
    return Asynchronous("collectors.asynchronous", **locals())


def by_transport(what: str, *args: Any, together: bool, queue_size: int, max_staleness: int | None, **options: Any) -> Collector:
    """Return a collector with workers behind a transport, whose batches are made ``together`` or by each worker alone.

    Args:
        what: the name of the collector, for messages.
        *args, together, queue_size, max_staleness, **options: as for :func:`funrl.collectors.ray`; and ``transport``, a function
            that returns a Transport.
    """
    if together:
        return Synchronous(what, *args, **options)
    return Asynchronous(what, *args, queue_size=queue_size, max_staleness=max_staleness, **options)


class Processes(Collector):
    """A collector with a worker pool: the base class of both kinds."""

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
        max_frames_per_traj: int = -1,
        split_trajectories: bool = False,
        device: Any = None,
        policy_device: Any = None,
        env_params: Any = None,
        key: torch.Tensor | None = None,
        restart_workers: bool = False,
        timeout: float = 60.0,
        transport: Callable[[], Transport] | None = None,
        num_slots: int = 1,
    ):
        key = random.key(0) if key is None else key
        super().__init__(what, act, params, key, frames_per_batch, total_frames, max_frames_per_traj, split_trajectories, device)
        _check.integer(f"{what}: num_workers", num_workers, 1)
        _check.number(f"{what}: timeout", timeout, "(0, inf]", "give seconds")
        create_envs: list[Any] = [create_env] * num_workers if callable(create_env) else list(create_env)
        if len(create_envs) != num_workers or not all(map(callable, create_envs)):
            raise ValueError(
                f"{what}: create_env: expected a function, or one for each of {num_workers} workers; got {create_env!r}; give lambda: env"
            )
        self._lock = threading.RLock()
        policy_device = None if policy_device is None else torch.device(policy_device)
        env_params = None if env_params is None else tree.to(env_params, torch.device("cpu"))
        specs = [
            WorkerSpec(i, each, act, key.cpu(), spec(params), policy_device, max_frames_per_traj, env_params)
            for i, each in enumerate(create_envs)
        ]
        workers = LocalWorkers(num_workers) if transport is None else transport()
        self._pool = Pool(what, specs, params, workers, timeout=timeout, restart=restart_workers)
        try:
            self._tracker = self._allocate(what, frames_per_batch, num_slots)
        except BaseException:
            self.close()
            raise
        self._pool.resume_point = self._tracker.resume_point

    def _allocate(self, what: str, frames_per_batch: int, num_slots: int) -> EpisodeTracker:
        """Divide the steps of a batch among the copies of the workers, and give the workers the memory that they write to."""
        facts = self._pool.facts
        copies = [each.num_envs for each in facts]
        self._batch_copies = self._copies_per_batch(copies)
        for num in self._batch_copies:
            if frames_per_batch % num:
                whose = "all workers have" if len(set(self._batch_copies)) == 1 and num != copies[0] else "a worker has"
                raise ValueError(f"{what}: frames_per_batch: expected a multiple of the {num} copies that {whose}, got {frames_per_batch}")
        steps = [frames_per_batch // num for num in self._batch_copies]
        self._pool.allocate(steps, num_slots)
        limit = max(each.max_episode_steps for each in facts)
        return EpisodeTracker(copies, steps, facts[0].transition.action, facts[0].after, limit)

    def close(self) -> None:
        self._pool.close()

    @property
    def restarts(self) -> int:
        return self._pool.restarts

    @property
    def processes(self) -> tuple[int, ...]:
        return self._pool.transport.processes

    @abstractmethod
    def _copies_per_batch(self, copies: list[int]) -> list[int]:
        """Return, for each worker, the number of copies in the batches that it contributes to."""

    def _gather(self, finished: list[FinishedBatch]) -> Collected:
        """Assemble a batch from the slots of the workers: copy it to the device of the batches, and free the slots."""
        slots = [self._pool.slot(done) for done in finished]
        parts = [slot["transition"] for slot in slots]
        if self._device is not None and self._device.type != "cpu":
            parts = [tree.to(part, self._device) for part in parts]
        elif len(parts) == 1:
            parts = [tree.clone(parts[0])]
        transition = parts[0] if len(parts) == 1 else tree.cat(parts, 1)
        counts = []
        for done, slot in zip(finished, slots, strict=True):
            played, expected = slot["transition"], int(self._tracker.state.batches[done.worker])
            if done.number != expected:
                raise HostError(
                    f"{self._what}: worker {done.worker} gave its batch {done.number}, but {expected} was expected; make a new collector"
                )
            counts.append(self._tracker.record(done.worker, played.reward, played.done, played.action, slot["after"]))
        step_count, return_so_far, traj_ids = (torch.cat(columns, 1).to(self._device) for columns in zip(*counts, strict=True))
        for done in finished:
            self._pool.take(done)
        self.staleness = self.version - finished[0].version
        return Collected(
            transition=transition.replace(place=Place(traj_ids, step_count, return_so_far)),
            step_count=step_count,
            return_so_far=return_so_far,
            traj_ids=traj_ids,
            mask=torch.ones_like(step_count, dtype=torch.bool),
            version=torch.full_like(step_count, finished[0].version),
        )

    def _publish(self, params: Any, version: int) -> None:
        self._pool.check_open()
        with self._lock:
            self._pool.transport.published.write(params, version)

    def _resume(self, state: CollectorState) -> None:
        with self._lock:
            self._pool.drop()
            self._tracker.restore(state.tracker)
            self._pool.transport.published.renumber(int(state.version))
            self._pool.restore()


class Synchronous(Processes):
    """Collector that assembles each batch from all workers."""

    def _copies_per_batch(self, copies: list[int]) -> list[int]:
        return [sum(copies)] * len(copies)

    def _collect(self) -> Collected:
        with self._lock:  # no parameters are published in the middle of a batch
            for worker, number in enumerate(self._tracker.state.batches.tolist()):
                self._pool.ask(worker, 0, number)
            return self._gather(sorted(self._pool.next(len(self._tracker.columns))))


class Asynchronous(Processes):
    """Collector that delivers each worker's batches as they are finished, and requests one for each free slot."""

    def __init__(self, what: str, *args: Any, num_workers: int, queue_size: int, max_staleness: int | None, **options: Any):
        _check.integer(f"{what}: queue_size", queue_size, 1)
        if max_staleness is not None:
            _check.integer(f"{what}: max_staleness", max_staleness, 0)
        super().__init__(what, *args, num_workers=num_workers, num_slots=queue_size, **options)
        self._num_slots = queue_size
        self._max_staleness = num_workers * queue_size if max_staleness is None else max_staleness
        self._asked: Any = None  # the number of each worker's next batch to request; None before the first request

    def _copies_per_batch(self, copies: list[int]) -> list[int]:
        return copies

    def _collect(self) -> Collected:
        if self._asked is None:
            self._asked = self._tracker.state.batches.tolist()
            for slot in range(self._num_slots):
                for worker in range(len(self._asked)):
                    self._ask(worker, slot)
        while True:
            (done,) = self._pool.next()
            stale = self.version - done.version > self._max_staleness
            batch = self._gather([done])
            self._ask(done.worker, done.slot)
            if not stale:
                return batch
            self.discarded_frames += batch.mask.numel()

    def _ask(self, worker: int, slot: int) -> None:
        self._pool.ask(worker, slot, self._asked[worker])
        self._asked[worker] += 1

    def _in_flight(self) -> int:
        if self._asked is None:
            return 0
        behind = torch.tensor(self._asked) - self._tracker.state.batches
        return int(behind.sum()) * self._frames_per_batch

    def _resume(self, state: CollectorState) -> None:
        self._asked = None
        super()._resume(state)
