"""Requests to workers, their answers, and the transports that carry both."""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch

from funrl.collectors._memory import copies, size, spec, tensor_views, write
from funrl.collectors._tracker import ResumePoint
from funrl.collectors._worker import Facts, Worker, WorkerSpec, describe, slot_specs


class Answer(NamedTuple):
    """The answer to a request: ``value``; or why there is none: ``lost``, the end of the worker, or ``failed``, its error and ``trace``."""

    value: Any = None
    lost: str = ""
    failed: str = ""
    trace: str = ""


class _Held:
    """The latest parameters that a worker was sent."""

    def __init__(self, specs: Any):
        self.specs, self.version, self.bytes = specs, -1, torch.zeros(size(specs), dtype=torch.uint8)

    def read(self, device: torch.device | None = None) -> tuple[int, Any]:
        return self.version, copies(tensor_views(self.specs, self.bytes), device)


class RemoteWorker:
    """A worker behind a transport: it has an environment from the request :meth:`start` on. Its batches and parameters are values."""

    worker: Any = None

    def answer(self, method: str, *args: Any) -> Answer:
        """Answer a request for one of the methods below."""
        try:
            return Answer(getattr(self, method)(*args))
        except Exception as error:
            return Answer(failed=describe(error), trace=traceback.format_exc())

    def start(self, serialized: bytes) -> Facts:
        """Make the environment of a :class:`WorkerSpec`, which cloudpickle has written, and return the :class:`Facts` about it."""
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        worker_spec: WorkerSpec = cloudpickle.loads(serialized)
        self.worker = Worker(worker_spec, self.parameters(worker_spec.params))
        return self.worker.facts()

    def parameters(self, specs: Any) -> Any:
        """Return the parameters of the policy, with ``version`` and ``read``."""
        self.held = _Held(specs)
        return self.held

    def allocate(self, steps: int, num_slots: int) -> None:
        """Prepare for ``num_slots`` batches of ``steps`` steps."""
        self.worker.steps, self.layout = steps, slot_specs(self.worker.facts(), steps)

    def collect(self, slot: int, number: int, published: Any) -> tuple[int, np.ndarray | None]:
        """Collect the batch of a number; return the version of its parameters, and its bytes."""
        version, params = published
        if version != self.worker.version:
            self.held.version, self.held.bytes = version, torch.from_numpy(np.array(params))
        memory = torch.empty(size(self.layout), dtype=torch.uint8)
        self.worker.collect(tensor_views(self.layout, memory), number)
        return version, memory.numpy()

    def restore(self, point: ResumePoint) -> None:
        """Bring the environment to a resume point."""
        self.worker.restore(point)

    def close(self) -> None:
        """Close the environment."""
        if self.worker is not None:
            self.worker.env.close()


class Latest:
    """The latest parameters, in the form in which requests carry them."""

    def __init__(self, params: Any, transport: "Transport"):
        self.specs, self.transport = spec(params), transport
        self.write(params, 0)

    def write(self, params: Any, version: int) -> None:
        memory = torch.zeros(size(self.specs), dtype=torch.uint8)
        write(tensor_views(self.specs, memory), params)
        self.memory = memory
        self.renumber(version)

    def renumber(self, version: int) -> None:
        self.message = self.transport.send((version, self.memory.numpy()))


class Transport(ABC):
    """The workers of a pool: the way of requests to them and of their answers, which come in the order of a worker's requests.

    Attributes:
        restarts_workers: whether a lost worker can be replaced.
        processes: the ids of worker processes of this machine.
        published: the latest parameters, with ``write(params, version)`` and ``renumber(version)``; by default a :class:`Latest`.
    """

    restarts_workers = True
    processes: tuple[int, ...] = ()
    published: Any

    def publish(self, params: Any) -> None:
        """Publish the first parameters."""
        self.published = Latest(params, self)

    def start(self, worker: int, serialized: bytes) -> None:
        """Start a worker, or a new one in its place."""
        self.connect(worker)
        self.request(worker, "start", serialized)

    def allocate(self, worker: int, facts: Facts, steps: int, num_slots: int) -> None:
        """Let a worker prepare for ``num_slots`` batches of ``steps`` steps."""
        self.request(worker, "allocate", steps, num_slots)

    def collect(self, worker: int, slot: int, number: int) -> None:
        """Request a batch, with the latest parameters."""
        self.request(worker, "collect", slot, number, self.published.message)

    def restore(self, worker: int, point: ResumePoint) -> None:
        """Bring a worker to a resume point."""
        self.request(worker, "restore", point)

    def batch(self, worker: int, slot: int, value: Any, facts: Facts, steps: int) -> dict[str, Any]:
        """Return the tensors of a finished batch."""
        return tensor_views(slot_specs(facts, steps), torch.from_numpy(np.array(value)))

    def heartbeat(self, worker: int) -> int | None:
        """Return a number that changes while a worker works; None: a worker that works sends nothing."""
        return None

    def send(self, value: Any) -> Any:
        """Return parameters in the form in which they are an argument of a request."""
        return value

    @abstractmethod
    def connect(self, worker: int) -> None:
        """Start the process of a worker, or a new one."""

    @abstractmethod
    def request(self, worker: int, method: str, *args: Any) -> None:
        """Ask a worker for a method of :class:`RemoteWorker`.

        Raises:
            OSError: if it cannot be reached.
        """

    @abstractmethod
    def wait(self, seconds: float) -> Sequence[tuple[int, Answer]]:
        """Wait for an answer; return those that are there, of each waiting worker at least its oldest, or none if none came in time."""

    @abstractmethod
    def close(self) -> None:
        """End all workers; a second call does nothing."""
