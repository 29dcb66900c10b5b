"""The loss of IMPALA: off-policy actor-critic with V-trace corrections."""

from typing import Any

import torch

from funrl.losses._actor_critic import check_transition, evaluate, sum_terms
from funrl.losses._checks import detach, fields
from funrl.returns import vtrace
from funrl.typing import Evaluate, Metrics


def impala_loss(
    params: Any,
    batch: Any,
    *,
    apply: Evaluate,
    gamma: float | torch.Tensor,
    lambda_: float | torch.Tensor = 1.0,
    rho_clip: float | torch.Tensor = 1.0,
    c_clip: float | torch.Tensor = 1.0,
    value_weight: float | torch.Tensor = 0.5,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of IMPALA, with the advantages A and targets v of :func:`funrl.returns.vtrace`.

    .. math:: L = \frac1N \sum_i w_i \left(-A_i \log \pi_\theta(a_i|s_i) + \frac{c_1}2 (v_i - V_\theta(s_i))^2
        - c_2 \mathcal H(\pi_\theta(\cdot|s_i))\right)

    Args:
        params: theta, the parameters of ``apply``; the argument to differentiate.
        batch: a :class:`funrl.env.Transition` of leaves [T, ...], time first, whose ``extras["log_prob"]`` is log mu(a|s) [T, ...] of the
            policy that acted; nothing in it carries a gradient.
        apply: ``apply(params, observation) -> (distribution, value [T, ...])``; the distribution's ``log_prob(action)`` and
            ``entropy()`` are [T, ...] (wrap one over vectors in ``Independent``). It is applied to ``next_observation`` too.
        gamma: in [0, 1], a number or a tensor that broadcasts to [T, ...].
        lambda_: in [0, 1], a number or a tensor that broadcasts to [T, ...]; the paper has 1.
        rho_clip: above 0, the maximum of the importance ratios of targets and advantages.
        c_clip: above 0, the maximum of the importance ratios in the traces of the recursion.
        value_weight: c_1, at least 0.
        entropy_weight: c_2.
        weight: w, floating point [T, ...]; None: all 1.

        Each hyperparameter from ``rho_clip`` on is a number or a tensor [].

    Returns:
        The loss [], and metrics, each [] and without gradient: ``policy_loss``, ``value_loss``, ``entropy`` and ``importance_ratio``,
        the mean of pi / mu.

    Raises:
        ValueError: if shapes differ, or a Python number is outside its range.
        TypeError: if ``batch`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(
        ...     observation=torch.ones(2, 3), action=torch.tensor([0, 1]), reward=torch.ones(2), terminated=no, truncated=no,
        ...     next_observation=torch.ones(2, 3), extras={"log_prob": torch.tensor([0.5, 0.5]).log()},
        ... )
        >>> params = {"policy": torch.zeros(3, 2), "value": torch.zeros(3)}
        >>> loss, metrics = impala_loss(params, batch, apply=lambda p, x: (Categorical(x @ p["policy"]), x @ p["value"]), gamma=1.0)
        >>> metrics["policy_loss"], metrics["value_loss"]  # targets 2 and 1
        (tensor(1.0397), tensor(1.2500))

    Reference: L. Espeholt et al., "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures", 2018,
        arXiv:1802.01561, section 4.2. Deviation: means over the batch where the paper has sums.
    """
    what = "impala_loss"
    check_transition(what, batch)
    fields(f"{what}: batch", batch, ("truncated", "extras"), "funrl.env.Transition")
    if not isinstance(batch.extras, dict) or "log_prob" not in batch.extras:
        got = sorted(batch.extras) if isinstance(batch.extras, dict) else type(batch.extras).__name__
        raise TypeError(f"{what}: batch.extras: expected a dict with log_prob, got {got}; act has to return it, as stochastic policies do")
    behaviour = batch.extras["log_prob"]
    _, next_value = apply(params, batch.next_observation)
    alike = {"batch.reward": batch.reward, "batch.extras['log_prob']": behaviour, "apply's value of next_observation": next_value}
    _, log_prob, entropy, value = evaluate(what, apply, params, batch, **alike)
    log_ratio = log_prob - behaviour
    experience = (batch.reward, value, next_value, batch.terminated, batch.truncated, log_ratio)
    clips = {"rho_clip": rho_clip, "c_clip": c_clip, "advantage_clip": rho_clip}
    advantage, target = detach(vtrace(*experience, gamma=gamma, lambda_=lambda_, **clips))
    policy_loss, value_loss = -advantage * log_prob, 0.5 * (target - value).square()
    loss, metrics = sum_terms(what, policy_loss, value_loss, entropy, value_weight, entropy_weight, weight)
    return loss, {**metrics, "importance_ratio": log_ratio.detach().exp().mean()}
