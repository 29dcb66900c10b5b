"""Checks of hyperparameters."""

import math
from typing import Any

import torch


def check_number(name: str, argument: str, x: Any, *, low: float = -math.inf) -> None:
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


def check_fraction(name: str, argument: str, x: Any) -> None:
    check_number(name, argument, x, low=0.0)
    if not isinstance(x, torch.Tensor) and not x < 1:
        raise ValueError(f"{name}: {argument}: expected a number in [0, 1), got {x}")


def check_rate(name: str, x: Any) -> None:
    if callable(x):
        return
    check_number(name, "learning_rate", x, low=0.0)
    if not isinstance(x, torch.Tensor) and not math.isfinite(x):
        raise ValueError(f"{name}: learning_rate: expected a finite number, got {x}")
