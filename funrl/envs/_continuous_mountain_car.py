"""MountainCarContinuous: drive a weak car out of a valley with little force."""

import torch

from funrl import tree
from funrl.env import Env, Timestep, constants
from funrl.envs import _hill as hill
from funrl.envs._checks import checked
from funrl.envs._hill import MountainCarParams, MountainCarState
from funrl.spaces import Box
from funrl.typing import Key


@tree.dataclass
class ContinuousMountainCarParams(MountainCarParams):
    """Parameters of MountainCar, and the bound of the action.

    Attributes:
        max_action: the action is clipped to [-max_action, max_action] before it acts.
    """

    max_action: torch.Tensor


MAX_STEPS = 999
PARAMS = constants(ContinuousMountainCarParams, force=0.0015, goal_position=0.45, max_action=1.0, max_steps=MAX_STEPS)
ACTIONS = Box(-1.0, 1.0, (1,))


def step(key: Key, state: MountainCarState, action: torch.Tensor, p: ContinuousMountainCarParams) -> tuple[MountainCarState, Timestep]:
    """Accelerate for one step: :func:`funrl.envs._hill.drive` moves the car, with the action a clipped to ± max_action.

    The reward is -0.1 a², and 100 more at the goal, with the action a before clipping.

    Args:
        key: int64 []; not used, the dynamics are deterministic.
        state: the state of the episode.
        action: floating-point [1]; negative accelerates to the left.
        p: ``env_params``, the constants.

    Returns:
        The next state and its timestep: observation [2] (position, velocity); the reward above; terminated at the
        goal; truncated after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    action = action.reshape(()).to(state.velocity.dtype)
    pedal = torch.minimum(torch.maximum(action, -p.max_action), p.max_action)
    new, at_goal = hill.drive(state, pedal, p)
    reward = 100 * at_goal.to(action.dtype) - 0.1 * action * action
    return new, Timestep(hill.observe(new), reward, at_goal, new.time >= p.max_steps, {})


def continuous_mountain_car() -> Env:
    """Return MountainCarContinuous-v0: a car too weak for the slope has to reach the flag at little cost.

    It agrees with gymnasium's MountainCarContinuous-v0 step for step.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = continuous_mountain_car()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor([1.0]))
        >>> timestep.observation.shape, timestep.reward, timestep.done
        (torch.Size([2]), tensor(-0.1000), tensor(False))

    Reference: A. Moore, "Efficient Memory-based Learning for Robot Control", 1990; the constants of M. Towers et al.,
    "Gymnasium", 2024, arXiv:2407.17032.
    """
    env = Env("MountainCarContinuous-v0", hill.reset, step, hill.OBSERVATIONS, ACTIONS, PARAMS, MAX_STEPS, hill.render)
    return checked(env, MountainCarState)
