"""Randomized ensembled double Q-learning."""

from typing import Any

import torch

from funrl import _check, buffers, nn, optim, schedules, tree
from funrl.algos import off_policy
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure, with_default
from funrl.algos._networks import observations, stochastic_actor
from funrl.algos._off_policy_parts import (
    SoftConfig,
    actor_and_critics,
    init_soft_actor_critic,
    minimize,
    minimize_with_temperature,
    soft_policy,
    start_optimizer,
)
from funrl.algos._state import Learned
from funrl.env import AnyEnv, Transition
from funrl.losses import SoftActorCritic, redq_actor_loss, redq_critic_loss
from funrl.typing import Loss, Metrics

__all__ = ["REDQConfig", "make"]


@tree.dataclass
class REDQConfig(SoftConfig):
    """The options of :func:`make`, in addition to those of :class:`~funrl.algos.SoftConfig`.

    Attributes:
        num_critics: N, number of critics in the ensemble.
        subset: M, at most N: a target is the minimum over M critics, which are drawn without replacement for each gradient step.
        policy_delay: gradient steps of the critics for each gradient step of actor and temperature; divides ``num_updates``.
    """

    num_updates: int = tree.static(default=640)
    num_critics: int = tree.static(default=10)
    subset: int = tree.static(default=2)
    policy_delay: int = tree.static(default=20)


def make(
    env: AnyEnv,
    *,
    actor: nn.OwnNet = None,
    critic: nn.OwnNet = None,
    optimizer: optim.Optimizer | None = None,
    buffer: buffers.Buffer | None = None,
    exploration: schedules.Schedule | None = None,
    critic_loss: Loss | None = None,
    actor_loss: Loss | None = None,
    **options: Any,
) -> Algorithm:
    """Make REDQ: SAC with an ensemble of critics, many gradient steps for each environment step, and an actor with fewer updates.

    Args:
        env, actor, critic, optimizer, buffer, exploration: as for :func:`funrl.algos.sac.make`.
        critic_loss: ``critic_loss(*args, default, **options) -> (loss, metrics)`` instead of :func:`funrl.losses.redq_critic_loss`.
            ``default(*args, **options)`` computes the original loss. Its metrics, tensors [] without gradient, are added to those of a
            step; one of them must be ``td_error`` [N].
        actor_loss: the same instead of :func:`funrl.losses.redq_actor_loss`; ``log_prob`` [N] must be one of its metrics.
        **options: fields of :class:`REDQConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`, in which ``state.learner.params.network`` is a :class:`~funrl.losses.SoftActorCritic`;
        ``help(funrl.algos)`` lists its metrics.

    Raises:
        ValueError, TypeError: as for :func:`funrl.algos.sac.make`.

    Example:
        >>> import funrl
        >>> algo = make(
        ...     funrl.envs.make("Pendulum-v1"), num_steps=4, num_updates=4, policy_delay=2, batch_size=8, num_cells=(8,), num_critics=3
        ... )
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> state.learner.target[0]["weight"].shape
        torch.Size([3, 8, 4])

    Reference: X. Chen, C. Wang, Z. Zhou, K. Ross, "Randomized Ensembled Double Q-Learning: Learning Fast Without a Model", 2021,
        arXiv:2101.05982, algorithm 1. As in the paper, the defaults have 20 gradient steps of the critics and one of the actor for each
        environment step. The preset for Pendulum (``funrl.training.preset``) has 5 and one, which is enough there and four times as fast.
    """
    further = {"exploration": exploration, "critic_loss": critic_loss, "actor_loss": actor_loss}
    config, given = configure(REDQConfig, options, actor=actor, critic=critic, optimizer=optimizer, buffer=buffer, **further)
    _check.integer("subset", config.subset, 1, config.num_critics, "draw from the num_critics critics there are")
    off_policy.check("REDQ", env, config, discrete=False, observations=observations(actor, critic))
    policy, critics = actor_and_critics(stochastic_actor, config, env, actor, critic, config.num_critics)
    space, networks = env.action_space, {"actor": policy.apply, "critic": critics.apply}
    critic_objective = with_default(critic_loss, redq_critic_loss, needed=("td_error",))
    actor_objective = with_default(actor_loss, redq_actor_loss, needed=("log_prob",))

    def init(key: torch.Tensor, observation: torch.Tensor) -> tuple[SoftActorCritic, Any, Any]:
        network = init_soft_actor_critic(key, policy, critics, observation, space, config.initial_alpha)
        return network, tree.map(torch.clone, network.critic), start_optimizer(optimizer, network, "actor", "critic", "log_alpha")

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        options = {"gamma": gamma, "subset": config.subset, "weight": weight}

        def loss(critic: Any) -> tuple[torch.Tensor, Metrics]:
            return critic_objective(critic, learned.network, learned.target, key, batch, **networks, **options)

        learned, metrics = minimize(loss, learned, hparams.learning_rate, optimizer, "critic")
        return learned.replace(target=optim.soft_update(learned.network.critic, learned.target, tau=hparams.tau)), metrics

    def move_actor(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        def loss(actor: Any) -> tuple[torch.Tensor, Metrics]:
            return actor_objective(actor, learned.network, key, batch, weight=weight, **networks)

        return minimize_with_temperature(loss, learned, weight, hparams, space, optimizer)

    spec = off_policy.Learner(init, learn, *soft_policy(policy, exploration), move_actor, config.policy_delay)
    return off_policy.make("redq", env, config, spec, given)
