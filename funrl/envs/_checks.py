"""Checks of environments: sizes given to factories, and params given to steps."""

from typing import Any

from funrl import tree


def check_params(name: str, env_params: Any, default_params: Any) -> None:
    """Raise a ValueError unless the params have the shapes of the default ones; dtypes may differ.

    Args:
        name: the name of the environment, for the message.
        env_params: the params given to a step.
        default_params: the default params of the environment.
    """
    tree.check_like(env_params, default_params, f"{name}: env_params", "default_params (see the settings of its factory)", dtypes=False)
