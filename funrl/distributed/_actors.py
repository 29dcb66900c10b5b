"""Actors apart from the learner: rank 0 learns from the batches that the other ranks collect."""

import collections
import contextlib
import datetime
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist

from funrl import _check
from funrl.collectors import Answer, Collector, RemoteWorker, Transport, by_transport
from funrl.distributed._group import Group, brief, named_faults

__all__ = ["actors"]

# The pool of workers has its own patience for an answer; an actor that dies closes the connection.
_LONG = datetime.timedelta(days=7)
# A message without a request: the learner says that it lives, however long it learns.
_ALIVE = ()
_GRACE_SECONDS = 5.0


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
        DistributedError: on an actor, if rank 0 ends, or shows no sign of life for the ``timeout`` of the group.

    Example:
        >>> with actors(Group(), None, None, (), frames_per_batch=8) as collector:
        ...     pass
        Traceback (most recent call last):
        ...
        ValueError: distributed.actors: group: expected at least 2 processes, a learner and its actors, got 1

    Reference: as for :func:`funrl.collectors.asynchronous`.
    """
    _check.instance("distributed.actors: group", group, Group, "give that of distributed.join")
    if group.size < 2:
        raise ValueError(f"distributed.actors: group: expected at least 2 processes, a learner and its actors, got {group.size}")
    if group.rank:
        with named_faults(group):
            _serve(datetime.timedelta(seconds=group.timeout))
        yield None
        return
    transport = _Ranks(group)
    try:
        collector = by_transport(
            "distributed.actors",
            create_env,
            act,
            params,
            transport=lambda: transport,
            num_workers=group.size - 1,
            frames_per_batch=frames_per_batch,
            total_frames=total_frames,
            timeout=timeout,
            together=together,
            queue_size=queue_size,
            max_staleness=max_staleness,
            **options,
        )
        with collector:
            yield collector
    finally:
        transport.close()


def _send(value: Any, rank: int) -> list[Any]:
    """Begin to send an object; the result has to live until it has arrived."""
    data = torch.frombuffer(bytearray(cloudpickle.dumps(value)), dtype=torch.uint8)
    return [data, *(dist.isend(x, rank) for x in (torch.tensor([len(data)]), data))]


def _receive(rank: int, span: datetime.timedelta = _LONG) -> Any:
    length = torch.zeros(1, dtype=torch.int64)
    _wait_for([dist.irecv(length, rank)], span)
    data = torch.empty(int(length), dtype=torch.uint8)
    _wait_for([dist.irecv(data, rank)], span)
    return cloudpickle.loads(data.numpy().tobytes())


def _serve(span: datetime.timedelta) -> None:
    """Answer the requests of rank 0 until it has no more; ``span``: the longest time without a message."""
    worker = RemoteWorker()
    try:
        while (request := _receive(0, span)) is not None:
            if request == _ALIVE:
                continue
            sent = _send(worker.answer(*request), 0)
            _wait_for(sent[1:], span)
        sent = _send(None, 0)
        _wait_for(sent[1:], span)
    finally:
        torch.set_grad_enabled(True)
        worker.close()


def _wait_for(transfers: list[Any], span: datetime.timedelta) -> None:
    for work in transfers:
        work.wait(span)


class _Ranks(Transport):
    """Workers on the ranks 1, 2, ...; a thread for each receives its answers, and one sends signs of life."""

    restarts_workers = False

    def __init__(self, group: Group) -> None:
        self.group = group
        self.answers: queue.Queue[tuple[int, Answer]] = queue.Queue()
        self.asked: list[collections.deque[Any]] = [collections.deque() for _ in range(group.size - 1)]
        # Messages that may not have arrived, with their numbers. The answer to one shows that all earlier ones have.
        self.sent: list[collections.deque[Any]] = [collections.deque() for _ in range(group.size - 1)]
        self.number, self.closed = 0, threading.Event()
        self.lock = threading.Lock()  # a message is two transfers
        self.threads = [threading.Thread(target=self._listen, args=(worker,), daemon=True) for worker in range(group.size - 1)]
        self.alive = threading.Thread(target=self._live, daemon=True)
        for thread in (*self.threads, self.alive):
            thread.start()

    def _live(self) -> None:
        while not self.closed.wait(self.group.timeout / 4):
            for worker in range(self.group.size - 1):
                with contextlib.suppress(OSError):  # the thread that listens finds it too
                    self._tell(worker, _ALIVE)

    def _listen(self, worker: int) -> None:
        try:
            while (answer := _receive(worker + 1)) is not None:
                self.answers.put((worker, answer))
        except RuntimeError as error:
            self.answers.put((worker, Answer(lost=f"(rank {worker + 1}) has ended: {brief(error)}")))

    def connect(self, worker: int) -> None:
        """Do nothing, as the ranks run already."""

    def request(self, worker: int, method: str, *args: Any) -> None:
        self.asked[worker].append(self._tell(worker, (method, *args)))

    def _tell(self, worker: int, message: Any) -> int:
        try:
            with self.lock:
                self.number += 1
                self.sent[worker].append((self.number, _send(message, worker + 1)))
                return self.number
        except RuntimeError as error:
            raise OSError(f"rank {worker + 1}: {brief(error)}") from error

    def wait(self, seconds: float) -> list[tuple[int, Answer]]:
        answers = []
        with contextlib.suppress(queue.Empty):
            answers.append(self.answers.get(timeout=seconds))
            while True:
                answers.append(self.answers.get_nowait())
        for worker, answer in answers:
            if not answer.lost:
                number = self.asked[worker].popleft()
                with self.lock:
                    while self.sent[worker] and self.sent[worker][0][0] <= number:
                        self.sent[worker].popleft()
        return answers

    def close(self) -> None:
        if self.closed.is_set():
            return
        self.closed.set()
        self.alive.join()
        for worker in range(self.group.size - 1):
            with contextlib.suppress(OSError):
                self._tell(worker, None)
        deadline = time.monotonic() + _GRACE_SECONDS
        for thread in self.threads:  # others end when their actors have finished their batches
            thread.join(max(0.0, deadline - time.monotonic()))
