"""The processes of a job: their variables, their rendezvous, and what they exchange on the host."""

import concurrent.futures
import contextlib
import datetime
import functools
import os
import pickle
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from funrl import _check
from funrl.distributed import _direct

__all__ = ["DistributedError", "Group", "alone", "in_job", "join", "restarts"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_GRACE_SECONDS = 2.0


class DistributedError(RuntimeError):
    """Error: the processes of a job cannot begin together or go on together. The message names the variable or the ranks."""


class Group(NamedTuple):
    """The processes of a job. :func:`join` returns one; :func:`alone` is a job of one process.

    Attributes:
        rank: the number of this process, from 0.
        size: W, the number of processes.
        timeout: the seconds after which a process that does not answer is an error.
    """

    rank: int = 0
    size: int = 1
    timeout: float = 60.0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order, on each rank. Each of them has to call it.

        Args:
            value: any object that can be pickled.

        Raises:
            DistributedError: if a rank has ended, or does not call it within ``timeout`` seconds; rank 0 names it.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with named_faults(self):
            dist.monitored_barrier(timeout=datetime.timedelta(seconds=self.timeout), wait_all_ranks=True)
            dist.all_gather_object(values, value)
        return values

    def first(self, f: Callable[[], Any]) -> Any:
        """Call ``f`` on rank 0, and return its result on each rank; an exception is raised on each rank.

        Raises:
            DistributedError: as for :meth:`gather`.
        """
        if self.size == 1:
            return f()
        result: Any = None
        if self.rank == 0:
            try:
                result = (f(), None)
            except Exception as error:
                self.gather((None, _sendable(error)))
                raise
        result, error = self.gather(result)[0]
        if error is not None:
            error.add_note(_ELSEWHERE)
            raise error
        return result

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean over the ranks of a tensor on the CPU, of the same shape and dtype on each rank.

        Raises:
            DistributedError: if a rank has ended, or does not call it within ``timeout`` seconds.
            ValueError: if a rank gives a tensor of another size or dtype.
        """
        if self.size == 1:
            return x
        begun = time.perf_counter()
        with named_faults(self):
            if _direct.suits(x):
                result = _direct.mean(x)
            else:
                total = x.clone(memory_format=torch.contiguous_format)
                dist.all_reduce(total)
                result = total / self.size
        _SPENT[0] += time.perf_counter() - begun
        return result


def _sendable(error: Exception) -> Exception:
    """Return an error that another process can read: itself, or one with its text."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


_ELSEWHERE = "raised on rank 0"
_SPENT = [0.0]


def seconds_of_exchanges() -> float:
    """Return the seconds that this process has spent in :meth:`Group.mean`, most of them in waiting for others."""
    return _SPENT[0]


def raised_on_rank_0(error: BaseException) -> bool:
    """Return whether rank 0 raises this error too, so that the other ranks need not print it."""
    return _ELSEWHERE in getattr(error, "__notes__", ())


def alone() -> Group:
    """Return a job of this process only.

    Example:
        >>> alone().gather("x")
        ['x']
    """
    return Group()


@contextlib.contextmanager
def named_faults(group: Group) -> Iterator[None]:
    """Context in which an error of torch.distributed or of a socket is raised as a :class:`DistributedError`."""
    if not dist.is_initialized():
        raise DistributedError(f"rank {group.rank} of {group.size}: its job has ended or never began; use a group within distributed.join")
    try:
        yield
    except DistributedError:
        raise
    except (RuntimeError, OSError) as error:
        ranks = re.search(r"Ranks? ([\d, ]+) failed to pass", str(error))
        who = f"rank {ranks[1].strip(' ,')} has ended or does not answer" if ranks else "another rank has ended or does not answer"
        raise DistributedError(
            f"rank {group.rank} of {group.size}: {who} (timeout {group.timeout:g} s): {brief(error)}; start the job again and let "
            "it resume from its last checkpoint (--resume); torchrun --max-restarts does that by itself"
        ) from error


def brief(error: BaseException) -> str:
    """Return the beginning of an error of torch, on one line."""
    return " ".join(str(error).split("Exception raised from")[0].split())[:200].rstrip(" .:")


class _Job(NamedTuple):
    """The place of a process in a job, from the variables of its launcher."""

    rank: int
    size: int
    host: str
    port: int
    attempt: int = 0
    agent: bool = False  # whether the launcher has the store


def in_job(variables: Mapping[str, str] | None = None) -> bool:
    """Return whether a launcher started this process as one of several: torchrun, SLURM's srun or :func:`launch`.

    Args:
        variables: the environment's variables; None: those of this process.

    Example:
        >>> in_job({}), in_job({"RANK": "0", "WORLD_SIZE": "2"}), in_job({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"})
        (False, True, True)
    """
    given = os.environ if variables is None else variables
    return "WORLD_SIZE" in given or (int(given.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in given)


def restarts() -> int:
    """Return how often torchrun has restarted this job.

    Example:
        >>> restarts()
        0
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _job(given: Mapping[str, str]) -> _Job:
    if "WORLD_SIZE" in given:
        rank, size = _whole(given, "RANK"), _whole(given, "WORLD_SIZE")
        if "MASTER_ADDR" not in given:
            raise DistributedError(
                "MASTER_ADDR: it is not set, so the processes do not know where rank 0 is; set it to the host of rank 0 (127.0.0.1 on one "
                "machine), or start them with torchrun, which sets it"
            )
        agent = given.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        job = _Job(rank, size, given["MASTER_ADDR"], _whole(given, "MASTER_PORT"), int(given.get("TORCHELASTIC_RESTART_COUNT", "0")), agent)
    elif "SLURM_PROCID" in given:
        port = _whole(given, "MASTER_PORT" if "MASTER_PORT" in given else "SLURM_JOB_ID")
        port = port if "MASTER_PORT" in given else 20_000 + port % 20_000
        host = given.get("MASTER_ADDR") or _first_host(given)
        job = _Job(_whole(given, "SLURM_PROCID"), _whole(given, "SLURM_NTASKS"), host, port, int(given.get("SLURM_RESTART_COUNT", "0")))
    else:
        raise DistributedError(
            "WORLD_SIZE: it is not set, so this process is not one of several; start them with torchrun --nproc-per-node N, with srun, or "
            "with funrl.distributed.launch"
        )
    if job.size < 1:
        raise DistributedError(f"WORLD_SIZE: expected at least 1, got {job.size}")
    if not 0 < job.port < 1 << 16:
        raise DistributedError(f"MASTER_PORT: expected a number from 1 to 65535, got {job.port}")
    if not 0 <= job.rank < job.size:
        raise DistributedError(f"RANK: expected a number from 0 to {job.size - 1} (WORLD_SIZE is {job.size}), got {job.rank}")
    return job


def _whole(given: Mapping[str, str], name: str) -> int:
    value = given.get(name)
    if value is None or not value.isdecimal():
        got = "it is not set" if value is None else f"expected a whole number, got {value!r}"
        raise DistributedError(f"{name}: {got}; start the processes with torchrun, which sets it")
    return int(value)


def _first_host(given: Mapping[str, str]) -> str:
    """Return the host of rank 0 in a list of SLURM, such as "node[003-005,7],other"."""
    hosts = given.get("SLURM_STEP_NODELIST") or given.get("SLURM_JOB_NODELIST") or ""
    if int(given.get("SLURM_NNODES", "1")) == 1 or not hosts:
        return "127.0.0.1"
    return re.sub(r"^([^\[,]+)\[(\d+)[^\]]*\].*", r"\1\2", hosts).split(",")[0]


@contextlib.contextmanager
def join(*, timeout: float = 60.0, variables: Mapping[str, str] | None = None) -> Iterator[Group]:
    """Context in which this process is one of the processes that torchrun, SLURM or :func:`launch` started.

    They meet at MASTER_ADDR and MASTER_PORT, and then speak to each other by torch.distributed (gloo). With SLURM, MASTER_ADDR is the
    first host of the job by default, and MASTER_PORT follows from its number. The process ends when its launcher does.

    Args:
        timeout: the seconds within which all processes have to come, and to answer later.
        variables: the environment's variables; None: those of this process.

    Yields:
        A :class:`Group`.

    Raises:
        DistributedError: if a variable is missing or wrong, or a process does not come in time; the message names it.
        ValueError: if ``timeout`` is not above 0.

    Example:
        >>> with join(variables={"RANK": "0", "WORLD_SIZE": "2"}):
        ...     pass
        Traceback (most recent call last):
        ...
        funrl.distributed._group.DistributedError: MASTER_ADDR: it is not set, so the processes do not know where rank 0 is; ...
    """
    _check.number("distributed.join: timeout", timeout, "(0, inf)", "give seconds")
    job = _job(os.environ if variables is None else variables)
    group = Group(job.rank, job.size, float(timeout))
    if job.size == 1:
        yield group
        return
    if dist.is_initialized():
        raise DistributedError("distributed.join: this process is in a job already; use its group, or leave that job first")
    end_with_parent(os.getppid())
    if job.host in _LOOPBACK:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    _in_time(functools.partial(_begin, job, group), group.timeout + _GRACE_SECONDS, job)
    try:
        with contextlib.ExitStack() as stack:
            with named_faults(group):
                stack.enter_context(_direct.connected(group.rank, group.size, group.timeout, group.gather))
            yield group
            group.gather(None)  # no process leaves, and closes its connections, before all have what they asked for
    finally:
        dist.destroy_process_group()


def _in_time(f: Callable[[], None], seconds: float, job: _Job) -> None:
    """Call ``f``, which waits for others within torch where nothing interrupts it, and leave it there after so many seconds."""
    ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        try:
            ended.set_result(f())
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        ended.result(seconds)
    except TimeoutError:
        raise DistributedError(
            f"rank {job.rank} of {job.size}: no rendezvous at {job.host}:{job.port} within {seconds:g} s: no answer; check MASTER_ADDR and "
            "MASTER_PORT, and that rank 0 runs there"
        ) from None


def _begin(job: _Job, group: Group) -> None:
    store, span = _meet(job, group), datetime.timedelta(seconds=group.timeout)
    try:
        dist.init_process_group("gloo", store=store, rank=job.rank, world_size=job.size, timeout=span)
    except RuntimeError as error:
        raise DistributedError(f"rank {job.rank} of {job.size}: the ranks cannot reach each other: {brief(error)}") from error


def _meet(job: _Job, group: Group) -> Any:
    """Return the store of the job, once all ranks have come."""
    span, deadline = datetime.timedelta(seconds=group.timeout), time.monotonic() + group.timeout
    place, missing = f"{job.host}:{job.port}", []
    who = f"rank {job.rank} of {job.size}"
    try:
        whole = TCPStore(job.host, job.port, None, job.rank == 0 and not job.agent, span, wait_for_workers=False)
        store = PrefixStore(f"funrl/{job.attempt}", whole)
        names = [f"rank/{rank}" for rank in range(job.size)]
        if store.add(f"taken/{job.rank}", 1) > 1:
            raise DistributedError(f"RANK: two processes of the job at {place} have the rank {job.rank}; give each a rank of its own")
        store.set(names[job.rank], f"{socket.gethostname()} {job.size}")
        while missing := [name for name in names if not store.check([name])]:
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.02)
        sizes = {int(store.get(name).decode().rsplit(" ", 1)[1]) for name in names}
    except (RuntimeError, OSError) as error:
        if isinstance(error, DistributedError):
            raise
        if missing:  # rank 0, which has the store, may have left before this one
            ranks = ", ".join(name.removeprefix("rank/") for name in missing)
            raise DistributedError(
                f"{who}: rank {ranks} did not come to {place} within {group.timeout:g} s; start {job.size} processes, or set WORLD_SIZE to "
                "their number"
            ) from None
        raise DistributedError(
            f"{who}: no rendezvous at {place} within {group.timeout:g} s: {brief(error)}; check MASTER_ADDR and MASTER_PORT, and that "
            "rank 0 runs there"
        ) from error
    if len(sizes) > 1:
        raise DistributedError(f"WORLD_SIZE: expected one number in all processes, got {sorted(sizes)}; give each the same")
    return store


def end_with_parent(parent: int, folder: str | None = None) -> None:
    """End this process when the launcher has ended, as no other process would end it then; remove a folder of the launcher."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def share(what: str, of: Sequence[Any], group: Group, noun: str, remedy: str) -> Sequence[Any]:
    """Return the part of a sequence that belongs to this rank.

    Raises:
        ValueError: if the number of ranks does not divide its length.
    """
    if len(of) % group.size:
        raise ValueError(f"{what}: {group.size} processes do not divide {len(of)} {noun}; {remedy}")
    each = len(of) // group.size
    return of[group.rank * each : (group.rank + 1) * each]
