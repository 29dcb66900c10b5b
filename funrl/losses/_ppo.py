"""The losses of proximal policy optimisation."""

import math
from typing import Any

import torch

from funrl import _across, _check, tree
from funrl.losses._parts import detach, evaluate, fields, mean, sum_terms
from funrl.typing import Evaluate, Metrics

_MAX_LOG_RATIO = 20.0


@tree.dataclass
class PPOBatch(tree.Replaceable):
    """A batch for PPO; N stands for any number of batch dimensions.

    Attributes:
        observation: a tree of tensors [N..., ...].
        action: a tree of tensors [N..., ...].
        log_prob: floating point [N...], the log probability of the action under the policy that chose it.
        value: floating point [N...], the prediction of the value when the action was chosen.
        advantage: floating point [N...].
        target: floating point [N...], the target of the value.
    """

    observation: Any
    action: Any
    log_prob: torch.Tensor
    value: torch.Tensor
    advantage: torch.Tensor
    target: torch.Tensor


def normalize_advantage(advantage: torch.Tensor, eps: float | torch.Tensor = 1e-8) -> torch.Tensor:
    """Normalise advantages to mean 0 and standard deviation 1 over all of them; the result carries no gradient.

    The standard deviation is the biased one (divided by N), so that a batch of one gives 0 and not NaN.

    Args:
        advantage: floating point [...].
        eps: added to the standard deviation, above 0.

    Example:
        >>> import torch
        >>> normalize_advantage(torch.tensor([1.0, 3.0]))
        tensor([-1.,  1.])
    """
    wide = advantage.detach().to(torch.promote_types(advantage.dtype, torch.float32))  # eps underflows in half precision
    mean = wide.mean()
    mean, var = _across.moments(mean, (wide - mean).square().mean())
    return ((wide - mean) / (var.sqrt() + eps)).to(advantage.dtype)


def clipped_surrogate(
    log_prob: torch.Tensor, old_log_prob: torch.Tensor, advantage: torch.Tensor, *, clip: float | torch.Tensor
) -> torch.Tensor:
    r"""The negative clipped surrogate objective of every sample: take the mean and minimise.

    .. math:: -\min\left(\rho A, \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A\right), \qquad \rho = \frac{\pi(a|s)}{\pi_{old}(a|s)}

    Deviation: above log rho = 20, rho is continued by its tangent, :math:`e^{20} (\log\rho - 19)`: exp would overflow and give NaN
    gradients. So the gradient still reduces the probability of an action that has become far too likely.

    Args:
        log_prob: log pi(a|s), floating point [...]. Gradients flow through this alone.
        old_log_prob: log pi_old(a|s), floating point [...].
        advantage: A, floating point [...].
        clip: epsilon, at least 0, a number or a tensor [].

    Returns:
        Losses [...].

    Raises:
        ValueError: if shapes differ, or ``clip`` is a negative Python number.
        TypeError: if an argument is not a floating-point tensor.

    Example:
        >>> import torch
        >>> clipped_surrogate(torch.tensor([0.5, 0.5]), torch.zeros(2), torch.tensor([1.0, -1.0]), clip=0.2)
        tensor([-1.2000,  1.6487])

    Reference: J. Schulman, F. Wolski, P. Dhariwal, A. Radford, O. Klimov, "Proximal Policy Optimization Algorithms",
        2017, arXiv:1707.06347, equation 7.
    """
    _check.alike("clipped_surrogate", log_prob=log_prob, old_log_prob=old_log_prob, advantage=advantage)
    bound: Any = _check.in_dtype("clipped_surrogate: clip", clip, log_prob)
    advantage = advantage.detach()
    ratio = _ratio(log_prob - old_log_prob.detach())
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - bound, 1 + bound) * advantage)


def clipped_value_loss(value: torch.Tensor, old_value: torch.Tensor, target: torch.Tensor, *, clip: float | torch.Tensor) -> torch.Tensor:
    r"""Half the squared error of every value, clipped: a value gains nothing by a move of more than ``clip`` from the old prediction.

    .. math:: \tfrac12 \max\left((V - R)^2, (\mathrm{clip}(V, V_{old} - \epsilon, V_{old} + \epsilon) - R)^2\right)

    Args:
        value: V, floating point [...]. Gradients flow through this alone.
        old_value: V_old, floating point [...].
        target: R, floating point [...].
        clip: epsilon, at least 0, a number or a tensor []; infinity gives exactly half the squared error.

    Returns:
        Losses [...].

    Raises:
        ValueError: if shapes differ, or ``clip`` is a negative Python number.
        TypeError: if an argument is not a floating-point tensor.

    Example:
        >>> import torch
        >>> clipped_value_loss(torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([2.0]), clip=0.5)
        tensor([1.1250])

    Reference: J. Schulman, P. Moritz, S. Levine, M. Jordan, P. Abbeel, "High-Dimensional Continuous Control Using
        Generalized Advantage Estimation", 2015, arXiv:1506.02438, section 5, has the trust region for values of which this clipping is the
        counterpart; L. Engstrom et al., "Implementation Matters in Deep Policy Gradients", 2020, arXiv:2005.12729, write it down.
    """
    _check.alike("clipped_value_loss", value=value, old_value=old_value, target=target)
    clip = _check.in_dtype("clipped_value_loss: clip", clip, value)
    old_value, target = old_value.detach(), target.detach()
    clipped = torch.minimum(torch.maximum(value, old_value - clip), old_value + clip)
    return 0.5 * torch.maximum((value - target).square(), (clipped - target).square())


