"""Updates of target parameters: soft (Polyak averaging) and hard."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.optim._optimizer import like


def soft_update(params: Any, target_params: Any, *, tau: float | torch.Tensor) -> Any:
    r"""Move target parameters towards the learned ones (Polyak averaging).

    .. math:: \bar\theta \leftarrow \tau \theta + (1 - \tau) \bar\theta

    Args:
        params: theta, a tree; a leaf that is not floating point (a count) is copied.
        target_params: theta bar, a tree like it.
        tau: in [0, 1], a number or a tensor []; 1 copies.

    Raises:
        ValueError: if the trees differ, or tau is a Python number outside [0, 1].

    Example:
        >>> import torch
        >>> soft_update({"w": torch.ones(2)}, {"w": torch.zeros(2)}, tau=0.25)
        {'w': tensor([0.2500, 0.2500])}

    Reference: T. P. Lillicrap et al., "Continuous control with deep reinforcement learning", 2015, arXiv:1509.02971, algorithm 1.
    """
    tree.check_like(target_params, params, "soft_update: target_params", "params")
    if not isinstance(tau, torch.Tensor):
        _check.number("soft_update: tau", tau, "[0, 1]")

    def move(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if not x.is_floating_point():
            return x.clone()
        rate = like(tau, x)
        return rate * x + (1 - rate) * target

    return tree.map(move, params, target_params)


def hard_update(params: Any, target_params: Any, *, count: torch.Tensor, period: int | torch.Tensor) -> Any:
    r"""Copy the learned parameters to the target parameters at every ``period``-th update.

    .. math:: \bar\theta \leftarrow \theta \quad\text{if } n \bmod N = 0

    Args:
        params: theta, a tree.
        target_params: theta bar, a tree like it.
        count: n, the number of updates so far, int64 [].
        period: N, a whole number of at least 1, or a tensor [] of one.

    Raises:
        ValueError: if the trees differ, or ``period`` is a Python number below 1.
        TypeError: if ``count`` or ``period`` is not whole.

    Example:
        >>> import torch
        >>> [hard_update(torch.tensor(1.0), torch.tensor(0.0), count=torch.tensor(n), period=10) for n in (19, 20)]
        [tensor(0.), tensor(1.)]

    Reference: V. Mnih et al., "Human-level control through deep reinforcement learning", Nature 518, 2015 (no arXiv id), algorithm 1.
    """
    tree.check_like(target_params, params, "hard_update: target_params", "params")
    _check.whole("hard_update: count", count, "give the number of updates so far, int64 []")
    if isinstance(period, torch.Tensor):
        _check.whole("hard_update: period", period)
    else:
        _check.integer("hard_update: period", period, 1)
    due = count % period == 0
    return tree.map(lambda x, target: torch.where(due, x, target), params, target_params)
