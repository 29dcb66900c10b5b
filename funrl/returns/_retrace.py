"""Retrace: off-policy targets for action values."""

import torch

from funrl.returns._checks import columns, fraction
from funrl.returns._recurrence import shift, solve_recurrence
from funrl.returns._td import td0


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
    columns(
        "retrace",
        **{"reward": reward, "q_value": q_value, "next_value": next_value, "terminated": terminated, "truncated": truncated},
        log_ratio=log_ratio,
    )
    gamma, lambda_ = fraction("retrace", "gamma", gamma, reward), fraction("retrace", "lambda_", lambda_, reward)
    c = lambda_ * log_ratio.clamp(max=0.0).exp()
    error = td0(reward, next_value, terminated, gamma=gamma) - q_value
    return q_value + solve_recurrence(error, torch.where(terminated | truncated, 0.0, gamma * shift(c, 1)))
