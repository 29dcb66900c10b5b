"""Environments as pure functions, one file each, and :func:`make`, which finds them by name."""

import importlib
import inspect
from typing import Any

from funrl import _check
from funrl.env import check_env
from funrl.envs import probes, tasks
from funrl.envs._acrobot import acrobot
from funrl.envs._bandits import bernoulli_bandit, gaussian_bandit
from funrl.envs._bit_flip import bit_flip
from funrl.envs._cartpole import cartpole
from funrl.envs._catch import catch
from funrl.envs._deep_sea import deep_sea
from funrl.envs._four_rooms import four_rooms
from funrl.envs._frozen_lake import frozen_lake, frozen_lake_8x8
from funrl.envs._goal_point_robot import goal_point_robot
from funrl.envs._goals import goal_reward, reach as reach
from funrl.envs._grid_rules import grid_rules
from funrl.envs._maze import maze
from funrl.envs._memory_chain import memory_chain
from funrl.envs._minatar._asterix import asterix
from funrl.envs._minatar._breakout import breakout
from funrl.envs._minatar._freeway import freeway
from funrl.envs._minatar._seaquest import seaquest
from funrl.envs._minatar._space_invaders import space_invaders
from funrl.envs._mountain_car import continuous_mountain_car, mountain_car
from funrl.envs._pendulum import pendulum
from funrl.envs._point_robot import point_robot, sparse_point_robot
from funrl.envs._reacher import reacher
from funrl.envs._tabular_mdp import tabular_mdp
from funrl.envs._vectorize import vectorize

__all__ = [
    "acrobot",
    "asterix",
    "bernoulli_bandit",
    "bit_flip",
    "breakout",
    "cartpole",
    "catch",
    "check_env",
    "continuous_mountain_car",
    "deep_sea",
    "four_rooms",
    "freeway",
    "frozen_lake",
    "frozen_lake_8x8",
    "gaussian_bandit",
    "goal_point_robot",
    "goal_reward",
    "grid_rules",
    "make",
    "maze",
    "memory_chain",
    "mountain_car",
    "names",
    "pendulum",
    "point_robot",
    "probes",
    "reacher",
    "seaquest",
    "space_invaders",
    "sparse_point_robot",
    "tabular_mdp",
    "tasks",
    "vectorize",
]

_FACTORIES = {
    "CartPole-v1": cartpole,
    "Pendulum-v1": pendulum,
    "Acrobot-v1": acrobot,
    "MountainCar-v0": mountain_car,
    "MountainCarContinuous-v0": continuous_mountain_car,
    "FrozenLake-v1": frozen_lake,
    "FrozenLake8x8-v1": frozen_lake_8x8,
    "Catch-bsuite": catch,
    "DeepSea-bsuite": deep_sea,
    "MemoryChain-bsuite": memory_chain,
    "BernoulliBandit-misc": bernoulli_bandit,
    "GaussianBandit-misc": gaussian_bandit,
    "FourRooms-misc": four_rooms,
    "Maze-misc": maze,
    "PointRobot-misc": point_robot,
    "SparsePointRobot-misc": sparse_point_robot,
    "GoalPointRobot-misc": goal_point_robot,
    "BitFlip-misc": bit_flip,
    "Reacher-misc": reacher,
    "TabularMDP-misc": tabular_mdp,
    "GridRules-misc": grid_rules,
    "Breakout-MinAtar": breakout,
    "Asterix-MinAtar": asterix,
    "Freeway-MinAtar": freeway,
    "SpaceInvaders-MinAtar": space_invaders,
    "Seaquest-MinAtar": seaquest,
}

# Bridges to environments outside torch. They import further packages, and so are imported at their first use.
_BRIDGES = ("gymnasium", "dm_control")
# Settings of the bridges for which pure environments have other functions.
_OF_THE_HOST = {
    **dict.fromkeys(("num_envs", "vectorization"), "here map over keys, torch.func.vmap(env.reset), or take envs.vectorize(env, num_envs)"),
    "frame_skip": "here compose(env, transforms.frame_skip(num))",
    **dict.fromkeys(("from_pixels", "pixels_only"), "here env.render(state, env_params) draws a picture"),
}


def names() -> list[str]:
    """Return the names that :func:`make` knows.

    Example:
        >>> names()[:2]
        ['CartPole-v1', 'Pendulum-v1']
    """
    return list(_FACTORIES)


def make(name: str, **settings: Any) -> Any:
    """Return the environment with a name, an :class:`~funrl.env.Env`.

    ``gymnasium:ID`` is a :class:`~funrl.env.VectorEnv` of gymnasium's environment of that id, on the host, by
    :func:`funrl.envs.gymnasium.make`, with its settings; ``dm_control:DOMAIN-TASK`` is one of a task of dm_control, by
    :func:`funrl.envs.dm_control.make`.

    Args:
        name: one of :func:`names`, ``gymnasium:ID`` or ``dm_control:DOMAIN-TASK``.
        **settings: arguments of its factory, such as a size.

    Raises:
        TypeError: if ``name`` is not a string, or a setting has the wrong type.
        ValueError: if the name is unknown (the message suggests similar names), or a setting is unknown or out of its range.

    Example:
        >>> make("CartPole-v1").action_space
        Discrete(n=2, start=0)
        >>> make("DeepSea-bsuite", size=8).max_episode_steps
        8
        >>> make("cartpole")
        Traceback (most recent call last):
        ...
        ValueError: envs.make: name: no environment is called 'cartpole'; did you mean CartPole-v1? (those of gymnasium are called ...)
        >>> make("DeepSea-bsuite", sise=8)
        Traceback (most recent call last):
        ...
        ValueError: envs.make: DeepSea-bsuite has no setting 'sise'; did you mean size?
    """
    _check.instance("envs.make: name", name, str, expected="a string such as 'CartPole-v1'")
    bridge, colon, id = name.partition(":")
    if colon and bridge in _BRIDGES:
        domain, _, task = id.partition("-")
        return __getattr__(bridge).make(*([id] if bridge == "gymnasium" else [domain, task]), **settings)
    if name not in _FACTORIES:
        raise ValueError(
            f"envs.make: name: no environment is called {name!r}; {_check.nearest(name, _FACTORIES)} "
            "(those of gymnasium are called 'gymnasium:' and their id)"
        )
    factory = _FACTORIES[name]
    known = inspect.signature(factory).parameters
    for setting in settings:
        if setting not in known:
            if setting in _OF_THE_HOST:
                remedy = f"those named 'gymnasium:ID' have it, {_OF_THE_HOST[setting]}"
            else:
                remedy = (
                    _check.nearest(setting, known) if known else "leave it out, it takes none; what changes its physics is in env_params"
                )
            raise ValueError(f"envs.make: {name} has no setting {setting!r}; {remedy}")
    return factory(**settings)


def __getattr__(name: str) -> Any:
    if name in _BRIDGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
