"""The loss of the option-critic architecture."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.losses._actor_critic import sum_terms
from funrl.losses._checks import fields, mean
from funrl.typing import Metrics


@tree.dataclass
class OptionBatch:
    """A batch for the option-critic; N stands for any number of batch dimensions.

    Attributes:
        observation: a tree of tensors [N..., ...].
        action: a tree of tensors [N..., ...], sampled from the policy of the option.
        option: int64 [N...], the option that acted.
        advantage: floating point [N...], of the action in the option.
        target: floating point [N...], the target of the value of the option.
        next_observation: a tree of tensors [N..., ...], the true successors.
        option_advantage: floating point [N...], Q(s', w) - V(s'): how much better than a new choice it is to continue with the option.
        terminated: bool [N...], True where the episode ended in s', so that no option goes on.
    """

    observation: Any
    action: Any
    option: torch.Tensor
    advantage: torch.Tensor
    target: torch.Tensor
    next_observation: Any
    option_advantage: torch.Tensor
    terminated: torch.Tensor


def option_critic_loss(
    params: Any,
    batch: OptionBatch,
    *,
    apply: Any,
    deliberation_cost: float | torch.Tensor = 0.0,
    termination_weight: float | torch.Tensor = 1.0,
    value_weight: float | torch.Tensor = 0.5,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of the option-critic: gradients of the policies in the options, of their terminations and of their values.

    .. math:: L = \frac1N \sum_i w_i \left(-A_i \log \pi_{\omega_i}(a_i|s_i) + \frac{c_1}2 (y_i - Q_\Omega(s_i, \omega_i))^2
        - c_2 \mathcal H(\pi_{\omega_i}(\cdot|s_i)) + c_3 (1 - d_i) \beta_{\omega_i}(s'_i) (A_\Omega(s'_i, \omega_i) + \eta)\right)

    An option learns to terminate where another one is better by more than the deliberation cost η. A greater cost makes options longer.

    Args:
        params: theta, the parameters of ``apply``; the argument to differentiate.
        batch: the data, see :class:`OptionBatch`; nothing in it carries a gradient.
        apply: ``apply(params, observation, option) -> (distribution, value [N...], termination [N...])``: the policy of an option, its
            value Q(s, w), and the probability beta in [0, 1] that it terminates in s.
        deliberation_cost: eta, at least 0, a number or a tensor [].
        termination_weight: c_3, at least 0, a number or a tensor [].
        value_weight: c_1, at least 0, a number or a tensor [].
        entropy_weight: c_2, a number or a tensor [].
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, each [] and without gradient: ``policy_loss``, ``value_loss``, ``entropy``, ``termination_loss`` and
        ``termination``, the mean probability that an option terminates in a state that it leads to.

    Raises:
        ValueError: if shapes differ, or a weight or the cost is a negative Python number.
        TypeError: if ``batch`` lacks a field, or an argument that should be a floating-point tensor is not.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> x, one = torch.ones(2, 3), torch.ones(2)
        >>> batch = OptionBatch(x, torch.tensor([0, 1]), torch.tensor([0, 0]), one, one, x, -one, torch.tensor([False, True]))
        >>> def apply(params, observation, option):
        ...     return Categorical(torch.zeros(2, 2)), torch.zeros(2), params.sigmoid().expand(2)
        >>> loss, metrics = option_critic_loss(torch.tensor(0.0), batch, apply=apply)
        >>> metrics["termination_loss"], metrics["value_loss"]  # only the first sample goes on
        (tensor(-0.2500), tensor(0.5000))

    Reference: P.-L. Bacon, J. Harb, D. Precup, "The Option-Critic Architecture", 2016, arXiv:1609.05140, theorems 1 and 2; the deliberation
        cost is that of J. Harb, P.-L. Bacon, M. Klissarov, D. Precup, "When Waiting is not an Option: Learning Options with a Deliberation
        Cost", 2017, arXiv:1709.04571, with the horizon 0: it enters the terminations and not the values. Deviation: Q(s, w) is subtracted
        from the return of an action, as a baseline.
    """
    what = "option_critic_loss"
    names = ("observation", "action", "option", "advantage", "target", "next_observation", "option_advantage", "terminated")
    fields(f"{what}: batch", batch, names, "funrl.losses.OptionBatch")
    distribution, value, _ = apply(params, batch.observation, batch.option)
    _, _, termination = apply(params, batch.next_observation, batch.option)
    log_prob, entropy = distribution.log_prob(batch.action), distribution.entropy()
    given = {f"batch.{name}": getattr(batch, name) for name in ("advantage", "target", "option_advantage")}
    found = {"log_prob": log_prob, "entropy": entropy, "value": value, "termination": termination}
    _check.alike(what, **given, **{f"apply's {name}": x for name, x in found.items()})
    _check.flag(f"{what}: batch.terminated", batch.terminated, shape=value.shape)
    cost = _check.in_dtype(f"{what}: deliberation_cost", deliberation_cost, value)
    share = _check.in_dtype(f"{what}: termination_weight", termination_weight, value)
    worse = termination * (batch.option_advantage.detach() + cost)
    termination_loss = mean(what, torch.where(batch.terminated, 0.0, worse), weight)
    policy_loss, value_loss = -batch.advantage.detach() * log_prob, 0.5 * (batch.target.detach() - value).square()
    loss, metrics = sum_terms(what, policy_loss, value_loss, entropy, value_weight, entropy_weight, weight)
    means = {"termination_loss": termination_loss.detach(), "termination": termination.detach().mean()}
    return loss + share * termination_loss, {**metrics, **means}
