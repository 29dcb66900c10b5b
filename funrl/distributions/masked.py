"""Categorical distributions with a mask of allowed classes, for environments with action masks."""

import math
from typing import Any

import torch

from funrl import tree
from funrl.distributions.checks import broadcast, check_kind, seen
from funrl.distributions.discrete import Categorical, OneHotCategorical, check_logits

__all__ = ["MaskedCategorical", "MaskedOneHotCategorical"]


@tree.dataclass
class MaskedCategorical:
    r"""A categorical distribution over the classes that a mask allows.

    .. math:: p(k) \propto m_k e^{z_k}

    A forbidden class is never sampled and has the log probability minus infinity; entropy, KL and gradients stay finite.

    Attributes:
        logits: floating point [..., K].
        mask: bool [..., K], True for allowed; at least one in each row. Broadcasts with ``logits``.
        start: static; the smallest class, as for :class:`Categorical`.

    Raises:
        TypeError: from a method, if ``logits`` is not a floating-point tensor, ``mask`` is not a bool tensor, or ``x`` is not a tensor
            of whole numbers.
        ValueError: from a method, if shapes do not fit, or a row forbids all classes (this is not checked in a
            compiled program, where its log probabilities are NaN).

    Example:
        >>> import torch
        >>> from funrl import random
        >>> choice = MaskedCategorical(torch.zeros(3), torch.tensor([True, False, True]))
        >>> choice.probs, choice.log_prob(torch.tensor([0, 1]))
        (tensor([0.5000, 0.0000, 0.5000]), tensor([-0.6931,    -inf]))

    Reference: S. Huang, S. Ontañón, "A Closer Look at Invalid Action Masking in Policy Gradient Algorithms", 2020, arXiv:2006.14171.
    """

    logits: torch.Tensor
    mask: torch.Tensor
    start: int = tree.static(default=0)
    estimated = ()

    def _allowed(self) -> Categorical:
        return Categorical(_masked("MaskedCategorical", self.logits, self.mask), self.start)

    @property
    def log_probs(self) -> torch.Tensor:
        """The logarithms of the probabilities [..., K]."""
        return self._allowed().log_probs

    @property
    def probs(self) -> torch.Tensor:
        """The probabilities [..., K]."""
        return self._allowed().probs

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return an allowed class int64 [...]."""
        return self._allowed().sample(key)

    def sample_with_log_prob(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return an allowed class int64 [...] and its log probability [...]."""
        return self._allowed().sample_with_log_prob(key)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log probability of classes ``x``, as :meth:`Categorical.log_prob`."""
        return self._allowed().log_prob(x)

    def entropy(self) -> torch.Tensor:
        """Return the entropy [...] in nats."""
        return self._allowed().entropy()

    def mode(self) -> torch.Tensor:
        """Return the most likely allowed class int64 [...] (the first one of equal classes)."""
        return self._allowed().mode()

    def mean(self) -> torch.Tensor:
        """Raise a TypeError: classes are labels without a mean; ``probs`` is the mean of their one-hot vectors."""
        raise TypeError("MaskedCategorical.mean: classes are labels and have no mean; use mode() for the likeliest class, or probs")

    def stddev(self) -> torch.Tensor:
        """Raise a TypeError: classes are labels without a standard deviation."""
        raise TypeError("MaskedCategorical.stddev: classes are labels and have no deviation; use entropy() for how spread they are")

    def kl(self, other: "MaskedCategorical") -> torch.Tensor:
        """Return KL(self || other) [...]: infinite if ``other`` forbids a class that ``self`` allows.

        Raises:
            TypeError: if ``other`` is not a MaskedCategorical.
            ValueError: if the classes differ.
        """
        check_kind("MaskedCategorical.kl", other, MaskedCategorical)
        return self._allowed().kl(other._allowed())


@tree.dataclass
class MaskedOneHotCategorical:
    """A categorical distribution over the classes that a mask allows, as one-hot vectors.

    Attributes:
        logits: floating point [..., K].
        mask: bool [..., K], as for :class:`MaskedCategorical`.

    Raises:
        TypeError: as for :class:`MaskedCategorical`.
        ValueError: as for :class:`MaskedCategorical`.

    Example:
        >>> import torch
        >>> MaskedOneHotCategorical(torch.tensor([0.0, 9.0, 1.0]), torch.tensor([True, False, True])).mode()
        tensor([0., 0., 1.])
    """

    logits: torch.Tensor
    mask: torch.Tensor
    estimated = ()

    def _allowed(self) -> OneHotCategorical:
        return OneHotCategorical(_masked("MaskedOneHotCategorical", self.logits, self.mask))

    @property
    def log_probs(self) -> torch.Tensor:
        """The logarithms of the probabilities [..., K]."""
        return self._allowed().log_probs

    @property
    def probs(self) -> torch.Tensor:
        """The probabilities [..., K]."""
        return self._allowed().probs

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return an allowed one-hot vector [..., K] in the dtype of the logits; it carries no gradient."""
        return self._allowed().sample(key)

    def sample_with_log_prob(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return an allowed one-hot vector [..., K] and its log probability [...]."""
        return self._allowed().sample_with_log_prob(key)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log probability of one-hot vectors ``x`` [..., K], as :meth:`OneHotCategorical.log_prob`."""
        return self._allowed().log_prob(x)

    def entropy(self) -> torch.Tensor:
        """Return the entropy [...] in nats."""
        return self._allowed().entropy()

    def mode(self) -> torch.Tensor:
        """Return the most likely allowed one-hot vector [..., K]."""
        return self._allowed().mode()

    def mean(self) -> torch.Tensor:
        """Return the mean [..., K]: the probabilities."""
        return self._allowed().mean()

    def stddev(self) -> torch.Tensor:
        """Return the standard deviation of each entry [..., K]."""
        return self._allowed().stddev()

    def kl(self, other: "MaskedOneHotCategorical") -> torch.Tensor:
        """Return KL(self || other) [...].

        Raises:
            TypeError: if ``other`` is not a MaskedOneHotCategorical.
            ValueError: if the numbers of classes differ.
        """
        check_kind("MaskedOneHotCategorical.kl", other, MaskedOneHotCategorical)
        return self._allowed().kl(other._allowed())


def _masked(what: str, logits: Any, mask: Any) -> torch.Tensor:
    """Return the logits with minus infinity for forbidden classes."""
    check_logits(what, logits)
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise TypeError(f"{what}: mask: expected a bool tensor, True for allowed, got {got}; compare it with mask == 1")
    broadcast(f"{what}: logits and mask", logits.shape, mask.shape)
    if mask.ndim == 0 or mask.shape[-1] != logits.shape[-1]:
        raise ValueError(f"{what}: mask: expected the shape [..., {logits.shape[-1]}], got {list(mask.shape)}")
    if seen(lambda: ~mask.any(-1).all(), mask):
        row = (~mask.any(-1)).nonzero()[0].tolist()
        raise ValueError(f"{what}: mask: expected at least one allowed class in each row, got none in row {row}; end the episode there")
    return torch.where(mask, logits, -math.inf)
