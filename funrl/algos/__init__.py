"""Learners: each ``make(env, **config)`` returns an :class:`Algorithm` of pure functions; :func:`make` finds them by name.

A step returns metrics, a dict of tensors []. They are means over the gradient steps of an update, unless the table says otherwise. A
loss of the user's own adds its metrics to them, and a collector adds ``staleness``, the age of the parameters that acted.

Returns of episodes in these metrics differ from those of ``funrl.evaluate``. The policy explores, and in a given number of steps short
episodes end more often than long ones, so that they count for more: a copy that finds the goal of a maze in 10 steps adds ten episodes
while another adds a single one that fails. Levels of ``plr`` moreover are those in which there is most to learn. ``evaluate`` plays a
number of episodes in each copy that is fixed in advance, and ``algo.greedy`` does not explore.

Metrics of every algorithm:

    steps               environment steps of the agent so far
    episode_return      mean return, without discount, of the episodes that ended in the last update with any; NaN before the first
    episode_return_min  smallest return of these episodes
    episode_return_max  largest return of these episodes
    episode_length      mean length of these episodes, in steps
    episodes            number of episodes that ended in this update

Metrics of a2c, apg, crossq, ddpg, dqn, feudal, impala, maml, multi_task, option_critic, plr, ppo, pqn, redq, reinforce, rl2, sac,
sac_discrete, shac, td3, varibad:

    learning_rate       learning rate of this update; missing with an optimizer of the user's own

Metrics of a2c, apg, impala, maml, meta_a2c, multi_task, option_critic, plr, ppo, pqn, reinforce, rl2, shac, varibad:

    gradient_norm       norm of the gradient before it is clipped

Metrics of a2c, apg, impala, maml, meta_a2c, multi_task, option_critic, plr, ppo, reinforce, rl2, shac, varibad:

    policy_loss         loss of the policy, without the entropy bonus

Metrics of a2c, impala, meta_a2c, multi_task, option_critic, plr, ppo, reinforce, rl2, shac, varibad:

    value_loss          loss of the state values V(s), before ``value_weight``; missing in reinforce without a baseline

Metrics of a2c, impala, meta_a2c, multi_task, option_critic, plr, ppo, reinforce, rl2, varibad:

    entropy             mean entropy of the policy

Metrics of feudal:

    manager_critic_loss loss of the values of goals
    manager_q_mean      mean of the values of goals
    manager_td_error    mean of their errors
    worker_critic_loss  loss of the values of actions towards a goal
    worker_q_mean       mean of these values
    worker_td_error     mean of their errors
    reached             share of the steps that reach their goal
    updates             gradient steps of each level so far

Metrics of option_critic:

    termination         mean probability that an option terminates after a step
    termination_loss    loss of the terminations, before ``termination_weight``

Metrics of multi_task, plr, ppo, rl2, varibad:

    approximate_kl      estimate of the divergence KL(old policy || new policy) on the samples
    clip_fraction       fraction of the samples whose probability ratio is outside [1 - ``clip``, 1 + ``clip``]
    explained_variance  fraction of the targets' variance that the values explain: 1 is perfect
    learned_fraction    fraction of the gradient steps that were taken before ``target_kl`` was exceeded

Metrics of shac:

    value_mean          mean of the state values V(s)

Metrics of maml:

    return_before       mean return before the inner steps
    return_after        mean return after the inner steps
    step_size           mean step size of the inner steps

Metrics of meta_a2c:

    meta_loss           loss whose gradient moves the learned hyperparameters
    gamma               discount of this update
    lambda_             lambda of this update
    entropy_weight      weight of the entropy in this update
    gamma_gradient      gradient of the meta loss by the discount; like the next two, only if it is learned
    lambda_gradient     gradient of the meta loss by lambda
    entropy_weight_gradient     gradient of the meta loss by the weight of the entropy

Metrics of multi_task:

    episode_return_task_0   running mean of the returns in the first task; NaN before its first episode
    episode_return_task_1   the same in the second; the others are ``episode_return_task_2``, ``episode_return_task_3``, ...

Metrics of plr:

    level_score         mean score of the levels of this update: what there is to learn in them
    replayed_fraction   fraction of these levels that came from the buffer
    num_levels          number of levels in the buffer

Metrics of varibad:

    belief_kl           divergence KL(belief || previous belief) of the latent task
    reward_error        mean squared error of the predicted rewards

Metrics of ars, cma_es, openes, pgpe, snes:

    fitness_mean        mean fitness of the candidates of a generation
    fitness_max         largest fitness
    fitness_min         smallest fitness

Metrics of reinforce:

    learned_fraction    fraction of the environment steps that the loss uses

Metrics of impala:

    importance_ratio    mean ratio of the probabilities of the actions, learned policy over acting policy

Metrics of crossq, ddpg, dqn, pqn, redq, sac, sac_discrete, td3:

    critic_loss         loss of the action values Q(s, a)
    q_mean              mean of Q(s, a)

Metrics of crossq, ddpg, dqn, redq, sac, sac_discrete, td3:

    q_max               maximum of Q(s, a)
    target_mean         mean of the targets of Q(s, a)
    target_max          maximum of the targets of Q(s, a)
    td_error            mean of |target - Q(s, a)|; with ``c51`` the divergence KL(target || prediction)
    updates             gradient steps so far

Metrics of crossq, ddpg, redq, sac, sac_discrete, td3:

    actor_loss          loss of the actor

Metrics of crossq, redq, sac, sac_discrete:

    entropy             mean entropy of the policy; an estimate from samples for continuous actions
    temperature         weight alpha of the entropy in the objective
    temperature_loss    loss of the temperature
"""

