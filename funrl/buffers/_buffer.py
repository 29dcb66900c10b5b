"""The interface of replay buffers: pure functions over a state, the data that they return, and how they write."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _check, tree
from funrl.compiler import tracing
from funrl.typing import Key, State


@tree.dataclass
class Sample(tree.Replaceable):
    """Items drawn from a buffer.

    Attributes:
        batch: the items, leaves [B, ...] ([T, B, ...] from a buffer of sequences).
        indices: int64 [B], the places of the items in the buffer, for ``update_priority``. In a prioritised buffer, the index is the slot
            plus N times the number of times that the buffer had been filled before, so that every item has a unique index.
        probabilities: float32 [B], the probability of a draw to return this item.
        weights: float32 [B], the importance weight of the item in a loss, at most 1. It is 0 for padding: in a compiled program, whose
            shapes cannot depend on values, the rows beyond the items of the buffer.
    """

    batch: Any
    indices: torch.Tensor
    probabilities: torch.Tensor
    weights: torch.Tensor


@tree.dataclass
class RingState(tree.Replaceable):
    """Ring of rows, in the order of their insertion up to the cursor.

    Attributes:
        data: the items, leaves [N, ...].
        cursor: int64 [], in [0, N), the slot of the next row.
        size: int64 [], in [0, N], the number of rows before the cursor that are items.
    """

    data: Any
    cursor: torch.Tensor
    size: torch.Tensor


class Storage(NamedTuple):
    """Storage of a buffer's items.

    Attributes:
        create: ``create(example, capacity) -> data``: zeros, leaves [N, ...].
        open: ``open(example, capacity) -> RingState``: the existing items. None: the storage ends with the process.
        read: ``read(example, capacity) -> (RingState, rows)``: the existing items, without any change to them, and the number of rows
            ever written.
    """

    create: Callable[[Any, int], Any]
    open: Callable[[Any, int], Any] | None = None
    read: Callable[[Any, int], tuple[Any, int]] | None = None


def _itself(item: Any) -> Any:
    return item


class Buffer(NamedTuple):
    """A replay buffer: functions that take a state and return a new one.

    All are pure, and run eagerly, under :func:`torch.func.vmap` (a buffer for each agent) and in compiled programs. Eagerly, ``extend``
    copies the whole buffer. Two ways do not: in a compiled program, donate the state (:func:`funrl.compile`); in a host loop, use the
    buffer that :func:`in_place` makes of this one.

    When the buffer is full, new items replace the oldest. Items carry no gradient. The functions always check structure, shapes and
    dtypes, and check values where they are known: on the CPU, outside compiled programs and vmap.

    Attributes:
        init: ``init(example) -> state``, an empty state; only structure, shapes, dtypes and device of the example, one item, matter.
        add: ``add(state, item) -> state``.
        extend: ``extend(state, batch) -> state``; leaves [n, ...], the oldest item first.
        sample: ``sample(key, state, batch_size) -> Sample``.
        size: ``size(state) -> int64 []``, the number of items that can be drawn.
        can_sample: ``can_sample(state, batch_size) -> bool []``: whether there are at least ``batch_size`` of them.
        restore: ``restore(ring) -> state``: a state of existing items, as if they had just been added.
        capacity: N, in items (in steps of each environment for sequences).
        storage: the storage of the items.
        kept: ``kept(item) -> row``: return the part of an item that is stored.
        update_priority: prioritised buffers: ``update_priority(state, indices, priority) -> state``; overwritten items are ignored.
        sample_epoch: ``sample_epoch(key, state, batch_size, number) -> Sample``: the batch with this number in an epoch that contains each
            item once, in a random order given by the key; rows beyond the last item have weight 0.
        num_envs: buffers of the transitions of E environments in turn: E; None: the order of the items has no meaning.
        take: queues: ``take(state, batch_size) -> (state, Sample)`` removes the oldest items.
        writers: ``writers(write) -> dict``: the functions above that write, by their names, for one way of writing; see :func:`in_place`.
    """

    init: Callable[[Any], State]
    add: Callable[[State, Any], State]
    extend: Callable[[State, Any], State]
    sample: Callable[[Key, State, int], Any]
    size: Callable[[State], torch.Tensor]
    can_sample: Callable[[State, int], torch.Tensor]
    restore: Callable[[Any], State]
    capacity: int
    storage: Storage
    kept: Callable[[Any], Any] = _itself
    update_priority: Callable[..., Any] | None = None
    sample_epoch: Callable[..., Sample] | None = None
    take: Callable[..., Any] | None = None
    num_envs: int | None = None
    writers: Callable[[Any], dict[str, Any]] | None = None


def check_capacity(name: str, **sizes: Any) -> None:
    """Raise unless the sizes are integers of at least 1.

    Example:
        >>> check_capacity("uniform", capacity=0)
        Traceback (most recent call last):
        ...
        ValueError: buffers.uniform: capacity: expected an integer of at least 1, got 0
    """
    for argument, n in sizes.items():
        _check.integer(f"buffers.{name}: {argument}", n, 1)


def check_batch_size(name: str, batch_size: Any, size: torch.Tensor, at_least: int) -> None:
    """Raise unless ``batch_size`` is an integer of at least 1 and, if the size is known, the buffer holds ``at_least`` items.

    Example:
        >>> check_batch_size("uniform", 2, torch.tensor(0), 1)
        Traceback (most recent call last):
        ...
        ValueError: buffers.uniform: sample: the buffer is empty; add to it, and ask can_sample first
    """
    if callable(size):  # the method of a tensor: the arguments were swapped
        _check.fail(TypeError, f"buffers.{name}: sample: state", "that of a buffer", "a tensor", "write sample(key, state, batch_size)")
    _check.integer(f"buffers.{name}: sample: batch_size", batch_size, 1)
    if _check.seen(lambda: size < at_least):
        if _check.seen(lambda: size < 1):
            raise ValueError(f"buffers.{name}: sample: the buffer is empty; add to it, and ask can_sample first")
        raise ValueError(
            f"buffers.{name}: sample: batch_size is {batch_size}, but the buffer holds {int(size)} items; ask can_sample first"
        )


class Write(NamedTuple):
    """Functions that write to tensors: to copies of them (FRESH), or in place (IN_PLACE).

    Attributes:
        rows: ``rows(x, index, values)``: x with x[index] = values, for 0 <= index < N.
        value: ``value(old, new)``: new.
    """

    rows: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    value: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _fresh_rows(x: torch.Tensor, index: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    # With a separate index for each of several buffers, vmap turns index_copy into a scatter, for which a compiled program copies all of
    # them. In eager mode only index_copy guarantees that the last of equal indices is written.
    return x.index_put((index,), values) if tracing() else x.index_copy(0, index, values)


FRESH = Write(_fresh_rows, lambda old, new: new)
IN_PLACE = Write(lambda x, index, values: x.index_copy_(0, index, values), lambda old, new: old.copy_(new))


def buffer_of(size: Callable[[Any], torch.Tensor], writers: Callable[[Write], dict[str, Callable[..., Any]]], **functions: Any) -> Buffer:
    """Return the buffer of these functions that writes into new tensors, and can be sampled once it has ``batch_size`` items."""

    def can_sample(state: Any, batch_size: int) -> torch.Tensor:
        return size(state) >= batch_size

    return Buffer(size=size, can_sample=can_sample, writers=writers, **writers(FRESH), **functions)


def in_place(buffer: Buffer) -> Buffer:
    """Return the buffer whose functions write into the tensors of the state that they are given, and return that state.

    It is for host loops: eagerly, a pure ``extend`` copies the whole buffer. In a compiled program, donate the state instead
    (:func:`funrl.compile`). ``add``, ``extend``, ``update_priority`` and ``take`` give the same numbers as those of ``buffer``.

    Args:
        buffer: any :class:`Buffer` of this package.

    Returns:
        A :class:`Buffer` with the same states; all that does not write is that of ``buffer``.

    Raises:
        ValueError: if the buffer has no ``writers``.

    Example:
        >>> from funrl import buffers
        >>> buffer = in_place(buffers.uniform(3))
        >>> state = buffer.init(torch.zeros(()))
        >>> _ = buffer.extend(state, torch.arange(4.0))
        >>> state.data, state.size
        (tensor([3., 1., 2.]), tensor(3))
    """
    if buffer.writers is None:
        raise ValueError("buffers.in_place: buffer: expected one with writers, as those of funrl.buffers have, got None; give it some")
    return buffer._replace(**buffer.writers(IN_PLACE))
