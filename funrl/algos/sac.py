"""Soft actor-critic."""

from typing import Any

import torch

from funrl import tree
from funrl.algos import off_policy
from funrl.algos.algorithm import Algorithm, check_range
from funrl.algos.arguments import configure
from funrl.algos.networks import q_ensemble, stochastic_actor, target_entropy
from funrl.algos.off_policy import Learned, Learner, apply_gradients, start_optimizer
from funrl.algos.off_policy_actors import SoftConfig, init_soft_actor_critic, soft_policy
from funrl.env import Env, Transition
from funrl.losses import SoftActorCritic, sac_loss, soft_update
from funrl.optim import Optimizer

__all__ = ["SACConfig", "make"]


@tree.dataclass
class SACConfig(SoftConfig):
    """The options of :func:`make`: those of :class:`~funrl.algos.off_policy_actors.SoftConfig`."""


def make(env: Env, *, optimizer: Optimizer | None = None, **options: Any) -> Algorithm:
    """Make SAC for continuous actions: two critics, their targets, and a temperature that is learned.

    A gradient step moves actor, critics and temperature at once, each by the gradient of its own loss (:func:`funrl.losses.sac_loss`).

    Args:
        env: a pure environment, or a batched one of ``num_envs`` copies, which may run on the host.
        optimizer: any :class:`funrl.optim.Optimizer`; None: Adam with ``learning_rate`` and ``anneal_steps``.
        **options: fields of :class:`SACConfig`.

    Returns:
        An :class:`~funrl.algos.algorithm.Algorithm`; ``state.learner.params.network`` is a :class:`~funrl.losses.SoftActorCritic`, and
        its metrics are those of the episodes and of the loss.

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
    config, given = configure(SACConfig, options, optimizer=optimizer)
    off_policy.check("SAC", env, config, discrete=False)
    check_range(config, ("initial_alpha",), 0, open_low=True)
    check_range(config, ("entropy_share",), 0)
    check_range(config, ("tau",), 0, 1)
    space = env.action_space
    actor = stochastic_actor(config.num_cells, space, config.activation)
    critic = q_ensemble(2, config.num_cells, config.activation)

    def init(key: torch.Tensor, observation: torch.Tensor) -> tuple[SoftActorCritic, Any, Any]:
        network = init_soft_actor_critic(key, actor, critic, observation, space, config.initial_alpha)
        return network, tree.map(torch.clone, network.critic), start_optimizer(optimizer, network)

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: SACConfig) -> Any:
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
        learned = apply_gradients(learned, gradient, hparams.learning_rate, optimizer)
        return learned.replace(target=soft_update(learned.network.critic, learned.target, tau=hparams.tau)), metrics

    spec = Learner(init, learn, *soft_policy(actor))
    return off_policy.make("sac", env, config, spec, given)
