"""The normal distribution conditioned on an interval."""

import math
from typing import Any

import numpy as np
import torch

from funrl import random, tree
from funrl.distributions.checks import broadcast, check_kind, floating, positive
from funrl.distributions.squash import Interval, interval

__all__ = ["TruncatedNormal"]

_LOG_2PI = math.log(2.0 * math.pi)
# Gauss and Legendre's, for the interval from 0 to 1.
_QUADRATURE = tuple(tuple((shift + x / 2).tolist()) for shift, x in zip((0.5, 0.0), np.polynomial.legendre.leggauss(24), strict=True))


@tree.dataclass
class TruncatedNormal:
    r"""A normal variable conditioned on an interval, for bounded actions that can lie on their bounds' inside alone.

    .. math:: \log p(x) = \log \mathcal N(x; \mu, \sigma^2) - \log Z, \qquad
        Z = \Phi\left(\frac{h - \mu}{\sigma}\right) - \Phi\left(\frac{l - \mu}{\sigma}\right)

    ``loc`` may lie far outside the interval: everything is computed from the point of the interval that is nearest to it.

    Attributes:
        loc: floating point [...], the mean of the whole normal.
        scale: floating point [...], its standard deviation, above 0; broadcasts with ``loc``.
        low: static; the lower end, a number, or (nested) tuples of numbers that broadcast against ``loc``.
        high: static; the upper end, as ``low`` and above it.

    Raises:
        TypeError: from a method, if ``loc``, ``scale`` or ``x`` is not a floating-point tensor, or a bound no number or tuple.
        ValueError: from a method, if shapes do not fit, an interval is empty or not finite, or ``scale`` is seen not to be above 0.

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
    estimated = ()

    def _parts(self) -> tuple[torch.Size, Interval]:
        loc, scale = floating("TruncatedNormal: loc", self.loc), positive("TruncatedNormal: scale", self.scale)
        shape = broadcast("TruncatedNormal: loc and scale", loc.shape, scale.shape)
        return shape, interval("TruncatedNormal", self.low, self.high, loc, shape)

    def _ends(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return, in deviations, where the mode is from loc, and how far the ends are below and above the mode."""
        shape, bounds = self._parts()
        mode = bounds.clamp(self.loc)
        offset, below, above = ((x / self.scale).expand(shape) for x in (mode - self.loc, mode - bounds.low, bounds.high - mode))
        return offset, below, above

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return a sample [...] in [low, high]; differentiable in both parameters.

        Where the interval begins more than 12 (float32) or 37 (float64) deviations from loc, it is the end that is nearest to loc.
        """
        shape, bounds = self._parts()
        a, b = (((end - self.loc) / self.scale).expand(shape) for end in bounds)
        return bounds.clamp(self.loc + self.scale * random.truncated_normal(key, a, b, tuple(shape), dtype=self.loc.dtype))

    def sample_with_log_prob(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a sample [...] and its log density [...]."""
        x = self.sample(key)
        return x, self.log_prob(x)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log density of ``x``, whose shape broadcasts to [...] or the other way round; minus infinity outside the interval."""
        shape, bounds = self._parts()
        broadcast("TruncatedNormal.log_prob: x and the parameters", floating("TruncatedNormal.log_prob: x", x).shape, shape)
        mode, below, above = self._ends()
        step = (bounds.clamp(x) - bounds.clamp(self.loc)) / self.scale
        density = -0.5 * step * (step + 2 * mode) - self.scale.log() - 0.5 * _LOG_2PI - _log_mass(mode, below, above)
        return torch.where((x >= bounds.low) & (x <= bounds.high), density, -math.inf)

    def entropy(self) -> torch.Tensor:
        """Return the differential entropy [...] in nats."""
        ends = self._ends()
        mean, var = _moments(*ends)
        return 0.5 * (_LOG_2PI + var + mean * (mean + 2 * ends[0])) + self.scale.log() + _log_mass(*ends)

    def mode(self) -> torch.Tensor:
        """Return the most likely value [...]: loc, or the end that is nearest to it."""
        shape, bounds = self._parts()
        return bounds.clamp(self.loc).expand(shape)

    def mean(self) -> torch.Tensor:
        """Return the mean [...]."""
        bounds = self._parts()[1]
        return bounds.clamp(bounds.clamp(self.loc) + self.scale * _moments(*self._ends())[0])

    def stddev(self) -> torch.Tensor:
        """Return the standard deviation [...]."""
        return self.scale * _moments(*self._ends())[1].sqrt()

    def kl(self, other: "TruncatedNormal") -> torch.Tensor:
        """Return KL(self || other) [...].

        Raises:
            TypeError: if ``other`` is no TruncatedNormal.
            ValueError: if its bounds differ: then one has mass where the other may have none.
        """
        check_kind("TruncatedNormal.kl", other, TruncatedNormal)
        if (self.low, self.high) != (other.low, other.high):
            raise ValueError(
                f"TruncatedNormal.kl: other: expected the bounds {self.low} and {self.high}, got {other.low} and {other.high}; "
                "give both the same bounds"
            )
        broadcast("TruncatedNormal.kl: self and other", self._parts()[0], other._parts()[0])
        ends, other_ends = self._ends(), other._ends()
        mean, var = _moments(*ends)
        ratio = self.scale / other.scale
        step = (self.mode() - other.mode()) / other.scale + ratio * mean
        theirs = 0.5 * (ratio.square() * var + step * (step + 2 * other_ends[0]))
        mine = 0.5 * (var + mean * (mean + 2 * ends[0]))
        return _log_mass(*other_ends) - _log_mass(*ends) - ratio.log() + theirs - mine


def _log_mass(mode: torch.Tensor, below: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """Return log Z + mode^2 / 2, for a mode in deviations from loc, and ends so far below and above it."""
    root = math.sqrt(0.5)
    outside = mode != 0
    # The interval holds loc: the two error functions have one sign, and nothing cancels.
    inside = 0.5 * (torch.erf(root * torch.where(outside, 1.0, below)) + torch.erf(root * torch.where(outside, 1.0, above)))
    # It begins at near > 0 (mirrored, if need be), and erfcx(x) = exp(x^2) erfc(x) takes the great factor out of both ends.
    near, width = torch.where(outside, mode.abs(), 1.0), below + above
    first = torch.special.erfcx(root * near)
    last = torch.special.erfcx(root * (near + width)) * torch.exp(-0.5 * width * (width + 2 * near))
    return torch.where(outside, torch.log(0.5 * (first - last)), inside.log())


def _moments(mode: torch.Tensor, below: torch.Tensor, above: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean as it is from the mode, and the variance, both in deviations."""
    far = mode.abs() > 4
    m = torch.where(far, 0.0, mode)
    log_mass = _log_mass(m, below, above)
    # The densities at the ends.
    at_low = torch.exp(-0.5 * (below * (below - 2 * m) + _LOG_2PI) - log_mass)
    at_high = torch.exp(-0.5 * (above * (above + 2 * m) + _LOG_2PI) - log_mass)
    mean = at_low - at_high - m
    var = 1 - mean * (mean + m) - below * at_low - above * at_high
    # Far out the digits cancel. There the density falls by exp(-step * (near + step / 2)), and is integrated to where nothing is left.
    near = torch.where(far, mode.abs(), 1.0).unsqueeze(-1)
    nodes, weights = (torch.tensor(x, dtype=mode.dtype, device=mode.device) for x in _QUADRATURE)
    step = torch.minimum((below + above).unsqueeze(-1), 30 / near) * nodes
    share = weights * torch.exp(-step * (near + 0.5 * step))
    share = share / share.sum(-1, keepdim=True)
    tail_mean = (share * step).sum(-1)
    tail_var = (share * (step - tail_mean.unsqueeze(-1)).square()).sum(-1)
    return torch.where(far, torch.sign(mode) * tail_mean, mean), torch.where(far, tail_var, var).clamp(min=0)
