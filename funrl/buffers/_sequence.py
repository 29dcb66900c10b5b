"""Buffers of sequences for recurrent and model-based learners: slices of consecutive steps of parallel environments."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _check, tree
from funrl.buffers._buffer import FRESH, IN_PLACE, Buffer, RingState, Storage, Write, buffer_of, check_batch_size, check_capacity
from funrl.buffers._episodes import breaks, done as done_of, positions
from funrl.buffers._priorities import Exponents, Held, draw, exponents, set_priority, weight_of
from funrl.buffers._ring import adding, append, memory, next_slots, rows, start
from funrl.buffers._sums import SumTree, put, sum_tree

Function = Callable[[Any], Any]


@tree.dataclass
class SequenceSample(tree.Replaceable):
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
        storage: as for :func:`uniform`.

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
    chosen = _check_slices("sequence", capacity, length, period, burn_in, slices)
    return _buffer(_Spec("sequence", *chosen, done, exponents("sequence", 0.0, 0.0, 0.0), 0.0), storage)


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
) -> Buffer:
    """Make a buffer that draws slices in proportion to a power of their priority: :func:`sequence` combined with :func:`prioritized`.

    Args:
        capacity, length, period, burn_in, slices, done, storage: as for :func:`sequence`.
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
    name = "prioritized_sequence"
    chosen = _check_slices(name, capacity, length, period, burn_in, slices)
    spec = _Spec(name, *chosen, done, exponents(name, alpha, beta, epsilon), epsilon)

    def updating(write: Write) -> dict[str, Any]:
        def update_priority(state: SequenceState, indices: Any, priority: Any) -> SequenceState:
            starts, new = set_priority(name, write, _held(spec, state), indices, priority)
            return state if write is IN_PLACE else state.replace(starts=starts, exponents=new)

        return {"update_priority": update_priority}

    return _buffer(spec, storage, updating)


class _Spec(NamedTuple):
    """The numbers and functions of a buffer of slices.

    Attributes:
        name: of the factory, for errors.
        capacity: N, the steps of each environment.
        span: the steps of a slice, burn_in + length.
        burn_in: how many of them are not learned from.
        period: slices start every ``period`` steps of an episode.
        whole: whether slices lie in one episode.
        done: ``done(item) -> bool [E]``.
        exponents: ``exponents(device) -> Exponents``.
        epsilon: is added to priorities.
    """

    name: str
    capacity: int
    span: int
    burn_in: int
    period: int
    whole: bool
    done: Function
    exponents: Callable[[Any], Exponents]
    epsilon: float


def _check_slices(name: str, capacity: int, length: int, period: int, burn_in: int, slices: str) -> tuple[int, int, int, int, bool]:
    """Check the numbers of a buffer of slices, and return the fields of :class:`_Spec` from ``capacity`` to ``whole``."""
    check_capacity(name, capacity=capacity, length=length, period=period)
    _check.integer(f"buffers.{name}: burn_in", burn_in, 0)
    _check.one_of(f"buffers.{name}: slices", slices, ("whole", "masked"))
    span = burn_in + length
    _check.integer(f"buffers.{name}: capacity", capacity, span, remedy="it holds at least burn_in + length steps")
    return capacity, span, burn_in, period, slices == "whole"


def _buffer(spec: _Spec, storage: Storage, more: Callable[[Write], dict[str, Any]] = lambda write: {}) -> Buffer:
    """Return the buffer; ``more(write)`` returns further functions that write, in addition to ``add`` and ``extend``."""

    def init(example: Any) -> SequenceState:
        if all(isinstance(x, torch.Tensor) for x in tree.leaves(example)) and tree.leaves(example):
            _flags(spec, example, tree.batch_shape(example, 1))  # an item holds one step of E environments
        return _empty(spec, start(spec.name, example, spec.capacity, storage))

    def writers(write: Write) -> dict[str, Any]:
        adds = adding(spec.name, lambda state: state.ring.data, functools.partial(_write_steps, spec, write))
        return {**adds, **more(write)}

    return buffer_of(
        init=init,
        sample=functools.partial(_sample, spec),
        size=lambda state: state.count,
        restore=functools.partial(_restore, spec),
        capacity=spec.capacity,
        storage=storage,
        writers=writers,
    )


def _flags(spec: _Spec, items: Any, shape: torch.Size) -> torch.Tensor:
    """Return where episodes end, bool of the given shape."""
    result = spec.done(items)
    return _check.flag(f"buffers.{spec.name}: done", result, "an item holds one step of E environments", shape=shape)


def _empty(spec: _Spec, ring: RingState) -> SequenceState:
    """Return the state of a ring without steps."""
    device, envs = ring.cursor.device, tree.batch_shape(ring.data, 2)[1]
    position = torch.full((spec.span, envs), -1, dtype=torch.int64, device=device)
    over = torch.ones(envs, dtype=torch.bool, device=device)
    count = torch.zeros((), dtype=torch.int64, device=device)
    return SequenceState(ring, position, over, sum_tree(spec.capacity * envs, device), count, spec.exponents(device), count.clone())


