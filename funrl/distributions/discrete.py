"""Distributions over whole numbers."""

import math

import torch

from funrl import random, tree
from funrl.distributions.checks import broadcast, floating

__all__ = ["Categorical"]


@tree.dataclass
class Categorical:
    r"""One of K classes, by unnormalised log probabilities.

    .. math:: \log p(k) = z_k - \log \sum_j e^{z_j}

    A logit of minus infinity forbids a class: it is never sampled, and entropy, KL and gradients stay finite.

    Attributes:
        logits: floating point [..., K]; at least one in each row above minus infinity.

    Raises:
        TypeError: from a method, if ``logits`` is not a floating-point tensor or ``x`` not one of whole numbers.
        ValueError: from a method, if shapes do not fit.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> choice = Categorical(torch.tensor([0.0, 0.0, -torch.inf]))
        >>> choice.probs, choice.entropy()
        (tensor([0.5000, 0.5000, 0.0000]), tensor(0.6931))
        >>> choice.log_prob(torch.tensor(1))
        tensor(-0.6931)
        >>> torch.func.vmap(choice.sample)(random.split(random.key(0), 100)).max()
        tensor(1)
    """

    logits: torch.Tensor

    def _logits(self) -> torch.Tensor:
        logits = floating("Categorical: logits", self.logits)
        if logits.ndim == 0 or logits.shape[-1] == 0:
            raise ValueError(
                f"Categorical: logits: expected the shape [..., K] with K at least 1, got {list(logits.shape)}; "
                "the last dimension is that of the classes"
            )
        return logits

    @property
    def log_probs(self) -> torch.Tensor:
        """The logarithms of the probabilities [..., K]."""
        return torch.log_softmax(self._logits(), -1)

    @property
    def probs(self) -> torch.Tensor:
        """The probabilities [..., K]."""
        return torch.softmax(self._logits(), -1)

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return a class int64 [...], by the Gumbel-max rule."""
        return random.categorical(key, self._logits())

    def sample_with_log_prob(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a class int64 [...] and its log probability [...]."""
        x = self.sample(key)
        return x, self.log_prob(x)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log probability of classes ``x``: whole numbers whose shape broadcasts to [...] or the other way round.

        It is minus infinity for a number outside 0, ..., K - 1.
        """
        log_probs = self.log_probs
        if not isinstance(x, torch.Tensor) or x.is_floating_point() or x.is_complex() or x.dtype is torch.bool:
            got = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            raise TypeError(f"Categorical.log_prob: x: expected a tensor of whole numbers, got {got}; cast it with .to(torch.int64)")
        broadcast("Categorical.log_prob: x and the batch shape of logits", x.shape, log_probs.shape[:-1])
        # A masked sum and no gather: its gradient is a product and no scatter, which fuses with the softmax.
        classes = torch.arange(log_probs.shape[-1], device=log_probs.device)
        chosen = torch.where(x.unsqueeze(-1) == classes, log_probs, 0.0).sum(-1)
        return torch.where((x >= 0) & (x < log_probs.shape[-1]), chosen, -math.inf)

    def entropy(self) -> torch.Tensor:
        """Return the entropy [...] in nats."""
        log_probs, probs = self.log_probs, self.probs
        return -(probs * torch.where(probs > 0, log_probs, 0.0)).sum(-1)

    def mode(self) -> torch.Tensor:
        """Return the most likely class int64 [...] (the first of equals)."""
        return self._logits().argmax(-1)

    def mean(self) -> torch.Tensor:
        """Raise a TypeError: classes are labels, and have no mean; ``probs`` is the mean of their one-hot vectors."""
        raise TypeError("Categorical.mean: classes are labels and have no mean; use mode() for the likeliest class, or probs")

    def kl(self, other: "Categorical") -> torch.Tensor:
        r"""Return KL(self || other) [...]: infinite if ``other`` forbids a class that ``self`` allows.

        .. math:: \sum_k p_k \, (\log p_k - \log q_k)

        Raises:
            TypeError: if ``other`` is no Categorical.
            ValueError: if the numbers of classes differ.
        """
        if not isinstance(other, Categorical):
            raise TypeError(
                f"Categorical.kl: other: expected a Categorical, got {type(other).__name__}; there is no closed form for the pair"
            )
        mine, theirs, probs = self.log_probs, other.log_probs, self.probs
        if mine.shape[-1] != theirs.shape[-1]:
            raise ValueError(f"Categorical.kl: other: expected {mine.shape[-1]} classes, got {theirs.shape[-1]}")
        broadcast("Categorical.kl: self and other", mine.shape, theirs.shape)
        present = probs > 0
        return (probs * (torch.where(present, mine, 0.0) - torch.where(present, theirs, 0.0))).sum(-1)
