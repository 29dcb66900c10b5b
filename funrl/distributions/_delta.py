"""Distributions at a single point, for deterministic policies."""

import math
from typing import Any, Self

import torch

from funrl import _check, tree
from funrl.distributions._checks import ESTIMATE, broadcast
from funrl.distributions._distribution import ClosedForm
from funrl.distributions._squash import interval


class _Point(ClosedForm):
    """All probability at ``mode()``, within the tolerances."""

    atol: float
    rtol: float

    def mode(self) -> torch.Tensor:
        raise NotImplementedError

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return the point [...]; differentiable in ``loc``. The key is not used."""
        return self.mode()

    def sample_with_log_prob(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the point [...] and zeros [...]."""
        point = self.mode()
        return point, torch.zeros_like(point)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return 0 where ``x`` is the point, and minus infinity elsewhere; the shape of x broadcasts to [...] or [...] to it."""
        what, point = f"{type(self).__name__}.log_prob: x", self.mode()
        broadcast(f"{what} and loc", _check.floating(what, x).shape, point.shape)
        near = (x - point).abs() <= self.atol + self.rtol * point.abs()
        return torch.where(near, 0.0, -math.inf).to(point.dtype)

    def entropy(self) -> torch.Tensor:
        """Return zeros [...]."""
        return torch.zeros_like(self.mode())

    def mean(self) -> torch.Tensor:
        """Return the point [...]."""
        return self.mode()

    def stddev(self) -> torch.Tensor:
        """Return zeros [...]."""
        return torch.zeros_like(self.mode())

    def kl(self, other: Self) -> torch.Tensor:
        """Return KL(self || other) [...]: 0 where the points are equal (within the tolerances of ``other``), else infinity.

        Raises:
            TypeError: if ``other`` is of another class.
        """
        _check.instance(f"{type(self).__name__}.kl: other", other, type(self), ESTIMATE)
        return -other.log_prob(self.mode())


@tree.dataclass
class Delta(_Point):
    """All probability at one point.

    ``log_prob`` is the logarithm of a probability, not of a density: 0 at the point, and minus infinity elsewhere.

    Attributes:
        loc: floating point [...], the point.
        atol: static; the maximum distance at which a number counts as the point, at least 0.
        rtol: static; a further distance in multiples of ``loc``, at least 0.

    Raises:
        TypeError: from a method, if ``loc`` or ``x`` is not a floating-point tensor.
        ValueError: from a method, if shapes do not fit.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> point = Delta(torch.tensor([1.0, 2.0]))
        >>> point.sample(random.key(0)), point.log_prob(torch.ones(2))
        (tensor([1., 2.]), tensor([0., -inf]))
    """

    loc: torch.Tensor
    atol: float = tree.static(default=0.0)
    rtol: float = tree.static(default=0.0)

    def mode(self) -> torch.Tensor:
        """Return the point [...]."""
        return _check.floating("Delta: loc", self.loc)


@tree.dataclass
class TanhDelta(_Point):
    r"""A point squashed by tanh and scaled to an interval, for deterministic bounded actions.

    .. math:: y = \frac{h + l}{2} + \frac{h - l}{2} \tanh u

    ``log_prob`` is that of :class:`Delta` at y.

    Attributes:
        loc: floating point [...], u.
        low: static; the lower end, a number, or (nested) tuples of numbers that broadcast against ``loc``.
        high: static; the upper end, as ``low`` and above it.
        atol: static; as for :class:`Delta`.
        rtol: static; as for :class:`Delta`.

    Raises:
        TypeError: from a method, if ``loc`` or ``x`` is not a floating-point tensor, or a bound is neither a number nor a tuple.
        ValueError: from a method, if shapes do not fit, or an interval is empty or not finite.

    Example:
        >>> import torch
        >>> TanhDelta(torch.tensor([0.0, 100.0]), low=-2.0, high=2.0).mode()
        tensor([0., 2.])
    """

    loc: torch.Tensor
    low: Any = tree.static(default=-1.0)
    high: Any = tree.static(default=1.0)
    atol: float = tree.static(default=0.0)
    rtol: float = tree.static(default=0.0)

    def mode(self) -> torch.Tensor:
        """Return the squashed point [...]."""
        loc = _check.floating("TanhDelta: loc", self.loc)
        return interval("TanhDelta", self.low, self.high, loc, loc.shape).squash(loc)
