"""Schedules: functions from an int64 count of steps to a number, for learning rates and exploration.

>>> import torch
>>> from funrl import optim, schedules
>>> opt = optim.adam(schedules.cosine(1e-3, 0.0, 10_000))
"""

import math
from collections.abc import Callable
from typing import Any

import torch

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
    check_number("constant", "value", value, low=0.0)
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
    check_number(name, "start", start, low=0.0)
    check_number(name, "end", end, low=0.0)
    if not isinstance(num_steps, torch.Tensor) and (isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1):
        raise ValueError(f"{name}: num_steps: expected a whole number of at least 1, got {num_steps!r}")


def check_number(name: str, argument: str, x: Any, *, low: float = -math.inf) -> None:
    """Raise unless ``x`` is a number of at least ``low``, or a floating-point tensor []: of schedules, and of optimizers."""
    if isinstance(x, torch.Tensor):
        if x.ndim or not x.is_floating_point():
            raise TypeError(
                f"{name}: {argument}: expected a number or a floating-point tensor [], got {x.dtype} {list(x.shape)}; "
                f"for one value a copy, build {name} inside the function that vmap maps"
            )
        return
    if isinstance(x, bool) or not isinstance(x, int | float):
        raise TypeError(f"{name}: {argument}: expected a number or a floating-point tensor [], got {type(x).__name__}")
    if not x >= low:
        raise ValueError(f"{name}: {argument}: expected a number of at least {low}, got {x}")
