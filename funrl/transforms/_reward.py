"""Transforms of the reward, and observations of sums of rewards."""

import math

import torch

from funrl import _check
from funrl.env import AnyEnv, Timestep
from funrl.spaces import Box
from funrl.transforms._core import Transform, stateless
from funrl.transforms._parts import followed_entry, label


def reward_scale(scale: float, *, loc: float = 0.0) -> Transform:
    """Scale and shift the reward of each step: reward * scale + loc.

    Args:
        scale: the factor, finite.
        loc: the summand, finite.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if one is not finite.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("CartPole-v1"), reward_scale(0.5, loc=-2))
        >>> state, _ = env.reset(funrl.random.key(0))
        >>> env.step(funrl.random.key(1), state, torch.tensor(1))[1].reward
        tensor(-1.5000)
    """
    _check.number("reward_scale: scale", scale)
    _check.number("reward_scale: loc", loc)

    def apply(env: AnyEnv) -> AnyEnv:
        shown = label("reward_scale", scale=scale, loc=loc)
        return stateless(env, shown, finish=lambda timestep: timestep.replace(reward=timestep.reward * scale + loc))

    return apply


def reward_clip(low: float = -1.0, high: float = 1.0) -> Transform:
    """Clip the reward of each step to [low, high].

    Args:
        low: the minimum; -inf: no limit.
        high: the maximum, above ``low``; inf: no limit.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if ``low`` is not below ``high``.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("CartPole-v1"), reward_clip(high=0.25))
        >>> state, _ = env.reset(funrl.random.key(0))
        >>> env.step(funrl.random.key(1), state, torch.tensor(1))[1].reward
        tensor(0.2500)
    """
    if not _check.number("reward_clip: low", low, "[-inf, inf]") < _check.number("reward_clip: high", high, "[-inf, inf]"):
        raise ValueError(f"reward_clip: expected low < high, got low={low}, high={high}; swap them")

    def apply(env: AnyEnv) -> AnyEnv:
        shown = label("reward_clip", low=low, high=high)
        return stateless(env, shown, finish=lambda timestep: timestep.replace(reward=timestep.reward.clamp(low, high)))

    return apply


def reward_sum(*, out_key: str = "episode_return") -> Transform:
    """Add the sum of the rewards since the reset to the observation.

    A plain observation becomes the entry ``"observation"`` of a dict. In a rollout, ``next_observation[out_key]`` of the last step of an
    episode is its return. ``own`` of the state: the sum, floating point [].

    Args:
        out_key: the name of the entry.

    Raises:
        TypeError: if ``out_key`` is not a string.
        ValueError: when applied: if the observation has such an entry already.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("CartPole-v1"), reward_sum())
        >>> state, _ = env.reset(funrl.random.key(0))
        >>> for i in range(3):
        ...     state, timestep = env.step(funrl.random.key(i), state, torch.tensor(1))
        >>> timestep.observation["episode_return"]
        tensor(3.)
    """

    space = Box(-math.inf, math.inf, ())
    return followed_entry(
        "reward_sum", out_key, space, lambda timestep: torch.zeros_like(timestep.reward), lambda total, timestep: total + timestep.reward
    )


def target_return(target: float, *, mode: str = "reduce", out_key: str = "target_return") -> Transform:
    """Add the return that remains to be reached to the observation, for return-conditioned policies.

    A plain observation becomes the entry ``"observation"`` of a dict. ``own`` of the state: the added number, floating point [].

    Args:
        target: the return of a whole episode, finite.
        mode: ``"reduce"``: each reward is subtracted from the target; ``"constant"``: the target does not change.
        out_key: the name of the entry.

    Raises:
        TypeError: if ``target`` is not a number or ``out_key`` is not a string.
        ValueError: if ``target`` is not finite, or there is no such mode; when applied: if the observation has such an entry already.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("CartPole-v1"), target_return(200))
        >>> state, _ = env.reset(funrl.random.key(0))
        >>> env.step(funrl.random.key(1), state, torch.tensor(1))[1].observation["target_return"]
        tensor(199.)

    Reference: L. Chen et al., "Decision Transformer: Reinforcement Learning via Sequence Modeling", 2021, arXiv:2106.01345.
    """
    _check.number("target_return: target", target)
    _check.one_of("target_return: mode", mode, ("reduce", "constant"))

    def first(timestep: Timestep) -> torch.Tensor:
        return torch.full_like(timestep.reward, target)

    def follow(left: torch.Tensor, timestep: Timestep) -> torch.Tensor:
        return left - timestep.reward if mode == "reduce" else left

    return followed_entry("target_return", out_key, Box(-math.inf, math.inf, ()), first, follow, target=target, mode=mode)
