"""Integers, flags and classes."""

from typing import Any

import torch

from funrl import _check
from funrl.random._checks import Shape, check_broadcast, check_key, integer, noise_dtype
from funrl.random._continuous import gumbel
from funrl.random._splitmix import fraction, shift, words_of

_LOW32 = (1 << 32) - 1


def randint(key: torch.Tensor, shape: Shape, low: int | torch.Tensor, high: int | torch.Tensor, *, endpoint: bool = False) -> torch.Tensor:
    """Return integers that are uniform in [low, high): low + floor(w * (high - low) / 2**64), with w a word of 64 bits.

    The error of each integer's probability is at most 2**-64, so its relative error is at most (high - low) / 2**64.

    Args:
        key: int64 [].
        shape: the shape of the result.
        low: an integer, or an integer tensor that broadcasts to ``shape``.
        high: the same; above ``low``. The range may be as wide as int64.
        endpoint: whether to include ``high``, which may then equal ``low``. This makes 2**63 - 1 possible.

    Returns:
        int64 ``shape``, the same for bounds given as numbers or as tensors.

    Raises:
        TypeError: if ``key`` is not a key, or a bound is not an integer.
        ValueError: if ``key`` has dims, a size is below 0, a bound does not broadcast or fit in 64 bits, or the range is empty
            (tensors are looked at on the CPU outside of compile and vmap).

    Example:
        >>> from funrl import random
        >>> random.randint(random.key(0), (6,), 1, 7)
        tensor([2, 5, 3, 4, 2, 3])

    Reference:
        Lemire 2019, "Fast random integer generation in an interval", arXiv:1805.10941; its multiplication, without its rejection.
    """
    words = words_of(key, shape, "randint")
    numbers = not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor)
    order = "low <= high" if endpoint else "low < high"
    if numbers and not (low <= high if endpoint else low < high):
        raise ValueError(f"random.randint: expected {order}, got low={low} and high={high}")
    narrow = numbers and high - low + endpoint <= 1 << 31
    number: Any = high - low + endpoint
    low = integer(low, "randint", "low", key.device, dims=True)
    high = integer(high, "randint", "high", key.device, dims=True)
    check_broadcast("randint", words.shape, low=low, high=high)
    if not numbers and _check.seen(lambda: ~(low <= high if endpoint else low < high).all()):
        raise ValueError(f"random.randint: expected {order} everywhere, got low={low} and high={high}")
    upper, lower = shift(words, 32), words & _LOW32
    if narrow:  # the same product for a span of at most 2**31, where no sum reaches 2**63
        return low + ((upper * number + ((lower * number) >> 32)) >> 32)
    span = high - low + endpoint
    span_upper, span_lower = shift(span, 32), span & _LOW32
    middle = upper * span_lower + shift(lower * span_lower, 32)
    number = low + upper * span_upper + shift(middle, 32) + shift(lower * span_upper + (middle & _LOW32), 32)
    # All of int64 has 2**64 integers, which wrap around to 0.
    return torch.where(span == 0, words, number) if endpoint else number


def bernoulli(key: torch.Tensor, p: float | torch.Tensor = 0.5, shape: Shape | None = None) -> torch.Tensor:
    """Return bools that are true with probability p: u < p.

    u is uniform in [0, 1) with steps of 2**-24, or of 2**-53 if ``p`` is a float64 tensor; p is rounded up to such a step.

    Args:
        key: int64 [].
        p: a number in [0, 1], or a floating-point tensor of such that broadcasts to ``shape``.
        shape: the shape of the result; by default that of ``p``.

    Returns:
        bool ``shape``.

    Raises:
        TypeError: if ``key`` is not a key, or ``p`` is not floating-point.
        ValueError: if ``key`` has dims, a size is below 0, ``p`` does not broadcast or leaves [0, 1] (a tensor is looked at on the
            CPU outside of compile and vmap).

    Example:
        >>> from funrl import random
        >>> random.bernoulli(random.key(0), torch.tensor([0.0, 1.0]))
        tensor([False,  True])
    """
    check_key(key, "bernoulli")
    if not isinstance(p, torch.Tensor):
        _check.number("random.bernoulli: p", p, "[0, 1]")
        p = torch.full((), float(p), dtype=torch.float32, device=key.device)
    elif _check.seen(lambda: ~((p >= 0) & (p <= 1)).all()):
        raise ValueError(f"random.bernoulli: expected p in [0, 1] everywhere, got {p}")
    u = fraction(words_of(key, p.shape if shape is None else shape, "bernoulli"), noise_dtype(p, "bernoulli", "p"))
    check_broadcast("bernoulli", u.shape, p=p)
    return u < p


def categorical(key: torch.Tensor, logits: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """Return indices that have probability softmax(logits): argmax of logits + g, with g Gumbel noise.

    Probabilities have an error of about 1e-7 for float32 logits (16-bit logits get float32 noise). An index with the logit -inf is never
    drawn if another one is finite.

    Args:
        key: int64 [].
        logits: floating point [..., A, ...], logarithms of probabilities up to a constant.
        axis: the dimension of the A classes.

    Returns:
        int64 of the shape of ``logits`` without ``axis``, in [0, A).

    Raises:
        TypeError: if ``key`` is not a key, or ``logits`` are not floating-point.
        ValueError: if ``key`` has dims, or there is no class.

    Example:
        >>> from funrl import random
        >>> random.categorical(random.key(0), torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]]))
        tensor([0, 1])

    Reference:
        Maddison, Tarlow, Minka 2014, "A* sampling", arXiv:1411.0030 (section 2, the Gumbel-max trick).
    """
    dtype = noise_dtype(logits, "categorical", "logits")
    if logits.ndim == 0 or logits.shape[axis] == 0:
        raise ValueError(
            f"random.categorical: expected logits to have at least one class along axis {axis}, got shape {list(logits.shape)}"
        )
    return torch.argmax(logits + gumbel(key, logits.shape, dtype=dtype), axis)
