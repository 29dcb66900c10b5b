"""Implicit Q-learning, from data and then in the environment."""

import math
from typing import Any

import torch

from funrl import _check, nn, random, schedules, tree
from funrl.algos import Algorithm, Learned, actor_and_critics, batchwise, minimize, start_optimizer
from funrl.algos.off_policy import Learner
from funrl.env import AnyEnv, Transition
from funrl.losses import advantage_weighted_loss, iql_critic_loss, iql_value_loss
from funrl.nn import OwnNet
from funrl.offline import _skeleton as skeleton
from funrl.offline._dataset import Dataset
from funrl.offline._online import OnlineConfig
from funrl.offline._parts import gaussian_actor, gaussian_policy
from funrl.offline._skeleton import Data, EnvOrSpaces, OfflineConfig
from funrl.optim import Optimizer, soft_update
from funrl.typing import Metrics

__all__ = ["IQLConfig", "IQLOnlineConfig", "IQLParams", "make", "online"]


@tree.dataclass
class IQLConfig(OfflineConfig):
    """The options of :func:`make`: those of :class:`~funrl.offline.OfflineConfig`, and these.

    Attributes:
        tau: how far the target critics follow at each gradient step, in [0, 1].
        expectile: the value function estimates this expectile of the critics over the actions of the data; in [0, 1].
        temperature: beta, at least 0: the weight of an action is exp(beta * advantage).
        max_weight: the largest of these weights, above 0.
        decay_updates: the actor's learning rate falls as a cosine to 0 over so many gradient steps; infinity: it stays.
    """

    tau: Any = 0.005
    expectile: Any = 0.7
    temperature: Any = 3.0
    max_weight: Any = 100.0
    decay_updates: Any = math.inf


@tree.dataclass
class IQLOnlineConfig(IQLConfig, OnlineConfig):
    """The options of :func:`online`: those of :class:`IQLConfig` and of :class:`~funrl.offline.OnlineConfig`."""


@tree.dataclass
class IQLParams(tree.Replaceable):
    """Parameters of IQL.

    Attributes:
        actor: those of the policy.
        critic: those of two critics, leaves [2, ...].
        value: those of the value function.
    """

    actor: Any
    critic: Any
    value: Any


def make(
    env: EnvOrSpaces,
    dataset: Data,
    *,
    actor: OwnNet = None,
    critic: OwnNet = None,
    value: OwnNet = None,
    optimizer: Optimizer | None = None,
    **options: Any,
) -> Algorithm:
    """Make IQL: a value function that is an expectile over the actions of the data, critics that bootstrap from it, and a policy that
    clones actions by their advantage.

    Args:
        actor: a net from observations [N, ...] to [N, A], the mean of the policy before a tanh; None: as the configuration says.
        value: a net from observations [N, ...] to [N, 1]; None: as the configuration says.
        env, dataset, critic, optimizer: as for :func:`funrl.offline.td3_bc.make`.
        **options: fields of :class:`IQLConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``state.learner.params.network`` is an :class:`IQLParams`.

    Raises:
        ValueError, TypeError: as for :func:`funrl.offline.td3_bc.make`.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> data = funrl.offline.datasets.record(None, funrl.random.key(0), env=env, num_steps=100, num_envs=2)
        >>> algo = make(env, data, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(2), algo.init(funrl.random.key(1)))
        >>> sorted(metrics)[:3]
        ['actor_loss', 'advantage_weight', 'critic_loss']

    Reference: I. Kostrikov, A. Nair, S. Levine, "Offline Reinforcement Learning with Implicit Q-Learning", 2021, arXiv:2110.06169.
    """
    nets = {"actor": actor, "critic": critic, "value": value}
    return skeleton.build("iql", IQLConfig, env, dataset, _learner, options, optimizer, nets)


