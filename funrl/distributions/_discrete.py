"""Distributions over classes, all of them or those that a mask allows, and over bits."""

import math
from typing import Any, Self

import torch
from torch.nn.functional import logsigmoid, one_hot

from funrl import _check, random, tree
from funrl.distributions._checks import ESTIMATE, broadcast
from funrl.distributions._distribution import ClosedForm
from funrl.distributions._product import Joint


class _Labels(ClosedForm):
    """A distribution over classes, which have no mean."""

    def mean(self) -> torch.Tensor:
        """Raise a TypeError: classes are labels without a mean; probabilities are the mean of their one-hot vectors."""
        raise TypeError(f"{type(self).__name__}.mean: classes are labels and have no mean; use mode() for the likeliest class")

    def stddev(self) -> torch.Tensor:
        """Raise a TypeError: classes are labels without a standard deviation."""
        raise TypeError(f"{type(self).__name__}.stddev: classes are labels and have no deviation; use entropy() for how spread they are")


class _Choice(ClosedForm):
    """A choice of one of K classes, those that the mask allows, whatever its samples are."""

    logits: torch.Tensor
    mask: Any
    start: int = 0

    def _logits(self) -> torch.Tensor:
        """Return the logits, checked, with minus infinity for what the mask forbids."""
        what, logits, mask = type(self).__name__, self.logits, self.mask
        check_logits(what, logits)
        _check.integer(f"{what}: start", self.start)
        if isinstance(mask, tuple) and not mask:
            return logits
        mask = _check.flag(f"{what}: mask", mask, "it is True for the allowed classes: compare it with mask == 1")
        broadcast(f"{what}: logits and mask", logits.shape, mask.shape)
        _check.sized(f"{what}: mask", mask, (..., logits.shape[-1]))
        if _check.seen(lambda: ~mask.any(-1).all(), mask):
            row = (~mask.any(-1)).nonzero()[0].tolist()
            raise ValueError(f"{what}: mask: expected at least one allowed class in each row, got none in row {row}; end the episode there")
        return torch.where(mask, logits, -math.inf)

    @property
    def log_probs(self) -> torch.Tensor:
        """The logarithms of the probabilities [..., K]."""
        return torch.log_softmax(self._logits(), -1)

    @property
    def probs(self) -> torch.Tensor:
        """The probabilities [..., K]."""
        return torch.softmax(self._logits(), -1)

    def _log_prob(self, index: torch.Tensor) -> torch.Tensor:
        """Return the log probability of the classes with these numbers from 0 on, minus infinity for others."""
        log_probs = self.log_probs
        broadcast(f"{type(self).__name__}.log_prob: x and the batch shape of logits", index.shape, log_probs.shape[:-1])
        # A masked sum instead of a gather: its gradient is a product instead of a scatter, and fuses with the softmax.
        classes = torch.arange(log_probs.shape[-1], device=log_probs.device)
        chosen = torch.where(index.unsqueeze(-1) == classes, log_probs, 0.0).sum(-1)
        return torch.where((index >= 0) & (index < log_probs.shape[-1]), chosen, -math.inf)

    def entropy(self) -> torch.Tensor:
        """Return the entropy [...] in nats."""
        log_probs, probs = self.log_probs, self.probs
        return -(probs * torch.where(probs > 0, log_probs, 0.0)).sum(-1)

    def kl(self, other: Self) -> torch.Tensor:
        r"""Return KL(self || other) [...]: infinite if ``other`` forbids a class that ``self`` allows.

        .. math:: \sum_k p_k \, (\log p_k - \log q_k)

        Raises:
            TypeError: if ``other`` is of another class.
            ValueError: if the classes differ.
        """
        what = f"{type(self).__name__}.kl"
        _check.instance(f"{what}: other", other, type(self), ESTIMATE)
        if self.start != other.start:
            raise ValueError(f"{what}: other: expected classes that begin at {self.start}, got one that begins at {other.start}")
        mine, theirs, probs = self.log_probs, other.log_probs, self.probs
        if mine.shape[-1] != theirs.shape[-1]:
            raise ValueError(f"{what}: other: expected {mine.shape[-1]} classes, got {theirs.shape[-1]}")
        broadcast(f"{what}: self and other", mine.shape, theirs.shape)
        present = probs > 0
        return (probs * (torch.where(present, mine, 0.0) - torch.where(present, theirs, 0.0))).sum(-1)


