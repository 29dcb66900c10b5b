"""The interface of distributions."""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from funrl.typing import Key


class Distribution(Protocol):
    """A distribution of batch shape [...]: a frozen tree of parameters, with these methods.

    Those of ``entropy``, ``mean`` and ``stddev`` that are listed in ``estimated`` take a key and a number of samples; the others take
    nothing. A method without a closed form raises a TypeError that names the alternative.

    Example:
        >>> from funrl.distributions import Categorical
        >>> choice: Distribution = Categorical(torch.zeros(3))
        >>> choice.log_prob(choice.mode())
        tensor(-1.0986)
    """

    @property
    def estimated(self) -> tuple[str, ...]: ...

    @property
    def entropy(self) -> Callable[..., torch.Tensor]: ...

    @property
    def mean(self) -> Callable[..., Any]: ...

    @property
    def stddev(self) -> Callable[..., Any]: ...

    def sample(self, key: Key) -> Any: ...

    def sample_with_log_prob(self, key: Key) -> tuple[Any, torch.Tensor]: ...

    def log_prob(self, x: Any) -> torch.Tensor: ...

    def mode(self) -> Any: ...

    def kl(self, other: Any) -> torch.Tensor: ...


class ClosedForm:
    """The part of a distribution that follows from its samples and log densities, where no method needs an estimate."""

    estimated: tuple[str, ...] = ()

    def sample_with_log_prob(self: Distribution, key: Key) -> tuple[Any, torch.Tensor]:
        """Return a sample and its log density, or log probability, [...]."""
        x = self.sample(key)
        return x, self.log_prob(x)
