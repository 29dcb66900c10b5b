"""MountainCarContinuous: rock a weak car out of a valley, and spend little force on it."""

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, check_step, constants
from funrl.envs import draw
from funrl.spaces import Box

__all__ = ["ContinuousMountainCarParams", "ContinuousMountainCarState", "continuous_mountain_car"]


@tree.dataclass
class ContinuousMountainCarParams:
    """Physical constants, each a floating-point [] of one dtype.

    Attributes:
        force: what a full action adds to the velocity.
        max_action: the action is clipped to it on either side before it acts.
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
    max_action: torch.Tensor
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
class ContinuousMountainCarState:
    """The state of one episode; floating-point numbers have the dtype of the params.

    Attributes:
        position: [], along the track.
        velocity: [], in positions a step.
        time: int64 [], steps since the reset.
    """

    position: torch.Tensor
    velocity: torch.Tensor
    time: torch.Tensor


MAX_STEPS = 999
PARAMS = constants(
    ContinuousMountainCarParams,
    force=0.0015,
    max_action=1.0,
    gravity=0.0025,
    min_position=-1.2,
    max_position=0.6,
    max_speed=0.07,
    goal_position=0.45,
    goal_velocity=0.0,
    reset_low=-0.6,
    reset_high=-0.4,
    max_steps=MAX_STEPS,
)
OBSERVATIONS = Box([-1.2, -0.07], [0.6, 0.07])
ACTIONS = Box(-1.0, 1.0, (1,))


def reset(key: torch.Tensor, env_params: ContinuousMountainCarParams = PARAMS) -> tuple[ContinuousMountainCarState, Timestep]:
    """Return a state at rest near the bottom of the valley, and its timestep; ``key`` is int64 []."""
    p = env_params
    position = p.reset_low + (p.reset_high - p.reset_low) * random.uniform(key, dtype=p.reset_low.dtype)
    velocity = torch.zeros_like(position)
    state = ContinuousMountainCarState(position, velocity, torch.zeros_like(position, dtype=torch.int64))
    no = torch.zeros_like(position, dtype=torch.bool)
    return state, Timestep(_observe(state), velocity.clone(), no, no.clone(), {})


def step(
    key: torch.Tensor, state: ContinuousMountainCarState, action: torch.Tensor, env_params: ContinuousMountainCarParams = PARAMS
) -> tuple[ContinuousMountainCarState, Timestep]:
    """Press the pedal for one step.

    With the position x, velocity v and the action a::

        v ← clip(v + force clip(a, ± max_action) - gravity cos(3 x), ± max_speed)
        x ← clip(x + v, min_position, max_position)

    and at the wall on the left a car that moves left stops. The reward is -0.1 a², and 100 more at the goal; it counts
    the action as given, before it is clipped.

    Args:
        key: int64 []; not used, the dynamics are deterministic.
        state: where the episode is.
        action: floating-point [1]; negative accelerates to the left.
        env_params: the constants.

    Returns:
        The next state and its timestep: observation [2] (position, velocity); the reward above; terminated at the
        goal; truncated after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    check_step("MountainCarContinuous-v0", state, ContinuousMountainCarState, action, ACTIONS, env_params, ContinuousMountainCarParams)
    p = env_params
    action = action.reshape(()).to(state.velocity.dtype)
    pedal = torch.minimum(torch.maximum(action, -p.max_action), p.max_action)
    velocity = state.velocity + (pedal * p.force - p.gravity * torch.cos(3 * state.position))
    velocity = torch.minimum(torch.maximum(velocity, -p.max_speed), p.max_speed)
    position = torch.minimum(torch.maximum(state.position + velocity, p.min_position), p.max_position)
    velocity = torch.where(position <= p.min_position, velocity.clamp(min=0), velocity)
    new = ContinuousMountainCarState(position, velocity, state.time + 1)
    terminated = (position >= p.goal_position) & (velocity >= p.goal_velocity)
    reward = 100 * terminated.to(position.dtype) - 0.1 * action * action
    return new, Timestep(_observe(new), reward, terminated, new.time >= p.max_steps, {})


def render(state: ContinuousMountainCarState, env_params: ContinuousMountainCarParams = PARAMS) -> torch.Tensor:
    """Return a picture of the valley, the car and the flag at the goal, uint8 [400, 600, 3]."""
    return draw.hill(state.position, env_params.goal_position)


def _observe(state: ContinuousMountainCarState) -> torch.Tensor:
    return torch.stack([state.position, state.velocity])


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
    return Env("MountainCarContinuous-v0", reset, step, OBSERVATIONS, ACTIONS, PARAMS, MAX_STEPS, render)