import dataclasses
import importlib
from typing import Any

from funrl import _check
from funrl.algos import (
    a2c,
    apg,
    ars,
    cma_es,
    crossq,
    ddpg,
    dqn,
    episodes,
    images,
    impala,
    off_policy,
    on_policy,
    openes,
    option_critic,
    pgpe,
    ppo,
    pqn,
    redq,
    reinforce,
    sac,
    sac_discrete,
    shac,
    snes,
    td3,
)
from funrl.algos._algorithm import (
    Algorithm,
    Rollouts as Rollouts,
    annealed as annealed,
    check,
    collecting as collecting,
    environment as environment,
    in_dtype_of as in_dtype_of,
    make_hparams,
    receiving as receiving,
    start_state as start_state,
)
from funrl.algos._arguments import configure as configure, make_config
from funrl.algos._evolutionary import EvolutionConfig
from funrl.algos._networks import (
    batchwise as batchwise,
    deterministic_actor as deterministic_actor,
    half_width as half_width,
    stochastic_actor as stochastic_actor,
    target_entropy as target_entropy,
)
from funrl.algos._off_policy_parts import (
    SoftConfig,
    actor_and_critics as actor_and_critics,
    init_actor_critic as init_actor_critic,
    init_soft_actor_critic as init_soft_actor_critic,
    minimize as minimize,
    minimize_with_temperature as minimize_with_temperature,
    soft_policy as soft_policy,
    start_optimizer as start_optimizer,
)
from funrl.algos._rewards import scale_rewards as scale_rewards
from funrl.algos._state import ActorParams, Learned as Learned, LearnerState, State
from funrl.env import AnyEnv, Env, VectorEnv

__all__ = [
    "ActorParams",
    "Algorithm",
    "EvolutionConfig",
    "LearnerState",
    "SoftConfig",
    "State",
    "a2c",
    "apg",
    "ars",
    "check",
    "cma_es",
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
    "openes",
    "option_critic",
    "pgpe",
    "ppo",
    "pqn",
    "redq",
    "reinforce",
    "sac",
    "sac_discrete",
    "shac",
    "snes",
    "td3",
]


def _of(module: Any) -> tuple[Any, Any]:
    """Return ``make`` of the module of an algorithm, and its configuration, the first of the module's public names."""
    return module.make, getattr(module, module.__all__[0])


_ALGORITHMS = {
    module.__name__.rsplit(".", 1)[-1]: _of(module)
    for module in (
        *(a2c, apg, ars, cma_es, crossq, ddpg, dqn, impala, openes, option_critic),
        *(pgpe, ppo, pqn, redq, reinforce, sac, sac_discrete, shac, snes, td3),
    )
}
# Those of the room meta, which are imported at their first use.
_META = ("feudal", "maml", "meta_a2c", "multi_task", "plr", "rl2", "varibad")


def names() -> list[str]:
    """Return the names that :func:`make` knows.

    Example:
        >>> names()
        ['a2c', 'apg', 'ars', 'cma_es', 'crossq', ..., 'sac_discrete', 'shac', 'snes', 'td3', 'varibad']
    """
    return sorted({*_ALGORITHMS, *_META})


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


def make(name: str, env: AnyEnv | str, **options: Any) -> Algorithm:
    """Make the algorithm called ``name`` for an environment.

    Args:
        name: one of :func:`names`.
        env: the environment to learn in, or its name for :func:`funrl.envs.make`; a host environment then has ``num_envs`` copies.
        **options: fields of its configuration; :func:`defaults` lists them, and the help of the configuration class explains them, such as
            ``help(funrl.algos.sac.SACConfig)``. For a VectorEnv ``num_envs`` is its own by default. Parts of your
            own, such as ``network``, ``optimizer``, ``buffer`` or ``loss``, are also options: see ``help(funrl.algos.sac.make)``.

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
        VectorEnv(gymnasium:CartPole-v1, num_envs=4, host=True)
        >>> make("pop", funrl.envs.make("CartPole-v1"))
        Traceback (most recent call last):
        ...
        ValueError: algos.make: name: no algorithm is called 'pop'; did you mean ppo?
    """
    algorithm, _ = _find(name)
    env = environment(env, options.get("num_envs", defaults(name)["num_envs"]))
    remedy = "funrl.envs.make makes one, and funrl.envs.gymnasium.wrap makes one of gymnasium's"
    _check.instance("algos.make: env", env, (Env, VectorEnv), remedy, "a funrl.env.Env or VectorEnv, or the name of one")
    if isinstance(env, VectorEnv):
        options = {"num_envs": env.num_envs, **options}
    return algorithm(env, **options)


def _find(name: str) -> tuple[Any, Any]:
    if name in _ALGORITHMS:
        return _ALGORITHMS[name]
    if name in _META:
        return _of(importlib.import_module(f"funrl.meta.{name}"))
    raise ValueError(f"algos.make: name: no algorithm is called {name!r}; {_check.nearest(name, names())}")
