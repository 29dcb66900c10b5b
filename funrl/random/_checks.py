"""Checks of arguments, and listeners to the keys that are drawn from."""

import operator
from collections.abc import Callable, Sequence

import torch

from funrl import _check

Shape = int | Sequence[int]


# Called with each key that is drawn from, to find keys that are used twice.
_WATCHER: Callable[[torch.Tensor, str], None] | None = None


def watch(listener: Callable[[torch.Tensor, str], None] | None) -> Callable[[torch.Tensor, str], None] | None:
    """Set ``listener(key, name)``, which is called with each key that a function of this module draws from; return the previous listener.

    It is for :func:`funrl.debug.keys`. ``None`` removes the listener. ``fold_in`` is not a draw.

    Example:
        >>> from funrl import random
        >>> names = []
        >>> before = random.watch(lambda key, name: names.append(name))
        >>> x = random.normal(random.key(0))
        >>> names, random.watch(before) is None
        (['normal'], False)
    """
    global _WATCHER
    before, _WATCHER = _WATCHER, listener
    return before


def check_key(key: torch.Tensor, name: str) -> None:
    """Check a key, and report it to the listener of :func:`watch`."""
    _check.key(f"random.{name}: key", key)
    if _WATCHER is not None and name != "fold_in":
        _WATCHER(key, name)


def noise_dtype(x: torch.Tensor, name: str, argument: str) -> torch.dtype:
    """Return the dtype of the noise for a floating-point tensor."""
    _check.floating(f"random.{name}: {argument}", x, "convert it with torch.as_tensor")
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_broadcast(name: str, size: Sequence[int], **tensors: torch.Tensor) -> None:
    """Check that the arguments of a sampler broadcast to its result."""
    for argument, x in tensors.items():
        if not _check.broadcasts(x.shape, size):
            _check.fail(ValueError, f"random.{name}: {argument}", f"a shape that broadcasts to {list(size)}", list(x.shape))


def check_dtype(dtype: torch.dtype, name: str) -> None:
    """Check the dtype of a result."""
    if dtype not in (torch.float32, torch.float64):
        _check.fail(TypeError, f"random.{name}: dtype", "torch.float32 or torch.float64", dtype, "cast the result for another one")


def size_of(shape: Shape, name: str) -> tuple[int, ...]:
    """Return a size or shape as a tuple; sizes may also be NumPy's."""
    try:
        size = tuple(operator.index(n) for n in shape) if isinstance(shape, Sequence) else (operator.index(shape),)
    except TypeError:
        _check.fail(TypeError, f"random.{name}", "a size or shape of integers", repr(shape))
    return _check.integers(f"random.{name}: shape", size, 0)


def integer(x: int | torch.Tensor, name: str, argument: str, device: torch.device | str | None, dims: bool = False) -> torch.Tensor:
    """Return an integer as an int64 tensor, [] unless ``dims`` are allowed."""
    what = f"random.{name}: {argument}"
    if isinstance(x, torch.Tensor):
        _check.whole(what, x)
        if not dims:
            _check.sized(what, x, (), "map over it with torch.func.vmap")
        return x.to(device=device, dtype=torch.int64)
    try:
        number = operator.index(x)
    except TypeError:
        _check.fail(TypeError, what, "an integer", _check.describe(x))
    if not -(1 << 63) <= number < 1 << 63:
        _check.fail(ValueError, what, "an integer in [-2**63, 2**63)", number)
    return torch.full((), number, dtype=torch.int64, device=device)
