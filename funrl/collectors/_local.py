"""The pool of worker processes on this machine: batches in shared memory, heartbeats, and the end of every process."""

import multiprocessing.connection
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any

from funrl.collectors._pool import START_SECONDS, FinishedBatch, Pool
from funrl.collectors._worker import Memories

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


class WorkerHandle:
    """Handle of one worker: its process, and the time of its last heartbeat."""

    def __init__(self, index: int):
        self.index = index
        # A Popen, a Connection and Memories, once the worker has started and is ready.
        self.process: Any = None
        self.pipe: Any = None
        self.memories: Any = None
        self.waiting: set[str] = set()  # for the messages "ready" or "restored"
        self.heartbeat, self.last_active = -1, 0.0
        self.patience = 0.0  # seconds without a heartbeat after which it counts as hanging


class WorkerPool(Pool):
    """Worker processes of this machine. ``timeout`` is for one step; the parameters are a :class:`Published`."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.handles = [WorkerHandle(i) for i in range(len(self.specs))]
        self._finalizer = weakref.finalize(self, _terminate, self.handles)
        self._begin()

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    @property
    def processes(self) -> tuple[int, ...]:
        return tuple(handle.process.pid for handle in self.handles)

    def close(self) -> None:
        self._finalizer()
        self.finished.clear()
        for shared in (self.published.shared, *(handle.memories.shared for handle in self.handles if handle.memories is not None)):
            shared.close()

    def allocate(self, steps: Sequence[int], num_slots: int) -> None:
        self.steps, self.num_slots = list(steps), num_slots
        for handle in self.handles:
            self._allocate(handle)

    def slot(self, batch: FinishedBatch) -> dict[str, Any]:
        return self.handles[batch.worker].memories.slots[batch.slot]

    def restore(self) -> None:
        for handle in self.handles:
            if "ready" not in handle.waiting:
                self._restore(handle)
        while any(handle.waiting for handle in self.handles):
            self._poll()

    def _collect(self, worker: int, slot: int, number: int) -> None:
        handle = self.handles[worker]
        if len(self.pending[worker]) == 1:
            handle.last_active = time.monotonic()
        if "ready" not in handle.waiting:
            self._send(handle, ("collect", slot, number))

    def _name(self, worker: int) -> str:
        facts = self.facts[worker]
        return f"{super()._name(worker)} (process {self.handles[worker].process.pid}{f', {facts.name}' if facts else ''})"

    def _busy(self) -> bool:
        return any(self._works(handle) for handle in self.handles)

    def _works(self, handle: WorkerHandle) -> bool:
        finished = sum(batch.worker == handle.index for batch in self.finished)
        return bool(handle.waiting) or len(self.pending[handle.index]) > finished

    def _start(self, worker: int) -> None:
        handle = self.handles[worker]
        _terminate([handle])
        mine, theirs = socket.socketpair()
        handle.pipe = Connection(mine.detach())
        with theirs:
            arguments = [sys.executable, "-c", _BOOT, str(theirs.fileno()), str(os.getpid()), *sys.path]
            # A separate process group, which Ctrl-C does not reach.
            handle.process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], process_group=0)
        handle.waiting, handle.heartbeat = {"ready"}, -1
        self._expect(handle, START_SECONDS + self.timeout)
        try:
            handle.pipe.send_bytes(self.specs[worker])
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
        self._check_open()
        try:
            handle.pipe.send_bytes(pickle.dumps(message))
        except OSError:
            pass

    def _expect(self, handle: WorkerHandle, seconds: float) -> None:
        handle.last_active, handle.patience = time.monotonic(), seconds

    def _receive(self) -> None:
        """Receive one message from each worker that sent one, and check the heartbeats of the others."""
        pipes: dict[Any, WorkerHandle] = {handle.pipe: handle for handle in self.handles}
        pipe: Any
        for pipe in multiprocessing.connection.wait(list(pipes), min(1.0, self.timeout / 4)):
            if pipes[pipe].pipe is pipe and pipe.poll():  # else its message was read while another worker was restarted
                self._read(pipes[pipe])
        now = time.monotonic()
        for handle in self.handles:
            heartbeat = handle.memories.heartbeat[0] if handle.memories is not None else 0
            if heartbeat != handle.heartbeat or not self._works(handle):
                handle.heartbeat, handle.last_active = heartbeat, now
            elif now - handle.last_active > handle.patience:
                self._replace(handle.index, self._hang_reason(handle))

    def _read(self, handle: WorkerHandle) -> None:
        try:
            kind, *rest = pickle.loads(handle.pipe.recv_bytes())
        except (EOFError, OSError):
            self._replace(handle.index, self._exit_reason(handle))
            return
        if kind == "failed":
            raise self._failure(handle.index, *rest)
        self._expect(handle, self.timeout)
        if kind == "collected":
            self._done(FinishedBatch(handle.index, *rest))
            return
        handle.waiting.discard(kind)
        if kind == "ready":
            self._ready(handle.index, *rest)
            if self.steps:  # it replaces a lost worker
                self._allocate(handle)
                self._restore(handle)
                for slot, number in self.pending[handle.index]:
                    self._send(handle, ("collect", slot, number))

    def _exit_reason(self, handle: WorkerHandle) -> str:
        try:
            code = handle.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "hung up"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _hang_reason(self, handle: WorkerHandle) -> str:
        doing = "the start" if "ready" in handle.waiting else f"a step or reset (its {handle.heartbeat}th)"
        return f"did not get on with {doing} for {handle.patience:g} s"


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
