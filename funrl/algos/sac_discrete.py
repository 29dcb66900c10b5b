"""Soft actor-critic for discrete actions."""

import math
from typing import Any

import torch

from funrl import _check, buffers, distributions, nn, optim, random, schedules, tree
from funrl.algos import off_policy
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure, with_default
from funrl.algos._networks import batchwise, critic_member, observations
from funrl.algos._off_policy_parts import SoftConfig, minimize, soft_policy, start_optimizer
from funrl.algos._state import Learned
from funrl.env import AnyEnv, Transition
from funrl.losses import SoftActorCritic, sac_discrete_loss
from funrl.typing import Loss, Metrics

__all__ = ["SACDiscreteConfig", "make"]

# With an optimizer of the user's own, each of these parts has its own optimizer state.
_PARTS = ("actor", "critic", "log_alpha")


@tree.dataclass
class SACDiscreteConfig(SoftConfig):
    """The options of :func:`make`, in addition to those of :class:`~funrl.algos.off_policy.OffPolicyConfig`.

    Attributes:
        initial_alpha: initial temperature, above 0.
        tau: step size of the target critics at each gradient step, in [0, 1].
        entropy_share: the target entropy, as a fraction in [0, 1] of the entropy log A of uniform actions.
    """

    entropy_share: Any = 0.3


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
    """Make SAC for discrete actions, with exact expectations over actions; only acting samples them.

    Args:
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        actor: a net from observations [N, ...] to the logits [N, A]; None: the network that the options describe.
        critic: a net from observations [N, ...] to [N, A], which is used for each critic; None: the network that the options describe.
            :func:`funrl.nn.from_module` makes a net from a torch module; a module for critics needs an ``init``, so that the critics begin
            with different parameters.
        optimizer, buffer, exploration: as for :func:`funrl.algos.sac.make`.
        loss: ``loss(params, target, batch, *, default, **options) -> (loss, metrics)`` instead of :func:`funrl.losses.sac_discrete_loss`.
            ``default(params, target, batch, **options)`` computes the original loss. Its metrics, tensors [] without gradient, are added to
            those of a step; one of them must be ``td_error`` [N].
        **options: fields of :class:`SACDiscreteConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`, in which ``state.learner.params.network`` is a :class:`~funrl.losses.SoftActorCritic`;
        ``help(funrl.algos)`` lists its metrics.

    Raises:
        ValueError, TypeError: as for :func:`funrl.algos.sac.make`.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("CartPole-v1"), num_steps=4, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"], metrics["updates"]  # none before learning_starts
        (tensor(4), tensor(0))

    Reference: P. Christodoulou, "Soft Actor-Critic for Discrete Action Settings", 2019, arXiv:1910.07207.
        Deviation: the target entropy is lower; the paper has a fraction of 0.98.
    """
    further = {"exploration": exploration, "loss": loss}
    config, given = configure(SACDiscreteConfig, options, actor=actor, critic=critic, optimizer=optimizer, buffer=buffer, **further)
    off_policy.check("SAC for discrete actions", env, config, discrete=True, observations=observations(actor, critic))
    _check.fields(config, "[0, 1]", "entropy_share")
    num_actions = env.action_space.n
    logits = nn.mlp(config.num_cells, num_actions, activation=config.activation, out_init=nn.orthogonal(0.01))
    logits = batchwise("actor", actor, env.observation_space, num_actions) or logits
    policy = nn.Net(logits.init, lambda params, observation: distributions.Categorical(logits.apply(params, observation)))
    values = nn.mlp(config.num_cells, num_actions, activation=config.activation, out_init=nn.orthogonal(1.0))
    critics = nn.ensemble(critic_member(critic, 2, env.observation_space, num_actions) or values, 2)

    objective = with_default(loss, sac_discrete_loss, needed=("td_error",))

    def init(key: torch.Tensor, observation: torch.Tensor) -> tuple[SoftActorCritic, Any, Any]:
        actor_key, critic_key = random.split(key).unbind(0)
        log_alpha = tree.leaves(observation)[0].new_full((), config.initial_alpha).log()
        network = SoftActorCritic(policy.init(actor_key, observation), critics.init(critic_key, observation), log_alpha)
        return network, tree.map(torch.clone, network.critic), start_optimizer(optimizer, network, *(_PARTS if optimizer else ()))

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        options = {"gamma": gamma, "target_entropy": hparams.entropy_share * math.log(num_actions), "weight": weight}

        def total(network: SoftActorCritic) -> tuple[torch.Tensor, Metrics]:
            return objective(network, learned.target, batch, actor=policy.apply, critic=critics.apply, **options)

        learned, metrics = minimize(total, learned, hparams.learning_rate, optimizer, *_PARTS)
        return learned.replace(target=optim.soft_update(learned.network.critic, learned.target, tau=hparams.tau)), metrics

    spec = off_policy.Learner(init, learn, *soft_policy(policy, exploration))
    return off_policy.make("sac_discrete", env, config, spec, given)
