"""The part that all spaces share."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check


def sizes_of(shape: Any, what: str) -> tuple[int, ...]:
    """Return a shape as a tuple of sizes; raise a ValueError unless they are non-negative integers."""
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(not isinstance(size, int) or size < 0 for size in sizes):
        raise ValueError(f"{what}: expected a shape of non-negative integers, got {shape!r}")
    return sizes


def check_element(x: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype, *, any_float: bool = False) -> None:
    """Raise unless ``x`` is a tensor of the shape and dtype, or with ``any_float`` of any floating-point dtype."""
    kind = str(dtype).removeprefix("torch.")
    if not isinstance(x, torch.Tensor):
        _check.fail(TypeError, name, f"{kind} {list(shape)}", _check.describe(x), "convert it with torch.as_tensor")
    if not (x.is_floating_point() if any_float else x.dtype == dtype):
        expected = "floating-point" if any_float else kind
        _check.fail(TypeError, name, f"{expected} {list(shape)}", _check.describe(x), f"cast it with .to(torch.{kind})")
    if tuple(x.shape) != shape:
        _check.fail(ValueError, name, f"shape {list(shape)}", _check.describe(x), "for a batch use torch.func.vmap")


class Space:
    """Base class of all spaces: membership is a check of shape and dtype, then a comparison of values."""

    shape: Any
    dtype: Any
    _contains: Callable[[Any], Any]

    def check(self, x: Any, name: str = "x") -> None:
        """Raise TypeError or ValueError unless ``x`` has the shape and dtype of a single element; the message calls it ``name``."""
        check_element(x, name, self.shape, self.dtype)

    def contains(self, x: Any) -> torch.Tensor | bool:
        """Return whether ``x`` is an element: a bool tensor [], or ``False`` if its structure, shape or dtype is wrong."""
        try:
            self.check(x)
        except (TypeError, ValueError):
            return False
        return self._contains(x)
