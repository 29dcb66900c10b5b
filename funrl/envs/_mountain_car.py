"""MountainCar: drive a weak car out of a valley, with three discrete actions or a continuous one."""

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._checks import checked
from funrl.spaces import Box, Discrete
from funrl.typing import Key


@tree.dataclass
class MountainCarParams:
    """Physical constants, each a floating-point [] of one dtype.

    Attributes:
        force: the change of the velocity in a step of full acceleration.
        gravity: the change of the velocity in a step on the steepest slope.
        min_position: the wall on the left, where the car stops.
        max_position: the end of the track on the right.
        max_speed: the velocity is clipped to it.
        goal_position: the episode terminates when the car is at this position or beyond, with at least ``goal_velocity``.
        goal_velocity: see ``goal_position``.
        reset_low: ``reset`` draws the position from [reset_low, reset_high); the velocity is 0.
        reset_high: see ``reset_low``.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    force: torch.Tensor
    gravity: torch.Tensor = tree.constant(0.0025)
    min_position: torch.Tensor = tree.constant(-1.2)
    max_position: torch.Tensor = tree.constant(0.6)
    max_speed: torch.Tensor = tree.constant(0.07)
    goal_position: torch.Tensor
    goal_velocity: torch.Tensor = tree.constant(0.0)
    reset_low: torch.Tensor = tree.constant(-0.6)
    reset_high: torch.Tensor = tree.constant(-0.4)
    max_steps: torch.Tensor


@tree.dataclass
class ContinuousMountainCarParams(MountainCarParams):
    """Parameters of MountainCar, and the bound of the action.

    Attributes:
        max_action: the action is clipped to [-max_action, max_action] before it acts.
    """

    max_action: torch.Tensor


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


OBSERVATIONS = Box([-1.2, -0.07], [0.6, 0.07])


def reset(key: torch.Tensor, p: MountainCarParams) -> tuple[MountainCarState, Timestep]:
    """Return a state at rest near the bottom of the valley, and its timestep; ``key`` is int64 []."""
    position = p.reset_low + (p.reset_high - p.reset_low) * random.uniform(key, dtype=p.reset_low.dtype)
    velocity = torch.zeros_like(position)
    state = MountainCarState(position, velocity, torch.zeros_like(position, dtype=torch.int64))
    return state, first_timestep(observe(state), position)


def drive(state: MountainCarState, pedal: torch.Tensor, p: MountainCarParams) -> tuple[MountainCarState, torch.Tensor]:
    """Return the state after one step, and whether the car has reached the goal.

    With the position x, the velocity v and the acceleration a::

        v ← clip(v + force a - gravity cos(3 x), ± max_speed)
        x ← clip(x + v, min_position, max_position)

    and at the wall on the left a car that moves left stops.

    Args:
        state: the state of the car.
        pedal: a, floating-point [], from -1 (fully to the left) to 1.
        p: ``env_params``, the constants.

    Returns:
        The next state, and bool [].
    """
    velocity = state.velocity + (pedal * p.force - p.gravity * torch.cos(3 * state.position))
    velocity = torch.minimum(torch.maximum(velocity, -p.max_speed), p.max_speed)
    position = torch.minimum(torch.maximum(state.position + velocity, p.min_position), p.max_position)
    velocity = torch.where(position <= p.min_position, velocity.clamp(min=0), velocity)
    return MountainCarState(position, velocity, state.time + 1), (position >= p.goal_position) & (velocity >= p.goal_velocity)


def step(key: Key, state: MountainCarState, action: torch.Tensor, p: MountainCarParams) -> tuple[MountainCarState, Timestep]:
    """Accelerate for one step: :func:`drive` moves the car.

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
    new, at_goal = drive(state, (action - 1).to(state.velocity.dtype), p)
    reward = torch.full_like(new.position, -1.0)
    return new, Timestep(observe(new), reward, at_goal, new.time >= p.max_steps, {})


