"""Exchanges of few bytes between the processes of one machine, by sockets: some 20 µs, while gloo hands over to its threads for 0.4 ms."""

import contextlib
import functools
import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

__all__ = ["connected", "mean", "suits"]

_MOST_PROCESSES, _MOST_BYTES, _PIECE, _TITLE = 8, 1 << 20, 1 << 16, 32
# For so many seconds a process looks for an answer again and again, as to be woken takes a core out of its sleep.
_SPIN = 0.001
# The sockets to the other ranks, in their order; None at the place of this rank. Empty: there are none.
_SOCKETS: list[Any] = []


@contextlib.contextmanager
def connected(rank: int, size: int, timeout: float, gather: Callable[[Any], list[Any]]) -> Iterator[None]:
    """Context in which :func:`mean` works, if the processes are few and on one machine.

    Raises:
        OSError: if a rank does not answer.
    """
    with contextlib.ExitStack() as stack:
        if size <= _MOST_PROCESSES and hasattr(socket, "AF_UNIX"):
            _SOCKETS[:] = _meet(rank, size, timeout, gather)
            for each in _SOCKETS:
                if each is not None:
                    stack.enter_context(each)
            stack.callback(_SOCKETS.clear)
        yield


def _meet(rank: int, size: int, timeout: float, gather: Callable[[Any], list[Any]]) -> list[Any]:
    found: list[Any] = [None] * size
    with tempfile.TemporaryDirectory(prefix="funrl-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = os.path.join(folder, "rank")
        try:
            listener.bind(path)
        except OSError:
            path = ""  # of a folder whose name is too long
        listener.settimeout(timeout)
        listener.listen(size)
        machines, paths = zip(*gather((_machine(), path)), strict=True)
        if len(set(machines)) > 1 or not all(gather(all(map(os.path.exists, paths)))):
            return []
        for other in range(rank):
            found[other] = socket.socket(socket.AF_UNIX)
            found[other].settimeout(timeout)
            found[other].connect(paths[other])
            found[other].sendall(bytes([rank]))
        for _ in range(size - 1 - rank):
            other, _ = listener.accept()
            other.settimeout(timeout)
            found[other.recv(1)[0]] = other
        gather(None)
    for each in found:
        if each is not None:
            each.settimeout(None)  # as Python would ask before each call whether there is something; the system has a limit too
            for way in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                each.setsockopt(socket.SOL_SOCKET, way, struct.pack("ll", int(timeout), int(timeout % 1 * 1e6)))
    return found


def _machine() -> str:
    """Return a name that the machine has until its next start."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    return socket.gethostname()


def suits(x: torch.Tensor) -> bool:
    """Return whether :func:`mean` can and should take this tensor."""
    return bool(_SOCKETS) and x.nbytes <= _MOST_BYTES


def mean(x: torch.Tensor) -> torch.Tensor:
    """Return the mean over the ranks of a tensor that :func:`suits`, of the same bits on each of them.

    Raises:
        OSError: if a rank has ended or does not answer.
        ValueError: if a rank has a tensor of another size or dtype.
    """
    rows, memories = _rows(len(_SOCKETS), x.numel(), x.dtype)
    here = _SOCKETS.index(None)
    rows[here].copy_(x.detach().reshape(-1))
    others = [(rank, each) for rank, each in enumerate(_SOCKETS) if each is not None]
    # In pieces that fit into the buffers of a socket, as all ranks send before they receive.
    for piece in range(0, len(memories[here]), _PIECE):
        part = slice(piece, piece + _PIECE)
        for _, each in others:
            each.sendall(memories[here][part])
        for rank, each in others:
            _receive(rank, each, memories[rank][part])
            if memories[rank][:_TITLE] != memories[here][:_TITLE]:
                raise ValueError(
                    f"Group.mean: x: rank {rank} gives a tensor of another size or dtype than rank {here}, {x.dtype} {list(x.shape)}; "
                    "each process has to compute the same with its part of the data"
                )
    return (rows.sum(0) / len(rows)).view(x.shape)


@functools.lru_cache(maxsize=32)
def _rows(count: int, size: int, dtype: torch.dtype) -> tuple[torch.Tensor, list[memoryview]]:
    """Return memory for the tensors of all ranks, [W, size], and the bytes of each row, which begin with a title: size and dtype."""
    whole = torch.empty(count, _TITLE + size * dtype.itemsize, dtype=torch.uint8)
    whole[:, :_TITLE] = torch.tensor(list(f"{size} {dtype}".ljust(_TITLE).encode()), dtype=torch.uint8)
    return whole[:, _TITLE:].view(dtype), [row.numpy().data for row in whole]


def _receive(rank: int, each: socket.socket, memory: memoryview) -> None:
    flags, until = socket.MSG_DONTWAIT, time.perf_counter() + _SPIN
    while memory:
        try:
            count = each.recv_into(memory, 0, flags)
        except BlockingIOError:
            if flags == socket.MSG_WAITALL:
                raise  # nothing has come in the time that the socket allows
            flags = socket.MSG_DONTWAIT if time.perf_counter() < until else socket.MSG_WAITALL
            continue
        if not count:
            raise ConnectionError(f"rank {rank} has closed its connection")
        memory = memory[count:]
