"""Buffers that draw every item with the same probability, and queues."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import random
from funrl.buffers._buffer import FRESH, Buffer, RingState, Sample, Storage, Write, buffer_of, check_batch_size, check_capacity
from funrl.buffers._journal import home, take_from_files
from funrl.buffers._order import ordered
from funrl.buffers._ring import adding, append, memory, rows, slots, start


def uniform(capacity: int, *, storage: Storage = memory) -> Buffer:
    """Make a buffer that draws with replacement: each of the ``batch_size`` draws returns any item with probability 1 / size.

    Args:
        capacity: N >= 1 items.
        storage: :data:`memory` of the device, or :func:`files`.

    Returns:
        A :class:`Buffer` whose state is a :class:`RingState`.

    Raises:
        ValueError: if ``capacity`` is not a positive integer; from the buffer: if items do not match the example, or the buffer is empty.

    Example:
        >>> from funrl import random
        >>> buffer = uniform(100)
        >>> state = buffer.init({"a": torch.zeros(3)})
        >>> state = buffer.extend(state, {"a": torch.ones(5, 3)})
        >>> sample = buffer.sample(random.key(0), state, 10)
        >>> sample.batch["a"].shape, buffer.size(state)
        (torch.Size([10, 3]), tensor(5))
    """

    def sample(key: torch.Tensor, state: RingState, batch_size: int) -> Sample:
        check_batch_size("uniform", batch_size, state.size, 1)
        u = random.uniform(key, (batch_size,), dtype=torch.float64)
        # The product is below size, as u is at most 1 - 2**-53.
        index = slots(state, (u * state.size).to(torch.int64))
        return _sample(state, index, (state.size > 0).expand(batch_size))

    return _ring_buffer("uniform", capacity, storage, sample)


def without_replacement(capacity: int, *, storage: Storage = memory) -> Buffer:
    """Make a buffer that draws without replacement: each set of ``batch_size`` items is equally likely.

    ``buffer.sample_epoch(key, state, batch_size, number)`` returns the batches of an epoch, which contains each item once: use one
    key and the numbers 0 to ceil(size / batch_size) - 1. The time of both functions depends on the batch size alone.

    Args:
        capacity, storage: as for :func:`uniform`.

    Returns:
        A :class:`Buffer` whose state is a :class:`RingState`.

    Raises:
        ValueError: as for :func:`uniform`; from ``sample`` also if the buffer holds fewer than ``batch_size`` items.

    Example:
        >>> from funrl import random
        >>> buffer = without_replacement(100)
        >>> state = buffer.extend(buffer.init(torch.zeros(())), torch.arange(5.0))
        >>> buffer.sample(random.key(0), state, 5).batch.sort().values
        tensor([0., 1., 2., 3., 4.])
        >>> epoch = [buffer.sample_epoch(random.key(0), state, 2, number) for number in range(3)]
        >>> epoch[2].weights, torch.cat([sample.batch for sample in epoch])[:5].sort().values
        (tensor([1., 0.]), tensor([0., 1., 2., 3., 4.]))
    """

    def sample(key: torch.Tensor, state: RingState, batch_size: int) -> Sample:
        check_batch_size("without_replacement", batch_size, state.size, batch_size)
        return sample_epoch(key, state, batch_size, 0)

    def sample_epoch(key: torch.Tensor, state: RingState, batch_size: int, number: int | torch.Tensor) -> Sample:
        check_batch_size("without_replacement", batch_size, state.size, 1)
        place = torch.arange(batch_size, device=state.size.device) + number * batch_size
        there = place < state.size
        place = torch.minimum(place, (state.size - 1).clamp(min=0))
        return _sample(state, slots(state, ordered(key, place, state.size)), there)

    return _ring_buffer("without_replacement", capacity, storage, sample)._replace(sample_epoch=sample_epoch)


def first_in_first_out(capacity: int, *, storage: Storage = memory) -> Buffer:
    """Make a queue: ``buffer.take(state, batch_size)`` returns the oldest items and removes them; ``sample`` returns and leaves them.

    The key of ``sample`` is not used. A queue that is full loses its oldest items: compare ``size`` with ``capacity`` before adding.

    Args:
        capacity, storage: as for :func:`uniform`.

    Returns:
        A :class:`Buffer` whose state is a :class:`RingState`.

    Of a queue in files (:func:`~funrl.buffers.files`) take items in place (:func:`~funrl.buffers.in_place`): what was taken is gone for
    every process that opens it.

    Raises:
        ValueError: as for :func:`uniform`; from ``sample`` and ``take`` also if the queue holds fewer than ``batch_size`` items.
        TypeError: from ``take``, if the queue is in files.

    Example:
        >>> buffer = first_in_first_out(100)
        >>> state = buffer.extend(buffer.init(torch.zeros(())), torch.arange(5.0))
        >>> state, sample = buffer.take(state, 2)
        >>> sample.batch, buffer.size(state)
        (tensor([0., 1.]), tensor(3))
    """

    def sample(key: torch.Tensor | None, state: RingState, batch_size: int) -> Sample:
        check_batch_size("first_in_first_out", batch_size, state.size, batch_size)
        order = torch.arange(batch_size, device=state.size.device)
        age = (state.size - 1 - order).clamp(min=0)
        result = _sample(state, slots(state, age), order < state.size)
        return result.replace(probabilities=result.weights)

    def taking(write: Write) -> dict[str, Any]:
        def take(state: RingState, batch_size: int) -> tuple[RingState, Sample]:
            result = sample(None, state, batch_size)
            if home(state.data) == "files":
                if write is FRESH:
                    raise TypeError(
                        "buffers.first_in_first_out: take would leave the items in the files of this queue; "
                        "use that of buffers.in_place(buffer)"
                    )
                take_from_files(state, batch_size)
                return state, result
            return state.replace(size=write.value(state.size, (state.size - batch_size).clamp(min=0))), result

        return {"take": take}

    return _ring_buffer("first_in_first_out", capacity, storage, sample, taking)


def _sample(state: RingState, index: torch.Tensor, there: torch.Tensor) -> Sample:
    weights = there.to(torch.float32)
    probabilities = weights / state.size.clamp(min=1)
    return Sample(rows(state.data, index), index, probabilities, weights)


def _ring_buffer(
    name: str, capacity: int, storage: Storage, sample: Callable[..., Sample], more: Callable[[Write], dict[str, Any]] = lambda write: {}
) -> Buffer:
    """Return a buffer whose state is a ring; ``more(write)`` returns the functions that write, except ``add`` and ``extend``."""
    check_capacity(name, capacity=capacity)

    def writers(write: Write) -> dict[str, Any]:
        return {**adding(name, lambda state: state.data, lambda state, batch: append(write, state, batch)), **more(write)}

    return buffer_of(
        init=lambda example: start(name, example, capacity, storage),
        sample=sample,
        size=lambda state: state.size,
        restore=lambda ring: ring,
        capacity=capacity,
        storage=storage,
        writers=writers,
    )
