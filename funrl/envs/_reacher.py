"""Reacher: bring the tip of an arm with two links to a goal."""

import math

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._checks import checked
from funrl.spaces import Box

MAX_STEPS = 50


@tree.dataclass
class ReacherParams:
    """Physical constants; floating-point numbers have the same dtype.

    Attributes:
        length: [2] m, of the links, which are uniform rods.
        mass: [2] kg, of the links.
        damping: [] N m s, of each joint.
        max_torque: [] N m; each number of the action is clipped to [-max_torque, max_torque].
        dt: [] s, of one step.
        goal_range: [2]; ``reset`` draws the distance of the goal from the shoulder between these shares of the arm's whole length.
        control_cost: [], of the squared torque.
        smoothing: [] m, the distance below which the cost of the distance is about quadratic; above 0.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    length: torch.Tensor = tree.constant([0.5, 0.5])
    mass: torch.Tensor = tree.constant([1.0, 1.0])
    damping: torch.Tensor = tree.constant(0.2)
    max_torque: torch.Tensor = tree.constant(1.0)
    dt: torch.Tensor = tree.constant(0.05)
    goal_range: torch.Tensor = tree.constant([0.3, 0.9])
    control_cost: torch.Tensor = tree.constant(0.01)
    smoothing: torch.Tensor = tree.constant(0.05)
    max_steps: torch.Tensor = tree.constant(MAX_STEPS)


@tree.dataclass
class ReacherState:
    """The state of one episode; floating-point numbers have the dtype of the params.

    Attributes:
        angle: [2] rad: of the first link from the x axis, and of the second link from the first, counter-clockwise; not wrapped.
        angular_velocity: [2] rad/s.
        goal: [2] m, its x and y.
        time: int64 [], steps since the reset.
    """

    angle: torch.Tensor
    angular_velocity: torch.Tensor
    goal: torch.Tensor
    time: torch.Tensor


PARAMS = constants(ReacherParams)
OBSERVATIONS = Box(float("-inf"), float("inf"), (10,))
ACTIONS = Box(-1.0, 1.0, (2,))


def reset(key: torch.Tensor, p: ReacherParams) -> tuple[ReacherState, Timestep]:
    """Return a state with random angles, at rest, and a random goal, and its timestep; ``key`` is int64 []."""
    drawn = random.uniform(key, (4,), dtype=p.length.dtype)
    nearest, farthest = (p.goal_range * p.length.sum()).unbind(0)
    distance, direction = nearest + (farthest - nearest) * drawn[2], 2 * math.pi * drawn[3]
    goal = distance * torch.stack([direction.cos(), direction.sin()])
    angle = math.pi * (2 * drawn[:2] - 1)
    state = ReacherState(angle, torch.zeros_like(angle), goal, torch.zeros_like(distance, dtype=torch.int64))
    return state, first_timestep(_observe(state, p), distance)


def step(key: torch.Tensor, state: ReacherState, action: torch.Tensor, p: ReacherParams) -> tuple[ReacherState, Timestep]:
    r"""Apply torques to both joints for one step of Euler's method.

    With the angles q, the torques u, the mass matrix M of two uniform rods, the Coriolis and centrifugal torques c, the damping d, the
    tip x and the goal g::

        q''    = M(q)⁻¹ (u - d q' - c(q, q'))
        reward = -(√(|x - g|² + s²) - s) - control_cost |u|²

    The velocity is updated first, the angles then move with the new one. There is no gravity.

    Args:
        key: int64 []; not used, the dynamics are deterministic.
        state: the state of the episode.
        action: floating-point [2] N m, clipped to ``max_torque``.
        p: ``env_params``, the constants.

    Returns:
        The next state and its timestep: observation [10] (cosines and sines of both angles, angular velocities, the goal, and the vector
        from the tip to the goal); the reward above, of the state after the step; never terminated; truncated after ``max_steps``.

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    torque = torch.minimum(torch.maximum(action.to(state.angle.dtype), -p.max_torque), p.max_torque)
    velocity = state.angular_velocity + p.dt * _acceleration(state, torque, p)
    new = ReacherState(state.angle + p.dt * velocity, velocity, state.goal.clone(), state.time + 1)
    distance = ((_tip(new, p) - new.goal).square().sum() + p.smoothing * p.smoothing).sqrt() - p.smoothing
    reward = -distance - p.control_cost * torque.square().sum()
    return new, Timestep(_observe(new, p), reward, torch.zeros_like(reward, dtype=torch.bool), new.time >= p.max_steps, {})


