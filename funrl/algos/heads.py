"""The heads of policies: from what a network gives to a distribution over actions."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl.distributions import Categorical, Independent, Normal
from funrl.env import Env
from funrl.spaces import Box, Dict, Discrete, Tuple

__all__ = ["ActionHead", "action_head", "check_actions", "project_action", "project_boxes"]


class ActionHead(NamedTuple):
    """The last part of a policy.

    Attributes:
        size: F, how many numbers the network gives.
        num_scales: S, how many standard deviations there are, which do not depend on the observation.
        distribution: ``distribution(output [..., F], log_std [S]) -> distribution`` of batch shape [...].
    """

    size: int
    num_scales: int
    distribution: Callable[[torch.Tensor, Any], Any]


def action_head(space: Any, uniform_mix: float = 0.0) -> ActionHead:
    """Make the head for a space of actions. Actions of a Discrete are counted from 0.

    Args:
        space: a Discrete, or a floating-point Box.
        uniform_mix: the share of the uniform distribution over a Discrete.

    Example:
        >>> head = action_head(Box(-1.0, 1.0, (2,)))
        >>> head.distribution(torch.zeros(5, head.size), torch.zeros(head.num_scales)).mode().shape
        torch.Size([5, 2])
    """
    if isinstance(space, Box):
        size = math.prod(space.shape)

        def normal(output: torch.Tensor, log_std: torch.Tensor) -> Any:
            loc = output.reshape(*output.shape[:-1], *space.shape)
            scale = log_std.exp().reshape(space.shape).expand_as(loc)
            return Independent(Normal(loc, scale), len(space.shape))

        return ActionHead(size, size, normal)

    def classes(output: torch.Tensor, log_std: Any) -> Any:
        if uniform_mix:
            output = torch.log((1 - uniform_mix) * torch.softmax(output, -1) + uniform_mix / space.n)
        return Categorical(output)

    return ActionHead(space.n, 0, classes)


def project_action(space: Any, action: Any) -> Any:
    """Return what the environment gets of what a policy has drawn: projected into a Box, or counted from a Discrete's start.

    Example:
        >>> project_action(Box(-2.0, 2.0, (1,)), torch.tensor([5.0]))
        tensor([2.])
    """
    return space.project(action) if isinstance(space, Box) else action + space.start


def project_boxes(space: Any, action: Any) -> Any:
    """Return an action that already is in the environment's units, with what belongs into a Box projected into it.

    Example:
        >>> project_boxes(Discrete(3, start=1), torch.tensor(3)), project_boxes(Box(-2.0, 2.0, (1,)), torch.tensor([5.0]))
        (tensor(3), tensor([2.]))
    """
    if isinstance(space, Dict):
        return {name: project_boxes(part, action[name]) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple([project_boxes(part, x) for part, x in zip(space.spaces, action, strict=True)])
    return space.project(action) if isinstance(space, Box) else action


def check_actions(config: Any, env: Env) -> None:
    """Raise a ValueError unless there is a head for the actions of an environment, and the options fit them.

    Example:
        >>> import funrl
        >>> check_actions(funrl.algos.ppo.PPOConfig(uniform_mix=0.1), funrl.envs.make("Pendulum-v1"))
        Traceback (most recent call last):
        ...
        ValueError: uniform_mix: is for discrete actions, but Pendulum-v1 has continuous ones; leave it at 0
    """
    actions = env.action_space
    if not isinstance(actions, Discrete) and not (isinstance(actions, Box) and actions.dtype.is_floating_point):
        raise ValueError(f"env: expected Discrete or floating-point Box actions, got {actions}")
    if isinstance(actions, Box) and config.uniform_mix:
        raise ValueError(f"uniform_mix: is for discrete actions, but {env.name} has continuous ones; leave it at 0")
    if isinstance(actions, Discrete) and config.initial_log_std:
        raise ValueError(f"initial_log_std: is for continuous actions, but {env.name} has discrete ones; leave it at 0")
