"""SplitMix64 with a counter as its state: the 64-bit words of all random numbers, see the docstring of the package."""

import math
from typing import Any

import torch

from funrl.random._checks import Shape, check_key, size_of

Words = Any  # int64: a torch.Tensor or, which is faster for a few words on the host, an int of Python (whose low 64 bits count)


def int64(x: int) -> int:
    """Return the signed 64-bit integer with the low 64 bits of x."""
    return ((x + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


GOLDEN = int64(0x9E3779B97F4A7C15)
M1, M2 = int64(0xBF58476D1CE4E5B9), int64(0x94D049BB133111EB)
# The constants C. Their four upper bits have to differ, also from each other's complements (for negative integers in fold_in).
SEED, SPLIT, FOLD, BITS = map(int64, (0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1))


def shift(z: Words, n: int) -> Words:
    """Shift the words z, right by n bits and fill with zeros (torch's own shift copies the sign)."""
    return (z >> n) & ((1 << (64 - n)) - 1)


def mix(z: Words) -> Words:
    """Return the output function of SplitMix64 of the words z, a bijection in which every input bit affects all output bits."""
    z = (z ^ shift(z, 30)) * M1
    z = (z ^ shift(z, 27)) * M2
    return z ^ shift(z, 31)


def output(key: Words, counter: Words, domain: int) -> Words:
    """Return the words of a key for the counters; ``domain`` is one of the constants C above."""
    # The xor is first, as inductor treats arange * constant + key as an index, and fails for integers beyond 64 bits.
    return mix(key + (counter ^ domain) * GOLDEN)


def words_of(key: torch.Tensor, shape: Shape, name: str, domain: int = BITS) -> torch.Tensor:
    """Return the outputs 0, 1, 2, ... of a key, in the given shape."""
    check_key(key, name)
    size = size_of(shape, name)
    if math.prod(size) == 1:
        return mix(key + int64(domain * GOLDEN)).reshape(size)
    return output(key, torch.arange(math.prod(size), device=key.device), domain).reshape(size)


def fraction(words: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers in [0, 1): multiples of 2**-24 (float32) or 2**-53 (float64), from the upper bits."""
    n = 24 if dtype == torch.float32 else 53
    return shift(words, 64 - n).to(dtype) * 2.0**-n


def open_fraction(words: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers in (0, 1]: odd multiples of 2**-41 (float32, rounded) or 2**-53 (float64), from the upper bits."""
    n = 41 if dtype == torch.float32 else 53
    return (shift(words, 64 - n) | 1).to(dtype) * 2.0**-n
