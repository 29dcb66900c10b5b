"""Soft actor-critic."""

import dataclasses
from typing import Any

import torch

from funrl import buffers, nn, tree
from funrl.algos import off_policy
from funrl.algos.algorithm import Algorithm, check_range, make_config
from funrl.algos.networks import q_ensemble, stochastic_actor, target_entropy
from funrl.algos.off_policy import Acting, Learned, Learner, OffPolicyConfig
from funrl.env import Env, Transition
from funrl.losses import SoftActorCritic, sac_loss, soft_update, temperature_loss
from funrl.spaces import Box

__all__ = ["SACConfig", "SACHparams", "descend_with_temperature", "make", "soft_policy"]


@dataclasses.dataclass(frozen=True)
class SACConfig(OffPolicyConfig):
    """The options of :func:`make`: those of :class:`~funrl.algos.off_policy.OffPolicyConfig`, and these.

    Attributes:
        initial_alpha: the first temperature, above 0.
        tau: how far the target critics follow at each gradient step, in [0, 1].
        entropy_share: the temperature aims at an entropy of -``entropy_share`` for each action dimension, where their box is
            stretched to [-1, 1].
    """

    initial_alpha: float = 1.0
    tau: float = 0.005
    entropy_share: float = 1.0


@tree.dataclass
class SACHparams:
    """Hyperparameters, each floating point []: the floats of :class:`SACConfig`, but ``initial_alpha``."""

    learning_rate: torch.Tensor
    anneal_steps: torch.Tensor
    gamma: torch.Tensor
    tau: torch.Tensor
    entropy_share: torch.Tensor


def make(env: Env, **options: Any) -> Algorithm:
    """Make SAC for continuous actions: two critics, their targets, and a temperature that is learned.

    A gradient step moves actor, critics and temperature at once, each by the gradient of its own loss (:func:`funrl.losses.sac_loss`).

    Args:
        env: a pure environment, or a batched one of ``num_envs`` copies, which may run on the host.
        **options: fields of :class:`SACConfig`.

    Returns:
        An :class:`~funrl.algos.algorithm.Algorithm`; its state is an :class:`~funrl.algos.off_policy.OffPolicyState` whose
        ``params.network`` is a :class:`~funrl.losses.SoftActorCritic`, and its metrics are those of the episodes and of the loss.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("Pendulum-v1"), num_steps=4, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"], metrics["updates"]  # none before learning_starts
        (tensor(4), tensor(0))

    Reference: T. Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018, arXiv:1812.05905.
    """
    config = make_config(SACConfig, options)
    off_policy.check("SAC", env, config, discrete=False)
    check_range(config, ("initial_alpha",), 0, open_low=True)
    check_range(config, ("entropy_share",), 0)
    check_range(config, ("tau",), 0, 1)
    space = env.action_space
    actor = stochastic_actor(config.num_cells, space, config.activation)
    critic = q_ensemble(2, config.num_cells, config.activation)

    def init(key: torch.Tensor, observation: torch.Tensor) -> tuple[SoftActorCritic, Any, Any]:
        network = off_policy.init_soft_actor_critic(key, actor, critic, observation, space, config.initial_alpha)
        return network, tree.map(torch.clone, network.critic), off_policy.start_adam(network)

    def learn(
        key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: SACHparams
    ) -> Any:
        gradient, (_, metrics) = torch.func.grad_and_value(sac_loss, has_aux=True)(
            learned.network,
            learned.target,
            key,
            batch,
            actor=actor.apply,
            critic=critic.apply,
            gamma=gamma,
            target_entropy=target_entropy(space, hparams.entropy_share),
            weight=weight,
        )
        learned = off_policy.descend(learned, gradient, hparams.learning_rate)
        return learned.replace(target=soft_update(learned.network.critic, learned.target, tau=hparams.tau)), metrics

    learner = Learner(SACHparams, init, learn, *soft_policy(actor))
    return off_policy.make("sac", env, config, learner, buffers.uniform(config.buffer_size))


def descend_with_temperature(
    learned: Learned, gradient: Any, metrics: dict[str, torch.Tensor], weight: torch.Tensor, hparams: Any, space: Box
) -> tuple[Learned, dict[str, torch.Tensor]]:
    """Return what is learned after a step of the actor by its ``gradient`` and one of the temperature, each with Adam of its own.

    Args:
        learned: its optimiser has a state each for ``actor`` and ``log_alpha``.
        gradient: of the actor's loss, like ``learned.network.actor``.
        metrics: of that loss, with ``log_prob`` [N].
        weight: of its samples, floating point [N].
        hparams: has ``learning_rate`` and ``entropy_share``.
        space: that of the actions.

    Returns:
        What is learned, and the metrics of both losses.

    Example:
        >>> from funrl.algos import off_policy
        >>> network = SoftActorCritic(torch.zeros(1), (), torch.tensor(0.0))
        >>> learned = Learned(network, (), off_policy.start_adam(network, "actor", "log_alpha"), torch.tensor(0))
        >>> hparams = SACHparams(*(torch.tensor(x) for x in (0.1, torch.inf, 0.99, 0.005, 1.0)))
        >>> metrics = {"log_prob": torch.zeros(4)}  # of entropy 0, where -1 is wanted
        >>> learned, _ = descend_with_temperature(learned, torch.ones(1), metrics, torch.ones(4), hparams, Box(-1.0, 1.0, (1,)))
        >>> learned.network.actor, learned.network.log_alpha
        (tensor([-0.1000]), tensor(-0.1000))
    """
    log_alpha, log_prob = learned.network.log_alpha, metrics.pop("log_prob")
    learned = off_policy.descend(learned, gradient, hparams.learning_rate, part="actor")
    gradient, (_, further) = torch.func.grad_and_value(temperature_loss, has_aux=True)(
        log_alpha, log_prob, target_entropy=target_entropy(space, hparams.entropy_share), weight=weight
    )
    return off_policy.descend(learned, gradient, hparams.learning_rate, part="log_alpha"), {**metrics, **further}


def soft_policy(actor: nn.Net) -> tuple[Any, Any, Any]:
    """Return ``sample``, ``greedy`` and ``schedule`` of a :class:`~funrl.algos.off_policy.Learner` that explores by its own randomness.

    Example:
        >>> from funrl import random, spaces
        >>> from funrl.losses import SoftActorCritic
        >>> actor = stochastic_actor((8,), spaces.Box(-2.0, 2.0, (1,)), "relu")
        >>> zero = torch.tensor(0.0)
        >>> acting = Acting(SoftActorCritic(actor.init(random.key(0), torch.zeros(3)), (), zero), zero, ())
        >>> _, greedy, _ = soft_policy(actor)
        >>> greedy(acting, random.key(1), torch.zeros(3))
        tensor([0.])
    """

    def sample(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        return actor.apply(params.network.actor, observation).sample(key)

    def greedy(params: Acting, key: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
        return actor.apply(params.network.actor, observation).mode()

    def schedule(hparams: Any, num_steps: torch.Tensor) -> tuple[torch.Tensor, Any]:
        return torch.zeros_like(hparams.gamma), ()

    return sample, greedy, schedule
