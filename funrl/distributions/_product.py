"""Distributions of independent parts: of arrays, and of parts of different kinds, as one over a tree."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch

from funrl import _check, random, tree


@tree.dataclass
class Independent:
    """A distribution over arrays with independent parts: ``log_prob`` and ``entropy`` are sums over the last dimensions.

    ``Independent(Normal(loc, scale), 1)`` with ``loc`` [B, A] has log densities [B]: a normal with a diagonal covariance.

    Attributes:
        base: a distribution of batch shape [..., E1, ..., En].
        event_dims: static; n, the number of dimensions of an event.

    Raises:
        ValueError: from a method, if ``event_dims`` is not a whole number from 0 to the number of dimensions of ``base``.

    Example:
        >>> import torch
        >>> from funrl.distributions import Normal
        >>> diagonal = Independent(Normal(torch.zeros(4, 2), torch.ones(4, 2)), 1)
        >>> diagonal.log_prob(torch.zeros(4, 2))
        tensor([-1.8379, -1.8379, -1.8379, -1.8379])
    """

    base: Any
    event_dims: int = tree.static(default=1)

    @property
    def estimated(self) -> tuple[str, ...]:
        """The names of the methods that take a key, the same as those of the base."""
        return self.base.estimated

    def _sum(self, x: torch.Tensor) -> torch.Tensor:
        n = self.event_dims
        _check.integer("Independent: event_dims", n, 0, x.ndim, "it counts dimensions of the base")
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

    def stddev(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the base's standard deviation [..., E1, ..., En]; arguments go to the base (a key for an estimate)."""
        return self.base.stddev(*args, **kwargs)

    def kl(self, other: "Independent") -> torch.Tensor:
        """Return KL(self || other) [...].

        Raises:
            TypeError: if ``other`` is not an Independent, or the bases have no closed form.
            ValueError: if the numbers of event dimensions differ.
        """
        _check.instance("Independent.kl: other", other, Independent, f"wrap it in Independent(..., {self.event_dims})")
        if self.event_dims != other.event_dims:
            raise ValueError(f"Independent.kl: other: expected event_dims {self.event_dims}, got {other.event_dims}; give both the same")
        return self._sum(self.base.kl(other.base))


