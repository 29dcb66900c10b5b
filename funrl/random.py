"""Random numbers as pure functions of a key.

A *key* is an int64 tensor of shape []. It has no state: a function of this module always returns the same numbers for the same key,
whether it runs eagerly, compiled, or under :func:`torch.func.vmap`, on any device. So use a key once, and derive new ones with
:func:`split` (several keys at once) or :func:`fold_in` (the key for an integer, such as a step). Every function takes
one key; for keys [B] map over them: ``torch.func.vmap(lambda k: normal(k, (3,)))(split(key, B))``.

Construction: output i of a key is the output of SplitMix64 at one position of its sequence, which a counter reaches directly::

    output(key, i) = mix(key + (i ^ C) * 0x9E3779B97F4A7C15)                    (mod 2**64)
    mix(z):  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;  z = (z ^ z >> 27) * 0x94D049BB133111EB;  return z ^ z >> 31

C is a 64-bit constant, a different one for :func:`split`, :func:`fold_in` and the samplers, so that they read different positions of a
key as long as the counters (and the integers given to fold_in) stay below 2**60 in magnitude.

Limits: a key has 64 bits, and all keys read the same cycle of 2**64 positions from different starts. Among K keys that read
n numbers each, the probability that two streams overlap is about K * K * n / 2**64 (a million keys of a thousand numbers: 0.005 %),
and that two keys are equal K * K / 2**65. The 64-bit words of one key never repeat, as truly random words would after about 2**32.
The generator is not cryptographic: one word of :func:`bits` reveals its key.
Integers and keys are equal everywhere. Results of logarithms and cosines may differ in the last digits between
devices, or between an eager and a compiled program; so may, about once in a million draws, an index from :func:`categorical`.

References:
    Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA, doi:10.1145/2660193.2660195 (no arXiv id).
    Stafford 2011, "Better bit mixing: improving on MurmurHash3's 64-bit finalizer", variant 13 (the multipliers and shifts of mix).
    Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11, doi:10.1145/2063384.2063405 (counters for state).
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

__all__ = [
    "bernoulli",
    "bits",
    "categorical",
    "choice",
    "exponential",
    "fold_in",
    "gumbel",
    "key",
    "normal",
    "permutation",
    "randint",
    "shuffle",
    "split",
    "truncated_normal",
    "uniform",
    "watch",
]

Shape = int | Sequence[int]


def _int64(x: int) -> int:
    """Return the signed 64-bit integer with the low 64 bits of x."""
    return ((x + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


_GOLDEN = _int64(0x9E3779B97F4A7C15)
_M1, _M2 = _int64(0xBF58476D1CE4E5B9), _int64(0x94D049BB133111EB)
# The constants C. Their four upper bits have to differ, also from each other's complements (for negative integers in fold_in).
_SEED, _SPLIT, _FOLD, _BITS = map(_int64, (0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1))
_LOW32 = (1 << 32) - 1


def key(seed: int | torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
    """Return the key of a seed; different seeds have different keys.

    Args:
        seed: an integer in [-2**63, 2**63), or an integer tensor [] (so that one can vmap over seeds).
        device: the device of the key and of all numbers drawn from it; by default the tensor's device, or torch's default device.

    Returns:
        A key, int64 [].

    Raises:
        TypeError: if ``seed`` is not an integer.
        ValueError: if ``seed`` does not fit in 64 bits, or has dims.

    Example:
        >>> key(0)
        tensor(-8790055297342145339)
        >>> bool(key(0) == key(torch.tensor(0)))
        True
    """
    seed = _integer(seed, "key", "seed", device)
    return _output(torch.zeros_like(seed), seed, _SEED)


def split(key: torch.Tensor, num: Shape = 2) -> torch.Tensor:
    """Return new keys derived from one key, which should not be used again.

    The first keys do not depend on ``num``.

    Args:
        key: int64 [].
        num: the number of keys, or the shape of the tensor of keys.

    Returns:
        Keys, int64 [num] or [*num].

    Raises:
        TypeError, ValueError: if ``key`` is not one key, or a size is below 0.

    Example:
        >>> first, second = split(key(0))
        >>> split(first, (8, 2)).shape
        torch.Size([8, 2])
    """
    return _words(key, num, "split", _SPLIT)


def fold_in(key: torch.Tensor, data: int | torch.Tensor) -> torch.Tensor:
    """Return the key derived from a key and an integer, such as a step.

    In a compiled loop give a tensor: a change of a Python integer causes a new compilation.

    Args:
        key: int64 [].
        data: an integer in [-2**63, 2**63), or an integer tensor []; below 2**60 in magnitude to avoid the positions of split and samplers.

    Returns:
        A key, int64 [].

    Raises:
        TypeError: if ``key`` is not a key, or ``data`` is not an integer.
        ValueError: if ``key`` or ``data`` has dims, or ``data`` does not fit in 64 bits.

    Example:
        >>> step = torch.tensor(3)
        >>> bool(fold_in(key(0), step) == fold_in(key(0), 3))
        True
    """
    _check_key(key, "fold_in")
    return _output(key, _integer(data, "fold_in", "data", key.device), _FOLD)


def bits(key: torch.Tensor, shape: Shape = ()) -> torch.Tensor:
    """Return words of 64 random bits.

    Args:
        key: int64 [].
        shape: the shape of the result.

    Returns:
        int64 ``shape``, over the whole range of int64; all words differ.

    Raises:
        TypeError, ValueError: if ``key`` is not one key, or a size is below 0.

    Example:
        >>> bits(key(0), (2,))
        tensor([ 4491245970711880377, -4332282781965847702])
    """
    return _words(key, shape, "bits")


def uniform(
    key: torch.Tensor,
    shape: Shape = (),
    low: float | torch.Tensor = 0.0,
    high: float | torch.Tensor = 1.0,
    *,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return numbers that are uniform in [low, high): low + (high - low) * u, or (1 - u) * low + u * high where the difference overflows.

    u is a multiple of 2**-24 (float32) or 2**-53 (float64). A result that would round to ``high`` becomes ``low``.

    Args:
        key: int64 [].
        shape: the shape of the result.
        low: a finite number, or a tensor that broadcasts to ``shape``.
        high: the same; above ``low``.
        dtype: torch.float32 or torch.float64; the bounds are cast to it.

    Returns:
        ``dtype`` ``shape``.

    Raises:
        TypeError: if ``key`` is not a key, or ``dtype`` is neither of these.
        ValueError: if ``key`` has dims, a size is below 0, a bound does not broadcast, or the range is empty or infinite (tensors
            are checked on the CPU outside of compile and vmap).

    Example:
        >>> x = uniform(key(0), (1000,), -1.0, 3.0)
        >>> bool((x >= -1).all() and (x < 3).all())
        True
    """
    _check_dtype(dtype, "uniform")
    x = _fraction(_words(key, shape, "uniform"), dtype)
    numbers = not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor)
    greatest = torch.finfo(dtype).max
    if numbers and not -greatest <= low < high <= greatest:
        raise ValueError(f"random.uniform: expected finite low < high in {dtype}, got low={low} and high={high}")
    wide = not numbers or high - low > greatest
    if numbers and low == 0 and high == 1:
        return x
    low, high = torch.as_tensor(low, dtype=dtype, device=key.device), torch.as_tensor(high, dtype=dtype, device=key.device)
    _check_broadcast("uniform", x.shape, low=low, high=high)
    if not numbers and _seen(lambda: ~((low < high) & (low >= -greatest) & (high <= greatest)).all()):
        raise ValueError(f"random.uniform: expected finite low < high everywhere in {dtype}, got low={low} and high={high}")
    span = high - low
    whole = x * span + low
    if wide:
        whole = torch.where(span <= greatest, whole, (1 - x) * low + x * high)
    return torch.where(whole < high, whole, low)