def _write_steps(spec: _Spec, write: Write, state: SequenceState, batch: Any) -> SequenceState:
    """Append steps, leaves [T, E, ...], and set which slices can be drawn."""
    ring, envs = state.ring, state.over.shape[0]
    steps = tree.leaves(batch)[0].shape[0]
    if steps == 0:
        return state
    latest = tree.map(lambda x: x.index_select(0, ((ring.cursor - 1) % spec.capacity).reshape(1)), getattr(ring.data, "place", ()))
    broken = breaks(latest, getattr(batch, "place", ()))
    position, over = positions(state.position[-1], state.over, _flags(spec, batch, torch.Size((steps, envs))), broken)
    known = torch.cat([state.position, position])[-min(steps, spec.capacity) - spec.span :]
    index, after = next_slots(ring, steps), state.laps + (ring.cursor + steps) // spec.capacity
    try:
        new = append(write, ring, batch)
    except OSError:  # the steps in those places are lost
        spoilt = index[:, None] * envs + torch.arange(envs)
        _change(IN_PLACE, state, spoilt.reshape(-1), torch.zeros(spoilt.numel()))
        raise
    state = _mark(spec, write, state.replace(ring=new, laps=write.value(state.laps, after)), known)
    return state.replace(position=write.value(state.position, known[-spec.span :]), over=write.value(state.over, over))


def _mark(spec: _Spec, write: Write, state: SequenceState, position: torch.Tensor) -> SequenceState:
    """Set which slices start at the newest steps, whose positions are given with those of the ``span`` steps before them."""
    envs = state.over.shape[0]
    count = min(len(position) - 1, spec.capacity)  # the new steps, and the earlier steps whose slices they complete
    valid = _starting(spec, position[-count:])
    valid = torch.cat([valid, valid.new_zeros(spec.span - 1, envs)])
    slot = (state.ring.cursor - count + torch.arange(count, device=position.device)) % spec.capacity
    index = slot[:, None] * envs + torch.arange(envs, device=position.device)
    weight = weight_of(state.exponents.greatest, state.exponents, spec.epsilon)
    return _change(write, state, index.reshape(-1), torch.where(valid, weight, 0.0).reshape(-1))


def _starting(spec: _Spec, position: torch.Tensor) -> torch.Tensor:
    """Return whether slices start at the first steps of ``position`` [K + span - 1, E]: bool [K, E]."""
    first, last = position[: len(position) - spec.span + 1], position[spec.span - 1 :]
    inside = last == first + spec.span - 1 if spec.whole else last >= 0
    return inside & (first >= 0) & (first % spec.period == 0)


def _change(write: Write, state: SequenceState, index: torch.Tensor, weight: torch.Tensor) -> SequenceState:
    """Set the weights of slices, and count those above 0."""
    gone = (state.starts.weights.index_select(0, index) > 0).sum()
    count = write.value(state.count, state.count - gone + (weight > 0).sum())
    return state.replace(starts=put(write, state.starts, index, weight), count=count)


def _restore(spec: _Spec, ring: RingState) -> SequenceState:
    """Return the state of existing steps."""
    state = _empty(spec, ring)
    envs = state.over.shape[0]
    age = torch.arange(spec.capacity - 1, -1, -1, device=ring.cursor.device)
    order = (ring.cursor - 1 - age) % spec.capacity
    over = _flags(spec, ring.data, torch.Size((spec.capacity, envs))).index_select(0, order)
    held = (age < ring.size)[:, None]
    # The steps before the oldest one are unknown, so it counts as the start of an episode.
    places = tree.map(lambda x: x.index_select(0, order), getattr(ring.data, "place", ()))
    position, last = positions(state.position[-1], state.over, over | ~held, breaks(tree.map(lambda x: x[:1], places), places))
    position = torch.where(held, position, -1)
    known = torch.cat([state.position, position])
    return _mark(spec, FRESH, state, known).replace(position=known[-spec.span :], over=last)


def _held(spec: _Spec, state: SequenceState) -> Held:
    return Held(state.starts, state.exponents, spec.epsilon, spec.capacity * state.over.shape[0], state.ring, state.laps)


def _sample(spec: _Spec, key: torch.Tensor, state: SequenceState, batch_size: int) -> SequenceSample:
    span, capacity, envs = spec.span, spec.capacity, state.over.shape[0]
    check_batch_size(spec.name, batch_size, state.count, 1)
    index, address, probabilities, weights = draw(key, _held(spec, state), batch_size)
    time = torch.arange(span, device=index.device)[:, None]
    steps = (index // envs + time) % capacity
    data = tree.map(lambda x: x.view(-1, *x.shape[2:]), state.ring.data)
    batch = tree.reshape(rows(data, (steps * envs + index % envs).reshape(-1)), (span, batch_size))
    ended = _flags(spec, batch, torch.Size((span, batch_size)))
    places = getattr(batch, "place", ())
    broken = breaks(tree.map(lambda x: x[:1], places), places)
    parted = torch.cat([torch.zeros_like(ended[:1]), ended[:-1] if broken is None else ended[:-1] | broken[1:]])
    before = parted.cumsum(0) > 0
    mask = ~before & (time >= spec.burn_in)
    return SequenceSample(batch, address, probabilities, weights, mask)
