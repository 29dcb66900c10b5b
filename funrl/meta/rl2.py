"""RL²: a recurrent policy learns to learn within the episodes of a task."""

from collections.abc import Callable
from typing import Any

from funrl import tree
from funrl.algos import Algorithm, configure, ppo
from funrl.env import AnyEnv
from funrl.envs.tasks import Tasks
from funrl.meta._trials import in_trials
from funrl.nn import Net
from funrl.optim import Optimizer

__all__ = ["RL2Config", "make"]


@tree.dataclass
class RL2Config(ppo.PPOConfig):
    """The options of :func:`make`: those of :class:`funrl.algos.ppo.PPOConfig`, with other defaults, and this.

    Attributes:
        num_episodes: episodes of a task in a trial, at least 1.
    """

    recurrent: str = tree.static(default="gru")
    num_episodes: int = tree.static(default=2)


def make(
    env: AnyEnv,
    *,
    tasks: Tasks | None = None,
    network: Net | None = None,
    optimizer: Optimizer | None = None,
    loss: Callable[..., Any] | None = None,
    **options: Any,
) -> Algorithm:
    """Make RL²: recurrent PPO, in trials of several episodes in one task.

    The inputs of the policy contain its last reward and action and the ends of episodes, and its carry is not reset between the episodes of
    a trial (:func:`funrl.meta.trials`). The return of a whole trial is maximised, so that exploration pays if it is of use later.
    ``algo.env`` is the environment of trials; ``episode_return`` among the metrics is that of trials. Gradients flow back through the
    ``num_steps`` of a rollout: choose as many steps as a trial has.

    Args:
        env: a pure environment, not batched, that :func:`funrl.envs.tasks.of` has tasks for; or one of trials, as ``algo.env`` is.
        tasks: a distribution of tasks to use instead of these.
        network: as for :func:`funrl.algos.ppo.make`.
        optimizer: as for :func:`funrl.algos.ppo.make`.
        loss: as for :func:`funrl.algos.ppo.make`.
        **options: fields of :class:`RL2Config`.

    Returns:
        An :class:`~funrl.algos.Algorithm` with the metrics of :func:`funrl.algos.ppo.make`. ``funrl.evaluate`` plays whole trials, of
        held-out tasks if ``env_params`` say so; :func:`funrl.meta.trial_returns` measures the return of each episode.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment, or there are no tasks for it.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("PointRobot-misc"), num_envs=4, num_steps=8, num_episodes=3)
        >>> algo.env.max_episode_steps, algo.env.observation_space.shape
        (300, (6,))

    Reference: Y. Duan et al., "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning", 2016, arXiv:1611.02779; J. Wang et al.,
        "Learning to reinforcement learn", 2016, arXiv:1611.05763. Deviation: PPO instead of TRPO.
    """
    config, given = configure(RL2Config, options, network=network, optimizer=optimizer, loss=loss)
    if config.recurrent == "none":
        raise ValueError("recurrent: expected a cell, such as 'gru', got 'none'; without a memory nothing is learned within a trial")
    return ppo.build("rl2", in_trials(env, tasks, config.num_episodes), config, given)
