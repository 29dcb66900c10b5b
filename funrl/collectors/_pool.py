"""The parts that all worker pools share: requests and finished batches in order, and which lost workers are replaced."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cloudpickle
import torch

from funrl import tree
from funrl.collectors._tracker import ResumePoint
from funrl.collectors._worker import WorkerSpec
from funrl.env import HostError

# Imports take seconds, more on a busy machine. This time is no sign of a hanging environment.
START_SECONDS = 120.0
# How often a worker is restarted without a finished batch in between. A worker that always fails at the same step would never recover.
MAX_RESTARTS = 3


class FinishedBatch(NamedTuple):
    """A finished batch.

    Attributes:
        worker: the index of the worker.
        slot: the index of its slot in the worker's memory.
        number: its number among the worker's batches, from 0.
        version: the version of the parameters that made it.
    """

    worker: int
    slot: int
    number: int
    version: int


class Pool(ABC):
    """The workers of one collector.

    Args:
        what: the name of the collector, for messages.
        create_envs: one function for each worker that returns its environment.
        act: the acting function, as for :func:`funrl.rollout`.
        key: int64 [].
        published: the latest parameters, with ``write(params, version)``, ``renumber(version)`` and ``specs["params"]``.
        device: the device of the policy.
        max_frames: the number of steps after which an episode is truncated.
        env_params: the physical constants of the environments; None: their default_params.
        timeout: the number of seconds after which a worker counts as lost.
        restart: whether to replace a lost worker.
    """

    replaces = True  # whether a lost worker can be replaced
    processes: tuple[int, ...] = ()  # the ids of worker processes of this machine

    def __init__(
        self,
        what: str,
        create_envs: Sequence[Callable[[], Any]],
        act: Any,
        key: torch.Tensor,
        published: Any,
        *,
        device: torch.device | None,
        max_frames: int,
        env_params: Any,
        timeout: float,
        restart: bool,
    ):
        self.what, self.published, self.timeout, self.restart = what, published, timeout, restart
        self.specs = [
            _serialize(what, WorkerSpec(i, create_env, act, key.cpu(), published.specs["params"], device, max_frames, env_params))
            for i, create_env in enumerate(create_envs)
        ]
        count = len(self.specs)
        self.facts: list[Any] = [None] * count  # Facts of the workers that are ready
        self.finished: deque[FinishedBatch] = deque()
        self.pending: list[list[tuple[int, int]]] = [[] for _ in range(count)]  # slots and numbers requested and not taken, in order
        self.failures = [0] * count  # restarts since the last batch
        self.restarts = 0
        self.resume_point: Callable[[int], ResumePoint | None] = lambda worker: None
        self.steps: list[int] = []  # steps of each worker's batches, once memory is allocated

    def _begin(self) -> None:
        """Start all workers, and wait until they are ready."""
        try:
            for worker in range(len(self.specs)):
                self._start(worker)
            while any(each is None for each in self.facts):
                self._poll()
        except BaseException:
            self.close()
            raise

    @property
    @abstractmethod
    def closed(self) -> bool:
        """True once the workers are ended."""

    @abstractmethod
    def close(self) -> None:
        """End all workers; a second call does nothing."""

    @abstractmethod
    def allocate(self, steps: Sequence[int], num_slots: int) -> None:
        """Prepare for ``num_slots`` batches of each worker; ``steps`` holds the steps of each worker's batches."""

    @abstractmethod
    def slot(self, batch: FinishedBatch) -> dict[str, Any]:
        """Return the tensors of a batch that :meth:`next` returned."""

    @abstractmethod
    def restore(self) -> None:
        """Bring each worker to its resume point."""

    @abstractmethod
    def _start(self, worker: int) -> None:
        """Start the process of a worker, or a new one."""

    @abstractmethod
    def _collect(self, worker: int, slot: int, number: int) -> None:
        """Send the request of a batch."""

    @abstractmethod
    def _busy(self) -> bool:
        """Return whether any worker has a request without an answer."""

    @abstractmethod
    def _receive(self) -> None:
        """Receive answers, and replace workers that are lost."""

    def ask(self, worker: int, slot: int, number: int) -> None:
        """Request a batch from a worker. It collects the requested batches one after another."""
        self.pending[worker].append((slot, number))
        self._collect(worker, slot, number)

    def next(self, num: int = 1) -> list[FinishedBatch]:
        """Wait for ``num`` batches, and return them in the order in which they were finished.

        Call :meth:`take` for each before the next call; until then, the replacement of a lost worker would collect them again.
        """
        while len(self.finished) < num:
            self._poll()
        return [self.finished.popleft() for _ in range(num)]

    def take(self, batch: FinishedBatch) -> None:
        """Free the slot of a batch that :meth:`next` returned, once it is read."""
        self.pending[batch.worker].remove((batch.slot, batch.number))

    def drop(self) -> None:
        """Wait until all workers are idle, and drop all requests."""
        while self._busy():
            self._poll()
        self.finished.clear()
        for pending in self.pending:
            pending.clear()

    def _check_open(self) -> None:
        if self.closed:
            raise HostError(f"{self.what} is closed; make a new one")

    def _poll(self) -> None:
        self._check_open()
        try:
            self._receive()
        except BaseException:  # also an interrupt: later batches could be mistaken for earlier ones
            self.close()
            raise

    def _ready(self, worker: int, facts: Any) -> None:
        """Note the facts about a worker's environment, or raise a ValueError unless its steps are like those of the others."""
        _check_alike(self.what, facts, worker, self.facts)
        self.facts[worker] = facts

    def _done(self, batch: FinishedBatch) -> None:
        self.failures[batch.worker] = 0
        self.finished.append(batch)

    def _name(self, worker: int) -> str:
        """Return the name of a worker in messages."""
        return f"{self.what}: worker {worker}"

    def _failure(self, worker: int, text: str, trace: str = "") -> HostError:
        """Return the error for an exception in a worker."""
        error = HostError(f"{self._name(worker)}: {text}; all workers are ended: make a new collector")
        if trace:
            error.add_note(f"In the worker process:\n{trace}")
        return error

    def _replace(self, worker: int, how: str) -> None:
        """Start a lost worker again, or raise."""
        story = f"{self._name(worker)} {how}" + (f" in its batch {self.pending[worker][0][1]}" if self.pending[worker] else "")
        if not (self.restart and self.replaces and self.steps):
            remedy = ", with restart_workers=True to replace it, or a longer timeout if it was only slow"
            remedy = remedy if self.replaces and not self.restart else ""
            raise HostError(f"{story}; all workers are ended: make a new collector{remedy}")
        if self.failures[worker] == MAX_RESTARTS:
            raise HostError(f"{story}, for the {MAX_RESTARTS + 1}th time without a batch; all workers are ended")
        self.failures[worker] += 1
        self.restarts += 1
        # Its finished batches are requested again: the new worker starts after the last batch that was taken.
        self.finished = deque(batch for batch in self.finished if batch.worker != worker)
        self._start(worker)


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
