"""Environments as pure functions, one file each, and :func:`make`, which finds them by name."""

import difflib

from funrl.env import Env
from funrl.envs.acrobot import acrobot
from funrl.envs.cartpole import cartpole
from funrl.envs.continuous_mountain_car import continuous_mountain_car
from funrl.envs.mountain_car import mountain_car
from funrl.envs.pendulum import pendulum

__all__ = ["acrobot", "cartpole", "continuous_mountain_car", "make", "mountain_car", "names", "pendulum"]

_FACTORIES = {
    "CartPole-v1": cartpole,
    "Pendulum-v1": pendulum,
    "Acrobot-v1": acrobot,
    "MountainCar-v0": mountain_car,
    "MountainCarContinuous-v0": continuous_mountain_car,
}


def names() -> list[str]:
    """Return the names that :func:`make` knows.

    Example:
        >>> names()[:2]
        ['CartPole-v1', 'Pendulum-v1']
    """
    return list(_FACTORIES)


def make(name: str) -> Env:
    """Return the environment called ``name``.

    Raises:
        TypeError: if ``name`` is no string.
        ValueError: if there is none of that name; the nearest names are offered.

    Example:
        >>> make("CartPole-v1").action_space
        Discrete(n=2, start=0)
        >>> make("cartpole")
        Traceback (most recent call last):
        ...
        ValueError: envs.make: name: no environment is called 'cartpole'; did you mean CartPole-v1?
    """
    if not isinstance(name, str):
        raise TypeError(f"envs.make: name: expected a string such as 'CartPole-v1', got {type(name).__name__}")
    if name not in _FACTORIES:
        lower = {known.lower(): known for known in _FACTORIES}
        near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
        remedy = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(_FACTORIES)}"
        raise ValueError(f"envs.make: name: no environment is called {name!r}; {remedy}")
    return _FACTORIES[name]()
