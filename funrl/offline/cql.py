"""Conservative Q-learning, and its calibrated form, from data and then in the environment."""

import dataclasses
from typing import Any

import torch

from funrl import _check, nn, random, tree
from funrl.algos import (
    ActorParams,
    Algorithm,
    Learned,
    actor_and_critics,
    batchwise,
    init_soft_actor_critic,
    minimize,
    minimize_with_temperature,
    soft_policy,
    start_optimizer,
    stochastic_actor,
)
from funrl.algos.off_policy import Learner
from funrl.env import AnyEnv, Transition
from funrl.losses import SoftActorCritic, cql_critic_loss, discrete_cql_loss, sac_actor_loss
from funrl.nn import OwnNet
from funrl.offline import _skeleton as skeleton
from funrl.offline._dataset import Dataset, check_dataset
from funrl.offline._files import Stream
from funrl.offline._online import OnlineConfig
from funrl.offline._skeleton import Data, EnvOrSpaces, OfflineConfig
from funrl.optim import Optimizer, soft_update
from funrl.spaces import Discrete
from funrl.typing import Metrics

__all__ = ["CQLConfig", "CQLOnlineConfig", "make", "online"]

_CONTINUOUS = ("num_actions", "calibrated", "initial_alpha", "actor_learning_rate", "entropy_share")


@tree.dataclass
class CQLConfig(OfflineConfig):
    """The options of :func:`make`: those of :class:`~funrl.offline.OfflineConfig`, and these.

    Attributes:
        num_actions: n; the penalty for continuous actions evaluates 3 n actions.
        calibrated: whether the penalty of the policy's actions is bounded by the discounted returns of the data: Cal-QL. Its column
            ``return_to_go`` is computed with the ``gamma`` of the configuration. Returns of pieces that were cut off lack what came after;
            so with negative rewards there is no penalty of the policy's actions in their last rows.
        initial_alpha: the first temperature, above 0.
        penalty_weight: alpha, the weight of the penalty, at least 0.
        tau: how far the targets follow at each gradient step, in [0, 1].
        actor_learning_rate: of Adam for the actor and the temperature, at least 0.
        entropy_share: the temperature aims at an entropy of -``entropy_share`` for each action dimension, where their box is [-1, 1].
    """

    num_actions: int = tree.static(default=10)
    calibrated: bool = tree.static(default=False)
    initial_alpha: float = tree.static(default=1.0)
    penalty_weight: Any = 5.0
    tau: Any = 0.005
    actor_learning_rate: Any = 1e-4
    entropy_share: Any = 1.0


@tree.dataclass
class CQLOnlineConfig(CQLConfig, OnlineConfig):
    """The options of :func:`online`: those of :class:`CQLConfig` and of :class:`~funrl.offline.OnlineConfig`."""


def make(
    env: EnvOrSpaces, dataset: Data, *, actor: OwnNet = None, critic: OwnNet = None, optimizer: Optimizer | None = None, **options: Any
) -> Algorithm:
    """Make CQL: soft actor-critic, or double Q-learning of discrete actions, with a penalty on values of actions outside the data.

    Args:
        env: the environment of the data, for its spaces and for evaluation; or the pair of its spaces.
        dataset: the data, of continuous or discrete actions; None: the learner only acts.
        actor: a net from observations [N, ...] to [N, 2A], the parameters of a :class:`~funrl.distributions.TanhNormal`; None: as the
            configuration says. There is none for discrete actions.
        critic: a net from observations [N, ...] and actions [N, A] to [N, 1], of which two critics are made; or from observations to the
            values [N, A] of discrete actions; None: as the configuration says.
        optimizer: any :class:`funrl.optim.Optimizer` instead of Adam with the learning rates, with a state for each part; None: Adam.
        **options: fields of :class:`CQLConfig`. Discrete actions take ``penalty_weight`` (1 is usual), ``tau`` and those of all learners.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``state.learner.params.network`` is a :class:`~funrl.losses.SoftActorCritic`, or the parameters
        of the critic of discrete actions.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the data.
        TypeError: if an option has another type than its default; if the returns are to be a column of a stream.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> data = funrl.offline.datasets.record(None, funrl.random.key(0), env=env, num_steps=100, num_envs=2)
        >>> algo = make(env, data, calibrated=True, num_updates=2, batch_size=8, num_cells=(8,), num_actions=2)
        >>> state, metrics = algo.step(funrl.random.key(2), algo.init(funrl.random.key(1)))
        >>> metrics["steps"]
        tensor(2)

    Reference: A. Kumar, A. Zhou, G. Tucker, S. Levine, "Conservative Q-Learning for Offline Reinforcement Learning", 2020,
        arXiv:2006.04779; M. Nakamoto et al., "Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online Fine-Tuning", 2023,
        arXiv:2303.05479.
    """
    nets = {"actor": actor, "critic": critic}
    return skeleton.build("cql", CQLConfig, env, dataset, _either, options, optimizer, nets, _with_returns)


