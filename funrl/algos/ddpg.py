"""Deep deterministic policy gradients."""

from typing import Any

import torch

from funrl import tree
from funrl.algos import off_policy
from funrl.algos.algorithm import Algorithm, check_range
from funrl.algos.arguments import configure
from funrl.algos.networks import deterministic_actor, q_ensemble
from funrl.algos.off_policy import Learned, Learner, OffPolicyConfig, apply_gradients, start_optimizer
from funrl.algos.off_policy_actors import init_actor_critic, noisy_policy
from funrl.env import Env, Transition
from funrl.losses import ActorCritic, ddpg_loss, soft_update
from funrl.optim import Optimizer

__all__ = ["DDPGConfig", "make"]


@tree.dataclass
class DDPGConfig(OffPolicyConfig):
    """The options of :func:`make`: those of :class:`~funrl.algos.off_policy.OffPolicyConfig`, and these.

    Attributes:
        tau: how far the targets follow at each gradient step, in [0, 1].
        exploration_noise: the standard deviation of the noise on actions, at least 0, as a share of half the width of their box.
    """

    tau: Any = 0.005
    exploration_noise: Any = 0.1


def make(env: Env, *, optimizer: Optimizer | None = None, **options: Any) -> Algorithm:
    """Make DDPG: a deterministic actor, a critic, and targets that follow both.

    A gradient step moves actor and critic at once, each by the gradient of its own loss (:func:`funrl.losses.ddpg_loss`).

    Args:
        env: a pure environment, or a batched one of ``num_envs`` copies, which may run on the host.
        optimizer: any :class:`funrl.optim.Optimizer`; None: Adam with ``learning_rate`` and ``anneal_steps``.
        **options: fields of :class:`DDPGConfig`.

    Returns:
        An :class:`~funrl.algos.algorithm.Algorithm`; ``state.learner.params.network`` is a :class:`~funrl.losses.ActorCritic`, and its
        metrics are those of the episodes and of the loss.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("Pendulum-v1"), num_steps=4, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"], metrics["updates"]  # none before learning_starts
        (tensor(4), tensor(0))

    Reference: T. P. Lillicrap et al., "Continuous control with deep reinforcement learning", 2015, arXiv:1509.02971, algorithm 1.
        Deviation: the noise is Gaussian, not an Ornstein-Uhlenbeck process.
    """
    config, given = configure(DDPGConfig, options, optimizer=optimizer)
    off_policy.check("DDPG", env, config, discrete=False)
    check_range(config, ("tau",), 0, 1)
    check_range(config, ("exploration_noise",), 0)
    space = env.action_space
    actor = deterministic_actor(config.num_cells, space, config.activation)
    critics = q_ensemble(1, config.num_cells, config.activation)

    def critic(params: Any, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return critics.apply(params, observation, action).squeeze(0)

    def init(key: torch.Tensor, observation: torch.Tensor) -> tuple[ActorCritic, Any, Any]:
        network = init_actor_critic(key, actor, critics, observation, space)
        return network, tree.map(torch.clone, network), start_optimizer(optimizer, network)

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        gradient, (_, metrics) = torch.func.grad_and_value(ddpg_loss, has_aux=True)(
            learned.network, learned.target, batch, actor=actor.apply, critic=critic, gamma=gamma, weight=weight
        )
        learned = apply_gradients(learned, gradient, hparams.learning_rate, optimizer)
        return learned.replace(target=soft_update(learned.network, learned.target, tau=hparams.tau)), metrics

    spec = Learner(init, learn, *noisy_policy(actor, space))
    return off_policy.make("ddpg", env, config, spec, given)
