"""Checks of the returns at tracing: dtypes, shapes and ranges of Python numbers, never values of tensors."""

from typing import Any

import torch

from funrl import _check


def columns(what: str, **tensors: Any) -> None:
    """Check tensors of the shape [T, ...] of the first, as for :func:`funrl._check.alike`.

    Example:
        >>> columns("td0", reward=torch.zeros(()))
        Traceback (most recent call last):
        ...
        ValueError: td0: reward: expected the shape [T, ...] with T at least 1, got []; time comes first
    """
    _check.alike(what, **tensors)
    reference, first = next(iter(tensors.items()))
    if first.ndim == 0 or first.shape[0] == 0:
        _check.sized(f"{what}: {reference}", first, ("T", ...), "time comes first")


def fraction(what: str, name: str, x: float | torch.Tensor, like: torch.Tensor) -> float | torch.Tensor:
    """Return a number in [0, 1], or a tensor that broadcasts to ``like``, in the dtype of ``like``.

    Example:
        >>> fraction("td0", "gamma", 1.5, torch.zeros(3))
        Traceback (most recent call last):
        ...
        ValueError: td0: gamma: expected a number in [0, 1], got 1.5
    """
    if isinstance(x, torch.Tensor) and not _check.broadcasts(x.shape, like.shape):
        _check.fail(ValueError, f"{what}: {name}", f"a number or a shape that broadcasts to {list(like.shape)}", list(x.shape))
    return _check.in_dtype(f"{what}: {name}", x, like, "[0, 1]")