def online(
    env: AnyEnv, dataset: Dataset | None, *, actor: OwnNet = None, critic: OwnNet = None, optimizer: Optimizer | None = None, **options: Any
) -> Algorithm:
    """Make CQL, or Cal-QL, that continues in the environment, with a share of each batch from the data: its fine-tuning.

    Args:
        env: the environment to act in; its actions are continuous.
        dataset: the data; None: batches come from the replay buffer only.
        actor, critic, optimizer: as for :func:`make`.
        **options: fields of :class:`CQLOnlineConfig`. Transitions of the environment have no bound by ``calibrated``.

    Returns:
        An :class:`~funrl.algos.Algorithm`, whose state may continue one of :func:`make` (:func:`funrl.offline.hand_over`).

    Raises:
        ValueError, TypeError: as for :func:`make`.

    Example:
        >>> import funrl
        >>> options = dict(num_steps=8, num_updates=2, batch_size=4, num_cells=(8,), num_actions=2)
        >>> algo = online(funrl.envs.make("Pendulum-v1"), None, **options)
        >>> algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))[1]["steps"]
        tensor(8)
    """
    nets = {"actor": actor, "critic": critic}
    return skeleton.build("cql_online", CQLOnlineConfig, env, dataset, _learner, options, optimizer, nets, _with_returns)


def _with_returns(dataset: Dataset | Stream, config: CQLConfig) -> Dataset | Stream:
    if not config.calibrated:
        return dataset
    dataset = check_dataset("cql", dataset)
    rows = dataset.transition
    return dataset.replace(transition=rows.replace(extras={**rows.extras, "return_to_go": dataset.discounted_return(config.gamma)}))


def _either(env: AnyEnv, config: Any, optimizer: Any, **nets: Any) -> Learner:
    return (_discrete_learner if isinstance(env.action_space, Discrete) else _learner)(env, config, optimizer, **nets)


def _learner(env: AnyEnv, config: Any, optimizer: Any, *, actor: Any, critic: Any) -> Learner:
    skeleton.check("CQL", env, actor, critic)
    _check.fields(config, "[1, inf)", "num_actions")
    _check.fields(config, "[0, inf)", "penalty_weight", "actor_learning_rate")
    space: Any = env.action_space
    policy, critics = actor_and_critics(stochastic_actor, config, env, actor, critic, 2)
    networks: dict[str, Any] = {"actor": policy.apply, "critic": critics.apply}

    def init(key: torch.Tensor, observation: Any) -> tuple[SoftActorCritic, Any, Any]:
        network = init_soft_actor_critic(key, policy, critics, observation, space, config.initial_alpha)
        return network, tree.map(torch.clone, network.critic), start_optimizer(optimizer, network, "actor", "critic", "log_alpha")

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        (actor_key, critic_key), network = random.split(key).unbind(0), learned.network
        slower = hparams.replace(learning_rate=hparams.actor_learning_rate)
        bounds = {"low": space.low.to(batch.reward), "high": space.high.to(batch.reward), "num_actions": config.num_actions}
        bound = batch.extras["return_to_go"] if config.calibrated and "return_to_go" in batch.extras else None
        options = {"gamma": gamma, "penalty_weight": hparams.penalty_weight, "lower_bound": bound, "weight": weight, **bounds, **networks}

        def actor_loss(actor: Any) -> tuple[torch.Tensor, Metrics]:
            return sac_actor_loss(actor, network, actor_key, batch, weight=weight, **networks)

        def critic_loss(critic: Any) -> tuple[torch.Tensor, Metrics]:
            return cql_critic_loss(critic, network, learned.target, critic_key, batch, **options)

        learned, further = minimize_with_temperature(actor_loss, learned, weight, slower, space, optimizer)
        learned, metrics = minimize(critic_loss, learned, hparams.learning_rate, optimizer, "critic")
        target = soft_update(learned.network.critic, learned.target, tau=hparams.tau)
        return learned.replace(target=target), {**further, **metrics}

    return Learner(init, learn, *soft_policy(policy))


def _discrete_learner(env: AnyEnv, config: Any, optimizer: Any, *, actor: Any, critic: Any) -> Learner:
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    changed = [name for name in _CONTINUOUS if getattr(config, name) != defaults[name]]
    for name in (*changed, *(("actor",) if actor is not None else ())):
        raise ValueError(f"{name}: is for continuous actions, and {env.name} has discrete ones; leave it out")
    skeleton.check("CQL", env, critic, discrete=True)
    _check.fields(config, "[0, inf)", "penalty_weight")
    count = env.action_space.n
    net = batchwise("critic", critic, env.observation_space, count)
    net = net or nn.mlp(config.num_cells, count, activation=config.activation, out_init=nn.orthogonal(1.0))

    def init(key: torch.Tensor, observation: Any) -> tuple[Any, Any, Any]:
        network = net.init(key, observation)
        return network, tree.map(torch.clone, network), start_optimizer(optimizer, network)

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        options = {"gamma": gamma, "penalty_weight": hparams.penalty_weight, "weight": weight}

        def loss(network: Any) -> tuple[torch.Tensor, Metrics]:
            return discrete_cql_loss(network, learned.target, batch, apply=net.apply, **options)

        learned, metrics = minimize(loss, learned, hparams.learning_rate, optimizer)
        return learned.replace(target=soft_update(learned.network, learned.target, tau=hparams.tau)), metrics

    def act(params: ActorParams, key: torch.Tensor, observation: Any) -> torch.Tensor:
        return net.apply(params.network, observation).argmax(-1)

    return Learner(init, learn, act, act)
