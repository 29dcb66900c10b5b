"""Checks of arguments, and who hears of the keys that are drawn from."""

import operator
from collections.abc import Callable, Sequence

import torch

Shape = int | Sequence[int]


def seen(test: Callable[[], torch.Tensor]) -> bool:
    """Return the value of a test of tensors where this is cheap: False on other devices than the CPU, in compile and in vmap."""
    try:
        value = test()
        return value.device.type == "cpu" and bool(value)
    except RuntimeError:  # tensors of vmap and of a program have no value
        return False


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
    if not isinstance(key, torch.Tensor) or key.dtype != torch.int64:
        got = str(key.dtype) if isinstance(key, torch.Tensor) else type(key).__name__
        raise TypeError(f"random.{name}: expected key to be an int64 tensor, got {got}; make a key with funrl.random.key(seed)")
    if key.ndim != 0:
        raise ValueError(f"random.{name}: expected one key of shape [], got shape {list(key.shape)}; map over keys with torch.func.vmap")
    if _WATCHER is not None and name != "fold_in":
        _WATCHER(key, name)


def check_dtype(dtype: torch.dtype, name: str) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"random.{name}: expected dtype torch.float32 or torch.float64, got {dtype}; cast the result for another one")


def noise_dtype(x: torch.Tensor, name: str, argument: str) -> torch.dtype:
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        got = str(x.dtype) if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"random.{name}: expected {argument} to be a floating-point tensor, got {got}; convert it with torch.as_tensor")
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_broadcast(name: str, size: Sequence[int], **tensors: torch.Tensor) -> None:
    for argument, x in tensors.items():
        if x.ndim > len(size) or any(n not in (1, m) for n, m in zip(reversed(x.shape), reversed(size), strict=False)):
            raise ValueError(f"random.{name}: expected {argument} to broadcast to shape {list(size)}, got shape {list(x.shape)}")


def size_of(shape: Shape, name: str) -> tuple[int, ...]:
    try:
        size = tuple(operator.index(n) for n in shape) if isinstance(shape, Sequence) else (operator.index(shape),)
    except TypeError:
        raise TypeError(f"random.{name}: expected a size or shape of integers, got {shape!r}") from None
    if any(n < 0 for n in size):
        raise ValueError(f"random.{name}: expected sizes >= 0, got {shape}")
    return size


def integer(x: int | torch.Tensor, name: str, argument: str, device: torch.device | str | None, dims: bool = False) -> torch.Tensor:
    """Return an integer as an int64 tensor, [] unless ``dims`` are allowed."""
    if isinstance(x, torch.Tensor):
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise TypeError(f"random.{name}: expected {argument} to be an integer, got a tensor of {x.dtype}")
        if x.ndim != 0 and not dims:
            raise ValueError(f"random.{name}: expected {argument} to have shape [], got {list(x.shape)}; map over it with torch.func.vmap")
        return x.to(device=device, dtype=torch.int64)
    try:
        number = operator.index(x)
    except TypeError:
        raise TypeError(f"random.{name}: expected {argument} to be an integer, got {type(x).__name__}") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"random.{name}: expected {argument} in [-2**63, 2**63), got {number}")
    return torch.full((), number, dtype=torch.int64, device=device)
