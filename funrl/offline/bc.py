"""Behavioural cloning."""

from typing import Any

import torch

from funrl import nn, tree
from funrl.algos import Algorithm, Learned, batchwise, deterministic_actor, half_width, minimize, soft_policy, start_optimizer
from funrl.algos.off_policy import Learner
from funrl.distributions import Categorical
from funrl.env import AnyEnv, Transition
from funrl.losses import ActorCritic, bc_loss
from funrl.nn import OwnNet
from funrl.offline import _skeleton as skeleton
from funrl.offline._parts import deterministic_policy, gaussian_actor, gaussian_policy
from funrl.offline._skeleton import Data, EnvOrSpaces, OfflineConfig
from funrl.optim import Optimizer
from funrl.spaces import Discrete
from funrl.typing import Metrics

__all__ = ["BCConfig", "make"]


@tree.dataclass
class BCConfig(OfflineConfig):
    """The options of :func:`make`: those of :class:`~funrl.offline.OfflineConfig`, and these.

    Attributes:
        stochastic: whether a continuous policy is a normal distribution, fitted by its likelihood; False: it is deterministic, fitted by
            squared distances. Discrete policies are always fitted by their likelihood.
    """

    stochastic: bool = tree.static(default=False)


def make(env: EnvOrSpaces, dataset: Data, *, actor: OwnNet = None, optimizer: Optimizer | None = None, **options: Any) -> Algorithm:
    """Make behavioural cloning: a policy that is fitted to the actions of the data.

    Args:
        env: the environment of the data, for its spaces and for evaluation; or the pair of its spaces.
        dataset: the data, of continuous or discrete actions; None: the learner only acts.
        actor: a net from observations [N, ...] to [N, A], which a tanh stretches to the box, or to logits [N, A]; None: as the
            configuration says.
        optimizer: any :class:`funrl.optim.Optimizer` instead of Adam with ``learning_rate``; None: Adam.
        **options: fields of :class:`BCConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``state.learner.params.network.actor`` are the parameters of the policy.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the data.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> data = funrl.offline.datasets.record(None, funrl.random.key(0), env=env, num_steps=100, num_envs=2)
        >>> algo = make(env, data, num_updates=3, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(2), algo.init(funrl.random.key(1)))
        >>> metrics["steps"]
        tensor(3)

    Reference: D. A. Pomerleau, "ALVINN: An Autonomous Land Vehicle in a Neural Network", NIPS 1988 (no arXiv id).
    """
    return skeleton.build("bc", BCConfig, env, dataset, learner, options, optimizer, {"actor": actor})


def learner(env: AnyEnv, config: BCConfig, optimizer: Optimizer | None, *, actor: Any) -> Learner:
    """Return the parts of behavioural cloning.

    Example:
        >>> import funrl
        >>> learner(funrl.envs.make("CartPole-v1"), BCConfig(), None, actor=None).delay
        1
    """
    skeleton.check("behavioural cloning", env, actor, discrete=True)
    space: Any = env.action_space
    discrete = isinstance(space, Discrete)
    if discrete and config.stochastic:
        raise ValueError("stochastic: is for continuous actions, and policies of discrete ones always are; leave it out")
    own = batchwise("actor", actor, env.observation_space, space.n if discrete else space.shape[0])
    if discrete:
        logits = own or nn.mlp(config.num_cells, space.n, activation=config.activation, out_init=nn.orthogonal(0.01))
        policy = nn.Net(logits.init, lambda params, observation: Categorical(logits.apply(params, observation)))
        act = soft_policy(policy)
    else:
        build = gaussian_actor if config.stochastic else deterministic_actor
        policy = build(config.num_cells, space, config.activation, own)
        act = gaussian_policy(policy, space) if config.stochastic else deterministic_policy(policy)

    def init(key: torch.Tensor, observation: Any) -> tuple[ActorCritic, Any, Any]:
        network = ActorCritic(policy.init(key, observation), ())
        return network, (), start_optimizer(optimizer, network, "actor")

    def learn(key: torch.Tensor, learned: Learned, batch: Transition, gamma: torch.Tensor, weight: torch.Tensor, hparams: Any) -> Any:
        scale = 1.0 if discrete else half_width(env.action_space, batch.reward)

        def loss(actor: Any) -> tuple[torch.Tensor, Metrics]:
            return bc_loss(actor, batch, actor=policy.apply, scale=scale, weight=weight)

        return minimize(loss, learned, hparams.learning_rate, optimizer, "actor")

    return Learner(init, learn, *act)
