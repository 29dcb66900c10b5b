"""Priorities, as prioritised items and prioritised slices use them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _check, random, tree
from funrl.buffers._buffer import IN_PLACE, RingState, Write
from funrl.buffers._journal import home
from funrl.buffers._ring import capacity_of
from funrl.buffers._sums import SumTree, find, put, put_on_host, total


@tree.dataclass
class Exponents(tree.Replaceable):
    """Exponents that turn priorities into probabilities and importance weights. They may be replaced at any time.

    Attributes:
        alpha: float32 []; 0 draws uniformly, 1 in proportion to the priorities. A new value applies to priorities that are set later.
        beta: float32 []; 0 corrects nothing, 1 corrects the bias of prioritised sampling completely.
        greatest: float32 [], the greatest priority so far, which new items get; initially 1.
    """

    alpha: torch.Tensor
    beta: torch.Tensor
    greatest: torch.Tensor


class Held(NamedTuple):
    """The priorities of what a ring holds, from the state of a buffer.

    Attributes:
        priorities: (priority + epsilon) ** alpha for each place, 0 for one without an item.
        exponents: alpha, beta and the greatest priority so far.
        epsilon: is added to priorities.
        places: the number of places, a multiple of the slots of the ring.
        ring: the items.
        laps: int64 [], how often the cursor has passed the end.
    """

    priorities: SumTree
    exponents: Exponents
    epsilon: float
    places: int
    ring: RingState
    laps: torch.Tensor

    def addresses(self, index: torch.Tensor) -> torch.Tensor:
        """Return the addresses of the items at places: place + ``places`` * (laps of the cursor before the item was written).

        An item that replaces another has a different address, so that a late priority of the old item does not reach it. The address of
        a place without an item is negative.
        """
        slot = index // (self.places // capacity_of(self.ring))
        return index + self.places * (self.laps - (slot >= self.ring.cursor).to(torch.int64))


def exponents(name: str, alpha: Any, beta: Any, epsilon: Any) -> Callable[[Any], Exponents]:
    """Check the exponents of a prioritised buffer, and return a function that makes tensors of them on a device."""
    for argument, x in (("alpha", alpha), ("beta", beta)):
        _check.number(f"buffers.{name}: {argument}", x, "[0, inf]", tensor=True)
    _check.number(f"buffers.{name}: epsilon", epsilon, "[0, inf)")

    def make(device: Any) -> Exponents:
        number = lambda x: torch.as_tensor(x, dtype=torch.float32).to(device, copy=True)  # noqa: E731
        return Exponents(number(alpha), number(beta), torch.ones((), device=device))

    return make


def weight_of(priority: torch.Tensor, exponents: Exponents, epsilon: float) -> torch.Tensor:
    """Return (priority + epsilon) ** alpha, always above 0, as a weight of 0 means that there is no item."""
    tiny = torch.finfo(torch.float32).tiny
    return priority.add(epsilon).pow(exponents.alpha).clamp(tiny, torch.finfo(torch.float32).max)


def draw(key: torch.Tensor, held: Held, batch_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw stratified places [B]; return them, their addresses, their probabilities and importance weights."""
    priorities = held.priorities
    place = torch.arange(batch_size, device=key.device) + random.uniform(key, (batch_size,), dtype=torch.float64)
    index = find(priorities, place / batch_size).clamp(max=held.places - 1)
    whole = total(priorities)
    there = whole > 0
    probability = priorities.weights.index_select(0, index) / torch.where(there, whole, 1.0)
    # The number of items cancels.
    weight = (probability.amin() / probability).pow(held.exponents.beta)
    weight = torch.where(there, weight, 0.0)
    return index, held.addresses(index), probability.to(torch.float32), weight.to(torch.float32)


def set_priority(name: str, write: Write, held: Held, indices: Any, priority: Any) -> tuple[SumTree, Exponents]:
    """Check and set priorities; return the new sums, and exponents with the new greatest priority.

    Priorities of overwritten items are ignored.
    """
    priorities, exponents, epsilon, places, *_ = held
    if not (isinstance(indices, torch.Tensor) and isinstance(priority, torch.Tensor)):
        device = priorities.weights.device
        indices, priority = torch.as_tensor(indices, device=device), torch.as_tensor(priority, device=device)
    what = f"buffers.{name}: update_priority"
    if indices.dtype not in (torch.int64, torch.int32) or indices.ndim > 1:
        raise ValueError(f"{what}: indices: expected int64 [B], got {tree.describe_leaf(indices)}; give the indices of a sample")
    _check.floating(f"{what}: priority", priority)
    _check.sized(f"{what}: priority", priority, indices.shape, "nothing is broadcast", of="indices")
    for part, x in (("indices", indices), ("priority", priority)):
        if x.device != priorities.weights.device:
            raise ValueError(f"{what}: {part}: expected it on {priorities.weights.device}, as the buffer is, got {x.device}; move it there")
    if indices.ndim == 0 or indices.dtype != torch.int64:
        indices, priority = indices.reshape(-1).to(torch.int64), priority.reshape(-1)
    if priority.requires_grad or priority.dtype != priorities.weights.dtype:
        priority = priority.detach().to(priorities.weights.dtype)
    if len(indices) == 0:
        return priorities, exponents
    if home(priorities.weights) == home(indices) == home(priority) == "host":
        indices, priority = _check_values(what, held, indices, priority)
        if len(indices) == 0:
            return priorities, exponents
        greatest = float(priority.amax())
        weights = weight_of(priority, exponents, epsilon)
        if write is IN_PLACE:
            if greatest > float(exponents.greatest):
                exponents.greatest.fill_(greatest)
            put_on_host(priorities, indices, weights)
            return priorities, exponents
    else:
        place = indices % places
        present = held.addresses(place)
        current, old = indices == present, priorities.weights.index_select(0, place)
        there = current & (old > 0)
        priority = torch.where(there & (priority >= 0) & (priority < torch.inf), priority, 0.0)
        weights = torch.where(there, weight_of(priority, exponents, epsilon), 0.0)
        # Shapes are fixed, so a late priority has to write something: the same as the last valid one or, without any, the present value.
        last = (torch.arange(1, len(current) + 1, device=current.device) * current).argmax()
        kept = torch.where(current, weights, old).index_select(0, last[None])
        indices = torch.where(current, place, place.index_select(0, last[None]))
        weights = torch.where(current, weights, kept)
    greatest = write.value(exponents.greatest, torch.maximum(exponents.greatest, priority.amax()))
    return put(write, priorities, indices, weights), exponents.replace(greatest=greatest)


def _check_values(what: str, held: Held, indices: torch.Tensor, priority: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return places and priorities of the items that are still in the buffer."""
    least, greatest = [float(x) for x in priority.aminmax()]
    if not (least >= 0 and greatest < torch.inf):
        raise ValueError(f"{what}: priority: expected finite numbers of at least 0, got {priority}; take the absolute value of an error")
    low, high, bound = (*[int(x) for x in indices.aminmax()], held.places * (1 + int(held.laps)))
    if low < 0 or high >= bound:
        raise ValueError(f"{what}: indices: expected integers in [0, {bound}), got {indices}; give the indices of a sample")
    place = indices % held.places
    present = held.addresses(place)
    old = held.priorities.weights.index_select(0, place)
    missing = (indices > present) | ((indices == present) & (old == 0))
    if bool(missing.any()):
        raise ValueError(f"{what}: indices: there is no item at {indices[missing].tolist()}; give the indices of a sample")
    current = indices == present
    return (place, priority) if bool(current.all()) else (place[current], priority[current])
