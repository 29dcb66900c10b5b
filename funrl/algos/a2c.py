"""Advantage actor-critic, one gradient step an update."""

from typing import Any

import torch

from funrl import nn, optim, policies, tree
from funrl.algos import _actor_critic as actor_critic, on_policy
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure
from funrl.env import AnyEnv, Transition
from funrl.losses import A2CBatch, a2c_loss
from funrl.returns import gae
from funrl.typing import Loss, Metrics

__all__ = ["A2CConfig", "make"]


@tree.dataclass
class A2CConfig(on_policy.ActorCriticConfig):
    """The options of :func:`make`, in addition to those of :class:`~funrl.algos.on_policy.ActorCriticConfig`.

    Attributes:
        lambda_: lambda of generalized advantage estimation, in [0, 1]; with 1, as in the paper, a return is the sum of the rewards of the
            rollout and the value at its end.
    """

    lambda_: Any = 1.0


def make(
    env: AnyEnv,
    *,
    network: nn.Net | nn.Module | policies.ActorCritic | None = None,
    optimizer: optim.Optimizer | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Algorithm:
    """Make A2C for an environment with vectors, images or dicts of both as observations, and discrete or continuous actions.

    An update collects T steps of B environments, estimates advantages, and takes one gradient step on :func:`funrl.losses.a2c_loss` with
    all samples.

    Args:
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        network: a net from observations [N, ...] to features [N, F], to which a policy head and a value head are added, or a
            :class:`funrl.policies.ActorCritic`, which computes both; None: the network that the options describe.
            :func:`funrl.nn.from_module` makes a net from a torch module.
        optimizer: any :class:`funrl.optim.Optimizer`; None: Adam with the options ``learning_rate``, ``anneal_steps`` and
            ``max_grad_norm``. With an optimizer these options cannot be given, and have no effect in ``learner.hparams``.
        loss: ``loss(params, rows, hparams, *, default, apply) -> (loss, metrics)`` instead of :func:`funrl.losses.a2c_loss`.
            ``default(params, rows, hparams)`` computes the original loss, ``rows`` is an :class:`~funrl.losses.A2CBatch`, and
            ``apply(params, observation)`` returns the distribution and the value. Its metrics, tensors [] without gradient, are added to
            those of a step.
        **options: fields of :class:`A2CConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``help(funrl.algos)`` lists its metrics.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"]
        tensor(32)

    Reference: V. Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", 2016, arXiv:1602.01783, algorithm S3.
        Deviations: all environments wait for the gradient step, so that the updates are synchronous; Adam instead of RMSProp.
    """
    config, given = configure(A2CConfig, options, network=network, optimizer=optimizer, loss=loss)
    on_policy.check_actor_critic(config, env, network)
    nets = actor_critic.make(config, env, network)

    def prepare(params: Any, samples: Transition, hparams: A2CConfig) -> A2CBatch:
        value, next_value = nets.values(params, samples)
        advantage, target = gae(
            samples.reward, value, next_value, samples.terminated, samples.truncated, gamma=hparams.gamma, lambda_=hparams.lambda_
        )
        return A2CBatch(nets.inputs(samples), *nets.rows((samples.action, advantage, target)))

    def own_loss(params: Any, rows: A2CBatch, hparams: A2CConfig) -> tuple[torch.Tensor, Metrics]:
        return a2c_loss(params, rows, apply=nets.both, value_weight=hparams.value_weight, entropy_weight=hparams.entropy_weight)

    spec = on_policy.Learner(nets.init, *on_policy.stochastic(nets), prepare, own_loss)
    return on_policy.make("a2c", env, config, spec, given, apply=nets.both)
