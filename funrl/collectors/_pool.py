"""The worker pool of a collector: starts the worker processes, requests batches, watches heartbeats, and replaces and ends workers."""

import multiprocessing.connection
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any, NamedTuple

import cloudpickle
import torch

from funrl import tree
from funrl.collectors._memory import Published
from funrl.collectors._tracker import ResumePoint
from funrl.collectors._worker import Memories, WorkerSpec
from funrl.env import HostError

# Imports take seconds, more on a busy machine. This time is no sign of a hanging environment.
START_SECONDS = 120.0
# How often a worker is restarted without a finished batch in between. A worker that always fails at the same step would never recover.
MAX_RESTARTS = 3
_GRACE_SECONDS = 3.0
# The program of a worker. A thread ends the worker when its parent ends; it starts before the slow imports.
_BOOT = """
import os, sys, threading, time

def watch(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)

threading.Thread(target=watch, args=(int(sys.argv[2]),), daemon=True).start()
sys.path[:] = sys.argv[3:]
from funrl.collectors._worker import main
main(int(sys.argv[1]))
"""


class FinishedBatch(NamedTuple):
    """A finished batch in shared memory.

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


class WorkerHandle:
    """Handle of one worker: its process, its pending batches, and the time of its last heartbeat."""

    def __init__(self, index: int):
        self.index = index
        # A Popen, a Connection and Memories, once the worker has started and is ready.
        self.process: Any = None
        self.pipe: Any = None
        self.memories: Any = None
        self.pending: list[tuple[int, int]] = []  # slots and numbers of batches requested and not released, in order
        self.waiting: set[str] = set()  # for the messages "ready" or "restored"
        self.restarts = 0  # since its last batch
        self.heartbeat, self.last_active = -1, 0.0
        self.patience = 0.0  # seconds without a heartbeat after which it counts as hanging


class WorkerPool:
    """The workers of one collector.

    Args:
        what: the name of the collector, for messages.
        create_envs: one function for each worker that returns its environment.
        act: the acting function, as for :func:`funrl.rollout`.
        key: int64 [].
        published: the parameters.
        device: the device of the policy.
        max_frames: the number of steps after which an episode is truncated.
        env_params: the physical constants of the environments; None: their default_params.
        timeout: the number of seconds that a step may take.
        restart: whether to replace a lost worker.
    """

    def __init__(
        self,
        what: str,
        create_envs: Sequence[Callable[[], Any]],
        act: Any,
        key: torch.Tensor,
        published: Published,
        *,
        device: torch.device | None,
        max_frames: int,
        env_params: Any,
        timeout: float,
        restart: bool,
    ):
        self.what, self.published, self.timeout, self.restart = what, published, timeout, restart
        self.specs = [
            serialize(what, WorkerSpec(i, create_env, act, key.cpu(), published.specs["params"], device, max_frames, env_params))
            for i, create_env in enumerate(create_envs)
        ]
        self.handles = [WorkerHandle(i) for i in range(len(create_envs))]
        self.facts: list[Any] = [None] * len(self.handles)  # Facts of the workers that are ready
        self.finished: deque[FinishedBatch] = deque()
        self.restarts = 0
        self.resume_point: Callable[[int], ResumePoint | None] = lambda worker: None
        self.steps: list[int] = []  # steps of each worker's batches, once memory is allocated
        self._finalizer = weakref.finalize(self, _terminate, self.handles)
        try:
            for handle in self.handles:
                self._start(handle)
            while any(handle.waiting for handle in self.handles):
                self._poll()
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    @property
    def processes(self) -> tuple[int, ...]:
        """The ids of the worker processes."""
        return tuple(handle.process.pid for handle in self.handles)

    def close(self) -> None:
        """End all workers; a second call does nothing."""
        self._finalizer()
        self.finished.clear()
        for shared in (self.published.shared, *(handle.memories.shared for handle in self.handles if handle.memories is not None)):
            shared.close()

    def allocate(self, steps: Sequence[int], num_slots: int) -> None:
        """Allocate shared memory for ``num_slots`` batches of each worker; ``steps`` holds the steps of each worker's batches."""
        self.steps, self.num_slots = list(steps), num_slots
        for handle in self.handles:
            self._allocate(handle)

    def ask(self, worker: int, slot: int, number: int) -> None:
        """Request a batch from a worker. It collects the requested batches one after another."""
        handle = self.handles[worker]
        if not handle.pending:
            handle.last_active = time.monotonic()
        handle.pending.append((slot, number))
        if "ready" not in handle.waiting:
            self._send(handle, ("collect", slot, number))

    def next(self, num: int = 1) -> list[FinishedBatch]:
        """Wait for ``num`` finished batches of any workers.

        Call :meth:`take` for each before the next call; until then, the replacement of a lost worker would collect them again.
        """
        while len(self.finished) < num:
            self._poll()
        return [self.finished.popleft() for _ in range(num)]

    def take(self, batch: FinishedBatch) -> None:
        """Free the slot of a batch that :meth:`next` returned, once it is read."""
        self.handles[batch.worker].pending.remove((batch.slot, batch.number))

    def slot(self, batch: FinishedBatch) -> dict[str, Any]:
        """Return the tensors of a batch in shared memory."""
        return self.handles[batch.worker].memories.slots[batch.slot]

    def drop(self) -> None:
        """Wait until all workers are idle, and drop all requests."""
        while any(self._busy(handle) for handle in self.handles):
            self._poll()
        self.finished.clear()
        for handle in self.handles:
            handle.pending.clear()

    def restore(self) -> None:
        """Bring each worker to its resume point."""
        for handle in self.handles:
            if "ready" not in handle.waiting:
                self._restore(handle)
        while any(handle.waiting for handle in self.handles):
            self._poll()

    def name(self, handle: WorkerHandle) -> str:
        """Return the name of a worker in messages."""
        facts = self.facts[handle.index]
        return f"{self.what}: worker {handle.index} (process {handle.process.pid}{f', {facts.name}' if facts else ''})"

    def _busy(self, handle: WorkerHandle) -> bool:
        finished = sum(batch.worker == handle.index for batch in self.finished)
        return bool(handle.waiting) or len(handle.pending) > finished

    def _start(self, handle: WorkerHandle) -> None:
        mine, theirs = socket.socketpair()
        handle.pipe = Connection(mine.detach())
        with theirs:
            arguments = [sys.executable, "-c", _BOOT, str(theirs.fileno()), str(os.getpid()), *sys.path]
            # A separate process group, which Ctrl-C does not reach.
            handle.process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], process_group=0)
        handle.waiting, handle.heartbeat = {"ready"}, -1
        self._expect(handle, START_SECONDS + self.timeout)
        try:
            handle.pipe.send_bytes(self.specs[handle.index])
            send_handle(handle.pipe, self.published.shared.handle, handle.process.pid)
        except OSError:
            pass  # the worker has died; _poll will notice

    def _allocate(self, handle: WorkerHandle) -> None:
        steps = self.steps[handle.index]
        if handle.memories is None:
            handle.memories = Memories(self.facts[handle.index], steps, self.num_slots)
        self._send(handle, (steps, self.num_slots))
        try:
            send_handle(handle.pipe, handle.memories.shared.handle, handle.process.pid)
        except OSError:
            pass

    def _restore(self, handle: WorkerHandle) -> None:
        part = self.resume_point(handle.index)
        handle.waiting.add("restored")
        self._expect(handle, self.timeout)
        self._send(handle, ("restore", part))

    def _send(self, handle: WorkerHandle, message: Any) -> None:
        if self.closed:
            raise HostError(f"{self.what} is closed; make a new one")
        try:
            handle.pipe.send_bytes(pickle.dumps(message))
        except OSError:
            pass

    def _expect(self, handle: WorkerHandle, seconds: float) -> None:
        handle.last_active, handle.patience = time.monotonic(), seconds

    def _poll(self) -> None:
        """Receive one message from each worker that sent one, and check the heartbeats of the others."""
        if self.closed:
            raise HostError(f"{self.what} is closed; make a new one")
        try:
            pipes: dict[Any, WorkerHandle] = {handle.pipe: handle for handle in self.handles}
            pipe: Any
            for pipe in multiprocessing.connection.wait(list(pipes), min(1.0, self.timeout / 4)):
                if pipes[pipe].pipe is pipe and pipe.poll():  # else its message was read while another worker was restarted
                    self._receive(pipes[pipe])
            now = time.monotonic()
            for handle in self.handles:
                heartbeat = handle.memories.heartbeat[0] if handle.memories is not None else 0
                if heartbeat != handle.heartbeat or not self._busy(handle):
                    handle.heartbeat, handle.last_active = heartbeat, now
                elif now - handle.last_active > handle.patience:
                    self._replace(handle, self._hang_reason(handle))
        except BaseException:  # also an interrupt: later batches could be mistaken for earlier ones
            self.close()
            raise

    def _receive(self, handle: WorkerHandle) -> None:
        try:
            kind, *rest = pickle.loads(handle.pipe.recv_bytes())
        except (EOFError, OSError):
            self._replace(handle, self._exit_reason(handle))
            return
        if kind == "failed":
            raise self._failure(handle, *rest)
        self._expect(handle, self.timeout)
        if kind == "collected":
            handle.restarts = 0
            self.finished.append(FinishedBatch(handle.index, *rest))
            return
        handle.waiting.discard(kind)
        if kind == "ready":
            (facts,) = rest
            check_alike(self.what, facts, handle.index, self.facts)
            self.facts[handle.index] = facts
            if self.steps:  # it replaces a lost worker
                self._allocate(handle)
                self._restore(handle)
                for slot, number in handle.pending:
                    self._send(handle, ("collect", slot, number))

    def _failure(self, handle: WorkerHandle, text: str, trace: str) -> HostError:
        error = HostError(f"{self.name(handle)}: {text}; all workers are ended: make a new collector")
        error.add_note(f"In the worker process:\n{trace}")
        return error

    def _exit_reason(self, handle: WorkerHandle) -> str:
        try:
            code = handle.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "hung up"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _hang_reason(self, handle: WorkerHandle) -> str:
        doing = "the start" if "ready" in handle.waiting else f"a step or reset (its {handle.heartbeat}th)"
        return f"did not get on with {doing} for {handle.patience:g} s"

    def _replace(self, handle: WorkerHandle, how: str) -> None:
        """Restart a lost worker, or raise."""
        doing = f" in its batch {handle.pending[0][1]}" if handle.pending else ""
        story = f"{self.name(handle)} {how}{doing}"
        if not self.restart or "ready" in handle.waiting:
            remedy = "" if self.restart else ", with restart_workers=True to replace it, or a longer timeout if it was only slow"
            raise HostError(f"{story}; all workers are ended: make a new collector{remedy}")
        if handle.restarts == MAX_RESTARTS:
            raise HostError(f"{story}, for the {MAX_RESTARTS + 1}th time without a batch; all workers are ended")
        handle.restarts += 1
        self.restarts += 1
        _terminate([handle])
        # Its finished batches are requested again: the new worker starts after the last batch that was released.
        self.finished = deque(batch for batch in self.finished if batch.worker != handle.index)
        self._start(handle)  # _receive does the rest when the worker is ready


def check_alike(what: str, facts: Any, index: int, known: Sequence[Any]) -> None:
    """Raise a ValueError unless the steps of a worker's environment are like those of the others that are known."""
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


def serialize(what: str, worker_spec: WorkerSpec) -> bytes:
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


def _terminate(handles: list[WorkerHandle]) -> None:
    """End processes: by a signal that lets them close their environments, then by force."""
    handles = [handle for handle in handles if handle.process is not None]
    for end in (lambda process: process.terminate(), lambda process: process.kill()):
        deadline = time.monotonic() + _GRACE_SECONDS
        for handle in handles:
            if handle.process.poll() is None:
                end(handle.process)
        for handle in handles:
            try:
                handle.process.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
    for handle in handles:
        handle.pipe.close()
