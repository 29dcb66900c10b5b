"""ReBRAC: TD3+BC with penalties in actor and critic, layer normalisation and larger networks."""

from typing import Any

import torch

from funrl import _check, nn, tree
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
from funrl.losses import ActorCritic, rebrac_actor_loss, rebrac_critic_loss
from funrl.nn import OwnNet
from funrl.offline import _skeleton as skeleton
from funrl.offline._dataset import Dataset
from funrl.offline._files import Stream
from funrl.offline._parts import deterministic_policy
from funrl.offline._skeleton import EnvOrSpaces, OfflineConfig
from funrl.optim import Optimizer, soft_update

__all__ = ["ReBRACConfig", "make"]


@tree.dataclass
class ReBRACConfig(OfflineConfig):
    """The options of :func:`make`: those of :class:`~funrl.offline.OfflineConfig`, and these.

    Attributes:
        policy_delay: gradient steps of the critics to each one of the actor and the targets; divides ``num_updates``.
        tau: how far the targets follow then, in [0, 1].
        actor_beta: the weight of the distance to the data in the actor's loss, at least 0.
        critic_beta: that of the distance of next actions in the critics' targets, at least 0.
        target_noise: the deviation of the noise on the actions of the targets, in half-widths of the box, at least 0.
        target_noise_clip: the bound to which this noise is clipped, at least 0.
    """

    batch_size: int = tree.static(default=1024)
    num_cells: tuple = tree.static(default=(256, 256, 256))
    policy_delay: int = tree.static(default=2)
    learning_rate: Any = 1e-3
    tau: Any = 0.005
    actor_beta: Any = 0.01
    critic_beta: Any = 0.01
    target_noise: Any = 0.2
    target_noise_clip: Any = 0.5


def make(
    env: EnvOrSpaces,
    dataset: Dataset | None,
    *,
    actor: OwnNet = None,
    critic: OwnNet = None,
    optimizer: Optimizer | None = None,
    **options: Any,
) -> Algorithm:
    """Make ReBRAC: TD3+BC with larger batches, deeper networks, critics with layer normalisation, and a penalty in actor and critic each.

    Args:
        env, actor, critic, optimizer: as for :func:`funrl.offline.td3_bc.make`; critics of your own get no layer normalisation.
        dataset: the data, in memory or memory-mapped; the next action of each row becomes a column of it (:func:`with_next_actions`).
        **options: fields of :class:`ReBRACConfig`; the paper tunes ``actor_beta`` and ``critic_beta`` for each data set.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``state.learner.params.network`` is a :class:`~funrl.losses.ActorCritic`.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the data.
        TypeError: if an option has another type than its default, or ``dataset`` is a stream.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> data = funrl.offline.datasets.record(None, funrl.random.key(0), env=env, num_steps=100, num_envs=2)
        >>> algo = make(env, data, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(2), algo.init(funrl.random.key(1)))
        >>> metrics["steps"]
        tensor(2)

    Reference: D. Tarasov, V. Kurenkov, A. Nikulin, S. Kolesnikov, "Revisiting the Minimalist Approach to Offline Reinforcement Learning",
        2023, arXiv:2305.09836.
    """
    config, given = configure(ReBRACConfig, options, actor=actor, critic=critic, optimizer=optimizer)
    env = skeleton.environment("rebrac", env, dataset)
    skeleton.check("ReBRAC", env, config, actions="continuous", observations="vectors" if None in (actor, critic) else "any")
    _check.fields(config, "[1, inf)", "policy_delay")
    _check.fields(config, "[0, 1]", "tau")
    _check.fields(config, "[0, inf)", "actor_beta", "critic_beta", "target_noise", "target_noise_clip")
    _check.divisor("policy_delay", config.policy_delay, config.num_updates, "num_updates", "change either")
    if isinstance(dataset, Stream):
        raise TypeError("rebrac: dataset: expected a Dataset, whose next actions are a column, got a Stream; give stream.dataset")
    space, seen = env.action_space, env.observation_space
    policy = deterministic_actor(config.num_cells, space, config.activation, batchwise("actor", actor, seen, space.shape[0]))
    member = critic_member(critic, 2, seen, 1) or nn.mlp(config.num_cells, 1, activation=config.activation, norm="layer")
    critics = q_ensemble(2, config.num_cells, config.activation, member)
    networks: dict[str, Any] = {"actor": policy.apply, "critic": critics.apply}

    def init(key: torch.Tensor, observation: Any) -> tuple[ActorCritic, Any, Any]:
        network = init_actor_critic(key, policy, critics, observation, space)
        return network, tree.map(torch.clone, network), start_optimizer(optimizer, network, "actor", "critic")

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        unit = half_width(space, batch.reward)
        noise = {"noise_std": hparams.target_noise * unit, "noise_clip": hparams.target_noise_clip * unit}
        further = {"low": space.low.to(unit), "high": space.high.to(unit), "scale": unit, "beta": hparams.critic_beta}
        gradient, (_, metrics) = torch.func.grad_and_value(rebrac_critic_loss, has_aux=True)(
            learned.network.critic, learned.target, key, batch, gamma=gamma, weight=weight, **noise, **further, **networks
        )
        return apply_gradients(learned, gradient, hparams.learning_rate, optimizer, part="critic"), metrics

    def move_actor(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        scale = half_width(space, batch.reward)
        gradient, (_, metrics) = torch.func.grad_and_value(rebrac_actor_loss, has_aux=True)(
            learned.network.actor, learned.network.critic, batch, beta=hparams.actor_beta, scale=scale, weight=weight, **networks
        )
        learned = apply_gradients(learned, gradient, hparams.learning_rate, optimizer, part="actor")
        return learned.replace(target=soft_update(learned.network, learned.target, tau=hparams.tau)), metrics

    spec = Learner(init, learn, *deterministic_policy(policy), move_actor, config.policy_delay)
    return skeleton.make("rebrac", env, None if dataset is None else with_next_actions(dataset), config, spec, given)


def with_next_actions(dataset: Dataset) -> Dataset:
    """Return the data set with the columns ``next_action``, and ``has_next``, False at the ends of pieces.

    Example:
        >>> from funrl.offline.datasets import from_transitions
        >>> flags = torch.tensor([False, True])
        >>> rows = Transition(torch.zeros(2, 1), torch.tensor([[1.0], [2.0]]), torch.ones(2), flags, ~flags & False, torch.ones(2, 1), {})
        >>> with_next_actions(from_transitions(rows)).transition.extras
        {'next_action': tensor([[2.],
                [2.]]), 'has_next': tensor([ True, False])}
    """
    rows = dataset.transition
    after = torch.cat([rows.action[1:], rows.action[-1:]])
    return dataset.replace(transition=rows.replace(extras={**rows.extras, "next_action": after, "has_next": ~dataset.end}))
