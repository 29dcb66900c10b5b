"""Learners: each ``make(env, **config)`` returns an :class:`Algorithm` of pure functions; :func:`make` finds them by name."""

import dataclasses
import importlib
from typing import Any

from funrl import envs
from funrl._check import nearest
from funrl.algos import (
    a2c,
    apg,
    crossq,
    ddpg,
    dqn,
    episodes,
    images,
    impala,
    off_policy,
    on_policy,
    ppo,
    pqn,
    redq,
    reinforce,
    sac,
    sac_discrete,
    shac,
    td3,
)
from funrl.algos._algorithm import (
    Algorithm,
    annealed as annealed,
    check,
    check_experience as check_experience,
    check_range as check_range,
    collecting,
    in_dtype_of as in_dtype_of,
    make_config,
    make_hparams,
    start_actor as start_actor,
)
from funrl.algos._arguments import configure as configure
from funrl.algos._off_policy_actors import SoftConfig
from funrl.algos._rewards import RewardScale
from funrl.algos._state import ActorParams, LearnerState, State
from funrl.env import Env

__all__ = [
    "ActorParams",
    "Algorithm",
    "LearnerState",
    "RewardScale",
    "SoftConfig",
    "State",
    "a2c",
    "apg",
    "check",
    "collecting",
    "crossq",
    "ddpg",
    "defaults",
    "dqn",
    "episodes",
    "images",
    "impala",
    "make",
    "make_config",
    "make_hparams",
    "names",
    "off_policy",
    "on_policy",
    "ppo",
    "pqn",
    "redq",
    "reinforce",
    "sac",
    "sac_discrete",
    "shac",
    "td3",
]

# Algorithms of rooms beside this one, which are imported when they are asked for: the room, and the name of the configuration.
_ELSEWHERE = {
    "maml": ("meta", "MAMLConfig"),
    "meta_a2c": ("meta", "MetaA2CConfig"),
    "rl2": ("meta", "RL2Config"),
    "varibad": ("meta", "VariBADConfig"),
}
_ALGORITHMS = {
    "a2c": (a2c.make, a2c.A2CConfig),
    "apg": (apg.make, apg.APGConfig),
    "crossq": (crossq.make, crossq.CrossQConfig),
    "ddpg": (ddpg.make, ddpg.DDPGConfig),
    "dqn": (dqn.make, dqn.DQNConfig),
    "impala": (impala.make, impala.ImpalaConfig),
    "ppo": (ppo.make, ppo.PPOConfig),
    "pqn": (pqn.make, pqn.PQNConfig),
    "redq": (redq.make, redq.REDQConfig),
    "reinforce": (reinforce.make, reinforce.ReinforceConfig),
    "sac": (sac.make, sac.SACConfig),
    "sac_discrete": (sac_discrete.make, sac_discrete.SACDiscreteConfig),
    "shac": (shac.make, shac.SHACConfig),
    "td3": (td3.make, td3.TD3Config),
}


def names() -> list[str]:
    """Return the names that :func:`make` knows.

    Example:
        >>> names()
        ['a2c', 'apg', 'crossq', 'ddpg', 'dqn', 'impala', 'maml', 'meta_a2c', 'ppo', ...]
    """
    return sorted([*_ALGORITHMS, *_ELSEWHERE])


def defaults(name: str) -> dict[str, Any]:
    """Return the options of an algorithm with their default values.

    Args:
        name: one of :func:`names`.

    Raises:
        ValueError: if there is no algorithm of that name; the nearest names are offered.

    Example:
        >>> defaults("ppo")["num_envs"]
        64
    """
    return {field.name: field.default for field in dataclasses.fields(_find(name)[1])}


def make(name: str, env: Env | str, **options: Any) -> Algorithm:
    """Make the algorithm called ``name`` for an environment.

    Args:
        name: one of :func:`names`.
        env: the environment to learn in, or what :func:`funrl.envs.make` knows it by; on the host it then has ``num_envs`` copies.
        **options: fields of its configuration; :func:`defaults` lists them, and ``help(funrl.algos.sac.SACConfig)``, or the like, says
            what they mean. ``num_envs`` is that of a batched environment unless given. And parts of your own in the place of those that it
            makes of the configuration, such as ``network``, ``optimizer``, ``buffer`` or ``loss``: see ``help(funrl.algos.sac.make)``.

    The hyperparameters in ``state.learner.hparams`` can differ between the agents of a vmapped program:
    ``states.replace(learner=learner.replace(hparams=learner.hparams.replace(learning_rate=torch.tensor([1e-4, 1e-3]))))`` of
    ``learner = states.learner``.

    Raises:
        ValueError: if there is no algorithm or environment of that name (the nearest names are offered), or an option is unknown, out of
            its range, or does not fit the environment.
        TypeError: if ``env`` is of another kind, or an option has another type than its default.
        ImportError: if an environment on the host lacks a package.

    Example:
        >>> import funrl
        >>> make("ppo", funrl.envs.make("CartPole-v1"), num_envs=4, num_steps=16).steps_per_update
        64
        >>> make("ppo", "gymnasium:CartPole-v1", num_envs=4).env
        Env(gymnasium:CartPole-v1, num_envs=4, host=True)
        >>> make("pop", funrl.envs.make("CartPole-v1"))
        Traceback (most recent call last):
        ...
        ValueError: algos.make: name: no algorithm is called 'pop'; did you mean ppo?
    """
    algorithm, _ = _find(name)
    if isinstance(env, str):
        called, env = env, envs.make(env)
        if env.close is not None:
            env.close()
            env = envs.make(called, num_envs=options.get("num_envs", defaults(name).get("num_envs")))
    if not isinstance(env, Env):
        raise TypeError(
            f"algos.make: env: expected a funrl.env.Env or the name of one, got {type(env).__name__}; funrl.envs.make makes one, "
            "and funrl.envs.gymnasium.wrap makes one of gymnasium's"
        )
    if env.num_envs is not None and "num_envs" in defaults(name):
        options = {"num_envs": env.num_envs, **options}
    return algorithm(env, **options)


def _find(name: str) -> tuple[Any, Any]:
    if name in _ELSEWHERE and name not in _ALGORITHMS:
        room, config = _ELSEWHERE[name]
        module = importlib.import_module(f"funrl.{room}.{name}")
        return module.make, getattr(module, config)
    if name not in _ALGORITHMS:
        raise ValueError(f"algos.make: name: no algorithm is called {name!r}; {nearest(name, names())}")
    return _ALGORITHMS[name]
