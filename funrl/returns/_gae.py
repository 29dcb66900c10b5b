"""Generalized advantage estimation."""

import torch

from funrl.returns._checks import columns, fraction
from funrl.returns._recurrence import solve_recurrence
from funrl.returns._td import td0


def gae(
    reward: torch.Tensor,
    value: torch.Tensor,
    next_value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    *,
    gamma: float | torch.Tensor,
    lambda_: float | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Estimate advantages, and value targets, by an exponential average of n-step errors.

    .. math:: \delta_t = r_t + \gamma (1 - \mathrm{terminated}_t) V(s'_t) - V(s_t), \qquad
        A_t = \delta_t + \gamma \lambda (1 - \mathrm{done}_t) A_{t+1}, \qquad A_T = 0

    A terminated step does not bootstrap; a truncated one bootstraps from ``next_value``, but the advantages of later steps have no effect
    on it. ``next_value`` is the value of the true successor, so that no step is a special case, not even the last one.

    Args:
        reward: floating point [T, ...].
        value: V(s_t), floating point [T, ...].
        next_value: V of the true successor (not of the state after a reset), floating point [T, ...]; not used where terminated.
        terminated: bool [T, ...].
        truncated: bool [T, ...].
        gamma: the discount in [0, 1], a number or a tensor that broadcasts to [T, ...].
        lambda_: 0 (one-step errors) to 1 (Monte Carlo), a number or a tensor that broadcasts to [T, ...].

    Returns:
        The advantages A [T, ...] and the targets A + V(s) [T, ...] (TD(lambda) returns). Gradients flow through both: detach
        them if that is not wanted.

    Raises:
        ValueError: if shapes differ (none are broadcast), T is 0, or gamma or lambda_ is a Python number outside [0, 1].
        TypeError: if a dtype is not as above.

    Example:
        >>> import torch
        >>> advantage, target = gae(
        ...     reward=torch.tensor([1.0, 1.0]), value=torch.tensor([0.5, 0.5]), next_value=torch.tensor([0.5, 9.0]),
        ...     terminated=torch.tensor([False, True]), truncated=torch.tensor([False, False]), gamma=1.0, lambda_=1.0,
        ... )
        >>> advantage, target
        (tensor([1.5000, 0.5000]), tensor([2., 1.]))

    Reference: J. Schulman, P. Moritz, S. Levine, M. Jordan, P. Abbeel, "High-Dimensional Continuous Control Using
        Generalized Advantage Estimation", 2015, arXiv:1506.02438.
    """
    columns("gae", reward=reward, value=value, next_value=next_value, terminated=terminated, truncated=truncated)
    gamma, lambda_ = fraction("gae", "gamma", gamma, reward), fraction("gae", "lambda_", lambda_, reward)
    error = td0(reward, next_value, terminated, gamma=gamma) - value
    advantage = solve_recurrence(error, torch.where(terminated | truncated, 0.0, torch.ones_like(error) * gamma * lambda_))
    return advantage, advantage + value
