"""The normal distribution conditioned on an interval."""

import math
from typing import Any

import numpy as np
import torch

from funrl import _check, random, tree
from funrl.distributions._checks import ESTIMATE, broadcast, same_bounds, shape_of
from funrl.distributions._distribution import ClosedForm
from funrl.distributions._squash import Interval, interval

_LOG_2PI = math.log(2.0 * math.pi)


def _legendre(count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return nodes and weights of Gauss-Legendre quadrature on the interval from 0 to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return tuple((0.5 + nodes / 2).tolist()), tuple((weights / 2).tolist())


# For integrands that change by a factor of at most 2 and of at most 10^13.
_SHORT, _LONG = _legendre(8), _legendre(24)


@tree.dataclass
class TruncatedNormal(ClosedForm):
    r"""A normal distribution truncated to an interval, for actions strictly between bounds.

    .. math:: \log p(x) = \log \mathcal N(x; \mu, \sigma^2) - \log Z, \qquad
        Z = \Phi\left(\frac{h - \mu}{\sigma}\right) - \Phi\left(\frac{l - \mu}{\sigma}\right)

    ``loc`` may be far outside the interval: all results are computed relative to the point of the interval nearest to it.

    Attributes:
        loc: floating point [...], the mean of the normal before the truncation.
        scale: floating point [...], its standard deviation, above 0; broadcasts with ``loc``.
        low: static; the lower end, a number, or (nested) tuples of numbers that broadcast against ``loc``.
        high: static; the upper end, as ``low`` and above it.

    Raises:
        TypeError: from a method, if ``loc``, ``scale`` or ``x`` is not a floating-point tensor, or a bound is neither a number nor a tuple.
        ValueError: from a method, if shapes do not fit, an interval is empty or not finite, or ``scale`` is found not to be above 0.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> truncated = TruncatedNormal(torch.tensor([0.0, 5.0]), torch.ones(2), low=-1.0, high=1.0)
        >>> truncated.mean(), truncated.mode()
        (tensor([0.0000, 0.7745]), tensor([0., 1.]))
        >>> bool((truncated.sample(random.key(0)).abs() <= 1).all())
        True

    Reference: N. L. Johnson, S. Kotz, N. Balakrishnan, "Continuous Univariate Distributions", volume 1, 1994, chapter 13, section 10.1.
    """

    loc: torch.Tensor
    scale: torch.Tensor
    low: Any = tree.static(default=-1.0)
    high: Any = tree.static(default=1.0)

    def _parts(self) -> tuple[torch.Size, Interval]:
        shape = shape_of("TruncatedNormal", self.loc, self.scale)
        return shape, interval("TruncatedNormal", self.low, self.high, self.loc, shape)

    def _ends(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return, in standard deviations, the offset of the mode from loc, and the distances of the lower and upper end from the mode."""
        shape, bounds = self._parts()
        mode = bounds.clamp(self.loc)
        offset, below, above = ((x / self.scale).expand(shape) for x in (mode - self.loc, mode - bounds.low, bounds.high - mode))
        return offset, below, above

    def _log_norm(self, mode: torch.Tensor, below: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
        """Return log(Z scale) + mode^2 / 2, for the offset of the mode and the distances of the ends, in standard deviations."""
        bounds, flat, width = self._parts()[1], _is_flat(mode, below, above), below + above
        # If the density is nearly constant, the closed form is a difference of nearly equal numbers: use quadrature instead.
        weights = _integrals(_SHORT, *(torch.where(flat, x, 0.1) for x in (-below, width, mode)))[1]
        level = weights.sum(-1).log() + (2 * torch.as_tensor(bounds.half, dtype=mode.dtype, device=mode.device)).log() - 0.5 * _LOG_2PI
        return torch.where(flat, level, self.scale.log() + _log_mass(mode, *(torch.where(flat, 1.0, x) for x in (below, above))))

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return a sample [...] in [low, high]; differentiable in both parameters.

        If the interval begins more than 12 (float32) or 37 (float64) standard deviations from loc, it is the end nearest to loc.
        """
        shape, bounds = self._parts()
        ends = self._ends()
        flat = _is_flat(*ends)
        a, b = (torch.where(flat, side, (end - self.loc) / self.scale) for side, end in zip((-1.0, 1.0), bounds, strict=True))
        x = self.loc + self.scale * random.truncated_normal(key, a, b, tuple(shape), dtype=self.loc.dtype)
        # If the density is nearly constant, the cumulative distribution of the normal has too few digits.
        share = random.uniform(key, tuple(shape), dtype=self.loc.dtype)
        step = _quantile(share, *(torch.where(flat, end, 0.5) for end in ends))
        return bounds.clamp(torch.where(flat, bounds.clamp(self.loc) + self.scale * step, x))

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log density of ``x``, whose shape broadcasts to [...] or [...] to it; minus infinity outside the interval."""
        shape, bounds = self._parts()
        broadcast("TruncatedNormal.log_prob: x and the parameters", _check.floating("TruncatedNormal.log_prob: x", x).shape, shape)
        mode, below, above = self._ends()
        step = (bounds.clamp(x) - bounds.clamp(self.loc)) / self.scale
        density = -0.5 * step * (step + 2 * mode) - 0.5 * _LOG_2PI - self._log_norm(mode, below, above)
        return torch.where((x >= bounds.low) & (x <= bounds.high), density, -math.inf)

    def entropy(self) -> torch.Tensor:
        """Return the differential entropy [...] in nats."""
        ends = self._ends()
        mean, deviation = _moments(*ends)
        return 0.5 * (_LOG_2PI + deviation.square() + mean * (mean + 2 * ends[0])) + self._log_norm(*ends)

    def mode(self) -> torch.Tensor:
        """Return the most likely value [...]: loc, or the end nearest to it."""
        shape, bounds = self._parts()
        return bounds.clamp(self.loc).expand(shape)

    def mean(self) -> torch.Tensor:
        """Return the mean [...]."""
        bounds = self._parts()[1]
        return bounds.clamp(bounds.clamp(self.loc) + self.scale * _moments(*self._ends())[0])

    def stddev(self) -> torch.Tensor:
        """Return the standard deviation [...]."""
        return self.scale * _moments(*self._ends())[1]

    def kl(self, other: "TruncatedNormal") -> torch.Tensor:
        """Return KL(self || other) [...].

        Raises:
            TypeError: if ``other`` is not a TruncatedNormal.
            ValueError: if the bounds differ, so that one may have mass where the other has none.
        """
        _check.instance("TruncatedNormal.kl: other", other, TruncatedNormal, ESTIMATE)
        same_bounds("TruncatedNormal.kl: other", self, other)
        broadcast("TruncatedNormal.kl: self and other", self._parts()[0], other._parts()[0])
        ends, other_ends = self._ends(), other._ends()
        mean, deviation = _moments(*ends)
        # Multiply by a large scale last, as a ratio of scales may overflow.
        step = (self.mode() - other.mode() + self.scale * mean) / other.scale
        theirs = 0.5 * ((self.scale * deviation / other.scale).square() + step * (step + 2 * other_ends[0]))
        mine = 0.5 * (deviation.square() + mean * (mean + 2 * ends[0]))
        return other._log_norm(*other_ends) - self._log_norm(*ends) + theirs - mine


def _is_flat(mode: torch.Tensor, below: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """Return True where the density changes by less than a factor of exp(1/2) over the whole interval."""
    width = below + above
    return width * (mode.abs() + 0.5 * width) < 0.5


def _integrals(
    rule: tuple[tuple[float, ...], tuple[float, ...]], start: torch.Tensor, length: torch.Tensor, slope: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return nodes [..., N], in units of ``length``, and weights of exp(-x (slope + x / 2)) after ``start``, divided by ``length``."""
    nodes, weights = (torch.tensor(x, dtype=slope.dtype, device=slope.device) for x in rule)
    x = start.unsqueeze(-1) + length.unsqueeze(-1) * nodes
    return nodes.expand(x.shape), weights * torch.exp(-x * (slope.unsqueeze(-1) + 0.5 * x))


def _log_mass(mode: torch.Tensor, below: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """Return log Z + mode^2 / 2 for a density that is not nearly constant over the interval."""
    root = math.sqrt(0.5)
    outside = mode != 0
    # If the interval contains loc, the result is a sum of two terms with the same sign, so that nothing cancels.
    inside = 0.5 * (torch.erf(root * torch.where(outside, 1.0, below)) + torch.erf(root * torch.where(outside, 1.0, above)))
    # Otherwise it begins at near > 0 (mirrored if necessary): erfcx(x) = exp(x^2) erfc(x) removes the large factor from both ends.
    near, width = torch.where(outside, mode.abs(), 1.0), below + above
    first = torch.special.erfcx(root * near)
    last = torch.special.erfcx(root * (near + width)) * torch.exp(-0.5 * width * (width + 2 * near))
    return torch.where(outside, torch.log(0.5 * (first - last)), inside.log())


def _quantile(share: torch.Tensor, mode: torch.Tensor, below: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """Return a quantile for a nearly constant density, in standard deviations from the mode, by Newton's method."""
    width = below + above
    whole = _integrals(_SHORT, -below, width, mode)[1].sum(-1)
    part = share
    for _ in range(3):
        mass = part * _integrals(_SHORT, -below, part * width, mode)[1].sum(-1)
        x = part * width - below
        part = (part - (mass - share * whole) / torch.exp(-x * (mode + 0.5 * x))).clamp(0, 1)
    return part * width - below


def _moments(mode: torch.Tensor, below: torch.Tensor, above: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the offset of the mean from the mode, and the standard deviation, both in standard deviations of the normal."""
    width = below + above
    far = mode.abs() > 4
    # Far from loc and in a narrow interval the closed forms suffer from cancellation.
    integrated = far | (width * (mode.abs() + 0.5 * width) < 4)
    m, low, high = (torch.where(integrated, safe, x) for safe, x in ((0.0, mode), (1.0, below), (1.0, above)))
    log_mass = _log_mass(m, low, high)
    # The densities at the ends.
    at_low = torch.exp(-0.5 * (low * (low - 2 * m) + _LOG_2PI) - log_mass)
    at_high = torch.exp(-0.5 * (high * (high + 2 * m) + _LOG_2PI) - log_mass)
    mean = at_low - at_high - m
    var = 1 - mean * (mean + m) - low * at_low - high * at_high
    # There the density is integrated: far from loc, where it decreases by exp(-step * (near + step / 2)), up to where it vanishes.
    near = torch.where(far, mode.abs(), 1.0)
    start, slope = torch.where(far, 0.0, -below), torch.where(far, near, mode)
    start, slope = (torch.where(integrated, x, 0.0) for x in (start, slope))
    length = torch.where(integrated, torch.where(far, torch.minimum(width, 30 / near), width), 1.0)
    nodes, share = _integrals(_LONG, start, length, slope)
    share = share / share.sum(-1, keepdim=True)
    middle = (share * nodes).sum(-1)
    spread = (share * (nodes - middle.unsqueeze(-1)).square()).sum(-1).sqrt()
    integral = start + length * middle
    return (
        torch.where(integrated, torch.where(far, torch.sign(mode) * integral, integral), mean),
        torch.where(integrated, length * spread, var.clamp(min=torch.finfo(var.dtype).tiny).sqrt()),
    )