@tree.dataclass
class Joint:
    r"""Independent parts, whose values are the entries of a dict or tuple; :func:`joint` makes one.

    .. math:: \log p(x) = \sum_i \log p_i(x_i)

    Attributes:
        parts: a dict or tuple of distributions of one batch shape [...].

    Example:
        >>> from funrl.distributions import Categorical
        >>> Joint((Categorical(torch.zeros(3)), Categorical(torch.zeros(2)))).mode()
        (tensor(0), tensor(0))
    """

    parts: Any

    @property
    def estimated(self) -> tuple[str, ...]:
        """The names of the methods that take a key: those of any of the parts."""
        return tuple(sorted({name for part in self._parts() for name in part.estimated}))

    def _parts(self) -> list[Any]:
        return [self.parts[name] for name in _names(self.parts)]

    def _value(self, values: Any) -> Any:
        """Return the values of all parts as the entries of a dict or tuple."""
        return tuple(values) if isinstance(self.parts, tuple) else dict(zip(_names(self.parts), values, strict=True))

    def _sum(self, what: str, terms: Sequence[torch.Tensor]) -> torch.Tensor:
        shapes = [list(x.shape) for x in terms]
        if any(shape != shapes[0] for shape in shapes):
            got, remedy = ", ".join(map(str, shapes)), "make one event of the dimensions of a value with Independent"
            _check.fail(ValueError, f"Joint.{what}: parts", "one batch shape", got, remedy)
        return reduce(torch.add, terms)

    def _with_keys(self, key: torch.Tensor) -> Any:
        """Return the pairs of each part and its key."""
        return zip(self._parts(), random.split(key, len(self.parts)).unbind(0), strict=True)

    def _estimates(self, name: str, key: torch.Tensor | None, options: dict[str, Any]) -> list[Any]:
        """Call a method of each part, with a key where it takes one."""
        if key is None:
            return [getattr(part, name)(**options) for part in self._parts()]
        return [getattr(part, name)(k, **options) if name in part.estimated else getattr(part, name)() for part, k in self._with_keys(key)]

    def sample(self, key: torch.Tensor) -> Any:
        """Return a sample: a dict or tuple of samples of the parts."""
        return self._value([part.sample(k) for part, k in self._with_keys(key)])

    def sample_with_log_prob(self, key: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """Return a sample and its log density [...]."""
        samples, log_probs = zip(*(part.sample_with_log_prob(k) for part, k in self._with_keys(key)), strict=True)
        return self._value(samples), self._sum("sample_with_log_prob", log_probs)

    def log_prob(self, x: Any) -> torch.Tensor:
        """Return the log density [...] of ``x``, a dict or tuple with an entry for each part.

        Raises:
            TypeError: if it is of another kind.
            ValueError: if it has other entries, or the parts have different batch shapes.
        """
        kind, noun = (tuple, "tuple") if isinstance(self.parts, tuple) else (Mapping, "dict")
        _check.instance("Joint.log_prob: x", x, kind, expected=f"a {noun} as of sample")
        names, found = _names(self.parts), _names(x)
        if found != names:
            _check.fail(ValueError, "Joint.log_prob: x", f"the entries {names}", found)
        return self._sum("log_prob", [self.parts[name].log_prob(x[name]) for name in names])

    def entropy(self, key: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
        """Return the entropy [...]; a key and further arguments are for estimates."""
        return self._sum("entropy", self._estimates("entropy", key, options))

    def mode(self) -> Any:
        """Return the modes of the parts."""
        return self._value([part.mode() for part in self._parts()])

    def mean(self, key: torch.Tensor | None = None, **options: Any) -> Any:
        """Return the means of the parts; a key and further arguments are for estimates."""
        return self._value(self._estimates("mean", key, options))

    def stddev(self, key: torch.Tensor | None = None, **options: Any) -> Any:
        """Return the standard deviations of the parts; a key and further arguments are for estimates."""
        return self._value(self._estimates("stddev", key, options))

    def kl(self, other: "Joint") -> torch.Tensor:
        """Return KL(self || other) [...], the sum of those of the parts.

        Raises:
            TypeError: if ``other`` is no Joint, or a part has no closed form.
            ValueError: if its parts are others.
        """
        _check.instance("Joint.kl: other", other, Joint, "make it with joint")
        names, found = _names(self.parts), _names(other.parts)
        if found != names:
            _check.fail(ValueError, "Joint.kl: other", f"the parts {names}", found)
        return self._sum("kl", [part.kl(theirs) for part, theirs in zip(self._parts(), other._parts(), strict=True)])


def _names(values: Any) -> list[Any]:
    """Return the keys of a dict in order, or the indices of a tuple."""
    return list(range(len(values))) if isinstance(values, tuple) else sorted(values)


def joint(parts: Any) -> Joint:
    """Make the distribution of independent parts, a product over a tree: its values have the structure of ``parts``.

    Args:
        parts: a dict or tuple of distributions of one batch shape [...], or of further dicts and tuples. Those over vectors are
            :class:`Independent`.

    Returns:
        A :class:`Joint`; what was nested is one, too.

    Raises:
        TypeError: if a part is no distribution.
        ValueError: if there is none; from a method, if batch shapes differ.

    Example:
        >>> from funrl import random
        >>> from funrl.distributions import Categorical, Independent, Normal
        >>> loc = torch.zeros(5, 2)
        >>> both = joint({"move": Categorical(torch.zeros(5, 3)), "aim": Independent(Normal(loc, torch.ones(5, 2)), 1)})
        >>> action, log_prob = both.sample_with_log_prob(random.key(0))
        >>> action["move"].shape, action["aim"].shape, log_prob.shape
        (torch.Size([5]), torch.Size([5, 2]), torch.Size([5]))
    """
    if not isinstance(parts, Mapping | tuple | list):
        raise TypeError(f"joint: parts: expected a dict or tuple of distributions, got a {type(parts).__name__}")
    _check.some("joint: parts", parts, "distribution")

    def part(x: Any) -> Any:
        if isinstance(x, Mapping | list) or type(x) is tuple:
            return joint(x)
        if not hasattr(x, "sample_with_log_prob"):
            raise TypeError(f"joint: parts: expected distributions of funrl.distributions, got a {type(x).__name__}")
        return x

    return Joint({name: part(x) for name, x in parts.items()} if isinstance(parts, Mapping) else tuple([part(x) for x in parts]))
