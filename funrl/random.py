"""Random numbers as pure functions of a key.

A *key* is an int64 tensor of shape []. It has no state: a function of this module gives the same numbers for the same key, always,
whether it runs eagerly, compiled, or under :func:`torch.func.vmap`, on any device. So use a key once, and make new ones from it with
:func:`split` (a number of keys now) or :func:`fold_in` (one key for a number that you have, such as a step). Every function takes one
key; for keys [B] map over them: ``torch.func.vmap(lambda k: normal(k, (3,)))(split(key, B))``.

Construction: output i of key k is the output of SplitMix64 at one position of its sequence, which a counter reaches directly::

    output(k, i) = mix(k + (i ^ C) * 0x9E3779B97F4A7C15)                        (mod 2**64)
    mix(z):  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;  z = (z ^ z >> 27) * 0x94D049BB133111EB;  return z ^ z >> 31

C is a 64-bit constant of its own for each of :func:`key`, :func:`split`, :func:`fold_in` and the samplers, so that for counters i below
2**32 the four never read the same position of a key.

Limits: a key has 64 bits, and all keys read one cycle of 2**64 positions, each from a place of its own. Among K keys that
read n numbers each, some two streams overlap with probability of about K * K * n / 2**64 (a million keys of a million numbers: 5 %), and two
equal keys among K come with probability K * K / 2**65. The 64-bit words of one key never repeat, as random words would
after some 2**32. The generator is not cryptographic: from one word of :func:`bits` its key can be computed.
Integers and keys are equal everywhere; what comes out of logarithms and cosines may differ in the last digits between devices or
between eager and compiled programs, so that an index drawn by :func:`categorical` may differ there once in some ten million draws.

References:
    Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA, doi:10.1145/2660193.2660195.
    Stafford 2011, "Better bit mixing: improving on MurmurHash3's 64-bit finalizer", variant 13 (the two multipliers and three shifts).
    Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11, doi:10.1145/2063384.2063405 (counters for state).
"""

import math
from collections.abc import Sequence

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
]

Shape = int | Sequence[int]


