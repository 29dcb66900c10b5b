"""The part that all spaces share."""

from collections.abc import Callable
from typing import Any

import torch


def describe(x: Any) -> str:
    if not isinstance(x, torch.Tensor):
        return f"{type(x).__name__}"
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"


def sizes_of(shape: Any, what: str) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(not isinstance(size, int) or size < 0 for size in sizes):
        raise ValueError(f"{what}: expected a shape of non-negative integers, got {shape!r}")
    return sizes


def check_element(x: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype, *, any_float: bool = False) -> None:
    kind = str(dtype).removeprefix("torch.")
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: expected {kind} {list(shape)}, got {describe(x)}; convert it with torch.as_tensor")
    if not (x.is_floating_point() if any_float else x.dtype == dtype):
        expected = "floating-point" if any_float else kind
        raise TypeError(f"{name}: expected {expected} {list(shape)}, got {describe(x)}; cast it with .to(torch.{kind})")
    if tuple(x.shape) != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {describe(x)}; for a batch use torch.func.vmap")


class Space:
    """Base class of all spaces: membership is a check of shape and dtype, then a comparison of values."""

    check: Callable[..., None]
    _contains: Callable[[Any], Any]

    def contains(self, x: Any) -> torch.Tensor | bool:
        """Return whether ``x`` is an element: a bool tensor [], or ``False`` if its structure, shape or dtype is wrong."""
        try:
            self.check(x)
        except (TypeError, ValueError):
            return False
        return self._contains(x)
