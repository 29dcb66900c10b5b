"""A buffer of Python objects, on the host."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from funrl import random, tree
from funrl.buffers._buffer import FRESH, Buffer, Sample, Storage, Write, buffer_of, check_batch_size, check_capacity


class Shelf:
    """A list that functions of trees treat as one leaf."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __repr__(self) -> str:
        return f"Shelf of {len(self.items)}"


@tree.dataclass
class ObjectsState:
    """Ring of Python objects, in the order of their insertion up to the cursor.

    Attributes:
        shelf: the :class:`Shelf` of at most N objects.
        cursor: int64 [], the slot of the next object.
    """

    shelf: Shelf
    cursor: torch.Tensor


def objects(capacity: int, *, postprocess: Callable[[list[Any]], Any] | None = None) -> Buffer:
    """Make a buffer of Python objects, which draws with replacement. It works on the host only, not under vmap or in compiled programs.

    Args:
        capacity: N >= 1 objects.
        postprocess: a function of each drawn list, such as :func:`funrl.tree.stack`.

    Returns:
        A :class:`Buffer` whose state is an :class:`ObjectsState`; its ``init`` needs no example, and ``sample.batch`` is a list.

    Raises:
        ValueError: if ``capacity`` is not a positive integer; from ``sample``: if the buffer is empty.

    Example:
        >>> buffer = objects(100)
        >>> state = buffer.add(buffer.init(), 1)
        >>> buffer.sample(random.key(0), state, 1).batch
        [1]
        >>> buffer.size(buffer.extend(state, ["two", None]))
        tensor(3)
    """
    check_capacity("objects", capacity=capacity)

    def init(example: Any = None) -> ObjectsState:
        return ObjectsState(Shelf([]), torch.zeros((), dtype=torch.int64))

    def writers(write: Write) -> dict[str, Any]:
        def extend(state: ObjectsState, batch: Iterable[Any]) -> ObjectsState:
            batch = list(batch)
            if write is FRESH:
                state = ObjectsState(Shelf(list(state.shelf.items)), state.cursor.clone())
            for item in batch:
                if len(state.shelf.items) < capacity:
                    state.shelf.items.append(item)
                else:
                    state.shelf.items[int(state.cursor)] = item
                state.cursor.copy_((state.cursor + 1) % capacity)
            return state

        return {"add": lambda state, item: extend(state, [item]), "extend": extend}

    def size(state: ObjectsState) -> torch.Tensor:
        return torch.tensor(len(state.shelf.items))

    def sample(key: torch.Tensor, state: ObjectsState, batch_size: int) -> Sample:
        check_batch_size("objects", batch_size, size(state), 1)
        index = random.randint(key, (batch_size,), 0, len(state.shelf.items))
        batch: Any = [state.shelf.items[i] for i in index.tolist()]
        weights = torch.ones(batch_size)
        return Sample(batch if postprocess is None else postprocess(batch), index, weights / len(state.shelf.items), weights)

    def restore(ring: ObjectsState) -> ObjectsState:
        return ring

    return buffer_of(
        init=init,
        sample=sample,
        size=size,
        restore=restore,
        capacity=capacity,
        storage=Storage(lambda example, capacity: None),
        writers=writers,
    )
