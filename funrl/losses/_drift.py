"""Drift functions: how mirror learning keeps a policy near the one that acted, PPO's clipping among them."""

import math
from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.losses._parts import evaluate, sum_terms
from funrl.losses._ppo import PPOBatch, _columns as columns, _ratio as ratio_of, clipped_value_loss
from funrl.typing import Evaluate, Metrics

Drift = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@tree.dataclass
class LearnedDrift(tree.Replaceable):
    """Parameters of :func:`learned_drift`, a network without biases with H hidden units.

    Attributes:
        hidden: floating point [H, 8].
        output: floating point [H].
    """

    hidden: torch.Tensor
    output: torch.Tensor


def clip_drift(log_ratio: torch.Tensor, advantage: torch.Tensor, *, clip: float | torch.Tensor = 0.2) -> torch.Tensor:
    r"""Return the drift of PPO's clipping, for :func:`drift_loss`.

    .. math:: \mathfrak D(\rho, A) = \mathrm{ReLU}\left((\rho - \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon)) A\right)

    Args:
        log_ratio: log rho, floating point [...].
        advantage: A, floating point [...].
        clip: epsilon, at least 0, a number or a tensor [].

    Returns:
        Floating point [...], at least 0, and 0 at rho = 1.

    Raises:
        ValueError: if shapes differ, or ``clip`` is a negative Python number.
        TypeError: if an argument is not a floating-point tensor.

    Example:
        >>> import torch
        >>> clip_drift(torch.tensor([1.5, 0.5]).log(), torch.tensor([2.0, 2.0]))
        tensor([0.6000, 0.0000])

    Reference: J. G. Kuba, C. Schroeder de Witt, J. Foerster, "Mirror Learning: A Unifying Framework of Policy Optimisation", 2022,
        arXiv:2201.02373.
    """
    _check.alike("clip_drift", log_ratio=log_ratio, advantage=advantage)
    bound: Any = _check.in_dtype("clip_drift: clip", clip, log_ratio)
    ratio = ratio_of(log_ratio)
    return torch.relu((ratio - ratio.clamp(1 - bound, 1 + bound)) * advantage)


def dpo_drift(
    log_ratio: torch.Tensor, advantage: torch.Tensor, *, alpha: float | torch.Tensor = 2.0, beta: float | torch.Tensor = 0.6
) -> torch.Tensor:
    r"""Return the drift of discovered policy optimisation, for :func:`drift_loss`: a formula for what evolution had found.

    .. math:: \mathfrak D(\rho, A) = \begin{cases}
        \mathrm{ReLU}\left((\rho - 1) A - \alpha \tanh((\rho - 1) A / \alpha)\right) & A \ge 0 \\
        \mathrm{ReLU}\left(A \log \rho - \beta \tanh(A \log(\rho) / \beta)\right) & A < 0 \end{cases}

    It is meant for advantages of mean 0 and standard deviation 1.

    Args:
        log_ratio: log rho, floating point [...].
        advantage: A, floating point [...].
        alpha: above 0, a number or a tensor [].
        beta: above 0, a number or a tensor [].

    Returns:
        Floating point [...], at least 0, and 0 at rho = 1.

    Raises:
        ValueError: if shapes differ, or ``alpha`` or ``beta`` is a Python number that is not above 0.
        TypeError: if an argument is not a floating-point tensor.

    Example:
        >>> import torch
        >>> dpo_drift(torch.tensor([3.0, 1.0, 0.3]).log(), torch.tensor([1.0, 1.0, -1.0]))
        tensor([0.4768, 0.0000, 0.6253])

    Reference: C. Lu, J. G. Kuba, A. Letcher, L. Metz, C. Schroeder de Witt, J. Foerster, "Discovered Policy Optimisation", 2022,
        arXiv:2210.05639.
    """
    _check.alike("dpo_drift", log_ratio=log_ratio, advantage=advantage)
    a, b = (_check.in_dtype(f"dpo_drift: {name}", x, log_ratio, "(0, inf]") for name, x in (("alpha", alpha), ("beta", beta)))
    gain, log_gain = (ratio_of(log_ratio) - 1) * advantage, log_ratio * advantage
    return torch.where(advantage >= 0, torch.relu(gain - a * torch.tanh(gain / a)), torch.relu(log_gain - b * torch.tanh(log_gain / b)))


