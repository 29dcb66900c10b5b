"""The pool of workers: requests and finished batches in order, and the replacement of lost workers."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cloudpickle

from funrl import tree
from funrl.collectors._messages import Transport
from funrl.collectors._tracker import ResumePoint
from funrl.collectors._worker import Answer, Facts, WorkerSpec
from funrl.env import HostError

# Seconds that a worker may take to start, in addition to ``timeout``: its imports take seconds, and more on a busy machine.
START_SECONDS = 120.0
# The maximum number of restarts of a worker without a finished batch between them: one that always fails at the same step is given up.
MAX_RESTARTS = 3


class FinishedBatch(NamedTuple):
    """A finished batch.

    Attributes:
        worker: the index of the worker.
        slot: the index of its slot in the worker's memory.
        number: its number among the worker's batches, from 0.
        version: the version of the parameters that made it.
        value: its bytes, if they are not in shared memory.
    """

    worker: int
    slot: int
    number: int
    version: int
    value: Any


class Pool:
    """The workers of one collector.

    Args:
        what: the name of the collector, for messages.
        specs: the specification of each worker.
        params: the first parameters.
        transport: the way to the workers.
        timeout: the seconds that one step or reset, or without heartbeats one batch, may take before its worker counts as lost.
        restart: whether to replace a lost worker.
    """

    def __init__(
        self,
        what: str,
        specs: Sequence[WorkerSpec],
        params: Any,
        transport: Transport,
        *,
        timeout: float,
        restart: bool,
    ):
        self.what, self.transport, self.timeout, self.restart = what, transport, timeout, restart
        self.specs = [_serialize(what, each) for each in specs]
        count = len(self.specs)
        self.facts: list[Any] = [None] * count  # Facts of the workers that are ready
        self.finished: deque[FinishedBatch] = deque()
        self.pending: list[list[tuple[int, int]]] = [[] for _ in range(count)]  # slots and numbers requested and not taken, in order
        self.asked: list[deque[tuple[Any, ...]]] = [deque() for _ in range(count)]  # requests without an answer, in order
        self.heartbeats: list[int | None] = [None] * count
        self.since = [0.0] * count  # the time of each worker's last sign of life
        self.failures = [0] * count  # restarts since the last batch
        self.restarts, self.closed = 0, False
        self.resume_point: Callable[[int], ResumePoint | None] = lambda worker: None
        self.steps: list[int] = []  # steps of each worker's batches, once memory is allocated
        transport.publish(params)
        try:
            for worker in range(count):
                self._request(worker, "start", self.specs[worker])
            while any(each is None for each in self.facts):
                self._poll()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all workers; a second call does nothing."""
        if not self.closed:
            self.closed = True
            self.transport.close()
            self.finished.clear()

    def allocate(self, steps: Sequence[int], num_slots: int) -> None:
        """Prepare for ``num_slots`` batches of each worker; ``steps`` holds the steps of each worker's batches."""
        self.steps, self.num_slots = list(steps), num_slots
        for worker in range(len(self.specs)):
            self._allocate(worker)

    def ask(self, worker: int, slot: int, number: int) -> None:
        """Request a batch from a worker. It collects the requested batches one after another."""
        self.pending[worker].append((slot, number))
        if not self._starts(worker):
            self._request(worker, "collect", slot, number)

    def next(self, num: int = 1) -> list[FinishedBatch]:
        """Wait for ``num`` batches, and return them in the order in which they were finished.

        Raises:
            HostError: if an environment raises, or a worker dies or hangs and is not replaced. All workers are stopped then.
        """
        while len(self.finished) < num:
            self._poll()
        return [self.finished.popleft() for _ in range(num)]

    def slot(self, batch: FinishedBatch) -> dict[str, Any]:
        """Return the tensors of a batch that :meth:`next` returned."""
        return self.transport.batch(batch.worker, batch.slot, batch.value, self.facts[batch.worker], self.steps[batch.worker])

    def take(self, batch: FinishedBatch) -> None:
        """Free the slot of a batch that has been read. A batch whose slot is not free is collected again if its worker is lost."""
        self.pending[batch.worker].remove((batch.slot, batch.number))

    def drop(self) -> None:
        """Wait until all workers are idle, and drop all requests."""
        self._wait_until_idle()
        self.finished.clear()
        for pending in self.pending:
            pending.clear()

    def restore(self) -> None:
        """Bring each worker to its resume point."""
        for worker in range(len(self.specs)):
            if not self._starts(worker):  # else it is done once the worker is ready
                self._request(worker, "restore", self.resume_point(worker))
        self._wait_until_idle()

    def check_open(self) -> None:
        """Raise a HostError if the workers were stopped."""
        if self.closed:
            raise HostError(f"{self.what} is closed; make a new one")

    def _starts(self, worker: int) -> bool:
        return bool(self.asked[worker]) and self.asked[worker][0][0] == "start"

    def _allocate(self, worker: int) -> None:
        self._request(worker, "allocate", self.facts[worker], self.steps[worker], self.num_slots)

    def _request(self, worker: int, method: str, *args: Any) -> None:
        """Call a method of the transport, which is a request to a worker."""
        self.check_open()
        if not self.asked[worker]:
            self.since[worker] = time.monotonic()
        self.asked[worker].append((method, *args))
        try:
            getattr(self.transport, method)(worker, *args)
        except OSError as error:
            raise self._failure(worker, f"it cannot be reached: {error}") from error

    def _wait_until_idle(self) -> None:
        while any(self.asked):
            self._poll()

    def _poll(self) -> None:
        """Read answers, and replace workers that have shown no sign of life for too long."""
        self.check_open()
        try:
            for worker, answer in self.transport.wait(min(1.0, self.timeout / 4)):
                self._read(worker, answer)
            now = time.monotonic()
            for worker, asked in enumerate(self.asked):
                heartbeat = self.transport.heartbeat(worker)
                if not asked or heartbeat != self.heartbeats[worker]:
                    self.heartbeats[worker], self.since[worker] = heartbeat, now
                patience = self.timeout + (START_SECONDS if self._starts(worker) else 0.0)
                if now - self.since[worker] > patience:
                    doing = "its start" if self._starts(worker) else f"a step or reset (number {heartbeat})"
                    how = "gave no answer for" if heartbeat is None else f"did not finish {doing} within"
                    self._replace(worker, f"{how} {patience:g} s")
        except BaseException:  # also an interrupt: later batches could be mistaken for earlier ones
            self.close()
            raise

    def _read(self, worker: int, answer: Answer) -> None:
        if answer.lost:
            self._replace(worker, answer.lost)
            return
        if answer.failed:
            raise self._failure(worker, answer.failed, answer.trace)
        (method, *args), self.since[worker] = self.asked[worker].popleft(), time.monotonic()
        if method == "start":
            self._ready(worker, answer.value)
        elif method == "collect":
            self.failures[worker] = 0
            self.finished.append(FinishedBatch(worker, *args, *answer.value))

    def _ready(self, worker: int, facts: Facts) -> None:
        """Note the facts about a worker's environment; a worker that replaces a lost one continues where that was."""
        _check_alike(self.what, facts, worker, self.facts)
        self.facts[worker] = facts
        if self.steps:
            self._allocate(worker)
            self._request(worker, "restore", self.resume_point(worker))
            for slot, number in self.pending[worker]:
                self._request(worker, "collect", slot, number)

    def _name(self, worker: int) -> str:
        """Return the name of a worker in messages."""
        processes, facts = self.transport.processes, self.facts[worker]
        process = f" (process {processes[worker]}{f', {facts.name}' if facts else ''})" if processes else ""
        return f"{self.what}: worker {worker}{process}"

    def _failure(self, worker: int, text: str, trace: str = "") -> HostError:
        """Return the error for an exception in a worker."""
        error = HostError(f"{self._name(worker)}: {text}; all workers were stopped: make a new collector")
        if trace:
            error.add_note(f"In the worker process:\n{trace}")
        return error

    def _replace(self, worker: int, how: str) -> None:
        """Start a lost worker again, or raise."""
        story = f"{self._name(worker)} {how}" + (f" in its batch {self.pending[worker][0][1]}" if self.pending[worker] else "")
        replaces = self.transport.restarts_workers
        if not (self.restart and replaces and self.steps):
            remedy = ", with restart_workers=True to replace it, or a longer timeout if it was only slow"
            remedy = remedy if replaces and not self.restart else ""
            raise HostError(f"{story}; all workers were stopped: make a new collector{remedy}")
        if self.failures[worker] == MAX_RESTARTS:
            raise HostError(f"{story}, for the {MAX_RESTARTS + 1}th time without finishing a batch; all workers were stopped")
        self.failures[worker] += 1
        self.restarts += 1
        # Its finished batches are requested again: the new worker starts after the last batch that was taken.
        self.finished = deque(batch for batch in self.finished if batch.worker != worker)
        self.asked[worker].clear()
        self._request(worker, "start", self.specs[worker])


