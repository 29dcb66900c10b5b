"""Random permutations of n items, evaluated at single places: the item at place j is found without computing the others."""

import torch

from funrl import _check, random
from funrl.compiler import scan, tracing
from funrl.random import FOLD, feistel, output

_ROUNDS = 20  # with fewer rounds some orders of five or six items are too frequent
_WALK = 20  # after so many steps a place is below n except with a probability of at most 4**-20


def ordered(key: torch.Tensor, place: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """Return the numbers at the given places of a random permutation of 0 to n - 1, which the key determines.

    A Feistel network permutes the numbers below a * b, with a and b near the root of n; a number of at least n goes through
    it again, until it is below n.

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
        and cycle walking, with twenty rounds.
    """
    a = n.to(torch.float64).sqrt().ceil().to(torch.int64).clamp(min=1)
    b = ((n + a - 1) // a).clamp(min=1)
    keys = random.split(key, (_ROUNDS // 2, 2))

    def change(i: int, half: torch.Tensor, other: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        below = (a, b)[i]
        return (half + _word(key, other) % below) % below

    def two_rounds(x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        left, right = feistel((x // b, x % b), keys.unbind(0), change)
        return left * b + right

    # All numbers go through the network once, and those of at least n again.
    def permuted(x: torch.Tensor, step: int | torch.Tensor) -> tuple[torch.Tensor, tuple[()]]:
        y, _ = scan(lambda y, pair: (two_rounds(y, pair), ()), x, keys)
        return torch.where((step > 0) & (x < n), x, y), ()

    if tracing():
        x, _ = scan(permuted, place, torch.arange(_WALK, device=place.device))
    else:
        x = place
        for step in range(_WALK):
            x, _ = permuted(x, step)
            if _check.seen(lambda x=x: (x < n).all()):
                break
    return torch.minimum(x, (n - 1).clamp(min=0))


def _word(key: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return 62 random bits for each integer, as ``random.fold_in`` does for one."""
    return output(key, x, FOLD) & ((1 << 62) - 1)
