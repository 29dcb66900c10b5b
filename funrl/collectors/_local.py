"""Worker processes on this machine: batches in shared memory, heartbeats, and termination of the processes."""

import multiprocessing.connection
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import weakref
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

from funrl.collectors._memory import Published, spec
from funrl.collectors._messages import Transport
from funrl.collectors._worker import Answer, Facts, Memories, RemoteWorker

_GRACE_SECONDS = 3.0
# The program of a worker. A thread ends the worker when its parent has ended; this thread starts before the slow imports.
_BOOT = """
import os, sys, threading, time

def watch(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)

threading.Thread(target=watch, args=(int(sys.argv[2]),), daemon=True).start()
sys.path[:] = sys.argv[3:]
from funrl.collectors._local import main
main(int(sys.argv[1]))
"""


class WorkerHandle:
    """Handle of one worker: its process, the connection to it, and its memory once that is allocated."""

    process: Any = None
    pipe: Any = None
    memories: Memories | None = None

    def send(self, file: int) -> None:
        """Send a file descriptor."""
        try:
            send_handle(self.pipe, file, self.process.pid)
        except OSError:
            pass  # the worker has died; wait will notice


class LocalWorkers(Transport):
    """Worker processes of this machine, which write their batches into shared memory; the parameters are a :class:`Published`."""

    def __init__(self, num_workers: int):
        self.handles = [WorkerHandle() for _ in range(num_workers)]
        self._finalizer = weakref.finalize(self, _terminate, self.handles)

    @property
    def processes(self) -> tuple[int, ...]:
        return tuple(handle.process.pid for handle in self.handles)

    def publish(self, params: Any) -> None:
        self.published = Published(spec(params))
        self.published.write(params, 0)

    def start(self, worker: int, serialized: bytes) -> None:
        super().start(worker, serialized)
        self.handles[worker].send(self.published.shared.handle)

    def allocate(self, worker: int, facts: Facts, steps: int, num_slots: int) -> None:
        super().allocate(worker, facts, steps, num_slots)
        handle = self.handles[worker]
        handle.memories = handle.memories or Memories(facts, steps, num_slots)
        handle.send(handle.memories.shared.handle)

    def batch(self, worker: int, slot: int, value: Any, facts: Facts, steps: int) -> dict[str, Any]:
        memories = self.handles[worker].memories
        assert memories is not None  # as a batch is there
        return memories.slots[slot]

    def heartbeat(self, worker: int) -> int:
        memories = self.handles[worker].memories
        return 0 if memories is None else memories.heartbeat[0]

    def connect(self, worker: int) -> None:
        handle = self.handles[worker]
        _terminate([handle])
        mine, theirs = socket.socketpair()
        handle.pipe = Connection(mine.detach())
        with theirs:
            arguments = [sys.executable, "-c", _BOOT, str(theirs.fileno()), str(os.getpid()), *sys.path]
            # A separate process group, which Ctrl-C does not reach.
            handle.process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], process_group=0)

    def request(self, worker: int, method: str, *args: Any) -> None:
        try:
            self.handles[worker].pipe.send_bytes(pickle.dumps((method, args)))
        except OSError:
            pass  # the worker has died; wait will notice, as in WorkerHandle.send

    def wait(self, seconds: float) -> list[tuple[int, Answer]]:
        pipes: dict[Any, int] = {handle.pipe: worker for worker, handle in enumerate(self.handles)}
        return [(pipes[pipe], self._answer(pipes[pipe])) for pipe in multiprocessing.connection.wait(list(pipes), seconds)]

    def _answer(self, worker: int) -> Answer:
        handle = self.handles[worker]
        try:
            return pickle.loads(handle.pipe.recv_bytes())
        except (EOFError, OSError):
            pass
        try:
            code = handle.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return Answer(lost="closed its connection")
        return Answer(lost=f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}")

    def close(self) -> None:
        self._finalizer()
        for shared in (self.published.shared, *(handle.memories.shared for handle in self.handles if handle.memories is not None)):
            shared.close()


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


class LocalWorker(RemoteWorker):
    """The worker of such a process: its parameters and batches are in shared memory, whose files its parent sends."""

    def __init__(self, pipe: Connection):
        self.pipe = pipe

    def parameters(self, published: Any) -> Published:
        return Published(self.spec.params, recv_handle(self.pipe))

    def allocate(self, steps: int, num_slots: int) -> None:
        self.memories = Memories(self.facts, steps, num_slots, handle=recv_handle(self.pipe))
        self.memories.heartbeat[0] = self.heartbeat[0]
        self.heartbeat, self.steps = self.memories.heartbeat, steps

    def collect(self, slot: int, number: int, published: Any) -> tuple[int, None]:
        self._collect(self.memories.slots[slot], number)
        return self.version, None


def main(descriptor: int) -> None:
    """Answer the requests of the parent process, until it closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles the interrupt, and then ends this process
    signal.signal(signal.SIGTERM, _stop)
    pipe = Connection(descriptor)
    _work_in_batches()
    served = LocalWorker(pipe)
    try:
        while True:
            method, args = pickle.loads(pipe.recv_bytes())
            pipe.send_bytes(pickle.dumps(served.answer(method, *args)))
            if method == "collect":
                served.draw_ahead(args[1] + 1)  # while the parent reads the batch
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent has ended
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        served.close()


def _work_in_batches() -> None:
    """Schedule this process as SCHED_BATCH, so that it does not preempt its parent, which still has other workers to wake."""
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        try:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        except OSError:
            pass  # not allowed here; workers start a little later


def _stop(number: int, frame: Any) -> None:
    raise SystemExit(0)
