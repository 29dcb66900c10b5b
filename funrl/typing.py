"""Types of the data that travels between rooms, by name, and functions as protocols that a type checker compares with yours.

The arguments of a function are positional, so that yours may have other names. ``Any`` stands for a tree of tensors.

>>> from funrl.typing import Act, Key, Params
>>> def act(params: Params, key: Key, observation): return observation.sum(-1), {}
>>> checked: Act = act
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import torch

__all__ = [
    "Act",
    "Action",
    "ActionValue",
    "Actor",
    "Apply",
    "Evaluate",
    "GoalReward",
    "Init",
    "Key",
    "Loss",
    "Metrics",
    "Observation",
    "Params",
    "State",
]

Params: TypeAlias = Any
"""Parameters: a tree of tensors, whose structure the function that reads them knows."""

State: TypeAlias = Any
"""A state: a tree of tensors that a function takes, and of which it returns the successor."""

Observation: TypeAlias = Any
"""An observation: an element of the observation space, a tree of tensors."""

Action: TypeAlias = Any
"""An action: an element of the action space, a tree of tensors."""

Key: TypeAlias = torch.Tensor
"""A key of :mod:`funrl.random`, int64 []: used once and never stored."""

Metrics: TypeAlias = dict[str, torch.Tensor]
"""Metrics by name: tensors, of which those that a learner returns are []."""


class Act(Protocol):
    """A policy as a function: ``act(params, key, observation) -> (action, extras)``, as :func:`funrl.rollout` takes it.

    The extras, a dict, are stored with the transition; without any, it is empty.
    """

    def __call__(self, params: Params, key: Key, observation: Observation, /) -> tuple[Action, Mapping[str, Any]]: ...


class GoalReward(Protocol):
    """The reward for a goal: ``reward(achieved_goal, goal, action) -> (reward [], terminated [])``, of single goals."""

    def __call__(self, achieved_goal: torch.Tensor, goal: torch.Tensor, action: Action, /) -> tuple[torch.Tensor, torch.Tensor]: ...


class Init(Protocol):
    """The first parameters of a network: ``init(key, *examples) -> params``; only shapes, dtypes and device of the examples matter."""

    def __call__(self, key: Key, /, *examples: Any, **options: Any) -> Params: ...


class Apply(Protocol):
    """A network of one input: ``apply(params, observation) -> tensor``."""

    def __call__(self, params: Params, observation: Observation, /) -> torch.Tensor: ...


class ActionValue(Protocol):
    """A critic of states and actions: ``critic(params, observation, action) -> tensor``."""

    def __call__(self, params: Params, observation: Observation, action: Action, /) -> torch.Tensor: ...


class Actor(Protocol):
    """A policy as a distribution: ``actor(params, observation) -> distribution``, of :mod:`funrl.distributions`."""

    def __call__(self, params: Params, observation: Observation, /) -> Any: ...


class Evaluate(Protocol):
    """A policy and its value function: ``apply(params, observation) -> (distribution, value)``."""

    def __call__(self, params: Params, observation: Observation, /) -> tuple[Any, torch.Tensor]: ...


class Loss(Protocol):
    """A loss: ``loss(params, ..., batch, **options) -> (loss, metrics)``, a tensor [] and metrics.

    The arguments between, such as the parameters of targets and a key, are those of the loss that it takes the place of.
    """

    def __call__(self, params: Params, /, *args: Any, **options: Any) -> tuple[torch.Tensor, Metrics]: ...
