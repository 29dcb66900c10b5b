"""Generalized advantage estimation."""

import torch

from funrl.program import scan

__all__ = ["gae"]


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

    A terminated step has no successor's value; a truncated one has it, but no advantage comes back over it. ``next_value``
    belongs to the true successor, so that no step needs special care, the last one included.

    Args:
        reward: floating point [T, ...].
        value: V(s_t), floating point [T, ...].
        next_value: V of the state that the step led to (not of the one after a reset), floating point [T, ...]; not used where terminated.
        terminated: bool [T, ...].
        truncated: bool [T, ...].
        gamma: the discount in [0, 1], a number or a tensor that broadcasts to [T, ...].
        lambda_: 0 (one-step errors) to 1 (Monte Carlo), a number or a tensor that broadcasts to [T, ...].

    Returns:
        The advantages A [T, ...] and the targets A + V(s) [T, ...] (TD(lambda) returns). Gradients flow through both: detach
        what should carry none.

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
    for name, x in {"reward": reward, "value": value, "next_value": next_value, "terminated": terminated, "truncated": truncated}.items():
        flag = name in ("terminated", "truncated")
        if not isinstance(x, torch.Tensor) or not (x.dtype is torch.bool if flag else x.is_floating_point()):
            got = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            expected, dtype = ("bool", torch.bool) if flag else ("floating-point", torch.float32)
            raise TypeError(f"gae: {name}: expected a {expected} tensor, got {got}; cast it with .to({dtype})")
        if x.shape != reward.shape:
            raise ValueError(
                f"gae: {name}: expected the shape {list(reward.shape)} of reward, got {list(x.shape)}; "
                "nothing is broadcast: squeeze or reshape it"
            )
    if reward.ndim == 0 or reward.shape[0] == 0:
        raise ValueError(f"gae: reward: expected the shape [T, ...] with T at least 1, got {list(reward.shape)}; time comes first")
    for name, x in {"gamma": gamma, "lambda_": lambda_}.items():
        if isinstance(x, torch.Tensor):
            if x.ndim > reward.ndim or any(n not in (1, m) for n, m in zip(reversed(x.shape), reversed(reward.shape), strict=False)):
                raise ValueError(f"gae: {name}: expected a number or a shape that broadcasts to {list(reward.shape)}, got {list(x.shape)}")
        elif not 0 <= x <= 1:
            raise ValueError(f"gae: {name}: expected a number in [0, 1], got {x}")

    gamma, lambda_ = (x.to(reward.dtype) if isinstance(x, torch.Tensor) else x for x in (gamma, lambda_))
    delta = reward + gamma * torch.where(terminated, 0.0, next_value) - value
    decay = torch.where(terminated | truncated, 0.0, torch.ones_like(delta) * gamma * lambda_)

    def step(later: torch.Tensor, x: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        delta, decay = x
        advantage = delta + decay * later
        return advantage, advantage

    _, advantage = scan(step, torch.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantage, advantage + value
