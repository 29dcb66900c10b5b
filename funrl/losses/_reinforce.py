"""The losses of REINFORCE, without and with a baseline."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.losses._actor_critic import evaluate, sum_terms
from funrl.losses._checks import fields, mean
from funrl.typing import Actor, Evaluate, Metrics


@tree.dataclass
class ReinforceBatch:
    """A batch for REINFORCE; N stands for any number of batch dimensions.

    Attributes:
        observation: a tree of tensors [N..., ...].
        action: a tree of tensors [N..., ...], sampled from the policy to learn.
        returns: floating point [N...], the return from each step on, see :func:`funrl.returns.reward_to_go`.
    """

    observation: Any
    action: Any
    returns: torch.Tensor


def reinforce_loss(
    params: Any,
    batch: ReinforceBatch,
    *,
    apply: Actor,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of REINFORCE, whose gradient is an estimate of the negative gradient of the expected return.

    .. math:: L = -\frac1N \sum_i w_i \left(G_i \log \pi_\theta(a_i|s_i) + c \mathcal H(\pi_\theta(\cdot|s_i))\right)

    The exact objective also has a factor gamma^t for step t; most implementations, including this one, omit it (give it as ``weight``).

    Args:
        params: theta, the parameters of ``apply``; the argument to differentiate.
        batch: the data, see :class:`ReinforceBatch`; nothing in it carries a gradient.
        apply: ``apply(params, observation) -> distribution``; its ``log_prob(action)`` and ``entropy()`` are [N...] (wrap one over
            vectors in ``Independent``).
        entropy_weight: c, a number or a tensor [].
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, each [] and without gradient: ``policy_loss`` and ``entropy``.

    Raises:
        ValueError: if shapes differ.
        TypeError: if ``batch`` lacks a field, or an argument that should be a floating-point tensor is not.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> batch = ReinforceBatch(observation=torch.ones(2, 3), action=torch.tensor([0, 1]), returns=torch.tensor([1.0, 3.0]))
        >>> gradient, (loss, metrics) = torch.func.grad_and_value(reinforce_loss, has_aux=True)(
        ...     torch.zeros(3, 2), batch, apply=lambda p, x: Categorical(x @ p)
        ... )
        >>> loss, gradient[0]
        (tensor(1.3863), tensor([ 0.5000, -0.5000]))

    Reference: R. J. Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992,
        doi:10.1007/BF00992696 (no arXiv id).
    """
    what = "reinforce_loss"
    fields(f"{what}: batch", batch, ("observation", "action", "returns"), "funrl.losses.ReinforceBatch")
    distribution = apply(params, batch.observation)
    log_prob, entropy = distribution.log_prob(batch.action), distribution.entropy()
    _check.alike(what, **{"batch.returns": batch.returns, "apply's log_prob": log_prob, "apply's entropy": entropy})
    entropy_weight = _check.in_dtype(f"{what}: entropy_weight", entropy_weight, entropy, "[-inf, inf]")
    policy_loss, mean_entropy = -mean(what, batch.returns.detach() * log_prob, weight), mean(what, entropy, weight)
    return policy_loss - entropy_weight * mean_entropy, {"policy_loss": policy_loss.detach(), "entropy": mean_entropy.detach()}


def reinforce_with_baseline_loss(
    params: Any,
    batch: ReinforceBatch,
    *,
    apply: Evaluate,
    value_weight: float | torch.Tensor = 0.5,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of REINFORCE with a learned baseline, which changes the variance of the gradient but not its mean.

    .. math:: L = \frac1N \sum_i w_i \left(-(G_i - V(s_i)) \log \pi_\theta(a_i|s_i) + \frac{c_1}2 (G_i - V_\theta(s_i))^2
        - c_2 \mathcal H(\pi_\theta(\cdot|s_i))\right)

    The V of the first term carries no gradient.

    Args:
        params: theta, the parameters of ``apply``; the argument to differentiate.
        batch: the data, see :class:`ReinforceBatch`; nothing in it carries a gradient.
        apply: ``apply(params, observation) -> (distribution, value [N...])``, as for :func:`funrl.losses.ppo_loss`.
        value_weight, entropy_weight, weight: as for :func:`funrl.losses.a2c_loss`.

    Returns:
        The loss [], and metrics, as of :func:`funrl.losses.a2c_loss`.

    Raises:
        ValueError, TypeError: as for :func:`funrl.losses.a2c_loss`.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> batch = ReinforceBatch(observation=torch.ones(2, 3), action=torch.tensor([0, 1]), returns=torch.tensor([1.0, 3.0]))
        >>> params = {"policy": torch.zeros(3, 2), "value": torch.full((3,), 2 / 3)}
        >>> loss, metrics = reinforce_with_baseline_loss(
        ...     params, batch, apply=lambda p, x: (Categorical(x @ p["policy"]), x @ p["value"])
        ... )
        >>> metrics["policy_loss"], metrics["value_loss"]
        (tensor(0.), tensor(0.5000))

    Reference: R. J. Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992,
        doi:10.1007/BF00992696 (no arXiv id); R. S. Sutton, A. G. Barto, "Reinforcement Learning: An Introduction", 2018, section 13.4.
    """
    what = "reinforce_with_baseline_loss"
    fields(f"{what}: batch", batch, ("observation", "action", "returns"), "funrl.losses.ReinforceBatch")
    _, log_prob, entropy, value = evaluate(what, apply, params, batch, **{"batch.returns": batch.returns})
    returns = batch.returns.detach()
    policy_loss, value_loss = -(returns - value.detach()) * log_prob, 0.5 * (returns - value).square()
    return sum_terms(what, policy_loss, value_loss, entropy, value_weight, entropy_weight, weight)