def _acceleration(state: ReacherState, torque: torch.Tensor, p: ReacherParams) -> torch.Tensor:
    """Return the angular accelerations [2]."""
    (l1, l2), (m1, m2), (v1, v2) = p.length.unbind(0), p.mass.unbind(0), state.angular_velocity.unbind(0)
    coupling = 0.5 * m2 * l1 * l2
    sin, cos = torch.sin(state.angle[1]), torch.cos(state.angle[1])
    second = m2 * l2 * l2 / 3
    both = second + coupling * cos
    first = m1 * l1 * l1 / 3 + m2 * l1 * l1 + second + 2 * coupling * cos
    u1, u2 = (torque - p.damping * state.angular_velocity).unbind(0)
    u1 = u1 + coupling * sin * v2 * (2 * v1 + v2)
    u2 = u2 - coupling * sin * v1 * v1
    determinant = first * second - both * both
    return torch.stack([second * u1 - both * u2, first * u2 - both * u1]) / determinant


def _tip(state: ReacherState, p: ReacherParams) -> torch.Tensor:
    total = state.angle.cumsum(0)
    return torch.stack([(p.length * total.cos()).sum(), (p.length * total.sin()).sum()])


def _observe(state: ReacherState, p: ReacherParams) -> torch.Tensor:
    return torch.cat([state.angle.cos(), state.angle.sin(), state.angular_velocity, state.goal, state.goal - _tip(state, p)])


def render(state: ReacherState, p: ReacherParams) -> torch.Tensor:
    """Return a picture of the arm and the goal, uint8 [400, 400, 3]."""
    angle, length = state.angle.float().cumsum(0), p.length.float()
    x, y = (length * angle.cos()).cumsum(0), (length * angle.sin()).cumsum(0)
    goal = state.goal.float()
    picture = draw.canvas((400, 400), (0.0, 0.0), 2.6, device=angle.device)
    picture = draw.paint(picture, draw.circle(picture, 0.0, 0.0, 1.0).abs() - 0.005, draw.PALE)
    picture = draw.paint(picture, draw.circle(picture, goal[0], goal[1], 0.08), draw.LEAF)
    picture = draw.paint(picture, draw.capsule(picture, (0.0, 0.0), (x[0], y[0]), 0.055), draw.TEAL)
    picture = draw.paint(picture, draw.capsule(picture, (x[0], y[0]), (x[1], y[1]), 0.045), draw.AMBER)
    picture = draw.pie(draw.pie(picture, 0.0, 0.0, 0.05), x[0], y[0], 0.04)
    return draw.to_uint8(draw.paint(picture, draw.circle(picture, x[1], y[1], 0.03), draw.CORAL))


def reacher() -> Env:
    """Return Reacher-misc: an arm of two links in a plane brings its tip to a goal, which is another one in each episode.

    Lengths and masses of the links are in ``env_params``. The step is differentiable in state, action and params, and the reward is smooth
    everywhere. The accelerations agree with those of MuJoCo for two rods.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = reacher()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor([0.5, -0.5]))
        >>> timestep.observation.shape, timestep.reward < 0, timestep.done
        (torch.Size([10]), tensor(True), tensor(False))

    Reference: the task of Reacher in M. Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024,
    arXiv:2407.17032, with constants of its own; the equations of a planar arm are those of M. Spong, S. Hutchinson, M. Vidyasagar, "Robot
    Modeling and Control", 2006, section 7.4.
    """
    return checked(Env("Reacher-misc", reset, step, OBSERVATIONS, ACTIONS, PARAMS, MAX_STEPS, render), ReacherState)
