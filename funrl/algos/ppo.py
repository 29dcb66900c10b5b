"""Proximal policy optimisation."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from funrl import nn, optim, policies, tree
from funrl.algos import _actor_critic as actor_critic, _ppo_parts as parts, on_policy
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure
from funrl.algos._ppo_parts import with_drift
from funrl.algos._state import LearnerState
from funrl.algos.images import is_vector
from funrl.env import AnyEnv, Transition
from funrl.losses import PPOBatch, explained_variance, ppo_loss
from funrl.returns import gae
from funrl.typing import Loss, Metrics

__all__ = ["PPOConfig", "make", "with_drift"]


@tree.dataclass
class PPOConfig(on_policy.ActorCriticConfig):
    """The options of :func:`make`, in addition to those of :class:`~funrl.algos.on_policy.ActorCriticConfig`.

    Attributes:
        num_epochs: passes over the T * B samples of an update.
        num_minibatches: gradient steps in a pass; divides T * B, or B if the policy is recurrent.
        recurrent: the kind of recurrent layer between the encoder and the hidden layers: ``"gru"``, ``"lstm"``, ``"min_gru"``, or
            ``"none"``. Policy and value share it, and gradients flow through it over all T steps.
        recurrent_size: hidden size of that layer.
        normalize_observation: normalise observations by their running mean and variance.
        normalize_reward: divide rewards by the running standard deviation of the discounted return.
        normalize_advantage: normalise the advantages of each minibatch to mean 0 and standard deviation 1.
        lambda_: lambda of generalized advantage estimation, in [0, 1].
        clip: epsilon of the clipped objective: the probability ratio is clipped to [1 - epsilon, 1 + epsilon].
        value_clip: the same for values: a new value is clipped to this distance from the old one; infinity: no clipping.
        target_kl: an update stops before the gradient step at which the approximate KL divergence is greater than this; infinity: it never
            stops.
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
    env: AnyEnv,
    *,
    network: nn.Net | nn.Module | policies.ActorCritic | None = None,
    optimizer: optim.Optimizer | None = None,
    loss: Loss | None = None,
    popart: nn.PopArt | None = None,
    **options: Any,
) -> Algorithm:
    r"""Make PPO for an environment with vectors, images or dicts of both as observations, and discrete or continuous actions.

    An update collects T steps of B environments, estimates advantages by GAE, and takes ``num_epochs`` times ``num_minibatches`` steps of
    Adam on :func:`funrl.losses.ppo_loss`. Continuous actions come from a normal distribution whose standard deviation does not depend on
    the observation. ``act`` returns the action clipped to the bounds of the environment. Its extras are ``unclipped_action``, which is the
    action before clipping, the ``log_prob`` of that action, and ``value``.

    The carry of a recurrent policy is reset at the start of each episode. The policy learns from whole rollouts: a minibatch consists of
    some of the B environments. ``act`` and ``greedy`` are then a :class:`funrl.policies.StatefulPolicy`, which ``funrl.rollout`` and
    ``funrl.evaluate`` accept. The extras of ``act`` have ``memory``, which ``learn`` needs.

    With a host environment, ``step`` is a Python loop that calls two compiled programs, ``act`` and ``learn``. Such a step can be neither
    compiled nor vmapped.

    Args:
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        network: a net from observations [N, ...] to features [N, F], to which a policy head and a value head are added, or a
            :class:`funrl.policies.ActorCritic`, which computes both; None: the network that the options describe.
            :func:`funrl.nn.from_module` makes a net from a torch module. With ``recurrent`` the net computes the inputs of the recurrent
            layer.
        optimizer: any :class:`funrl.optim.Optimizer`; None: Adam with the options ``learning_rate``, ``anneal_steps`` and
            ``max_grad_norm``. With an optimizer these options cannot be given, and have no effect in ``learner.hparams``.
        loss: ``loss(params, rows, hparams, *, default, apply) -> (loss, metrics)`` instead of :func:`funrl.losses.ppo_loss`.
            ``default(params, rows, hparams)`` computes the original loss, ``rows`` is a :class:`~funrl.losses.PPOBatch` whose advantages
            are normalised already (with ``normalize_advantage``), and ``apply(params, observation)`` returns the distribution and the
            value. ``metrics`` are tensors [] without gradient, among them ``approximate_kl``; they are added to the metrics of a step.
            :func:`with_drift` makes such a loss from a drift function, for example from :func:`funrl.losses.dpo_drift`.
        popart: a value head with normalised outputs for each task, from :func:`funrl.nn.popart`. Advantages are then divided by the scale
            of their task. The metric ``value_loss`` and the values in the rows of a ``loss`` are normalised, but the ``value`` of ``act``
            is not. The statistics are the entry ``popart`` of the network's parameters; weight decay would change them.
        **options: fields of :class:`PPOConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``help(funrl.algos)`` lists its metrics.

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
        Deviations: the running mean and variance of observations change once in each update, not at each environment step;
        ``target_kl`` stops before the gradient step whose KL divergence exceeds it.
    """
    config, given = configure(PPOConfig, options, network=network, optimizer=optimizer, loss=loss, popart=popart)
    return build("ppo", env, config, given)