def ppo_loss(
    params: Any,
    batch: PPOBatch,
    *,
    apply: Evaluate,
    clip: float | torch.Tensor = 0.2,
    value_clip: float | torch.Tensor = math.inf,
    value_weight: float | torch.Tensor = 0.5,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of PPO: clipped surrogate, value error and entropy, as means over the batch.

    .. math:: L = L^{CLIP} + c_1 L^{V} - c_2 H

    Args:
        params: the parameters of ``apply``; the argument to differentiate.
        batch: the data, see :class:`PPOBatch`; nothing in it carries a gradient. Normalise its advantages first, if wanted.
        apply: ``apply(params, observation) -> (distribution, value [N...])``; the distribution's ``log_prob(action)`` and
            ``entropy()`` are [N...] (wrap one over vectors in ``Independent``).
        clip: the maximum distance of the probability ratio from 1, at least 0.
        value_clip: the maximum distance of values from the old prediction, at least 0; infinity disables this exactly.
        value_weight: c_1, at least 0.
        entropy_weight: c_2.
        weight: floating point [N...], of samples; None: all 1.

        Each hyperparameter is a number or a tensor [].

    Returns:
        The loss [], and metrics, each [] and without gradient: ``policy_loss``, ``value_loss``, ``entropy``,
        ``approximate_kl`` (the mean of (rho - 1) - log rho, an estimate of KL(old || new) that is never negative)
        and ``clip_fraction`` (the fraction of samples whose ratio is outside the clip range).

    Raises:
        ValueError: if shapes differ, or a Python number is negative where it must not be.
        TypeError: if an argument that should be a floating-point tensor is not.

    Example:
        >>> import torch
        >>> from funrl import distributions
        >>> def apply(params, observation):
        ...     return distributions.Categorical(observation @ params["policy"]), observation @ params["value"]
        >>> params = {"policy": torch.zeros(4, 2), "value": torch.zeros(4)}
        >>> batch = PPOBatch(
        ...     observation=torch.ones(8, 4), action=torch.arange(8) % 2, log_prob=torch.full((8,), 0.5).log(),
        ...     value=torch.zeros(8), advantage=torch.ones(8), target=torch.ones(8),
        ... )
        >>> gradient, (loss, metrics) = torch.func.grad_and_value(ppo_loss, has_aux=True)(params, batch, apply=apply)
        >>> loss, metrics["entropy"], gradient["value"]
        (tensor(-0.7500), tensor(0.6931), tensor([-0.5000, -0.5000, -0.5000, -0.5000]))

    Reference: J. Schulman, F. Wolski, P. Dhariwal, A. Radford, O. Klimov, "Proximal Policy Optimization Algorithms",
        2017, arXiv:1707.06347, equation 9; the estimate of KL is the third of J. Schulman, "Approximating KL Divergence", 2020.
    """
    what = "ppo_loss"
    _, log_prob, entropy, value = evaluate(what, apply, params, batch, **_columns(what, batch))
    clip, value_clip = _check.in_dtype(f"{what}: clip", clip, log_prob), _check.in_dtype(f"{what}: value_clip", value_clip, value)
    policy_loss = clipped_surrogate(log_prob, batch.log_prob, batch.advantage, clip=clip)
    value_loss = clipped_value_loss(value, batch.value, batch.target, clip=value_clip)
    loss, metrics = sum_terms(what, policy_loss, value_loss, entropy, value_weight, entropy_weight, weight)
    log_ratio = (log_prob - batch.log_prob).detach().clamp(max=_MAX_LOG_RATIO)
    return loss, {
        **metrics,
        "approximate_kl": (torch.expm1(log_ratio) - log_ratio).mean(),
        "clip_fraction": (torch.expm1(log_ratio).abs() > clip).to(log_ratio.dtype).mean(),
    }


def ppo_kl_loss(
    params: Any,
    batch: PPOBatch,
    old_policy: Any,
    *,
    apply: Evaluate,
    kl_weight: float | torch.Tensor,
    value_clip: float | torch.Tensor = math.inf,
    value_weight: float | torch.Tensor = 0.5,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of PPO with a KL penalty instead of clipping; :func:`adapt_kl_weight` adapts its weight.

    .. math:: L = \frac1N \sum_i w_i \left(-\rho_i A_i + \beta \, KL[\pi_{old}(\cdot|s_i), \pi(\cdot|s_i)] + c_1 L^V_i
        - c_2 \mathcal H_i\right), \qquad \rho = \frac{\pi(a|s)}{\pi_{old}(a|s)}

    Deviation: above log rho = 20, rho is continued by its tangent, :math:`e^{20} (\log\rho - 19)`: exp would overflow and give NaN
    gradients. So the gradient still reduces the probability of an action that has become far too likely.

    Args:
        params: the parameters of ``apply``; the argument to differentiate.
        batch: the data, see :class:`PPOBatch`; nothing in it carries a gradient.
        old_policy: the distributions that chose the actions, of batch shape [N...], a tree with a method ``kl``, as those of
            :mod:`funrl.distributions`; carries no gradient.
        apply: as for :func:`ppo_loss`.
        kl_weight: beta, at least 0.
        value_clip: as for :func:`ppo_loss`.
        value_weight: c_1, at least 0.
        entropy_weight: c_2.
        weight: w, floating point [N...]; None: all 1.

        Each hyperparameter is a number or a tensor [].

    Returns:
        The loss [], and metrics, each [] and without gradient: ``policy_loss`` (without the penalty), ``value_loss``, ``entropy`` and
        ``kl``, the mean of KL(old || new).

    Raises:
        ValueError: if shapes differ, or a Python number is negative where it must not be.
        TypeError: if an argument that should be a floating-point tensor is not.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> def apply(params, observation):
        ...     return Categorical(observation @ params["policy"]), observation @ params["value"]
        >>> params = {"policy": torch.zeros(4, 2), "value": torch.zeros(4)}
        >>> batch = PPOBatch(
        ...     observation=torch.ones(8, 4), action=torch.arange(8) % 2, log_prob=torch.full((8,), 0.5).log(),
        ...     value=torch.zeros(8), advantage=torch.ones(8), target=torch.ones(8),
        ... )
        >>> old_policy = Categorical(torch.tensor([0.9, 0.1]).log().expand(8, 2))
        >>> loss, metrics = ppo_kl_loss(params, batch, old_policy, apply=apply, kl_weight=2.0)
        >>> loss, metrics["kl"]
        (tensor(-0.0139), tensor(0.3681))

    Reference: J. Schulman, F. Wolski, P. Dhariwal, A. Radford, O. Klimov, "Proximal Policy Optimization Algorithms",
        2017, arXiv:1707.06347, equation 8.
    """
    what = "ppo_kl_loss"
    policy, log_prob, entropy, value = evaluate(what, apply, params, batch, **_columns(what, batch))
    kl = detach(old_policy).kl(policy)
    _check.alike(what, **{"apply's log_prob": log_prob, "old_policy's kl": kl})
    kl_weight, value_clip = _check.in_dtype(f"{what}: kl_weight", kl_weight, kl), _check.in_dtype(f"{what}: value_clip", value_clip, value)
    surrogate = -_ratio(log_prob - batch.log_prob.detach()) * batch.advantage.detach()
    value_loss = clipped_value_loss(value, batch.value, batch.target, clip=value_clip)
    loss, metrics = sum_terms(what, surrogate, value_loss, entropy, value_weight, entropy_weight, weight)
    return loss + kl_weight * mean(what, kl, weight), {**metrics, "kl": kl.detach().mean()}


def adapt_kl_weight(kl_weight: torch.Tensor, kl: torch.Tensor, *, target: float | torch.Tensor) -> torch.Tensor:
    r"""Adapt the weight of the KL penalty for the next update: halve it if the divergence was too small, double it if it was too large.

    .. math:: \beta \leftarrow \begin{cases} \beta / 2 & d < d_{targ} / 1.5 \\ 2 \beta & d > 1.5\, d_{targ} \\ \beta & \text{otherwise}
        \end{cases}

    Args:
        kl_weight: beta, floating point [].
        kl: d, the divergence after the update, floating point [].
        target: d_targ, above 0, a number or a tensor [].

    Raises:
        ValueError: if shapes differ, or ``target`` is a Python number that is not above 0.
        TypeError: if an argument is not a floating-point tensor.

    Example:
        >>> import torch
        >>> [adapt_kl_weight(torch.tensor(1.0), torch.tensor(kl), target=0.01) for kl in (0.001, 0.01, 0.1)]
        [tensor(0.5000), tensor(1.), tensor(2.)]

    Reference: J. Schulman, F. Wolski, P. Dhariwal, A. Radford, O. Klimov, "Proximal Policy Optimization Algorithms",
        2017, arXiv:1707.06347, section 4.
    """
    _check.alike("adapt_kl_weight", kl_weight=kl_weight, kl=kl)
    target = _check.in_dtype("adapt_kl_weight: target", target, kl, "(0, inf]")
    factor = torch.where(kl < target / 1.5, 0.5, torch.where(kl > target * 1.5, 2.0, torch.ones_like(kl_weight)))
    return kl_weight * factor


def _columns(what: str, batch: PPOBatch) -> Metrics:
    names = ("log_prob", "value", "advantage", "target")
    fields(f"{what}: batch", batch, ("observation", "action", *names), "funrl.losses.PPOBatch")
    return {f"batch.{name}": getattr(batch, name) for name in names}


def _ratio(log_ratio: torch.Tensor) -> torch.Tensor:
    """Return rho = exp(log_ratio), continued by its tangent where exp would overflow."""
    held = log_ratio.clamp(max=_MAX_LOG_RATIO)
    return held.exp() * (1 + (log_ratio - held))
