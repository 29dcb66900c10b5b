"""Schedules: functions from an int64 count of steps to a number, for learning rates and exploration.

>>> import torch
>>> from funrl import optim, schedules
>>> opt = optim.adam(schedules.cosine(1e-3, 0.0, 10_000))
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from funrl import _check

__all__ = ["Schedule", "constant", "cosine", "linear"]

Number = float | torch.Tensor
Schedule = Callable[[torch.Tensor], torch.Tensor]


def constant(value: Number) -> Schedule:
    """Make a constant schedule of ``value``, at least 0.

    Example:
        >>> import torch
        >>> constant(0.5)(torch.tensor(10))
        tensor(0.5000)
    """
    _check.number("constant: value", value, "[0, inf]", tensor=True)
    return lambda count: torch.zeros_like(count, dtype=torch.get_default_dtype()) + value


def linear(start: Number, end: Number, num_steps: int | torch.Tensor) -> Schedule:
    """Make a schedule that changes linearly from ``start`` to ``end`` in ``num_steps`` updates, and is constant after that.

    Args:
        start: the rate at count 0, at least 0, a number or a tensor [].
        end: the rate from count ``num_steps`` on, at least 0, a number or a tensor [].
        num_steps: a whole number of at least 1, or a tensor [].

    Raises:
        ValueError: if a Python number is outside its range.
        TypeError: if a number is neither a Python number nor a tensor [].

    Example:
        >>> import torch
        >>> schedule = linear(1.0, 0.0, 4)
        >>> [schedule(torch.tensor(count)).item() for count in (0, 1, 4, 9)]
        [1.0, 0.75, 0.0, 0.0]
    """
    _check_schedule("linear", start, end, num_steps)

    def schedule(count: torch.Tensor) -> torch.Tensor:
        return start + (count / num_steps).clamp(0.0, 1.0) * (end - start)

    return schedule


def cosine(start: Number, end: Number, num_steps: int | torch.Tensor) -> Schedule:
    r"""Make a schedule that changes from ``start`` to ``end`` along half a cosine in ``num_steps`` updates, and is constant after that.

    .. math:: \alpha_t = \alpha_{end} + \tfrac12 (\alpha_{start} - \alpha_{end}) \left(1 + \cos \frac{\pi t}{n}\right)

    Args:
        start: the rate at count 0, at least 0, a number or a tensor [].
        end: the rate from count ``num_steps`` on, at least 0, a number or a tensor [].
        num_steps: n, a whole number of at least 1, or a tensor [].

    Raises:
        ValueError: if a Python number is outside its range.
        TypeError: if a number is neither a Python number nor a tensor [].

    Example:
        >>> import torch
        >>> schedule = cosine(1.0, 0.0, 4)
        >>> [round(schedule(torch.tensor(count)).item(), 4) for count in (0, 2, 4, 9)]
        [1.0, 0.5, 0.0, 0.0]

    Reference: I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016, arXiv:1608.03983
        (without the restarts).
    """
    _check_schedule("cosine", start, end, num_steps)

    def schedule(count: torch.Tensor) -> torch.Tensor:
        return end + 0.5 * (start - end) * (1 + torch.cos(math.pi * (count / num_steps).clamp(0.0, 1.0)))

    return schedule


def _check_schedule(name: str, start: Any, end: Any, num_steps: Any) -> None:
    _check.number(f"{name}: start", start, "[0, inf]", tensor=True)
    _check.number(f"{name}: end", end, "[0, inf]", tensor=True)
    if not isinstance(num_steps, torch.Tensor):
        _check.integer(f"{name}: num_steps", num_steps, 1)
