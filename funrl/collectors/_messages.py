"""Transports: channels that carry requests to workers, and their answers back."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from funrl.collectors._memory import size, spec, tensor_views, write
from funrl.collectors._tracker import ResumePoint
from funrl.collectors._worker import Answer, Facts, slot_specs


class Latest:
    """The latest parameters, and the ``message`` that carries them to workers: the result of :meth:`Transport.send`."""

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
    """The workers of a pool, and a channel that carries requests to them and their answers back. A worker answers requests in order.

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
        self.request(worker, "start", serialized, self.published.message)

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
        """Return a number that changes while a worker collects; None: a worker sends no messages while it collects."""
        return None

    def send(self, value: Any) -> Any:
        """Convert parameters for :meth:`request`, which takes the result as an argument."""
        return value

    @abstractmethod
    def connect(self, worker: int) -> None:
        """Start the process of a worker, or a new one."""

    @abstractmethod
    def request(self, worker: int, method: str, *args: Any) -> None:
        """Ask a worker to call a method of :class:`RemoteWorker`.

        Raises:
            OSError: if it cannot be reached.
        """

    @abstractmethod
    def wait(self, seconds: float) -> Sequence[tuple[int, Answer]]:
        """Wait at most ``seconds`` for an answer. Return at least the oldest answer of each worker that has answered."""

    @abstractmethod
    def close(self) -> None:
        """End all workers; a second call does nothing."""
