"""Floating-point numbers: uniform, normal, exponential and Gumbel."""

import math

import numpy as np
import torch

from funrl import _check
from funrl.random._checks import Shape, check_broadcast, check_dtype, check_key, size_of
from funrl.random._splitmix import fraction, open_fraction, words_of


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
        TypeError: if ``key`` is not a key, or ``dtype`` is another one.
        ValueError: if ``key`` has dims, a size is below 0, a bound does not broadcast, or the range is empty or infinite (tensors
            are looked at on the CPU outside of compile and vmap).

    Example:
        >>> from funrl import random
        >>> x = random.uniform(random.key(0), (1000,), -1.0, 3.0)
        >>> bool((x >= -1).all() and (x < 3).all())
        True
    """
    check_dtype(dtype, "uniform")
    x = fraction(words_of(key, shape, "uniform"), dtype)
    numbers = not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor)
    greatest = torch.finfo(dtype).max
    if numbers and not -greatest <= low < high <= greatest:
        raise ValueError(f"random.uniform: expected finite low < high in {dtype}, got low={low} and high={high}")
    wide = not numbers or high - low > greatest
    if numbers and low == 0 and high == 1:
        return x
    low, high = torch.as_tensor(low, dtype=dtype, device=key.device), torch.as_tensor(high, dtype=dtype, device=key.device)
    check_broadcast("uniform", x.shape, low=low, high=high)
    if not numbers and _check.seen(lambda: ~((low < high) & (low >= -greatest) & (high <= greatest)).all()):
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
        TypeError, ValueError: if ``key`` is not one key, ``dtype`` is another one, or a size is below 0.

    Example:
        >>> from funrl import random
        >>> x = random.normal(random.key(0), (10_000,))
        >>> abs(x.mean().item()) < 0.02, abs(x.std().item() - 1) < 0.02
        (True, True)

    Reference:
        Box, Muller 1958, "A note on the generation of random normal deviates", doi:10.1214/aoms/1177706645 (no arXiv id). Only the
        cosine is used, so that each number has its own counter for every shape.
    """
    check_dtype(dtype, "normal")
    if dtype == torch.float32:
        words = words_of(key, shape, "normal")
        u, v = open_fraction(words, dtype), (words & 0xFFFFFF).to(dtype) * 2.0**-24
    else:
        words = words_of(key, (2, *size_of(shape, "normal")), "normal")
        u, v = open_fraction(words[0], dtype), fraction(words[1], dtype)
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
        TypeError: if ``key`` is not a key, or ``dtype`` is another one.
        ValueError: if ``key`` has dims, a size is below 0, a bound does not broadcast, or the interval is empty (tensors are looked
            at on the CPU outside of compile and vmap).

    Example:
        >>> from funrl import random
        >>> x = random.truncated_normal(random.key(0), -2.0, 2.0, (1000,))
        >>> bool((x.abs() <= 2).all())
        True
    """
    check_key(key, "truncated_normal")
    check_dtype(dtype, "truncated_normal")
    numbers = not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor)
    if numbers and not low < high:
        raise ValueError(f"random.truncated_normal: expected low < high, got low={low} and high={high}")
    low, high = torch.as_tensor(low, dtype=dtype, device=key.device), torch.as_tensor(high, dtype=dtype, device=key.device)
    size = torch.Size(np.broadcast_shapes(low.shape, high.shape)) if shape is None else shape
    u = open_fraction(words_of(key, size, "truncated_normal"), dtype)
    check_broadcast("truncated_normal", u.shape, low=low, high=high)
    if not numbers and _check.seen(lambda: ~(low < high).all()):
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
        TypeError, ValueError: if ``key`` is not one key, ``dtype`` is another one, or a size is below 0.

    Example:
        >>> from funrl import random
        >>> round(random.exponential(random.key(0), (10_000,)).mean().item(), 1)
        1.0
    """
    check_dtype(dtype, "exponential")
    u = open_fraction(words_of(key, shape, "exponential"), dtype)
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
        TypeError, ValueError: if ``key`` is not one key, ``dtype`` is another one, or a size is below 0.

    Example:
        >>> from funrl import random
        >>> round(random.gumbel(random.key(0), (10_000,)).mean().item(), 1)  # Euler's constant
        0.6
    """
    return -torch.log(exponential(key, shape, dtype=dtype))
