"""Distributions over real vectors, and :class:`Independent`, which joins their dimensions."""

import math
from typing import Any

import torch
from torch.nn.functional import softplus

from funrl import random, tree
from funrl.distributions.checks import broadcast, floating

__all__ = ["Independent", "Normal", "TanhNormal"]

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@tree.dataclass
class Normal:
    r"""The normal distribution of every number by itself (:class:`Independent` joins a vector of them).

    .. math:: \log p(x) = -\tfrac12 \left(\frac{x - \mu}{\sigma}\right)^2 - \log\sigma - \tfrac12 \log 2\pi

    Attributes:
        loc: floating point [...], the mean.
        scale: floating point [...], the standard deviation, above 0 (not checked); broadcasts with ``loc``.

    Raises:
        TypeError: from a method, if ``loc``, ``scale`` or ``x`` is not a floating-point tensor.
        ValueError: from a method, if shapes do not fit.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> normal = Normal(torch.zeros(3), torch.ones(3))
        >>> normal.log_prob(torch.zeros(3))
        tensor([-0.9189, -0.9189, -0.9189])
        >>> torch.func.vmap(normal.sample)(random.split(random.key(0), 5)).shape
        torch.Size([5, 3])
    """

    loc: torch.Tensor
    scale: torch.Tensor

    def _shape(self) -> torch.Size:
        return broadcast("Normal: loc and scale", floating("Normal: loc", self.loc).shape, floating("Normal: scale", self.scale).shape)

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return loc + scale * noise [...]; differentiable in both parameters."""
        return self.loc + self.scale * random.normal(key, tuple(self._shape()), dtype=self.loc.dtype)

    def sample_with_log_prob(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a sample [...] and its log density [...]."""
        x = self.sample(key)
        return x, self.log_prob(x)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log density of ``x``, whose shape broadcasts to [...] or the other way round."""
        broadcast("Normal.log_prob: x and the parameters", floating("Normal.log_prob: x", x).shape, self._shape())
        return -0.5 * ((x - self.loc) / self.scale).square() - self.scale.log() - _HALF_LOG_2PI

    def entropy(self) -> torch.Tensor:
        """Return the differential entropy [...] in nats."""
        return (0.5 + _HALF_LOG_2PI + self.scale.log()).expand(self._shape())

    def mode(self) -> torch.Tensor:
        """Return the most likely value [...], which is the mean."""
        return self.loc.expand(self._shape())

    def mean(self) -> torch.Tensor:
        """Return the mean [...]."""
        return self.loc.expand(self._shape())

    def kl(self, other: "Normal") -> torch.Tensor:
        r"""Return KL(self || other) [...].

        .. math:: \log\frac{\sigma'}{\sigma} + \frac{\sigma^2 + (\mu - \mu')^2}{2\sigma'^2} - \tfrac12

        Raises:
            TypeError: if ``other`` is no Normal: no other pair has a closed form here.
        """
        if not isinstance(other, Normal):
            raise TypeError(
                f"Normal.kl: other: expected a Normal, got {type(other).__name__}; "
                "estimate it from samples as the mean of log_prob differences"
            )
        broadcast("Normal.kl: self and other", self._shape(), other._shape())
        ratio = (self.scale / other.scale).square()
        return 0.5 * (ratio - 1 - ratio.log() + ((self.loc - other.loc) / other.scale).square())


@tree.dataclass
class TanhNormal:
    r"""A normal variable squashed by tanh and stretched to an interval, for bounded actions.

    .. math:: y = \frac{h + l}{2} + \frac{h - l}{2} \tanh u, \qquad u \sim \mathcal N(\mu, \sigma^2)

    .. math:: \log p(y) = \log \mathcal N(u) - \log\frac{h - l}{2} - 2\,(\log 2 - u - \mathrm{softplus}(-2u))

    The last term is log(1 - tanh(u)^2) without its cancellation. Far out tanh rounds to 1 and u cannot be had
    back from y, so on-policy log densities should come from :meth:`sample_with_log_prob`, which keeps u.

    The mean and the entropy have no closed form: :meth:`mean` and :meth:`entropy` take a key and a number of samples.

    Attributes:
        loc: floating point [...], the mean before tanh.
        scale: floating point [...], the standard deviation before tanh, above 0 (not checked); broadcasts with ``loc``.
        low: static; the lower end, a number, or (nested) tuples of numbers that broadcast against ``loc``.
        high: static; the upper end, as ``low`` and above it.

    Raises:
        TypeError: from a method, if ``loc``, ``scale`` or ``y`` is not a floating-point tensor, or a bound no number or tuple.
        ValueError: from a method, if shapes do not fit, or an interval is empty or not finite.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> squashed = TanhNormal(torch.zeros(2), torch.ones(2), low=(-2.0, 0.0), high=(2.0, 1.0))
        >>> squashed.mode()
        tensor([0.0000, 0.5000])
        >>> action, log_prob = squashed.sample_with_log_prob(random.key(0))
        >>> torch.allclose(log_prob, squashed.log_prob(action), atol=1e-4)
        True

    Reference: T. Haarnoja, A. Zhou, P. Abbeel, S. Levine, "Soft Actor-Critic: Off-Policy Maximum Entropy Deep
        Reinforcement Learning with a Stochastic Actor", 2018, arXiv:1801.01290, appendix C.
    """

    loc: torch.Tensor
    scale: torch.Tensor
    low: Any = tree.static(default=-1.0)
    high: Any = tree.static(default=1.0)

    def _parts(self) -> tuple[Normal, torch.Tensor | float, torch.Tensor | float]:
        """Return the normal before tanh, the middle of the interval and half its length."""
        loc, scale = floating("TanhNormal: loc", self.loc), floating("TanhNormal: scale", self.scale)
        shape = broadcast("TanhNormal: loc and scale", loc.shape, scale.shape)
        lows, highs = _numbers("low", self.low), _numbers("high", self.high)
        if len(lows) != len(highs) and 1 not in (len(lows), len(highs)):
            raise ValueError(
                f"TanhNormal: low and high: expected as many lower as upper ends, got {len(lows)} and {len(highs)}; "
                "give one for each action dimension"
            )
        pairs = zip(lows * max(1, len(highs) // len(lows)), highs * max(1, len(lows) // len(highs)), strict=True)
        for lower, upper in pairs:
            if not (math.isfinite(lower) and math.isfinite(upper) and lower < upper):
                raise ValueError(
                    f"TanhNormal: low and high: expected finite ends with low < high, got {lower} and {upper}; "
                    "use Normal where an action has no bounds"
                )
        if isinstance(self.low, tuple) or isinstance(self.high, tuple):
            low, high = (torch.tensor(end, dtype=loc.dtype, device=loc.device) for end in (self.low, self.high))
            bounds = torch.broadcast_shapes(low.shape, high.shape)
            if broadcast("TanhNormal: bounds and parameters", bounds, shape) != shape:
                raise ValueError(
                    f"TanhNormal: low and high: expected bounds that broadcast to the parameters' shape {list(shape)}, got {list(bounds)}"
                )
        else:
            low, high = self.low, self.high
        return Normal(loc, scale), (high + low) / 2, (high - low) / 2

    def _squash(self, u: torch.Tensor) -> torch.Tensor:
        _, middle, half = self._parts()
        y = middle + half * torch.tanh(u)
        if isinstance(middle, torch.Tensor):
            return torch.minimum(torch.maximum(y, middle - half), middle + half)
        return y.clamp(self.low, self.high)

    def _log_slope(self, u: torch.Tensor) -> torch.Tensor:
        """Return log |dy/du|."""
        _, _, half = self._parts()
        log_half = half.log() if isinstance(half, torch.Tensor) else math.log(half)
        return log_half + 2.0 * (math.log(2.0) - u - softplus(-2.0 * u))

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return a sample [...] in [low, high]; differentiable in both parameters."""
        return self._squash(self._parts()[0].sample(key))

    def sample_with_log_prob(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a sample [...] and its log density [...], which stays exact where tanh has rounded to 1."""
        normal = self._parts()[0]
        u = normal.sample(key)
        return self._squash(u), normal.log_prob(u) - self._log_slope(u)

    def log_prob(self, y: torch.Tensor) -> torch.Tensor:
        """Return the log density of ``y``, an action in [low, high] that was stored.

        Before atanh, ``y`` scaled to [-1, 1] is clamped to one unit of rounding inside it (|u| below 8.4 in
        float32, 18.4 in float64): an action on or beyond a bound has the density of that point, a finite number.
        """
        normal, middle, half = self._parts()
        broadcast("TanhNormal.log_prob: y and the parameters", floating("TanhNormal.log_prob: y", y).shape, normal._shape())
        limit = 1.0 - torch.finfo(y.dtype).eps
        u = torch.atanh(((y - middle) / half).clamp(-limit, limit))
        return normal.log_prob(u) - self._log_slope(u)

    def mode(self) -> torch.Tensor:
        """Return tanh(loc) stretched to the interval [...].

        This is the *median*, and what is usually played greedily. The density itself can have its peak elsewhere, even two.
        """
        return self._squash(self._parts()[0].mode())

    def mean(self, key: torch.Tensor, num_samples: int = 128) -> torch.Tensor:
        """Return an estimate [...] of the mean: the average of ``num_samples`` samples."""
        return self._squash(self._draws(key, num_samples)).mean(0)

    def entropy(self, key: torch.Tensor, num_samples: int = 128) -> torch.Tensor:
        """Return an estimate [...] of the entropy: that of the normal, and the average log slope of ``num_samples`` samples."""
        return self._parts()[0].entropy() + self._log_slope(self._draws(key, num_samples)).mean(0)

    def _draws(self, key: torch.Tensor, num_samples: int) -> torch.Tensor:
        if not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(f"TanhNormal: num_samples: expected a whole number of at least 1, got {num_samples!r}")
        normal = self._parts()[0]
        return normal.loc + normal.scale * random.normal(key, (num_samples, *normal._shape()), dtype=normal.loc.dtype)

    def kl(self, other: "TanhNormal") -> torch.Tensor:
        """Return KL(self || other) [...]: that of the normals, as both are squashed by the same function.

        Raises:
            TypeError: if ``other`` is no TanhNormal.
            ValueError: if its bounds differ: then one has mass where the other may have none.
        """
        if not isinstance(other, TanhNormal):
            raise TypeError(
                f"TanhNormal.kl: other: expected a TanhNormal, got {type(other).__name__}; "
                "estimate it from samples as the mean of log_prob differences"
            )
        if (self.low, self.high) != (other.low, other.high):
            raise ValueError(
                f"TanhNormal.kl: other: expected the bounds {self.low} and {self.high}, got {other.low} and {other.high}; "
                "give both the same bounds"
            )
        return self._parts()[0].kl(other._parts()[0])


@tree.dataclass
class Independent:
    """A distribution over arrays whose parts are independent: sums ``log_prob`` and ``entropy`` over the last dimensions.

    ``Independent(Normal(loc, scale), 1)`` with ``loc`` [B, A] has log densities [B]: a normal with a diagonal covariance.

    Attributes:
        base: a distribution of batch shape [..., E1, ..., En].
        event_dims: static; n, how many dimensions make one event.

    Raises:
        ValueError: from a method, if ``event_dims`` is no whole number from 0 to the number of dimensions of ``base``.

    Example:
        >>> import torch
        >>> diagonal = Independent(Normal(torch.zeros(4, 2), torch.ones(4, 2)), 1)
        >>> diagonal.log_prob(torch.zeros(4, 2))
        tensor([-1.8379, -1.8379, -1.8379, -1.8379])
    """

    base: Any
    event_dims: int = tree.static(default=1)

    def _sum(self, x: torch.Tensor) -> torch.Tensor:
        n = self.event_dims
        if not isinstance(n, int) or not 0 <= n <= x.ndim:
            raise ValueError(
                f"Independent: event_dims: expected a whole number from 0 to {x.ndim} (the base's shape is {list(x.shape)}), got {n!r}"
            )
        return x.sum(tuple(range(x.ndim - n, x.ndim))) if n else x

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return a sample [..., E1, ..., En] of the base."""
        return self.base.sample(key)

    def sample_with_log_prob(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a sample [..., E1, ..., En] and its log density [...]."""
        x, log_prob = self.base.sample_with_log_prob(key)
        return x, self._sum(log_prob)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log density [...] of ``x`` [..., E1, ..., En]."""
        return self._sum(self.base.log_prob(x))

    def entropy(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the entropy [...]; arguments go to the base (a key for an estimate)."""
        return self._sum(self.base.entropy(*args, **kwargs))

    def mode(self) -> torch.Tensor:
        """Return the base's mode [..., E1, ..., En]."""
        return self.base.mode()

    def mean(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the base's mean [..., E1, ..., En]; arguments go to the base (a key for an estimate)."""
        return self.base.mean(*args, **kwargs)

    def kl(self, other: "Independent") -> torch.Tensor:
        """Return KL(self || other) [...].

        Raises:
            TypeError: if ``other`` is no Independent, or the bases have no closed form.
            ValueError: if the numbers of event dimensions differ.
        """
        if not isinstance(other, Independent):
            raise TypeError(
                f"Independent.kl: other: expected an Independent, got {type(other).__name__}; "
                f"wrap it in Independent(..., {self.event_dims})"
            )
        if self.event_dims != other.event_dims:
            raise ValueError(f"Independent.kl: other: expected event_dims {self.event_dims}, got {other.event_dims}; give both the same")
        return self._sum(self.base.kl(other.base))


def _numbers(name: str, bound: Any) -> list[float]:
    """Return the numbers of a bound that is one, or nested tuples of them."""
    if isinstance(bound, tuple):
        return [x for part in bound for x in _numbers(name, part)]
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        raise TypeError(
            f"TanhNormal: {name}: expected a number or a tuple of numbers, got {type(bound).__name__}; "
            "turn a tensor [A] into tuple(x.tolist())"
        )
    return [bound]