def online(
    env: AnyEnv,
    dataset: Dataset | None,
    *,
    actor: OwnNet = None,
    critic: OwnNet = None,
    value: OwnNet = None,
    optimizer: Optimizer | None = None,
    **options: Any,
) -> Algorithm:
    """Make IQL that continues in the environment, with a share of each batch from the data: its fine-tuning (section 5.3 of the paper).

    Args:
        env: the environment to act in.
        dataset: the data; None: batches come from the replay buffer only.
        actor, critic, value, optimizer: as for :func:`make`.
        **options: fields of :class:`IQLOnlineConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`, whose state may continue one of :func:`make` (:func:`funrl.offline.hand_over`).

    Raises:
        ValueError, TypeError: as for :func:`make`.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> data = funrl.offline.datasets.record(None, funrl.random.key(0), env=env, num_steps=100, num_envs=2)
        >>> options = dict(batch_size=8, num_cells=(8,))
        >>> before, after = make(env, data, num_updates=2, **options), online(env, data, num_steps=4, num_updates=2, **options)
        >>> state = funrl.offline.hand_over(after.init(funrl.random.key(1)), before.init(funrl.random.key(2)))
        >>> after.step(funrl.random.key(3), state)[1]["steps"]
        tensor(4)
    """
    nets = {"actor": actor, "critic": critic, "value": value}
    return skeleton.build("iql_online", IQLOnlineConfig, env, dataset, _learner, options, optimizer, nets)


def _learner(env: AnyEnv, config: Any, optimizer: Any, *, actor: Any, critic: Any, value: Any) -> Learner:
    skeleton.check("IQL", env, actor, critic, value)
    _check.fields(config, "[0, 1]", "expectile")
    _check.fields(config, "[0, inf)", "temperature")
    _check.fields(config, "(0, inf)", "max_weight")
    _check.fields(config, "(0, inf]", "decay_updates")
    space: Any = env.action_space
    policy, critics = actor_and_critics(gaussian_actor, config, env, actor, critic, 2)
    own = batchwise("value", value, env.observation_space, 1)
    baseline = own or nn.mlp(config.num_cells, 1, activation=config.activation, out_init=nn.orthogonal(1.0))
    networks: dict[str, Any] = {"value": lambda params, x: baseline.apply(params, x).squeeze(-1), "critic": critics.apply}

    def init(key: torch.Tensor, observation: Any) -> tuple[IQLParams, Any, Any]:
        actor_key, critic_key, value_key = random.split(key, 3).unbind(0)
        action = tree.leaves(observation)[0].new_zeros(space.shape)
        parts = critics.init(critic_key, observation, action), baseline.init(value_key, observation)
        network = IQLParams(policy.init(actor_key, observation), *parts)
        return network, tree.map(torch.clone, network.critic), start_optimizer(optimizer, network, "actor", "critic", "value")

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        rate, weights = hparams.learning_rate, {"temperature": hparams.temperature, "max_weight": hparams.max_weight}

        def value_loss(value: Any) -> tuple[torch.Tensor, Metrics]:
            return iql_value_loss(value, learned.target, batch, expectile=hparams.expectile, weight=weight, **networks)

        def actor_loss(actor: Any) -> tuple[torch.Tensor, Metrics]:
            return advantage_weighted_loss(actor, advantage, batch, actor=policy.apply, weight=weight, **weights)

        def critic_loss(critic: Any) -> tuple[torch.Tensor, Metrics]:
            return iql_critic_loss(critic, learned.network.value, batch, gamma=gamma, weight=weight, **networks)

        learned, metrics = minimize(value_loss, learned, rate, optimizer, "value")
        advantage = metrics.pop("advantage")
        actor_rate = schedules.cosine(rate, 0.0, hparams.decay_updates)(learned.num_updates)
        learned, further = minimize(actor_loss, learned, actor_rate, optimizer, "actor")
        learned, last = minimize(critic_loss, learned, rate, optimizer, "critic")
        target = soft_update(learned.network.critic, learned.target, tau=hparams.tau)
        return learned.replace(target=target), {**metrics, **further, **last}

    return Learner(init, learn, *gaussian_policy(policy, space))
