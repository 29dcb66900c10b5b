"""Soft actor-critic."""

from typing import Any

import torch

from funrl import buffers, nn, optim, schedules, tree
from funrl.algos import off_policy
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure, with_default
from funrl.algos._networks import observations, stochastic_actor, target_entropy
from funrl.algos._off_policy_parts import SoftConfig, actor_and_critics, init_soft_actor_critic, minimize, soft_policy, start_optimizer
from funrl.algos._state import Learned
from funrl.env import AnyEnv, Transition
from funrl.losses import SoftActorCritic, sac_loss
from funrl.typing import Loss, Metrics

__all__ = ["SACConfig", "make"]

# With an optimizer of the user's own, each of these parts has its own optimizer state.
_PARTS = ("actor", "critic", "log_alpha")


@tree.dataclass
class SACConfig(SoftConfig):
    """The options of :func:`make`, which are those of :class:`~funrl.algos.SoftConfig`."""


def make(
    env: AnyEnv,
    *,
    actor: nn.OwnNet = None,
    critic: nn.OwnNet = None,
    optimizer: optim.Optimizer | None = None,
    buffer: buffers.Buffer | None = None,
    exploration: schedules.Schedule | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Algorithm:
    """Make SAC for continuous actions, with two critics, their target networks, and a learned temperature.

    One gradient step updates actor, critics and temperature, each by the gradient of its own loss; :func:`funrl.losses.sac_loss` is their
    sum.

    Args:
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        actor: a net from observations [N, ...] to [N, 2A], the parameters of a :class:`~funrl.distributions.TanhNormal`; None: the network
            that the options describe.
        critic: a net from observations [N, ...] and actions [N, A] to [N, 1], which is used for each critic; None: the network that the
            options describe. :func:`funrl.nn.from_module` makes a net from a torch module. For the critics give it
            ``init=``, because both critics would otherwise start with the same parameters, those of the module.
        optimizer: any :class:`funrl.optim.Optimizer`, with its own state for each part of the parameters; None: Adam with the options
            ``learning_rate`` and ``anneal_steps``. With an optimizer these options cannot be given, and have no effect in
            ``learner.hparams``.
        buffer: any buffer of :mod:`funrl.buffers` that samples single transitions; None: :func:`funrl.buffers.uniform`.
        exploration: a schedule of :mod:`funrl.schedules`, or another function of the number of environment steps so far, int64 []. It
            returns the probability of a uniformly random action, in [0, 1]; None: all actions are drawn from the policy.
        loss: ``loss(params, target, key, batch, *, default, **options) -> (loss, metrics)`` instead of :func:`funrl.losses.sac_loss`.
            ``default(params, target, key, batch, **options)`` computes the original loss. ``metrics`` are tensors without gradient:
            ``td_error`` [N], which is required, and others []. They are added to the metrics of a step.
        **options: fields of :class:`SACConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`, in which ``state.learner.params.network`` is a :class:`~funrl.losses.SoftActorCritic`;
        ``help(funrl.algos)`` lists its metrics.

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
    further = {"exploration": exploration, "loss": loss}
    config, given = configure(SACConfig, options, actor=actor, critic=critic, optimizer=optimizer, buffer=buffer, **further)
    off_policy.check("SAC", env, config, discrete=False, observations=observations(actor, critic))
    policy, critics = actor_and_critics(stochastic_actor, config, env, actor, critic, 2)
    space = env.action_space
    objective = with_default(loss, sac_loss, needed=("td_error",))

    def init(key: torch.Tensor, observation: torch.Tensor) -> tuple[SoftActorCritic, Any, Any]:
        network = init_soft_actor_critic(key, policy, critics, observation, space, config.initial_alpha)
        return network, tree.map(torch.clone, network.critic), start_optimizer(optimizer, network, *(_PARTS if optimizer else ()))

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: SACConfig) -> Any:
        options = {"gamma": gamma, "target_entropy": target_entropy(space, hparams.entropy_share), "weight": weight}

        def total(network: SoftActorCritic) -> tuple[torch.Tensor, Metrics]:
            return objective(network, learned.target, key, batch, actor=policy.apply, critic=critics.apply, **options)

        learned, metrics = minimize(total, learned, hparams.learning_rate, optimizer, *_PARTS)
        return learned.replace(target=optim.soft_update(learned.network.critic, learned.target, tau=hparams.tau)), metrics

    spec = off_policy.Learner(init, learn, *soft_policy(policy, exploration))
    return off_policy.make("sac", env, config, spec, given)
