"""AWAC: advantage-weighted actor-critic, from data and then in the environment."""

from typing import Any

import torch

from funrl import _check, random, tree
from funrl.algos import Algorithm, Learned, actor_and_critics, init_actor_critic, minimize, start_optimizer
from funrl.algos.off_policy import Learner
from funrl.env import AnyEnv, Transition
from funrl.losses import ActorCritic, advantage_weighted_loss, awac_critic_loss
from funrl.nn import OwnNet
from funrl.offline import _skeleton as skeleton
from funrl.offline._dataset import Dataset
from funrl.offline._online import OnlineConfig
from funrl.offline._parts import gaussian_actor, gaussian_policy
from funrl.offline._skeleton import Data, EnvOrSpaces, OfflineConfig
from funrl.optim import Optimizer, soft_update
from funrl.typing import Metrics

__all__ = ["AWACConfig", "AWACOnlineConfig", "make", "online"]


@tree.dataclass
class AWACConfig(OfflineConfig):
    """The options of :func:`make`: those of :class:`~funrl.offline.OfflineConfig`, and these.

    Attributes:
        tau: how far the target critics follow at each gradient step, in [0, 1].
        temperature: beta = 1 / lambda, at least 0: the weight of an action is exp(beta * advantage).
        max_weight: the largest of these weights, above 0.
    """

    tau: Any = 0.005
    temperature: Any = 1.0
    max_weight: Any = 100.0


@tree.dataclass
class AWACOnlineConfig(AWACConfig, OnlineConfig):
    """The options of :func:`online`: those of :class:`AWACConfig` and of :class:`~funrl.offline.OnlineConfig`."""


def make(
    env: EnvOrSpaces, dataset: Data, *, actor: OwnNet = None, critic: OwnNet = None, optimizer: Optimizer | None = None, **options: Any
) -> Algorithm:
    """Make AWAC: critics of the policy, and a policy that clones actions by their advantage over its own.

    Args:
        actor: a net from observations [N, ...] to [N, A], the mean of the policy before a tanh; None: as the configuration says.
        env, dataset, critic, optimizer: as for :func:`funrl.offline.td3_bc.make`.
        **options: fields of :class:`AWACConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``state.learner.params.network`` is a :class:`~funrl.losses.ActorCritic`.

    Raises:
        ValueError, TypeError: as for :func:`funrl.offline.td3_bc.make`.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> data = funrl.offline.datasets.record(None, funrl.random.key(0), env=env, num_steps=100, num_envs=2)
        >>> algo = make(env, data, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(2), algo.init(funrl.random.key(1)))
        >>> metrics["steps"]
        tensor(2)

    Reference: A. Nair, A. Gupta, M. Dalal, S. Levine, "AWAC: Accelerating Online Reinforcement Learning with Offline Datasets", 2020,
        arXiv:2006.09359, algorithm 1. The value of a state is estimated by the critics at one action of the policy.
    """
    return skeleton.build("awac", AWACConfig, env, dataset, _learner, options, optimizer, {"actor": actor, "critic": critic})


def online(
    env: AnyEnv, dataset: Dataset | None, *, actor: OwnNet = None, critic: OwnNet = None, optimizer: Optimizer | None = None, **options: Any
) -> Algorithm:
    """Make AWAC that continues in the environment, with a share of each batch from the data.

    Args:
        env: the environment to act in.
        dataset: the data; None: batches come from the replay buffer only.
        actor, critic, optimizer: as for :func:`make`.
        **options: fields of :class:`AWACOnlineConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`, whose state may continue one of :func:`make` (:func:`funrl.offline.hand_over`).

    Raises:
        ValueError, TypeError: as for :func:`make`.

    Example:
        >>> import funrl
        >>> algo = online(funrl.envs.make("Pendulum-v1"), None, num_steps=8, num_updates=2, batch_size=4, num_cells=(8,))
        >>> algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))[1]["steps"]
        tensor(8)
    """
    return skeleton.build("awac_online", AWACOnlineConfig, env, dataset, _learner, options, optimizer, {"actor": actor, "critic": critic})


def _learner(env: AnyEnv, config: Any, optimizer: Any, *, actor: Any, critic: Any) -> Learner:
    skeleton.check("AWAC", env, actor, critic)
    _check.fields(config, "[0, inf)", "temperature")
    _check.fields(config, "(0, inf)", "max_weight")
    space: Any = env.action_space
    policy, critics = actor_and_critics(gaussian_actor, config, env, actor, critic, 2)
    networks: dict[str, Any] = {"actor": policy.apply, "critic": critics.apply}

    def init(key: torch.Tensor, observation: Any) -> tuple[ActorCritic, Any, Any]:
        network = init_actor_critic(key, policy, critics, observation, space)
        return network, tree.map(torch.clone, network.critic), start_optimizer(optimizer, network, "actor", "critic")

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        next_key, own_key = random.split(key).unbind(0)
        target = ActorCritic(learned.network.actor, learned.target)

        def critic_loss(critic: Any) -> tuple[torch.Tensor, Metrics]:
            return awac_critic_loss(critic, target, next_key, batch, gamma=gamma, weight=weight, **networks)

        learned, metrics = minimize(critic_loss, learned, hparams.learning_rate, optimizer, "critic")
        network = learned.network
        own = policy.apply(network.actor, batch.observation).sample(own_key)
        value = critics.apply(network.critic, batch.observation, own).amin(0)
        advantage = critics.apply(network.critic, batch.observation, batch.action).amin(0) - value
        weights = {"temperature": hparams.temperature, "max_weight": hparams.max_weight}

        def actor_loss(actor: Any) -> tuple[torch.Tensor, Metrics]:
            return advantage_weighted_loss(actor, advantage, batch, actor=policy.apply, weight=weight, **weights)

        learned, further = minimize(actor_loss, learned, hparams.learning_rate, optimizer, "actor")
        return learned.replace(target=soft_update(network.critic, learned.target, tau=hparams.tau)), {**metrics, **further}

    return Learner(init, learn, *gaussian_policy(policy, space))
