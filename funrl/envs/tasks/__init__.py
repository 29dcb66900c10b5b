"""Distributions over tasks: pure functions that draw ``env_params``, with tasks held out for tests.

>>> from funrl import envs, random
>>> goals = of(envs.point_robot())
>>> env_params = goals.train(random.key(0), 64)
>>> env_params.goal.shape, bool(goals.is_held_out(env_params).any())
(torch.Size([64, 2]), False)
"""

import functools
from typing import Any

from funrl._check import nearest
from funrl.env import AnyEnv, Env
from funrl.envs.tasks._grids import GRIDS
from funrl.envs.tasks._ranges import RANGES, tabular_mdp
from funrl.envs.tasks._sinusoids import sinusoid_batch, sinusoids
from funrl.envs.tasks._tasks import Tasks, uniform

__all__ = ["Tasks", "names", "of", "sinusoid_batch", "sinusoids", "uniform"]

_FACTORIES: dict[str, Any] = {name: functools.partial(uniform, **ranges) for name, ranges in RANGES.items()}
_FACTORIES |= {"TabularMDP-misc": tabular_mdp, **GRIDS}


def names() -> list[str]:
    """Return the names of the environments that :func:`of` knows tasks for.

    Example:
        >>> names()[:3]
        ['PointRobot-misc', 'SparsePointRobot-misc', 'Pendulum-v1']
    """
    return list(_FACTORIES)


def of(env: AnyEnv) -> Tasks:
    """Return the tasks of an environment, for its size and its number of arms, states or actions.

    ===============================  =====================================================  ==============================
    environment                      what differs between tasks                             share that is held out
    ===============================  =====================================================  ==============================
    PointRobot, SparsePointRobot     goal, in the square of ± 0.5                           1/5
    Pendulum                         mass and length in [0.75, 1.25], gravity in [8, 12]    1/5
    CartPole                         mass, half length of the pole, force: half to twice    1/5
    Acrobot                          masses in [0.75, 1.25], centre of the lower            1/5
                                     link in [0.4, 0.6], torque in [0.75, 1.5]
    Reacher                          lengths in [0.35, 0.65], masses in [0.5, 2]            1/5
    BernoulliBandit                  probabilities in [0, 1]                                1/5
    GaussianBandit                   means in [-1, 1]                                       1/5
    TabularMDP                       mean rewards in [-1, 1], transitions                   1/5
    Maze                             walls, start and goal                                  1/2 of the walls
    FourRooms                        doors and goal                                         1/5
    GridRules                        objects, rules and goal, 1,440 tasks                   1/5
    ===============================  =====================================================  ==============================

    Numbers are drawn by :func:`uniform`. Rows of transitions are uniform over all distributions. Mazes have odd sizes: cells at even rows
    and columns, and each of them opens towards the first row or the first column, at random, before the maze is flipped at random; exactly
    one way connects two cells. Each of the four walls of FourRooms has its door at a random tile. The rules of GridRules are (a, b, c) and
    (c, d, e), objects a, b, d and f lie on the grid, where a to f are all six kinds in random order, and the goal is c or e, to hold it or
    to stand on it.

    Args:
        env: one of these environments, or it with transforms that do not change its ``env_params``.

    Raises:
        TypeError: if ``env`` is not an environment.
        ValueError: if there are no tasks for it.

    Example:
        >>> from funrl import envs, random
        >>> of(envs.bernoulli_bandit(5)).test(random.key(0), 3).probability.shape
        torch.Size([3, 5])
        >>> of(envs.catch())
        Traceback (most recent call last):
        ...
        ValueError: tasks.of: env: there are no tasks for Catch-bsuite; ... tasks.uniform makes others
    """
    if not isinstance(env, Env):
        raise TypeError(f"tasks.of: env: expected an Env, got {type(env).__name__}; funrl.envs.make returns one")
    if env.name not in _FACTORIES:
        raise ValueError(f"tasks.of: env: there are no tasks for {env.name}; {nearest(env.name, _FACTORIES)}; tasks.uniform makes others")
    try:
        return _FACTORIES[env.name](env)
    except AttributeError:
        kind = type(env.default_params).__name__
        raise ValueError(f"tasks.of: env: expected {env.name} with env_params of its own, got {kind}, those of a transform") from None
