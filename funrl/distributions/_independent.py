"""Distributions of arrays with independent parts."""

from typing import Any

import torch

from funrl import _check, tree


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