def normal(key: torch.Tensor, shape: Shape = (), *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return standard normal numbers: sqrt(-2 log u) * cos(2 pi v), with u in (0, 1] and v in [0, 1) uniform.

    float32 takes u (41 bits) and v (24 bits) from one word, with a maximum of 7.5; float64 takes 53 bits each from two, with one of 8.6.

    Args:
        key: int64 [].
        shape: the shape of the result.
        dtype: torch.float32 or torch.float64.

    Returns:
        ``dtype`` ``shape``, always finite.

    Raises:
        TypeError, ValueError: if ``key`` is not one key, ``dtype`` is neither of these, or a size is below 0.

    Example:
        >>> x = normal(key(0), (10_000,))
        >>> abs(x.mean().item()) < 0.02, abs(x.std().item() - 1) < 0.02
        (True, True)

    Reference:
        Box, Muller 1958, "A note on the generation of random normal deviates", doi:10.1214/aoms/1177706645 (no arXiv id). Only the
        cosine is used, so that each number has its own counter for every shape.
    """
    _check_dtype(dtype, "normal")
    if dtype == torch.float32:
        words = _words(key, shape, "normal")
        u, v = _open_fraction(words, dtype), (words & 0xFFFFFF).to(dtype) * 2.0**-24
    else:
        words = _words(key, (2, *_size(shape, "normal")), "normal")
        u, v = _open_fraction(words[0], dtype), _fraction(words[1], dtype)
    return torch.sqrt(-2 * torch.log(u)) * torch.cos(2 * math.pi * v)


def truncated_normal(
    key: torch.Tensor,
    low: float | torch.Tensor,
    high: float | torch.Tensor,
    shape: Shape | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return standard normal numbers conditioned on [low, high]: F^-1(F(low) + u * (F(high) - F(low))), F the normal cdf.

    If low + high > 0 the mirrored problem is solved, so that upper tails are as precise as lower ones. An interval
    that begins more than 12 (float32) or 37 (float64) from 0 has probability 0 in ``dtype``; its result is the bound nearest to 0.

    Args:
        key: int64 [].
        low: a number, or a tensor that broadcasts to ``shape``; may be -inf.
        high: the same; above ``low``; may be inf.
        shape: the shape of the result; by default that of the bounds.
        dtype: torch.float32 or torch.float64; the bounds are cast to it.

    Returns:
        ``dtype`` ``shape``.

    Raises:
        TypeError: if ``key`` is not a key, or ``dtype`` is neither of these.
        ValueError: if ``key`` has dims, a size is below 0, a bound does not broadcast, or the interval is empty (tensors are
            checked on the CPU outside of compile and vmap).

    Example:
        >>> x = truncated_normal(key(0), -2.0, 2.0, (1000,))
        >>> bool((x.abs() <= 2).all())
        True
    """
    _check_key(key, "truncated_normal")
    _check_dtype(dtype, "truncated_normal")
    numbers = not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor)
    if numbers and not low < high:
        raise ValueError(f"random.truncated_normal: expected low < high, got low={low} and high={high}")
    low, high = torch.as_tensor(low, dtype=dtype, device=key.device), torch.as_tensor(high, dtype=dtype, device=key.device)
    size = torch.Size(np.broadcast_shapes(low.shape, high.shape)) if shape is None else shape
    u = _open_fraction(_words(key, size, "truncated_normal"), dtype)
    _check_broadcast("truncated_normal", u.shape, low=low, high=high)
    if not numbers and _seen(lambda: ~(low < high).all()):
        raise ValueError(f"random.truncated_normal: expected low < high everywhere in {dtype}, got low={low} and high={high}")
    mirror = low + high > 0
    a, b = torch.where(mirror, -high, low), torch.where(mirror, -low, high)
    a, b = torch.special.erfc(-math.sqrt(0.5) * a) / 2, torch.special.erfc(-math.sqrt(0.5) * b) / 2
    info = torch.finfo(dtype)
    x = torch.special.ndtri((a + u * (b - a)).clamp(info.tiny, 1 - info.eps / 2))
    return torch.minimum(torch.maximum(torch.where(mirror, -x, x), low), high)