def build(
    name: str,
    env: AnyEnv,
    config: PPOConfig,
    given: dict[str, Any],
    *,
    nets: Any = None,
    further_loss: Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]] | None = None,
    split: Callable[[Any], torch.Tensor] | None = None,
    describe: Callable[[PPOBatch], dict[str, torch.Tensor]] = lambda batch: {},
) -> Algorithm:
    """Make an algorithm that differs from PPO only in its environment or its loss; its configuration may have further options.

    Args:
        name: of the algorithm.
        env: the environment.
        config: a :class:`PPOConfig`, or an instance of a class that inherits from it.
        given: by name, the parts that the user gave instead of PPO's own, as :func:`make` takes them.
        nets: networks as :func:`funrl.algos.on_policy.networks` returns them; None: the result of that function.
        further_loss: ``further_loss(params, inputs, hparams) -> (loss, metrics)``, which is added to the loss; ``inputs`` are those of
            ``nets`` for a minibatch.
        split: ``split(inputs) -> weights [K, N]``, 1 where a row is of a task and else 0. There is then a gradient for each of the K tasks,
            and :func:`funrl.optim.pcgrad` combines them.
        describe: ``describe(batch) -> metrics``: further metrics of all rows together, before the gradient steps.

    Raises:
        ValueError: if ``further_loss`` and ``split`` are given together, as a further loss belongs to no single task.

    Example:
        >>> import funrl
        >>> build("mine", funrl.envs.make("CartPole-v1"), PPOConfig(num_envs=4, num_steps=16), {}).name
        'mine'
    """
    if split is not None and further_loss is not None:
        raise ValueError("further_loss, split: expected one of them, got both; a further loss belongs to no single task")
    network, popart = given.get("network"), given.get("popart")
    _check_config(config, env, network)
    if popart is None:
        nets = nets or on_policy.networks(config, env, network)
        evaluate = nets.both
    else:
        nets, evaluate = parts.popart_networks(config, env, network, popart)

    def normalize(learner: LearnerState, samples: Transition, hparams: PPOConfig) -> tuple[LearnerState, Transition]:
        learner, samples = parts.normalize(config, learner, samples, hparams.gamma)
        if popart is not None:
            _, (_, target) = estimate(learner.params.network, samples, hparams)
            network = parts.popart_updated(learner.params.network, popart, samples.observation, target)
            learner = learner.replace(params=learner.params.replace(network=network))
        return learner, samples

    def estimate(params: Any, samples: Transition, hparams: PPOConfig) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Return values, advantages and targets of values."""
        value, next_value = nets.values(params, samples)
        flags = (samples.terminated, samples.truncated)
        return value, gae(samples.reward, value, next_value, *flags, gamma=hparams.gamma, lambda_=hparams.lambda_)

    def prepare(params: Any, samples: Transition, hparams: PPOConfig) -> PPOBatch:
        value, (advantage, target) = estimate(params, samples, hparams)
        if popart is not None:
            state, task = params["popart"], popart.task(samples.observation)
            value, target = (popart.normalize(state, task, x) for x in (value, target))
            advantage = advantage / popart.scale(state, task)
        return PPOBatch(nets.inputs(samples), *nets.rows((samples.action, samples.extras["log_prob"], value, advantage, target)))

    spec = on_policy.Learner(
        nets.init,
        *on_policy.stochastic(nets, with_value=True),
        prepare,
        functools.partial(_loss, apply=evaluate, further_loss=further_loss),
        num_epochs=config.num_epochs,
        num_minibatches=config.num_minibatches,
        normalizers=functools.partial(parts.start_normalizers, config),
        normalize=normalize,
        stop=lambda metrics, hparams: metrics["approximate_kl"] > hparams.target_kl,
        needed=("approximate_kl",),
        describe=lambda batch: {"explained_variance": explained_variance(batch.value, batch.target), **describe(batch)},
        normalized=("advantage",) if config.normalize_advantage else (),
        extras=("log_prob",),
        split=None if split is None else lambda batch: split(batch.observation),
    )
    return on_policy.make(name, env, config, spec, given, apply=evaluate)


def _loss(
    params: Any, batch: PPOBatch, hparams: PPOConfig, weight: torch.Tensor | None = None, *, apply: Any, further_loss: Any
) -> tuple[torch.Tensor, Metrics]:
    """Compute the loss of a minibatch; ``further_loss`` as for :func:`build`."""
    weights = {"value_weight": hparams.value_weight, "entropy_weight": hparams.entropy_weight, "weight": weight}
    loss, metrics = ppo_loss(params, batch, apply=apply, clip=hparams.clip, value_clip=hparams.value_clip, **weights)
    if further_loss is None:
        return loss, metrics
    further, more = further_loss(params, batch.observation, hparams)
    return loss + further, {**metrics, **more}


def _check_config(config: PPOConfig, env: AnyEnv, network: Any) -> None:
    on_policy.check_actor_critic(config, env, network)
    actor_critic.check_recurrent(config)
    if config.normalize_observation and not is_vector(env.observation_space):
        raise ValueError(f"normalize_observation: expected vectors, but {env.name} has {env.observation_space}; set it to False")
    on_policy.check_minibatches(config)
