"""Random orders of n things, a place at a time: what stands at place j is found without ordering the rest."""

import torch

from funrl import random
from funrl.buffers.buffer import seen
from funrl.program import scan
from funrl.random import _FOLD, _output

__all__ = ["ordered"]

_ROUNDS = 8
_WALK = 32  # steps until all are below n but for a chance of 4**-32


def ordered(key: torch.Tensor, place: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """Return what stands at the given places of the random order of 0 to n - 1 that belongs to a key.

    A Feistel network permutes the numbers below a * b, with a and b near the root of n; who lands at n or above goes on until he does not.

    Args:
        key: a key [].
        place: int64 [B], in [0, n).
        n: int64 [], at least 1 and below 2**52.

    Returns:
        int64 [B], in [0, n); different for different places.

    Example:
        >>> ordered(random.key(1), torch.arange(5), torch.tensor(5)).sort().values
        tensor([0, 1, 2, 3, 4])

    Reference: J. Black, P. Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002 (no arXiv id): their generalised Feistel network
        and cycle walking, with eight rounds.
    """
    a = n.to(torch.float64).sqrt().ceil().to(torch.int64).clamp(min=1)
    b = (n + a - 1) // a
    keys = random.split(key, _ROUNDS).unbind(0)

    def permuted(x: torch.Tensor) -> torch.Tensor:
        left, right = x // b, x % b
        for i in range(0, _ROUNDS, 2):
            left = (left + _word(keys[i], right) % a) % a
            right = (right + _word(keys[i + 1], left) % b) % b
        return left * b + right

    def walk(x: torch.Tensor, none: object) -> tuple[torch.Tensor, tuple[()]]:
        return torch.where(x >= n, permuted(x), x), ()

    x = permuted(place)
    if torch.compiler.is_compiling():
        x, _ = scan(walk, x, length=_WALK)
    else:
        for _ in range(_WALK):
            if seen(lambda x=x: (x < n).all()):
                break
            x, _ = walk(x, None)
    return torch.minimum(x, (n - 1).clamp(min=0))


def _word(key: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return 62 random bits for each integer: ``random.fold_in`` of many."""
    return _output(key, x, _FOLD) & ((1 << 62) - 1)
