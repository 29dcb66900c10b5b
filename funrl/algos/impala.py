"""IMPALA, the importance-weighted actor-learner architecture, in one process."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.algos import _actor_critic as actor_critic, on_policy
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure
from funrl.algos.on_policy import ActorCriticConfig, Learner
from funrl.env import Env, Transition
from funrl.losses import impala_loss
from funrl.nn import Module, Net
from funrl.optim import Optimizer
from funrl.policies import ActorCritic
from funrl.typing import Loss, Metrics

__all__ = ["ImpalaConfig", "make"]


@tree.dataclass
class ImpalaConfig(ActorCriticConfig):
    """The options of :func:`make`: those of :class:`~funrl.algos.on_policy.ActorCriticConfig`, and these.

    Attributes:
        num_minibatches: batches of whole unrolls that wait for the learner; divides ``num_envs``.
        lambda_: of V-trace, in [0, 1]; the paper has 1.
        rho_clip: of the importance ratios of targets and advantages, above 0; infinity: none.
        c_clip: of those that carry a target back, above 0; infinity: none.
    """

    num_envs: int = tree.static(default=32)
    num_steps: int = tree.static(default=20)
    num_minibatches: int = tree.static(default=4)
    lambda_: Any = 1.0
    rho_clip: Any = 1.0
    c_clip: Any = 1.0


def make(
    env: Env,
    *,
    network: Net | Module | ActorCritic | None = None,
    optimizer: Optimizer | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Algorithm:
    """Make IMPALA for an environment with vectors, images or dicts of both as observations, and discrete or continuous actions.

    The environments are the actors. Each takes the learner's newest parameters, unrolls T steps and puts them into a queue, from which
    the learner takes batches of ``num_envs / num_minibatches`` unrolls, one gradient step of :func:`funrl.losses.impala_loss` each.
    The wait in the queue stands for the actors' lag: the policy that acted in the last batch is by then ``num_minibatches - 1`` gradient
    steps old, and V-trace corrects for what the newest one would have done otherwise.

    Args:
        env: a pure environment, or a batched one of ``num_envs`` copies, which may run on the host.
        network: a net from observations [N, ...] to features [N, F], on which policy and value have a head each, or a
            :class:`funrl.policies.ActorCritic`, which is both; None: as the configuration says. A torch module comes in by
            :func:`funrl.nn.from_module`.
        optimizer: any :class:`funrl.optim.Optimizer`, which takes the place of ``learning_rate``, ``anneal_steps`` and ``max_grad_norm``,
            in ``learner.hparams`` too; None: Adam with these.
        loss: ``loss(params, rows, hparams, *, default, apply) -> (loss, metrics)`` in the place of :func:`funrl.losses.impala_loss`,
            which is
            ``default(params, rows, hparams)``; ``rows`` are unrolls, a :class:`~funrl.env.Transition` [B, T, ...], and ``apply(params,
            observation)`` gives the distribution and the value. Its metrics, tensors [] without gradient, are among those of a step.
        **options: fields of :class:`ImpalaConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`, and its metrics are
        those of :func:`funrl.algos.on_policy.make`, among them ``importance_ratio``.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("CartPole-v1"), num_envs=4, num_steps=8, num_minibatches=2)
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"]
        tensor(32)

    Reference: L. Espeholt et al., "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures", 2018,
        arXiv:1802.01561. Deviations: one process, in which actors wait for the learner; Adam stands for RMSProp; rewards stay as
        they are.
    """
    config, given = configure(ImpalaConfig, options, network=network, optimizer=optimizer, loss=loss)
    on_policy.check_actor_critic(config, env, network)
    _check.fields(config, "[1, inf)", "num_minibatches")
    _check.fields(config, "[0, 1]", "lambda_")
    _check.fields(config, "(0, inf]", "rho_clip", "c_clip")
    _check.divisor("num_minibatches", config.num_minibatches, config.num_envs, "num_envs", "batches are of whole unrolls")
    nets = actor_critic.make(config, env, network)

    def prepare(params: Any, samples: Transition, hparams: ImpalaConfig) -> Transition:
        return tree.permute(samples, (1, 0))  # unrolls first

    def own_loss(params: Any, unrolls: Transition, hparams: ImpalaConfig) -> tuple[torch.Tensor, Metrics]:
        return impala_loss(
            params,
            tree.permute(unrolls, (1, 0)),
            apply=nets.both,
            gamma=hparams.gamma,
            lambda_=hparams.lambda_,
            rho_clip=hparams.rho_clip,
            c_clip=hparams.c_clip,
            value_weight=hparams.value_weight,
            entropy_weight=hparams.entropy_weight,
        )

    spec = Learner(
        nets.init,
        *on_policy.stochastic(nets),
        prepare,
        own_loss,
        num_minibatches=config.num_minibatches,
        extras=("log_prob",),
    )
    return on_policy.make("impala", env, config, spec, given, apply=nets.both)
