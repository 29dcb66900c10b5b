"""Buffers of images: stacks of frames in which each frame is stored once, and pixels as bytes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _check, random, tree
from funrl.buffers._buffer import IN_PLACE, Buffer, RingState, Sample, Storage, Write, buffer_of, check_batch_size, check_capacity
from funrl.buffers._episodes import breaks, done as done_of, positions
from funrl.buffers._ring import append, check_items, memory, rows, start
from funrl.buffers._sums import SumTree, find, put, sum_tree, total


@tree.dataclass
class FramesState:
    """Steps of E environments, stored with the newest frame of each stack only.

    Attributes:
        ring: ``(items, position, padding)``: the items, with frames [N, E, ...] instead of stacks [E, K, ...]; int64 [N, E], the number of
            earlier steps of the episode; and uint8 [N, E], the frames of the stack before the first one of the episode: 0: that frame
            repeated, 1: zeros, 2: something else, so that the stack cannot be rebuilt and the step is not drawn.
        over: bool [E], whether the newest step ended its episode.
        drawable: a :class:`SumTree` over N * E steps: 1 for those that can be drawn, else 0.
    """

    ring: RingState
    over: torch.Tensor
    drawable: SumTree


def frame_stacks(
    capacity: int,
    num_frames: int,
    *,
    observation: Any = "observation",
    next_observation: Any = "next_observation",
    done: Callable[[Any], torch.Tensor] = done_of,
    storage: Storage = memory,
) -> Buffer:
    """Make a buffer that draws transitions uniformly, and stores only the newest frame of each stack.

    A stack is rebuilt from the frames of earlier steps. At the start of an episode the missing frames are the first frame repeated, or
    zeros, as in the original stack. Items and samples have complete stacks, but the buffer needs 1 / K of their memory: one frame for the
    observation, and one for its successor, which may be the last of an episode. An item is one step of E environments, leaves [E, ...],
    so that ``extend`` takes a rollout [T, E, ...].

    Each stack is compared with its reconstruction, and steps where they differ are not drawn, such as the first K - 1 steps of an episode
    after a ``noop_reset``, whose earlier frames are not in the buffer. If they differ later in an episode, the stacks are not made of
    consecutive frames; this is an error where values are known, on the CPU outside compiled programs and vmap.

    Args:
        capacity: N, the number of steps stored of each environment; at least ``num_frames``.
        num_frames: K >= 1, the frames of a stack, the newest last.
        observation: the path of the observations in an item (see :func:`funrl.tree.get`): a tensor [E, K, ...].
        next_observation: the path of their successors.
        done: ``done(item) -> bool [E]``: the ends of episodes; by default ``item.done``, or ``terminated | truncated``, as field or key.
        storage: as for :func:`uniform`.

    Returns:
        A :class:`Buffer` whose state is a :class:`FramesState`. Its ``size`` counts transitions that can be drawn: the K - 1 oldest steps
            only provide frames for later ones.

    Raises:
        ValueError: if an argument is out of its range, or the observations are not stacks of K; from the buffer: as for :func:`uniform`,
            and if stacks are found not to be the newest frames of consecutive steps.

    Example:
        >>> item = {name: torch.zeros(1, 4, 8, 8, dtype=torch.uint8) for name in ("observation", "next_observation")}
        >>> buffer = frame_stacks(100, 4)
        >>> state = buffer.init({**item, "done": torch.tensor([False])})
        >>> tree.nbytes(state.ring.data[0])
        12900
        >>> for _ in range(5):
        ...     state = buffer.add(state, {**item, "done": torch.tensor([False])})
        >>> buffer.size(state), buffer.sample(random.key(0), state, 3).batch["observation"].shape
        (tensor(2), torch.Size([3, 4, 8, 8]))
    """
    check_capacity("frame_stacks", capacity=capacity, num_frames=num_frames)
    _check.integer("buffers.frame_stacks: capacity", capacity, num_frames, remedy="it holds at least num_frames steps")
    spec = _Spec(capacity, num_frames, observation, next_observation, done)

    def kept(item: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
        over = done(item)
        return _newest(spec, item, 1), torch.zeros_like(over, dtype=torch.int64), torch.zeros_like(over, dtype=torch.uint8)

    def init(example: Any) -> FramesState:
        shape = tree.batch_shape(example, 1)
        over = done(example)
        _check.flag("buffers.frame_stacks: done", over, shape=shape)
        ring = start("frame_stacks", kept(example), capacity, storage)
        return FramesState(ring, torch.ones_like(over), sum_tree(capacity * shape[0], over.device))

    def writers(write: Write) -> dict[str, Any]:
        return {
            "add": lambda state, item: _write_steps(spec, write, state, tree.map(lambda x: x[None], item)),
            "extend": lambda state, batch: _write_steps(spec, write, state, batch),
        }

    return buffer_of(
        init=init,
        sample=functools.partial(_sample, spec),
        size=_size,
        restore=functools.partial(_restore, spec),
        capacity=capacity,
        storage=storage,
        kept=kept,
        writers=writers,
    )


class _Spec(NamedTuple):
    """The arguments of :func:`frame_stacks` that its functions need."""

    capacity: int
    num_frames: int
    observation: Any
    next_observation: Any
    done: Callable[[Any], torch.Tensor]


def _newest(spec: _Spec, items: Any, dims: int) -> Any:
    """Keep the last frames of stacks [..., K, ...] with ``dims`` dimensions before K."""
    for path in (spec.observation, spec.next_observation):
        x = tree.get(items, path)
        if not isinstance(x, torch.Tensor) or x.ndim <= dims or x.shape[dims] != spec.num_frames:
            expected = f"a stack of {spec.num_frames} frames after {dims} dimensions"
            _check.fail(ValueError, f"buffers.frame_stacks: {path}", expected, tree.describe_leaf(x))
        items = tree.update(items, path, x.select(dims, spec.num_frames - 1))
    return items


def _write_steps(spec: _Spec, write: Write, state: FramesState, whole: Any) -> FramesState:
    """Append steps with whole stacks, leaves [T, E, ...], of which the newest frames are stored."""
    batch = _newest(spec, whole, 2)
    items, counted, _ = state.ring.data
    check_items("buffers.frame_stacks: extend: batch", items, batch, 1)
    if tree.leaves(batch)[0].shape[0] == 0:
        return state
    newest = ((state.ring.cursor - 1) % spec.capacity).reshape(1)
    last = counted.index_select(0, newest).squeeze(0)
    broken = breaks(tree.map(lambda x: x.index_select(0, newest), getattr(items, "place", ())), getattr(batch, "place", ()))
    position, over = positions(last, state.over, spec.done(batch), broken)
    padding = _padding_of(spec, state, whole, position)
    ring = append(write, state.ring, (batch, position, padding))
    return FramesState(ring, write.value(state.over, over), _mark(spec, write, state.drawable, ring, padding[-spec.capacity :]))


def _padding_of(spec: _Spec, state: FramesState, batch: Any, position: torch.Tensor) -> torch.Tensor:
    """Return the kinds of the beginnings of stacks [T, E, K, ...], uint8 [T, E], in the encoding of :class:`FramesState`."""
    num_frames = spec.num_frames
    stack, after = tree.get(batch, spec.observation), tree.get(batch, spec.next_observation)
    slot = (state.ring.cursor - num_frames + 1 + torch.arange(num_frames - 1, device=position.device)) % spec.capacity
    frames = tree.get(state.ring.data[0], spec.observation).index_select(0, slot)
    frames = torch.cat([frames, stack.select(2, num_frames - 1)])  # from K - 1 steps before the first one
    time, env = torch.arange(stack.shape[0], device=position.device)[:, None], torch.arange(position.shape[1], device=position.device)

    def equal(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((x == y) | ((x != x) & (y != y))).flatten(2).all(2) if x.ndim > 2 else x == y

    repeated = zeros = equal(after[:, :, :-1].flatten(2), stack[:, :, 1:].flatten(2))
    for k in range(1, num_frames):
        shown, inside = stack[:, :, num_frames - 1 - k], position >= k
        again = frames[time + num_frames - 1 - torch.minimum(position, torch.full_like(position, k)), env]
        same = equal(shown, again)
        repeated = repeated & same
        zeros = zeros & torch.where(inside, same, equal(shown, torch.zeros_like(shown)))
    result = torch.where(repeated, 0, torch.where(zeros, 1, 2)).to(torch.uint8)
    if _check.seen(lambda: ((result == 2) & (position >= num_frames - 1)).any()):
        raise ValueError(
            f"buffers.frame_stacks: {spec.observation}: expected stacks of the newest frames of consecutive steps, got others; apply "
            "frame_stack after transforms that skip steps or change observations, and extend with what follows, or take buffers.uniform"
        )
    return result


def _mark(spec: _Spec, write: Write, drawable: SumTree, ring: RingState, padding: torch.Tensor) -> SumTree:
    """Mark the newest steps, whose paddings are given, as drawable, and the K - 1 oldest as not drawable."""
    envs, device = padding.shape[1], padding.device
    new = (ring.cursor - len(padding) + torch.arange(len(padding), device=device)) % spec.capacity
    oldest = (ring.cursor - ring.size + torch.arange(spec.num_frames - 1, device=device)) % spec.capacity
    weights = (padding != 2).to(torch.float32)
    for slot, weight in ((new, weights), (oldest, weights.new_zeros(spec.num_frames - 1, envs))):
        index = slot[:, None] * envs + torch.arange(envs, device=device)
        drawable = put(write, drawable, index.reshape(-1), weight.reshape(-1))
    return drawable


def _size(state: FramesState) -> torch.Tensor:
    return total(state.drawable).to(torch.int64)


def _sample(spec: _Spec, key: torch.Tensor, state: FramesState, batch_size: int) -> Sample:
    count, envs, capacity = _size(state), state.over.shape[0], spec.capacity
    check_batch_size("frame_stacks", batch_size, count, 1)
    index = find(state.drawable, random.uniform(key, (batch_size,), dtype=torch.float64)).clamp(max=capacity * envs - 1)
    slot, env = index // envs, index % envs
    items, position, padding = tree.map(lambda x: x.view(-1, *x.shape[2:]), state.ring.data)
    batch = rows(items, index)
    # How far back each frame of a stack is, but not before the first one of the episode.
    back = torch.arange(spec.num_frames - 1, -1, -1, device=slot.device)
    place = position.index_select(0, index)[:, None]
    source = (slot[:, None] - torch.minimum(back, place)) % capacity * envs + env[:, None]
    frames = rows(tree.get(items, spec.observation), source.reshape(-1))
    stack = frames.reshape(batch_size, spec.num_frames, *frames.shape[1:])
    empty = (back > place) & (padding.index_select(0, index) == 1)[:, None]
    stack = torch.where(empty.reshape(*empty.shape, *(1,) * (stack.ndim - 2)), torch.zeros_like(stack), stack)
    after = torch.cat([stack[:, 1:], tree.get(batch, spec.next_observation)[:, None]], 1)
    batch = tree.update(tree.update(batch, spec.observation, stack), spec.next_observation, after)
    weights = (count > 0).expand(batch_size).to(torch.float32)
    return Sample(batch, index, weights / count.clamp(min=1), weights)


def _restore(spec: _Spec, ring: RingState) -> FramesState:
    """Return the state of existing steps."""
    newest_row = rows(ring.data, ((ring.cursor - 1) % spec.capacity).reshape(1))
    over = spec.done(newest_row[0]).squeeze(0) | (ring.size == 0)
    age = torch.arange(spec.capacity - 1, -1, -1, device=ring.cursor.device)
    padding = ring.data[2].index_select(0, (ring.cursor - 1 - age) % spec.capacity)
    padding = torch.where((age < ring.size)[:, None], padding, 2)
    return FramesState(ring, over, _mark(spec, IN_PLACE, sum_tree(spec.capacity * over.shape[0], over.device), ring, padding))
