"""The affine map from tanh to an interval, for bounded actions."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from funrl import _check
from funrl.distributions._checks import broadcast


class Interval(NamedTuple):
    """Checked ends of an interval: y = middle + half * tanh(u).

    Attributes:
        low: the lower end, a number or a tensor.
        high: the upper end, a number or a tensor.
    """

    low: Any
    high: Any

    @property
    def middle(self) -> Any:
        """The middle."""
        return self.high / 2 + self.low / 2

    @property
    def half(self) -> Any:
        """Half the length."""
        return self.high / 2 - self.low / 2

    def clamp(self, y: torch.Tensor) -> torch.Tensor:
        """Return the point of the interval nearest to ``y``. The gradient is 1 on the ends too."""
        if isinstance(self.low, torch.Tensor):
            return torch.where(y < self.low, self.low, torch.where(y > self.high, self.high, y))
        return y.clamp(self.low, self.high)

    def squash(self, u: torch.Tensor) -> torch.Tensor:
        """Return y [...]."""
        return self.clamp(self.middle + self.half * torch.tanh(u))

    def unsquash(self, y: torch.Tensor) -> torch.Tensor:
        """Return u [...] for y clamped to one unit of rounding inside the interval."""
        limit = 1.0 - torch.finfo(y.dtype).eps
        return torch.atanh(((y - self.middle) / self.half).clamp(-limit, limit))

    def log_slope(self, u: torch.Tensor) -> torch.Tensor:
        """Return log |dy/du|: the sum of the logarithms of half and of 1 - tanh(u)^2, without cancellation."""
        log_half = self.half.log() if isinstance(self.half, torch.Tensor) else math.log(self.half)
        return log_half + 2.0 * (math.log(2.0) - u + logsigmoid(2.0 * u))


def interval(what: str, low: Any, high: Any, like: torch.Tensor, shape: torch.Size) -> Interval:
    """Check the ends of an interval, and return them as numbers, or as tensors with the dtype and device of ``like``.

    Raises:
        TypeError: if an end is neither a number nor (nested) tuples of numbers.
        ValueError: if an interval is empty or not finite, or the ends do not broadcast to ``shape``; the message begins with ``what``.

    Example:
        >>> interval("TanhNormal", -1.0, (1.0, 2.0), torch.zeros(2), torch.Size([2])).half
        tensor([1.0000, 1.5000])
    """
    ends = f"{what}: low and high"
    lows, highs = _numbers(what, "low", low), _numbers(what, "high", high)
    if len(lows) != len(highs) and 1 not in (len(lows), len(highs)):
        got = f"{len(lows)} and {len(highs)}"
        _check.fail(ValueError, ends, "the same number of lower and upper ends", got, "give one for each action dimension")
    pairs = zip(lows * max(1, len(highs) // len(lows)), highs * max(1, len(lows) // len(highs)), strict=True)
    for lower, upper in pairs:
        if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
            remedy = "use Normal where an action has no bounds"
            _check.fail(ValueError, ends, "finite ends with low < high", f"{lower} and {upper}", remedy)
    if not isinstance(low, tuple) and not isinstance(high, tuple):
        return Interval(low, high)
    # Not torch.tensor(..., device=...), as torch.func.grad raises for it on the device meta.
    low, high = (torch.tensor(end, dtype=like.dtype).to(like.device) for end in (low, high))
    bounds = torch.Size(np.broadcast_shapes(low.shape, high.shape))
    if broadcast(f"{what}: bounds and parameters", bounds, shape) != shape:
        _check.fail(ValueError, ends, f"bounds that broadcast to the parameters' shape {list(shape)}", list(bounds))
    return Interval(low, high)


def _numbers(what: str, name: str, bound: Any) -> list[float]:
    """Return the numbers in a bound, which is a number or nested tuples of numbers."""
    if isinstance(bound, tuple):
        return [x for part in bound for x in _numbers(what, name, part)]
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        remedy = "turn a tensor [A] into tuple(x.tolist())"
        _check.fail(TypeError, f"{what}: {name}", "a number or a tuple of numbers", type(bound).__name__, remedy)
    return [bound]
