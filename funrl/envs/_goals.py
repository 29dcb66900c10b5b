"""The interface of environments with goals, as gymnasium's ``GoalEnv`` has it: observations, and the reward for any goal."""

from typing import Any

import torch

from funrl.env import AnyEnv
from funrl.spaces import Box, Dict
from funrl.typing import GoalReward


def spaces_of(size: int, low: float, high: float) -> Dict:
    """Return the space of observations whose state, achieved goal and desired goal are vectors of one size.

    Example:
        >>> list(spaces_of(2, -1.0, 1.0).spaces)
        ['achieved_goal', 'desired_goal', 'observation']
    """
    return Dict({name: Box(low, high, (size,)) for name in ("achieved_goal", "desired_goal", "observation")})


def observe(state: torch.Tensor, goal: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the observation of a state [D] that is also the achieved goal."""
    return {"achieved_goal": state.clone(), "desired_goal": goal.clone(), "observation": state.clone()}


def reach(achieved_goal: torch.Tensor, goal: torch.Tensor, radius: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the reward [], 0 within ``radius`` of the goal and -1 elsewhere, and whether the goal is reached."""
    reached = (achieved_goal - goal).square().sum() < radius * radius
    return reached.to(achieved_goal.dtype) - 1, reached


def goal_reward(env: AnyEnv) -> GoalReward:
    r"""Return the reward of an environment for any goal, as a pure function for :func:`funrl.buffers.hindsight`.

    .. math:: r = [\lVert \text{achieved} - g \rVert < \epsilon] - 1

    where ε is ``goal_radius`` of ``env.default_params``. The episode terminates where the goal is reached.

    Args:
        env: an environment of funrl with goals, BitFlip or GoalPointRobot, or it with transforms that do not change its ``env_params``.

    Returns:
        ``reward(achieved_goal, goal, action) -> (reward, terminated)`` of single goals [D]; the action is not used.

    Raises:
        ValueError: if the environment has no goals of this kind.

    Example:
        >>> from funrl import envs
        >>> reward = goal_reward(envs.make("BitFlip-misc", num_bits=3))
        >>> reward(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0]), torch.tensor(0))
        (tensor(-1.), tensor(False))

    Reference: the sparse reward of M. Andrychowicz et al., "Hindsight Experience Replay", 2017, arXiv:1707.01495, section 4.
    """
    radius, space = getattr(env.default_params, "goal_radius", None), env.observation_space
    if radius is None or not isinstance(space, Dict) or "desired_goal" not in space.spaces:
        raise ValueError(
            f"envs.goal_reward: env: expected one with goals, BitFlip-misc or GoalPointRobot-misc, got {env.name}; for another write "
            "reward(achieved_goal, goal, action) -> (reward, terminated)"
        )
    return lambda achieved_goal, goal, action: reach(achieved_goal, goal, radius.to(achieved_goal))