def exponential(key: torch.Tensor, shape: Shape = (), *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return numbers of the exponential distribution with rate 1: -log(1 - u).

    Small numbers have the full precision of the dtype. As 1 - u has steps of 2**-24 in float32, large numbers have steps (of 0.01 at 12,
    of 0.7 at the end), and the largest is 16.64; in float64 it is 36.74.

    Args:
        key: int64 [].
        shape: the shape of the result.
        dtype: torch.float32 or torch.float64.

    Returns:
        ``dtype`` ``shape``, positive and finite.

    Raises:
        TypeError, ValueError: if ``key`` is not one key, ``dtype`` is neither of these, or a size is below 0.

    Example:
        >>> round(exponential(key(0), (10_000,)).mean().item(), 1)
        1.0
    """
    _check_dtype(dtype, "exponential")
    u = _open_fraction(_words(key, shape, "exponential"), dtype)
    return -torch.log1p(-u.clamp(max=1 - torch.finfo(dtype).eps / 2))


def gumbel(key: torch.Tensor, shape: Shape = (), *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return numbers of the standard Gumbel distribution: -log(e) with e exponential.

    They lie in [-2.82, 28.42] for float32 and in [-3.61, 36.74] for float64.

    Args:
        key: int64 [].
        shape: the shape of the result.
        dtype: torch.float32 or torch.float64.

    Returns:
        ``dtype`` ``shape``, always finite.

    Raises:
        TypeError, ValueError: if ``key`` is not one key, ``dtype`` is neither of these, or a size is below 0.

    Example:
        >>> round(gumbel(key(0), (10_000,)).mean().item(), 1)  # Euler's constant
        0.6
    """
    return -torch.log(exponential(key, shape, dtype=dtype))


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
            (tensors are checked on the CPU outside of compile and vmap).

    Example:
        >>> randint(key(0), (6,), 1, 7)
        tensor([2, 5, 3, 4, 2, 3])

    Reference:
        Lemire 2019, "Fast random integer generation in an interval", arXiv:1805.10941; its multiplication, without its rejection.
    """
    words = _words(key, shape, "randint")
    numbers = not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor)
    order = "low <= high" if endpoint else "low < high"
    if numbers and not (low <= high if endpoint else low < high):
        raise ValueError(f"random.randint: expected {order}, got low={low} and high={high}")
    narrow = numbers and high - low + endpoint <= 1 << 31
    number: Any = high - low + endpoint
    low = _integer(low, "randint", "low", key.device, dims=True)
    high = _integer(high, "randint", "high", key.device, dims=True)
    _check_broadcast("randint", words.shape, low=low, high=high)
    if not numbers and _seen(lambda: ~(low <= high if endpoint else low < high).all()):
        raise ValueError(f"random.randint: expected {order} everywhere, got low={low} and high={high}")
    upper, lower = _shift(words, 32), words & _LOW32
    if narrow:  # the same product for a span of at most 2**31, where no sum reaches 2**63
        return low + ((upper * number + ((lower * number) >> 32)) >> 32)
    span = high - low + endpoint
    span_upper, span_lower = _shift(span, 32), span & _LOW32
    middle = upper * span_lower + _shift(lower * span_lower, 32)
    number = low + upper * span_upper + _shift(middle, 32) + _shift(lower * span_upper + (middle & _LOW32), 32)
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
        ValueError: if ``key`` has dims, a size is below 0, ``p`` does not broadcast or leaves [0, 1] (a tensor is checked on the
            CPU outside of compile and vmap).

    Example:
        >>> bernoulli(key(0), torch.tensor([0.0, 1.0]))
        tensor([False,  True])
    """
    _check_key(key, "bernoulli")
    if not isinstance(p, torch.Tensor):
        if not 0 <= p <= 1:
            raise ValueError(f"random.bernoulli: expected p in [0, 1], got {p}")
        p = torch.full((), float(p), dtype=torch.float32, device=key.device)
    elif _seen(lambda: ~((p >= 0) & (p <= 1)).all()):
        raise ValueError(f"random.bernoulli: expected p in [0, 1] everywhere, got {p}")
    u = _fraction(_words(key, p.shape if shape is None else shape, "bernoulli"), _noise_dtype(p, "bernoulli", "p"))
    _check_broadcast("bernoulli", u.shape, p=p)
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
        >>> categorical(key(0), torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]]))
        tensor([0, 1])

    Reference:
        Maddison, Tarlow, Minka 2014, "A* sampling", arXiv:1411.0030 (section 2, the Gumbel-max trick).
    """
    dtype = _noise_dtype(logits, "categorical", "logits")
    if logits.ndim == 0 or logits.shape[axis] == 0:
        raise ValueError(
            f"random.categorical: expected logits to have at least one class along axis {axis}, got shape {list(logits.shape)}"
        )
    return torch.argmax(logits + gumbel(key, logits.shape, dtype=dtype), axis)


def permutation(key: torch.Tensor, x: int | torch.Tensor) -> torch.Tensor:
    """Return the numbers 0 to x - 1, or the rows of x, in random order.

    The order is that of N words of a key, which are never equal, so it is the same on every device. If N is a power of two and
    at least 1024, no sort is needed: the numbers are permuted by a Feistel network of twelve rounds, keyed by twelve words.

    Args:
        key: int64 [].
        x: an integer N >= 0, or a tensor [N, ...].

    Returns:
        int64 [N], or a tensor with the shape and dtype of ``x``.

    Raises:
        TypeError: if ``key`` is not a key, or ``x`` is neither an integer nor a tensor.
        ValueError: if ``key`` or ``x`` has the wrong dims, or the integer is below 0.

    Example:
        >>> permutation(key(0), 5)
        tensor([3, 1, 0, 4, 2])

    Reference: R. Mitchell, D. Stokes, E. Frank, G. Holmes, "Bandwidth-Optimal Random Shuffling for GPUs", 2021, arXiv:2106.06161
        (a keyed bijection for a shuffle).
    """
    if isinstance(x, torch.Tensor):
        return shuffle(key, x)
    return _order(key, x, "permutation")


def shuffle(key: torch.Tensor, x: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """Return a copy of x whose slices along one dimension are in random order; the slices themselves do not change.

    Args:
        key: int64 [].
        x: a tensor [..., N, ...].
        axis: the dimension of size N.

    Returns:
        A tensor with the shape and dtype of ``x``.

    Raises:
        TypeError: if ``key`` is not a key, or ``x`` is not a tensor.
        ValueError: if ``key`` has dims, or ``x`` has none.

    Example:
        >>> shuffle(key(0), torch.tensor([[1, 2, 3], [4, 5, 6]]), axis=1)
        tensor([[2, 1, 3],
                [5, 4, 6]])
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"random.shuffle: expected x to be a tensor, got {type(x).__name__}; give torch.as_tensor(x)")
    if x.ndim == 0:
        raise ValueError(
            "random.shuffle: expected x to have at least one dim, got shape []; for the numbers 0 to n - 1 give permutation an int"
        )
    return x.index_select(axis, _order(key, x.shape[axis], "shuffle"))


