"""Checks of the losses, which run at tracing and never depend on values, and the weighted mean of samples."""

import math
from typing import Any

import torch

from funrl import tree


def fields(what: str, value: Any, names: tuple[str, ...], kind: str) -> None:
    """Raise unless ``value`` has the attributes ``names``; ``kind`` is the class that has them.

    Raises:
        TypeError: if one is missing.

    Example:
        >>> fields("ddpg_loss: batch", {"action": torch.zeros(3)}, ("observation", "action"), "funrl.env.Transition")
        Traceback (most recent call last):
        ...
        TypeError: ddpg_loss: batch: expected a funrl.env.Transition or the like, with fields observation and action, got a dict ...
    """
    if all(hasattr(value, name) for name in names):
        return
    *first, last = names
    expected = f"{', '.join(first)} and {last}" if first else last
    got = type(value).__name__
    if kind.endswith(f".{got}"):  # another class with the same name
        got = f"{type(value).__module__}.{got}"
    got = f"a dict with {sorted(value)}" if isinstance(value, dict) else f"a {got}"
    raise TypeError(f"{what}: expected a {kind} or the like, with fields {expected}, got {got}")


def alike(what: str, **tensors: Any) -> None:
    """Raise unless all are floating-point tensors of the same shape.

    Raises:
        ValueError: if a shape differs from that of the first.
        TypeError: if one is not a floating-point tensor.

    Example:
        >>> alike("a2c_loss", value=torch.zeros(3), target=torch.zeros(3, 1))
        Traceback (most recent call last):
        ...
        ValueError: a2c_loss: target: expected the shape [3] of value, got [3, 1]; nothing is broadcast: squeeze a value [B, 1], ...
    """
    shape, reference = None, ""
    for name, x in tensors.items():
        floating(what, name, x)
        if shape is None:
            shape, reference = x.shape, name
        if x.shape != shape:
            raise ValueError(
                f"{what}: {name}: expected the shape {list(shape)} of {reference}, got {list(x.shape)}; "
                "nothing is broadcast: squeeze a value [B, 1], "
                "and wrap a distribution over vectors in Independent"
            )


def floating(what: str, name: str, x: Any) -> None:
    """Raise unless ``x`` is a floating-point tensor.

    Raises:
        TypeError: if it is not.

    Example:
        >>> floating("a2c_loss", "value", 1)
        Traceback (most recent call last):
        ...
        TypeError: a2c_loss: value: expected a floating-point tensor, got int; cast it with .to(torch.float32)
    """
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"{what}: {name}: expected a floating-point tensor, got {got}; cast it with .to(torch.float32)")


def shaped(what: str, name: str, x: Any, shape: tuple[int | str, ...]) -> None:
    """Raise unless ``x`` is floating point with the given shape, in which letters stand for any size of at least 1.

    Raises:
        ValueError: if it has another shape.
        TypeError: if it is not a floating-point tensor.

    Example:
        >>> shaped("dqn_loss", "apply's values", torch.zeros(3), (3, "A"))
        Traceback (most recent call last):
        ...
        ValueError: dqn_loss: apply's values: expected the shape [3, A], got [3]
    """
    floating(what, name, x)
    fits = x.ndim == len(shape) and all(size >= 1 if isinstance(n, str) else size == n for size, n in zip(x.shape, shape, strict=True))
    if not fits:
        raise ValueError(f"{what}: {name}: expected the shape [{', '.join(map(str, shape))}], got {list(x.shape)}")


def number(
    what: str, name: str, x: float | torch.Tensor, like: torch.Tensor, *, low: float = 0.0, high: float = math.inf
) -> float | torch.Tensor:
    """Return a hyperparameter in a given dtype, so that it does not promote others; raise if a Python number is out of range.

    Raises:
        ValueError: if it is a Python number below ``low`` or above ``high``.

    Example:
        >>> number("dqn_loss", "gamma", 2.0, torch.zeros(()), high=1.0)
        Traceback (most recent call last):
        ...
        ValueError: dqn_loss: gamma: expected a number in [0.0, 1.0], got 2.0
    """
    if isinstance(x, torch.Tensor):
        return x.to(like.dtype)
    if not low <= x <= high:
        expected = f"in [{low}, {high}]" if high < math.inf else f"of at least {low}"
        raise ValueError(f"{what}: {name}: expected a number {expected}, got {x}")
    return x


def mean(what: str, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Return the weighted mean of samples, sum(w x) / N: importance weights are not normalised by their sum.

    Raises:
        ValueError: if ``weight`` has another shape than ``x``.
        TypeError: if it is not a floating-point tensor.

    Example:
        >>> mean("dqn_loss", torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.5]))
        tensor(1.2500)
    """
    if weight is None:
        return x.mean()
    floating(what, "weight", weight)
    if weight.shape != x.shape:
        raise ValueError(f"{what}: weight: expected the shape {list(x.shape)}, one number a sample, got {list(weight.shape)}; reshape it")
    return (weight.detach() * x).mean()


def detach(value: Any) -> Any:
    """Return a tree with every leaf detached: it carries no gradient.

    Example:
        >>> detach({"w": torch.ones(1, requires_grad=True)})
        {'w': tensor([1.])}
    """
    return tree.map(lambda x: x.detach(), value)
