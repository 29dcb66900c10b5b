"""TD3+BC."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.algos import Algorithm
from funrl.algos.off_policy import Learner
from funrl.env import AnyEnv, Transition
from funrl.losses import td3_bc_actor_loss, td3_critic_loss
from funrl.nn import OwnNet
from funrl.offline import _skeleton as skeleton
from funrl.offline._parts import delayed_learner
from funrl.offline._skeleton import Data, EnvOrSpaces, OfflineConfig
from funrl.optim import Optimizer

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
    """Make TD3+BC: TD3 on a data set, with a term that pulls the actor towards the actions of the data.

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
    return skeleton.build("td3_bc", TD3BCConfig, env, dataset, _learner, options, optimizer, {"actor": actor, "critic": critic})


def _learner(env: AnyEnv, config: TD3BCConfig, optimizer: Optimizer | None, *, actor: Any, critic: Any) -> Learner:
    skeleton.check("TD3+BC", env, actor, critic)
    _check.fields(config, "[0, inf)", "alpha")

    def critic_loss(*args: Any, hparams: TD3BCConfig, scale: torch.Tensor, **options: Any) -> Any:
        return td3_critic_loss(*args, **options)

    def actor_loss(params: Any, critics: Any, batch: Transition, *, hparams: TD3BCConfig, **options: Any) -> Any:
        first = tree.map(lambda x: x[:1], critics)  # the loss reads no other critic
        return td3_bc_actor_loss(params, first, batch, alpha=hparams.alpha, **options)

    return delayed_learner(env, config, optimizer, actor, critic, critic_loss, actor_loss)
