"""Seeing inside: values of a program as it runs, numbers that are not finite, and keys that are used twice.

All of it works eagerly, under torch.func's transforms, and in programs that XLA compiles.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from funrl import random, tree
from funrl.compiler import effect
from funrl.compiler._effects import from_around_a_loop, instances
from funrl.tree.files import say

__all__ = ["KeyReused", "callback", "check_finite", "keys", "print"]


def print(text: str, *values: Any, **named: Any) -> None:
    """Print ``text.format(*values, **named)`` when this is run, with the values that tensors have then.

    Under vmap each instance prints for itself. In a program that XLA compiles it prints as the program runs, at each call and each step of
    a loop.

    Args:
        text: as for :meth:`str.format`: ``"loss {:.3f}"``; numbers of shape [] take a number's format.
        *values: trees of tensors, or anything else.
        **named: likewise.

    Raises:
        TraceError: in a program that inductor compiles: it cannot call Python.

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
    """Call ``f(*trees)`` when this is run, with the values that tensors have then; what it returns is dropped.

    Args:
        f: a function of trees of tensors on the CPU; under vmap it is called for each instance. What it raises is raised eagerly at once,
            and from a compiled program when that has ended.
        *trees: trees of tensors; other leaves are handed on as they are.

    Raises:
        TraceError: in a program that inductor compiles.

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
    """Return ``value``, a tree; raise when this is run and one of its floating-point leaves holds NaN or an infinity.

    Args:
        value: a tree of tensors.
        name: what it is, for the message.

    Raises:
        FloatingPointError: that names the leaf and counts the entries; from a compiled program when that has ended.
        TraceError: in a program that inductor compiles.

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
    """One key was used twice: what was drawn by it is not independent."""


@contextlib.contextmanager
def keys() -> Iterator[None]:
    """Within the context, raise where one key of :mod:`funrl.random` is used twice: by samplers or ``split``, not by ``fold_in``.

    A key is used when a function of :mod:`funrl.random` draws from it. Two uses of equal keys give equal numbers; the message names both
    lines. Functions that are traced within the context are looked at as they are traced, once; run them under ``compiler.eager()``, or
    make them anew, if they were compiled before.

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
    """Return the outermost frame of funrl.random that is running, and the line that called it."""
    frame: Any = sys._getframe(2)
    entry = None
    while frame is not None:
        if os.path.dirname(frame.f_code.co_filename) == os.path.dirname(random.__file__):
            entry = frame
        elif entry is not None:
            return entry, f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return entry, "?"
