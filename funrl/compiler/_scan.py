"""``scan``: a loop that is one operator of a compiled program, and a Python loop in eager mode."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from funrl import tree
from funrl.compiler import _torch_private as private
from funrl.compiler._indexing import Indexing
from funrl.compiler._scan_rules import loop, lowered_levels
from funrl.compiler._trace import Trace, current
from funrl.compiler._traced import Traced, serial

_STATE = threading.local()


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any = None, *, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    """Run ``carry, y = f(carry, x)`` along the first dimension of ``xs``; return the last carry and all ys.

    Equivalent to::

        carry, ys = init, []
        for x in xs:
            carry, y = f(carry, x)
            ys.append(y)
        return carry, tree.stack(ys)

    In eager mode it is that loop. In a compiled program it is one operator, whose compile time does not depend on the number of steps. Both
    can be nested, batched with :func:`torch.func.vmap`, also if only a part of ``init`` is batched, and differentiated with
    ``torch.func.grad``, ``vjp`` and ``jvp``, inside ``f`` and around the scan, any number of times. A compiled gradient stores the carries
    of all steps, and computes each step again in the backward pass.

    Args:
        f: a pure function ``(carry, x) -> (carry, y)``. The new carry has the structure, shapes and dtypes of the old one.
        init: the initial carry, any tree of tensors.
        xs: a tree of tensors [T, ...]; ``x`` is one row of each. ``None``: ``x`` is None at each step.
        length: T >= 1; needed if ``xs`` has no tensor.
        reverse: scan from the last row to the first; each y has the position of its x.

    Returns:
        The last carry, and the tree of ys with leaves [T, ...].

    Raises:
        TypeError: if a leaf of ``init`` or ``xs`` is not a tensor (each value of a Python number would be another program).
        ValueError: if lengths disagree or are missing, or if ``f`` returns a carry unlike ``init``; it names the leaf.

    Example:
        >>> import torch
        >>> total, sums = scan(lambda s, x: (s + x, s + x), torch.tensor(0), torch.arange(1, 5))
        >>> total, sums
        (tensor(10), tensor([ 1,  3,  6, 10]))
    """
    carry, form = _tensors(init, "init")
    columns, xs_form = _tensors(xs, "xs")
    length = _length(columns, xs, length)

    def step(carry: list[torch.Tensor], row: list[torch.Tensor]) -> tuple[list[torch.Tensor], Any]:
        result = f(tree.unflatten(form, carry), tree.unflatten(xs_form, row))
        if not (isinstance(result, tuple) and len(result) == 2):
            kind = "Tensor" if isinstance(result, torch.Tensor) else type(result).__name__
            raise TypeError(f"scan: f has to return a pair (carry, y), got {kind}")
        new, y = result
        tree.check_like(new, init, "scan: the carry that f returned", "init")
        return tree.leaves(new), y

    trace = current()
    if trace is None:
        carry, ys = _python_loop(step, carry, columns, length, reverse)
    else:
        carry, ys = _recorded_loop(trace, step, carry, columns, length, reverse)
    return tree.unflatten(form, carry), ys


def _tensors(value: Any, name: str) -> tuple[list[torch.Tensor], Any]:
    values, form = tree.flatten(value)
    for i, x in enumerate(values):
        if not isinstance(x, torch.Tensor):
            raise TypeError(
                f"scan: leaf {tree.paths(value)[i]} of {name} is a {type(x).__name__}; expected tensors only: wrap it in torch.tensor"
            )
    return values, form


def _length(columns: list[torch.Tensor], xs: Any, length: int | None) -> int:
    if not columns and length is None:
        raise ValueError("scan: xs holds no tensor and length is missing; give one of the two")
    for i, x in enumerate(columns):
        if x.ndim == 0:
            raise ValueError(f"scan: leaf {tree.paths(xs)[i]} of xs has shape []; expected a first dimension to scan over")
        if length is None:
            length = x.shape[0]
        elif x.shape[0] != length:
            expected = f"length {length}" if i == 0 else f"{length} as leaf {tree.paths(xs)[0]}"
            raise ValueError(f"scan: leaf {tree.paths(xs)[i]} of xs has {x.shape[0]} rows, expected {expected}")
    if length is None or length < 1:
        raise ValueError(f"scan: length is {length}; expected at least one step")
    return length


def _python_loop(
    step: Callable[..., Any], carry: list[torch.Tensor], columns: list[torch.Tensor], length: int, reverse: bool
) -> tuple[list[torch.Tensor], Any]:
    rows = [x.unbind(0) for x in columns]
    ys: list[Any] = [None] * length
    for t in reversed(range(length)) if reverse else range(length):
        carry, ys[t] = step(carry, [row[t] for row in rows])
    _tensors(ys[0], "y")
    return carry, tree.stack(ys)


def _recorded_loop(
    trace: Trace, step: Callable[..., Any], carry: list[torch.Tensor], columns: list[torch.Tensor], length: int, reverse: bool
) -> tuple[list[torch.Tensor], Any]:
    num_carries, num_columns, level = len(carry), len(columns), private.level()
    carry, columns = [private.heard(x) for x in carry], [private.heard(x) for x in columns]
    # A gradient runs the body again after the body of an outer loop has ended; the replacements of the outer loop's tensors are stored
    # here.
    around = getattr(_STATE, "replacing", None)
    y_form: Any = None

    def body(*args: torch.Tensor) -> list[torch.Tensor]:
        nonlocal y_form
        rows_end = num_carries + num_columns
        # Autograd's backward pass runs without the modes around it.
        with Indexing(), _replacing(dict(zip(map(id, captured), args[rows_end:], strict=True)), around):
            new, y = step(list(args[:num_carries]), list(args[num_carries:rows_end]))
            ys, y_form = _tensors(y, "y")
            return [private.heard(x) for x in (*new, *ys)]

    captured: list[torch.Tensor] = []
    if level:
        # The rules of vmap and grad call the body with values of other levels; tensors that it closes over have to be among its arguments.
        found = _Capturing(level)
        with trace.inner_frame():
            given = [*(x.clone() for x in carry), *(x[0].clone() for x in columns)]
            with found:
                body(*given)
        captured = list(found.tensors.values())
    results = loop(body, carry, columns, captured, length, reverse)
    return results[:num_carries], tree.unflatten(y_form, results[num_carries:])


class _Capturing(TorchFunctionMode):
    """Collect the tensors from outside that the body of a loop uses and that a transform around the loop has wrapped."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level, self.since, self.replacing = level, serial(), getattr(_STATE, "replacing", None)
        self.tensors: dict[int, torch.Tensor] = {}
        self.num_lowered = len(lowered_levels())

    def note(self, x: torch.Tensor) -> torch.Tensor:
        if any(level <= self.level for level in lowered_levels()[self.num_lowered :]):
            return x  # a rule of a loop in the body runs that body again, below this level
        # This loop uses the tensor by which an outer loop replaces x.
        outer = private.unwrapped(x if self.replacing is None else self.replacing.replace(x), self.level)
        if private.is_transformed(outer):
            base = private.unwrapped(outer)
            if not isinstance(base, Traced) or base.serial < self.since:
                self.tensors.setdefault(id(outer), outer)
        return x

    def __enter__(self) -> "_Capturing":
        self.listening = private.on_wrapping(self.note)
        self.listening.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.listening.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _each_tensor((args, kwargs), self.note)
        return func(*args, **(kwargs or {}))


