"""The environment interface: pure functions over a state, and the data that they exchange."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import tree

__all__ = ["Env", "Timestep", "Transition"]


@tree.dataclass
class Timestep:
    """What an environment returns from ``reset`` and ``step``.

    Attributes:
        observation: a tree of tensors, as ``env.observation_space`` says.
        reward: floating point []; 0 from ``reset``.
        terminated: bool []; the episode reached a terminal state, whose value is 0.
        truncated: bool []; the episode was cut off (a time limit), so its value goes on.
        info: a dict of further tensors, the same keys at each step; may be empty.
    """

    observation: Any
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    info: dict[str, Any]

    @property
    def done(self) -> torch.Tensor:
        """Bool []: the episode is over, by either way."""
        return self.terminated | self.truncated


@tree.dataclass
class Transition:
    """One step of experience (or [T, B, ...] of them).

    Attributes:
        observation: what the policy saw.
        action: what it chose.
        reward: floating point [].
        terminated: bool [].
        truncated: bool [].
        next_observation: the true successor, never the observation of a reset.
        extras: what the policy returned beside the action, such as ``log_prob``.
    """

    observation: Any
    action: Any
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    next_observation: Any
    extras: Any

    @property
    def done(self) -> torch.Tensor:
        """Bool []: the episode ended with this step."""
        return self.terminated | self.truncated


class Env(NamedTuple):
    """An environment for a single instance; :func:`torch.func.vmap` makes batches.

    Attributes:
        name: what :func:`funrl.envs.make` knows it by.
        reset: ``reset(key, env_params) -> (state, Timestep)``.
        step: ``step(key, state, action, env_params) -> (state, Timestep)``; never resets by itself.
        observation_space: a space of :mod:`funrl.spaces`.
        action_space: a space of :mod:`funrl.spaces`.
        default_params: the physical constants as a tree of tensors; their dtype and device are those of the episode.
        max_episode_steps: the default time limit, in steps.
        render: ``render(state, env_params) -> uint8 [H, W, 3]``.
        host: whether ``step`` runs outside torch, and so cannot be vmapped or compiled.
    """

    name: str
    reset: Callable[..., Any]
    step: Callable[..., Any]
    observation_space: Any
    action_space: Any
    default_params: Any
    max_episode_steps: int
    render: Callable[..., Any]
    host: bool = False
