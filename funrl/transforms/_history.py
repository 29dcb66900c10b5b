"""Transforms of the last observations: stacks and maxima."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check
from funrl.env import AnyEnv, Timestep
from funrl.spaces import Binary, Box
from funrl.transforms._core import Transform, stateful
from funrl.transforms._parts import Keys, as_box, check_tensor, moved, parts


def frame_stack(num: int, *, padding: str = "reset", in_keys: Keys = None, out_keys: Keys = None) -> Transform:
    """Stack the last ``num`` observations, the newest last, along a new first dimension.

    ``own`` of the state: a tuple with the stack [num, ...] of each part.

    Args:
        num: the number of observations, at least 1.
        padding: replacement of observations before the first one of an episode: ``"reset"``, the first one itself, or ``"zero"``.
        in_keys: the entries of a dict observation to transform; None: the observation is not a dict.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.

    Raises:
        TypeError: if ``num`` is not an integer, or keys are not a list of strings.
        ValueError: if ``num`` is less than 1, or there is no such padding; when applied: if an entry is missing or is not a tensor.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("CartPole-v1"), frame_stack(3))
        >>> state, timestep = env.reset(funrl.random.key(0))
        >>> new, after = env.step(funrl.random.key(1), state, torch.tensor(1))
        >>> after.observation.shape, torch.equal(after.observation[1], timestep.observation[-1])
        (torch.Size([3, 4]), True)
    """
    _check.integer("frame_stack: num", num, 1)
    _check.one_of("frame_stack: padding", padding, ("reset", "zero"))

    def fill(x: torch.Tensor) -> torch.Tensor:
        before = x if padding == "reset" else torch.zeros_like(x)
        return torch.stack([before] * (num - 1) + [x])

    def stacked(space: Any) -> Any:
        layout = "chw" if len(space.shape) == 2 else None  # the channels of stacked images [H, W] are the frames
        if padding == "reset" or isinstance(space, Binary):
            return moved(space, lambda x: torch.stack([x] * num), layout)
        box = as_box(space)
        low = [box.low.clamp(max=0)] * (num - 1) + [box.low]
        high = [box.high.clamp(min=0)] * (num - 1) + [box.high]
        return Box(torch.stack(low), torch.stack(high), dtype=box.dtype, layout=layout)

    return _look_back("frame_stack", fill, lambda stack: stack, stacked, in_keys, out_keys, num=num, padding=padding)


def time_max_pool(num: int, *, in_keys: Keys = None, out_keys: Keys = None) -> Transform:
    """Take the elementwise maximum of the last ``num`` observations of an episode.

    It makes flickering objects visible, such as the sprites of Atari games. ``own`` of the state: a tuple with the stack [num, ...] of
    each part.

    Args:
        num: the number of observations, at least 1.
        in_keys: the entries of a dict observation to transform; None: the observation is not a dict.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.

    Raises:
        TypeError: if ``num`` is not an integer, or keys are not a list of strings.
        ValueError: if ``num`` is less than 1; when applied: if an entry is missing or is not a tensor.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("CartPole-v1"), time_max_pool(2))
        >>> state, timestep = env.reset(funrl.random.key(0))
        >>> new, after = env.step(funrl.random.key(1), state, torch.tensor(1))
        >>> bool((after.observation >= timestep.observation).all())
        True

    Reference: V. Mnih et al., "Human-level control through deep reinforcement learning", Nature 518, 2015.
    """
    _check.integer("time_max_pool: num", num, 1)

    def fill(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x] * num)

    return _look_back("time_max_pool", fill, lambda stack: stack.amax(0), lambda space: space, in_keys, out_keys, num=num)


def _look_back(name: str, fill: Callable, show: Callable, follow: Callable, in_keys: Keys, out_keys: Keys, **settings: Any) -> Transform:
    """Return the transform that replaces parts of observations by ``show(stack)`` of the last ones.

    ``fill(x)`` is the stack of the first observation, and ``follow(space)`` the space of the result of ``show``.
    """

    def apply(env: AnyEnv) -> AnyEnv:
        where = parts(env, name, in_keys, out_keys)
        for space, place in where.spaces():
            check_tensor(name, space, place)

        def present(stacks: tuple[torch.Tensor, ...], timestep: Timestep) -> tuple[Any, Timestep]:
            return stacks, timestep.replace(observation=where.write(timestep.observation, [show(stack) for stack in stacks]))

        def start(timestep: Timestep) -> tuple[Any, Timestep]:
            return present(tuple([fill(x) for x in where.read(timestep.observation)]), timestep)

        def finish(stacks: tuple[torch.Tensor, ...], timestep: Timestep) -> tuple[Any, Timestep]:
            new = where.read(timestep.observation)
            return present(tuple([torch.cat([stack[1:], x[None]]) for stack, x in zip(stacks, new, strict=True)]), timestep)

        space = where.replace([follow(space) for space, _ in where.spaces()])
        return stateful(env, where.label(**settings), start=start, finish=finish, observation_space=space)

    return apply
