"""GoalPointRobot: move on a plane to a goal that is observed, with a sparse reward."""

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw, _goals as goals
from funrl.envs._checks import checked
from funrl.spaces import Box
from funrl.typing import Key

MAX_STEPS = 50


@tree.dataclass
class GoalPointRobotParams:
    """Parameters of the task; floating-point numbers have the same dtype.

    Attributes:
        start: [2], the start of episodes.
        goal_range: []; goals are uniform in the square of ± ``goal_range`` around the start.
        max_action: []; each number of the action is clipped to [-max_action, max_action].
        goal_radius: []; the episode terminates within this distance of the goal.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    start: torch.Tensor = tree.constant([0.0, 0.0])
    goal_range: torch.Tensor = tree.constant(1.0)
    max_action: torch.Tensor = tree.constant(0.1)
    goal_radius: torch.Tensor = tree.constant(0.05)
    max_steps: torch.Tensor = tree.constant(MAX_STEPS)


@tree.dataclass
class GoalPointRobotState:
    """The state of one episode.

    Attributes:
        position: floating-point [2].
        goal: floating-point [2].
        time: int64 [], steps since the reset.
    """

    position: torch.Tensor
    goal: torch.Tensor
    time: torch.Tensor


PARAMS = constants(GoalPointRobotParams)
OBSERVATIONS = goals.spaces_of(2, float("-inf"), float("inf"))
ACTIONS = Box(-0.1, 0.1, (2,))


def reset(key: Key, p: GoalPointRobotParams) -> tuple[GoalPointRobotState, Timestep]:
    """Return the state at the start, with a random goal, and its timestep."""
    offset = (2 * random.uniform(key, (2,), dtype=p.max_action.dtype) - 1) * p.goal_range
    start = p.start.clone()
    state = GoalPointRobotState(start, start + offset, torch.zeros_like(p.max_action, dtype=torch.int64))
    return state, first_timestep(goals.observe(start, state.goal), p.max_action)


def step(key: Key, state: GoalPointRobotState, action: torch.Tensor, p: GoalPointRobotParams) -> tuple[GoalPointRobotState, Timestep]:
    """Move by the action, x ← x + clip(a, ± max_action); the key is not used.

    Returns:
        The next state and its timestep: the dict of ``observation`` and ``achieved_goal``, the position [2], and ``desired_goal`` [2];
        reward 0 within ``goal_radius`` of the goal, where the episode terminates, and else -1; truncated after ``max_steps``.
    """
    move = torch.minimum(torch.maximum(action.to(state.position.dtype), -p.max_action), p.max_action)
    new = GoalPointRobotState(state.position + move, state.goal, state.time + 1)
    reward, reached = goals.reach(new.position, new.goal, p.goal_radius)
    return new, Timestep(goals.observe(new.position, new.goal), reward, reached, new.time >= p.max_steps, {})


def render(state: GoalPointRobotState, p: GoalPointRobotParams) -> torch.Tensor:
    """Return a picture of the square from -1 to 1 with the goal and the robot, uint8 [400, 400, 3]."""
    (x, y), (goal_x, goal_y) = (point.float().unbind(0) for point in (state.position, state.goal))
    picture = draw.canvas((400, 400), (0.0, 0.0), 2.4, device=state.position.device)
    picture = draw.paint(picture, draw.box(picture, (0.0, 0.0), (1.0, 1.0), corner=0.02).abs() - 0.005, draw.PALE)
    picture = draw.paint(picture, draw.circle(picture, goal_x, goal_y, 0.08).abs() - 0.012, draw.LEAF)
    picture = draw.paint(picture, draw.circle(picture, goal_x, goal_y, 0.02), draw.LEAF)
    return draw.to_uint8(draw.pie(picture, x, y, 0.05))


def goal_point_robot() -> Env:
    """Return GoalPointRobot-misc: a point on a plane moves to a goal, a random one in each episode, with a reward only for its arrival.

    The observation is a dict of ``observation`` and ``achieved_goal``, the position [2], and ``desired_goal`` [2].

    Example:
        >>> from funrl import random
        >>> env = goal_point_robot()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor([0.1, 0.0]))
        >>> timestep.observation["achieved_goal"], timestep.reward
        (tensor([0.1000, 0.0000]), tensor(-1.))

    Reference: the plane of :func:`point_robot`, with the goals and the sparse reward of M. Andrychowicz et al., "Hindsight Experience
    Replay", 2017, arXiv:1707.01495, section 4.
    """
    return checked(Env("GoalPointRobot-misc", reset, step, OBSERVATIONS, ACTIONS, PARAMS, MAX_STEPS, render), GoalPointRobotState)