def continuous_step(
    key: Key, state: MountainCarState, action: torch.Tensor, p: ContinuousMountainCarParams
) -> tuple[MountainCarState, Timestep]:
    """Accelerate for one step: :func:`drive` moves the car, with the action a clipped to ± max_action.

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
    new, at_goal = drive(state, pedal, p)
    reward = 100 * at_goal.to(action.dtype) - 0.1 * action * action
    return new, Timestep(observe(new), reward, at_goal, new.time >= p.max_steps, {})


def observe(state: MountainCarState) -> torch.Tensor:
    """Return the observation [2]: position and velocity."""
    return torch.stack([state.position, state.velocity])


def render(state: MountainCarState, p: MountainCarParams) -> torch.Tensor:
    """Return a picture of the valley, the car and the flag at the goal, uint8 [400, 600, 3].

    The height of the track is 0.45 sin(3 x) + 0.55, in accordance with the dynamics.
    """

    def height(x: torch.Tensor) -> torch.Tensor:
        return 0.45 * torch.sin(3 * x) + 0.55

    position, goal = state.position.float(), p.goal_position.float()
    picture = draw.canvas((400, 600), (-0.3, 0.65), 1.8, top=(0.68, 0.84, 0.95), bottom=(0.99, 0.96, 0.90), device=position.device)
    x, y = picture.x, picture.y
    picture = draw.paint(picture, draw.circle(picture, -0.95, 1.02, 0.075), (1.00, 0.86, 0.50))
    for base, swing, pace, phase, colour in ((0.62, 0.10, 5.0, 0.4, (0.74, 0.83, 0.89)), (0.44, 0.09, 7.0, 2.0, (0.62, 0.75, 0.80))):
        slope = swing * pace * torch.cos(pace * x + phase)
        picture = draw.paint(picture, (y - base - swing * torch.sin(pace * x + phase)) / torch.sqrt(1 + slope * slope), colour)

    slope = 1.35 * torch.cos(3 * x)
    ground = (y - height(x)) / torch.sqrt(1 + slope * slope)
    flag = height(goal)
    picture = draw.paint(picture, draw.capsule(picture, (goal, flag), (goal, flag + 0.20), 0.005), draw.INK)
    pennant = [(goal + 0.003, flag + 0.20), (goal + 0.003, flag + 0.125), (goal + 0.088, flag + 0.1625)]
    picture = draw.paint(picture, draw.polygon(picture, pennant), draw.CORAL)
    picture = draw.paint(picture, ground, (0.46, 0.68, 0.42))
    picture = draw.paint(picture, ground + 0.014, draw.LEAF)
    picture = draw.paint(picture, ground + 0.05, (0.55, 0.45, 0.36))
    picture = draw.paint(picture, ground + 0.16, (0.48, 0.38, 0.31))

    angle = torch.atan(1.35 * torch.cos(3 * position))
    c, s, foot = torch.cos(angle), torch.sin(angle), height(position)

    def place(along: float, up: float) -> tuple[torch.Tensor, torch.Tensor]:
        return position + along * c - up * s, foot + along * s + up * c

    picture = draw.paint(picture, draw.box(picture, place(0.0, 0.075), (0.045, 0.026), angle=angle, corner=0.018), draw.STEEL)
    picture = draw.paint(picture, draw.box(picture, place(0.0, 0.046), (0.082, 0.022), angle=angle, corner=0.014), draw.CORAL)
    for along in (-0.045, 0.045):
        picture = draw.pie(picture, *place(along, 0.024), 0.024)
    return draw.to_uint8(picture)


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
    params = constants(MountainCarParams, force=0.001, goal_position=0.5, max_steps=200)
    return checked(Env("MountainCar-v0", reset, step, OBSERVATIONS, Discrete(3), params, 200, render), MountainCarState)


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
    params = constants(ContinuousMountainCarParams, force=0.0015, goal_position=0.45, max_action=1.0, max_steps=999)
    actions = Box(-1.0, 1.0, (1,))
    return checked(Env("MountainCarContinuous-v0", reset, continuous_step, OBSERVATIONS, actions, params, 999, render), MountainCarState)
