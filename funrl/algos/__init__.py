"""Learners: each ``make(env, **config)`` returns an :class:`Algorithm` of pure functions; :func:`make` finds them by name."""

import dataclasses
from typing import Any

from funrl import envs
from funrl.algos import a2c, ars, cma_es, crossq, ddpg, dqn, impala, openes, pgpe, ppo, pqn, redq, reinforce, sac, sac_discrete, snes, td3
from funrl.algos.algorithm import Algorithm, check, collecting, make_config, make_hparams
from funrl.algos.state import ActorParams, LearnerState, State
from funrl.env import Env
from funrl.names import nearest

__all__ = [
    "ActorParams",
    "Algorithm",
    "LearnerState",
    "State",
    "a2c",
    "ars",
    "check",
    "cma_es",
    "collecting",
    "crossq",
    "ddpg",
    "defaults",
    "dqn",
    "impala",
    "make",
    "make_config",
    "make_hparams",
    "names",
    "openes",
    "pgpe",
    "ppo",
    "pqn",
    "redq",
    "reinforce",
    "sac",
    "sac_discrete",
    "snes",
    "td3",
]

_ALGORITHMS = {
    "a2c": (a2c.make, a2c.A2CConfig),
    "ars": (ars.make, ars.ARSConfig),
    "cma_es": (cma_es.make, cma_es.CMAESConfig),
    "crossq": (crossq.make, crossq.CrossQConfig),
    "ddpg": (ddpg.make, ddpg.DDPGConfig),
    "dqn": (dqn.make, dqn.DQNConfig),
    "impala": (impala.make, impala.ImpalaConfig),
    "openes": (openes.make, openes.OpenESConfig),
    "pgpe": (pgpe.make, pgpe.PGPEConfig),
    "ppo": (ppo.make, ppo.PPOConfig),
    "pqn": (pqn.make, pqn.PQNConfig),
    "redq": (redq.make, redq.REDQConfig),
    "reinforce": (reinforce.make, reinforce.ReinforceConfig),
    "sac": (sac.make, sac.SACConfig),
    "sac_discrete": (sac_discrete.make, sac_discrete.SACDiscreteConfig),
    "snes": (snes.make, snes.SNESConfig),
    "td3": (td3.make, td3.TD3Config),
}


def names() -> list[str]:
    """Return the names that :func:`make` knows.

    Example:
        >>> names()
        ['a2c', 'ars', 'cma_es', 'crossq', ..., 'sac_discrete', 'snes', 'td3']
    """
    return list(_ALGORITHMS)


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
    if name not in _ALGORITHMS:
        raise ValueError(f"algos.make: name: no algorithm is called {name!r}; {nearest(name, _ALGORITHMS)}")
    return _ALGORITHMS[name]
