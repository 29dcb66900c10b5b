"""Normalisation of observations with running statistics, which belong to the learner and are passed in ``env_params``."""

import math
from typing import Any

import torch

from funrl import _check, stats, tree
from funrl.env import AnyEnv, Mask, Timestep, masked
from funrl.spaces import Box
from funrl.transforms._core import Transform, wrapped
from funrl.transforms._parts import Keys, misfit, parts
from funrl.typing import Key

# Transforms that do not change existing observations (some add an entry), so that they may follow vec_norm.
_SHOW_THE_SAME = frozenset(
    "action_discretize action_mask action_scale end_of_life frame_skip init_tracker noop_reset reward_clip reward_scale reward_sum "
    "step_counter sticky_actions target_return time_limit".split()
)


@tree.dataclass
class VecNormParams(tree.Replaceable):
    """The ``env_params`` of an environment under :func:`vec_norm`.

    Attributes:
        below: the ``env_params`` of the environment below.
        moments: :class:`funrl.stats.Moments` of the observations: its ``mean`` and ``var`` have the shape of a single observation or, with
            ``in_keys``, are dicts with an entry for each of the ``out_keys``.
    """

    below: Any
    moments: stats.Moments


def vec_norm(*, in_keys: Keys = None, out_keys: Keys = None) -> Transform:
    r"""Normalise observations to mean 0 and variance 1 over all observations so far.

    .. math:: \frac{x - \bar x}{\sqrt{\sigma^2 + 10^{-8}}}

    The moments are not reset at the end of an episode, so they are not part of the environment's state: they are learned, and passed in
    ``env_params`` as :class:`VecNormParams`. The environment only reads them; the learner updates them with :func:`update_vec_norm`, once
    after each rollout. So they can be vmapped over agents, saved with the learner, and held fixed in an evaluation.

    The learners of :mod:`funrl.algos` update the moments with each rollout. A replay buffer stores the normalised observations. Apply
    :func:`vec_norm` as the last transform of observations.

    The result is not clipped, so that the original observation can be recovered; clip in the policy, for example to ±10.

    Args:
        in_keys: the entries of a dict observation to transform; None: the observation is not a dict.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.

    Raises:
        TypeError: if keys are not a list of strings; from ``step``: if ``env_params`` are not :class:`VecNormParams`.
        ValueError: when applied: if an entry is missing or is not floating point.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("Pendulum-v1"), vec_norm())
        >>> def act(params, key, observation):
        ...     return env.action_space.sample(key), {}
        >>> reset_key, key = funrl.random.split(funrl.random.key(0)).unbind(0)
        >>> env_params = env.default_params
        >>> state = torch.func.vmap(env.reset, (0, None))(funrl.random.split(reset_key, 8), env_params)
        >>> for i in range(3):
        ...     state, batch = funrl.rollout(None, funrl.random.fold_in(key, i), state, env_params, env=env, act=act, num_steps=16)
        ...     env_params = update_vec_norm(env_params, batch.next_observation, env=env)
        >>> env_params.moments.count
        tensor(384)

    Reference: gymnasium's NormalizeObservation, which updates at each step instead: M. Towers et al., "Gymnasium: A Standard
    Interface for Reinforcement Learning Environments", 2024, arXiv:2407.17032.
    """

    def apply(env: AnyEnv) -> AnyEnv:
        where = parts(env, "vec_norm", in_keys, out_keys)
        spaces = [_unbounded(space, place) for space, place in where.spaces()]
        zeros = [torch.zeros(space.shape, dtype=space.dtype, device="cpu") for space in spaces]
        example = zeros[0] if where.in_keys is None else dict(zip(where.out_keys, zeros, strict=True))
        default = VecNormParams(env.default_params, stats.moments(example))

        def normalized(result: tuple[Any, Timestep], moments: stats.Moments) -> tuple[Any, Timestep]:
            state, timestep = result
            values = where.read(timestep.observation)
            x = values[0] if where.in_keys is None else dict(zip(where.out_keys, values, strict=True))
            x = tree.map(lambda x, mean: x.to(mean.dtype), x, moments.mean)
            x = stats.normalize(moments, x, clip=math.inf)
            values = [x] if where.in_keys is None else [x[name] for name in where.out_keys]
            return state, timestep.replace(observation=where.write(timestep.observation, values))

        reset_below, step_below = masked(env)

        def reset(key: Key, env_params: VecNormParams = default, state: Any = None, where: Mask = None) -> tuple[Any, Timestep]:
            return normalized(reset_below(key, _checked(env_params).below, state, where), env_params.moments)

        def step(key: Key, state: Any, action: Any, env_params: VecNormParams = default, where: Mask = None) -> tuple[Any, Timestep]:
            return normalized(step_below(key, state, action, _checked(env_params).below, where), env_params.moments)

        return wrapped(
            env,
            where.label(),
            lambda state, env_params: (state, _checked(env_params).below),
            reset=reset, step=step, observation_space=where.replace(spaces), default_params=default,
        )  # fmt: skip

    return apply


