"""Deep deterministic policy gradients."""

from typing import Any

import torch

from funrl import buffers, nn, optim, schedules, tree
from funrl.algos import off_policy
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure, with_default
from funrl.algos._networks import deterministic_actor, observations
from funrl.algos._off_policy_parts import actor_and_critics, init_actor_critic, minimize, noisy_policy, start_optimizer
from funrl.algos._state import Learned
from funrl.env import AnyEnv, Transition
from funrl.losses import ActorCritic, ddpg_loss
from funrl.typing import Loss, Metrics

__all__ = ["DDPGConfig", "make"]

# With an optimizer of the user's own, each of these parts has its own optimizer state.
_PARTS = ("actor", "critic")


@tree.dataclass
class DDPGConfig(off_policy.OffPolicyConfig):
    """The options of :func:`make`, in addition to those of :class:`~funrl.algos.off_policy.OffPolicyConfig`.

    Attributes:
        tau: step size of the target networks at each gradient step, in [0, 1].
        exploration_noise: standard deviation of the noise on actions, at least 0, in half-widths of the action space.
    """

    tau: Any = 0.005
    exploration_noise: Any = 0.1


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
    """Make DDPG, with a deterministic actor, a critic, and target networks of both.

    A gradient step updates actor and critic at once, each with the gradient of its own loss (:func:`funrl.losses.ddpg_loss`).

    Args:
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        actor: a net from observations [N, ...] to [N, A], whose output is mapped by a tanh to the action space; None: the network that the
            options describe.
        critic: a net from observations [N, ...] and actions [N, A] to [N, 1]; None: the network that the options describe.
            :func:`funrl.nn.from_module` makes a net from a torch module.
        optimizer, buffer: as for :func:`funrl.algos.sac.make`.
        exploration: a schedule of :mod:`funrl.schedules`, or another function of the number of environment steps so far, int64 []. It
            returns the standard deviation of the noise, in half-widths of the action space; None: ``exploration_noise``.
        loss: ``loss(params, target, batch, *, default, **options) -> (loss, metrics)`` instead of :func:`funrl.losses.ddpg_loss`.
            ``default(params, target, batch, **options)`` computes the original loss. Its metrics, tensors [] without gradient, are added to
            those of a step; one of them must be ``td_error`` [N].
        **options: fields of :class:`DDPGConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`, in which ``state.learner.params.network`` is a :class:`~funrl.losses.ActorCritic`;
        ``help(funrl.algos)`` lists its metrics.

    Raises:
        ValueError, TypeError: as for :func:`funrl.algos.sac.make`.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("Pendulum-v1"), num_steps=4, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"], metrics["updates"]  # none before learning_starts
        (tensor(4), tensor(0))

    Reference: T. P. Lillicrap et al., "Continuous control with deep reinforcement learning", 2015, arXiv:1509.02971, algorithm 1.
        Deviation: the noise is Gaussian, not an Ornstein-Uhlenbeck process.
    """
    further = {"exploration": exploration, "loss": loss}
    config, given = configure(DDPGConfig, options, actor=actor, critic=critic, optimizer=optimizer, buffer=buffer, **further)
    off_policy.check("DDPG", env, config, discrete=False, observations=observations(actor, critic))
    policy, critics = actor_and_critics(deterministic_actor, config, env, actor, critic, 1)
    space = env.action_space

    def single_critic(params: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return critics.apply(params, observation, action).squeeze(0)

    objective = with_default(loss, ddpg_loss, needed=("td_error",))

    def init(key: torch.Tensor, observation: torch.Tensor) -> tuple[ActorCritic, Any, Any]:
        network = init_actor_critic(key, policy, critics, observation, space)
        return network, tree.map(torch.clone, network), start_optimizer(optimizer, network, *(_PARTS if optimizer else ()))

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        def total(network: ActorCritic) -> tuple[torch.Tensor, Metrics]:
            return objective(network, learned.target, batch, actor=policy.apply, critic=single_critic, gamma=gamma, weight=weight)

        learned, metrics = minimize(total, learned, hparams.learning_rate, optimizer, *_PARTS)
        return learned.replace(target=optim.soft_update(learned.network, learned.target, tau=hparams.tau)), metrics

    spec = off_policy.Learner(init, learn, *noisy_policy(policy, space, exploration))
    return off_policy.make("ddpg", env, config, spec, given)
