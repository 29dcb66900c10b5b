"""Pendulum: swing a rod up and hold it there with a weak motor."""

import math

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._checks import checked
from funrl.spaces import Box

MAX_STEPS = 200


@tree.dataclass
class PendulumParams:
    """Physical constants, each a floating-point [] of one dtype.

    Attributes:
        gravity: m/s².
        mass: kg.
        length: m.
        dt: s, of one step.
        max_speed: rad/s; the angular velocity is clipped to it.
        max_torque: N m; the action is clipped to it.
        reset_angle: rad; ``reset`` draws the angle from [-reset_angle, reset_angle).
        reset_speed: rad/s; and the angular velocity from [-reset_speed, reset_speed).
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    gravity: torch.Tensor = tree.constant(10.0)
    mass: torch.Tensor = tree.constant(1.0)
    length: torch.Tensor = tree.constant(1.0)
    dt: torch.Tensor = tree.constant(0.05)
    max_speed: torch.Tensor = tree.constant(8.0)
    max_torque: torch.Tensor = tree.constant(2.0)
    reset_angle: torch.Tensor = tree.constant(math.pi)
    reset_speed: torch.Tensor = tree.constant(1.0)
    max_steps: torch.Tensor = tree.constant(MAX_STEPS)


@tree.dataclass
class PendulumState:
    """The state of one episode; floating-point numbers have the dtype of the params.

    Attributes:
        angle: [] rad, from upright, counter-clockwise; not wrapped.
        angular_velocity: [] rad/s.
        time: int64 [], steps since the reset.
    """

    angle: torch.Tensor
    angular_velocity: torch.Tensor
    time: torch.Tensor


PARAMS = constants(PendulumParams)
OBSERVATIONS = Box([-1.0, -1.0, -8.0], [1.0, 1.0, 8.0])
ACTIONS = Box(-2.0, 2.0, (1,))


def reset(key: torch.Tensor, p: PendulumParams) -> tuple[PendulumState, Timestep]:
    """Return a random state, hanging or standing, and its timestep; ``key`` is int64 []."""
    angle, angular_velocity = (2 * random.uniform(key, (2,), dtype=p.reset_angle.dtype) - 1).unbind(0)
    angle, angular_velocity = p.reset_angle * angle, p.reset_speed * angular_velocity
    state = PendulumState(angle, angular_velocity, torch.zeros_like(angle, dtype=torch.int64))
    return state, first_timestep(_observe(state), angle)


def step(key: torch.Tensor, state: PendulumState, action: torch.Tensor, p: PendulumParams) -> tuple[PendulumState, Timestep]:
    """Apply a torque for one step of Euler's method.

    With the angle θ in [-π, π] from upright and the torque u::

        reward = -(θ² + 0.1 θ'² + 0.001 u²)
        θ''    = 3 g / (2 l) sin θ + 3 u / (m l²)

    The velocity is updated and clipped first, the angle then moves with the new one.

    Args:
        key: int64 []; not used, the dynamics are deterministic.
        state: the state of the episode.
        action: floating-point [1] N m, clipped to ``max_torque``.
        p: ``env_params``, the constants.

    Returns:
        The next state and its timestep: observation [3] (cos θ, sin θ, θ'); the reward above, of the state before
        the step; never terminated; truncated after ``max_steps``.

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    torque = action.reshape(()).to(state.angle.dtype)
    torque = torch.minimum(torch.maximum(torque, -p.max_torque), p.max_torque)
    wrapped = state.angle - 2 * math.pi * torch.round(state.angle / (2 * math.pi))
    cost = wrapped * wrapped + 0.1 * state.angular_velocity * state.angular_velocity + 0.001 * torque * torque
    acceleration = 1.5 * p.gravity / p.length * torch.sin(state.angle) + 3.0 / (p.mass * p.length * p.length) * torque
    speed = state.angular_velocity + p.dt * acceleration
    speed = torch.minimum(torch.maximum(speed, -p.max_speed), p.max_speed)
    new = PendulumState(angle=state.angle + p.dt * speed, angular_velocity=speed, time=state.time + 1)
    return new, Timestep(_observe(new), -cost, torch.zeros_like(cost, dtype=torch.bool), new.time >= p.max_steps, {})


def render(state: PendulumState, p: PendulumParams) -> torch.Tensor:
    """Return a picture of the rod, uint8 [400, 400, 3], three of its lengths wide."""
    angle = state.angle.float()
    picture = draw.canvas((400, 400), (0.0, 0.0), 3.0, device=angle.device)
    picture = draw.paint(picture, draw.circle(picture, 0.0, 0.0, 1.0).abs() - 0.006, draw.PALE)
    picture = draw.paint(picture, draw.capsule(picture, (0.0, 0.94), (0.0, 1.06), 0.012), draw.TEAL)
    tip = (-torch.sin(angle), torch.cos(angle))
    picture = draw.paint(picture, draw.capsule(picture, (0.02, -0.025), (tip[0] + 0.02, tip[1] - 0.025), 0.085), draw.INK, 0.10)
    picture = draw.paint(picture, draw.capsule(picture, (0.0, 0.0), tip, 0.085), draw.CORAL)
    return draw.to_uint8(draw.pie(picture, 0.0, 0.0, 0.055))


def _observe(state: PendulumState) -> torch.Tensor:
    return torch.stack([torch.cos(state.angle), torch.sin(state.angle), state.angular_velocity])


def pendulum() -> Env:
    """Return Pendulum-v1: a rod that turns about one end is to be swung up with a motor too weak to lift it at once.

    It agrees with gymnasium's Pendulum-v1 step for step.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = pendulum()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor([0.5]))
        >>> timestep.observation.shape, timestep.reward < 0, timestep.done
        (torch.Size([3]), tensor(True), tensor(False))

    Reference: M. Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024,
    arXiv:2407.17032, whose constants these are.
    """
    return checked(Env("Pendulum-v1", reset, step, OBSERVATIONS, ACTIONS, PARAMS, MAX_STEPS, render), PendulumState)
