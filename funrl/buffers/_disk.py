"""Buffers in memory-mapped files, for data larger than memory.

A folder has one file for each leaf (:func:`funrl.tree.memmap`) and the file ``journal``, which counts the rows ever written. The journal
is written before rows (which ones will be overwritten) and after them (which ones are complete), so that a reader knows which rows are
complete, even if the writer was killed.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from funrl import random, tree
from funrl.buffers._buffer import Buffer, RingState, Sample, Storage
from funrl.buffers._journal import begin, end, read_journal


def files(folder: str | os.PathLike) -> Storage:
    """Store the items of a buffer in memory-mapped files, which may be larger than the memory.

    ``init`` makes the folder, which must not hold a buffer yet; :func:`reopen` opens one that does. Write in place
    (:func:`~funrl.buffers.in_place`): a pure ``extend`` would copy all the data into memory and is refused, and a compiled program that
    is given the state as a donated argument would write past the journal. A written row is not lost if the process is killed; after
    :func:`~funrl.buffers.save` it is not lost in a power failure either. One process writes; others may read at the same time
    (:func:`follow`).

    If the disk is full, or the process is killed while it writes, the rows that were being written are lost, and so are the oldest rows,
    which they were replacing; :func:`reopen` warns about it.

    Example:
        >>> import tempfile
        >>> from funrl import buffers
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     buffer = buffers.in_place(buffers.uniform(1000, storage=buffers.files(folder)))
        ...     state = buffer.init({"x": torch.zeros(3)})
        ...     state = buffer.extend(state, {"x": torch.ones(5, 3)})
        ...     buffer.size(buffers.reopen(buffer, {"x": torch.zeros(3)}))
        tensor(5)
    """
    folder = Path(folder)

    def create(example: Any, capacity: int) -> Any:
        like = _rows_like(example, capacity)
        if all(x.device.type == "meta" for x in tree.leaves(example)):
            return like
        data = tree.memmap_like(like, folder)
        begin(folder, 0)
        end(folder, 0, 0)
        return data

    def read(example: Any, capacity: int) -> tuple[RingState, int]:
        begun, written, size = read_journal(folder)
        whole = min(size, capacity - min(begun - written, capacity))
        data = tree.load_memmap(folder, _rows_like(example, capacity))
        return RingState(data, torch.tensor(written % capacity), torch.tensor(whole)), begun

    def reopened(example: Any, capacity: int) -> RingState:
        (ring, _), (begun, written, size) = read(example, capacity), read_journal(folder)
        if begun != written:
            whole = int(ring.size)
            warnings.warn(
                f"{folder}: the writing of {begun - written} rows was cut off: they are lost, and {size - whole} old rows in their places",
                stacklevel=3,
            )
            end(folder, written, whole)
            begin(folder, written)
        return ring

    return Storage(create, reopened, read)


def _rows_like(example: Any, capacity: int) -> Any:
    return tree.map(lambda x: torch.empty((capacity, *x.shape), dtype=x.dtype, device="meta"), example)


def reopen(buffer: Buffer, example: Any) -> Any:
    """Return the state of a buffer whose files exist, with all complete rows and initial priorities.

    Args:
        buffer: a buffer with ``storage=files(folder)``.
        example: as for ``buffer.init``.

    Raises:
        ValueError: if the storage of the buffer is memory, or the folder has no buffer, a damaged one, or one with other items.

    Warns:
        UserWarning: if rows were lost because their writing was interrupted.

    Example: see :func:`files`.

        >>> from funrl import buffers
        >>> reopen(buffers.uniform(10), torch.zeros(1))
        Traceback (most recent call last):
        ...
        ValueError: buffers.reopen: this buffer is in memory; make it with storage=buffers.files(folder)
    """
    if buffer.storage.open is None:
        raise ValueError("buffers.reopen: this buffer is in memory; make it with storage=buffers.files(folder)")
    return buffer.restore(buffer.storage.open(buffer.kept(example), buffer.capacity))


def follow(buffer: Buffer, example: Any) -> Callable[[torch.Tensor, int], Sample]:
    """Return a function ``sample(key, batch_size)`` over files that another process is writing.

    Each call draws from the rows that exist at that time. Rows that the writer overwrites in the meantime are drawn again, so that all
    rows of a batch are complete.

    Args:
        buffer: a buffer of single items with the storage and capacity of the writer's. Items are drawn uniformly, as the writer's
            priorities are not in the files.
        example: as for ``buffer.init``.

    Raises:
        ValueError: as :func:`reopen`; from the function: as ``buffer.sample``.

    Example:
        >>> import tempfile
        >>> from funrl import buffers, random
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     buffer = buffers.in_place(buffers.uniform(1000, storage=buffers.files(folder)))
        ...     state = buffer.init(torch.zeros(()))
        ...     sample = follow(buffer, torch.zeros(()))
        ...     state = buffer.extend(state, torch.full((5,), 7.0))
        ...     sample(random.key(0), 2).batch
        tensor([7., 7.])
    """
    read = buffer.storage.read
    if read is None:
        raise ValueError("buffers.follow: this buffer is in memory; make it with storage=buffers.files(folder)")

    def sample(key: torch.Tensor, batch_size: int) -> Sample:
        for attempt in range(1000):
            ring, before = read(buffer.kept(example), buffer.capacity)
            result = buffer.sample(random.fold_in(key, attempt), buffer.restore(ring), batch_size)
            if type(result) is not Sample:
                raise TypeError("buffers.follow: expected a buffer of single items, such as uniform; got one of sequences")
            after = read(buffer.kept(example), buffer.capacity)[1]
            if after == before:
                return result
            # The rows at the places [before, after) may be old or new.
            place = (result.indices - before) % buffer.capacity
            if after - before < buffer.capacity and not bool((place < after - before).any()):
                return result
        raise ValueError(f"buffers.follow: the writer overwrites all {buffer.capacity} rows faster than {batch_size} can be read")

    return sample
