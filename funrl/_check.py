"""One vocabulary of checks of arguments: each names argument, expectation, finding and remedy, and returns what it has checked.

``what`` begins the message, as in ``"dqn_loss: gamma"``; ``remedy`` ends it. A wrong kind of object is a ``TypeError``, a wrong value or
shape a ``ValueError``. Checks look at kinds, dtypes, shapes and Python numbers, never at the values of tensors: only :func:`seen` does.
"""

import difflib
import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch

T = TypeVar("T")
_NUMBERS = (int, float, np.number)
_INSIDE = "for one value a copy, build it inside the function that vmap maps"


def describe(x: Any) -> str:
    """Return dtype and shape of a tensor, or the class of another object, for messages.

    Example:
        >>> describe(torch.zeros(2)), describe(1.0), describe(None), describe(describe)
        ('float32 [2]', 'a float', 'None', 'the function describe')
    """
    if isinstance(x, torch.Tensor):
        return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
    if callable(x) and hasattr(x, "__name__"):
        return f"the {'class' if isinstance(x, type) else 'function'} {x.__name__}"
    return "None" if x is None else article(type(x).__name__)


def article(noun: str) -> str:
    """Return a noun with its article.

    Example:
        >>> article("Env"), article("Box"), article("funrl.env.Env")
        ('an Env', 'a Box', 'a funrl.env.Env')
    """
    return f"{'an' if noun[0] in 'AEIOUaeiou' else 'a'} {noun}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a suggestion for an unknown name: known names that are similar, contain it as half or as initials, or all known names.

    Args:
        name: the unknown name; upper and lower case are not distinguished.
        known: at least one name.

    Example:
        >>> nearest("cartpole", ["CartPole-v1", "Pendulum-v1"])
        'did you mean CartPole-v1?'
        >>> nearest("xyz", ["CartPole-v1", "Pendulum-v1"])
        'choose one of CartPole-v1, Pendulum-v1'
        >>> nearest("lr", ["learning_rate", "gamma"])
        'did you mean learning_rate?'
    """
    lower = {candidate.lower(): candidate for candidate in known}
    typed = str(name).lower()
    near = [candidate for short, candidate in lower.items() if len(typed) > 1 and typed == "".join(word[:1] for word in short.split("_"))]
    near = near or [lower[match] for match in difflib.get_close_matches(typed, lower, n=3, cutoff=0.65)]
    near = near or [candidate for short, candidate in lower.items() if 2 * len(typed) >= len(short) and typed in re.split(r"[\W_]+", short)]
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(lower.values())}"


def fail(kind: type[Exception], what: str, expected: str, got: Any, remedy: str = "") -> NoReturn:
    """Raise ``kind`` with the message of all checks."""
    raise kind(f"{what}: expected {expected}, got {got}{'; ' if remedy else ''}{remedy}")


def pair(what: str, x: Any, parts: str, remedy: str = "") -> tuple[Any, Any]:
    """Return what a function of the user's returned, which has to be a pair.

    Example:
        >>> pair("act", 1.0, "(action, extras)")
        Traceback (most recent call last):
        ...
        TypeError: act: expected it to return the pair (action, extras), got a float
    """
    if not isinstance(x, tuple) or len(x) != 2:
        got = f"{len(x)} of them" if isinstance(x, tuple) else f"a {type(x).__name__}"
        fail(TypeError, what, f"it to return the pair {parts}", got, remedy)
    return x


def integer(what: str, x: Any, low: int | None = None, high: int | None = None, remedy: str = "") -> int:
    """Return a Python integer, no bool, from ``low`` to ``high``.

    Example:
        >>> integer("buffers.uniform: capacity", 0, 1)
        Traceback (most recent call last):
        ...
        ValueError: buffers.uniform: capacity: expected an integer of at least 1, got 0
    """
    right = isinstance(x, int) and not isinstance(x, bool)
    if not right or (low is not None and x < low) or (high is not None and x > high):
        bounds = "" if low is None else f" of at least {low}" if high is None else f" from {low} to {high}"
        fail(ValueError if right else TypeError, what, f"an integer{bounds}", repr(x), remedy)
    return x


def integers(what: str, x: Any, low: int | None = None, length: int | None = None, remedy: str = "") -> tuple[int, ...]:
    """Return a list or tuple of ``length`` integers of at least ``low`` as a tuple."""
    numbers = isinstance(x, (list, tuple)) and all(isinstance(n, int) and not isinstance(n, bool) for n in x)
    if not numbers or (length is not None and len(x) != length) or (low is not None and min(x, default=low) < low):
        many = "" if length is None else f"{length} "
        expected = f"{many}integer{'' if length == 1 else 's'}{'' if low is None else f' of at least {low}'}"
        fail(ValueError if numbers else TypeError, what, expected, repr(x), remedy)
    return tuple(x)


@functools.lru_cache(256)
def _interval(text: str) -> tuple[float, float, str]:
    """Return the least and the greatest number of an interval such as ``"[0, 1)"``, and its description."""
    low, high = (float(end) for end in text[1:-1].split(","))
    least = math.nextafter(low, math.inf) if text[0] == "(" else low
    greatest = math.nextafter(high, -math.inf) if text[-1] == ")" else high
    if high == math.inf:
        words = "" if low == -math.inf else f" {'above' if text[0] == '(' else 'of at least'} {low:g}"
        return least, greatest, f"a {'finite ' if text[-1] == ')' else ''}number{words}"
    return least, greatest, f"a number in {text}"


def number(what: str, x: Any, interval: str = "(-inf, inf)", remedy: str = "", *, tensor: bool = False) -> Any:
    """Return a Python number in an interval, as in ``"[0, 1)"``; an open infinite end excludes infinity.

    With ``tensor``, it may also be a floating-point tensor [], whose value is not checked.

    Example:
        >>> number("dropout: rate", 1.0, "[0, 1)")
        Traceback (most recent call last):
        ...
        ValueError: dropout: rate: expected a number in [0, 1), got 1.0
        >>> number("adam: eps", -1.0, "[0, inf)")
        Traceback (most recent call last):
        ...
        ValueError: adam: eps: expected a number of at least 0, got -1.0
    """
    if tensor and isinstance(x, torch.Tensor):
        if x.ndim or not x.is_floating_point():
            fail(TypeError, what, "a number or a floating-point tensor []", describe(x), remedy or _INSIDE)
        return x
    least, greatest, expected = _interval(interval)
    if not isinstance(x, _NUMBERS) or isinstance(x, bool):
        fail(TypeError, what, f"a number{' or a floating-point tensor []' if tensor else ''}", describe(x), remedy)
    if not least <= x <= greatest:
        fail(ValueError, what, expected if math.isinf(x) or expected == "a finite number" else expected.replace("finite ", ""), x, remedy)
    return x


def fields(config: Any, interval: str, *names: str) -> None:
    """Check the named numbers of a configuration, as for :func:`number`."""
    for name in names:
        number(name, getattr(config, name), interval)


def divisor(what: str, n: int, total: int, of: str, remedy: str = "") -> None:
    """Raise a ValueError unless ``n`` divides ``total``, which is the value ``of`` something."""
    if total % n:
        fail(ValueError, what, f"a divisor of {of} = {total}", n, remedy)


def in_dtype(what: str, x: float | torch.Tensor, like: torch.Tensor, interval: str = "[0, inf]", remedy: str = "") -> float | torch.Tensor:
    """Return a number, or a tensor in the dtype of ``like``, so that a hyperparameter does not promote data."""
    return x.to(like.dtype) if isinstance(x, torch.Tensor) else number(what, x, interval, remedy)


def one_of(what: str, x: Any, options: Iterable[Any], remedy: str = "") -> Any:
    """Return one of the ``options``."""
    if not any(x is option or x == option for option in options):
        *first, last = map(repr, options)
        fail(ValueError, what, f"{', '.join(first)} or {last}" if first else last, repr(x), remedy)
    return x


def instance(what: str, x: Any, kind: type[T] | tuple[type[T], ...], remedy: str = "", expected: str = "") -> T:
    """Return an object of a class; ``expected`` describes it, by default by the name of the class."""
    if not isinstance(x, kind):
        fail(TypeError, what, expected or article(kind.__name__ if isinstance(kind, type) else kind[0].__name__), describe(x), remedy)
    return x


def has(what: str, x: Any, attributes: Sequence[str], expected: str, remedy: str = "") -> Any:
    """Return an object that has all ``attributes``, as ``expected`` has."""
    if not all(hasattr(x, name) for name in attributes):
        fail(TypeError, what, expected, describe(x), remedy)
    return x


def function(what: str, x: Any, remedy: str = "", expected: str = "a function") -> Any:
    """Return an object that can be called."""
    if not callable(x):
        fail(TypeError, what, expected, describe(x), remedy)
    return x


def some(what: str, x: Any, noun: str, remedy: str = "") -> Any:
    """Return a collection that is not empty."""
    if not len(x):
        fail(ValueError, what, f"at least one {noun}", "none", remedy)
    return x


def count(what: str, x: Any, n: int, noun: str, remedy: str = "") -> Any:
    """Return a collection of ``n`` entries."""
    if len(x) != n:
        fail(ValueError, what, f"{n} {noun}", len(x), remedy)
    return x


def strings(what: str, x: Any, remedy: str = "") -> tuple[str, ...]:
    """Return a list or tuple of names, at least one and each once, as a tuple."""
    if isinstance(x, str) or not isinstance(x, Sequence) or not all(isinstance(name, str) for name in x):
        fail(TypeError, what, "a list of names such as ['pixels']", repr(x), remedy)
    if not x or len(set(x)) != len(x):
        fail(ValueError, what, "at least one name, each once", list(x), remedy)
    return tuple(x)


def path(what: str, x: Any) -> None:
    """Raise a TypeError unless ``x`` is a path, as the two arguments of a save function are easily swapped.

    Example:
        >>> path("tree.save", {"a": 1})
        Traceback (most recent call last):
        ...
        TypeError: tree.save: path: expected a str or os.PathLike, got a dict; give the value to save first, and then the path:
            tree.save(value, path)
    """
    remedy = f"give the value to save first, and then the path: {what}(value, path)"
    instance(f"{what}: path", x, (str, os.PathLike), remedy, "a str or os.PathLike")


def tensor(what: str, x: Any, remedy: str = "wrap it in torch.tensor") -> torch.Tensor:
    """Return a tensor."""
    if not isinstance(x, torch.Tensor):
        fail(TypeError, what, "a tensor", describe(x), remedy)
    return x


def floating(
    what: str, x: Any, remedy: str = "", expected: str = "a floating-point tensor", *, shape: Sequence[Any] | None = None
) -> torch.Tensor:
    """Return a floating-point tensor, of a ``shape`` as for :func:`sized`."""
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        known = isinstance(x, torch.Tensor)
        cast = "cast it with .to(torch.float32)" if known else "make it one with torch.tensor(..., dtype=torch.float32)"
        fail(TypeError, what, expected, _dtype(x), remedy or cast)
    return x if shape is None else sized(what, x, shape)


def flag(what: str, x: Any, remedy: str = "cast it with .to(torch.bool)", *, shape: Sequence[int] | None = None) -> torch.Tensor:
    """Return a bool tensor, of a shape if one is given."""
    right = isinstance(x, torch.Tensor) and x.dtype is torch.bool
    if not right or (shape is not None and x.shape != shape):
        size, got = ("", _dtype(x)) if shape is None else (f" {list(shape)}", describe(x))
        fail(ValueError if right else TypeError, what, f"a bool tensor{size}", got, remedy)
    return x


def whole(what: str, x: Any, remedy: str = "cast it with .to(torch.int64)") -> torch.Tensor:
    """Return a tensor of integers."""
    if not isinstance(x, torch.Tensor) or x.is_floating_point() or x.is_complex() or x.dtype is torch.bool:
        fail(TypeError, what, "a tensor of integers", _dtype(x), remedy)
    return x


def _dtype(x: Any) -> str:
    return str(x.dtype) if isinstance(x, torch.Tensor) else describe(x)


def sized(what: str, x: torch.Tensor, expected: Sequence[Any], remedy: str = "", of: str = "") -> torch.Tensor:
    """Return a tensor of a shape, which is that ``of`` another.

    In ``expected``, a letter stands for any size of at least 1, and ``...``, first or last, for any dimensions.

    Example:
        >>> sized("td0: reward", torch.zeros(0), ("T", ...), "time comes first")
        Traceback (most recent call last):
        ...
        ValueError: td0: reward: expected the shape [T, ...] with T at least 1, got [0]; time comes first
        >>> sized("td0: value", torch.zeros(3, 1), (3,), "squeeze it", of="reward")
        Traceback (most recent call last):
        ...
        ValueError: td0: value: expected the shape [3] of reward, got [3, 1]; squeeze it
    """
    if x.shape != expected and not _fits(x.shape, expected):
        letters = " and ".join(", ".join(n for n in expected if isinstance(n, str)).rsplit(", ", 1))
        text = ", ".join("..." if n is ... else str(n) for n in expected)
        words = f"{' of ' if of else ''}{of}{f' with {letters} at least 1' if letters and ... in expected else ''}"
        fail(ValueError, what, f"the shape [{text}]{words}", list(x.shape), remedy)
    return x


def _fits(shape: Sequence[int], expected: Sequence[Any]) -> bool:
    if ... in expected:
        k = len(expected) - 1
        if len(shape) < k:
            return False
        shape, expected = (shape[len(shape) - k :], expected[1:]) if expected[0] is ... else (shape[:k], expected[:k])
    return len(shape) == len(expected) and all(m == n or (m >= 1 and isinstance(n, str)) for m, n in zip(shape, expected, strict=True))


def alike(what: str, **tensors: Any) -> None:
    """Check tensors that have the shape of the first: bool ones if named terminated or truncated, floating-point ones else.

    Example:
        >>> alike("td0", reward=torch.zeros(3), value=torch.zeros(3, 1))
        Traceback (most recent call last):
        ...
        ValueError: td0: value: expected the shape [3] of reward, got [3, 1]; nothing is broadcast: squeeze or reshape it, and wrap ...
    """
    reference, first = next(iter(tensors.items()))
    for name, x in tensors.items():
        boolean = name.endswith(("terminated", "truncated"))
        right = isinstance(x, torch.Tensor) and (x.dtype is torch.bool if boolean else x.is_floating_point())
        if not right or x.shape != first.shape:
            (flag if boolean else floating)(f"{what}: {name}", x)
            remedy = "nothing is broadcast: squeeze or reshape it, and wrap a distribution over vectors in Independent"
            sized(f"{what}: {name}", x, first.shape, remedy, of=reference)


def broadcasts(shape: Sequence[int], size: Sequence[int]) -> bool:
    """Return whether a shape broadcasts to another.

    Example:
        >>> broadcasts((1, 3), (2, 3)), broadcasts((2, 3), (3,))
        (True, False)
    """
    return len(shape) <= len(size) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(size), strict=False))


def key(what: str, x: Any, remedy: str = "make it with funrl.random.key") -> torch.Tensor:
    """Return a random key."""
    if not isinstance(x, torch.Tensor) or x.dtype is not torch.int64 or x.ndim:
        many = isinstance(x, torch.Tensor) and x.dtype is torch.int64
        kind, remedy = (ValueError, "map over keys with torch.func.vmap") if many else (TypeError, remedy)
        fail(kind, what, "one key, int64 []", describe(x), remedy)
    return x


def seen(test: Callable[[], torch.Tensor], *values: torch.Tensor) -> bool:
    """Return the value of a test of tensors where it is cheap to know: not off the CPU, under a transform of ``values`` or in a program.

    Args:
        test: returns a bool tensor []; under vmap and in a program, it has no value.
        *values: the tensors that it looks at; it is not called where one of them is on another device or has no memory of its own, as
            tensors of torch.func's transforms and of programs.

    Example:
        >>> x = torch.tensor([1.0, -1.0])
        >>> seen(lambda: (x < 0).any(), x), torch.func.vmap(lambda x: x + seen(lambda: x < 9))(x)
        (True, tensor([ 1., -1.]))
    """
    try:
        for x in values:
            if x.device.type != "cpu" or (not x.data_ptr() and x.numel()):
                return False
        value = test()
        return value.device.type == "cpu" and bool(value)
    except RuntimeError:
        return False
