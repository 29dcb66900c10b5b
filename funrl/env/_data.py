"""Data that environments exchange with actors, and functions for writers of environments."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import tree


@tree.dataclass
class Timestep(tree.Replaceable):
    """Observation, reward and flags, as ``reset`` and ``step`` of an environment return them.

    Attributes:
        observation: a tree of tensors, an element of ``env.observation_space``.
        reward: floating point []; 0 from ``reset``.
        terminated: bool []; the episode reached a terminal state, whose value is 0.
        truncated: bool []; the episode was stopped (by a time limit) in a state that has a value.
        info: a dict of further tensors, the same keys at each step; may be empty.
        discount: floating point [], the discount of what follows this step, in environments whose steps last differently long, such as
            those of :func:`funrl.transforms.options`; otherwise (), and the learner has one discount for all steps.
    """

    observation: Any
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    info: dict[str, Any]
    discount: Any = ()

    @property
    def done(self) -> torch.Tensor:
        """Bool []: the episode is over, terminated or truncated."""
        return self.terminated | self.truncated


def first_timestep(observation: Any, like: torch.Tensor) -> Timestep:
    """Return the timestep of a reset: the reward is 0 in the dtype of ``like`` [], and no flag is set.

    Example:
        >>> first_timestep(torch.ones(2), torch.tensor(3.0)).reward
        tensor(0.)
    """
    no = torch.zeros_like(like, dtype=torch.bool)
    return Timestep(observation, torch.zeros_like(like), no, no.clone(), {})


@tree.dataclass
class Place:
    """Positions of steps in their episodes, for batches of collectors, where successive batches may come from different workers.

    Attributes:
        number: int64 [], the unique number of the episode.
        step_count: int64 [], the number of earlier steps of the episode.
        return_so_far: floating point [], the sum of the rewards of these steps.
    """

    number: torch.Tensor
    step_count: torch.Tensor
    return_so_far: torch.Tensor


@tree.dataclass
class Transition(tree.Replaceable):
    """One step of experience (or [T, B, ...] of them).

    Attributes:
        observation: the observation of the policy.
        action: the action that it chose.
        reward: floating point [].
        terminated: bool [].
        truncated: bool [].
        next_observation: the true successor, never the observation of a reset.
        extras: further outputs of the policy, such as ``log_prob``; and ``discount``, if the timesteps of the environment have one.
        place: a :class:`Place` if a collector gathered the steps; otherwise (), and each step of a column follows the one before it.
    """

    observation: Any
    action: Any
    reward: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    next_observation: Any
    extras: Any
    place: Any = ()

    @property
    def done(self) -> torch.Tensor:
        """Bool []: the episode ended with this step."""
        return self.terminated | self.truncated


class HostError(RuntimeError):
    """Error: a host environment raised, died, did not answer, or returned an invalid observation or reward."""


def constants(kind: Callable[..., Any], **values: Any) -> Any:
    """Return the default params of an environment: Python floats become float32, integers int64, booleans bool, on the CPU.

    Args:
        kind: the class of the params, a :func:`funrl.tree.dataclass`.
        **values: its fields: numbers, lists of numbers (of lists, ...), or tensors; those marked by ``tree.constant`` may be left out.

    Example:
        >>> from funrl import tree
        >>> @tree.dataclass
        ... class BallParams:
        ...     gravity: torch.Tensor
        ...     max_steps: torch.Tensor
        >>> constants(BallParams, gravity=9.8, max_steps=200).gravity
        tensor(9.8000)
    """
    fields = getattr(kind, "__dataclass_fields__", {}).items()
    values = {name: field.metadata["constant"] for name, field in fields if "constant" in field.metadata} | values
    tensors = {name: torch.as_tensor(value, device="cpu") for name, value in values.items()}
    return kind(**tree.to(tensors, torch.float32))


def seed_globals(seed: int) -> None:
    """Seed the global generators of this process that a host environment may draw from: those of ``random``, numpy and torch.

    Environments that gymnasium made do so when all their copies are reset. Nothing in funrl draws from these generators.

    Args:
        seed: in [0, 2^32).

    Example:
        >>> import random
        >>> seed_globals(7)
        >>> first = random.random(), torch.rand(())
        >>> seed_globals(7)
        >>> first == (random.random(), torch.rand(()))
        True
    """
    import random

    import numpy

    random.seed(seed)
    numpy.random.seed(seed)
    torch.default_generator.manual_seed(seed)
