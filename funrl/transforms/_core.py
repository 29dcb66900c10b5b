"""Composition of transforms: ``compose``, ``parent``, and functions that make a transform of functions of a single copy."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from funrl import _check, random, tree
from funrl.env import AnyEnv, Env, Mask, Timestep, VectorEnv, copy_keys, masked, on_host, over_copies, with_label
from funrl.typing import Key

Transform = Callable[[AnyEnv], AnyEnv]
_E = TypeVar("_E", bound=Env | VectorEnv)


@tree.dataclass
class TransformState:
    """State of an environment with a stateful transform.

    Attributes:
        below: the state of the environment below.
        own: the state of the transform since the reset, a tree of tensors; the transform's docstring describes it.
    """

    below: Any
    own: Any


def compose(env: _E, *transforms: Transform) -> _E:
    """Apply transforms to ``env``, in the given order.

    ``repr`` of the result shows the chain.

    Args:
        env: an :class:`~funrl.env.Env` or a :class:`~funrl.env.VectorEnv`; the result is of the same kind.
        *transforms: functions of an environment that return one, as the factories of :mod:`funrl.transforms` return them.

    Raises:
        TypeError: if ``env`` is not an environment, or a transform is not a function that returns one.

    Example:
        >>> import funrl
        >>> env = compose(funrl.envs.make("CartPole-v1"), funrl.transforms.time_limit(100), funrl.transforms.frame_stack(4))
        >>> env
        compose(
            Env(CartPole-v1),
            time_limit(max_steps=100),
            frame_stack(num=4, padding='reset'),
        )
        >>> env.observation_space.shape, env.max_episode_steps
        ((4, 4), 100)
    """
    _check.instance("compose: env", env, (Env, VectorEnv), "funrl.envs.make returns one", "an Env or a VectorEnv")
    made: AnyEnv = env
    for number, transform in enumerate(transforms, 1):
        _check.function(f"compose: transform {number}", transform, "write time_limit(100)")
        made = transform(made)
        remedy = "call its factory first: time_limit(100), not time_limit"
        _check.instance(f"compose: transform {number}", made, (Env, VectorEnv), remedy, "a function that returns an environment")
    return cast(_E, made)


def parent(env: AnyEnv) -> AnyEnv | None:
    """Return the environment below the last transform of ``env``, or None if it has no transform.

    Raises:
        TypeError: if ``env`` is not an environment.

    Example:
        >>> import funrl
        >>> env = compose(funrl.envs.make("CartPole-v1"), funrl.transforms.reward_clip(), funrl.transforms.frame_stack(4))
        >>> parent(env)
        compose(
            Env(CartPole-v1),
            reward_clip(low=-1.0, high=1.0),
        )
    """
    _check.instance("parent: env", env, (Env, VectorEnv), expected="an Env or a VectorEnv")
    return env.below


def stateless(
    env: _E,
    label: str,
    *,
    start: Callable[[Timestep], Timestep] | None = None,
    act: Callable[[Any], Any] | None = None,
    finish: Callable[[Timestep], Timestep] | None = None,
    **fields: Any,
) -> _E:
    """Return ``env`` with a stateless transform; the state is that of ``env``.

    The functions are those of a single copy. They are vmapped over the copies of a :class:`~funrl.env.VectorEnv`.

    Args:
        env: the environment below.
        label: the text of the transform in a ``repr``.
        start: a function of the timestep that ``reset`` returned.
        act: a function of the action before a step.
        finish: a function of the timestep that ``step`` returned.
        **fields: other fields that change, such as ``observation_space``.

    Example:
        >>> import funrl
        >>> def negate(timestep):
        ...     return timestep.replace(reward=-timestep.reward)
        >>> env = stateless(funrl.envs.make("CartPole-v1"), "negate()", finish=negate)
        >>> state, _ = env.reset(funrl.random.key(0))
        >>> env.step(funrl.random.key(1), state, torch.tensor(1))[1].reward
        tensor(-1.)
    """
    return _build(
        env,
        label,
        start=None if start is None else lambda timestep: ((), start(timestep)),
        act=None if act is None else lambda noise, own, action: (own, act(action)),
        finish=None if finish is None else lambda own, timestep: (own, finish(timestep)),
        draw=None,
        split=lambda state: (state, ()),
        join=lambda below, own: below,
        fields=fields,
    )


def stateful(
    env: _E,
    label: str,
    *,
    start: Callable[[Timestep], tuple[Any, Timestep]],
    act: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None,
    finish: Callable[[Any, Timestep], tuple[Any, Timestep]] | None = None,
    draw: Callable[[torch.Tensor], Any] | None = None,
    **fields: Any,
) -> _E:
    """Return ``env`` with a transform that has a state within an episode, in a :class:`TransformState`.

    The functions are those of a single copy. They are vmapped over the copies of a :class:`~funrl.env.VectorEnv`. The state
    of a copy outside a mask does not change.

    Args:
        env: the environment below.
        label: the text of the transform in a ``repr``.
        start: ``start(timestep) -> (own, timestep)`` after a reset.
        act: ``act(noise, own, action) -> (own, action)`` before a step.
        finish: ``finish(own, timestep) -> (own, timestep)`` after a step. Structure, shapes and dtypes of ``own`` must never change.
        draw: ``draw(key) -> noise``, the random numbers of a step; without it ``noise`` is (), and ``env`` gets the key unsplit.
        **fields: other fields that change, such as ``observation_space``.

    Example:
        >>> import funrl
        >>> def start(timestep):
        ...     return timestep.reward, timestep
        >>> def largest(own, timestep):
        ...     best = torch.maximum(own, timestep.reward)
        ...     return best, timestep.replace(reward=best - own)
        >>> env = stateful(funrl.envs.make("CartPole-v1"), "progress()", start=start, finish=largest)
        >>> state, _ = env.reset(funrl.random.key(0))
        >>> state, timestep = env.step(funrl.random.key(1), state, torch.tensor(1))
        >>> state.own, env.step(funrl.random.key(2), state, torch.tensor(1))[1].reward
        (tensor(1.), tensor(0.))
    """

    def split(state: Any) -> tuple[Any, Any]:
        _check.instance(f"{label}: state", state, TransformState, "give the first result of its own reset")
        return state.below, state.own

    return _build(env, label, start=start, act=act, finish=finish, draw=draw, split=split, join=TransformState, fields=fields)


def _build(
    env: _E, label: str, *, start: Any, act: Any, finish: Any, draw: Any, split: Callable, join: Callable, fields: dict[str, Any]
) -> _E:
    """Return ``env`` with functions of :func:`stateful`, or None; ``split(state) -> (below, own)`` and ``join(below, own) -> state``."""
    reset_below, step_below = masked(env)

    def reset(key: Key, env_params: Any = env.default_params, state: Any = None, where: Mask = None) -> tuple[Any, Timestep]:
        below, old = (None, None) if where is None else split(state)
        below, timestep = reset_below(key, env_params, below, where)
        own, timestep = ((), timestep) if start is None else over_copies(env, start)(timestep)
        return join(below, own if where is None else tree.where(where, own, old)), timestep

    def step(key: Key, state: Any, action: Any, env_params: Any = env.default_params, where: Mask = None) -> tuple[Any, Timestep]:
        below, old = split(state)
        own, noise = old, ()
        if draw is not None:
            key, own_key = random.split(key).unbind(0)
            noise = over_copies(env, draw)(copy_keys(env, own_key))
        if act is not None:
            own, action = over_copies(env, act)(noise, own, action)
        below, timestep = step_below(key, below, action, env_params, where)
        if finish is not None:
            own, timestep = over_copies(env, finish)(own, timestep)
        return join(below, own if where is None else tree.where(where, own, old)), timestep

    return wrapped(env, label, lambda state, env_params: (split(state)[0], env_params), reset=reset, step=step, **fields)


def wrapped(env: _E, label: str, below: Callable[[Any, Any], tuple[Any, Any]], **fields: Any) -> _E:
    """Return ``env`` with a transform that changes some fields; ``below(state, env_params)`` are the state and the params of ``env``."""
    if env.render is not None:
        default_params, render = fields.get("default_params", env.default_params), env.render
        fields["render"] = lambda state, env_params=default_params: render(*below(state, env_params))
    return with_label(env._replace(**fields), label, below=env)


def step_some(
    env: AnyEnv, key: Key, state: Any, timestep: Timestep, action: Any, where: torch.Tensor, env_params: Any
) -> tuple[Any, Timestep]:
    """Step the copies in the mask; state and ``timestep`` of the others do not change.

    Args:
        env: any environment; in a single one ``where`` is bool [].
        key: int64 [].
        state: its state.
        timestep: its latest timestep.
        action: an action for each copy.
        where: bool [] or [B].
        env_params: the constants.
    """
    if on_host(env) and not bool(where.any()):
        return state, timestep
    state, new = masked(env)[1](key, state, action, env_params, where)
    return state, tree.where(where, new, timestep)


def reset_some(env: AnyEnv, key: Key, state: Any, timestep: Timestep, where: torch.Tensor, env_params: Any) -> tuple[Any, Timestep]:
    """Reset the copies in the mask; state and ``timestep`` of the others do not change. Arguments as for :func:`step_some`."""
    if on_host(env) and not bool(where.any()):
        return state, timestep
    state, new = masked(env)[0](key, env_params, state, where)
    return state, tree.where(where, new, timestep)
