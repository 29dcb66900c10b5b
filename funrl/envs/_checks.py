"""Checks of the arguments of pure environments, in one place for all of them."""

import functools
from typing import Any, NamedTuple

import torch

from funrl import _check, tree
from funrl.env import Env, Timestep
from funrl.typing import Key


def checked(env: Env, state_kind: type, *, shapes: bool = False) -> Env:
    """Return an environment whose functions check their arguments and have default params.

    It can be pickled if ``env`` can, whose functions then are those of a module.

    Args:
        env: the environment; its functions take all arguments.
        state_kind: the class of its states.
        shapes: whether the params have to have the shapes of the default ones, as tables do; dtypes may differ.
    """
    functions = {"reset": _reset, "step": _step} | ({} if env.render is None else {"render": _render})
    fields = {name: functools.partial(f, _Page(env, state_kind, shapes)) for name, f in functions.items()}
    for name, f in fields.items():
        f.__doc__ = getattr(env, name).__doc__
    return env._replace(**fields)


class _Page(NamedTuple):
    env: Env
    state_kind: type
    shapes: bool

    def check_shapes(self, env_params: Any) -> None:
        if self.shapes:
            remedy = "default_params (see the settings of its factory)"
            tree.check_like(env_params, self.env.default_params, f"{self.env.name}: env_params", remedy, dtypes=False)


def _reset(page: _Page, key: Key, env_params: Any = None) -> tuple[Any, Timestep]:
    env_params = page.env.default_params if env_params is None else env_params
    page.check_shapes(env_params)
    return page.env.reset(key, env_params)


def _step(page: _Page, key: Key, state: Any, action: Any, env_params: Any = None) -> tuple[Any, Timestep]:
    # The checks do not depend on values, so that they cost nothing in a compiled step.
    env = page.env
    env_params = env.default_params if env_params is None else env_params
    for name, value, kind in (("state", state, page.state_kind), ("env_params", env_params, type(env.default_params))):
        remedy = "call step(key, state, action, env_params) with the state from reset and the env's default_params"
        _check.instance(f"{env.name}: {name}", value, kind, remedy)
    env.action_space.check(action, f"{env.name}: action")
    page.check_shapes(env_params)
    return env.step(key, state, action, env_params)


def _render(page: _Page, state: Any, env_params: Any = None) -> torch.Tensor:
    return page.env.render(state, page.env.default_params if env_params is None else env_params)
