"""Distributions over bits."""

import math

import torch
from torch.nn.functional import logsigmoid

from funrl import _check, random, tree
from funrl.distributions._checks import ESTIMATE, broadcast
from funrl.distributions._distribution import ClosedForm


@tree.dataclass
class Bernoulli(ClosedForm):
    r"""Independent bits, given by the logarithms of their odds (:class:`Independent` joins them to a distribution over vectors).

    .. math:: \log p(1) = -\mathrm{softplus}(-z), \qquad \log p(0) = -\mathrm{softplus}(z)

    A logit of infinity or minus infinity gives a constant bit: entropy, KL and gradients stay finite.

    Attributes:
        logits: floating point [...], z.

    Raises:
        TypeError: from a method, if ``logits`` is not a floating-point tensor, or ``x`` is not a bool tensor.
        ValueError: from a method, if shapes do not fit.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> coin = Bernoulli(torch.tensor([0.0, 30.0]))
        >>> coin.mean(), coin.mode()
        (tensor([0.5000, 1.0000]), tensor([False,  True]))
        >>> coin.log_prob(torch.tensor([True, False]))
        tensor([ -0.6931, -30.0000])
    """

    logits: torch.Tensor

    @property
    def probs(self) -> torch.Tensor:
        """The probabilities of True [...]."""
        return torch.sigmoid(_check.floating("Bernoulli: logits", self.logits))

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return bits, bool [...]."""
        return random.bernoulli(key, self.probs)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log probability of bits ``x``, bool, whose shape broadcasts to [...] or [...] to it."""
        logits = _check.floating("Bernoulli: logits", self.logits)
        _check.flag("Bernoulli.log_prob: x", x, "compare it with x == 1")
        broadcast("Bernoulli.log_prob: x and logits", x.shape, logits.shape)
        return logsigmoid(torch.where(x, logits, -logits))

    def entropy(self) -> torch.Tensor:
        """Return the entropy [...] in nats."""
        size = _check.floating("Bernoulli: logits", self.logits).abs()
        certain = size == math.inf
        size = torch.where(certain, 0.0, size)
        return torch.where(certain, 0.0, size * torch.sigmoid(-size) - logsigmoid(size))

    def mode(self) -> torch.Tensor:
        """Return the more likely bits, bool [...] (False if both are equally likely)."""
        return _check.floating("Bernoulli: logits", self.logits) > 0

    def mean(self) -> torch.Tensor:
        """Return the probabilities of True [...]."""
        return self.probs

    def stddev(self) -> torch.Tensor:
        """Return the standard deviation [...] of the bits as 0 and 1."""
        size = _check.floating("Bernoulli: logits", self.logits).abs()
        return torch.exp(-0.5 * size) * torch.sigmoid(size)

    def kl(self, other: "Bernoulli") -> torch.Tensor:
        """Return KL(self || other) [...]: infinite if a bit is constant in ``other`` and takes the other value in ``self``.

        Raises:
            TypeError: if ``other`` is not a Bernoulli.
        """
        _check.instance("Bernoulli.kl: other", other, Bernoulli, ESTIMATE)
        mine, theirs = _check.floating("Bernoulli: logits", self.logits), _check.floating("Bernoulli: logits", other.logits)
        broadcast("Bernoulli.kl: self and other", mine.shape, theirs.shape)
        return _share_of_kl(mine, theirs) + _share_of_kl(-mine, -theirs)


def _share_of_kl(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Return p (log p - log q) of one bit with logits z, which is 0 where p is 0."""
    prob = torch.sigmoid(mine)
    present = prob > 0
    return prob * (torch.where(present, logsigmoid(mine), 0.0) - torch.where(present, logsigmoid(theirs), 0.0))
