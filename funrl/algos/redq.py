"""Randomized ensembled double Q-learning."""

import dataclasses
from typing import Any

import torch

from funrl import buffers
from funrl.algos import off_policy
from funrl.algos.algorithm import Algorithm, check_range, make_config
from funrl.algos.networks import q_ensemble, stochastic_actor
from funrl.algos.off_policy import Learner, Stage
from funrl.algos.sac import SACConfig, SACHparams, soft_policy
from funrl.env import Env, Transition
from funrl.losses import SoftActorCritic, redq_actor_loss, redq_critic_loss, temperature_loss

__all__ = ["REDQConfig", "make"]


@dataclasses.dataclass(frozen=True)
class REDQConfig(SACConfig):
    """The options of :func:`make`: those of :class:`~funrl.algos.sac.SACConfig`, and these.

    Attributes:
        num_critics: N, critics in the ensemble.
        subset: M, how many of them, drawn anew for each gradient step, a target is the least of; at most N.
        policy_delay: gradient steps of the critics to each one of actor and temperature; divides ``num_updates``.
    """

    num_updates: int = 640
    num_critics: int = 10
    subset: int = 2
    policy_delay: int = 20


def make(env: Env, **options: Any) -> Algorithm:
    """Make REDQ: SAC with an ensemble of critics, so many gradient steps to an environment step, and an actor that moves less often.

    Args:
        env: a pure environment, or a batched one of ``num_envs`` copies, which may run on the host.
        **options: fields of :class:`REDQConfig`.

    Returns:
        An :class:`~funrl.algos.algorithm.Algorithm`; its state is an :class:`~funrl.algos.off_policy.OffPolicyState` whose
        ``params.network`` is a :class:`~funrl.losses.SoftActorCritic`, and its metrics are those of the episodes and of the losses.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(
        ...     funrl.envs.make("Pendulum-v1"), num_steps=4, num_updates=4, policy_delay=2, batch_size=8, num_cells=(8,), num_critics=3
        ... )
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> state.target[0]["weight"].shape
        torch.Size([3, 8, 4])

    Reference: X. Chen, C. Wang, Z. Zhou, K. Ross, "Randomized Ensembled Double Q-Learning: Learning Fast Without a Model", 2021,
        arXiv:2101.05982, algorithm 1.
    """
    config = make_config(REDQConfig, options)
    off_policy.check("REDQ", env, config, discrete=False)
    check_range(config, ("num_critics", "subset", "policy_delay"), 1)
    check_range(config, ("initial_alpha",), 0, open_low=True)
    check_range(config, ("entropy_share",), 0)
    check_range(config, ("tau",), 0, 1)
    if config.subset > config.num_critics:
        raise ValueError(f"subset: expected at most the {config.num_critics} critics of num_critics, got {config.subset}")
    space = env.action_space
    actor = stochastic_actor(config.num_cells, space, config.activation)
    critic = q_ensemble(config.num_critics, config.num_cells, config.activation)
    networks = {"actor": actor.apply, "critic": critic.apply}

    def init(key: torch.Tensor, observation: torch.Tensor) -> SoftActorCritic:
        return off_policy.init_soft_actor_critic(key, actor, critic, observation, space, config.initial_alpha)

    def critic_loss(
        network: SoftActorCritic,
        target: Any,
        key: torch.Tensor,
        batch: Transition,
        gamma: torch.Tensor,
        weight: torch.Tensor,
        hparams: SACHparams,
    ) -> Any:
        options = {"gamma": gamma, "subset": config.subset, "weight": weight, **networks}
        return redq_critic_loss(network.critic, network, target, key, batch, **options)

    def actor_loss(
        network: SoftActorCritic,
        target: Any,
        key: torch.Tensor,
        batch: Transition,
        gamma: torch.Tensor,
        weight: torch.Tensor,
        hparams: SACHparams,
    ) -> Any:
        loss, metrics = redq_actor_loss(network.actor, network, key, batch, weight=weight, **networks)
        target_entropy = -hparams.entropy_share * space.shape[0]
        further, said = temperature_loss(network.log_alpha, metrics.pop("log_prob"), target_entropy=target_entropy, weight=weight)
        return loss + further, {**metrics, **said}

    often = Stage(((("critic",), critic_loss),), off_policy.soft)
    rarely = Stage(((("actor", "log_alpha"), actor_loss),), None)
    learner = Learner(SACHparams, init, lambda network: network.critic, often, *soft_policy(actor), rarely, config.policy_delay)
    return off_policy.make("redq", env, config, learner, buffers.uniform(config.buffer_size))
