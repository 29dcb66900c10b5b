"""Checks of the losses, which run at tracing and never depend on values, and the weighted mean of samples."""

from typing import Any

import torch

from funrl import _check, tree


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
    got = type(value).__name__
    if kind.endswith(f".{got}"):  # another class with the same name
        got = f"{type(value).__module__}.{got}"
    got = f"a dict with {sorted(value)}" if isinstance(value, dict) else f"a {got}"
    _check.fail(TypeError, what, f"a {kind} or the like, with fields {', '.join(names[:-1])} and {names[-1]}", got)


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
    _check.floating(f"{what}: weight", weight, shape=x.shape)
    return (weight.detach() * x).mean()


def detach(value: Any) -> Any:
    """Return a tree with every leaf detached: it carries no gradient.

    Example:
        >>> detach({"w": torch.ones(1, requires_grad=True)})
        {'w': tensor([1.])}
    """
    return tree.map(lambda x: x.detach(), value)
