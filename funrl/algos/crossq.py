"""CrossQ: soft actor-critic with batch normalisation and without target networks."""

from typing import Any

import torch

from funrl import _check, buffers, nn, optim, schedules, tree
from funrl.algos import off_policy
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure, with_default
from funrl.algos._networks import batchwise, critic_member, observations
from funrl.algos._normalized import Normalized, NormalizedActor, chain_of, normalized_actor, normalized_critics
from funrl.algos._off_policy_parts import init_soft_actor_critic, minimize, minimize_with_temperature, soft_policy, start_optimizer
from funrl.algos._state import Learned
from funrl.env import AnyEnv, Transition
from funrl.losses import SoftActorCritic, crossq_actor_loss, crossq_critic_loss
from funrl.typing import Loss

__all__ = ["CrossQConfig", "make"]


@tree.dataclass
class CrossQConfig(off_policy.OffPolicyConfig):
    """The options of :func:`make`, in addition to those of :class:`~funrl.algos.off_policy.OffPolicyConfig`.

    Attributes:
        policy_delay: gradient steps of the critics for each gradient step of actor and temperature; divides ``num_updates``.
        momentum: weight of a batch in the update of the running statistics, in [0, 1].
        initial_alpha: initial temperature, above 0.
        entropy_share: the target entropy is -``entropy_share`` for each action dimension, after the action space is rescaled to [-1, 1].
    """

    num_updates: int = tree.static(default=30)
    num_steps: int = tree.static(default=30)
    policy_delay: int = tree.static(default=3)
    momentum: float = tree.static(default=0.01)
    initial_alpha: float = tree.static(default=1.0)
    entropy_share: Any = 1.0


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
    """Make CrossQ: SAC with batch normalisation and without target networks.

    Args:
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        actor: a net from observations [N, ...] to [N, 2A], the parameters of a :class:`~funrl.distributions.TanhNormal`; None: the network
            that the options describe. The floating-point buffers of a torch module (:func:`funrl.nn.from_module`), such as those of batch
            normalisation, are its running statistics; other nets have none.
        critic: a net from observations [N, ...] and actions [N, A] to [N, 1], as for ``actor``, which is used for each critic. A torch
            module needs an ``init``, so that the critics begin with different parameters.
        optimizer, buffer, exploration: as for :func:`funrl.algos.sac.make`.
        critic_loss: ``critic_loss(*args, default, **options) -> (loss, metrics)`` instead of :func:`funrl.losses.crossq_critic_loss`.
            ``default(*args, **options)`` computes the original loss. Its metrics, tensors [] without gradient, are added to those of a
            step; ``td_error`` [N] and ``statistics`` must be among them.
        actor_loss: the same instead of :func:`funrl.losses.crossq_actor_loss`; ``log_prob`` [N] must be one of its metrics.
        **options: fields of :class:`CrossQConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`, in which ``state.learner.params.network`` is a :class:`~funrl.losses.SoftActorCritic`;
        ``help(funrl.algos)`` lists its metrics. ``state.learner.target`` has the running statistics of the critics; those of the actor are
        among its parameters, because acting needs them.

    Raises:
        ValueError, TypeError: as for :func:`funrl.algos.sac.make`.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("Pendulum-v1"), num_steps=4, num_updates=3, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"], metrics["updates"]  # none before learning_starts
        (tensor(4), tensor(0))

    Reference: A. Bhatt et al., "CrossQ: Batch Normalization in Deep Reinforcement Learning for Greater Sample Efficiency and Simplicity",
        2019, arXiv:1902.05605. As in the code of its authors, the actor is normalised too: in its loss by the moments of the batch, and
        when it acts and in the targets by the running moments. Deviations: batch normalisation instead of batch renormalisation; Adam with
        its usual b1; critics of the width ``num_cells``.
    """
    further = {"exploration": exploration, "critic_loss": critic_loss, "actor_loss": actor_loss}
    config, given = configure(CrossQConfig, options, actor=actor, critic=critic, optimizer=optimizer, buffer=buffer, **further)
    off_policy.check("CrossQ", env, config, discrete=False, observations=observations(actor, critic))
    _check.integer("batch_size", config.batch_size, 2, remedy="a batch of one has no variance to normalise by")
    space, (policy, critics) = env.action_space, _networks(config, env, actor, critic)
    critic_objective = with_default(critic_loss, crossq_critic_loss, needed=("td_error", "statistics"))
    actor_objective = with_default(actor_loss, crossq_actor_loss, needed=("log_prob",))

    def init(key: torch.Tensor, observation: torch.Tensor) -> tuple[SoftActorCritic, Any, Any]:
        network = init_soft_actor_critic(key, policy, critics, observation, space, config.initial_alpha)  # pyright: ignore
        return network, critics.start(network.critic), start_optimizer(optimizer, network, "actor", "critic", "log_alpha")

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        networks = {"actor": policy.apply, "critic": critics.train}

        def loss(critic: Any) -> tuple[torch.Tensor, Any]:
            return critic_objective(critic, learned.network, learned.target, key, batch, gamma=gamma, weight=weight, **networks)

        learned, metrics = minimize(loss, learned, hparams.learning_rate, optimizer, "critic")
        return learned.replace(target=metrics.pop("statistics")), metrics

    def move_actor(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        networks = {"actor": lambda params, observation: policy.train(params, observation)[0], "frozen_critic": critics.apply}
        before = learned

        def loss(actor: Any) -> tuple[torch.Tensor, Any]:
            return actor_objective(actor, before.network, before.target, key, batch, weight=weight, **networks)

        statistics = policy.train(before.network.actor, batch.observation)[1]
        learned, metrics = minimize_with_temperature(loss, before, weight, hparams, space, optimizer)
        network = learned.network
        return learned.replace(network=network.replace(actor={**network.actor, "statistics": statistics})), metrics

    spec = off_policy.Learner(init, learn, *soft_policy(policy, exploration), move_actor, config.policy_delay)  # pyright: ignore
    return off_policy.make("crossq", env, config, spec, given)


def _networks(config: CrossQConfig, env: AnyEnv, actor: Any, critic: Any) -> tuple[NormalizedActor, Normalized]:
    space, seen = env.action_space, env.observation_space
    own = chain_of(actor, batchwise("actor", actor, seen, 2 * space.shape[0]))
    policy = normalized_actor(config.num_cells, space, config.activation, config.momentum, own)
    own = chain_of(critic, critic_member(critic, 2, seen, 1))
    return policy, normalized_critics(2, config.num_cells, config.activation, config.momentum, own)
