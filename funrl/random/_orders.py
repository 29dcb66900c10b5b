"""Random orders and choices of elements."""

import math
from collections.abc import Callable, Sequence

import torch

from funrl import _check
from funrl.random._checks import Shape, check_key, noise_dtype, size_of
from funrl.random._continuous import gumbel, uniform
from funrl.random._discrete import randint
from funrl.random._splitmix import M1, M2, shift, words_of


def permutation(key: torch.Tensor, x: int | torch.Tensor, axis: int = 0) -> torch.Tensor:
    """Return the numbers 0 to x - 1, or the rows of x, or its slices along another dimension, in random order.

    The order is that of N words of a key, which are never equal, so it is the same on every device. If N is a power of two and
    at least 1024, no sort is needed: the numbers are permuted by a Feistel network of twelve rounds, keyed by twelve words.

    Args:
        key: int64 [].
        x: an integer N >= 0, or a tensor [..., N, ...].
        axis: the dimension of size N of a tensor.

    Returns:
        int64 [N], or a tensor like ``x``.

    Raises:
        TypeError: if ``key`` is not a key, or ``x`` is neither an integer nor a tensor.
        ValueError: if ``key`` has dims, a tensor has none, or the integer is below 0.

    Example:
        >>> from funrl import random
        >>> random.permutation(random.key(0), 5)
        tensor([3, 1, 0, 4, 2])
        >>> random.permutation(random.key(0), torch.tensor([[1, 2, 3], [4, 5, 6]]), axis=1)
        tensor([[2, 1, 3],
                [5, 4, 6]])

    Reference: R. Mitchell, D. Stokes, E. Frank, G. Holmes, "Bandwidth-Optimal Random Shuffling for GPUs", 2021, arXiv:2106.06161
        (a keyed bijection for a shuffle).
    """
    if not isinstance(x, torch.Tensor):
        return _order(key, x, "permutation")
    if x.ndim == 0:
        _check.fail(ValueError, "random.permutation: x", "at least one dim", "[]", "for the numbers 0 to n - 1 give an int")
    return x.index_select(axis, _order(key, x.shape[axis], "permutation"))


def _order(key: torch.Tensor, n: int, name: str) -> torch.Tensor:
    """Return the numbers 0 to n - 1 in random order."""
    (n,) = size_of((n,), name)
    if n < 1024 or n & (n - 1):
        return torch.argsort(words_of(key, (n,), name))
    low_bits = (n.bit_length() - 1) // 2
    widths = (low_bits, n.bit_length() - 1 - low_bits)

    def change(i: int, half: torch.Tensor, other: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
        z = (other ^ word) * M1
        z = (z ^ shift(z, 32)) * M2
        return half ^ shift(z, 64 - widths[i])

    number = torch.arange(n, device=key.device)
    low, high = feistel((number & ((1 << low_bits) - 1), number >> low_bits), words_of(key, (12,), name).unbind(0), change)
    return low | (high << low_bits)


def feistel(
    halves: tuple[torch.Tensor, torch.Tensor], words: Sequence[torch.Tensor], change: Callable[..., torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change the two halves of numbers in turn, each by a keyed function of the other: a permutation, whatever the function.

    Args:
        halves: int64 [N] each; the first is changed first.
        words: a word or key for each round.
        change: ``change(i, half, other, word) -> half``, which for fixed ``other`` and ``word`` permutes the values of half i.

    Example:
        >>> halves = torch.arange(4) // 2, torch.arange(4) % 2
        >>> left, right = feistel(halves, torch.tensor([1, 0]), lambda i, half, other, word: (half + other + word) % 2)
        >>> left * 2 + right
        tensor([3, 1, 0, 2])
    """
    both = list(halves)
    for i, word in enumerate(words):
        both[i % 2] = change(i % 2, both[i % 2], both[1 - i % 2], word)
    return both[0], both[1]


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
            another shape than [N], is negative or does not sum to 1 (p is looked at on the CPU
            outside of compile and vmap).

    Example:
        >>> from funrl import random
        >>> random.choice(random.key(0), 10, (4,), replace=False)
        tensor([3, 9, 6, 1])
        >>> random.choice(random.key(0), torch.tensor([1.0, 2.0]), (3,), p=torch.tensor([0.0, 1.0]))
        tensor([2., 2., 2.])

    Reference:
        Kool, van Hoof, Welling 2019, "Stochastic beams and where to find them", arXiv:1903.06059 (the Gumbel-top-k trick).
    """
    check_key(key, "choice")
    size = size_of(shape, "choice")
    count = math.prod(size)
    rows = isinstance(a, torch.Tensor)
    n = (a.shape[0] if a.ndim else 0) if rows else size_of(a, "choice")[0]
    if n == 0:
        raise ValueError(f"random.choice: expected a to hold at least one element, got {f'shape {list(a.shape)}' if rows else a}")
    if not replace and count > n:
        raise ValueError(
            f"random.choice: expected a draw of at most {n} elements without replacement, got shape {list(size)}; use replace=True"
        )
    if p is None:
        index = randint(key, count, 0, n) if replace else permutation(key, n)[:count]
    else:
        dtype = noise_dtype(p, "choice", "p")
        weight = _check.sized("random.choice: p", p, (n,))
        if _check.seen(lambda: ~((weight >= 0).all() & ((weight.sum() - 1).abs() < torch.finfo(weight.dtype).eps ** 0.5))):
            raise ValueError(f"random.choice: expected p >= 0 that sums to 1, got {p}; divide it by its sum")
        p = p.to(dtype)
        if replace:
            cdf = torch.cumsum(p.to(torch.float64), 0)
            index = torch.searchsorted(cdf, uniform(key, count, dtype=torch.float64) * cdf[-1], right=True)
            index = torch.minimum(index, (cdf < cdf[-1]).sum())  # at most the last p above 0, if a product was rounded up
        elif _check.seen(lambda: (p > 0).sum() < count):
            raise ValueError(f"random.choice: expected p to have at least {count} elements above 0, got {p}; use replace=True")
        else:
            index = torch.topk(torch.log(p) + gumbel(key, n, dtype=dtype), count).indices
    return a.index_select(0, index).reshape(*size, *a.shape[1:]) if rows else index.reshape(size)
