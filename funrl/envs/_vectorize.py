"""Copies of a pure environment as one environment with a batch dimension."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.env import Env, Mask, VectorEnv, with_label
from funrl.typing import Key


def vectorize(env: Env, num_envs: int) -> VectorEnv:
    """Return ``num_envs`` copies of a pure environment as one :class:`~funrl.env.VectorEnv`.

    Its ``reset`` and ``step`` take one key and split it: copy i gets ``split(key, num_envs)[i]``. Its spaces are those of one copy,
    and ``render`` returns uint8 [B, H, W, 3].

    Each leaf of ``env_params`` is either shared by the copies or has a value for each: a leaf with the number of dimensions of
    ``env.default_params`` is shared, and one with an additional first dimension of ``num_envs`` has a value for each copy. The
    number of dimensions decides, never a size, so that there is no ambiguity; all other shapes are an error.

    Args:
        env: a pure environment.
        num_envs: B >= 1, the number of copies.

    Returns:
        The copies; the leaves of their states and timesteps are [B, ...].

    Raises:
        TypeError: if ``env`` is not an :class:`~funrl.env.Env`, or ``num_envs`` is not an integer.
        ValueError: if ``env`` has copies already, or ``num_envs`` is less than 1. The functions of the result raise if an argument does
            not have the batch dimension.

    Example:
        >>> import torch, funrl
        >>> envs = vectorize(funrl.envs.make("CartPole-v1"), 3)
        >>> length = torch.tensor([0.5, 1.0, 2.0])
        >>> env_params = envs.default_params.replace(pole_half_length=length)
        >>> state, timestep = envs.reset(funrl.random.key(0), env_params)
        >>> state, timestep = envs.step(funrl.random.key(1), state, torch.tensor([0, 1, 1]), env_params)
        >>> timestep.observation.shape, timestep.reward
        (torch.Size([3, 4]), tensor([1., 1., 1.]))
    """
    if isinstance(env, VectorEnv):
        remedy = f"ask its make for num_envs={num_envs} instead" if env.host else "use torch.func.vmap for a further batch dimension"
        raise ValueError(f"vectorize: env: {env.name} has {env.num_envs} copies already; {remedy}")
    _check.instance("vectorize: env", env, Env, "funrl.envs.make returns one")
    _check.integer("vectorize: num_envs", num_envs, 1)
    what = f"{env.name} x {num_envs}"
    default_params = env.default_params

    def batched(function: Callable[..., Any], env_params: Any, *arguments: Any) -> Any:
        """Call ``function(*arguments, env_params)`` for each copy."""
        leaves, form = tree.flatten(env_params)
        dims = _dims(env_params, default_params, num_envs, what)

        def one(arguments: Any, leaves: Any) -> Any:
            return function(*arguments, tree.unflatten(form, leaves))

        return torch.func.vmap(one, (0, dims))(arguments, tuple(leaves))

    def check(where: Mask, **values: Any) -> None:
        for name, value in values.items():
            _check_copies(value, num_envs, f"{what}: {name}")
        if where is not None:
            _check.flag(f"{what}: where", where, "True for the copies to change", shape=(num_envs,))

    def chosen(where: torch.Tensor | None, new: Any, old: Any) -> Any:
        return new if where is None else tree.where(where, new, old)

    def reset(key: Key, env_params: Any = default_params, state: Any = None, where: Mask = None) -> Any:
        if where is not None:
            check(where, state=state)
        new, timestep = batched(env.reset, env_params, random.split(key, num_envs))
        return chosen(where, new, state), timestep

    def step(key: Key, state: Any, action: Any, env_params: Any = default_params, where: Mask = None) -> Any:
        check(where, state=state, action=action)
        new, timestep = batched(env.step, env_params, random.split(key, num_envs), state, action)
        return chosen(where, new, state), timestep

    def render(state: Any, env_params: Any = default_params) -> torch.Tensor:
        check(None, state=state)
        return batched(env.render, env_params, state)

    copies = env._replace(reset=reset, step=step, render=None if env.render is None else render)
    return with_label(VectorEnv(*copies, num_envs), f"vectorize(num_envs={num_envs})", below=env)


def _dims(env_params: Any, default_params: Any, num_envs: int, what: str) -> tuple[int | None, ...]:
    """Return for each leaf of ``env_params`` 0 if it has a value for each copy, None if the copies share it."""
    if tree.structure(env_params) != tree.structure(default_params):
        tree.check_like(env_params, default_params, f"{what}: env_params", "default_params", dtypes=False)
    dims = []
    for i, (x, default) in enumerate(zip(tree.leaves(env_params), tree.leaves(default_params), strict=True)):
        if x.ndim == default.ndim:
            dims.append(None)
        elif x.ndim == default.ndim + 1 and x.shape[0] == num_envs:
            dims.append(0)
        else:
            shape = list(default.shape)
            raise ValueError(
                f"{what}: env_params: leaf {tree.paths(env_params)[i]} has shape {list(x.shape)}; expected one like {shape} "
                f"for all copies, or {[num_envs, *shape]} with a value for each"
            )
    return tuple(dims)


def _check_copies(value: Any, num_envs: int, what: str) -> None:
    for i, x in enumerate(tree.leaves(value)):
        if not isinstance(x, torch.Tensor) or x.ndim == 0 or x.shape[0] != num_envs:
            got = f"shape {list(x.shape)}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
            raise ValueError(f"{what}: leaf {tree.paths(value)[i]}: expected a tensor [{num_envs}, ...], one row for each copy; got {got}")
