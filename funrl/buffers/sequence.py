"""Buffers of sequences for recurrent and model-based learners: slices of consecutive steps of parallel environments."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import tree
from funrl.buffers.buffer import Buffer, RingState, Storage, check_batch_size, check_capacity
from funrl.buffers.episodes import breaks, positions
from funrl.buffers.episodes import done as done_of
from funrl.buffers.priorities import Exponents, addresses, draw, exponents, set_priority, weight_of
from funrl.buffers.ring import FRESH, IN_PLACE, Write, append, check_items, memory, next_slots, rows, start
from funrl.buffers.sums import SumTree, put, sum_tree

__all__ = ["SequenceSample", "SequenceState", "prioritized_sequence", "sequence"]

Function = Callable[[Any], Any]


@tree.dataclass
class SequenceSample:
    """Slices drawn from a buffer, time first.

    Attributes:
        batch: the steps, leaves [L, B, ...] with L = burn_in + length.
        indices: int64 [B], the starts of the slices, for ``update_priority``: slot * environments + environment, plus capacity *
            environments times the number of times that the buffer had been filled before.
        probabilities: float32 [B], the probability of a draw to return this slice.
        weights: float32 [B], the importance weight of the slice in a loss, at most 1.
        mask: bool [L, B], True for the steps to learn from: those after the burn-in and not after the end of the episode.
    """

    batch: Any
    indices: torch.Tensor
    probabilities: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor


@tree.dataclass
class SequenceState(tree.Replaceable):
    """Steps of E environments, and weights of the slices that start at them.

    Attributes:
        ring: the steps, leaves [N, E, ...].
        position: int64 [L, E], the number of earlier steps of the episode for each of the newest L steps; -1 for steps before the first.
        over: bool [E], whether the newest step ended its episode.
        starts: a :class:`SumTree` over N * E slices, indexed by their first steps: 0 where no slice starts.
        count: int64 [], the number of slices.
        exponents: alpha, beta and the greatest priority so far.
        laps: int64 [], how often the cursor has passed the end; used for the unique indices of slices.
    """

    ring: RingState
    position: torch.Tensor
    over: torch.Tensor
    starts: SumTree
    count: torch.Tensor
    exponents: Exponents
    laps: torch.Tensor


def sequence(
    capacity: int,
    length: int,
    period: int = 1,
    burn_in: int = 0,
    *,
    slices: str = "whole",
    done: Function = done_of,
    storage: Storage = memory,
    postprocess: Function | None = None,
) -> Buffer:
    """Make a buffer that draws slices of ``burn_in + length`` consecutive steps, each with the same probability.

    An item is one step of E environments, leaves [E, ...], so that ``extend`` takes a rollout [T, E, ...]. A slice never crosses the
    cursor. Slices start every ``period`` steps of an episode, and

    * ``slices="whole"``: they lie in one episode, which may end with their last step; shorter episodes, and last steps of an episode that
      do not fill a slice, are not drawn;
    * ``slices="masked"``: they may continue after the end of an episode; ``sample.mask`` is False for the steps after it.

    Adjacent steps in the buffer count as consecutive: ``extend`` with steps that follow the stored ones, or mark the last step
    before a break as truncated. Steps with a ``place`` (:class:`funrl.env.Place`), such as those of collectors, need no mark: no
    slice continues from one worker's steps to another's.

    Args:
        capacity: N, the number of steps stored of each environment; at least burn_in + length.
        length: the steps of a slice to learn from, at least 1.
        period: the steps between the starts of slices, at least 1; with ``length`` the slices do not overlap.
        burn_in: the steps before them, from which a recurrent state is computed; at least 0.
        slices: "whole" or "masked".
        done: ``done(item) -> bool [E]``: the ends of episodes; by default ``item.done``, or ``terminated | truncated``, as field or key.
        storage, postprocess: as for :func:`uniform`.

    Returns:
        A :class:`Buffer` whose state is a :class:`SequenceState`, and that draws a :class:`SequenceSample`. Its ``size`` counts slices.

    Raises:
        TypeError: if ``done`` does not return bool [E].
        ValueError: if an argument is out of its range; from the buffer: as for :func:`uniform`.

    Example:
        >>> from funrl import random
        >>> buffer = sequence(100, length=3)
        >>> state = buffer.init({"x": torch.zeros(2), "done": torch.zeros(2, dtype=torch.bool)})
        >>> x = torch.arange(8.0).reshape(4, 2)
        >>> state = buffer.extend(state, {"x": x, "done": torch.tensor([[False, True], [False, False]]).repeat(2, 1)})
        >>> buffer.size(state), buffer.sample(random.key(0), state, 1).batch["x"].flatten()
        (tensor(2), tensor([0., 2., 4.]))
    """
    return _sequence("sequence", capacity, length, period, burn_in, slices, done, storage, postprocess, 0.0, 0.0, 0.0)


def prioritized_sequence(
    capacity: int,
    length: int,
    period: int = 1,
    burn_in: int = 0,
    *,
    alpha: float | torch.Tensor = 0.6,
    beta: float | torch.Tensor = 0.4,
    epsilon: float = 1e-8,
    slices: str = "whole",
    done: Function = done_of,
    storage: Storage = memory,
    postprocess: Function | None = None,
) -> Buffer:
    """Make a buffer that draws slices in proportion to a power of their priority: :func:`sequence` combined with :func:`prioritized`.

    Args:
        capacity, length, period, burn_in, slices, done, storage, postprocess: as for :func:`sequence`.
        alpha, beta, epsilon: as for :func:`prioritized`.

    Returns:
        A :class:`Buffer` whose state is a :class:`SequenceState`, with ``update_priority``.

    Raises:
        TypeError, ValueError: as for :func:`sequence` and :func:`prioritized`.

    Example:
        >>> from funrl import random
        >>> buffer = prioritized_sequence(100, length=2, alpha=1.0)
        >>> state = buffer.init({"x": torch.zeros(1), "done": torch.zeros(1, dtype=torch.bool)})
        >>> state = buffer.extend(state, {"x": torch.arange(4.0)[:, None], "done": torch.zeros(4, 1, dtype=torch.bool)})
        >>> state = buffer.update_priority(state, torch.tensor([0, 1, 2]), torch.tensor([0.0, 5.0, 0.0]))
        >>> buffer.sample(random.key(0), state, 1).batch["x"].flatten()
        tensor([1., 2.])

    Reference: S. Kapturowski, G. Ostrovski, J. Quan, R. Munos, W. Dabney, "Recurrent Experience Replay in Distributed
        Reinforcement Learning", ICLR 2019 (no arXiv id).
    """
    numbers = (alpha, beta, epsilon)
    return _sequence("prioritized_sequence", capacity, length, period, burn_in, slices, done, storage, postprocess, *numbers)


def _sequence(
    name: str,
    capacity: int,
    length: int,
    period: int,
    burn_in: int,
    slices: str,
    done: Function,
    storage: Storage,
    postprocess: Function | None,
    alpha: Any,
    beta: Any,
    epsilon: float,
) -> Buffer:
    check_capacity(name, capacity=capacity, length=length, period=period)
    if isinstance(burn_in, bool) or not isinstance(burn_in, int) or burn_in < 0:
        raise ValueError(f"buffers.{name}: burn_in: expected an integer of at least 0, got {burn_in!r}")
    if slices not in ("whole", "masked"):
        raise ValueError(f'buffers.{name}: slices: expected "whole" or "masked", got {slices!r}')
    span = burn_in + length
    if capacity < span:
        raise ValueError(f"buffers.{name}: capacity: expected at least burn_in + length = {span} steps, got {capacity}")
    make_exponents = exponents(name, alpha, beta, epsilon)

    def flags(items: Any, shape: torch.Size) -> torch.Tensor:
        result = done(items)
        if not isinstance(result, torch.Tensor) or result.dtype != torch.bool or result.shape != shape:
            raise TypeError(
                f"buffers.{name}: done: expected bool {list(shape)}, got {tree.describe_leaf(result)}; "
                "an item holds one step of E environments"
            )
        return result

    def init(example: Any) -> SequenceState:
        if all(isinstance(x, torch.Tensor) for x in tree.leaves(example)) and tree.leaves(example):
            flags(example, tree.batch_shape(example, 1))  # an item holds one step of E environments
        return empty(start(name, example, capacity, storage))

    def empty(ring: RingState) -> SequenceState:
        device, envs = ring.cursor.device, tree.batch_shape(ring.data, 2)[1]
        position = torch.full((span, envs), -1, dtype=torch.int64, device=device)
        over = torch.ones(envs, dtype=torch.bool, device=device)
        count = torch.zeros((), dtype=torch.int64, device=device)
        return SequenceState(ring, position, over, sum_tree(capacity * envs, device), count, make_exponents(device), count.clone())

    def starting(position: torch.Tensor) -> torch.Tensor:
        """Return whether slices start at the first K steps of ``position`` [K + span - 1, E]: bool [K, E]."""
        first, last = position[: len(position) - span + 1], position[span - 1 :]
        inside = last == first + span - 1 if slices == "whole" else last >= 0
        return inside & (first >= 0) & (first % period == 0)

    def write_steps(write: Write, state: SequenceState, batch: Any) -> SequenceState:
        ring, envs = state.ring, state.over.shape[0]
        steps = tree.leaves(batch)[0].shape[0]
        if steps == 0:
            return state
        latest = tree.map(lambda x: x.index_select(0, ((ring.cursor - 1) % capacity).reshape(1)), getattr(ring.data, "place", ()))
        broken = breaks(latest, getattr(batch, "place", ()))
        position, over = positions(state.position[-1], state.over, flags(batch, torch.Size((steps, envs))), broken)
        known = torch.cat([state.position, position])[-min(steps, capacity) - span :]
        index, after = next_slots(ring, steps), state.laps + (ring.cursor + steps) // capacity
        try:
            new = append(write, ring, batch)
        except OSError:  # the steps at those places are lost
            spoilt = index[:, None] * envs + torch.arange(envs)
            change(IN_PLACE, state, spoilt.reshape(-1), torch.zeros(spoilt.numel()))
            raise
        state = mark(write, state.replace(ring=new, laps=write.value(state.laps, after)), known)
        return state.replace(position=write.value(state.position, known[-span:]), over=write.value(state.over, over))

    def mark(write: Write, state: SequenceState, position: torch.Tensor) -> SequenceState:
        """Set the slices that start at the newest steps. ``position`` has these steps and the ``span`` steps before them."""
        envs = state.over.shape[0]
        count = min(len(position) - 1, capacity)  # the new steps, and the earlier steps whose slices they complete
        valid = starting(position[-count:])
        valid = torch.cat([valid, valid.new_zeros(span - 1, envs)])
        slot = (state.ring.cursor - count + torch.arange(count, device=position.device)) % capacity
        index = slot[:, None] * envs + torch.arange(envs, device=position.device)
        weight = weight_of(state.exponents.greatest, state.exponents, epsilon)
        return change(write, state, index.reshape(-1), torch.where(valid, weight, 0.0).reshape(-1))

    def change(write: Write, state: SequenceState, index: torch.Tensor, weight: torch.Tensor) -> SequenceState:
        gone = (state.starts.weights.index_select(0, index) > 0).sum()
        count = write.value(state.count, state.count - gone + (weight > 0).sum())
        return state.replace(starts=put(write, state.starts, index, weight), count=count)

    def restore(ring: RingState) -> SequenceState:
        state = empty(ring)
        envs = state.over.shape[0]
        age = torch.arange(capacity - 1, -1, -1, device=ring.cursor.device)
        over = flags(ring.data, torch.Size((capacity, envs))).index_select(0, (ring.cursor - 1 - age) % capacity)
        held = (age < ring.size)[:, None]
        # The steps before the oldest one are unknown, so it counts as the start of an episode.
        order = (ring.cursor - 1 - age) % capacity
        places = tree.map(lambda x: x.index_select(0, order), getattr(ring.data, "place", ()))
        position, last = positions(state.position[-1], state.over, over | ~held, breaks(tree.map(lambda x: x[:1], places), places))
        position = torch.where(held, position, -1)
        known = torch.cat([state.position, position])
        return mark(FRESH, state, known).replace(position=known[-span:], over=last)

    def sample(key: torch.Tensor, state: SequenceState, batch_size: int) -> SequenceSample:
        envs = state.over.shape[0]
        check_batch_size(name, batch_size, state.count, 1)
        index, probabilities, weights = draw(key, state.starts, state.exponents, capacity * envs, batch_size)
        time = torch.arange(span, device=index.device)[:, None]
        steps = (index // envs + time) % capacity
        data = tree.map(lambda x: x.view(-1, *x.shape[2:]), state.ring.data)
        batch = tree.reshape(rows(data, (steps * envs + index % envs).reshape(-1)), (span, batch_size))
        ended = flags(batch, torch.Size((span, batch_size)))
        places = getattr(batch, "place", ())
        broken = breaks(tree.map(lambda x: x[:1], places), places)
        parted = torch.cat([torch.zeros_like(ended[:1]), ended[:-1] if broken is None else ended[:-1] | broken[1:]])
        before = parted.cumsum(0) > 0
        mask = ~before & (time >= burn_in)
        address = addresses(index, state.ring, state.laps, capacity * envs)
        return SequenceSample(batch if postprocess is None else postprocess(batch), address, probabilities, weights, mask)

    def add(write: Write, state: SequenceState, item: Any) -> SequenceState:
        check_items(f"buffers.{name}: add: item", state.ring.data, item, 0)
        return write_steps(write, state, tree.map(lambda x: x[None], item))

    def extend(write: Write, state: SequenceState, batch: Any) -> SequenceState:
        check_items(f"buffers.{name}: extend: batch", state.ring.data, batch, 1)
        return write_steps(write, state, batch)

    def update(write: Write, state: SequenceState, indices: Any, priority: Any) -> SequenceState:
        places = capacity * state.over.shape[0]
        held = (places, state.ring, state.laps)
        starts, new = set_priority(name, write, state.starts, state.exponents, epsilon, *held, indices, priority)
        return state if write is IN_PLACE else state.replace(starts=starts, exponents=new)

    buffer = Buffer(
        init=init,
        add=lambda state, item: add(FRESH, state, item),
        extend=lambda state, batch: extend(FRESH, state, batch),
        sample=sample,
        size=lambda state: state.count,
        can_sample=lambda state, batch_size: state.count >= batch_size,
        add_=lambda state, item: add(IN_PLACE, state, item),
        extend_=lambda state, batch: extend(IN_PLACE, state, batch),
        restore=restore,
        capacity=capacity,
        storage=storage,
    )
    if name == "sequence":
        return buffer
    return buffer._replace(
        update_priority=lambda state, indices, priority: update(FRESH, state, indices, priority),
        update_priority_=lambda state, indices, priority: update(IN_PLACE, state, indices, priority),
    )