@tree.dataclass
class Categorical(_Choice, _Labels):
    r"""A categorical distribution over K classes, given by unnormalised log probabilities.

    .. math:: \log p(k) = z_k - \log \sum_j m_j e^{z_j} \quad\text{where}\quad m_k = 1

    A logit of minus infinity, or a mask that is False, forbids a class: it is never sampled and has the log probability minus infinity;
    entropy, KL and gradients stay finite.

    Attributes:
        logits: floating point [..., K], z; at least one in each row above minus infinity.
        start: static; the smallest class: the classes are start, ..., start + K - 1, as in ``spaces.Discrete(K, start)``.
        mask: bool [..., K], m, True for allowed; at least one in each row. Broadcasts with ``logits``. (): all classes are allowed.

    Raises:
        TypeError: from a method, if ``logits`` is not a floating-point tensor, ``start`` is not a Python integer, ``mask`` no bool
            tensor, or ``x`` not one of whole numbers.
        ValueError: from a method, if shapes do not fit, or a row is seen to forbid all classes (where it cannot be seen, in a compiled
            program, its log probabilities are NaN).

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
        >>> Categorical(torch.tensor([0.0, 9.0]), start=1).mode()
        tensor(2)
        >>> Categorical(torch.zeros(3), mask=torch.tensor([True, False, True])).probs
        tensor([0.5000, 0.0000, 0.5000])

    Reference: S. Huang, S. Ontañón, "A Closer Look at Invalid Action Masking in Policy Gradient Algorithms", 2020, arXiv:2006.14171.
    """

    logits: torch.Tensor
    start: int = tree.static(default=0)
    mask: Any = ()

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return a class int64 [...], by the Gumbel-max trick."""
        return random.categorical(key, self._logits()) + self.start

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log probability of classes ``x``: whole numbers whose shape broadcasts to [...] or [...] to it.

        It is minus infinity for a number outside start, ..., start + K - 1.
        """
        _check.whole("Categorical.log_prob: x", x)
        return self._log_prob(x.to(torch.int64) - self.start)

    def mode(self) -> torch.Tensor:
        """Return the most likely class int64 [...] (the first one of equal classes)."""
        return self._logits().argmax(-1) + self.start


@tree.dataclass
class OneHotCategorical(_Choice):
    """A categorical distribution over K classes, as one-hot vectors.

    Attributes:
        logits: floating point [..., K], as for :class:`Categorical`.
        mask: bool [..., K] or (), as for :class:`Categorical`.

    Raises:
        TypeError: from a method, if ``logits`` is not a floating-point tensor, ``mask`` is not a bool tensor, or ``x`` is not a tensor.
        ValueError: from a method, if shapes do not fit, or as for :class:`Categorical`.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> choice = OneHotCategorical(torch.tensor([0.0, 0.0, -torch.inf]))
        >>> choice.sample(random.key(0)), choice.mean()
        (tensor([1., 0., 0.]), tensor([0.5000, 0.5000, 0.0000]))
    """

    logits: torch.Tensor
    mask: Any = ()

    def _vector(self, x: torch.Tensor) -> torch.Tensor:
        return one_hot(x, self.logits.shape[-1]).to(self.logits.dtype)

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return a one-hot vector [..., K] in the dtype of the logits; it carries no gradient."""
        return self._vector(random.categorical(key, self._logits()))

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log probability of one-hot vectors ``x`` [..., K] of any dtype, whose batch shape broadcasts as for Categorical."""
        _check.instance("OneHotCategorical.log_prob: x", x, torch.Tensor, expected="a tensor [..., K]")
        if x.ndim == 0 or x.shape[-1] != self.logits.shape[-1]:
            expected, remedy = f"one-hot vectors [..., {self.logits.shape[-1]}]", "use Categorical for classes as whole numbers"
            _check.fail(ValueError, "OneHotCategorical.log_prob: x", expected, f"the shape {list(x.shape)}", remedy)
        return self._log_prob(x.to(torch.int64).argmax(-1))

    def mode(self) -> torch.Tensor:
        """Return the most likely one-hot vector [..., K]."""
        return self._vector(self._logits().argmax(-1))

    def mean(self) -> torch.Tensor:
        """Return the mean [..., K]: the probabilities."""
        return self.probs

    def stddev(self) -> torch.Tensor:
        """Return the standard deviation of each entry [..., K]."""
        probs = self.probs
        # For the most likely class, 1 - p is computed as the sum of the others, which avoids cancellation.
        likeliest = torch.arange(probs.shape[-1], device=probs.device) == probs.argmax(-1, keepdim=True)
        others = torch.where(likeliest, 0.0, probs).sum(-1, keepdim=True)
        var = probs * torch.where(likeliest, others, 1 - probs)
        return torch.where(var > 0, torch.where(var > 0, var, 1.0).sqrt(), 0.0 * var)


