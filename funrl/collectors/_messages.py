"""Workers that may be on other machines: what they are asked, and a pool of them that speaks by messages."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch

from funrl import tree
from funrl.collectors._memory import size, spec, tensor_views
from funrl.collectors._pool import MAX_RESTARTS, START_SECONDS, FinishedBatch, check_alike, serialize
from funrl.collectors._tracker import ResumePoint
from funrl.collectors._worker import Worker, WorkerSpec, slot_specs
from funrl.env import HostError


class _Held:
    """The latest parameters that a worker was sent."""

    def __init__(self, specs: Any):
        self.specs, self.version, self.bytes = specs, 0, torch.zeros(size(specs), dtype=torch.uint8)

    def read(self, device: torch.device | None = None) -> tuple[int, Any]:
        params = tensor_views(self.specs, self.bytes)
        return self.version, tree.map(lambda x: x.clone() if device is None else x.to(device, copy=True), params)


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


class _Latest:
    """The latest parameters, in the form in which workers are sent them."""

    def __init__(self, params: Any, send: Callable[[Any], Any]):
        self.specs, self.send = spec(params), send
        self.write(params, 0)

    def write(self, params: Any, version: int) -> None:
        memory = torch.zeros(size(self.specs), dtype=torch.uint8)
        for place, x in zip(tree.leaves(tensor_views(self.specs, memory)), tree.leaves(params), strict=True):
            place.copy_(x.detach())
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


class MessagePool:
    """The workers of one collector, behind a :class:`Transport`, with the methods of :class:`funrl.collectors._pool.WorkerPool`.

    Parameters are those at the request of a batch. ``timeout`` is for one batch, as a worker that works tells nothing.
    """

    def __init__(
        self,
        what: str,
        create_envs: Sequence[Callable[[], Any]],
        act: Any,
        key: torch.Tensor,
        params: Any,
        transport: Transport,
        *,
        device: torch.device | None,
        max_frames: int,
        env_params: Any,
        timeout: float,
        restart: bool,
    ):
        self.what, self.timeout, self.restart, self.transport = what, timeout, restart, transport
        self.published = _Latest(params, transport.send)
        self.specs = [
            serialize(what, WorkerSpec(i, create_env, act, key.cpu(), self.published.specs, device, max_frames, env_params))
            for i, create_env in enumerate(create_envs)
        ]
        count = len(self.specs)
        self.facts: list[Any] = [None] * count
        self.finished: deque[tuple[FinishedBatch, np.ndarray]] = deque()
        self.values: dict[FinishedBatch, Any] = {}  # of the batches that next returned
        self.restarts, self.closed = 0, False
        self.resume_point: Callable[[int], ResumePoint | None] = lambda worker: None
        self.steps: list[int] = []
        self.pending: list[list[tuple[int, int]]] = [[] for _ in range(count)]  # slots and numbers that are not taken yet, in order
        self.asked: dict[Any, tuple[int, str, Any]] = {}  # worker, method and further data of each request without an answer
        self.since = [time.monotonic()] * count
        self.failures = [0] * count  # restarts since the last batch
        try:
            for worker in range(count):
                self._start(worker)
            while any(each is None for each in self.facts):
                self._poll()
        except BaseException:
            self.close()
            raise

    processes: tuple[int, ...] = ()

    def close(self) -> None:
        """End all workers; a second call does nothing."""
        if not self.closed:
            self.closed = True
            self.transport.close()
            self.finished.clear()
            self.values.clear()

    def allocate(self, steps: Sequence[int], num_slots: int) -> None:
        """Note the steps of each worker's batches."""
        self.steps = list(steps)

    def ask(self, worker: int, slot: int, number: int) -> None:
        """Request a batch from a worker. It collects the requested batches one after another."""
        self.pending[worker].append((slot, number))
        self._request_batch(worker, slot, number)

    def next(self, num: int = 1) -> list[FinishedBatch]:
        """Wait for ``num`` batches, and return them in the order in which they were finished."""
        while len(self.finished) < num:
            self._poll()
        batches = [self.finished.popleft() for _ in range(num)]
        self.values |= dict(batches)
        return [batch for batch, _ in batches]

    def take(self, batch: FinishedBatch) -> None:
        """Forget a batch that :meth:`next` returned, once it is read."""
        self.pending[batch.worker].remove((batch.slot, batch.number))
        del self.values[batch]

    def slot(self, batch: FinishedBatch) -> dict[str, Any]:
        """Return the tensors of a batch."""
        memory = torch.from_numpy(np.array(self.values[batch]))
        return tensor_views(slot_specs(self.facts[batch.worker], self.steps[batch.worker]), memory)

    def drop(self) -> None:
        """Wait until all workers are idle, and drop all requests."""
        while self.asked:
            self._poll()
        self.finished.clear()
        for pending in self.pending:
            pending.clear()

    def restore(self) -> None:
        """Bring each worker to its resume point."""
        for worker in range(len(self.specs)):
            self._request(worker, "restore", None, self.resume_point(worker), self.steps[worker])
        while self.asked:
            self._poll()

    def _start(self, worker: int) -> None:
        self.facts[worker] = None
        self.transport.start(worker)
        self._request(worker, "start", None, self.specs[worker])

    def _request_batch(self, worker: int, slot: int, number: int) -> None:
        self._request(worker, "collect", (slot, number), number, self.steps[worker], self.published.message)

    def _request(self, worker: int, method: str, data: Any, *args: Any) -> None:
        if self.closed:
            raise HostError(f"{self.what} is closed; make a new one")
        if not any(each == worker for each, _, _ in self.asked.values()):
            self.since[worker] = time.monotonic()
        try:
            self.asked[self.transport.request(worker, method, *args)] = (worker, method, data)
        except OSError as error:
            self._replace(worker, f"cannot be reached: {error}")

    def _poll(self) -> None:
        """Receive an answer, or find that a worker is lost."""
        if self.closed:
            raise HostError(f"{self.what} is closed; make a new one")
        try:
            oldest: dict[int, Any] = {}  # of each worker, as the answers of one may be seen in another order than they were given
            for request, (worker, _, _) in self.asked.items():
                oldest.setdefault(worker, request)
            found = self.transport.wait(list(oldest.values()), min(1.0, self.timeout / 4))
            if found is not None:
                self._receive(*found)
                return
            now = time.monotonic()
            for worker in {each for each, _, _ in self.asked.values()}:
                patience = self.timeout + (START_SECONDS if self.facts[worker] is None else 0.0)
                if now - self.since[worker] > patience:
                    self._replace(worker, f"gave no answer for {patience:g} s")
        except BaseException:
            self.close()
            raise

    def _receive(self, request: Any, answer: Answer) -> None:
        worker, method, data = self.asked.pop(request)
        self.since[worker] = time.monotonic()
        if answer.failed is not None:
            error = answer.failed
            text = str(error) if isinstance(error, HostError) else f"{type(error).__name__}: {error}"
            raise HostError(f"{self.what}: worker {worker}: {text}; all workers are ended: make a new collector") from error
        if answer.lost:
            self._replace(worker, answer.lost)
        elif method == "start":
            check_alike(self.what, answer.value, worker, self.facts)
            self.facts[worker] = answer.value
        elif method == "collect":
            version, memory = answer.value
            self.failures[worker] = 0
            slot, number = data
            self.finished.append((FinishedBatch(worker, slot, number, version), memory))

    def _replace(self, worker: int, how: str) -> None:
        """Restart a lost worker, or raise."""
        story = f"{self.what}: worker {worker} {how}"
        if not self.restart or not self.transport.restarts_workers or not self.steps:
            remedy = "" if self.restart or not self.transport.restarts_workers else ", with restart_workers=True to replace it"
            raise HostError(f"{story}; all workers are ended: make a new collector{remedy}")
        if self.failures[worker] == MAX_RESTARTS:
            raise HostError(f"{story}, for the {MAX_RESTARTS + 1}th time without a batch; all workers are ended")
        self.failures[worker] += 1
        self.restarts += 1
        self.asked = {request: entry for request, entry in self.asked.items() if entry[0] != worker}
        # Its finished batches are requested again: the new worker starts after the last batch that was taken.
        self.finished = deque((batch, memory) for batch, memory in self.finished if batch.worker != worker)
        known = self.facts[worker]
        self._start(worker)
        self.facts[worker] = known  # needed to read its batches; the new ones are compared with it
        self._request(worker, "restore", None, self.resume_point(worker), self.steps[worker])
        for slot, number in self.pending[worker]:
            self._request_batch(worker, slot, number)