class _Replacing(TorchFunctionMode):
    """Replace the tensors that a loop's body uses from outside by the loop's operands, after the replacements of outer loops."""

    def __init__(self, table: dict[int, torch.Tensor], outer: "_Replacing | None") -> None:
        super().__init__()
        self.table, self.outer = table, outer

    def replace(self, x: torch.Tensor) -> torch.Tensor:
        if self.outer is not None:
            x = self.outer.replace(x)
        return self.table.get(id(x), x)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*_each_tensor(args, self.replace), **_each_tensor(kwargs or {}, self.replace))


@contextmanager
def _replacing(table: dict[int, torch.Tensor], outer: "_Replacing | None") -> Iterator[None]:
    before = getattr(_STATE, "replacing", None)
    if not table and outer is before:
        yield
        return
    mode = _STATE.replacing = _Replacing(table, outer)
    try:
        with private.on_wrapping(mode.replace), mode:
            yield
    finally:
        _STATE.replacing = before


def _each_tensor(value: Any, f: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return nested lists, tuples and dicts with ``f(x)`` in place of each tensor."""
    if isinstance(value, torch.Tensor):
        return f(value)
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([_each_tensor(item, f) for item in value])
    if kind is dict:
        return {name: _each_tensor(item, f) for name, item in value.items()}
    return value