def _check_alike(what: str, facts: Any, index: int, known: Sequence[Any]) -> None:
    first = next((each for each in known if each is not None), facts)
    mine, others = ({"transition": each.transition, "after": each.after} for each in (facts, first))
    if tree.structure(mine) != tree.structure(others) or tree.leaves(mine) != tree.leaves(others):
        raise ValueError(
            f"{what}: create_env: expected environments whose steps are alike; got {_describe(mine)} of {facts.name} "
            f"(worker {index}), and {_describe(others)} of {first.name}"
        )


def _describe(specs: Any) -> str:
    leaves = zip(tree.paths(specs), tree.leaves(specs), strict=True)
    return ", ".join(f"{path} {str(leaf.dtype).removeprefix('torch.')} {list(leaf.shape)}" for path, leaf in leaves)


def _serialize(what: str, worker_spec: WorkerSpec) -> bytes:
    """Return what cloudpickle writes of a worker's specification, or raise a TypeError that names the argument it cannot write."""
    try:
        return cloudpickle.dumps(worker_spec)
    except Exception as error:
        for name in ("create_env", "act", "env_params"):
            try:
                cloudpickle.dumps(getattr(worker_spec, name))
            except Exception as cause:
                raise TypeError(
                    f"{what}: {name}: it cannot be sent to a worker process ({type(cause).__name__}: {cause}); give a function that makes "
                    "its objects in the worker"
                ) from error
        raise
