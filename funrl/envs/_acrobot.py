"""Acrobot: swing the lower of two links above a line, with torque at the joint between them only."""

import math

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._checks import checked
from funrl.spaces import Box, Discrete

MAX_STEPS = 500


@tree.dataclass
class AcrobotParams:
    """Physical constants, each a floating-point [] of one dtype.

    Attributes:
        gravity: m/s².
        length_1: m, of the upper link. The height of the goal counts both links as long as 1.
        mass_1: kg.
        mass_2: kg.
        centre_1: m, from the fixed end to the centre of mass of the upper link.
        centre_2: m, from the joint to the centre of mass of the lower link.
        inertia: kg m², of either link.
        torque: N m, of an action.
        dt: s, of one step.
        max_speed_1: rad/s; the first angular velocity is clipped to it.
        max_speed_2: rad/s; the second angular velocity is clipped to it.
        goal_height: the episode terminates when the tip is higher above the fixed end.
        reset_scale: ``reset`` draws each number of the state from [-reset_scale, reset_scale).
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    gravity: torch.Tensor = tree.constant(9.8)
    length_1: torch.Tensor = tree.constant(1.0)
    mass_1: torch.Tensor = tree.constant(1.0)
    mass_2: torch.Tensor = tree.constant(1.0)
    centre_1: torch.Tensor = tree.constant(0.5)
    centre_2: torch.Tensor = tree.constant(0.5)
    inertia: torch.Tensor = tree.constant(1.0)
    torque: torch.Tensor = tree.constant(1.0)
    dt: torch.Tensor = tree.constant(0.2)
    max_speed_1: torch.Tensor = tree.constant(4 * math.pi)
    max_speed_2: torch.Tensor = tree.constant(9 * math.pi)
    goal_height: torch.Tensor = tree.constant(1.0)
    reset_scale: torch.Tensor = tree.constant(0.1)
    max_steps: torch.Tensor = tree.constant(MAX_STEPS)


@tree.dataclass
class AcrobotState:
    """The state of one episode; floating-point numbers have the dtype of the params.

    Attributes:
        angle_1: [] rad, of the upper link from hanging straight down, in [-π, π].
        angle_2: [] rad, of the lower link from the line of the upper one, in [-π, π].
        angular_velocity_1: [] rad/s.
        angular_velocity_2: [] rad/s.
        time: int64 [], steps since the reset.
    """

    angle_1: torch.Tensor
    angle_2: torch.Tensor
    angular_velocity_1: torch.Tensor
    angular_velocity_2: torch.Tensor
    time: torch.Tensor


PARAMS = constants(AcrobotParams)
OBSERVATIONS = Box([-1.0, -1.0, -1.0, -1.0, -4 * math.pi, -9 * math.pi], [1.0, 1.0, 1.0, 1.0, 4 * math.pi, 9 * math.pi])
ACTIONS = Discrete(3)


def reset(key: torch.Tensor, p: AcrobotParams) -> tuple[AcrobotState, Timestep]:
    """Return a state near hanging at rest, and its timestep; ``key`` is int64 []."""
    noise = random.uniform(key, (4,), dtype=p.reset_scale.dtype)
    angle_1, angle_2, angular_velocity_1, angular_velocity_2 = (p.reset_scale * (2 * noise - 1)).unbind(0)
    state = AcrobotState(angle_1, angle_2, angular_velocity_1, angular_velocity_2, torch.zeros_like(angle_1, dtype=torch.int64))
    return state, first_timestep(_observe(state), angle_1)


def step(key: torch.Tensor, state: AcrobotState, action: torch.Tensor, p: AcrobotParams) -> tuple[AcrobotState, Timestep]:
    """Turn the joint for one step of the classical Runge-Kutta method of order 4.

    With the angles θ₁, θ₂, the torque u, and b = m₂ l₁ c₂, the equations of the book are::

        d₁   = m₁ c₁² + m₂ (l₁² + c₂²) + I₁ + I₂ + 2 b cos θ₂        d₂ = m₂ c₂² + I₂ + b cos θ₂
        φ₂   = m₂ c₂ g sin(θ₁ + θ₂)
        φ₁   = -b sin θ₂ θ₂' (θ₂' + 2 θ₁') + (m₁ c₁ + m₂ l₁) g sin θ₁ + φ₂
        θ₂'' = (u + φ₁ d₂/d₁ - b sin θ₂ θ₁'² - φ₂) / (m₂ c₂² + I₂ - d₂²/d₁)
        θ₁'' = -(d₂ θ₂'' + φ₁) / d₁

    Then the angles are wrapped into [-π, π] and the velocities clipped.

    Args:
        key: int64 []; not used, the dynamics are deterministic.
        state: the state of the episode.
        action: int64 []; 0, 1, 2 are the torques -1, 0, 1 (times ``torque``).
        p: ``env_params``, the constants.

    Returns:
        The next state and its timestep: observation [6] (cos θ₁, sin θ₁, cos θ₂, sin θ₂, θ₁', θ₂'); reward -1, or 0
        when terminated, which is when the tip's height -cos θ₁ - cos(θ₁ + θ₂) exceeds ``goal_height``; truncated
        after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    torque = (action - 1).to(state.angle_1.dtype) * p.torque
    couple = p.mass_2 * p.length_1 * p.centre_2
    moment_2 = p.mass_2 * p.centre_2 * p.centre_2 + p.inertia
    moment_1 = p.mass_1 * p.centre_1 * p.centre_1 + p.mass_2 * p.length_1 * p.length_1 + p.inertia + moment_2
    weight_2 = p.mass_2 * p.centre_2 * p.gravity
    weight_1 = (p.mass_1 * p.centre_1 + p.mass_2 * p.length_1) * p.gravity

    def accelerations(a1: torch.Tensor, a2: torch.Tensor, v1: torch.Tensor, v2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        reach, swing = couple * torch.cos(a2), couple * torch.sin(a2)
        d1, d2 = moment_1 + 2 * reach, moment_2 + reach
        ratio = d2 / d1
        phi_2 = weight_2 * torch.sin(a1 + a2)
        phi_1 = weight_1 * torch.sin(a1) + phi_2 - swing * v2 * (v2 + 2 * v1)
        second = (torque + ratio * phi_1 - swing * v1 * v1 - phi_2) / (moment_2 - ratio * d2)
        return -ratio * second - phi_1 / d1, second

    a1, a2, v1, v2 = state.angle_1, state.angle_2, state.angular_velocity_1, state.angular_velocity_2
    half = 0.5 * p.dt
    # The slope of an angle is the velocity of the same stage, so four pairs of accelerations determine the whole step.
    k1, l1 = accelerations(a1, a2, v1, v2)
    p1, p2 = v1 + half * k1, v2 + half * l1
    k2, l2 = accelerations(a1 + half * v1, a2 + half * v2, p1, p2)
    q1, q2 = v1 + half * k2, v2 + half * l2
    k3, l3 = accelerations(a1 + half * p1, a2 + half * p2, q1, q2)
    r1, r2 = v1 + p.dt * k3, v2 + p.dt * l3
    k4, l4 = accelerations(a1 + p.dt * q1, a2 + p.dt * q2, r1, r2)
    sixth = p.dt / 6
    speed_1 = v1 + sixth * (k1 + 2 * (k2 + k3) + k4)
    speed_2 = v2 + sixth * (l1 + 2 * (l2 + l3) + l4)
    new = AcrobotState(
        angle_1=_wrap(a1 + sixth * (v1 + 2 * (p1 + q1) + r1)),
        angle_2=_wrap(a2 + sixth * (v2 + 2 * (p2 + q2) + r2)),
        angular_velocity_1=torch.minimum(torch.maximum(speed_1, -p.max_speed_1), p.max_speed_1),
        angular_velocity_2=torch.minimum(torch.maximum(speed_2, -p.max_speed_2), p.max_speed_2),
        time=state.time + 1,
    )
    terminated = -torch.cos(new.angle_1) - torch.cos(new.angle_1 + new.angle_2) > p.goal_height
    reward = terminated.to(new.angle_1.dtype) - 1
    return new, Timestep(_observe(new), reward, terminated, new.time >= p.max_steps, {})


def render(state: AcrobotState, p: AcrobotParams) -> torch.Tensor:
    """Return a picture of the links and the line of the goal, uint8 [400, 400, 3]; both links are drawn 1 long."""
    a1, a2 = state.angle_1.float(), state.angle_1.float() + state.angle_2.float()
    goal = p.goal_height.float()
    picture = draw.canvas((400, 400), (0.0, 0.0), 4.6, device=a1.device)
    picture = draw.paint(picture, goal - picture.y + 0 * picture.x, draw.LEAF, 0.12)
    picture = draw.paint(picture, draw.capsule(picture, (-3.0, goal), (3.0, goal), 0.012), draw.LEAF)
    joint = (torch.sin(a1), -torch.cos(a1))
    tip = (joint[0] + torch.sin(a2), joint[1] - torch.cos(a2))
    picture = draw.paint(picture, draw.box(picture, (0.0, 0.0), (0.22, 0.06), corner=0.06), draw.PALE)
    picture = draw.paint(picture, draw.capsule(picture, (0.0, 0.0), joint, 0.10), draw.TEAL)
    picture = draw.paint(picture, draw.capsule(picture, joint, tip, 0.085), draw.AMBER)
    picture = draw.pie(picture, 0.0, 0.0, 0.07)
    picture = draw.pie(picture, joint[0], joint[1], 0.065)
    return draw.to_uint8(draw.paint(picture, draw.circle(picture, tip[0], tip[1], 0.045), draw.CORAL))


def _wrap(angle: torch.Tensor) -> torch.Tensor:
    return angle - 2 * math.pi * torch.round(angle / (2 * math.pi))


def _observe(state: AcrobotState) -> torch.Tensor:
    a1, a2 = state.angle_1, state.angle_2
    return torch.stack([torch.cos(a1), torch.sin(a1), torch.cos(a2), torch.sin(a2), state.angular_velocity_1, state.angular_velocity_2])


def acrobot() -> Env:
    """Return Acrobot-v1: two links hang from a fixed end; torque at their joint is to lift the tip above a line.

    It agrees with gymnasium's Acrobot-v1 step for step, with the dynamics of the book (not those of the first paper).

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = acrobot()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(2))
        >>> timestep.observation.shape, timestep.reward, timestep.done
        (torch.Size([6]), tensor(-1.), tensor(False))

    Reference: R. Sutton, "Generalization in Reinforcement Learning: Successful Examples Using Sparse Coarse Coding",
    1996; R. Sutton, A. Barto, "Reinforcement Learning: An Introduction", 1998; the constants of M. Towers et al.,
    "Gymnasium", 2024, arXiv:2407.17032.
    """
    return checked(Env("Acrobot-v1", reset, step, OBSERVATIONS, ACTIONS, PARAMS, MAX_STEPS, render), AcrobotState)
