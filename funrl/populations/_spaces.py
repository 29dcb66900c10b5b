"""Spaces of hyperparameters, and the points that are taken from them: at random, by a Sobol sequence, or as a grid."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from funrl import random

METHODS = ("random", "grid", "sobol")


class Range(NamedTuple):
    """An interval of numbers. :func:`uniform` and :func:`log_uniform` make one.

    Attributes:
        low: its lower end.
        high: its upper end.
        log: whether the logarithm of a number is uniform, and not the number itself.
    """

    low: float
    high: float
    log: bool = False


# A range, or a sequence of choices.
Space = Range | Sequence[float]


def uniform(low: float, high: float) -> Range:
    r"""Return the space of numbers from ``low`` to ``high``.

    .. math:: x = l + u \, (h - l), \quad u \sim U[0, 1)

    Raises:
        ValueError: unless both are finite and ``low < high``.

    Example:
        >>> uniform(0.9, 0.99)
        Range(low=0.9, high=0.99, log=False)
    """
    return _range("uniform", low, high, log=False)


def log_uniform(low: float, high: float) -> Range:
    r"""Return the space of numbers from ``low`` to ``high`` whose logarithms are uniform.

    .. math:: x = l \, (h / l)^u, \quad u \sim U[0, 1)

    Raises:
        ValueError: unless both are finite and ``0 < low < high``.

    Example:
        >>> log_uniform(1e-4, 1e-2)
        Range(low=0.0001, high=0.01, log=True)
        >>> log_uniform(0.0, 1.0)
        Traceback (most recent call last):
        ...
        ValueError: log_uniform: low: expected a number above 0, got 0.0; take uniform for a range that begins at 0
    """
    return _range("log_uniform", low, high, log=True)


def _range(what: str, low: Any, high: Any, *, log: bool) -> Range:
    for name, x in (("low", low), ("high", high)):
        if isinstance(x, bool) or not isinstance(x, numbers.Real) or not math.isfinite(x):
            raise ValueError(f"{what}: {name}: expected a finite number, got {x!r}")
    if log and low <= 0:
        raise ValueError(f"{what}: low: expected a number above 0, got {low!r}; take uniform for a range that begins at 0")
    if not low < high:
        raise ValueError(f"{what}: expected low < high, got {low!r} and {high!r}, an empty range; to fix a value set it in the algorithm")
    return Range(float(low), float(high), log)


def check_space(what: str, space: Any) -> dict[str, Space]:
    """Return a dict of spaces, choices as tuples of floats; raise unless each is a range or at least one number."""
    if not isinstance(space, Mapping) or not space:
        got = "none" if isinstance(space, Mapping) else type(space).__name__
        raise ValueError(f'{what}: space: expected a dict such as {{"learning_rate": log_uniform(1e-4, 1e-2)}}, got {got}')
    checked: dict[str, Space] = {}
    for name, one in space.items():
        if isinstance(one, Range):
            checked[name] = _range(f"{what}: space: {name}", one.low, one.high, log=one.log)
            continue
        one = one.tolist() if isinstance(one, torch.Tensor) else one
        if isinstance(one, str) or not isinstance(one, Sequence):
            raise ValueError(
                f"{what}: space: {name}: expected uniform, log_uniform or a list of numbers, got {one!r}; fix a value in the algorithm"
            )
        if not one:
            raise ValueError(f"{what}: space: {name}: expected at least one choice, got an empty list")
        wrong = [x for x in one if isinstance(x, bool) or not isinstance(x, numbers.Real) or math.isnan(x)]
        if wrong:
            raise ValueError(f"{what}: space: {name}: expected numbers, got {wrong[0]!r}; by_value makes an algorithm of each other choice")
        checked[name] = tuple(float(x) for x in one)
    return checked


def from_unit(space: Space, u: torch.Tensor) -> torch.Tensor:
    """Return the points of a space at the quantiles ``u`` in [0, 1], in float64.

    Example:
        >>> from_unit(uniform(1.0, 3.0), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
        tensor([1., 2., 3.], dtype=torch.float64)
        >>> from_unit((0.9, 0.99), torch.tensor([0.2, 0.7], dtype=torch.float64))
        tensor([0.9000, 0.9900], dtype=torch.float64)
    """
    u = u.double()
    if isinstance(space, Range):
        if space.log:
            low, high = math.log(space.low), math.log(space.high)
            between = (low + u * (high - low)).exp()
        else:
            between = space.low + u * (space.high - space.low)
        between = torch.where(u <= 0, space.low, torch.where(u >= 1, space.high, between))  # without rounding
        return between.clamp(space.low, space.high)
    choices = torch.tensor(space, dtype=torch.float64, device=u.device)
    return choices[(u * len(space)).long().clamp(max=len(space) - 1)]


def random_points(key: torch.Tensor, space: Mapping[str, Space], n: int) -> dict[str, torch.Tensor]:
    """Draw n independent points, float64 [n] of each name."""
    keys = random.split(key, len(space))
    return {name: from_unit(one, random.uniform(keys[i], (n,), dtype=torch.float64)) for i, (name, one) in enumerate(space.items())}


def sobol(key: torch.Tensor, space: Mapping[str, Space], n: int) -> dict[str, torch.Tensor]:
    """Take n points of a Sobol sequence, shifted by one random vector modulo 1 (a Cranley-Patterson rotation), so that each is uniform."""
    points = torch.quasirandom.SobolEngine(len(space)).draw(n, dtype=torch.float64).to(key.device)
    points = (points + random.uniform(key, (len(space),), dtype=torch.float64)) % 1.0
    return {name: from_unit(one, points[:, i]) for i, (name, one) in enumerate(space.items())}


def grid(what: str, space: Mapping[str, Space], n: int) -> dict[str, torch.Tensor]:
    """Take all combinations of choices and of equally many points of each range, from end to end; the last varies fastest.

    Raises:
        ValueError: unless there are n of them for a number of points.
    """
    choices = math.prod(len(one) for one in space.values() if not isinstance(one, Range))
    ranges = sum(isinstance(one, Range) for one in space.values())
    points = round((n / choices) ** (1 / ranges)) if ranges else 0
    if choices * max(points, 1) ** ranges != n:
        sizes = f"{choices} times a power of {ranges}, such as {choices * 2**ranges} or {choices * 3**ranges}" if ranges else str(choices)
        sizes = f"a multiple of {choices}, such as {choices * 4}" if ranges == 1 else sizes
        raise ValueError(f"{what}: n: a grid over {', '.join(space)} has {sizes} points, got {n}")
    ends = torch.linspace(0.0, 1.0, max(points, 2), dtype=torch.float64)[: max(points, 1)]
    axes = [from_unit(one, ends) if isinstance(one, Range) else torch.tensor(one, dtype=torch.float64) for one in space.values()]
    return {name: x.flatten() for name, x in zip(space, torch.meshgrid(*axes, indexing="ij"), strict=True)}


def perturb(space: Space, value: torch.Tensor, upwards: torch.Tensor, factors: tuple[float, float]) -> torch.Tensor:
    """Multiply a value by a factor, the second if ``upwards``, within its range; of choices take the next or the one before.

    Example:
        >>> perturb(uniform(0.0, 1.0), torch.tensor(0.9), torch.tensor(True), (0.8, 1.2))
        tensor(1.)
        >>> perturb((0.9, 0.95, 0.99), torch.tensor(0.95), torch.tensor(False), (0.8, 1.2))
        tensor(0.9000)
    """
    if isinstance(space, Range):
        return (value * torch.where(upwards, factors[1], factors[0]).to(value)).clamp(space.low, space.high)
    choices = torch.tensor(sorted(space), dtype=value.dtype, device=value.device)
    here = (choices == value).int().argmax()
    return choices[torch.where(upwards, here + 1, here - 1).clamp(0, len(space) - 1)]