def _order(key: torch.Tensor, n: int, name: str) -> torch.Tensor:
    """Return the numbers 0 to n - 1 in random order."""
    (n,) = _size((n,), name)
    if n < 1024 or n & (n - 1):
        return torch.argsort(_words(key, (n,), name))
    # A number has two halves of bits, and each round changes one by a keyed function of the other: a bijection for every function.
    low_bits = (n.bit_length() - 1) // 2
    widths = (low_bits, n.bit_length() - 1 - low_bits)
    number = torch.arange(n, device=key.device)
    halves = [number & ((1 << low_bits) - 1), number >> low_bits]
    for i, word in enumerate(_words(key, (12,), name).unbind(0)):
        changed, other = i % 2, 1 - i % 2
        z = (halves[other] ^ word) * _M1
        z = (z ^ _shift(z, 32)) * _M2
        halves[changed] = halves[changed] ^ _shift(z, 64 - widths[changed])
    return halves[0] | (halves[1] << low_bits)


def choice(
    key: torch.Tensor, a: int | torch.Tensor, shape: Shape = (), *, replace: bool = True, p: torch.Tensor | None = None
) -> torch.Tensor:
    """Return random elements of the numbers 0 to a - 1, or random rows of a.

    Without ``p`` all are equally likely. With ``p`` and ``replace`` the cdf of p is inverted, in float64 and with 53 random bits, so that
    elements with a probability far below 1e-7 are drawn too; without ``replace`` the indices of the largest log(p) + Gumbel noise are
    used, which is equivalent to drawing one after another from the remaining elements.

    Args:
        key: int64 [].
        a: an integer N >= 1, or a tensor [N, ...].
        shape: the shape of the draw.
        replace: whether an element may be drawn more than once.
        p: probabilities, floating point [N], which sum to 1.

    Returns:
        int64 ``shape``, or the rows of ``a``, of shape [*shape, ...].

    Raises:
        TypeError: if ``key`` is not a key, ``a`` is neither an integer nor a tensor, or ``p`` is not floating-point.
        ValueError: if ``key`` has dims, a size is below 0, ``a`` is empty, the draw without replacement is larger than N, or ``p`` has
            another shape than [N], is negative or does not sum to 1 (p is checked on the CPU
            outside of compile and vmap).

    Example:
        >>> choice(key(0), 10, (4,), replace=False)
        tensor([3, 9, 6, 1])
        >>> choice(key(0), torch.tensor([1.0, 2.0]), (3,), p=torch.tensor([0.0, 1.0]))
        tensor([2., 2., 2.])

    Reference:
        Kool, van Hoof, Welling 2019, "Stochastic beams and where to find them", arXiv:1903.06059 (the Gumbel-top-k trick).
    """
    _check_key(key, "choice")
    size = _size(shape, "choice")
    count = math.prod(size)
    rows = isinstance(a, torch.Tensor)
    n = (a.shape[0] if a.ndim else 0) if rows else _size(a, "choice")[0]
    if n == 0:
        raise ValueError(f"random.choice: expected a to hold at least one element, got {f'shape {list(a.shape)}' if rows else a}")
    if not replace and count > n:
        raise ValueError(
            f"random.choice: expected a draw of at most {n} elements without replacement, got shape {list(size)}; use replace=True"
        )
    if p is None:
        index = randint(key, count, 0, n) if replace else permutation(key, n)[:count]
    else:
        dtype = _noise_dtype(p, "choice", "p")
        if p.shape != (n,):
            raise ValueError(f"random.choice: expected p of shape [{n}], got {list(p.shape)}")
        weight = p
        if _seen(lambda: ~((weight >= 0).all() & ((weight.sum() - 1).abs() < torch.finfo(weight.dtype).eps ** 0.5))):
            raise ValueError(f"random.choice: expected p >= 0 that sums to 1, got {p}; divide it by its sum")
        p = p.to(dtype)
        if replace:
            cdf = torch.cumsum(p.to(torch.float64), 0)
            index = torch.searchsorted(cdf, uniform(key, count, dtype=torch.float64) * cdf[-1], right=True)
            index = torch.minimum(index, (cdf < cdf[-1]).sum())  # at most the last p above 0, if a product was rounded up
        elif _seen(lambda: (p > 0).sum() < count):
            raise ValueError(f"random.choice: expected p to have at least {count} elements above 0, got {p}; use replace=True")
        else:
            index = torch.topk(torch.log(p) + gumbel(key, n, dtype=dtype), count).indices
    return a.index_select(0, index).reshape(*size, *a.shape[1:]) if rows else index.reshape(size)


