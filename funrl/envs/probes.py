"""Probes: five very small environments with known values. The values that a faulty learner finds show its fault.

Each isolates one part of a learner, in this order: repair the first that fails before you go to the next.

=====================  =====================================  ===============================================================
probe                  what has to work                       values and policy
=====================  =====================================  ===============================================================
:func:`value`          regression of the value on the reward  V(0) = 1
:func:`discount`       bootstrapping and the discount         V(0) = gamma, V(1) = 1
:func:`action`         credit to actions                      action 1 (0.5 if continuous), V(0) = 1
:func:`observation`    a policy that depends on what it sees  the action of the observation's sign (half of it), V(±1) = 1
:func:`truncation`     truncation is no end                   V(-1) = gamma / (1 - gamma), V(1) = 1 / (1 - gamma)
=====================  =====================================  ===============================================================

Each comes with ``actions="discrete"``, 0 or 1, and ``"continuous"``, one number in [-1, 1] (another word is a ValueError); where the
table names no action, actions have no effect. Observations are floating-point [1]. :func:`solution` returns the table as tensors. The
values are without an entropy bonus: give a learner with an entropy bonus a very small weight for it. :func:`funrl.envs.make` does not
have the probes, as they are only for tests.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from funrl import _check, random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs._checks import checked
from funrl.spaces import Box, Discrete

__all__ = ["PROBES", "Solution", "action", "discount", "observation", "solution", "truncation", "value"]


@tree.dataclass
class ProbeParams:
    """Parameters of a probe.

    Attributes:
        reward: floating-point []; all rewards, and so all values, are multiples of it.
    """

    reward: torch.Tensor = tree.constant(1.0)


@tree.dataclass
class ProbeState:
    """The state of one episode.

    Attributes:
        place: int64 [], -1, 0 or 1; the observation.
        time: int64 [], steps since the reset.
    """

    place: torch.Tensor
    time: torch.Tensor


class Solution(NamedTuple):
    """Observations, values and actions that a correct learner finds.

    Attributes:
        observation: float32 [S, 1], all observations in which the agent acts.
        value: float32 [S], the values of the best policy.
        action: int64 [S] or float32 [S, 1], the best actions; None if actions have no effect.
    """

    observation: torch.Tensor
    value: torch.Tensor
    action: torch.Tensor | None


def value(actions: str = "discrete") -> Env:
    """Return a probe of one observation, 0, one step, and the reward 1.

    V(0) = Q(0, a) = 1. A learner that finds -1 has a wrong sign, one whose value grows (to 1 / (1 - gamma)) bootstraps from a terminal
    state, and one whose value does not change does not learn it at all.

    Args:
        actions: "discrete" or "continuous"; they have no effect.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = value()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(0))
        >>> timestep.observation, timestep.reward, timestep.terminated
        (tensor([0.]), tensor(1.), tensor(True))
    """
    return _probe("value", actions, 1, torch.zeros_like, lambda place, score: (place, torch.ones_like(place)))


def discount(actions: str = "discrete") -> Env:
    """Return a probe of two steps: from 0 to 1 at reward 0, then an end at reward 1.

    V(0) = gamma and V(1) = 1. With V(0) = 1 the discount is missing, with V(0) = 0 the bootstrap, and with V(0) = V(1) of about
    1 / (1 - gamma) the end of the episode is ignored.

    Args:
        actions: "discrete" or "continuous"; they have no effect.

    Example:
        >>> solution(discount(), gamma=0.5).value
        tensor([0.5000, 1.0000])
    """
    return _probe("discount", actions, 2, torch.zeros_like, lambda place, score: (torch.ones_like(place), place))


def action(actions: str = "discrete") -> Env:
    """Return a probe of one observation, 0, and one step, whose reward depends on the action.

    Discrete: action 1 pays 1, action 0 pays -1, so Q(0, 1) = 1 and Q(0, 0) = -1. Continuous: Q(0, a) = 1 - (a - 0.5)². If the policy takes
    action 0 (or goes to a bound), the sign of its gradient is wrong; if it does not change, it has no gradient.

    Args:
        actions: "discrete" or "continuous".

    Example:
        >>> solution(action("continuous"), gamma=0.9).action
        tensor([[0.5000]])
    """
    return _probe("action", actions, 1, torch.zeros_like, lambda place, score: (place, score(torch.ones_like(place))))


def observation(actions: str = "discrete") -> Env:
    """Return a probe of one step, where the best action depends on the observation, -1 or 1.

    Discrete: action 1 at 1 and action 0 at -1 pay 1, the others -1. Continuous: Q(x, a) = 1 - (a - x / 2)². A learner that learns
    :func:`action` but not this one mixes up the rows of its batch, or does not use the observation.

    Args:
        actions: "discrete" or "continuous".

    Example:
        >>> solution(observation(), gamma=0.9).action
        tensor([0, 1])
    """

    def side(key: torch.Tensor) -> torch.Tensor:
        return 2 * random.randint(key, (), 0, 2) - 1

    return _probe("observation", actions, 1, side, lambda place, score: (place, score(place)))


def truncation(actions: str = "discrete") -> Env:
    """Return a probe that is truncated after two steps: from -1 to 1 at reward 0, and from 1 to 1 at reward 1.

    As it never terminates, V(1) = 1 / (1 - gamma) and V(-1) = gamma V(1). With V(1) = 1 the learner treats truncation as termination;
    with V(1) = 1 / (1 - gamma²) it bootstraps from the observation after the reset, and not from the true successor.

    Args:
        actions: "discrete" or "continuous"; they have no effect.

    Example:
        >>> solution(truncation(), gamma=0.5).value
        tensor([1., 2.])
    """

    def start(key: torch.Tensor) -> torch.Tensor:
        return -torch.ones_like(key)

    def play(place: torch.Tensor, score: Callable) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones_like(place), (place == 1).long()

    return _probe("truncation", actions, 2, start, play)


PROBES = {"value": value, "discount": discount, "action": action, "observation": observation, "truncation": truncation}


def solution(env: Env, gamma: float) -> Solution:
    """Return the values and the policy that a learner with the discount ``gamma`` must find in a probe, for the default params.

    Args:
        env: a probe.
        gamma: in [0, 1).

    Raises:
        ValueError: if ``env`` is not a probe, or ``gamma`` is out of its range.

    Example:
        >>> for name, probe in PROBES.items():
        ...     print(name, *solution(probe(), gamma=0.9).value.tolist())
        value 1.0
        discount 0.8999... 1.0
        action 1.0
        observation 1.0 1.0
        truncation 9.0 10.0
    """
    _check.number("solution: gamma", gamma, "[0, 1)")
    long_run = 1 / (1 - gamma)
    places = {
        "Probe-value": {0: 1.0},
        "Probe-discount": {0: gamma, 1: 1.0},
        "Probe-action": {0: 1.0},
        "Probe-observation": {-1: 1.0, 1: 1.0},
        "Probe-truncation": {-1: gamma * long_run, 1: long_run},
    }
    if env.name not in places:
        raise ValueError(f"solution: env: expected a probe, got {env.name}; funrl.envs.probes.PROBES holds them")
    place, best = (torch.tensor(column) for column in zip(*places[env.name].items(), strict=True))
    side = {"Probe-action": torch.ones_like(place), "Probe-observation": place}.get(env.name)
    if side is not None:
        side = (side + 1) // 2 if isinstance(env.action_space, Discrete) else side[:, None] / 2
    return Solution(place[:, None].float(), best, side)


def _probe(name: str, actions: str, length: int, start: Callable, play: Callable) -> Env:
    """Return a probe.

    Args:
        name: the name of the probe; "truncation" is truncated, the others terminate.
        actions: "discrete" or "continuous".
        length: the number of steps of an episode.
        start: ``start(key) -> place``, int64 [].
        play: ``play(place, score) -> (next place, reward)``, both []; ``score(side)`` is the reward of the action if the best action is on
            that side, -1 or 1.
    """
    kinds = {"discrete": Discrete(2), "continuous": Box(-1.0, 1.0, (1,))}
    if actions not in kinds:
        raise ValueError(f"probes.{name}: actions: expected discrete or continuous, got {actions!r}; {_check.nearest(actions, kinds)}")
    space = kinds[actions]
    name = f"Probe-{name}"
    default = constants(ProbeParams)

    def observe(place: torch.Tensor, reward: torch.Tensor) -> torch.Tensor:
        return place.reshape(1).to(reward.dtype)

    def reset(key: torch.Tensor, p: ProbeParams) -> tuple[ProbeState, Timestep]:
        """Return the first state, and its timestep."""
        place = start(key)
        zero = torch.zeros_like(p.reward)
        return ProbeState(place, torch.zeros_like(place)), first_timestep(observe(place, zero), zero)

    def step(key: torch.Tensor, state: ProbeState, action: torch.Tensor, p: ProbeParams) -> tuple[ProbeState, Timestep]:
        """Take one step; the key is not used."""

        def score(side: torch.Tensor) -> torch.Tensor:
            if isinstance(space, Discrete):
                return torch.where(action == (side + 1) // 2, 1, -1)
            return 1 - (action.reshape(()).to(p.reward.dtype) - side / 2).square()

        place, reward = play(state.place, score)
        reward = p.reward * reward
        new = ProbeState(place, state.time + 1)
        last = new.time >= length
        no = torch.zeros_like(last)
        terminated, truncated = (no, last) if name == "Probe-truncation" else (last, no)
        return new, Timestep(observe(place, reward), reward, terminated, truncated, {})

    return checked(Env(name, reset, step, Box(-1.0, 1.0, (1,)), space, default, length, None), ProbeState)
