"""MountainCar: rock a weak car out of a valley, with three pedals."""

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, check_step, constants
from funrl.envs import draw
from funrl.spaces import Box, Discrete

__all__ = ["MountainCarParams", "MountainCarState", "mountain_car"]


@tree.dataclass
class MountainCarParams:
    """Physical constants, each a floating-point [] of one dtype.

    Attributes:
        force: what a pedal adds to the velocity.
        gravity: what the steepest slope takes from it.
        min_position: the wall on the left, where the car stops.
        max_position: the end of the track on the right.
        max_speed: the velocity is clipped to it.
        goal_position: the episode terminates when the car is there or beyond,
        goal_velocity: at this velocity or a higher one.
        reset_low: ``reset`` draws the position from [reset_low, reset_high); the velocity is 0.
        reset_high: see ``reset_low``.
        max_steps: int64 []; the episode is truncated after so many steps.
    """

    force: torch.Tensor
    gravity: torch.Tensor
    min_position: torch.Tensor
    max_position: torch.Tensor
    max_speed: torch.Tensor
    goal_position: torch.Tensor
    goal_velocity: torch.Tensor
    reset_low: torch.Tensor
    reset_high: torch.Tensor
    max_steps: torch.Tensor


@tree.dataclass
class MountainCarState:
    """The state of one episode; floating-point numbers have the dtype of the params.

    Attributes:
        position: [], along the track.
        velocity: [], in positions a step.
        time: int64 [], steps since the reset.
    """

    position: torch.Tensor
    velocity: torch.Tensor
    time: torch.Tensor


MAX_STEPS = 200
PARAMS = constants(
    MountainCarParams,
    force=0.001,
    gravity=0.0025,
    min_position=-1.2,
    max_position=0.6,
    max_speed=0.07,
    goal_position=0.5,
    goal_velocity=0.0,
    reset_low=-0.6,
    reset_high=-0.4,
    max_steps=MAX_STEPS,
)
OBSERVATIONS = Box([-1.2, -0.07], [0.6, 0.07])
ACTIONS = Discrete(3)


def reset(key: torch.Tensor, env_params: MountainCarParams = PARAMS) -> tuple[MountainCarState, Timestep]:
    """Return a state at rest near the bottom of the valley, and its timestep; ``key`` is int64 []."""
    p = env_params
    position = p.reset_low + (p.reset_high - p.reset_low) * random.uniform(key, dtype=p.reset_low.dtype)
    velocity = torch.zeros_like(position)
    state = MountainCarState(position, velocity, torch.zeros_like(position, dtype=torch.int64))
    no = torch.zeros_like(position, dtype=torch.bool)
    return state, Timestep(_observe(state), velocity.clone(), no, no.clone(), {})


def step(
    key: torch.Tensor, state: MountainCarState, action: torch.Tensor, env_params: MountainCarParams = PARAMS
) -> tuple[MountainCarState, Timestep]:
    """Press a pedal for one step.

    With the position x, velocity v and the pedal's direction a::

        v ← clip(v + force a - gravity cos(3 x), ± max_speed)
        x ← clip(x + v, min_position, max_position)

    and at the wall on the left a car that moves left stops.

    Args:
        key: int64 []; not used, the dynamics are deterministic.
        state: where the episode is.
        action: int64 []; 0 accelerates to the left, 1 not at all, 2 to the right.
        env_params: the constants.

    Returns:
        The next state and its timestep: observation [2] (position, velocity); reward -1; terminated at the goal;
        truncated after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    check_step("MountainCar-v0", state, MountainCarState, action, ACTIONS, env_params, MountainCarParams)
    p = env_params
    velocity = state.velocity + ((action - 1).to(state.velocity.dtype) * p.force - p.gravity * torch.cos(3 * state.position))
    velocity = torch.minimum(torch.maximum(velocity, -p.max_speed), p.max_speed)
    position = torch.minimum(torch.maximum(state.position + velocity, p.min_position), p.max_position)
    velocity = torch.where(position <= p.min_position, velocity.clamp(min=0), velocity)
    new = MountainCarState(position, velocity, state.time + 1)
    terminated = (position >= p.goal_position) & (velocity >= p.goal_velocity)
    return new, Timestep(_observe(new), torch.full_like(position, -1.0), terminated, new.time >= p.max_steps, {})


def render(state: MountainCarState, env_params: MountainCarParams = PARAMS) -> torch.Tensor:
    """Return a picture of the valley, the car and the flag at the goal, uint8 [400, 600, 3]."""
    return draw.hill(state.position, env_params.goal_position)


def _observe(state: MountainCarState) -> torch.Tensor:
    return torch.stack([state.position, state.velocity])


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
    return Env("MountainCar-v0", reset, step, OBSERVATIONS, ACTIONS, PARAMS, MAX_STEPS, render)