@tree.dataclass
class MultiCategorical(_Labels):
    """Several independent categorical distributions, as one over vectors of classes.

    Attributes:
        logits: floating point [..., N], those of the first choice, then those of the second, and so on.
        nvec: static; a tuple of the numbers of classes of the K choices, which sum to N.
        start: static; a tuple of the smallest class of each choice, as in ``spaces.MultiDiscrete(nvec, start)``; None: 0 for all.

    Raises:
        TypeError: from a method, if ``logits`` is not a floating-point tensor or ``x`` is not a tensor of whole numbers.
        ValueError: from a method, if shapes do not fit, or ``start`` is not K integers.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> choices = MultiCategorical(torch.zeros(5), nvec=(2, 3))
        >>> choices.sample(random.key(0)), choices.log_prob(torch.tensor([1, 2]))
        (tensor([1, 0]), tensor(-1.7918))
    """

    logits: torch.Tensor
    nvec: tuple[int, ...] = tree.static()
    start: tuple[int, ...] | None = tree.static(default=None)

    def _choices(self) -> Joint:
        logits, nvec = check_logits("MultiCategorical", self.logits), self.nvec
        _check.some("MultiCategorical: nvec", _check.integers("MultiCategorical: nvec", nvec, 1), "integer")
        _check.sized("MultiCategorical: logits", logits, (..., sum(nvec)), "the last dimension is the sum of nvec")
        if self.start is not None:
            _check.integers("MultiCategorical: start", self.start, length=len(nvec), remedy="give one for each of nvec")
        return Joint(tuple(map(Categorical, logits.split(list(nvec), -1), self.start or (0,) * len(nvec))))

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return classes int64 [..., K]."""
        return torch.stack(self._choices().sample(key), -1)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the joint log probability of classes ``x`` [..., K], whose batch shape broadcasts as for Categorical."""
        choices = self._choices()
        _check.whole("MultiCategorical.log_prob: x", x)
        _check.sized("MultiCategorical.log_prob: x", x, (..., len(self.nvec)))
        return choices.log_prob(x.unbind(-1))

    def entropy(self) -> torch.Tensor:
        """Return the joint entropy [...] in nats."""
        return self._choices().entropy()

    def mode(self) -> torch.Tensor:
        """Return the most likely classes int64 [..., K]."""
        return torch.stack(self._choices().mode(), -1)

    def kl(self, other: "MultiCategorical") -> torch.Tensor:
        """Return KL(self || other) [...].

        Raises:
            TypeError: if ``other`` is not a MultiCategorical.
            ValueError: if its ``nvec`` or ``start`` differs.
        """
        _check.instance("MultiCategorical.kl: other", other, MultiCategorical, ESTIMATE)
        if self.nvec != other.nvec:
            raise ValueError(f"MultiCategorical.kl: other: expected nvec {self.nvec}, got {other.nvec}")
        return self._choices().kl(other._choices())


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


def check_logits(what: str, logits: Any) -> torch.Tensor:
    """Check that ``logits`` are a floating-point tensor [..., K], and return them; messages begin with ``what``.

    Example:
        >>> check_logits("Categorical", torch.zeros(3))
        tensor([0., 0., 0.])
    """
    _check.floating(f"{what}: logits", logits)
    _check.sized(f"{what}: logits", logits, (..., "K"), "the last dimension is that of the classes")
    return logits
