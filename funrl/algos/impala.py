"""IMPALA, the importance-weighted actor-learner architecture, in one process."""

from typing import Any

import torch

from funrl import _check, nn, optim, policies, tree
from funrl.algos import _actor_critic as actor_critic, on_policy
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure
from funrl.env import AnyEnv, Transition
from funrl.losses import impala_loss
from funrl.typing import Loss, Metrics

__all__ = ["ImpalaConfig", "make"]


@tree.dataclass
class ImpalaConfig(on_policy.ActorCriticConfig):
    """The options of :func:`make`, in addition to those of :class:`~funrl.algos.on_policy.ActorCriticConfig`.

    Attributes:
        num_minibatches: number of batches, each of whole unrolls, and so of gradient steps in an update; divides ``num_envs``.
        lambda_: lambda of V-trace, in [0, 1]; the paper has 1.
        rho_clip: upper limit of the importance ratios in targets and advantages, above 0; infinity: no limit.
        c_clip: upper limit of the importance ratios that propagate a target to earlier steps, above 0; infinity: no limit.
    """

    num_envs: int = tree.static(default=32)
    num_steps: int = tree.static(default=20)
    num_minibatches: int = tree.static(default=4)
    lambda_: Any = 1.0
    rho_clip: Any = 1.0
    c_clip: Any = 1.0


def make(
    env: AnyEnv,
    *,
    network: nn.Net | nn.Module | policies.ActorCritic | None = None,
    optimizer: optim.Optimizer | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Algorithm:
    """Make IMPALA for an environment with vectors, images or dicts of both as observations, and discrete or continuous actions.

    The environments are the actors of the paper. With the latest parameters each of them collects an unroll of T steps. The learner then
    takes one gradient step of :func:`funrl.losses.impala_loss` on each batch of ``num_envs / num_minibatches`` unrolls. This simulates the
    delay between actors and learner: at the last batch the parameters that acted are ``num_minibatches - 1`` gradient steps old, and
    V-trace corrects for the difference.

    Args:
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        network: a net from observations [N, ...] to features [N, F], to which a policy head and a value head are added, or a
            :class:`funrl.policies.ActorCritic`, which computes both; None: the network that the options describe.
            :func:`funrl.nn.from_module` makes a net from a torch module.
        optimizer: any :class:`funrl.optim.Optimizer`; None: Adam with the options ``learning_rate``, ``anneal_steps`` and
            ``max_grad_norm``. With an optimizer these options cannot be given, and have no effect in ``learner.hparams``.
        loss: ``loss(params, rows, hparams, *, default, apply) -> (loss, metrics)`` instead of :func:`funrl.losses.impala_loss`.
            ``default(params, rows, hparams)`` computes the original loss, ``rows`` are unrolls, a :class:`~funrl.env.Transition` [B, T,
            ...], and ``apply(params, observation)`` returns the distribution and the value. Its metrics, tensors [] without gradient, are
            added to those of a step.
        **options: fields of :class:`ImpalaConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``help(funrl.algos)`` lists its metrics.

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
        arXiv:1802.01561. Deviations: one process, in which actors wait for the learner; Adam instead of RMSProp; no clipping of rewards.
    """
    config, given = configure(ImpalaConfig, options, network=network, optimizer=optimizer, loss=loss)
    on_policy.check_actor_critic(config, env, network)

    _check.divisor("num_minibatches", config.num_minibatches, config.num_envs, "num_envs", "batches are of whole unrolls")
    nets = actor_critic.make(config, env, network)

    def prepare(params: Any, samples: Transition, hparams: ImpalaConfig) -> Transition:
        return tree.permute(samples, (1, 0))  # unrolls first

    def own_loss(params: Any, unrolls: Transition, hparams: ImpalaConfig) -> tuple[torch.Tensor, Metrics]:
        unrolls = tree.permute(unrolls, (1, 0))
        return impala_loss(
            params,
            unrolls,
            apply=nets.both,
            gamma=unrolls.extras.get("discount", hparams.gamma),
            lambda_=hparams.lambda_,
            rho_clip=hparams.rho_clip,
            c_clip=hparams.c_clip,
            value_weight=hparams.value_weight,
            entropy_weight=hparams.entropy_weight,
        )

    spec = on_policy.Learner(
        nets.init,
        *on_policy.stochastic(nets),
        prepare,
        own_loss,
        num_minibatches=config.num_minibatches,
        extras=("log_prob",),
    )
    return on_policy.make("impala", env, config, spec, given, apply=nets.both)
