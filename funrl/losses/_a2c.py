"""The loss of advantage actor-critic (A2C)."""

from typing import Any

import torch

from funrl import tree
from funrl.losses._actor_critic import evaluate, sum_terms
from funrl.losses._checks import fields
from funrl.typing import Evaluate, Metrics


@tree.dataclass
class A2CBatch:
    """A batch for A2C; N stands for any number of batch dimensions.

    Attributes:
        observation: a tree of tensors [N..., ...].
        action: a tree of tensors [N..., ...], sampled from the policy to learn.
        advantage: floating point [N...].
        target: floating point [N...], the target of the value.
    """

    observation: Any
    action: Any
    advantage: torch.Tensor
    target: torch.Tensor


def a2c_loss(
    params: Any,
    batch: A2CBatch,
    *,
    apply: Evaluate,
    value_weight: float | torch.Tensor = 0.5,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of A2C: policy gradient, value error and entropy, as means over the batch.

    .. math:: L = \frac1N \sum_i w_i \left(-A_i \log \pi_\theta(a_i|s_i) + \frac{c_1}2 (R_i - V_\theta(s_i))^2
        - c_2 \mathcal H(\pi_\theta(\cdot|s_i))\right)

    Args:
        params: theta, the parameters of ``apply``; the argument to differentiate.
        batch: the data, see :class:`A2CBatch`; nothing in it carries a gradient. :func:`funrl.returns.gae` gives advantages
            and targets (with lambda = 1 those of the paper).
        apply: ``apply(params, observation) -> (distribution, value [N...])``; the distribution's ``log_prob(action)`` and
            ``entropy()`` are [N...] (wrap one over vectors in ``Independent``).
        value_weight: c_1, at least 0, a number or a tensor [].
        entropy_weight: c_2, a number or a tensor [].
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, each [] and without gradient: ``policy_loss``, ``value_loss`` and ``entropy``.

    Raises:
        ValueError: if shapes differ, or ``value_weight`` is a negative Python number.
        TypeError: if ``batch`` lacks a field, or an argument that should be a floating-point tensor is not.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> batch = A2CBatch(
        ...     observation=torch.ones(2, 3), action=torch.tensor([0, 1]), advantage=torch.tensor([1.0, 1.0]), target=torch.ones(2)
        ... )
        >>> params = {"policy": torch.zeros(3, 2), "value": torch.zeros(3)}
        >>> loss, metrics = a2c_loss(params, batch, apply=lambda p, x: (Categorical(x @ p["policy"]), x @ p["value"]))
        >>> loss, metrics["value_loss"]
        (tensor(0.9431), tensor(0.5000))

    Reference: V. Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", 2016, arXiv:1602.01783, section 4 and algorithm S3.
    """
    what = "a2c_loss"
    fields(f"{what}: batch", batch, ("observation", "action", "advantage", "target"), "funrl.losses.A2CBatch")
    _, log_prob, entropy, value = evaluate(what, apply, params, batch, **{"batch.advantage": batch.advantage, "batch.target": batch.target})
    policy_loss, value_loss = -batch.advantage.detach() * log_prob, 0.5 * (batch.target.detach() - value).square()
    return sum_terms(what, policy_loss, value_loss, entropy, value_weight, entropy_weight, weight)
