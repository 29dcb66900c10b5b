"""Trials: several episodes in one task, seen as one episode of an environment."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.env import AnyEnv, Env, Timestep, with_label
from funrl.envs import tasks as distributions
from funrl.envs.tasks import Tasks
from funrl.spaces import Box, Dict, Discrete
from funrl.transforms import Transform


@tree.dataclass
class TrialParams(tree.Replaceable):
    """The ``env_params`` of an environment of trials.

    Attributes:
        base: the params of the environment below: the values that a task does not change. They determine dtype and device.
        held_out: bool []: whether tasks are those held out for tests, or those for training.
        num_episodes: int64 [], the number of episodes in a trial.
    """

    base: Any
    held_out: torch.Tensor
    num_episodes: torch.Tensor


@tree.dataclass
class TrialState(tree.Replaceable):
    """The state of a trial.

    Attributes:
        below: the state of the environment below.
        task: its params in this trial.
        episode: int64 [], the number of episodes of the trial that have ended.
    """

    below: Any
    task: Any
    episode: torch.Tensor


def trials(tasks: Tasks, num_episodes: int) -> Transform:
    r"""Make a transform after which an episode is a trial: ``num_episodes`` episodes in one task, which ``reset`` draws.

    A recurrent policy whose carry is not reset within a trial can learn within it. For this purpose the observation also contains the last
    step: the action (one-hot if it is discrete), the reward, and a flag for the beginning of an episode. If the observation is a vector,
    these numbers are appended to it; otherwise it becomes a dict of ``observation`` and ``last``. In a reset they are zeros, and the flag
    is 1.

    When an episode of the task ends before the trial does, the environment below is reset within the step; the next observation is that of
    the reset. The last step of a trial is terminated. Returns are discounted across the ends of episodes, because the return of the whole
    trial is maximised.

    Args:
        tasks: the distribution of tasks: :func:`funrl.envs.tasks.of` the environment, or one of your own.
        num_episodes: episodes in a trial, at least 1.

    Returns:
        A transform of a pure environment, not batched. Its ``env_params`` are :class:`TrialParams`; with ``held_out`` true, tasks are those
        for tests. ``info`` has ``last_step``, bool []: whether an episode of the task ended with this step.

    Raises:
        ValueError: if ``num_episodes`` is less than 1, or when it is applied: if the environment runs on the host or is batched, or its
            actions are neither Discrete nor a Box, or the tasks are those of another one.
        TypeError: if ``tasks`` is not a :class:`~funrl.envs.tasks.Tasks`.

    Example:
        >>> import funrl
        >>> env = funrl.envs.bernoulli_bandit(num_arms=3)
        >>> env = trials(funrl.envs.tasks.of(env), num_episodes=2)(env)
        >>> env.max_episode_steps, env.observation_space.shape
        (200, (10,))
        >>> state, timestep = env.reset(random.key(0))
        >>> timestep.observation
        tensor([0., 0., 0., 0., 0., 0., 0., 0., 0., 1.])

    Reference: Y. Duan et al., "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning", 2016, arXiv:1611.02779, section 2.2.
    """
    _check.instance("trials: tasks", tasks, Tasks, "funrl.envs.tasks.of(env) returns those of env", "Tasks")
    _check.integer("trials: num_episodes", num_episodes, 1)
    return lambda env: _with_trials(env, tasks, num_episodes)


def in_trials(env: AnyEnv, tasks: Tasks | None, num_episodes: int) -> AnyEnv:
    """Return an environment with trials of the given tasks, or with its own ones; an environment of trials is returned unchanged.

    Raises:
        TypeError: if it is no environment.
        ValueError: if it is one of trials, and ``tasks`` or another number of episodes are given, or there are no tasks for it.

    Example:
        >>> import funrl
        >>> in_trials(funrl.envs.point_robot(), None, 3).max_episode_steps
        300
    """
    _check.instance("env", env, Env, "funrl.envs.make makes one, and funrl.algos.make takes its name, too", "a funrl.env.Env")
    if not isinstance(env.default_params, TrialParams):
        return trials(tasks_of(env, tasks), num_episodes)(env)
    if tasks is not None:
        raise ValueError("tasks: expected None with an environment of trials, which has its own; give the environment below")
    if int(env.default_params.num_episodes) != num_episodes:
        raise ValueError(f"num_episodes: the environment of trials has {int(env.default_params.num_episodes)}, got {num_episodes}")
    return env


def tasks_of(env: Any, tasks: Tasks | None) -> Tasks:
    """Return the tasks of an environment, or the given ones after a check that they are of it.

    Raises:
        TypeError: if ``tasks`` is not a :class:`~funrl.envs.tasks.Tasks`.
        ValueError: if there are no tasks for the environment, or they are those of another one.

    Example:
        >>> import funrl
        >>> tasks_of(funrl.envs.point_robot(), None).name
        'PointRobot-misc'
    """
    if tasks is None:
        return distributions.of(env)
    _check.instance("tasks", tasks, Tasks, "funrl.envs.tasks.of(env) returns those of env", "funrl.envs.tasks.Tasks")
    kinds = [type(x.default_params) for x in (env, tasks)]
    if kinds[0] is not kinds[1]:
        expected, got = (kind.__name__ for kind in kinds)
        raise ValueError(f"tasks: expected those of {env.name}, with {expected}, got tasks of {tasks.name}, with {got}")
    return tasks


def _with_trials(env: AnyEnv, tasks: Tasks, num_episodes: int) -> AnyEnv:
    if not isinstance(env, Env):
        raise ValueError(f"trials: env: expected a pure environment, not batched, got {env}")
    tasks_of(env, tasks)
    actions = env.action_space
    if not isinstance(actions, Discrete | Box):
        raise ValueError(f"trials: env: expected actions that are Discrete or a Box, got {actions}")
    width = (actions.n if isinstance(actions, Discrete) else actions.sample(random.key(0, "cpu")).numel()) + 2
    space, observed = shown_beside(env.observation_space, width, "last")
    like = next(x for x in tree.leaves(env.default_params) if x.is_floating_point())
    default = TrialParams(
        env.default_params,
        torch.zeros_like(like.reshape(-1)[0], dtype=torch.bool),
        torch.full_like(like.reshape(-1)[0], num_episodes, dtype=torch.int64),
    )

    def reset(key: torch.Tensor, env_params: TrialParams = default) -> tuple[TrialState, Timestep]:
        """Draw a task and begin its first episode."""
        task_key, key = random.split(key).unbind(0)
        task = tasks.draw(task_key, env_params.base, env_params.held_out)
        below, timestep = env.reset(key, task)
        last = torch.cat([timestep.reward.new_zeros(width - 1), timestep.reward.new_ones(1)])
        state = TrialState(below, task, torch.zeros_like(timestep.reward, dtype=torch.int64))
        info = {**timestep.info, "last_step": torch.zeros_like(timestep.terminated)}
        return state, timestep.replace(observation=observed(timestep.observation, last), info=info)

    def step(key: torch.Tensor, state: TrialState, action: torch.Tensor, env_params: TrialParams = default) -> tuple[TrialState, Timestep]:
        """Take a step of the task; if its episode ends, the next one of the trial begins."""
        for name, value, kind in (("state", state, TrialState), ("env_params", env_params, TrialParams)):
            if not isinstance(value, kind):
                raise TypeError(f"{env.name}: {name}: expected a {kind.__name__}, got {type(value).__name__}")
        step_key, reset_key = random.split(key).unbind(0)
        below, after = env.step(step_key, state.below, action, state.task)
        done = after.done
        fresh, begun = env.reset(reset_key, state.task)
        below, observation = tree.where(done, (fresh, begun.observation), (below, after.observation))
        episode = state.episode + done.long()
        over = episode >= env_params.num_episodes
        observation = observed(observation, _last_step(actions, action, after.reward, done))
        info = {**after.info, "last_step": done}
        timestep = after.replace(observation=observation, terminated=over, truncated=torch.zeros_like(over), info=info)
        return TrialState(below, state.task, episode), timestep

    def render(state: TrialState, env_params: TrialParams = default) -> torch.Tensor:
        return env.render(state.below, state.task)

    new = env._replace(
        reset=reset,
        step=step,
        observation_space=space,
        default_params=default,
        max_episode_steps=num_episodes * env.max_episode_steps,
        render=None if env.render is None else render,
    )
    return with_label(new, f"trials(tasks={tasks.name}, num_episodes={num_episodes})", below=env)


def _last_step(space: Any, action: torch.Tensor, reward: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
    """Return the vector of action, reward and the flag of a new episode that the next observation shows."""
    if isinstance(space, Discrete):
        action = tree.one_hot(action - space.start, space.n)
    return torch.cat([action.reshape(-1).to(reward.dtype), reward.reshape(1), begins.reshape(1).to(reward.dtype)])


def shown_beside(space: Any, width: int, name: str) -> tuple[Any, Callable[[Any, torch.Tensor], Any]]:
    """Return the space of observations with ``width`` more numbers, and the function that adds them to an observation.

    They follow the observation in one vector where it is a vector of floating-point numbers; otherwise the observation becomes a dict of
    ``observation`` and ``name``.

    Example:
        >>> space, add = shown_beside(Box(-1.0, 1.0, (2,)), 3, "task")
        >>> space.shape, add(torch.zeros(2), torch.ones(3))
        ((5,), tensor([0., 0., 1., 1., 1.]))
    """
    inf = float("inf")
    if isinstance(space, Box) and space.dtype.is_floating_point and len(space.shape) == 1:
        low, high = (torch.cat([x, torch.full((width,), end, dtype=x.dtype)]) for x, end in ((space.low, -inf), (space.high, inf)))
        joined = Box(low.tolist(), high.tolist(), dtype=space.dtype)
        return joined, lambda observation, more: torch.cat([observation, more.to(observation.dtype)])
    return Dict({"observation": space, name: Box(-inf, inf, (width,))}), lambda observation, more: {"observation": observation, name: more}
