"""The losses of deep Q-networks by quantile regression (QR-DQN), whose values are distributions with fixed probabilities."""

import math
from typing import Any

import torch

from funrl import _check
from funrl.losses._actor_critic import bootstrap, critic_metrics
from funrl.losses._checks import mean
from funrl.losses._dqn import outputs_of, take
from funrl.losses._terms import huber
from funrl.typing import Apply, Metrics


def quantile_huber(quantiles: torch.Tensor, target: torch.Tensor, *, huber_delta: float | torch.Tensor = 1.0) -> torch.Tensor:
    r"""Return the quantile Huber loss of each sample: quantile regression that is smooth at 0.

    .. math:: \sum_{i=1}^K \frac1J \sum_{j=1}^J |\hat\tau_i - 1[y_j < \theta_i]| \, \frac{h_\kappa(y_j - \theta_i)}{\kappa}, \qquad
        \hat\tau_i = \frac{i - 1/2}{K}

    Args:
        quantiles: theta, floating point [..., K], the value at each of the K probabilities. Gradients flow through this alone.
        target: y, floating point [..., J], equally likely values.
        huber_delta: kappa, above 0, a number or a tensor []. For small kappa this approaches quantile regression. Infinity gives the
            limit of h_kappa, half the squared error, not divided by kappa.

    Returns:
        Losses [...].

    Raises:
        ValueError: if shapes do not fit, or ``huber_delta`` is a Python number that is not above 0.
        TypeError: if an argument is not a floating-point tensor.

    Example:
        >>> import torch
        >>> quantile_huber(torch.tensor([0.0, 2.0]), torch.tensor([1.0]))
        tensor(0.2500)

    Reference: W. Dabney, M. Rowland, M. G. Bellemare, R. Munos, "Distributional Reinforcement Learning with Quantile Regression", 2017,
        arXiv:1710.10044, equation 10; divided by kappa as in "Implicit Quantile Networks", 2018, arXiv:1806.06923, equation 3.
    """
    for name, x, letter in (("quantiles", quantiles, "K"), ("target", target, "J")):
        _check.floating(f"quantile_huber: {name}", x, shape=(*quantiles.shape[:-1], letter))
    delta = _check.in_dtype("quantile_huber: huber_delta", huber_delta, quantiles, "(0, inf]")
    count = quantiles.shape[-1]
    probability = (torch.arange(count, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / count
    error = target.detach().unsqueeze(-2) - quantiles.unsqueeze(-1)  # [..., K, J]
    share = torch.where(error < 0, 1 - probability.unsqueeze(-1), probability.unsqueeze(-1))
    unit = torch.where(delta == math.inf, 1.0, delta) if isinstance(delta, torch.Tensor) else 1.0 if delta == math.inf else delta
    return (share * huber(error, delta=delta) / unit).mean(-1).sum(-1)


def qr_dqn_loss(
    params: Any,
    target_params: Any,
    batch: Any,
    *,
    apply: Apply,
    target_apply: Apply | None = None,
    chooser_apply: Apply | None = None,
    gamma: float | torch.Tensor,
    huber_delta: float | torch.Tensor = 1.0,
    weight: torch.Tensor | None = None,
    action_start: int = 0,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of Q-learning by quantile regression.

    .. math:: L = \frac1N \sum_i w_i\, \ell(\theta(s_i, a_i), y_i), \qquad y_j = r + \gamma (1 - \mathrm{terminated})\,
        \bar\theta_j(s', a^*), \qquad a^* = \arg\max_{a'} \sum_j \bar\theta_j(s', a')

    with the loss l of :func:`quantile_huber`. With ``chooser_apply`` this is double Q-learning: theta in place of theta bar chooses a*.
    For n-step targets, ``reward`` is the sum of m rewards, ``next_observation`` the one after them, and ``gamma`` a tensor of
    gamma^m with the m of each sample.

    Args:
        apply: ``apply(params, observation) -> K quantiles of every action [N..., A, K]``.
        huber_delta: above 0, see :func:`quantile_huber`.
        params, target_params, batch, target_apply, chooser_apply, gamma, weight, action_start: as for :func:`funrl.losses.dqn_loss`.

    Returns:
        The loss [], and metrics, without gradient: ``critic_loss``, ``q_mean``, ``q_max``, ``target_mean``,
        ``target_max``, each [] (of the means of distributions), and ``td_error`` [N...], the absolute error of the mean, for
        prioritised replay.

    Raises:
        ValueError, TypeError: as for :func:`funrl.losses.dqn_loss`.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> ended = torch.tensor([False, True])
        >>> batch = Transition(torch.eye(2), torch.tensor([0, 1]), torch.ones(2), ended, ~ended, torch.eye(2), ())
        >>> params = torch.zeros(2, 4, 3)  # 3 quantiles of 4 actions by observation
        >>> loss, metrics = qr_dqn_loss(params, params, batch, apply=lambda p, x: torch.einsum("nd,dak->nak", x, p), gamma=1.0)
        >>> loss, metrics["td_error"]
        (tensor(0.7500), tensor([1., 1.]))

    Reference: W. Dabney, M. Rowland, M. G. Bellemare, R. Munos, "Distributional Reinforcement Learning with Quantile Regression", 2017,
        arXiv:1710.10044, algorithm 1; double Q-learning as in H. van Hasselt et al., 2015, arXiv:1509.06461, equation 4.
    """
    what = "qr_dqn_loss"
    networks = {"apply": apply, "target_apply": target_apply, "chooser_apply": chooser_apply}
    prediction, next_quantiles, chooser = outputs_of(what, "quantiles", ("A", "K"), params, target_params, batch, action_start, **networks)
    target = bootstrap(what, batch, take(next_quantiles, chooser.mean(-1).argmax(-1)), gamma)
    loss = mean(what, quantile_huber(prediction, target, huber_delta=huber_delta), weight)
    return loss, critic_metrics(loss, prediction.mean(-1), target.mean(-1))
