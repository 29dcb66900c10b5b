"""Integers, one or a vector of them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random
from funrl.spaces._space import Space


class _Integers(Space):
    """The functions of both kinds, by the first and the last integer of an element."""

    dtype = torch.int64
    _bounds: Callable[[torch.device], tuple[Any, Any]]

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return an element, int64 ``shape``, all equally likely; ``key`` is int64 []."""
        return random.randint(key, self.shape, *self._bounds(key.device), endpoint=True)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Return the element nearest to ``x``, int64 ``shape``; raises as :meth:`check`."""
        self.check(x)
        return torch.clamp(x, *self._bounds(x.device))

    def _contains(self, x: torch.Tensor) -> torch.Tensor:
        first, last = self._bounds(x.device)
        return ((x >= first) & (x <= last)).all()


@dataclasses.dataclass(frozen=True)
class Discrete(_Integers):
    """The integers start, start + 1, ..., start + n - 1, as int64 [].

    Args:
        n: the number of integers, at least 1.
        start: the smallest of them.

    Raises:
        TypeError: if ``n`` or ``start`` is not a Python integer.
        ValueError: if ``n`` is less than 1, or an element does not fit in int64.

    Example:
        >>> import torch
        >>> space = Discrete(3)
        >>> space.contains(torch.tensor(2)), space.contains(torch.tensor(3)), space.contains(torch.tensor(1.0))
        (tensor(True), tensor(False), False)
    """

    n: int
    start: int = 0

    def __post_init__(self):
        _check.integer("Discrete: n", self.n, 1, remedy="its value has to be known while compiling")
        _check.integer("Discrete: start", self.start, remedy="its value has to be known while compiling")
        _check_int64("Discrete", self.start, self.n)

    shape = ()

    def _bounds(self, device: torch.device) -> tuple[int, int]:
        return self.start, self.start + self.n - 1


@dataclasses.dataclass(frozen=True)
class MultiDiscrete(_Integers):
    """Vectors of integers: element i is one of ``start[i]``, ..., ``start[i] + nvec[i] - 1``, as int64 [K].

    Args:
        nvec: K counts, each at least 1.
        start: K smallest values; by default 0 for all.

    Raises:
        ValueError: if ``nvec`` is empty or is not integers of at least 1, or ``start`` is not K integers, or an element does
            not fit in int64.

    Example:
        >>> import torch
        >>> space = MultiDiscrete((3, 5))
        >>> space.shape, space.project(torch.tensor([7, -1]))
        ((2,), tensor([2, 0]))
    """

    nvec: tuple[int, ...]
    start: Any = None  # never None after __init__

    def __post_init__(self):
        try:
            nvec = tuple(self.nvec)
        except TypeError:
            nvec = ()
        _check.integers("MultiDiscrete: nvec", nvec or self.nvec, 1, remedy="for one integer use Discrete")
        _check.some("MultiDiscrete: nvec", nvec, "integer")
        start = (0,) * len(nvec) if self.start is None else self.start
        _check.integers("MultiDiscrete: start", start, length=len(nvec), remedy="give one for each of nvec")
        for first, n in zip(start, nvec, strict=True):
            _check_int64("MultiDiscrete", first, n)
        object.__setattr__(self, "nvec", nvec)
        object.__setattr__(self, "start", start)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an element, (K,)."""
        return (len(self.nvec),)

    def _bounds(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        first = torch.tensor(self.start, dtype=torch.int64, device=device)
        return first, first + torch.tensor(self.nvec, dtype=torch.int64, device=device) - 1


def _check_int64(what: str, start: int, n: int) -> None:
    if not -(2**63) <= start <= start + n - 1 < 2**63:
        raise ValueError(
            f"{what}: start and n: expected elements in [-2**63, 2**63), got {start} to {start + n - 1}; choose another start, or fewer"
        )
