"""Means and sums over the parts of a batch that is divided among processes. In one process they are the values themselves."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from funrl import tree

_STATE = threading.local()


def divided(parts: int, rank: int, mean_of: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a context in which a batch is one of several parts of the same size; a function that is traced in it keeps that meaning.

    Args:
        parts: W, their number.
        rank: the number of this part, from 0.
        mean_of: a function that returns the mean of a tensor over all parts.

    Example:
        >>> with divided(2, 0, lambda x: x / 2):
        ...     count(), mean({"x": torch.tensor(3.0), "n": torch.tensor(4)})
        (2, {'x': tensor(1.5000), 'n': tensor(4)})
    """
    return _within((parts, rank, mean_of))


def undivided() -> Any:
    """Return a context in which nothing is exchanged, for what each process computes from means over all parts.

    Example:
        >>> with divided(2, 0, lambda x: x / 2), undivided():
        ...     count(), mean(torch.tensor(3.0))
        (1, tensor(3.))
    """
    return _within(None)


@contextlib.contextmanager
def _within(now: Any) -> Iterator[None]:
    before = getattr(_STATE, "now", None)
    _STATE.now = now
    try:
        yield
    finally:
        _STATE.now = before


def count() -> int:
    """Return the number of parts, 1 outside of :func:`divided`."""
    return (getattr(_STATE, "now", None) or (1,))[0]


def mean(value: Any) -> Any:
    """Return the means over all parts of the floating-point leaves of a tree, one exchange for each dtype; other leaves are unchanged.

    The results carry no gradient.
    """
    if count() == 1:
        return value
    leaves, form = tree.flatten(value)
    for dtype in dict.fromkeys(x.dtype for x in leaves if x.is_floating_point()):
        places = [i for i, x in enumerate(leaves) if x.dtype == dtype]
        vector, unravel = tree.ravel([leaves[i].detach() for i in places])
        for i, x in zip(places, unravel(_STATE.now[2](vector)), strict=True):
            leaves[i] = x
    return tree.unflatten(form, leaves)


def total(value: Any) -> Any:
    """Return the sums over all parts of floating-point leaves; other leaves are unchanged, as for :func:`mean`.

    Example:
        >>> with divided(2, 0, lambda x: x / 2):  # the other part has 0
        ...     total(torch.tensor(3.0))
        tensor(3.)
    """
    return value if count() == 1 else tree.map(lambda x: count() * x if x.is_floating_point() else x, mean(value))


def every(value: Any) -> Any:
    """Return the leaves of all parts, [W, ...], up to rounding; floating point, one exchange for each dtype, without gradient.

    Example:
        >>> with divided(2, 1, lambda x: x / 2):  # the other part has 0
        ...     every(torch.tensor(3.0))
        tensor([0., 3.])
    """
    if count() == 1:
        return tree.map(lambda x: x.unsqueeze(0), value)
    parts, rank, _ = _STATE.now
    rows = tree.map(lambda x: torch.stack([x if i == rank else torch.zeros_like(x) for i in range(parts)]), value)
    return tree.map(lambda x: parts * x, mean(rows))


def moments(mean_of_part: torch.Tensor, var_of_part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the biased variance of the whole batch, from those of this part, in one exchange; no gradient.

    Example:
        >>> with divided(2, 0, lambda x: x / 2):  # the other part has 0
        ...     moments(torch.tensor(2.0), torch.tensor(4.0))
        (tensor(1.), tensor(3.))
    """
    if count() == 1:
        return mean_of_part, var_of_part
    means, variances = every((mean_of_part, var_of_part))
    whole = means.mean(0)
    return whole, (variances + (means - whole).square()).mean(0)
