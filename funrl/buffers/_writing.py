"""Write operations of buffers: into new tensors, or in place into the tensors of the given state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl.buffers._buffer import Buffer
from funrl.compiler import tracing


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
