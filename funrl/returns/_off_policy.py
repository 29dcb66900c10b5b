"""Targets from the experience of another policy: V-trace for values and advantages, and Retrace for action values."""

import math

import torch

from funrl import _check
from funrl.returns._recurrence import shift, solve_recurrence
from funrl.returns._td import discounts, td0


def vtrace(
    reward: torch.Tensor,
    value: torch.Tensor,
    next_value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    log_ratio: torch.Tensor,
    *,
    gamma: float | torch.Tensor,
    lambda_: float | torch.Tensor = 1.0,
    rho_clip: float | torch.Tensor = 1.0,
    c_clip: float | torch.Tensor = 1.0,
    advantage_clip: float | torch.Tensor = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Estimate advantages, and value targets, of a policy from the experience of another one.

    .. math:: v_t = V(s_t) + \delta_t + \gamma (1 - \mathrm{done}_t) c_t \left(v_{t+1} - V(s_{t+1})\right), \qquad
        \delta_t = \rho_t \left(r_t + \gamma (1 - \mathrm{terminated}_t) V(s'_t) - V(s_t)\right)

    .. math:: A_t = \min(\bar\alpha, w_t) \left(r_t + \gamma (1 - \mathrm{terminated}_t) q_t - V(s_t)\right), \qquad
        q_t = V(s'_t) + (1 - \mathrm{done}_t) \lambda \left(v_{t+1} - V(s_{t+1})\right)

    .. math:: w_t = \frac{\pi(a_t|s_t)}{\mu(a_t|s_t)}, \qquad \rho_t = \min(\bar\rho, w_t), \qquad c_t = \lambda \min(\bar c, w_t)

    With w = 1 (on-policy) the targets are :func:`funrl.returns.td_lambda` and the advantages :func:`funrl.returns.gae`.

    Args:
        reward: floating point [T, ...].
        value: V(s_t), floating point [T, ...].
        next_value: V of the true successor (not of the state after a reset), floating point [T, ...]; not used where terminated.
        terminated: bool [T, ...].
        truncated: bool [T, ...].
        log_ratio: log w_t: log pi(a_t|s_t), of the policy to learn, minus log mu(a_t|s_t), of the one that acted; floating point [T, ...].
        gamma: the discount in [0, 1], a number or a tensor that broadcasts to [T, ...].
        lambda_: in [0, 1], a number or a tensor that broadcasts to [T, ...].
        rho_clip: rho bar, above 0. With infinity, no clipping, the values are those of pi; otherwise of a policy between mu and pi.
        c_clip: c bar, above 0. If it is above 1, products of up to T ratios must be finite numbers.
        advantage_clip: alpha bar, above 0; the paper takes ``rho_clip``.

        Each clip is a number or a tensor [].

    Returns:
        The advantages A [T, ...] and the targets v [T, ...]. Gradients flow through both: detach them if that is not wanted.

    Raises:
        ValueError: if shapes differ (none are broadcast), T is 0, or a Python number is outside its range.
        TypeError: if a dtype is not as above.

    Example:
        >>> import torch
        >>> no = torch.tensor([False, False])
        >>> advantage, target = vtrace(
        ...     reward=torch.tensor([1.0, 1.0]), value=torch.tensor([0.0, 0.0]), next_value=torch.tensor([0.0, 2.0]),
        ...     terminated=no, truncated=no, log_ratio=torch.tensor([0.5, 0.25]).log(), gamma=1.0,
        ... )
        >>> advantage, target
        (tensor([0.8750, 0.7500]), tensor([0.8750, 0.7500]))

    Reference: L. Espeholt et al., "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures", 2018,
        arXiv:1802.01561, equations 1 and 4 and remark 2. In q_t, lambda is as in rlax: the paper's advantages have lambda = 1.
    """
    tensors = {"reward": reward, "value": value, "next_value": next_value, "terminated": terminated, "truncated": truncated}
    gamma, lambda_ = discounts("vtrace", gamma, lambda_, **tensors, log_ratio=log_ratio)
    rho, c, weight = (
        _clipped_ratio(log_ratio, name, clip)
        for name, clip in {"rho_clip": rho_clip, "c_clip": c_clip, "advantage_clip": advantage_clip}.items()
    )
    done, one_step = terminated | truncated, td0(reward, next_value, terminated, gamma=gamma)
    correction = solve_recurrence(rho * (one_step - value), torch.where(done, 0.0, gamma * lambda_ * c))
    advantage = weight * (one_step + gamma * lambda_ * torch.where(done, 0.0, shift(correction, 1)) - value)
    return advantage, correction + value


def _clipped_ratio(log_ratio: torch.Tensor, name: str, clip: float | torch.Tensor) -> torch.Tensor:
    # Clipped before exp, whose overflow would make NaN gradients.
    if isinstance(clip, torch.Tensor):
        return torch.minimum(log_ratio, clip.to(log_ratio.dtype).log()).exp()
    _check.number(f"vtrace: {name}", clip, "(0, inf]", "use math.inf for no clipping")
    return log_ratio.clamp(max=math.log(clip)).exp()


def retrace(
    reward: torch.Tensor,
    q_value: torch.Tensor,
    next_value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    log_ratio: torch.Tensor,
    *,
    gamma: float | torch.Tensor,
    lambda_: float | torch.Tensor,
) -> torch.Tensor:
    r"""Estimate targets for the action values of a policy from the experience of another policy.

    .. math:: G_t = Q(s_t, a_t) + e_t, \qquad e_t = \delta_t + \gamma (1 - \mathrm{done}_t) c_{t+1} e_{t+1}, \qquad e_T = 0

    .. math:: \delta_t = r_t + \gamma (1 - \mathrm{terminated}_t) V(s'_t) - Q(s_t, a_t), \qquad
        c_t = \lambda \min\left(1, \frac{\pi(a_t|s_t)}{\mu(a_t|s_t)}\right)

    Args:
        reward: floating point [T, ...].
        q_value: Q(s_t, a_t) of the action that was taken, floating point [T, ...].
        next_value: V(s') = E_pi Q(s', a) of the true successor (not of the state after a reset), floating point [T, ...];
            not used where terminated. With max_a Q(s', a) the policy to learn is the greedy one.
        terminated: bool [T, ...].
        truncated: bool [T, ...].
        log_ratio: log pi(a_t|s_t), of the policy to learn, minus log mu(a_t|s_t), of the one that acted; floating point [T, ...].
        gamma: the discount in [0, 1], a number or a tensor that broadcasts to [T, ...].
        lambda_: 0 (one-step targets, :func:`funrl.returns.td0`) to 1, a number or a tensor that broadcasts to [T, ...].

    Returns:
        G [T, ...]. Gradients flow through it: detach it if that is not wanted.

    Raises:
        ValueError: if shapes differ (none are broadcast), T is 0, or gamma or lambda_ is a Python number outside [0, 1].
        TypeError: if a dtype is not as above.

    Example:
        >>> import torch
        >>> no = torch.tensor([False, False])
        >>> retrace(
        ...     reward=torch.tensor([1.0, 1.0]), q_value=torch.tensor([0.0, 1.0]), next_value=torch.tensor([1.0, 2.0]),
        ...     terminated=no, truncated=no, log_ratio=torch.tensor([0.5, 0.5]).log(), gamma=1.0, lambda_=1.0,
        ... )
        tensor([3., 3.])

    Reference: R. Munos, T. Stepleton, A. Harutyunyan, M. G. Bellemare, "Safe and Efficient Off-Policy Reinforcement Learning", 2016,
        arXiv:1606.02647, equations 3 and 4.
    """
    tensors = {"reward": reward, "q_value": q_value, "next_value": next_value, "terminated": terminated, "truncated": truncated}
    gamma, lambda_ = discounts("retrace", gamma, lambda_, **tensors, log_ratio=log_ratio)
    c = lambda_ * log_ratio.clamp(max=0.0).exp()
    error = td0(reward, next_value, terminated, gamma=gamma) - q_value
    return q_value + solve_recurrence(error, torch.where(terminated | truncated, 0.0, gamma * shift(c, 1)))
