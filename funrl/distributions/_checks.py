"""Checks of the distributions: dtypes and shapes at tracing, and values only where that is cheap."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from funrl.compiler import transformed


def floating(what: str, x: Any) -> torch.Tensor:
    """Check that ``x`` is a floating-point tensor, and return it.

    Raises:
        TypeError: if it is not; the message begins with ``what``.

    Example:
        >>> floating("Normal: scale", 1)
        Traceback (most recent call last):
        ...
        TypeError: Normal: scale: expected a floating-point tensor, got int; make it one with torch.tensor(..., dtype=torch.float32)
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(
            f"{what}: expected a floating-point tensor, got {type(x).__name__}; make it one with torch.tensor(..., dtype=torch.float32)"
        )
    if not x.is_floating_point():
        raise TypeError(f"{what}: expected a floating-point tensor, got {x.dtype}; cast it with .to(torch.float32)")
    return x


def broadcast(what: str, first: torch.Size | tuple[int, ...], second: torch.Size | tuple[int, ...]) -> torch.Size:
    """Return the broadcast shape of two shapes, which has to be one of them: [B, 1] and [B] would silently give [B, B].

    Raises:
        ValueError: if neither shape broadcasts to the other; the message begins with ``what``.

    Example:
        >>> broadcast("Normal: loc and scale", (3, 2), (2,))
        torch.Size([3, 2])
        >>> broadcast("Normal: loc and scale", (3, 1), (3,))
        Traceback (most recent call last):
        ...
        ValueError: Normal: loc and scale: expected two shapes of which one broadcasts to the other, got [3, 1] and [3]; reshape one of them
    """
    try:
        common = torch.Size(np.broadcast_shapes(first, second))
    except ValueError:
        common = None
    if common is None or common not in (torch.Size(first), torch.Size(second)):
        raise ValueError(
            f"{what}: expected two shapes of which one broadcasts to the other, got {list(first)} and {list(second)}; reshape one of them"
        )
    return common


def seen(test: Callable[[], torch.Tensor], *values: torch.Tensor) -> bool:
    """Return whether ``test`` of the values holds, or False off the CPU, in compiled programs and under torch.func.

    Example:
        >>> x = torch.tensor([1.0, -1.0])
        >>> seen(lambda: (x < 0).any(), x)
        True
    """
    return all(x.device.type == "cpu" for x in values) and not transformed(values) and bool(test())


def positive(what: str, x: Any) -> torch.Tensor:
    """Check that ``x`` is a floating-point tensor, and above 0 where values are checked, and return it.

    Raises:
        TypeError: if it is not a floating-point tensor.
        ValueError: if one of its numbers is at most 0 or NaN; the message begins with ``what``.

    Example:
        >>> positive("Normal: scale", torch.tensor([1.0, 0.0]))
        Traceback (most recent call last):
        ...
        ValueError: Normal: scale: expected numbers above 0, got 0.0; make it with exp or softplus, as normal_params does
    """
    floating(what, x)
    if seen(lambda: ~(x > 0).all(), x):
        wrong = x[~(x > 0)][0].item() if x.ndim else x.item()
        raise ValueError(f"{what}: expected numbers above 0, got {wrong}; make it with exp or softplus, as normal_params does")
    return x


def log_ratio(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return log(first / second) of numbers above 0: accurate if they are nearly equal, and finite if their ratio over- or underflows.

    Example:
        >>> log_ratio(torch.tensor([1.0, 1e-30]), torch.tensor([1.0, 1e30]))
        tensor([   0.0000, -138.1551])
    """
    ratio = first / second
    near = (ratio > 0.5) & (ratio < 2)
    return torch.where(near, torch.where(near, ratio, 1.0).log(), first.log() - second.log())


def check_samples(what: str, num_samples: Any) -> None:
    """Raise a ValueError unless ``num_samples`` is a whole number of at least 1; the message begins with ``what``.

    Example:
        >>> check_samples("TanhNormal", 128)
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"{what}: num_samples: expected a whole number of at least 1, got {num_samples!r}")


def check_kind(what: str, other: Any, kind: type) -> None:
    """Raise a TypeError unless ``other`` is a ``kind``, as no other pair has a closed form.

    Example:
        >>> check_kind("Normal.kl", 3, int)
    """
    if not isinstance(other, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(
            f"{what}: other: expected {article} {kind.__name__}, got {type(other).__name__}; "
            "estimate it from samples as the mean of log_prob differences"
        )


def check_start(what: str, start: Any) -> None:
    """Raise a TypeError unless ``start`` is a Python integer; the message begins with ``what``.

    Example:
        >>> check_start("Categorical", torch.tensor(1))
        Traceback (most recent call last):
        ...
        TypeError: Categorical: start: expected a Python integer, the smallest class, got tensor(1)
    """
    if isinstance(start, bool) or not isinstance(start, int):
        raise TypeError(f"{what}: start: expected a Python integer, the smallest class, got {start!r}")


def check_classes(what: str, x: Any) -> None:
    """Raise a TypeError unless ``x`` is a tensor of whole numbers; the message begins with ``what``.

    Example:
        >>> check_classes("Categorical.log_prob", torch.tensor(1))
    """
    if not isinstance(x, torch.Tensor) or x.is_floating_point() or x.is_complex() or x.dtype is torch.bool:
        got = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"{what}: x: expected a tensor of whole numbers, got {got}; cast it with .to(torch.int64)")