def update_vec_norm(env_params: VecNormParams, observation: Any, *, env: AnyEnv) -> VecNormParams:
    """Update the moments in ``env_params`` with the observations of a rollout.

    Args:
        env_params: the ``env_params`` of the rollout.
        observation: the ``next_observation`` of its transitions, normalised by :func:`vec_norm`, each leaf [N..., *shape]. (Do not use
            its ``observation``: the first ones were normalised with the earlier moments.)
        env: the environment of the rollout, to check that no transform after :func:`vec_norm` has changed the observations.

    Raises:
        TypeError: if ``env_params`` are not :class:`VecNormParams`.
        ValueError: if the observations do not fit the moments, or ``env`` has a transform above :func:`vec_norm` that changes them.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("Pendulum-v1"), vec_norm())
        >>> observation = torch.tensor([[1.0, 0.0, 4.0], [1.0, 0.0, 2.0]])
        >>> update_vec_norm(env.default_params, observation, env=env).moments.mean
        tensor([1., 0., 3.])
    """
    moments = _checked(env_params).moments
    check_vec_norm(env)
    if isinstance(moments.mean, dict) and isinstance(observation, dict):
        observation = {name: x for name, x in observation.items() if name in moments.mean}
    return env_params.replace(moments=stats.update(moments, stats.denormalize(moments, observation)))


def check_vec_norm(env: AnyEnv) -> None:
    """Raise a ValueError unless the observations of an environment are those of its :func:`vec_norm`.

    Example:
        >>> import funrl
        >>> from funrl.transforms import compose, frame_stack
        >>> check_vec_norm(compose(funrl.envs.make("Pendulum-v1"), vec_norm(), frame_stack(3)))
        Traceback (most recent call last):
        ...
        ValueError: vec_norm: expected no transform of observations after it, which its moments would not describe, got frame_stack; ...
    """
    part = env
    while (name := part.label.partition("(")[0]) != "vec_norm":
        if part.below is None:
            raise ValueError(f"vec_norm: expected it among the transforms of {env.name}, got {env!r}")
        if name not in _SHOW_THE_SAME:
            raise ValueError(
                f"vec_norm: expected no transform of observations after it, which its moments would not describe, got {name}; "
                "apply vec_norm after it"
            )
        part = part.below


def _unbounded(space: Any, place: str) -> Box:
    """Return the space of normalised observations."""
    if not isinstance(space, Box) or not space.dtype.is_floating_point:
        raise misfit("vec_norm", place, "floating-point numbers (a Box)", space, "put to_tensor_image or cast before it")
    return Box(-math.inf, math.inf, space.shape, space.dtype, space.layout)


def _checked(env_params: Any) -> VecNormParams:
    """Return ``env_params``, or raise a TypeError."""
    remedy = "begin with the environment's default_params"
    return _check.instance("vec_norm: env_params", env_params, VecNormParams, remedy, expected="VecNormParams")
