"""Workers that may be on other machines: what they are asked, and a pool of them that speaks by messages."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch

from funrl.collectors._memory import copies, size, spec, tensor_views, write
from funrl.collectors._pool import START_SECONDS, FinishedBatch, Pool
from funrl.collectors._tracker import ResumePoint
from funrl.collectors._worker import Worker, WorkerSpec, describe, slot_specs


class _Held:
    """The latest parameters that a worker was sent."""

    def __init__(self, specs: Any):
        self.specs, self.version, self.bytes = specs, 0, torch.zeros(size(specs), dtype=torch.uint8)

    def read(self, device: torch.device | None = None) -> tuple[int, Any]:
        return self.version, copies(tensor_views(self.specs, self.bytes), device)


class RemoteWorker:
    """A worker whose answers are values: it holds an environment in a process of its own, from :meth:`start` on."""

    worker: Any = None

    def start(self, serialized: bytes) -> Any:
        """Make the environment of a :class:`WorkerSpec`, which cloudpickle has written, and return the :class:`Facts` about it."""
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        worker_spec: WorkerSpec = cloudpickle.loads(serialized)
        self.held = _Held(worker_spec.params)
        self.worker = Worker(worker_spec, self.held)
        return self.worker.facts()

    def collect(self, number: int, steps: int, published: tuple[int, np.ndarray]) -> tuple[int, np.ndarray]:
        """Collect the batch of a number; return the version of its parameters, and its bytes."""
        version, memory = published
        self.held.version, self.held.bytes = version, torch.from_numpy(np.array(memory))
        self.worker.version, self.worker.steps = -1, steps  # read them again
        specs = slot_specs(self.worker.facts(), steps)
        slot = torch.empty(size(specs), dtype=torch.uint8)
        self.worker.collect(tensor_views(specs, slot), number)
        return version, slot.numpy()

    def restore(self, part: ResumePoint, steps: int) -> None:
        """Bring the environment to a resume point."""
        self.worker.steps = steps
        self.worker.restore(part)

    def close(self) -> None:
        """Close the environment."""
        if self.worker is not None:
            self.worker.env.close()


class Latest:
    """The latest parameters, in the form in which workers are sent them."""

    def __init__(self, params: Any, send: Callable[[Any], Any]):
        self.specs, self.send = {"params": spec(params)}, send
        self.write(params, 0)

    def write(self, params: Any, version: int) -> None:
        memory = torch.zeros(size(self.specs), dtype=torch.uint8)
        write(tensor_views(self.specs["params"], memory), params)
        self.memory = memory
        self.message = self.send((version, memory.numpy()))

    def renumber(self, version: int) -> None:
        self.message = self.send((version, self.memory.numpy()))


class Answer(NamedTuple):
    """The answer to a request: ``value``; or why there is none: ``lost``, the end of the worker, or ``failed``, its exception."""

    value: Any = None
    lost: str = ""
    failed: BaseException | None = None


class Transport(ABC):
    """The way of requests to workers, and of their answers."""

    restarts_workers: bool

    @abstractmethod
    def start(self, worker: int) -> None:
        """Start the process of a worker, or a new one."""

    @abstractmethod
    def send(self, value: Any) -> Any:
        """Return parameters in the form in which they are an argument of a request."""

    @abstractmethod
    def request(self, worker: int, method: str, *args: Any) -> Any:
        """Ask a worker for a method of :class:`RemoteWorker`; return a name of the request. Its requests are answered in order."""

    @abstractmethod
    def wait(self, requests: Sequence[Any], seconds: float) -> tuple[Any, Answer] | None:
        """Return one of the requests with its answer, or None if there is none in time."""

    @abstractmethod
    def close(self) -> None:
        """End all workers; a second call does nothing."""


class MessagePool(Pool):
    """Workers behind a :class:`Transport`.

    The parameters are a :class:`Latest`; a batch is made with those at its request. ``timeout`` is for one batch, as a worker that works
    sends nothing.
    """

    def __init__(self, *args: Any, transport: Transport, **options: Any):
        super().__init__(*args, **options)
        self.transport, self.replaces, self._closed = transport, transport.restarts_workers, False
        self.values: dict[FinishedBatch, np.ndarray] = {}  # of the batches that are not taken yet
        self.asked: dict[Any, tuple[int, str, Any]] = {}  # worker, method and further data of each request without an answer
        self.since = [time.monotonic()] * len(self.specs)
        self._begin()

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.transport.close()
            self.finished.clear()
            self.values.clear()

    def allocate(self, steps: Sequence[int], num_slots: int) -> None:
        self.steps = list(steps)

    def take(self, batch: FinishedBatch) -> None:
        super().take(batch)
        del self.values[batch]

    def slot(self, batch: FinishedBatch) -> dict[str, Any]:
        memory = torch.from_numpy(np.array(self.values[batch]))
        return tensor_views(slot_specs(self.facts[batch.worker], self.steps[batch.worker]), memory)

    def drop(self) -> None:
        super().drop()
        self.values.clear()

    def restore(self) -> None:
        for worker in range(len(self.specs)):
            self._restore(worker)
        while self.asked:
            self._poll()

    def _busy(self) -> bool:
        return bool(self.asked)

    def _start(self, worker: int) -> None:
        # What a lost worker has made and was asked for is made again.
        self.asked = {request: entry for request, entry in self.asked.items() if entry[0] != worker}
        self.values = {batch: memory for batch, memory in self.values.items() if batch.worker != worker}
        self.transport.start(worker)
        self._request(worker, "start", None, self.specs[worker])
        if self.steps:
            self._restore(worker)
            for slot, number in self.pending[worker]:
                self._collect(worker, slot, number)

    def _restore(self, worker: int) -> None:
        self._request(worker, "restore", None, self.resume_point(worker), self.steps[worker])

    def _collect(self, worker: int, slot: int, number: int) -> None:
        self._request(worker, "collect", (slot, number), number, self.steps[worker], self.published.message)

    def _request(self, worker: int, method: str, data: Any, *args: Any) -> None:
        self._check_open()
        if not any(each == worker for each, _, _ in self.asked.values()):
            self.since[worker] = time.monotonic()
        try:
            self.asked[self.transport.request(worker, method, *args)] = (worker, method, data)
        except OSError as error:
            raise self._failure(worker, f"it cannot be reached: {error}") from error

    def _receive(self) -> None:
        """Receive an answer, or find that a worker is lost."""
        oldest: dict[int, Any] = {}  # of each worker, as the answers of one may be seen in another order than they were given
        for request, (worker, _, _) in self.asked.items():
            oldest.setdefault(worker, request)
        found = self.transport.wait(list(oldest.values()), min(1.0, self.timeout / 4))
        if found is not None:
            self._read(*found)
            return
        now = time.monotonic()
        for worker, request in oldest.items():
            patience = self.timeout + (START_SECONDS if self.asked[request][1] == "start" else 0.0)
            if now - self.since[worker] > patience:
                self._replace(worker, f"gave no answer for {patience:g} s")

    def _read(self, request: Any, answer: Answer) -> None:
        worker, method, data = self.asked.pop(request)
        self.since[worker] = time.monotonic()
        if answer.failed is not None:
            raise self._failure(worker, describe(answer.failed)) from answer.failed
        if answer.lost:
            self._replace(worker, answer.lost)
        elif method == "start":
            self._ready(worker, answer.value)
        elif method == "collect":
            (slot, number), (version, memory) = data, answer.value
            batch = FinishedBatch(worker, slot, number, version)
            self.values[batch] = memory
            self._done(batch)
