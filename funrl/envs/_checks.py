"""Checks of environments: sizes given to factories, and params given to steps."""

from typing import Any

from funrl import tree

__all__ = ["check_params", "check_size"]


def check_size(name: str, setting: str, value: Any, least: int) -> None:
    """Raise unless a setting is a Python integer of at least ``least``.

    Args:
        name: the name of the environment, for the message.
        setting: the name of the setting.
        value: the given value.
        least: the smallest valid value.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: {setting}: expected a Python integer, got {value!r}; shapes have to be known while compiling")
    if value < least:
        raise ValueError(f"{name}: {setting}: expected at least {least}, got {value}")


def check_params(name: str, env_params: Any, default_params: Any) -> None:
    """Raise a ValueError unless the params have the shapes of the default ones; dtypes may differ.

    Args:
        name: the name of the environment, for the message.
        env_params: the params given to a step.
        default_params: the default params of the environment.
    """
    tree.check_like(env_params, default_params, f"{name}: env_params", "default_params (see the settings of its factory)", dtypes=False)
