"""REINFORCE, with and without a baseline."""

from typing import Any

import torch

from funrl import _across, _check, nn, optim, policies, tree
from funrl.algos import _actor_critic as actor_critic, on_policy
from funrl.algos._algorithm import Algorithm
from funrl.algos._arguments import configure
from funrl.env import AnyEnv, Transition
from funrl.losses import ReinforceBatch, reinforce_loss, reinforce_with_baseline_loss
from funrl.returns import reward_to_go, td1
from funrl.typing import Loss, Metrics

__all__ = ["ReinforceConfig", "make"]


@tree.dataclass
class ReinforceConfig(on_policy.ActorCriticConfig):
    """The options of :func:`make`, in addition to those of :class:`~funrl.algos.on_policy.ActorCriticConfig`.

    Attributes:
        baseline: ``"value"``, a learned value function, or ``"none"``; with ``"none"`` ``value_weight`` has no effect.
    """

    num_steps: int = tree.static(default=512)
    learning_rate: Any = 3e-3
    baseline: str = tree.static(default="value")


@tree.dataclass
class ReinforceRows:
    """The training data of an update.

    Attributes:
        batch: :class:`funrl.losses.ReinforceBatch` of leaves [N, ...].
        weight: floating point [N], the weights of the samples.
    """

    batch: ReinforceBatch
    weight: torch.Tensor


def make(
    env: AnyEnv,
    *,
    network: nn.Net | nn.Module | policies.ActorCritic | None = None,
    optimizer: optim.Optimizer | None = None,
    loss: Loss | None = None,
    **options: Any,
) -> Algorithm:
    """Make REINFORCE for an environment with vectors, images or dicts of both as observations, and discrete or continuous actions.

    An update collects T steps of B environments and takes one gradient step on :func:`funrl.losses.reinforce_loss` or, with a baseline,
    :func:`funrl.losses.reinforce_with_baseline_loss`. T should be several times the length of an episode:

    - Without a baseline the loss uses only steps of episodes that end within the rollout. The return after a truncation counts as 0. If no
      episode ends, only the momentum of Adam changes the parameters. Long episodes are cut off more often than short ones, so that the
      samples are biased towards short episodes: a fraction of about L / T of the steps of episodes of length L is lost.
    - With a baseline, its value replaces the missing return where a truncation or the end of the rollout cuts an episode off.

    Args:
        env: an :class:`~funrl.env.Env`, or a :class:`~funrl.env.VectorEnv` of ``num_envs`` copies, pure or on the host.
        network: a net from observations [N, ...] to features [N, F], to which a policy head and a value head are added, or a
            :class:`funrl.policies.ActorCritic`, which computes both; None: the network that the options describe.
            :func:`funrl.nn.from_module` makes a net from a torch module.
        optimizer: any :class:`funrl.optim.Optimizer`; None: Adam with the options ``learning_rate``, ``anneal_steps`` and
            ``max_grad_norm``. With an optimizer these options cannot be given, and have no effect in ``learner.hparams``.
        loss: ``loss(params, rows, hparams, *, default, apply) -> (loss, metrics)`` instead of the loss above. ``default(params, rows,
            hparams)`` computes the original loss, ``rows`` is a :class:`ReinforceRows`, and ``apply(params, observation)`` returns the
            distribution and the value. Its metrics, tensors [] without gradient, are added to those of a step.
        **options: fields of :class:`ReinforceConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``help(funrl.algos)`` lists its metrics.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("CartPole-v1"), num_envs=4, num_steps=128, baseline="none")
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"]
        tensor(512)

    Reference: R. J. Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992,
        doi:10.1007/BF00992696 (no arXiv id); R. S. Sutton, A. G. Barto, "Reinforcement Learning: An Introduction", 2018, section 13.4.
        Deviations: several episodes in an update, Adam, and no factor gamma^t; without a baseline, episodes that do not end within the
        rollout are left out, and all remaining steps have the same weight, in whichever environment they were made.
    """
    config, given = configure(ReinforceConfig, options, network=network, optimizer=optimizer, loss=loss)
    on_policy.check_actor_critic(config, env, network)
    _check.one_of("baseline", config.baseline, ("value", "none"))
    nets = actor_critic.make(config, env, network)

    def prepare(params: Any, samples: Transition, hparams: ReinforceConfig) -> ReinforceRows:
        returns = reward_to_go(samples.reward, samples.terminated, samples.truncated, gamma=hparams.gamma)
        ends = samples.done.flip(0).cummax(0).values.flip(0)  # True if the episode ends at this step or later
        return rows(samples, returns, ends.to(returns.dtype))

    def prepare_with_baseline(params: Any, samples: Transition, hparams: ReinforceConfig) -> ReinforceRows:
        _, next_value = nets.values(params, samples)
        returns = td1(samples.reward, next_value, samples.terminated, samples.truncated, gamma=hparams.gamma)
        return rows(samples, returns, torch.ones_like(returns))

    def rows(samples: Transition, returns: torch.Tensor, counts: torch.Tensor) -> ReinforceRows:
        action, returns, counts = nets.rows((samples.action, returns, counts))
        return ReinforceRows(ReinforceBatch(nets.inputs(samples), action, returns), counts)

    def own_loss(params: Any, rows: ReinforceRows, hparams: ReinforceConfig) -> tuple[torch.Tensor, Metrics]:
        share, least = _across.mean(rows.weight.mean()), 1 / (_across.count() * len(rows.weight))
        weight = rows.weight / share.clamp(min=least)  # so that the loss is a mean over the steps with weight 1
        options = {"entropy_weight": hparams.entropy_weight, "weight": weight}
        if config.baseline == "none":
            total, metrics = reinforce_loss(params, rows.batch, apply=lambda params, x: nets.both(params, x)[0], **options)
        else:
            options["value_weight"] = hparams.value_weight
            total, metrics = reinforce_with_baseline_loss(params, rows.batch, apply=nets.both, **options)
        return total, {**metrics, "learned_fraction": share}

    prepare = prepare if config.baseline == "none" else prepare_with_baseline
    spec = on_policy.Learner(nets.init, *on_policy.stochastic(nets), prepare, own_loss)
    return on_policy.make("reinforce", env, config, spec, given, apply=nets.both)