def _shift(z: torch.Tensor, n: int) -> torch.Tensor:
    """Shift the words z right by n bits and fill with zeros (torch's own shift copies the sign)."""
    return (z >> n) & ((1 << (64 - n)) - 1)


def _mix(z: torch.Tensor) -> torch.Tensor:
    z = (z ^ _shift(z, 30)) * _M1
    z = (z ^ _shift(z, 27)) * _M2
    return z ^ _shift(z, 31)


def _output(key: torch.Tensor, counter: torch.Tensor, domain: int) -> torch.Tensor:
    # The xor is first, as inductor treats arange * constant + key as an index, and fails for integers beyond 64 bits.
    return _mix(key + (counter ^ domain) * _GOLDEN)


def _words(key: torch.Tensor, shape: Shape, name: str, domain: int = _BITS) -> torch.Tensor:
    """Return the outputs 0, 1, 2, ... of a key, in the given shape."""
    _check_key(key, name)
    size = _size(shape, name)
    if math.prod(size) == 1:
        return _mix(key + _int64(domain * _GOLDEN)).reshape(size)
    return _output(key, torch.arange(math.prod(size), device=key.device), domain).reshape(size)


def _fraction(words: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers in [0, 1): multiples of 2**-24 (float32) or 2**-53 (float64), from the upper bits."""
    n = 24 if dtype == torch.float32 else 53
    return _shift(words, 64 - n).to(dtype) * 2.0**-n


def _open_fraction(words: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers in (0, 1]: odd multiples of 2**-41 (float32, rounded) or 2**-53 (float64), from the upper bits."""
    n = 41 if dtype == torch.float32 else 53
    return (_shift(words, 64 - n) | 1).to(dtype) * 2.0**-n


def _seen(test: Callable[[], torch.Tensor]) -> bool:
    """Return the value of a test of tensors where this is cheap: False on other devices than the CPU, in compile and in vmap."""
    try:
        value = test()
        return value.device.type == "cpu" and bool(value)
    except RuntimeError:  # tensors of vmap and of a program have no value
        return False


# Called with each key that is drawn from, to find keys that are used twice.
_WATCHER: Callable[[torch.Tensor, str], None] | None = None


def watch(listener: Callable[[torch.Tensor, str], None] | None) -> Callable[[torch.Tensor, str], None] | None:
    """Set ``listener(key, name)``, which is called with each key that a function of this module draws from; return the previous listener.

    It is for :func:`funrl.debug.keys`. ``None`` removes the listener. ``fold_in`` is not a draw.

    Example:
        >>> names = []
        >>> before = watch(lambda key, name: names.append(name))
        >>> x = normal(key(0))
        >>> names, watch(before) is None
        (['normal'], False)
    """
    global _WATCHER
    before, _WATCHER = _WATCHER, listener
    return before


def _check_key(key: torch.Tensor, name: str) -> None:
    if not isinstance(key, torch.Tensor) or key.dtype != torch.int64:
        got = str(key.dtype) if isinstance(key, torch.Tensor) else type(key).__name__
        raise TypeError(f"random.{name}: expected key to be an int64 tensor, got {got}; make a key with funrl.random.key(seed)")
    if key.ndim != 0:
        raise ValueError(f"random.{name}: expected one key of shape [], got shape {list(key.shape)}; map over keys with torch.func.vmap")
    if _WATCHER is not None and name != "fold_in":
        _WATCHER(key, name)


def _check_dtype(dtype: torch.dtype, name: str) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"random.{name}: expected dtype torch.float32 or torch.float64, got {dtype}; cast the result for another one")


