"""Twin delayed deep deterministic policy gradients."""

from typing import Any

import torch

from funrl import buffers, nn, optim, schedules, tree
from funrl.algos import off_policy
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure, with_default
from funrl.algos._networks import deterministic_actor, half_width, observations
from funrl.algos._off_policy_parts import actor_and_critics, init_actor_critic, minimize, noisy_policy, start_optimizer
from funrl.algos._state import Learned
from funrl.env import AnyEnv, Transition
from funrl.losses import ActorCritic, td3_actor_loss, td3_critic_loss
from funrl.typing import Loss, Metrics

__all__ = ["TD3Config", "make"]


@tree.dataclass
class TD3Config(off_policy.OffPolicyConfig):
    """The options of :func:`make`, in addition to those of :class:`~funrl.algos.off_policy.OffPolicyConfig`.

    The unit of the noise is half the width of the action space.

    Attributes:
        policy_delay: gradient steps of the critics for each gradient step of the actor and each update of the targets; divides
            ``num_updates``.
        tau: step size of the target networks, in [0, 1].
        exploration_noise: standard deviation of the noise on actions, at least 0.
        target_noise: standard deviation of the noise on the next actions in the targets, at least 0.
        target_noise_clip: this noise is clipped to [-``target_noise_clip``, ``target_noise_clip``]; at least 0.
    """

    policy_delay: int = tree.static(default=2)
    tau: Any = 0.005
    exploration_noise: Any = 0.1
    target_noise: Any = 0.2
    target_noise_clip: Any = 0.5


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
    """Make TD3: DDPG with the smaller of two critics, smoothed targets, and an actor with fewer updates.

    Args:
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        actor: a net from observations [N, ...] to [N, A], whose output is mapped by a tanh to the action space; None: the network that the
            options describe.
        critic: a net from observations [N, ...] and actions [N, A] to [N, 1], which is used for each critic; None: the network that the
            options describe. :func:`funrl.nn.from_module` makes a net from a torch module; a module for critics needs an ``init``, so that
            the critics begin with different parameters.
        optimizer, buffer: as for :func:`funrl.algos.sac.make`.
        exploration: a schedule of :mod:`funrl.schedules`, or another function of the number of environment steps so far, int64 []. It
            returns the standard deviation of the noise, in half-widths of the action space; None: ``exploration_noise``.
        critic_loss: ``critic_loss(*args, default, **options) -> (loss, metrics)`` instead of :func:`funrl.losses.td3_critic_loss`.
            ``default(*args, **options)`` computes the original loss. Its metrics, tensors [] without gradient, are added to those of a
            step; one of them must be ``td_error`` [N].
        actor_loss: the same instead of :func:`funrl.losses.td3_actor_loss`.
        **options: fields of :class:`TD3Config`.

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

    Reference: S. Fujimoto, H. van Hoof, D. Meger, "Addressing Function Approximation Error in Actor-Critic Methods", 2018,
        arXiv:1802.09477, algorithm 1.
    """
    further = {"exploration": exploration, "critic_loss": critic_loss, "actor_loss": actor_loss}
    config, given = configure(TD3Config, options, actor=actor, critic=critic, optimizer=optimizer, buffer=buffer, **further)
    off_policy.check("TD3", env, config, discrete=False, observations=observations(actor, critic))
    policy, critics = actor_and_critics(deterministic_actor, config, env, actor, critic, 2)
    space, networks = env.action_space, {"actor": policy.apply, "critic": critics.apply}
    critic_objective = with_default(critic_loss, td3_critic_loss, needed=("td_error",))
    actor_objective = with_default(actor_loss, td3_actor_loss)

    def init(key: torch.Tensor, observation: torch.Tensor) -> tuple[ActorCritic, Any, Any]:
        network = init_actor_critic(key, policy, critics, observation, space)
        return network, tree.map(torch.clone, network), start_optimizer(optimizer, network, "actor", "critic")

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: TD3Config) -> Any:
        unit = half_width(space, batch.reward)
        noise = {"noise_std": hparams.target_noise * unit, "noise_clip": hparams.target_noise_clip * unit}
        bounds = {"low": space.low.to(unit), "high": space.high.to(unit)}

        def loss(critic: Any) -> tuple[torch.Tensor, Metrics]:
            return critic_objective(critic, learned.target, key, batch, gamma=gamma, weight=weight, **networks, **noise, **bounds)

        return minimize(loss, learned, hparams.learning_rate, optimizer, "critic")

    def move_actor(
        key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: TD3Config
    ) -> Any:
        def loss(actor: Any) -> tuple[torch.Tensor, Metrics]:
            return actor_objective(actor, learned.network.critic, batch, weight=weight, **networks)

        learned, metrics = minimize(loss, learned, hparams.learning_rate, optimizer, "actor")
        return learned.replace(target=optim.soft_update(learned.network, learned.target, tau=hparams.tau)), metrics

    spec = off_policy.Learner(init, learn, *noisy_policy(policy, space, exploration), move_actor, config.policy_delay)
    return off_policy.make("td3", env, config, spec, given)
