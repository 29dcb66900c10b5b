"""Checks of the distributions: dtypes and shapes at tracing, and values only where that is cheap."""

from typing import Any

import torch

from funrl import _check

ESTIMATE = "estimate it from samples as the mean of log_prob differences"


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
    for shape, other in ((first, second), (second, first)):
        if _check.broadcasts(other, shape):
            return torch.Size(shape)
    _check.fail(
        ValueError, what, "two shapes of which one broadcasts to the other", f"{list(first)} and {list(second)}", "reshape one of them"
    )


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
    _check.floating(what, x)
    if _check.seen(lambda: ~(x > 0).all(), x):
        _check.fail(
            ValueError, what, "numbers above 0", x[~(x > 0)].flatten()[0].item(), "make it with exp or softplus, as normal_params does"
        )
    return x


def shape_of(what: str, loc: Any, scale: Any) -> torch.Size:
    """Check a location and a scale, and return their broadcast shape.

    Example:
        >>> shape_of("Normal", torch.zeros(3, 2), torch.ones(2))
        torch.Size([3, 2])
    """
    return broadcast(f"{what}: loc and scale", _check.floating(f"{what}: loc", loc).shape, positive(f"{what}: scale", scale).shape)


def same_bounds(what: str, one: Any, other: Any) -> None:
    """Raise unless two distributions have the same bounds: otherwise one may have mass where the other has none.

    Raises:
        ValueError: if they differ; the message begins with ``what``.

    Example:
        >>> from funrl.distributions import TanhNormal
        >>> same_bounds("TanhNormal.kl: other", *(TanhNormal(torch.zeros(()), torch.ones(()), low, 1.0) for low in (-1.0, 0.0)))
        Traceback (most recent call last):
        ...
        ValueError: TanhNormal.kl: other: expected the bounds -1.0 and 1.0, got 0.0 and 1.0; give both the same bounds
    """
    (low, high), (other_low, other_high) = ((x.low, x.high) for x in (one, other))
    if (low, high) != (other_low, other_high):
        _check.fail(ValueError, what, f"the bounds {low} and {high}", f"{other_low} and {other_high}", "give both the same bounds")


def log_ratio(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return log(first / second) of numbers above 0: accurate if they are nearly equal, and finite if their ratio over- or underflows.

    Example:
        >>> log_ratio(torch.tensor([1.0, 1e-30]), torch.tensor([1.0, 1e30]))
        tensor([   0.0000, -138.1551])
    """
    ratio = first / second
    near = (ratio > 0.5) & (ratio < 2)
    return torch.where(near, torch.where(near, ratio, 1.0).log(), first.log() - second.log())
