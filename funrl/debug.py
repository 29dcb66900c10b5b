"""Debugging of running programs: print values, find numbers that are not finite, and find keys that are used twice.

All functions work in eager mode, under torch.func's transforms, and in programs compiled by XLA.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from funrl import random, tree
from funrl._files import say
from funrl.compiler import effect, from_around_a_loop, instances

__all__ = ["KeyReused", "callback", "check_finite", "keys", "print"]


def print(text: str, *values: Any, **named: Any) -> None:
    """Print ``text.format(*values, **named)`` at run time, with the present values of tensors.

    Under vmap each instance prints separately. A program compiled by XLA prints while it runs, at each call and each step of a loop.

    Args:
        text: as for :meth:`str.format`: ``"loss {:.3f}"``; tensors of shape [] are formatted as numbers.
        *values: trees of tensors, or other objects.
        **named: trees of tensors, or other objects, by name.

    Raises:
        TraceError: in a program compiled by inductor, which cannot call Python.

    Example:
        >>> from funrl import compiler
        >>> @compiler.compile
        ... def double(x):
        ...     print("x is {}", x)
        ...     return 2 * x
        >>> _ = double(torch.tensor(3.0))
        x is 3.0
    """

    def show(values: Any, named: Any) -> None:
        say(text.format(*[_shown(x) for x in values], **{name: _shown(x) for name, x in named.items()}))

    callback(show, values, named)


def _shown(value: Any) -> Any:
    value = tree.map(lambda x: x.item() if isinstance(x, torch.Tensor) and x.ndim == 0 else x, value)
    return value.tolist() if isinstance(value, torch.Tensor) and value.numel() <= 16 else value


def callback(f: Callable[..., Any], *trees: Any) -> None:
    """Call ``f(*trees)`` at run time, with the present values of tensors; its result is ignored.

    Args:
        f: a function of trees of tensors on the CPU; under vmap it is called for each instance. Its exceptions are raised at once in
            eager mode, and at the end of a compiled program.
        *trees: trees of tensors; other leaves are passed unchanged.

    Raises:
        TraceError: in a program compiled by inductor.

    Example:
        >>> seen = []
        >>> callback(seen.append, torch.tensor(1.0))
        >>> seen
        [tensor(1.)]
    """
    leaves, form = tree.flatten(trees)
    places = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]

    def call(*tensors: torch.Tensor) -> None:
        values = list(leaves)
        for i, x in zip(places, tensors, strict=True):
            values[i] = x
        f(*tree.unflatten(form, values))

    effect(call, *(leaves[i] for i in places))


def check_finite(value: Any, name: str = "value") -> Any:
    """Return ``value``, a tree; raise at run time if one of its floating-point leaves contains NaN or an infinity.

    Args:
        value: a tree of tensors.
        name: its name, for the message.

    Raises:
        FloatingPointError: with the leaf and the number of entries that are not finite; from a compiled program at its end.
        TraceError: in a program compiled by inductor.

    Example:
        >>> check_finite(torch.tensor([1.0, float("nan")]), "advantage")
        Traceback (most recent call last):
        ...
        FloatingPointError: advantage: 1 of 2 entries is not finite (NaN or infinite)
    """
    for path, x in zip(tree.paths(value), tree.leaves(value), strict=True):
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            place = name if path == "(the whole tree)" else name + path
            size = x.numel()

            def check(bad: torch.Tensor, place: str = place, size: int = size) -> None:
                if n := int(bad):
                    raise FloatingPointError(
                        f"{place}: {n} of {size} entr{'y' if size == 1 else 'ies'} {'is' if n == 1 else 'are'} not finite (NaN or infinite)"
                    )

            effect(check, (~x.isfinite()).sum())
    return value


class KeyReused(RuntimeError):
    """Error: a key was used twice, so that its random numbers are not independent."""


@contextlib.contextmanager
def keys() -> Iterator[None]:
    """Context that raises if a key of :mod:`funrl.random` is used twice, by samplers or ``split``; ``fold_in`` does not count.

    A key is used when a function of :mod:`funrl.random` draws from it. Two uses of equal keys give equal numbers; the message names both
    lines. Functions are checked while they are traced within the context, once. If they were compiled before, run them under
    ``compiler.eager()``, or compile them again.

    Raises:
        KeyReused: at the second use.

    Example:
        >>> key = random.key(0)
        >>> with keys():
        ...     x = random.normal(key), random.uniform(key)
        Traceback (most recent call last):
        ...
        funrl.debug.KeyReused: a key was used twice: by random.normal ... and by random.uniform ...; split it
    """
    used: dict[Any, tuple[str, Any]] = {}

    def watch(key: torch.Tensor, name: str) -> None:
        entry, line = _caller()
        if from_around_a_loop(key):
            raise KeyReused(
                f"a key from around a loop is used at each of its steps by random.{name} ({line}); split it, and scan over the keys"
            )
        for one in instances(key):
            before = used.get(one)
            if before is not None and before[1] is not entry:
                raise KeyReused(f"a key was used twice: by {before[0]} and by random.{name} ({line}); split it")
            used.setdefault(one, (f"random.{name} ({line})", entry))

    before = random.watch(watch)
    try:
        yield
    finally:
        random.watch(before)


def _caller() -> tuple[Any, str]:
    """Return the outermost running frame of funrl.random, and the line that called it."""
    frame: Any = sys._getframe(2)
    entry = None
    while frame is not None:
        if os.path.dirname(frame.f_code.co_filename) == os.path.dirname(random.__file__):
            entry = frame
        elif entry is not None:
            return entry, f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return entry, "?"
