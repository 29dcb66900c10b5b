"""Parallelised Q-network: Q-learning without a replay buffer and without a target network."""

from typing import Any

import torch

from funrl import nn, optim, random, schedules, spaces, tree
from funrl.algos import on_policy
from funrl.algos._algorithm import Algorithm, in_dtype_of
from funrl.algos._arguments import configure, random_share
from funrl.algos._heads import project_action
from funrl.algos._networks import q_network
from funrl.algos._state import ActorParams
from funrl.algos.images import check_observations
from funrl.env import AnyEnv, Transition
from funrl.losses import take
from funrl.returns import q_lambda
from funrl.typing import Loss, Metrics

__all__ = ["PQNConfig", "make"]


@tree.dataclass
class PQNConfig(on_policy.OnPolicyConfig):
    """The options of :func:`make`, in addition to those of :class:`~funrl.algos.on_policy.OnPolicyConfig`.

    Attributes:
        num_epochs: passes over the T * B samples of an update.
        num_minibatches: gradient steps in a pass; divides T * B.
        lambda_: lambda of the lambda-returns, in [0, 1]; 0 gives one-step targets.
        epsilon_start: initial probability of a random action, in [0, 1].
        epsilon_end: final probability of a random action, in [0, 1].
        epsilon_steps: number of environment steps over which it changes linearly.
    """

    num_steps: int = tree.static(default=32)
    activation: str = tree.static(default="relu")
    max_grad_norm: Any = 10.0
    num_epochs: int = tree.static(default=2)
    num_minibatches: int = tree.static(default=8)
    lambda_: Any = 0.65
    epsilon_start: Any = 1.0
    epsilon_end: Any = 0.05
    epsilon_steps: Any = 100_000.0


@tree.dataclass
class PQNRows:
    """The training data of an update.

    Attributes:
        observation: observations [N, ...].
        action: int64 [N].
        target: floating point [N], the lambda-returns.
    """

    observation: Any
    action: torch.Tensor
    target: torch.Tensor


def make(
    env: AnyEnv,
    *,
    network: nn.OwnNet = None,
    optimizer: optim.Optimizer | None = None,
    exploration: schedules.Schedule | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Algorithm:
    r"""Make PQN for an environment with vectors, images or dicts of both as observations and discrete actions.

    An update collects T steps of B environments with an epsilon-greedy policy, computes lambda-returns once
    (:func:`funrl.returns.q_lambda`), and takes ``num_epochs`` times ``num_minibatches`` gradient steps. Layer normalisation in every hidden
    layer except convolutions makes learning stable without a target network.

    .. math:: L = \frac{1}{2N} \sum_i (G^\lambda_i - Q_\theta(s_i, a_i))^2

    Args:
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        network: a net from observations [N, ...] to the values of all actions [N, A]; None: the network that the options describe.
            :func:`funrl.nn.from_module` makes a net from a torch module.
        optimizer: any :class:`funrl.optim.Optimizer`; None: Adam with the options ``learning_rate``, ``anneal_steps`` and
            ``max_grad_norm``. With an optimizer these options cannot be given, and have no effect in ``learner.hparams``.
        exploration: a schedule of :mod:`funrl.schedules`, or another function of the number of environment steps so far, int64 []. It
            returns the probability of a random action, in [0, 1]; None: linear from ``epsilon_start`` to ``epsilon_end``.
        loss: ``loss(params, rows, hparams, *, default, apply) -> (loss, metrics)`` instead of the loss above. ``default(params, rows,
            hparams)`` computes the original loss, ``rows`` is a :class:`PQNRows`, and ``apply(params, observation)`` returns the values of
            all actions. Its metrics, tensors [] without gradient, are added to those of a step.
        **options: fields of :class:`PQNConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``help(funrl.algos)`` lists its metrics.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("Breakout-MinAtar"), num_envs=4, num_steps=8, num_channels=(4,), num_cells=(16,))
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"]
        tensor(32)

    Reference: M. Gallici et al., "Simplifying Deep Temporal Difference Learning", 2024, arXiv:2407.04811, algorithm 1 and its form with
        lambda-returns. Deviation: Adam instead of RAdam.
    """
    config, given = configure(PQNConfig, options, network=network, optimizer=optimizer, exploration=exploration, loss=loss)
    on_policy.check(config, env, network)
    if network is None:
        check_observations(env)
    if not isinstance(env.action_space, spaces.Discrete):
        raise ValueError(f"env: PQN expects Discrete actions, got {env.action_space}; for continuous ones take ppo, a2c or impala")
    on_policy.check_minibatches(config)
    space = env.action_space
    q_net = q_network(config, env, network, norm="layer")

    def act(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        coin_key, uniform_key = random.split(key).unbind(0)
        uniform = random.randint(uniform_key, (), 0, space.n)
        explore = random.uniform(coin_key, (), dtype=params.random.dtype) < params.random
        action = torch.where(explore, uniform, best(params, observation))
        return project_action(space, action), {"unclipped_action": action}

    def greedy(params: ActorParams, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        return project_action(space, best(params, observation)), {}

    def best(params: ActorParams, observation: torch.Tensor) -> torch.Tensor:
        return q_net.apply(params.network, in_dtype_of(params, observation)).argmax(-1)

    def prepare(params: Any, samples: Transition, hparams: PQNConfig) -> PQNRows:
        next_q = q_net.apply(params, samples.next_observation)
        target = q_lambda(samples.reward, next_q, samples.terminated, samples.truncated, gamma=hparams.gamma, lambda_=hparams.lambda_)
        return tree.flatten_batch(PQNRows(samples.observation, samples.action, target))

    def own_loss(params: Any, rows: PQNRows, hparams: PQNConfig) -> tuple[torch.Tensor, Metrics]:
        value = take(q_net.apply(params, rows.observation), rows.action)
        error = 0.5 * (rows.target - value).square().mean()
        return error, {"critic_loss": error.detach(), "q_mean": value.detach().mean()}

    def schedule(hparams: PQNConfig, num_steps: torch.Tensor) -> Metrics:
        return {"random": random_share(exploration, hparams, num_steps)}

    spec = on_policy.Learner(q_net.init, act, greedy, prepare, own_loss, config.num_epochs, config.num_minibatches, schedule=schedule)
    return on_policy.make("pqn", env, config, spec, given, apply=q_net.apply)
