"""PointRobot: move on a plane to a goal that is not observed, with a dense or a sparse reward."""

import torch

from funrl import tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._checks import checked
from funrl.spaces import Box

MAX_STEPS = 100


@tree.dataclass
class PointRobotParams:
    """Parameters of the task; floating-point numbers have the same dtype.

    Attributes:
        goal: [2], the goal, which is not observed.
        start: [2], the start of episodes.
        max_action: []; each number of the action is clipped to [-max_action, max_action].
        goal_radius: []; the episode terminates within this distance of the goal.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    goal: torch.Tensor = tree.constant([0.4, 0.3])
    start: torch.Tensor = tree.constant([0.0, 0.0])
    max_action: torch.Tensor = tree.constant(0.1)
    goal_radius: torch.Tensor = tree.constant(0.01)
    max_steps: torch.Tensor = tree.constant(MAX_STEPS)


@tree.dataclass
class PointRobotState:
    """The state of one episode.

    Attributes:
        position: floating-point [2].
        time: int64 [], steps since the reset.
    """

    position: torch.Tensor
    time: torch.Tensor


PARAMS = constants(PointRobotParams)
SPARSE = PARAMS.replace(goal_radius=torch.tensor(0.1, device="cpu"))
OBSERVATIONS = Box(float("-inf"), float("inf"), (2,))
ACTIONS = Box(-0.1, 0.1, (2,))


def reset(key: torch.Tensor, p: PointRobotParams) -> tuple[PointRobotState, Timestep]:
    """Return the state at the start, and its timestep; the key is not used."""
    state = PointRobotState(p.start.clone(), torch.zeros_like(p.max_action, dtype=torch.int64))
    return state, first_timestep(state.position.clone(), p.max_action)


def step(key: torch.Tensor, state: PointRobotState, action: torch.Tensor, p: PointRobotParams) -> tuple[PointRobotState, Timestep]:
    """Move by the action.

    With the position x, the goal g and the action a::

        x ← x + clip(a, ± max_action)
        reward = -|x - g|²

    Args:
        key: int64 []; not used, the dynamics are deterministic.
        state: the state of the episode.
        action: floating-point [2].
        p: ``env_params``, the parameters of the task.

    Returns:
        The next state and its timestep: observation [2] (the position); the reward above; terminated within ``goal_radius``
        of the goal; truncated after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    move = torch.minimum(torch.maximum(action.to(state.position.dtype), -p.max_action), p.max_action)
    new = PointRobotState(state.position + move, state.time + 1)
    distance = (new.position - p.goal).square().sum()
    terminated = distance < p.goal_radius * p.goal_radius
    return new, Timestep(new.position.clone(), -distance, terminated, new.time >= p.max_steps, {})


def sparse_step(key: torch.Tensor, state: PointRobotState, action: torch.Tensor, p: PointRobotParams) -> tuple[PointRobotState, Timestep]:
    """Move as :func:`step` does; the reward is 1 within ``goal_radius`` of the goal, where the episode terminates, and 0 elsewhere."""
    new, timestep = step(key, state, action, p)
    return new, timestep.replace(reward=timestep.terminated.to(timestep.reward.dtype))


def render(state: PointRobotState, p: PointRobotParams) -> torch.Tensor:
    """Return a picture of the square from -1 to 1 with the start, the goal and the robot, uint8 [400, 400, 3]."""
    (x, y), (goal_x, goal_y), (start_x, start_y) = (point.float().unbind(0) for point in (state.position, p.goal, p.start))
    picture = draw.canvas((400, 400), (0.0, 0.0), 2.2, device=state.position.device)
    picture = draw.paint(picture, draw.box(picture, (0.0, 0.0), (1.0, 1.0), corner=0.02).abs() - 0.005, draw.PALE)
    picture = draw.paint(picture, draw.circle(picture, start_x, start_y, 0.03), draw.STEEL)
    picture = draw.paint(picture, draw.circle(picture, goal_x, goal_y, 0.08).abs() - 0.012, draw.LEAF)
    picture = draw.paint(picture, draw.circle(picture, goal_x, goal_y, 0.02), draw.LEAF)
    return draw.to_uint8(draw.pie(picture, x, y, 0.05))


def point_robot() -> Env:
    """Return PointRobot-misc: a point on a plane has to find a goal that only the reward depends on.

    The goal is in ``env_params``: in meta-learning each task has a different goal, usually from the square of ± 0.5 (the paper below).
    The step is differentiable in state, action and params (within ± max_action), and the reward is smooth everywhere.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = point_robot()
        >>> goals = torch.tensor([[0.2, 0.0], [0.0, 0.5]])
        >>> env_params = env.default_params.replace(goal=goals)
        >>> dims = env.default_params.replace(goal=0, start=None, max_action=None, goal_radius=None, max_steps=None)
        >>> state, _ = env.reset(random.key(0))
        >>> step = torch.func.vmap(env.step, (None, None, None, dims))
        >>> step(random.key(1), state, torch.tensor([0.1, 0.0]), env_params)[1].reward
        tensor([-0.0100, -0.2600])

    Reference: C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017, arXiv:1703.03400,
    section 5.3.
    """
    return checked(Env("PointRobot-misc", reset, step, OBSERVATIONS, ACTIONS, PARAMS, MAX_STEPS, render), PointRobotState)


def sparse_point_robot() -> Env:
    """Return SparsePointRobot-misc: as :func:`point_robot`, but the reward is 1 at the goal, where the episode terminates, and else 0.

    The goal has a radius of 0.1 by default. It has to be found by exploration: nothing tells how far away it is.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = sparse_point_robot()
        >>> env_params = env.default_params.replace(goal=torch.tensor([0.15, 0.0]))
        >>> state, _ = env.reset(random.key(0), env_params)
        >>> state, timestep = env.step(random.key(1), state, torch.tensor([0.1, 0.0]), env_params)
        >>> timestep.reward, timestep.terminated
        (tensor(1.), tensor(True))

    Reference: sparse rewards for points on a plane: K. Rakelly, A. Zhou, D. Quillen, C. Finn, S. Levine, "Efficient Off-Policy
    Meta-Reinforcement Learning via Probabilistic Context Variables", 2019, arXiv:1903.08254, section 6.3.
    """
    env = Env("SparsePointRobot-misc", reset, sparse_step, OBSERVATIONS, ACTIONS, SPARSE, MAX_STEPS, render)
    return checked(env, PointRobotState)
