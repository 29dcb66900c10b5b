"""SAC-N: soft actor-critic with a large ensemble of critics, and EDAC's diversity of it."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.algos import (
    Algorithm,
    Learned,
    actor_and_critics,
    init_soft_actor_critic,
    minimize,
    soft_policy,
    start_optimizer,
    stochastic_actor,
    target_entropy,
)
from funrl.algos.off_policy import Learner
from funrl.env import AnyEnv, Transition
from funrl.losses import SoftActorCritic, ensemble_diversity_loss, sac_loss
from funrl.nn import OwnNet
from funrl.offline import _skeleton as skeleton
from funrl.offline._skeleton import Data, EnvOrSpaces, OfflineConfig
from funrl.optim import Optimizer, soft_update

__all__ = ["SACNConfig", "make"]

_PARTS = ("actor", "critic", "log_alpha")


@tree.dataclass
class SACNConfig(OfflineConfig):
    """The options of :func:`make`: those of :class:`~funrl.offline.OfflineConfig`, and these.

    Attributes:
        num_critics: E, critics in the ensemble, at least 2; the more, the more pessimistic is their minimum.
        initial_alpha: the first temperature, above 0.
        tau: how far the target critics follow at each gradient step, in [0, 1].
        entropy_share: the temperature aims at an entropy of -``entropy_share`` for each action dimension, where their box is [-1, 1].
    """

    num_cells: tuple = tree.static(default=(256, 256, 256))
    num_critics: int = tree.static(default=10)
    initial_alpha: float = tree.static(default=1.0)
    tau: Any = 0.005
    entropy_share: Any = 1.0


def make(
    env: EnvOrSpaces, dataset: Data, *, actor: OwnNet = None, critic: OwnNet = None, optimizer: Optimizer | None = None, **options: Any
) -> Algorithm:
    """Make SAC-N: soft actor-critic on a data set, with the smallest of E critics as the value of an action.

    Args:
        actor: a net from observations [N, ...] to [N, 2A], the parameters of a :class:`~funrl.distributions.TanhNormal`; None: as the
            configuration says.
        critic: a net from observations [N, ...] and actions [N, A] to [N, 1], of which the critics are made; None: as the configuration
            says.
        env, dataset, optimizer: as for :func:`funrl.offline.td3_bc.make`.
        **options: fields of :class:`SACNConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``state.learner.params.network`` is a :class:`~funrl.losses.SoftActorCritic`.

    Raises:
        ValueError, TypeError: as for :func:`funrl.offline.td3_bc.make`.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> data = funrl.offline.datasets.record(None, funrl.random.key(0), env=env, num_steps=100, num_envs=2)
        >>> algo = make(env, data, num_critics=3, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(2), algo.init(funrl.random.key(1)))
        >>> metrics["steps"]
        tensor(2)

    Reference: G. An, S. Moon, J.-H. Kim, H. O. Song, "Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble", 2021,
        arXiv:2110.01548, section 3.
    """
    return skeleton.build("sac_n", SACNConfig, env, dataset, learner, options, optimizer, {"actor": actor, "critic": critic})


def learner(env: AnyEnv, config: Any, optimizer: Optimizer | None, *, actor: Any, critic: Any) -> Learner:
    """Return the parts of SAC-N, with EDAC's term where the configuration has a ``diversity``.

    Example:
        >>> import funrl
        >>> learner(funrl.envs.make("Pendulum-v1"), SACNConfig(), None, actor=None, critic=None).delay
        1
    """
    diverse = hasattr(config, "diversity")
    title = "EDAC" if diverse else "SAC-N"
    skeleton.check(title, env, actor, critic)
    _check.fields(config, "[2, inf)", "num_critics")
    space: Any = env.action_space
    policy, critics = actor_and_critics(stochastic_actor, config, env, actor, critic, config.num_critics)
    if diverse:
        _check.fields(config, "[0, inf)", "diversity")

    def init(key: torch.Tensor, observation: Any) -> tuple[SoftActorCritic, Any, Any]:
        network = init_soft_actor_critic(key, policy, critics, observation, space, config.initial_alpha)
        return network, tree.map(torch.clone, network.critic), start_optimizer(optimizer, network, *(_PARTS if optimizer else ()))

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        def objective(network: SoftActorCritic) -> Any:
            loss, metrics = sac_loss(
                *(network, learned.target, key, batch),
                **{"actor": policy.apply, "critic": critics.apply, "gamma": gamma, "weight": weight},
                target_entropy=target_entropy(space, hparams.entropy_share),
            )
            if not diverse:
                return loss, metrics
            alike, further = ensemble_diversity_loss(network.critic, batch, critic=critics.apply, weight=weight)
            return loss + 0.5 * hparams.diversity * alike, {**metrics, **further}  # the paper's squared errors have no factor 1/2

        learned, metrics = minimize(objective, learned, hparams.learning_rate, optimizer, *_PARTS)
        return learned.replace(target=soft_update(learned.network.critic, learned.target, tau=hparams.tau)), metrics

    return Learner(init, learn, *soft_policy(policy))
