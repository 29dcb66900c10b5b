"""Checks of hyperparameters."""

import math
from typing import Any

import torch

from funrl.schedules import check_number


def check_fraction(name: str, argument: str, x: Any) -> None:
    """Raise unless ``x`` is a number in [0, 1), or a tensor []."""
    check_number(name, argument, x, low=0.0)
    if not isinstance(x, torch.Tensor) and not x < 1:
        raise ValueError(f"{name}: {argument}: expected a number in [0, 1), got {x}")


def check_rate(name: str, x: Any) -> None:
    """Raise unless ``x`` is a schedule, or a finite number of at least 0, or a tensor []."""
    if callable(x):
        return
    check_number(name, "learning_rate", x, low=0.0)
    if not isinstance(x, torch.Tensor) and not math.isfinite(x):
        raise ValueError(f"{name}: learning_rate: expected a finite number, got {x}")
