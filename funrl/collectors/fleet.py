"""The worker processes of a collector, seen from the process that asks them: started, spoken to, watched, replaced and ended."""

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
from funrl.collectors.ledger import Part
from funrl.collectors.memory import Published
from funrl.collectors.worker import Job, Memories
from funrl.env import HostError

# Importing takes seconds, more on a busy machine, and is no fault of an environment.
START_SECONDS = 120.0
# How often in a row a worker is started anew without a batch from it: what dies at the same place again is not helped by one more time.
MAX_RESTARTS = 3
_GRACE_SECONDS = 3.0
# What a worker runs. Before it imports anything large it watches for the end of its parent, whatever it is doing then.
_BOOT = """
import os, sys, threading, time

def watch(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)

threading.Thread(target=watch, args=(int(sys.argv[2]),), daemon=True).start()
sys.path[:] = sys.argv[3:]
from funrl.collectors.worker import main
main(int(sys.argv[1]))
"""


class Done(NamedTuple):
    """A batch that lies in memory.

    Attributes:
        worker: whose it is.
        slot: where it lies.
        number: which of the worker's batches it is, from 0.
        version: of the parameters that made it.
    """

    worker: int
    slot: int
    number: int
    version: int


class Seat:
    """One worker: its process, what it has been asked for, and when it was last seen to do something."""

    def __init__(self, index: int):
        self.index = index
        # A Popen, a Connection and Memories, once the worker is started and ready.
        self.process: Any = None
        self.pipe: Any = None
        self.memories: Any = None
        self.owed: list[tuple[int, int]] = []  # slots and numbers of batches asked for and not taken, in order
        self.waiting: set[str] = set()  # for "ready" or "restored"
        self.restarts = 0  # since its last batch
        self.beat, self.seen = -1, 0.0
        self.lasts = 0.0  # how long it may be silent


