"""Prioritised replay: items are drawn in proportion to a power of their priority."""

from typing import Any

import torch

from funrl import tree
from funrl.buffers._buffer import IN_PLACE, Buffer, RingState, Sample, Storage, Write, buffer_of, check_batch_size, check_capacity
from funrl.buffers._priorities import Exponents, Held, draw, exponents, set_priority, weight_of
from funrl.buffers._ring import adding, append, capacity_of, memory, next_slots, rows, start
from funrl.buffers._sums import SumTree, put, sum_tree


@tree.dataclass
class PrioritizedState(tree.Replaceable):
    """Items and their priorities.

    Attributes:
        ring: the items.
        priorities: a :class:`SumTree` of (priority + epsilon) ** alpha for each slot, 0 for a slot without an item.
        exponents: alpha, beta and the greatest priority so far.
        laps: int64 [], how often the cursor has passed the end; used for the unique indices of items.
    """

    ring: RingState
    priorities: SumTree
    exponents: Exponents
    laps: torch.Tensor


def prioritized(
    capacity: int,
    alpha: float | torch.Tensor = 0.6,
    beta: float | torch.Tensor = 0.4,
    *,
    epsilon: float = 1e-8,
    storage: Storage = memory,
) -> Buffer:
    r"""Make a buffer that draws item i in proportion to a power of its priority :math:`\delta_i`.

    .. math:: p_i = (\delta_i + \epsilon)^\alpha, \qquad P(i) = p_i / \sum_k p_k, \qquad
        w_i = (N P(i))^{-\beta} / \max_j w_j

    with N items in the buffer and the maximum over the batch. New items get the greatest priority so far, initially 1. A batch is
    stratified: its row b is drawn from the b-th of ``batch_size`` equal parts of the sum. So the rows are in the order of their slots;
    shuffle a batch before you split it.

    In a compiled program, which cannot check values, a priority that is negative, NaN or infinite counts as 0, and the priority of a
    slot without an item is not set; eagerly on the CPU both are errors. If an index occurs twice in an update, one of its priorities is
    used, on a CPU the last.

    An index is the slot plus N times the number of times that the buffer had been filled before the item was added. So the priority of an
    item that was overwritten after it was drawn is ignored, and does not reach the item that replaced it.

    Args:
        capacity: N >= 1 items.
        alpha: at least 0, a number or a tensor []. It is ``state.exponents.alpha``.
        beta: at least 0, a number or a tensor []; values above 1 increase the weights of rare items further. It is
            ``state.exponents.beta``: to anneal it, replace it there.
        epsilon: at least 0; with a positive value items of priority 0 are still drawn.
        storage: as for :func:`uniform`.

    Returns:
        A :class:`Buffer` whose state is a :class:`PrioritizedState`.

    Raises:
        TypeError: if a priority is not floating-point.
        ValueError: if an argument is out of its range; from the buffer: as for :func:`uniform`; and if a priority is negative or not
            finite, shapes differ, or there is no item at an index.

    Example:
        >>> from funrl import random
        >>> buffer = prioritized(100, alpha=0.7, beta=1.1)
        >>> state = buffer.extend(buffer.init({"a": torch.zeros(3)}), {"a": torch.ones(2, 3)})
        >>> sample = buffer.sample(random.key(0), state, 2)
        >>> sample.indices
        tensor([0, 1])
        >>> state = buffer.update_priority(state, sample.indices, torch.tensor([3.0, 1.0]))
        >>> state.priorities.weights[:3]
        tensor([2.1577, 1.0000, 0.0000])

    Reference: T. Schaul, J. Quan, I. Antonoglou, D. Silver, "Prioritized Experience Replay", 2015, arXiv:1511.05952.
    """
    name = "prioritized"
    check_capacity(name, capacity=capacity)
    make_exponents = exponents(name, alpha, beta, epsilon)

    def held(state: PrioritizedState) -> Held:
        return Held(state.priorities, state.exponents, epsilon, capacity, state.ring, state.laps)

    def init(example: Any) -> PrioritizedState:
        return empty(start(name, example, capacity, storage))

    def empty(ring: RingState) -> PrioritizedState:
        device = ring.cursor.device
        return PrioritizedState(ring, sum_tree(capacity, device), make_exponents(device), torch.zeros_like(ring.cursor))

    def restore(ring: RingState) -> PrioritizedState:
        state = empty(ring)
        index = torch.arange(capacity, device=ring.cursor.device)
        filled = (ring.cursor - 1 - index) % capacity < ring.size
        weights = torch.where(filled, weight_of(state.exponents.greatest, state.exponents, epsilon), 0.0)
        return state.replace(priorities=put(IN_PLACE, state.priorities, index, weights))

    def sample(key: torch.Tensor, state: PrioritizedState, batch_size: int) -> Sample:
        check_batch_size(name, batch_size, state.ring.size, 1)
        index, address, probabilities, weights = draw(key, held(state), batch_size)
        return Sample(rows(state.ring.data, index), address, probabilities, weights)

    def writers(write: Write) -> dict[str, Any]:
        adds = adding(name, lambda state: state.ring.data, lambda state, batch: _write_rows(write, state, batch, epsilon))

        def update_priority(state: PrioritizedState, indices: Any, priority: Any) -> PrioritizedState:
            priorities, new = set_priority(name, write, held(state), indices, priority)
            return state if write is IN_PLACE else state.replace(priorities=priorities, exponents=new)

        return {**adds, "update_priority": update_priority}

    return buffer_of(
        init=init,
        sample=sample,
        size=lambda state: state.ring.size,
        restore=restore,
        capacity=capacity,
        storage=storage,
        writers=writers,
    )


def _write_rows(write: Write, state: PrioritizedState, batch: Any, epsilon: float) -> PrioritizedState:
    num, capacity = tree.leaves(batch)[0].shape[0], capacity_of(state.ring)
    index = next_slots(state.ring, num)
    after = state.laps + (state.ring.cursor + num) // capacity
    try:
        ring = append(write, state.ring, batch)
    except OSError:  # the rows in those places are lost
        put(IN_PLACE, state.priorities, index, torch.zeros(index.shape))
        raise
    weights = weight_of(state.exponents.greatest, state.exponents, epsilon).expand(index.shape)
    return state.replace(ring=ring, priorities=put(write, state.priorities, index, weights), laps=write.value(state.laps, after))
