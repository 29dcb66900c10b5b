"""What the distributions check while tracing: dtypes and shapes, never values."""

from typing import Any

import torch


def floating(what: str, x: Any) -> torch.Tensor:
    """Return ``x`` if it is a floating-point tensor.

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
    """Return the common shape of two, one of which has to be it: [B, 1] beside [B] would quietly make [B, B].

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
        common = torch.broadcast_shapes(first, second)
    except RuntimeError:
        common = None
    if common is None or common not in (torch.Size(first), torch.Size(second)):
        raise ValueError(
            f"{what}: expected two shapes of which one broadcasts to the other, got {list(first)} and {list(second)}; reshape one of them"
        )
    return common
