"""Actors apart from the learner: rank 0 learns from the batches that the other ranks collect."""

import collections
import contextlib
import datetime
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist

from funrl.collectors import Answer, Collector, RemoteWorker, Transport, by_messages
from funrl.distributed._group import Group, brief

__all__ = ["actors"]

# An actor waits for the next request as long as the learner lives; a learner that dies closes the connection.
_LONG = datetime.timedelta(days=7)


@contextlib.contextmanager
def actors(
    group: Group,
    create_env: Any,
    act: Any,
    params: Any,
    *,
    frames_per_batch: int,
    total_frames: int = -1,
    together: bool = False,
    queue_size: int = 1,
    max_staleness: int | None = None,
    timeout: float = 60.0,
    **options: Any,
) -> Iterator[Collector | None]:
    """Context in which rank 0 has a collector whose workers are the other ranks.

    On the other ranks the context is entered when rank 0 leaves it, and gives None: they act until then, in environments of their own. The
    learner sends its latest parameters with each request of a batch. By default each actor makes complete batches, while the learner
    learns from those of others; :func:`funrl.train` adds how many versions a batch was behind to its metrics, as ``staleness``.

    Args:
        group: the processes, at least two.
        create_env: as for :func:`funrl.collectors.synchronous`; rank 0 sends it.
        act, params: as for :func:`funrl.collectors.synchronous`, such as ``algo.act`` and the parameters of a first state.
        frames_per_batch: the steps of a batch; a multiple of the copies that contribute to it.
        total_frames: the steps after which it ends; -1: never.
        together: whether all actors contribute to each batch, so that nothing is stale, as in
            :func:`funrl.collectors.synchronous`.
        queue_size: the batches that are requested from an actor at once, at least 1.
        max_staleness: the greatest staleness of a batch; those that are further behind are dropped. None: the number of actors times
            ``queue_size``.
        timeout: the seconds that a batch may take.
        **options: ``key``, ``device``, ``policy_device``, ``env_params``, ``max_frames_per_traj`` and ``split_trajectories``, as for
            :func:`funrl.collectors.synchronous`.

    Yields:
        A :class:`funrl.collectors.Collector` on rank 0, None elsewhere.

    Raises:
        ValueError: if there is only one process, or as :func:`funrl.collectors.synchronous`.
        HostError: on rank 0, if an actor raises, ends, or gives no batch in time.

    Example:
        >>> with actors(Group(), None, None, (), frames_per_batch=8) as collector:
        ...     pass
        Traceback (most recent call last):
        ...
        ValueError: distributed.actors: group: expected at least 2 processes, a learner and its actors, got 1

    Reference: as for :func:`funrl.collectors.asynchronous`.
    """
    if group.size < 2:
        raise ValueError(f"distributed.actors: group: expected at least 2 processes, a learner and its actors, got {group.size}")
    if group.rank:
        _serve()
        yield None
        return
    settings = {"max_frames_per_traj": -1, "split_trajectories": False, "device": None, "policy_device": None}
    settings |= {"env_params": None, "key": None, **options}
    transport = _Ranks(group)
    try:
        collector = by_messages(
            "distributed.actors",
            create_env,
            act,
            params,
            transport=lambda: transport,
            num_workers=group.size - 1,
            frames_per_batch=frames_per_batch,
            total_frames=total_frames,
            restart_workers=False,
            timeout=timeout,
            together=together,
            queue_size=queue_size,
            max_staleness=max_staleness,
            **settings,
        )
        with collector:
            yield collector
    finally:
        transport.close()


def _send(value: Any, rank: int) -> list[Any]:
    """Begin to send an object; the result has to live until it has arrived."""
    data = torch.frombuffer(bytearray(cloudpickle.dumps(value)), dtype=torch.uint8)
    return [data, *(dist.isend(x, rank) for x in (torch.tensor([len(data)]), data))]


def _receive(rank: int) -> Any:
    length = torch.zeros(1, dtype=torch.int64)
    _arrived(dist.irecv(length, rank))
    data = torch.empty(int(length), dtype=torch.uint8)
    _arrived(dist.irecv(data, rank))
    return cloudpickle.loads(data.numpy().tobytes())


def _arrived(work: Any) -> None:
    work.wait(_LONG)


def _serve() -> None:
    """Answer the requests of rank 0 until it has no more."""
    worker = RemoteWorker()
    try:
        while (request := _receive(0)) is not None:
            method, args = request
            try:
                answer = Answer(getattr(worker, method)(*args))
            except Exception as error:
                answer = Answer(failed=error)
            _wait_for(_send(answer, 0))
        _wait_for(_send(None, 0))
    finally:
        torch.set_grad_enabled(True)
        worker.close()


def _wait_for(sent: list[Any]) -> None:
    for work in sent[1:]:
        _arrived(work)


class _Ranks(Transport):
    """Workers on the ranks 1, 2, ...; a thread for each receives its answers."""

    restarts_workers = False

    def __init__(self, group: Group) -> None:
        self.group = group
        self.answers: queue.Queue[tuple[int, Answer | None]] = queue.Queue()
        self.asked: list[collections.deque[Any]] = [collections.deque() for _ in range(group.size - 1)]
        self.sent: list[collections.deque[Any]] = [collections.deque(maxlen=64) for _ in range(group.size - 1)]
        self.number, self.closed = 0, False
        self.threads = [threading.Thread(target=self._listen, args=(worker,), daemon=True) for worker in range(group.size - 1)]
        for thread in self.threads:
            thread.start()

    def _listen(self, worker: int) -> None:
        try:
            while (answer := _receive(worker + 1)) is not None:
                self.answers.put((worker, answer))
        except RuntimeError as error:
            self.answers.put((worker, Answer(lost=f"(rank {worker + 1}) has ended: {brief(error)}")))

    def start(self, worker: int) -> None:
        """Do nothing, as the ranks run already."""

    def send(self, value: Any) -> Any:
        return value

    def request(self, worker: int, method: str, *args: Any) -> Any:
        self.number += 1
        self.asked[worker].append((worker, self.number))
        self._tell(worker, (method, args))
        return worker, self.number

    def _tell(self, worker: int, message: Any) -> None:
        try:
            self.sent[worker].append(_send(message, worker + 1))
        except RuntimeError as error:
            raise OSError(brief(error)) from error

    def wait(self, requests: Sequence[Any], seconds: float) -> tuple[Any, Answer] | None:
        try:
            worker, answer = self.answers.get(timeout=seconds)
        except queue.Empty:
            return None
        assert answer is not None
        return self.asked[worker].popleft(), answer

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for worker in range(self.group.size - 1):
            with contextlib.suppress(OSError):
                self._tell(worker, None)
        for thread in self.threads:
            thread.join(self.group.timeout)
