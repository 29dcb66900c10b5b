"""The two kinds of environments: a pure one, ``Env``, and copies side by side, ``VectorEnv``."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self, TypeVar

import torch

from funrl import random, tree
from funrl.env._data import Timestep


class _Labelled:
    """The part that both kinds have in common: attributes that are no fields, see :func:`with_label`, and ``with env:``."""

    below: Any = None
    label: str = ""

    def _replace(self, **fields: Any) -> Self:
        new: Any = super()._replace(**fields)  # pyright: ignore
        return with_label(new, self.label, below=self.below)

    def __repr__(self) -> str:
        """Return the environment without transforms, followed by the transforms in the order of their application."""
        env: Any = self
        labels = []
        while env.below is not None:
            labels.append(env.label)
            env = env.below
        settings = [env.label] if env.label else []
        if isinstance(env, VectorEnv):
            settings += [f"num_envs={env.num_envs}", *(["host=True"] if env.host else [])]
        bottom = f"{type(env).__name__}({', '.join([env.name, *settings])})"
        return "\n    ".join(["compose(", *(f"{part}," for part in (bottom, *reversed(labels)))]) + "\n)" if labels else bottom

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: there is nothing to close, but ``with env:`` is for both kinds of environments."""


class _EnvFields(NamedTuple):
    name: str
    reset: Callable[..., Any]
    step: Callable[..., Any]
    observation_space: Any
    action_space: Any
    default_params: Any
    max_episode_steps: int
    render: Any  # a function or None


class Env(_Labelled, _EnvFields):
    """A pure environment, written for a single instance; :func:`torch.func.vmap` maps it over batches.

    Attributes:
        name: its name for :func:`funrl.envs.make`.
        reset: ``reset(key, env_params) -> (state, Timestep)``.
        step: ``step(key, state, action, env_params) -> (state, Timestep)``; it never resets the environment.
        observation_space: a space of :mod:`funrl.spaces`.
        action_space: a space of :mod:`funrl.spaces`.
        default_params: the physical constants as a tree of tensors; their dtype and device are those of the episode.
        max_episode_steps: the default time limit, in steps.
        render: ``render(state, env_params) -> uint8 [H, W, 3]``, or None if it cannot be rendered.
    """


def _nothing() -> None:
    pass


class _VectorFields(NamedTuple):
    name: str
    reset: Callable[..., Any]
    step: Callable[..., Any]
    observation_space: Any
    action_space: Any
    default_params: Any
    max_episode_steps: int
    render: Any  # a function or None
    num_envs: int
    close: Callable[[], None] = _nothing
    host: bool = False


class VectorEnv(_Labelled, _VectorFields):
    """Copies of an environment side by side: of a pure one, as :func:`funrl.envs.vectorize` returns them, or on the host.

    Its states and timesteps have leaves [B, ...]; it takes one key, which it splits itself. Its spaces are those of one copy. It ends its
    processes at the end of a ``with`` statement.

    Attributes:
        name: its name for :func:`funrl.envs.make`.
        reset: ``reset(key, env_params, state=None, where=None) -> (state, Timestep)``. With a mask ``where``, bool [B], it resets only
            those copies of ``state``: the state of the others does not change, and their rows of the timestep are undefined.
        step: ``step(key, state, action, env_params, where=None) -> (state, Timestep)``, with a mask as ``reset``; it never resets a copy.
        observation_space: a space of :mod:`funrl.spaces`.
        action_space: a space of :mod:`funrl.spaces`.
        default_params: the physical constants as a tree of tensors; () on the host.
        max_episode_steps: the default time limit, in steps.
        render: ``render(state, env_params) -> uint8 [B, H, W, 3]``, or None if it cannot be rendered.
        num_envs: B >= 1, the number of copies.
        close: ends processes and closes files; a second call does nothing.
        host: whether ``reset`` and ``step`` run outside torch, and so cannot be vmapped or compiled.
    """

    def __exit__(self, *error: object) -> None:
        self.close()


AnyEnv = Env | VectorEnv
Mask = torch.Tensor | None  # bool [B]: the copies to change; None: all
_E = TypeVar("_E", bound=Env | VectorEnv)


def with_label(env: _E, label: str, *, below: AnyEnv | None = None) -> _E:
    """Return ``env`` with a text for its ``repr``, and the environment that it was made of.

    Both are attributes, ``env.label`` and ``env.below``, and no fields; ``env._replace`` keeps them.

    Args:
        env: the environment.
        label: the text of a transform with its arguments; without ``below``, the settings of the environment.
        below: the environment that a transform was applied to, or None.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> with_label(env._replace(max_episode_steps=9), "shorter()", below=env)
        compose(
            Env(CartPole-v1),
            shorter(),
        )
    """
    new: Any = env._make(env)
    vars(new).update(label=label, below=below)
    return new


def on_host(env: AnyEnv) -> bool:
    """Return whether an environment runs outside torch, and so cannot be vmapped or compiled."""
    return isinstance(env, VectorEnv) and env.host


def batch_shape(env: AnyEnv) -> tuple[int, ...]:
    """Return the first dimensions of the leaves of a timestep: (), or (B,) for B copies."""
    return (env.num_envs,) if isinstance(env, VectorEnv) else ()


def over_copies(env: AnyEnv, f: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of one copy as a function of ``env``: mapped over its copies, if it has some.

    Example:
        >>> import funrl
        >>> for env in (cartpole := funrl.envs.make("CartPole-v1"), funrl.envs.vectorize(cartpole, 3)):
        ...     over_copies(env, env.action_space.sample)(copy_keys(env, random.key(0))).shape
        torch.Size([])
        torch.Size([3])
    """
    return torch.func.vmap(f) if isinstance(env, VectorEnv) else f


def copy_keys(env: AnyEnv, key: torch.Tensor) -> torch.Tensor:
    """Return the key of each copy, [B]; for a single environment the key itself."""
    return random.split(key, env.num_envs) if isinstance(env, VectorEnv) else key


def masked(env: AnyEnv) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return ``reset`` and ``step`` of an environment that take a mask as those of a :class:`VectorEnv` do.

    The mask of a single environment is bool [].

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> reset, _ = masked(env)
        >>> state, _ = reset(random.key(0), env.default_params)
        >>> new, _ = reset(random.key(1), env.default_params, state, torch.tensor(False))
        >>> tree.equal(new, state)
        True
    """
    if isinstance(env, VectorEnv):
        return env.reset, env.step

    def reset(key: torch.Tensor, env_params: Any, state: Any = None, where: Mask = None) -> tuple[Any, Timestep]:
        new, timestep = env.reset(key, env_params)
        return new if where is None else tree.where(where, new, state), timestep

    def step(key: torch.Tensor, state: Any, action: Any, env_params: Any, where: Mask = None) -> tuple[Any, Timestep]:
        new, timestep = env.step(key, state, action, env_params)
        return new if where is None else tree.where(where, new, state), timestep

    return reset, step
