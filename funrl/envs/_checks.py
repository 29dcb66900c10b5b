"""Checks of the arguments of pure environments, in one place for all of them."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.env import Env, Timestep
from funrl.typing import Key


def checked(env: Env, state_kind: type, *, shapes: bool = False) -> Env:
    """Return an environment whose functions check their arguments and have default params.

    Args:
        env: the environment; its functions take all arguments.
        state_kind: the class of its states.
        shapes: whether the params have to have the shapes of the default ones, as tables do; dtypes may differ.
    """
    default = env.default_params

    def check_shapes(env_params: Any) -> None:
        remedy = "default_params (see the settings of its factory)"
        tree.check_like(env_params, default, f"{env.name}: env_params", remedy, dtypes=False)

    def reset(key: Key, env_params: Any = default) -> tuple[Any, Timestep]:
        if shapes:
            check_shapes(env_params)
        return env.reset(key, env_params)

    def step(key: Key, state: Any, action: Any, env_params: Any = default) -> tuple[Any, Timestep]:
        # It does not depend on values, so that it costs nothing in a compiled step.
        for name, value, kind in (("state", state, state_kind), ("env_params", env_params, type(default))):
            remedy = "call step(key, state, action, env_params) with the state from reset and the env's default_params"
            _check.instance(f"{env.name}: {name}", value, kind, remedy)
        env.action_space.check(action, f"{env.name}: action")
        if shapes:
            check_shapes(env_params)
        return env.step(key, state, action, env_params)

    def render(state: Any, env_params: Any = default) -> torch.Tensor:
        return env.render(state, env_params)

    reset.__doc__, step.__doc__, render.__doc__ = env.reset.__doc__, env.step.__doc__, getattr(env.render, "__doc__", None)
    return env._replace(reset=reset, step=step, render=None if env.render is None else render)
