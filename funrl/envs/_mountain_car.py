"""MountainCar: drive a weak car out of a valley, with three discrete actions."""

import torch

from funrl.env import Env, Timestep, constants
from funrl.envs import _hill as hill
from funrl.envs._checks import checked
from funrl.envs._hill import MountainCarParams, MountainCarState
from funrl.spaces import Discrete

MAX_STEPS = 200
PARAMS = constants(MountainCarParams, force=0.001, goal_position=0.5, max_steps=MAX_STEPS)
ACTIONS = Discrete(3)


def step(key: torch.Tensor, state: MountainCarState, action: torch.Tensor, p: MountainCarParams) -> tuple[MountainCarState, Timestep]:
    """Accelerate for one step: :func:`funrl.envs._hill.drive` moves the car.

    Args:
        key: int64 []; not used, the dynamics are deterministic.
        state: the state of the episode.
        action: int64 []; 0 accelerates to the left, 1 not at all, 2 to the right.
        p: ``env_params``, the constants.

    Returns:
        The next state and its timestep: observation [2] (position, velocity); reward -1; terminated at the goal;
        truncated after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    new, at_goal = hill.drive(state, (action - 1).to(state.velocity.dtype), p)
    reward = torch.full_like(new.position, -1.0)
    return new, Timestep(hill.observe(new), reward, at_goal, new.time >= p.max_steps, {})


def mountain_car() -> Env:
    """Return MountainCar-v0: a car too weak for the slope has to rock back and forth until it reaches the flag.

    It agrees with gymnasium's MountainCar-v0 step for step.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = mountain_car()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(2))
        >>> timestep.observation.shape, timestep.reward, timestep.done
        (torch.Size([2]), tensor(-1.), tensor(False))

    Reference: A. Moore, "Efficient Memory-based Learning for Robot Control", 1990; the constants of M. Towers et al.,
    "Gymnasium", 2024, arXiv:2407.17032.
    """
    env = Env("MountainCar-v0", hill.reset, step, hill.OBSERVATIONS, ACTIONS, PARAMS, MAX_STEPS, hill.render)
    return checked(env, MountainCarState)