def learned_drift(params: LearnedDrift, log_ratio: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    r"""Return a drift that a network gives, for :func:`drift_loss`: learned policy optimisation.

    .. math:: \mathfrak D(\rho, A) = \mathrm{ReLU}\left(w^\top \tanh(W x) - 10^{-6}\right), \qquad
        x = \left(1 - \rho, (1 - \rho)^2, (1 - \rho) A, (1 - \rho)^2 A, \log\rho, (\log\rho)^2, A \log\rho, A (\log\rho)^2\right)

    As there are no biases and x is 0 at rho = 1, the drift and its gradient are 0 there for all parameters, as a drift's have to be.

    Args:
        params: :class:`LearnedDrift`, such as :func:`init_drift` makes.
        log_ratio: log rho, floating point [...].
        advantage: A, floating point [...].

    Returns:
        Floating point [...], at least 0, and 0 at rho = 1.

    Raises:
        ValueError: if shapes differ.
        TypeError: if an argument is not a floating-point tensor.

    Example:
        >>> import torch
        >>> params = LearnedDrift(hidden=torch.eye(8), output=torch.tensor([0.0, 1, 0, 0, 0, 0, 0, 0]))
        >>> learned_drift(params, torch.tensor([1.5, 1.0]).log(), torch.ones(2))
        tensor([0.2449, 0.0000])

    Reference: C. Lu, J. G. Kuba, A. Letcher, L. Metz, C. Schroeder de Witt, J. Foerster, "Discovered Policy Optimisation", 2022,
        arXiv:2210.05639.
    """
    _check.alike("learned_drift", log_ratio=log_ratio, advantage=advantage)
    _check.floating("learned_drift: params.hidden", params.hidden)
    away = 1 - ratio_of(log_ratio)
    plain = torch.stack([away, away.square(), away * advantage, away.square() * advantage], -1)
    logarithmic = torch.stack([log_ratio, log_ratio.square(), log_ratio * advantage, log_ratio.square() * advantage], -1)
    return torch.relu(torch.tanh(torch.cat([plain, logarithmic], -1) @ params.hidden.mT) @ params.output - 1e-6)


def init_drift(key: torch.Tensor, num_hidden: int = 128, dtype: torch.dtype = torch.float32) -> LearnedDrift:
    """Draw the first parameters of :func:`learned_drift`, whose drift is 0 everywhere as its output weights are.

    Args:
        key: a key [].
        num_hidden: H, at least 1.
        dtype: of the parameters.

    Example:
        >>> from funrl import random
        >>> init_drift(random.key(0), 4).hidden.shape
        torch.Size([4, 8])
    """
    if num_hidden < 1:
        raise ValueError(f"init_drift: num_hidden: expected at least 1, got {num_hidden}")
    hidden = random.normal(key, (num_hidden, 8), dtype=dtype) / math.sqrt(8)
    return LearnedDrift(hidden, torch.zeros_like(hidden[:, 0]))


def drift_loss(
    params: Any,
    batch: PPOBatch,
    *,
    apply: Evaluate,
    drift: Drift = dpo_drift,
    value_clip: float | torch.Tensor = math.inf,
    value_weight: float | torch.Tensor = 0.5,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of PPO with a drift function in the place of its clipping: mirror learning.

    .. math:: L = \frac1N \sum_i w_i \left(-\rho_i A_i + \mathfrak D(\rho_i, A_i) + c_1 L^V_i - c_2 \mathcal H_i\right), \qquad
        \rho = \frac{\pi(a|s)}{\pi_{old}(a|s)}

    With :func:`clip_drift` it is :func:`ppo_loss`. ``funrl.algos.ppo.with_drift(drift)`` makes PPO's ``loss=`` of it.

    Deviation: above log rho = 20, rho is continued by its tangent, as in :func:`clipped_surrogate`.

    Args:
        params: the parameters of ``apply``; the argument to differentiate.
        batch: the data, see :class:`PPOBatch`; nothing in it carries a gradient. Normalise its advantages first.
        apply: as for :func:`ppo_loss`.
        drift: ``drift(log_ratio [N...], advantage [N...]) -> D [N...]``: :func:`dpo_drift`, :func:`clip_drift`, or
            :func:`learned_drift` of its parameters. It is at least 0, and it and its gradient are 0 at a ratio of 1.
        value_clip: as for :func:`ppo_loss`.
        value_weight: c_1, at least 0.
        entropy_weight: c_2.
        weight: w, floating point [N...], of samples; None: all 1.

    Returns:
        The loss [], and metrics, each [] and without gradient: ``policy_loss``, ``value_loss``, ``entropy``, ``approximate_kl`` as for
        :func:`ppo_loss`, and ``drift``, the mean of D.

    Raises:
        ValueError, TypeError: as for :func:`ppo_loss`.

    Example:
        >>> import torch
        >>> from funrl import distributions
        >>> def apply(params, observation):
        ...     return distributions.Categorical(observation @ params["policy"]), observation @ params["value"]
        >>> params = {"policy": torch.zeros(4, 2), "value": torch.zeros(4)}
        >>> batch = PPOBatch(
        ...     observation=torch.ones(8, 4), action=torch.arange(8) % 2, log_prob=torch.full((8,), 0.2).log(),
        ...     value=torch.zeros(8), advantage=torch.ones(8), target=torch.ones(8),
        ... )
        >>> loss, metrics = drift_loss(params, batch, apply=apply)
        >>> metrics["policy_loss"], metrics["drift"]
        (tensor(-2.2703), tensor(0.2297))

    Reference: C. Lu, J. G. Kuba, A. Letcher, L. Metz, C. Schroeder de Witt, J. Foerster, "Discovered Policy Optimisation", 2022,
        arXiv:2210.05639; J. G. Kuba, C. Schroeder de Witt, J. Foerster, "Mirror Learning", 2022, arXiv:2201.02373.
    """
    what = "drift_loss"
    _, log_prob, entropy, value = evaluate(what, apply, params, batch, **columns(what, batch))
    value_clip = _check.in_dtype(f"{what}: value_clip", value_clip, value)
    log_ratio, advantage = log_prob - batch.log_prob.detach(), batch.advantage.detach()
    penalty = drift(log_ratio, advantage)
    _check.alike(what, **{"apply's log_prob": log_prob, "drift's result": penalty})
    policy_loss = penalty - ratio_of(log_ratio) * advantage
    value_loss = clipped_value_loss(value, batch.value, batch.target, clip=value_clip)
    loss, metrics = sum_terms(what, policy_loss, value_loss, entropy, value_weight, entropy_weight, weight)
    held = log_ratio.detach().clamp(max=20.0)
    return loss, {**metrics, "approximate_kl": (torch.expm1(held) - held).mean(), "drift": penalty.detach().mean()}
