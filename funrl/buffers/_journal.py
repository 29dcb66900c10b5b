"""The files of a buffer: files of rows, and a journal of the rows that are being written and of those that are complete."""

import ctypes
import os
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import torch

from funrl import tree
from funrl._files import naming
from funrl.buffers._buffer import RingState
from funrl.compiler import tracing

_JOURNAL = "journal"
_TRIES = 1000  # milliseconds to wait for another process that is writing the journal
_RECORD = struct.Struct("<qqI")  # rows, size, checksum; one record for begun rows, one for finished rows
_DONTNEED = 4  # of madvise(2)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def begin(folder: Path, rows: int) -> None:
    """Record that all rows up to this number, counted from the first one ever, are complete or being written."""
    _write_record(folder, 0, rows, 0)


def end(folder: Path, rows: int, size: int) -> None:
    """Record that all rows up to this number are complete, and how many of them are still in the buffer."""
    _write_record(folder, _RECORD.size, rows, size)


def _write_record(folder: Path, place: int, rows: int, size: int) -> None:
    file = os.open(folder / _JOURNAL, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with naming(folder / _JOURNAL):
            _write_at(file, _RECORD.pack(rows, size, zlib.crc32(struct.pack("<qq", rows, size))), place)
    finally:
        os.close(file)


def _write_at(file: int, data: Any, place: int) -> None:
    data = memoryview(data)
    while data:
        n = os.pwrite(file, data, place)
        data, place = data[n:], place + n


def read_journal(folder: Path) -> tuple[int, int, int]:
    """Return the number of begun rows, the number of finished rows, and the size."""
    for _ in range(_TRIES):
        try:
            with open(folder / _JOURNAL, "rb") as file:
                text = file.read(2 * _RECORD.size + 1)
        except FileNotFoundError:
            raise ValueError(f"{folder}: there is no buffer here (no {_JOURNAL}); make one with init") from None
        if len(text) == 2 * _RECORD.size:
            records = [text[: _RECORD.size], text[_RECORD.size :]]
            (begun, _, first), (written, size, second) = map(_RECORD.unpack, records)
            whole = [first, second] == [zlib.crc32(record[:16]) for record in records]
            if whole and 0 <= written <= begun and 0 <= size:
                return begun, written, size
        time.sleep(0.001)  # another process may be writing it
    raise ValueError(f"{folder}: the journal of the buffer is damaged; make a new buffer in another folder")


def home(data: Any) -> str:
    """Return the location of a tree: "files", "host" (memory), or "device", which includes tensors of programs and transforms."""
    if tracing():
        return "device"
    while type(data) is not torch.Tensor:
        data = tree.leaves(data)[0]
    if data.device.type != "cpu":
        return "device"
    try:
        return "host" if data.untyped_storage().filename is None else "files"
    except NotImplementedError:  # a transform's tensor, which has no storage
        return "device"


def append_to_files(ring: RingState, batch: list[torch.Tensor], n: int) -> None:
    """Write the last rows of n, leaves [k, ...], to the files of a ring, and move its cursor and size in place."""
    leaves = tree.leaves(ring.data)
    capacity = leaves[0].shape[0]
    folder, written = _current(ring, "extend")
    kept = batch[0].shape[0]
    begin(folder, written + n)
    first = (written + n - kept) % capacity
    try:
        for x, values in zip(leaves, batch, strict=True):
            row = x[0].numel() * x.element_size()
            content = values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data if values.numel() else b""
            head = min(kept, capacity - first) * row
            name = x.untyped_storage().filename
            with naming(name), open(name, "r+b", buffering=0) as file:
                _write_at(file.fileno(), content[:head], first * row)
                _write_at(file.fileno(), content[head:], 0)
    except OSError:
        # The old rows at those places may be damaged.
        ring.size.clamp_(max=capacity - min(n, capacity))
        end(folder, written, int(ring.size))
        begin(folder, written)
        raise
    end(folder, written + n, min(int(ring.size) + n, capacity))
    ring.cursor.copy_((ring.cursor + n) % capacity)
    ring.size.copy_((ring.size + n).clamp(max=capacity))


def take_from_files(ring: RingState, n: int) -> None:
    """Remove the n oldest rows of a ring: record it in the files for every process, and change the size in place."""
    size = max(int(ring.size) - n, 0)
    folder, written = _current(ring, "take")
    end(folder, written, size)
    ring.size.fill_(size)


def _current(ring: RingState, what: str) -> tuple[Path, int]:
    """Return the folder of a ring, and the number of rows ever written; raise unless the ring is the latest state."""
    first = tree.leaves(ring.data)[0]
    folder = Path(first.untyped_storage().filename).parent
    _, written, _ = read_journal(folder)
    if written % first.shape[0] != int(ring.cursor):
        raise ValueError(f"{folder}: the files were written since this state was; use the state that {what} returned, or reopen them")
    return folder, written


def release(data: Any) -> None:
    """Return the cached pages of read rows to the system, which would otherwise hold them as long as there is free memory."""
    if _libc is not None:
        for x in tree.leaves(data):
            if x.nbytes:
                _libc.madvise(ctypes.c_void_p(x.data_ptr()), ctypes.c_size_t(x.nbytes), _DONTNEED)


def flush(data: Any) -> int:
    """Flush all rows to the disk, and return the number of rows ever written."""
    names = [x.untyped_storage().filename for x in tree.leaves(data)]
    folder = Path(names[0]).parent
    for name in (*names, folder / _JOURNAL):
        with open(name, "rb") as file:
            os.fsync(file.fileno())
    return read_journal(folder)[1]
