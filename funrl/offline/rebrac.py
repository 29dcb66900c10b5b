"""ReBRAC: TD3+BC with penalties in actor and critic, layer normalisation and larger networks."""

from typing import Any

import torch

from funrl import _check, nn, tree
from funrl.algos import Algorithm
from funrl.algos.off_policy import Learner
from funrl.env import AnyEnv
from funrl.losses import rebrac_actor_loss, rebrac_critic_loss
from funrl.nn import OwnNet
from funrl.offline import _skeleton as skeleton
from funrl.offline._dataset import Dataset, check_dataset
from funrl.offline._parts import delayed_learner
from funrl.offline._skeleton import EnvOrSpaces, OfflineConfig
from funrl.optim import Optimizer

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
    nets, columns = {"actor": actor, "critic": critic}, lambda dataset, config: with_next_actions(dataset)
    return skeleton.build("rebrac", ReBRACConfig, env, dataset, _learner, options, optimizer, nets, columns)


def _learner(env: AnyEnv, config: ReBRACConfig, optimizer: Optimizer | None, *, actor: Any, critic: Any) -> Learner:
    skeleton.check("ReBRAC", env, actor, critic)
    _check.fields(config, "[0, inf)", "actor_beta", "critic_beta")

    def critic_loss(*args: Any, hparams: ReBRACConfig, scale: torch.Tensor, **options: Any) -> Any:
        return rebrac_critic_loss(*args, scale=scale, beta=hparams.critic_beta, **options)

    def actor_loss(*args: Any, hparams: ReBRACConfig, **options: Any) -> Any:
        return rebrac_actor_loss(*args, beta=hparams.actor_beta, **options)

    critic = critic or nn.mlp(config.num_cells, 1, activation=config.activation, norm="layer")
    return delayed_learner(env, config, optimizer, actor, critic, critic_loss, actor_loss)


def with_next_actions(dataset: Dataset) -> Dataset:
    """Return the data set with the columns ``next_action``, and ``has_next``, False at the ends of pieces.

    Example:
        >>> from funrl.env import Transition
        >>> from funrl.offline.datasets import from_transitions
        >>> flags = torch.tensor([False, True])
        >>> rows = Transition(torch.zeros(2, 1), torch.tensor([[1.0], [2.0]]), torch.ones(2), flags, ~flags & False, torch.ones(2, 1), {})
        >>> with_next_actions(from_transitions(rows)).transition.extras
        {'next_action': tensor([[2.],
                [2.]]), 'has_next': tensor([ True, False])}
    """
    rows = check_dataset("rebrac", dataset).transition
    after = torch.cat([rows.action[1:], rows.action[-1:]])
    return dataset.replace(transition=rows.replace(extras={**rows.extras, "next_action": after, "has_next": ~dataset.end}))
