"""Heads of policies: from the output of a network to a distribution over actions."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl.distributions import Bernoulli, Categorical, Independent, MultiCategorical, Normal, joint
from funrl.env import AnyEnv
from funrl.spaces import Binary, Box, Dict, Discrete, MultiDiscrete, Tuple


class ActionHead(NamedTuple):
    """The last part of a policy.

    Attributes:
        size: F, the size of the network's output.
        num_scales: S, the number of standard deviations, which do not depend on the observation.
        distribution: ``distribution(output [..., F], log_std [S]) -> distribution`` of batch shape [...].
    """

    size: int
    num_scales: int
    distribution: Callable[[torch.Tensor, Any], Any]


def action_head(space: Any, uniform_mix: float = 0.0) -> ActionHead:
    """Make the head for an action space. Actions of a Discrete are counted from 0, but those of a Discrete in another space from its start.

    Args:
        space: a Discrete, floating-point Box, MultiDiscrete or Binary, or a Tuple or Dict of them, whose parts are independent.
        uniform_mix: weight of the uniform distribution over a Discrete.

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

    if isinstance(space, Dict | Tuple):
        return _product(space)
    if isinstance(space, MultiDiscrete):
        return ActionHead(sum(space.nvec), 0, lambda output, log_std: MultiCategorical(output, space.nvec, space.start))
    if isinstance(space, Binary):
        n = len(space.shape)
        return ActionHead(math.prod(space.shape), 0, lambda x, log_std: Independent(Bernoulli(x.reshape(*x.shape[:-1], *space.shape)), n))

    def classes(output: torch.Tensor, log_std: Any) -> Any:
        if uniform_mix:
            output = torch.log((1 - uniform_mix) * torch.softmax(output, -1) + uniform_mix / space.n)
        return Categorical(output)

    return ActionHead(space.n, 0, classes)


def _product(space: Any) -> ActionHead:
    """Make the head for a Dict or Tuple: each part uses its own part of the network's output."""
    names: list[Any] = sorted(space.spaces) if isinstance(space, Dict) else list(range(len(space.spaces)))
    heads = [_counted(space.spaces[name], action_head(space.spaces[name])) for name in names]
    sizes, scales = [head.size for head in heads], [head.num_scales for head in heads]

    def distribution(output: torch.Tensor, log_std: Any) -> Any:
        stds = [None] * len(heads) if log_std is None else log_std.split(scales, -1)
        parts = [head.distribution(x, std) for head, x, std in zip(heads, output.split(sizes, -1), stds, strict=True)]
        return joint(dict(zip(names, parts, strict=True)) if isinstance(space, Dict) else tuple(parts))

    return ActionHead(sum(sizes), sum(scales), distribution)


def _counted(space: Any, head: ActionHead) -> ActionHead:
    """Return a head whose actions of a Discrete are counted from its start."""
    if not isinstance(space, Discrete):
        return head
    return head._replace(distribution=lambda output, log_std: Categorical(output, space.start))


def project_action(space: Any, action: Any) -> Any:
    """Convert an action of a policy to an action of the environment: projected into a Box, or counted from the start of a Discrete.

    Example:
        >>> project_action(Box(-2.0, 2.0, (1,)), torch.tensor([5.0]))
        tensor([2.])
    """
    return action + space.start if isinstance(space, Discrete) else project_boxes(space, action)


def project_boxes(space: Any, action: Any) -> Any:
    """Project the parts of an action that belong to a Box; the others are already actions of the environment.

    Example:
        >>> project_boxes(Discrete(3, start=1), torch.tensor(3)), project_boxes(Box(-2.0, 2.0, (1,)), torch.tensor([5.0]))
        (tensor(3), tensor([2.]))
    """
    if isinstance(space, Dict):
        return {name: project_boxes(part, action[name]) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple([project_boxes(part, x) for part, x in zip(space.spaces, action, strict=True)])
    return space.project(action) if isinstance(space, Box) else action


def check_actions(env: AnyEnv, uniform_mix: float = 0.0, initial_log_std: float = 0.0) -> None:
    """Raise a ValueError unless there is a head for the actions of an environment, and the options fit them.

    Example:
        >>> import funrl
        >>> check_actions(funrl.envs.make("Pendulum-v1"), uniform_mix=0.1)
        Traceback (most recent call last):
        ...
        ValueError: uniform_mix: is for discrete actions, but Pendulum-v1 has continuous ones; leave it at 0
    """
    actions = env.action_space
    wrong = [part for part in _entries(actions) if not _has_head(part)]
    if wrong:
        got = actions if wrong[0] is actions else f"{wrong[0]} in {actions}"
        raise ValueError(
            f"env: expected actions that are Discrete, a floating-point Box, MultiDiscrete or Binary, or a Tuple or Dict of them, got {got}"
        )
    if uniform_mix and not isinstance(actions, Discrete):
        kind = "continuous" if isinstance(actions, Box) else "other"
        raise ValueError(f"uniform_mix: is for discrete actions, but {env.name} has {kind} ones; leave it at 0")
    if initial_log_std and not any(isinstance(part, Box) for part in _entries(actions)):
        raise ValueError(f"initial_log_std: is for continuous actions, but {env.name} has discrete ones; leave it at 0")


def _has_head(space: Any) -> bool:
    return isinstance(space, Discrete | MultiDiscrete | Binary) or (isinstance(space, Box) and space.dtype.is_floating_point)


def _entries(space: Any) -> list[Any]:
    """Return the spaces in a Dict or Tuple, at any depth, or the space itself."""
    if isinstance(space, Dict | Tuple):
        parts = space.spaces.values() if isinstance(space, Dict) else space.spaces
        return [entry for part in parts for entry in _entries(part)]
    return [space]