class Fleet:
    """The workers of one collector.

    Args:
        what: the name of the collector, for messages.
        create_envs: for each worker a function that returns its environment.
        act: what acts.
        key: int64 [].
        published: the parameters.
        device: where the policy runs.
        max_frames: after how many steps an episode is truncated.
        env_params: the physical constants of the environments; None: their default_params.
        timeout: how many seconds a step may take.
        restart: whether to replace a worker that is lost.
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
        self.jobs = [
            _packed(what, Job(i, create_env, act, key.cpu(), published.specs["params"], device, max_frames, env_params))
            for i, create_env in enumerate(create_envs)
        ]
        self.seats = [Seat(i) for i in range(len(create_envs))]
        self.facts: list[Any] = [None] * len(self.seats)  # Facts, of those that are ready
        self.done: deque[Done] = deque()
        self.restarts = 0
        self.part: Callable[[int], Part | None] = lambda worker: None
        self.steps: list[int] = []  # of the batches of each, once there is memory for them
        self._finalizer = weakref.finalize(self, _end, self.seats)
        try:
            for seat in self.seats:
                self._start(seat)
            while any(seat.waiting for seat in self.seats):
                self._hear()
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def close(self) -> None:
        """End all workers; a second call does nothing."""
        self._finalizer()
        self.done.clear()
        for shared in (self.published.shared, *(seat.memories.shared for seat in self.seats if seat.memories is not None)):
            shared.close()

    def furnish(self, steps: Sequence[int], num_slots: int) -> None:
        """Give each worker the memory for ``num_slots`` batches of so many steps."""
        self.steps, self.num_slots = list(steps), num_slots
        for seat in self.seats:
            self._furnish(seat)

    def ask(self, worker: int, slot: int, number: int) -> None:
        """Ask a worker for a batch; it plays those it was asked for one after another."""
        seat = self.seats[worker]
        if not seat.owed:
            seat.seen = time.monotonic()
        seat.owed.append((slot, number))
        if "ready" not in seat.waiting:
            self._send(seat, ("collect", slot, number))

    def next(self, num: int = 1) -> list[Done]:
        """Wait for ``num`` batches of any workers.

        Take them before the next call: until then a worker that is lost makes them again.
        """
        while len(self.done) < num:
            self._hear()
        return [self.done.popleft() for _ in range(num)]

    def take(self, done: Done) -> None:
        """Say that what :meth:`next` returned was read, so that its slot is free."""
        self.seats[done.worker].owed.remove((done.slot, done.number))

    def slot(self, done: Done) -> dict[str, Any]:
        """Return the memory of a batch."""
        return self.seats[done.worker].memories.slots[done.slot]

    def drop(self) -> None:
        """Wait until no worker does anything, and forget what was asked of them."""
        while any(self._busy(seat) for seat in self.seats):
            self._hear()
        self.done.clear()
        for seat in self.seats:
            seat.owed.clear()

    def restore(self) -> None:
        """Bring each worker to where its part is."""
        for seat in self.seats:
            if "ready" not in seat.waiting:
                self._restore(seat)
        while any(seat.waiting for seat in self.seats):
            self._hear()

    def who(self, seat: Seat) -> str:
        """Return the name of a worker in messages."""
        facts = self.facts[seat.index]
        return f"{self.what}: worker {seat.index} (process {seat.process.pid}{f', {facts.name}' if facts else ''})"

    def _busy(self, seat: Seat) -> bool:
        finished = sum(done.worker == seat.index for done in self.done)
        return bool(seat.waiting) or len(seat.owed) > finished

    def _start(self, seat: Seat) -> None:
        mine, theirs = socket.socketpair()
        seat.pipe = Connection(mine.detach())
        with theirs:
            arguments = [sys.executable, "-c", _BOOT, str(theirs.fileno()), str(os.getpid()), *sys.path]
            # In a group of its own, where Ctrl-C does not reach it.
            seat.process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()], process_group=0)
        seat.waiting, seat.beat = {"ready"}, -1
        self._expect(seat, START_SECONDS + self.timeout)
        try:
            seat.pipe.send_bytes(self.jobs[seat.index])
            send_handle(seat.pipe, self.published.shared.handle, seat.process.pid)
        except OSError:
            pass  # it has died, and is found so when it is heard

    def _furnish(self, seat: Seat) -> None:
        steps = self.steps[seat.index]
        if seat.memories is None:
            seat.memories = Memories(self.facts[seat.index], steps, self.num_slots, batched=True)
        self._send(seat, (steps, self.num_slots))
        try:
            send_handle(seat.pipe, seat.memories.shared.handle, seat.process.pid)
        except OSError:
            pass

    def _restore(self, seat: Seat) -> None:
        part = self.part(seat.index)
        seat.waiting.add("restored")
        self._expect(seat, self.timeout)
        self._send(seat, ("restore", part))

    def _send(self, seat: Seat, message: Any) -> None:
        if self.closed:
            raise HostError(f"{self.what} is closed; make it anew")
        try:
            seat.pipe.send_bytes(pickle.dumps(message))
        except OSError:
            pass

    def _expect(self, seat: Seat, seconds: float) -> None:
        seat.seen, seat.lasts = time.monotonic(), seconds

    def _hear(self) -> None:
        """Take in a message of each worker that has one; look after the others."""
        if self.closed:
            raise HostError(f"{self.what} is closed; make it anew")
        try:
            pipes: dict[Any, Seat] = {seat.pipe: seat for seat in self.seats}
            pipe: Any
            for pipe in multiprocessing.connection.wait(list(pipes), min(1.0, self.timeout / 4)):
                if pipes[pipe].pipe is pipe and pipe.poll():  # else it was heard while another worker was started anew
                    self._receive(pipes[pipe])
            now = time.monotonic()
            for seat in self.seats:
                beat = seat.memories.beat[0] if seat.memories is not None else 0
                if beat != seat.beat or not self._busy(seat):
                    seat.beat, seat.seen = beat, now
                elif now - seat.seen > seat.lasts:
                    self._lost(seat, self._hangs(seat))
        except BaseException:  # an interrupt, too: later batches would be taken for earlier ones
            self.close()
            raise

    def _receive(self, seat: Seat) -> None:
        try:
            kind, *rest = pickle.loads(seat.pipe.recv_bytes())
        except (EOFError, OSError):
            self._lost(seat, self._death(seat))
            return
        if kind == "failed":
            raise self._failure(seat, *rest)
        self._expect(seat, self.timeout)
        if kind == "collected":
            seat.restarts = 0
            self.done.append(Done(seat.index, *rest))
            return
        seat.waiting.discard(kind)
        if kind == "ready":
            (facts,) = rest
            first = next((known for known in self.facts if known is not None), facts)
            mine, others = ({"transition": each.transition, "after": each.after} for each in (facts, first))
            if tree.structure(mine) != tree.structure(others) or tree.leaves(mine) != tree.leaves(others):
                raise ValueError(
                    f"{self.what}: create_env: expected environments whose steps are alike; got {_words(mine)} of {facts.name} "
                    f"(worker {seat.index}), and {_words(others)} of {first.name}"
                )
            self.facts[seat.index] = facts
            if self.steps:  # it is in the place of one that was lost
                self._furnish(seat)
                self._restore(seat)
                for slot, number in seat.owed:
                    self._send(seat, ("collect", slot, number))

    def _failure(self, seat: Seat, text: str, trace: str) -> HostError:
        error = HostError(f"{self.who(seat)}: {text}; all workers are ended: make the collector anew")
        error.add_note(f"In the worker process:\n{trace}")
        return error

    def _death(self, seat: Seat) -> str:
        try:
            code = seat.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "hung up"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _hangs(self, seat: Seat) -> str:
        doing = "the start" if "ready" in seat.waiting else f"a step or reset (its {seat.beat}th)"
        return f"did not get on with {doing} for {seat.lasts:g} s"

    def _lost(self, seat: Seat, how: str) -> None:
        """Start a lost worker anew, or raise."""
        doing = f" in its batch {seat.owed[0][1]}" if seat.owed else ""
        story = f"{self.who(seat)} {how}{doing}"
        if not self.restart or "ready" in seat.waiting:
            remedy = "" if self.restart else ", with restart_workers=True to go on without it, or a longer timeout if it was only slow"
            raise HostError(f"{story}; all workers are ended: make the collector anew{remedy}")
        if seat.restarts == MAX_RESTARTS:
            raise HostError(f"{story}, for the {MAX_RESTARTS + 1}th time without a batch; all workers are ended")
        seat.restarts += 1
        self.restarts += 1
        _end([seat])
        # What it had finished is asked for again: it begins after the last batch that was taken.
        self.done = deque(done for done in self.done if done.worker != seat.index)
        self._start(seat)  # _receive goes on from here


def _words(specs: Any) -> str:
    leaves = zip(tree.paths(specs), tree.leaves(specs), strict=True)
    return ", ".join(f"{path} {str(leaf.dtype).removeprefix('torch.')} {list(leaf.shape)}" for path, leaf in leaves)


def _packed(what: str, job: Job) -> bytes:
    try:
        return cloudpickle.dumps(job)
    except Exception as error:
        for name in ("create_env", "act", "env_params"):
            try:
                cloudpickle.dumps(getattr(job, name))
            except Exception as cause:
                raise TypeError(
                    f"{what}: {name}: it cannot be sent to a worker process ({type(cause).__name__}: {cause}); give a function that makes "
                    "there what it needs"
                ) from error
        raise


def _end(seats: list[Seat]) -> None:
    """End processes: by a signal that lets them close their environments, then by force."""
    seats = [seat for seat in seats if seat.process is not None]
    for end in (lambda process: process.terminate(), lambda process: process.kill()):
        deadline = time.monotonic() + _GRACE_SECONDS
        for seat in seats:
            if seat.process.poll() is None:
                end(seat.process)
        for seat in seats:
            try:
                seat.process.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
    for seat in seats:
        seat.pipe.close()