def _int64(x: int) -> int:
    """Return the signed 64-bit integer with the low 64 bits of x."""
    return ((x + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


_GOLDEN = _int64(0x9E3779B97F4A7C15)
_M1, _M2 = _int64(0xBF58476D1CE4E5B9), _int64(0x94D049BB133111EB)
# The domains: any constants do whose upper halves differ, and differ from one another's complements (negative counters).
_SEED, _SPLIT, _FOLD, _BITS = map(_int64, (0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1))
_LOW32 = (1 << 32) - 1


def _shift(z: torch.Tensor, n: int) -> torch.Tensor:
    """Shift the words z right by n bits and fill with zeros (torch's shift copies the sign)."""
    return (z >> n) & ((1 << (64 - n)) - 1)


def _mix(z: torch.Tensor) -> torch.Tensor:
    z = (z ^ _shift(z, 30)) * _M1
    z = (z ^ _shift(z, 27)) * _M2
    return z ^ _shift(z, 31)


def _words(key: torch.Tensor, shape: Shape, name: str, domain: int = _BITS) -> torch.Tensor:
    _check_key(key, name)
    size = _size(shape, name)
    n = math.prod(size)
    if n == 1:
        return _mix(key + _int64(domain * _GOLDEN)).reshape(size)
    # The xor comes first: inductor takes arange * constant + key for an index, and fails on integers beyond 64 bits.
    return _mix(key + (torch.arange(n, device=key.device) ^ domain) * _GOLDEN).reshape(size)


def _fraction(words: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers in [0, 1): multiples of 2**-24 (float32) or 2**-53 (float64) from the upper bits."""
    n = 24 if dtype == torch.float32 else 53
    return _shift(words, 64 - n).to(dtype) * 2.0**-n


def _open_fraction(words: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers in (0, 1]: odd multiples of 2**-41 (float32, rounded) or 2**-53 (float64) from the upper bits."""
    n = 41 if dtype == torch.float32 else 53
    return (_shift(words, 64 - n) | 1).to(dtype) * 2.0**-n


def _check_key(key: torch.Tensor, name: str) -> None:
    if not isinstance(key, torch.Tensor) or key.dtype != torch.int64:
        got = str(key.dtype) if isinstance(key, torch.Tensor) else type(key).__name__
        raise TypeError(f"random.{name}: expected key to be an int64 tensor, got {got}; make a key with funrl.random.key(seed)")
    if key.ndim != 0:
        raise ValueError(f"random.{name}: expected one key of shape [], got shape {list(key.shape)}; map over keys with torch.func.vmap")


def _size(shape: Shape, name: str) -> tuple[int, ...]:
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(n < 0 for n in size):
        raise ValueError(f"random.{name}: expected shape to hold sizes >= 0, got {list(size)}")
    return size


def _check_dtype(dtype: torch.dtype, name: str) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"random.{name}: expected dtype torch.float32 or torch.float64, got {dtype}; cast the result for another one")


def _number(x: float | torch.Tensor) -> bool:
    return not isinstance(x, torch.Tensor)


def key(seed: int | torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
    """Return the key of a seed. No two seeds share a key."""
    if isinstance(seed, torch.Tensor):
        return _mix((seed.to(device=device, dtype=torch.int64) ^ _SEED) * _GOLDEN)
    return _mix(torch.full((), _int64((_int64(seed) ^ _SEED) * _GOLDEN), dtype=torch.int64, device=device))


def split(key: torch.Tensor, num: Shape = 2) -> torch.Tensor:
    """Return keys of shape ``num`` made from one key."""
    return _words(key, num, "split", _SPLIT)


def fold_in(key: torch.Tensor, data: int | torch.Tensor) -> torch.Tensor:
    """Return the key that belongs to ``key`` and an integer."""
    _check_key(key, "fold_in")
    if not isinstance(data, torch.Tensor):
        data = torch.full((), data, dtype=torch.int64, device=key.device)
    return _mix(key + (data.to(torch.int64) ^ _FOLD) * _GOLDEN)


def bits(key: torch.Tensor, shape: Shape = ()) -> torch.Tensor:
    """Return int64 words of 64 random bits."""
    return _words(key, shape, "bits")


def uniform(
    key: torch.Tensor,
    shape: Shape = (),
    low: float | torch.Tensor = 0.0,
    high: float | torch.Tensor = 1.0,
    *,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return numbers uniform in [low, high)."""
    _check_dtype(dtype, "uniform")
    x = _fraction(_words(key, shape, "uniform"), dtype)
    if _number(low) and _number(high):
        if not (low < high and math.isfinite(high - low)):
            raise ValueError(f"random.uniform: expected finite low < high, got low={low} and high={high}")
        if low == 0 and high == 1:
            return x
    low = torch.as_tensor(low, dtype=dtype, device=key.device)
    high = torch.as_tensor(high, dtype=dtype, device=key.device)
    x = x * (high - low) + low
    return torch.where(x < high, x, low)


def normal(key: torch.Tensor, shape: Shape = (), *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return standard normal numbers (Box-Muller)."""
    _check_dtype(dtype, "normal")
    if dtype == torch.float32:
        words = _words(key, shape, "normal")
        radius, angle = _open_fraction(words, dtype), (words & 0xFFFFFF).to(dtype) * 2.0**-24
    else:
        words = _words(key, (2, *_size(shape, "normal")), "normal")
        radius, angle = _open_fraction(words[0], dtype), _fraction(words[1], dtype)
    return torch.sqrt(-2 * torch.log(radius)) * torch.cos(2 * math.pi * angle)


def exponential(key: torch.Tensor, shape: Shape = (), *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return numbers of the standard exponential distribution."""
    _check_dtype(dtype, "exponential")
    u = _open_fraction(_words(key, shape, "exponential"), dtype)
    return -torch.log1p(-u.clamp(max=1 - torch.finfo(dtype).eps / 2))


def gumbel(key: torch.Tensor, shape: Shape = (), *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return numbers of the standard Gumbel distribution."""
    return -torch.log(exponential(key, shape, dtype=dtype))


def truncated_normal(key, low, high, shape=None, dtype=torch.float32):
    """Return standard normal numbers conditioned on [low, high]."""
    low = torch.as_tensor(low, dtype=dtype, device=key.device)
    high = torch.as_tensor(high, dtype=dtype, device=key.device)
    if shape is None:
        shape = torch.broadcast_shapes(low.shape, high.shape)
    flip = torch.where(low + high > 0, -1.0, 1.0).to(dtype)
    a, b = torch.where(flip < 0, -high, low), torch.where(flip < 0, -low, high)
    a, b = torch.special.ndtr(a), torch.special.ndtr(b)
    u = _open_fraction(_words(key, shape, "truncated_normal"), dtype)
    p = (a + u * (b - a)).clamp(max=1 - torch.finfo(dtype).eps / 2)
    return torch.minimum(torch.maximum(flip * torch.special.ndtri(p), low), high)


def randint(key: torch.Tensor, shape: Shape, low: int | torch.Tensor, high: int | torch.Tensor) -> torch.Tensor:
    """Return int64 numbers uniform in [low, high)."""
    words = _words(key, shape, "randint")
    if _number(low) and _number(high) and low >= high:
        raise ValueError(f"random.randint: expected low < high, got low={low} and high={high}")
    span = high - low
    upper, lower = _shift(words, 32), words & _LOW32
    if _number(span) and span <= 1 << 31:
        return low + ((upper * span + ((lower * span) >> 32)) >> 32)
    if _number(span):
        span = torch.full((), _int64(span), dtype=torch.int64, device=key.device)
    span_upper, span_lower = _shift(span, 32), span & _LOW32
    t = upper * span_lower + _shift(lower * span_lower, 32)
    return low + (upper * span_upper + _shift(t, 32) + _shift(lower * span_upper + (t & _LOW32), 32))


def bernoulli(key: torch.Tensor, p: float | torch.Tensor = 0.5, shape: Shape | None = None) -> torch.Tensor:
    """Return bool, true with probability p."""
    if _number(p):
        p = torch.full((), p, device=key.device)
    return uniform(key, p.shape if shape is None else shape, dtype=p.dtype) < p


def categorical(key: torch.Tensor, logits: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """Return indices drawn with probability softmax(logits)."""
    return torch.argmax(logits + gumbel(key, logits.shape, dtype=logits.dtype), axis)


def permutation(key: torch.Tensor, x: int | torch.Tensor) -> torch.Tensor:
    """Return a random order of range(x), or of the rows of x."""
    if isinstance(x, torch.Tensor):
        return shuffle(key, x)
    return torch.argsort(bits(key, (x,)))


def shuffle(key: torch.Tensor, x: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """Return x with its slices along ``axis`` in random order."""
    return x.index_select(axis, permutation(key, x.shape[axis]))


def choice(key, a, shape=(), *, replace=True, p=None):
    """Return elements of range(a), or rows of a."""
    n = a.shape[0] if isinstance(a, torch.Tensor) else a
    size = _size(shape, "choice")
    k = math.prod(size)
    if not replace and k > n:
        raise ValueError(f"random.choice: cannot take {k} of {n} without replacement")
    if p is None:
        index = randint(key, size, 0, n) if replace else permutation(key, n)[:k]
    elif replace:
        cdf = torch.cumsum(p, 0)
        index = torch.searchsorted(cdf, uniform(key, k, dtype=p.dtype) * cdf[-1], right=True)
    else:
        index = torch.topk(torch.log(p) + gumbel(key, n, dtype=p.dtype), k).indices
    if isinstance(a, torch.Tensor):
        return a[index.reshape(-1)].reshape(*size, *a.shape[1:])
    return index.reshape(size)
