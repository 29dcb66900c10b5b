"""TD3+BC."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.algos import (
    Algorithm,
    Learned,
    apply_gradients,
    batchwise,
    configure,
    critic_member,
    deterministic_actor,
    half_width,
    init_actor_critic,
    q_ensemble,
    start_optimizer,
)
from funrl.algos.off_policy import Learner
from funrl.env import Transition
from funrl.losses import ActorCritic, td3_bc_actor_loss, td3_critic_loss
from funrl.nn import OwnNet
from funrl.offline import _skeleton as skeleton
from funrl.offline._parts import deterministic_policy
from funrl.offline._skeleton import Data, EnvOrSpaces, OfflineConfig
from funrl.optim import Optimizer, soft_update

__all__ = ["TD3BCConfig", "make"]


@tree.dataclass
class TD3BCConfig(OfflineConfig):
    """The options of :func:`make`: those of :class:`~funrl.offline.OfflineConfig`, and these.

    Attributes:
        policy_delay: gradient steps of the critics to each one of the actor and the targets; divides ``num_updates``.
        tau: how far the targets follow then, in [0, 1].
        alpha: the weight of the critic against the data, at least 0.
        target_noise: the deviation of the noise on the actions of the targets, in half-widths of the box, at least 0.
        target_noise_clip: the bound to which this noise is clipped, at least 0.
    """

    normalize_observation: bool = tree.static(default=True)
    policy_delay: int = tree.static(default=2)
    tau: Any = 0.005
    alpha: Any = 2.5
    target_noise: Any = 0.2
    target_noise_clip: Any = 0.5


def make(
    env: EnvOrSpaces, dataset: Data, *, actor: OwnNet = None, critic: OwnNet = None, optimizer: Optimizer | None = None, **options: Any
) -> Algorithm:
    """Make TD3+BC: TD3 on a data set, with a term that keeps the actor close to the actions of the data.

    Args:
        env: the environment of the data, for its spaces and for evaluation; or the pair of its spaces. Actions are continuous.
        dataset: the data; None: the learner only acts.
        actor: a net from observations [N, ...] to [N, A], which a tanh stretches to the box; None: as the configuration says.
        critic: a net from observations [N, ...] and actions [N, A] to [N, 1], of which two critics are made; None: as the configuration
            says.
        optimizer: any :class:`funrl.optim.Optimizer` instead of Adam with ``learning_rate``, with a state for each part; None: Adam.
        **options: fields of :class:`TD3BCConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``state.learner.params.network`` is a :class:`~funrl.losses.ActorCritic`.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the data.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> data = funrl.offline.datasets.record(None, funrl.random.key(0), env=env, num_steps=100, num_envs=2)
        >>> algo = make(env, data, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(2), algo.init(funrl.random.key(1)))
        >>> sorted(metrics)[:3]
        ['actor_loss', 'bc_loss', 'critic_loss']

    Reference: S. Fujimoto, S. S. Gu, "A Minimalist Approach to Offline Reinforcement Learning", 2021, arXiv:2106.06860.
    """
    config, given = configure(TD3BCConfig, options, actor=actor, critic=critic, optimizer=optimizer)
    env = skeleton.environment("td3_bc", env, dataset)
    skeleton.check("TD3+BC", env, config, actions="continuous", observations="vectors" if None in (actor, critic) else "any")
    _check.fields(config, "[1, inf)", "policy_delay")
    _check.fields(config, "[0, 1]", "tau")
    _check.fields(config, "[0, inf)", "alpha", "target_noise", "target_noise_clip")
    _check.divisor("policy_delay", config.policy_delay, config.num_updates, "num_updates", "change either")
    space, seen = env.action_space, env.observation_space
    policy = deterministic_actor(config.num_cells, space, config.activation, batchwise("actor", actor, seen, space.shape[0]))
    critics = q_ensemble(2, config.num_cells, config.activation, critic_member(critic, 2, seen, 1))
    networks: dict[str, Any] = {"actor": policy.apply, "critic": critics.apply}

    def init(key: torch.Tensor, observation: Any) -> tuple[ActorCritic, Any, Any]:
        network = init_actor_critic(key, policy, critics, observation, space)
        return network, tree.map(torch.clone, network), start_optimizer(optimizer, network, "actor", "critic")

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        unit = half_width(space, batch.reward)
        noise = {"noise_std": hparams.target_noise * unit, "noise_clip": hparams.target_noise_clip * unit}
        bounds = {"low": space.low.to(unit), "high": space.high.to(unit)}
        gradient, (_, metrics) = torch.func.grad_and_value(td3_critic_loss, has_aux=True)(
            learned.network.critic, learned.target, key, batch, gamma=gamma, weight=weight, **noise, **bounds, **networks
        )
        return apply_gradients(learned, gradient, hparams.learning_rate, optimizer, part="critic"), metrics

    def move_actor(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        scale = half_width(space, batch.reward)
        first = tree.map(lambda x: x[:1], learned.network.critic)  # the loss reads no other critic
        gradient, (_, metrics) = torch.func.grad_and_value(td3_bc_actor_loss, has_aux=True)(
            learned.network.actor, first, batch, alpha=hparams.alpha, scale=scale, weight=weight, **networks
        )
        learned = apply_gradients(learned, gradient, hparams.learning_rate, optimizer, part="actor")
        return learned.replace(target=soft_update(learned.network, learned.target, tau=hparams.tau)), metrics

    spec = Learner(init, learn, *deterministic_policy(policy), move_actor, config.policy_delay)
    return skeleton.make("td3_bc", env, dataset, config, spec, given)