def _noise_dtype(x: torch.Tensor, name: str, argument: str) -> torch.dtype:
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        got = str(x.dtype) if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"random.{name}: expected {argument} to be a floating-point tensor, got {got}; convert it with torch.as_tensor")
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _check_broadcast(name: str, size: Sequence[int], **tensors: torch.Tensor) -> None:
    for argument, x in tensors.items():
        if x.ndim > len(size) or any(n not in (1, m) for n, m in zip(reversed(x.shape), reversed(size), strict=False)):
            raise ValueError(f"random.{name}: expected {argument} to broadcast to shape {list(size)}, got shape {list(x.shape)}")


def _size(shape: Shape, name: str) -> tuple[int, ...]:
    try:
        size = tuple(operator.index(n) for n in shape) if isinstance(shape, Sequence) else (operator.index(shape),)
    except TypeError:
        raise TypeError(f"random.{name}: expected a size or shape of integers, got {shape!r}") from None
    if any(n < 0 for n in size):
        raise ValueError(f"random.{name}: expected sizes >= 0, got {shape}")
    return size


def _integer(x: int | torch.Tensor, name: str, argument: str, device: torch.device | str | None, dims: bool = False) -> torch.Tensor:
    """Return an integer as an int64 tensor, [] unless ``dims`` are allowed."""
    if isinstance(x, torch.Tensor):
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise TypeError(f"random.{name}: expected {argument} to be an integer, got a tensor of {x.dtype}")
        if x.ndim != 0 and not dims:
            raise ValueError(f"random.{name}: expected {argument} to have shape [], got {list(x.shape)}; map over it with torch.func.vmap")
        return x.to(device=device, dtype=torch.int64)
    try:
        number = operator.index(x)
    except TypeError:
        raise TypeError(f"random.{name}: expected {argument} to be an integer, got {type(x).__name__}") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"random.{name}: expected {argument} in [-2**63, 2**63), got {number}")
    return torch.full((), number, dtype=torch.int64, device=device)
