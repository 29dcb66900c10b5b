"""Pictures in buffers: stacks of frames whose frames are stored once, and pixels as bytes."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import random, tree
from funrl.buffers.buffer import Buffer, RingState, Sample, Storage, check_batch_size, check_capacity
from funrl.buffers.episodes import done as done_of
from funrl.buffers.episodes import positions
from funrl.buffers.ring import FRESH, IN_PLACE, Write, append, check_items, memory, rows, start

__all__ = ["FramesState", "decode_pixels", "encode_pixels", "frame_stacks"]


@tree.dataclass
class FramesState:
    """Steps of E environments, each with the newest frames alone.

    Attributes:
        ring: ``(items, position)``: the items, whose stacks [E, K, ...] are frames [N, E, ...], and, int64 [N, E], how many steps of the
            episode came before.
        over: bool [E], whether the newest step ended its episode.
    """

    ring: RingState
    over: torch.Tensor


def frame_stacks(
    capacity: int,
    num_frames: int,
    *,
    observation: Any = "observation",
    next_observation: Any = "next_observation",
    done: Callable[[Any], torch.Tensor] = done_of,
    storage: Storage = memory,
    postprocess: Callable[[Any], Any] | None = None,
) -> Buffer:
    """Make a buffer that draws transitions uniformly, and keeps of each stack of frames the newest one.

    A stack is made again of the frames of the steps before; where the episode is younger than that, of its first frame repeated, as
    resets do. So items and samples have whole stacks, but the buffer takes 1 / K of their room: one frame for the observation, and one
    for its successor, which may be the last of an episode. An item is one step of E environments side by side, leaves [E, ...], so that a
    rollout [T, E, ...] is what ``extend`` takes.

    Args:
        capacity: N, the steps kept of each environment; at least ``num_frames``.
        num_frames: K >= 1, the frames of a stack, the newest last.
        observation: the path of the observations in an item (see :func:`funrl.tree.get`): a tensor [E, K, ...].
        next_observation: the path of their successors.
        done: ``done(item) -> bool [E]``: where episodes end; by default ``item.done``, or ``terminated | truncated``, as field or key.
        storage, postprocess: as for :func:`uniform`.

    Returns:
        A :class:`Buffer` whose state is a :class:`FramesState`. Its ``size`` counts transitions: the K - 1 oldest steps serve the others.

    Raises:
        ValueError: if an argument is out of its range, or the observations are not stacks of K; from the buffer: as for :func:`uniform`.

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
    name = "frame_stacks"
    check_capacity(name, capacity=capacity, num_frames=num_frames)
    if capacity < num_frames:
        raise ValueError(f"buffers.{name}: capacity: expected at least num_frames = {num_frames} steps, got {capacity}")
    parts = (observation, next_observation)

    def newest(items: Any, dims: int) -> Any:
        """Keep the last frames of stacks [..., K, ...] with ``dims`` dimensions before K."""
        for path in parts:
            x = tree.get(items, path)
            if not isinstance(x, torch.Tensor) or x.ndim <= dims or x.shape[dims] != num_frames:
                raise ValueError(
                    f"buffers.{name}: {path}: expected a stack of {num_frames} frames after {dims} dimensions, got {tree.describe_leaf(x)}"
                )
            items = tree.update(items, path, x.select(dims, num_frames - 1))
        return items

    def init(example: Any) -> FramesState:
        shape = tree.batch_shape(example, 1)
        over = done(example)
        if over.shape != shape or over.dtype != torch.bool:
            raise ValueError(f"buffers.{name}: done: expected bool {list(shape)}, got {tree.describe_leaf(over)}")
        return FramesState(start(name, kept(example), capacity, storage), torch.ones_like(over))

    def kept(item: Any) -> tuple[Any, torch.Tensor]:
        return newest(item, 1), torch.zeros_like(done(item), dtype=torch.int64)

    def write_steps(write: Write, state: FramesState, batch: Any) -> FramesState:
        batch = newest(batch, 2)
        check_items(f"buffers.{name}: extend: batch", state.ring.data[0], batch, 1)
        if tree.leaves(batch)[0].shape[0] == 0:
            return state
        last = state.ring.data[1].index_select(0, ((state.ring.cursor - 1) % capacity).reshape(1)).squeeze(0)
        position, over = positions(last, state.over, done(batch))
        ring = append(write, state.ring, (batch, position))
        return FramesState(ring, write.value(state.over, over))

    def size(state: FramesState) -> torch.Tensor:
        return (state.ring.size - (num_frames - 1)).clamp(min=0) * state.over.shape[0]

    def sample(key: torch.Tensor, state: FramesState, batch_size: int) -> Sample:
        count, envs = size(state), state.over.shape[0]
        check_batch_size(name, batch_size, count, 1)
        number = (random.uniform(key, (batch_size,), dtype=torch.float64) * count).to(torch.int64)
        slot, env = (state.ring.cursor - 1 - number // envs) % capacity, number % envs
        items, position = tree.map(lambda x: x.view(-1, *x.shape[2:]), state.ring.data)
        index = slot * envs + env
        batch = rows(items, index)
        # How far back each frame of a stack is, but not before the first one of the episode.
        back = torch.arange(num_frames - 1, -1, -1, device=slot.device)
        age = torch.minimum(back, position.index_select(0, index)[:, None])
        frames = rows(tree.get(items, observation), ((slot[:, None] - age) % capacity * envs + env[:, None]).reshape(-1))
        stack = frames.reshape(batch_size, num_frames, *frames.shape[1:])
        after = torch.cat([stack[:, 1:], tree.get(batch, next_observation)[:, None]], 1)
        batch = tree.update(tree.update(batch, observation, stack), next_observation, after)
        weights = (count > 0).expand(batch_size).to(torch.float32)
        return Sample(batch if postprocess is None else postprocess(batch), index, weights / count.clamp(min=1), weights)

    def restore(ring: RingState) -> FramesState:
        newest_row = rows(ring.data, ((ring.cursor - 1) % capacity).reshape(1))
        over = done(newest_row[0]).squeeze(0) | (ring.size == 0)
        return FramesState(ring, over)

    return Buffer(
        init=init,
        add=lambda state, item: write_steps(FRESH, state, tree.map(lambda x: x[None], item)),
        extend=lambda state, batch: write_steps(FRESH, state, batch),
        sample=sample,
        size=size,
        can_sample=lambda state, batch_size: size(state) >= batch_size,
        add_=lambda state, item: write_steps(IN_PLACE, state, tree.map(lambda x: x[None], item)),
        extend_=lambda state, batch: write_steps(IN_PLACE, state, batch),
        restore=restore,
        capacity=capacity,
        storage=storage,
        kept=kept,
    )


def encode_pixels(x: torch.Tensor) -> torch.Tensor:
    """Return numbers in [0, 1] as bytes, a quarter of the room of float32: round(255 x), clipped. :func:`decode_pixels` gives them back.

    Raises:
        TypeError: if ``x`` is not floating-point.

    Example:
        >>> encode_pixels(torch.tensor([0.0, 0.5, 1.0]))
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    if not x.is_floating_point():
        raise TypeError(f"buffers.encode_pixels: expected a floating-point tensor, got {x.dtype}")
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


def decode_pixels(x: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return bytes as numbers in [0, 1]: x / 255; as ``postprocess`` of a buffer, say.

    Raises:
        TypeError: if ``x`` is not uint8.

    Example:
        >>> decode_pixels(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    if x.dtype != torch.uint8:
        raise TypeError(f"buffers.decode_pixels: expected uint8, got {x.dtype}")
    return x.to(dtype) / 255
