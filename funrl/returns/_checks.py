"""Checks of the returns at tracing: dtypes, shapes and ranges of Python numbers, never values of tensors."""

from typing import Any

import torch

_FLAGS = ("terminated", "truncated")


def columns(what: str, **tensors: Any) -> None:
    """Raise unless all tensors have the shape [T, ...] of the first; ``terminated`` and ``truncated`` are bool, the others floating point.

    Raises:
        ValueError: if a shape differs, or T is 0.
        TypeError: if a dtype is wrong.

    Example:
        >>> columns("td0", reward=torch.zeros(3), next_value=torch.zeros(3, 1))
        Traceback (most recent call last):
        ...
        ValueError: td0: next_value: expected the shape [3] of reward, got [3, 1]; nothing is broadcast: squeeze or reshape it
    """
    reference, first = next(iter(tensors.items()))
    for name, x in tensors.items():
        flag = name in _FLAGS
        if not isinstance(x, torch.Tensor) or not (x.dtype is torch.bool if flag else x.is_floating_point()):
            got = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            expected, dtype = ("bool", torch.bool) if flag else ("floating-point", torch.float32)
            raise TypeError(f"{what}: {name}: expected a {expected} tensor, got {got}; cast it with .to({dtype})")
        if x.shape != first.shape:
            raise ValueError(
                f"{what}: {name}: expected the shape {list(first.shape)} of {reference}, got {list(x.shape)}; "
                "nothing is broadcast: squeeze or reshape it"
            )
    if first.ndim == 0 or first.shape[0] == 0:
        raise ValueError(f"{what}: {reference}: expected the shape [T, ...] with T at least 1, got {list(first.shape)}; time comes first")


def fraction(what: str, name: str, x: float | torch.Tensor, like: torch.Tensor) -> float | torch.Tensor:
    """Return a number in [0, 1], or a tensor that broadcasts to ``like``, in the dtype of ``like``, so that it does not promote others.

    Raises:
        ValueError: if a Python number is outside [0, 1], or a tensor does not broadcast.

    Example:
        >>> fraction("td0", "gamma", 1.5, torch.zeros(3))
        Traceback (most recent call last):
        ...
        ValueError: td0: gamma: expected a number in [0, 1], got 1.5
    """
    if not isinstance(x, torch.Tensor):
        if not 0 <= x <= 1:
            raise ValueError(f"{what}: {name}: expected a number in [0, 1], got {x}")
        return x
    if x.ndim > like.ndim or any(n not in (1, m) for n, m in zip(reversed(x.shape), reversed(like.shape), strict=False)):
        raise ValueError(f"{what}: {name}: expected a number or a shape that broadcasts to {list(like.shape)}, got {list(x.shape)}")
    return x.to(like.dtype)
