"""Proximal policy optimisation."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import Module

from funrl import stats, tree
from funrl.algos import _actor_critic as actor_critic, _rewards as rewards, on_policy
from funrl.algos._algorithm import Algorithm, check_range
from funrl.algos._arguments import configure
from funrl.algos._state import LearnerState
from funrl.algos.images import is_vector
from funrl.algos.on_policy import ActorCriticConfig, Learner
from funrl.env import Env, Transition
from funrl.losses import PPOBatch, explained_variance, normalize_advantage, ppo_loss
from funrl.nn import Net
from funrl.optim import Optimizer
from funrl.policies import ActorCritic
from funrl.returns import gae

__all__ = ["PPOConfig", "build", "make"]


@tree.dataclass
class PPOConfig(ActorCriticConfig):
    """The options of :func:`make`: those of :class:`~funrl.algos.on_policy.ActorCriticConfig`, and these.

    Attributes:
        num_epochs: passes over the T * B samples.
        num_minibatches: gradient steps in a pass; divides T * B, or B where the policy is recurrent.
        recurrent: ``"none"``, or the cell between observations and hidden layers, by which the policy remembers: ``"gru"``, ``"lstm"`` or
            ``"min_gru"``. It is shared by policy and value, and gradients flow through it over all T steps.
        recurrent_size: how many numbers that cell gives.
        normalize_observation: scale observations by their running moments.
        normalize_reward: divide rewards by the running standard deviation of the discounted return.
        normalize_advantage: mean 0 and standard deviation 1 in each minibatch.
        lambda_: of generalized advantage estimation, in [0, 1].
        clip: how far the probability ratio may go from 1.
        value_clip: how far a value may go from the old one; infinity: no clipping.
        target_kl: an update stops learning once its approximate KL divergence is greater; infinity: never.
    """

    num_envs: int = tree.static(default=64)
    num_steps: int = tree.static(default=128)
    num_epochs: int = tree.static(default=4)
    num_minibatches: int = tree.static(default=4)
    recurrent: str = tree.static(default="none")
    recurrent_size: int = tree.static(default=64)
    normalize_observation: bool = tree.static(default=False)
    normalize_reward: bool = tree.static(default=False)
    normalize_advantage: bool = tree.static(default=True)
    lambda_: Any = 0.95
    clip: Any = 0.2
    value_clip: Any = math.inf
    target_kl: Any = math.inf


def make(
    env: Env,
    *,
    network: Net | Module | ActorCritic | None = None,
    optimizer: Optimizer | None = None,
    loss: Callable[..., Any] | None = None,
    **options: Any,
) -> Algorithm:
    r"""Make PPO for an environment with vectors, images or dicts of both as observations, and discrete or continuous actions.

    An update rolls out T steps of B environments, estimates advantages by GAE, and takes ``num_epochs`` times
    ``num_minibatches`` steps of Adam on :func:`funrl.losses.ppo_loss`. Continuous actions come from a normal
    distribution whose deviation does not depend on the observation; they are clipped for the environment alone (``act``
    returns the clipped action, and in its extras ``unclipped_action``, to which ``log_prob`` belongs, and ``value``).

    A recurrent policy (:func:`funrl.algos._actor_critic.make_recurrent`) begins again with each episode, and learns from whole
    environments: a minibatch is some of the B rollouts. ``act`` and ``greedy`` are then a :class:`funrl.policies.StatefulPolicy`, which
    ``funrl.rollout`` and ``funrl.evaluate`` take as they are; ``act`` has in its extras ``memory``, which ``learn`` needs.

    In an environment on the host, which is batched, a step is no program but a loop of Python around two: ``act`` and ``learn``. It can
    then be neither compiled nor vmapped.

    Args:
        env: a pure environment, or a batched one of ``num_envs`` copies, which may run on the host.
        network: a net from observations [N, ...] to features [N, F], on which policy and value have a head each, or a
            :class:`funrl.policies.ActorCritic`, which is both; None: as the configuration says. A torch module comes in by
            :func:`funrl.nn.from_module`. With ``recurrent`` the net gives what the cell takes.
        optimizer: any :class:`funrl.optim.Optimizer`, which takes the place of ``learning_rate``, ``anneal_steps`` and ``max_grad_norm``,
            in ``learner.hparams`` too; None: Adam with these.
        loss: ``loss(params, rows, hparams, *, default, apply) -> (loss, metrics)`` in the place of :func:`funrl.losses.ppo_loss`, which is
            ``default(params, rows, hparams)``; ``rows`` are a :class:`~funrl.losses.PPOBatch`, and ``apply(params, observation)`` gives
            the distribution and the value. Its metrics, tensors [] without gradient, are among those of a step; ``approximate_kl`` has
            to be among them.
        **options: fields of :class:`PPOConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; its metrics are ``steps``, ``episode_return`` (also ``_min`` and ``_max``),
        ``episode_length``, ``episodes``, ``policy_loss``, ``value_loss``,
        ``entropy``, ``approximate_kl``, ``clip_fraction``, ``explained_variance``, ``learning_rate``, ``gradient_norm`` (the means over
        minibatches), and ``learned_fraction``, the share of minibatches before ``target_kl`` was exceeded.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import torch, funrl
        >>> algo = make(funrl.envs.make("CartPole-v1"), num_envs=4, num_steps=16)
        >>> key = funrl.random.key(0)
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(key))
        >>> metrics["steps"]
        tensor(64)

    Reference: J. Schulman, F. Wolski, P. Dhariwal, A. Radford, O. Klimov, "Proximal Policy Optimization Algorithms", 2017,
        arXiv:1707.06347; details as in S. Huang et al., "The 37 Implementation Details of Proximal Policy Optimization", 2022.
        Deviations: observation moments are updated between updates and not at each step; ``target_kl`` stops before the step
        whose KL divergence exceeds it.
    """
    config, given = configure(PPOConfig, options, network=network, optimizer=optimizer, loss=loss)
    return build("ppo", env, config, given)


def build(
    name: str,
    env: Env,
    config: PPOConfig,
    given: dict[str, Any],
    *,
    nets: Any = None,
    further_loss: Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]] | None = None,
) -> Algorithm:
    """Make PPO of a configuration that may have further options, for algorithms that are PPO in an environment of their own.

    Args:
        name: of the algorithm.
        env: the environment.
        config: a :class:`PPOConfig`, or an instance of a class that inherits from it.
        given: the parts that the user gave in the place of its own, by name, as :func:`make` takes them.
        nets: networks of the form of :func:`funrl.algos.on_policy.networks`; None: those.
        further_loss: ``further_loss(params, inputs, hparams) -> (loss, metrics)``, which is added to the loss; ``inputs`` are those of
            ``nets`` for a minibatch.

    Example:
        >>> import funrl
        >>> build("mine", funrl.envs.make("CartPole-v1"), PPOConfig(num_envs=4, num_steps=16), {}).name
        'mine'
    """
    network = given.get("network")
    _check(config, env, network)
    nets = nets or on_policy.networks(config, env, network)

    def normalizers(observation: torch.Tensor, reward: torch.Tensor) -> tuple[Any, Any]:
        moments = stats.moments(observation) if config.normalize_observation else ()
        return moments, rewards.start(reward) if config.normalize_reward else ()

    def normalize(learner: LearnerState, samples: Transition) -> tuple[LearnerState, Transition]:
        params, seen = learner.params, samples.observation
        if config.normalize_observation:
            observation, successor = (actor_critic.normalized(params, x) for x in (seen, samples.next_observation))
            samples = samples.replace(observation=observation, next_observation=successor)
            learner = learner.replace(params=params.replace(observation=stats.update(params.observation, seen)))
        if config.normalize_reward:
            scale, reward = rewards.scale(learner.normalizers, samples, learner.hparams.gamma)
            learner, samples = learner.replace(normalizers=scale), samples.replace(reward=reward)
        return learner, samples

    def prepare(params: Any, samples: Transition, hparams: PPOConfig) -> PPOBatch:
        value, next_value = nets.values(params, samples)
        advantage, target = gae(
            samples.reward, value, next_value, samples.terminated, samples.truncated, gamma=hparams.gamma, lambda_=hparams.lambda_
        )
        return PPOBatch(nets.inputs(samples), *nets.rows((samples.action, samples.extras["log_prob"], value, advantage, target)))

    def own_loss(params: Any, batch: PPOBatch, hparams: PPOConfig) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if config.normalize_advantage:
            batch = batch.replace(advantage=normalize_advantage(batch.advantage))
        weights = {"value_weight": hparams.value_weight, "entropy_weight": hparams.entropy_weight}
        loss, metrics = ppo_loss(params, batch, apply=nets.both, clip=hparams.clip, value_clip=hparams.value_clip, **weights)
        if further_loss is None:
            return loss, metrics
        further, more = further_loss(params, batch.observation, hparams)
        return loss + further, {**metrics, **more}

    spec = Learner(
        nets.init,
        *on_policy.stochastic(nets, with_value=True),
        prepare,
        own_loss,
        num_epochs=config.num_epochs,
        num_minibatches=config.num_minibatches,
        normalizers=normalizers,
        normalize=normalize,
        stop=lambda metrics, hparams: metrics["approximate_kl"] > hparams.target_kl,
        needed=("approximate_kl",),
        describe=lambda batch: {"explained_variance": explained_variance(batch.value, batch.target)},
        extras=("log_prob",),
    )
    return on_policy.make(name, env, config, spec, given, apply=nets.both)


def _check(config: PPOConfig, env: Env, network: Any) -> None:
    on_policy.check_actor_critic(config, env, network)
    check_range(config, ("num_epochs", "num_minibatches"), 1)
    check_range(config, ("clip",), 0)
    check_range(config, ("value_clip",), 0, infinite=True)
    check_range(config, ("target_kl",), 0, open_low=True, infinite=True)
    check_range(config, ("lambda_",), 0, 1)
    actor_critic.check_recurrent(config)
    if config.normalize_observation and not is_vector(env.observation_space):
        raise ValueError(f"normalize_observation: is for vectors, but {env.name} has {env.observation_space}; leave it off")
    on_policy.check_minibatches(config)
