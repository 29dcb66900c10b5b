"""Tracing of a function and the leaves of its arguments to a graph."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl.compiler._arguments import flatten
from funrl.compiler._graph import Node
from funrl.compiler._numbers import Number
from funrl.compiler._trace import Trace
from funrl.compiler._traced import Reshaped


class Recording(NamedTuple):
    """A trace of a function: its traced arguments, its operations and its result."""

    trace: Trace
    args: tuple[Any, ...]  # traced
    out: Any
    values: list[Any]  # its leaves
    form: Any  # its structure
    nodes: list[Node | None]  # those of the leaves that are tensors
    numbers: list[int]  # the leaves that are Python numbers of changing value


def room_of(kind: str) -> Any:
    """Return the module of a backend: its ``lowers`` and its ``Executable(plan)``."""
    if kind == "xla":
        from funrl.compiler import _xla as room
    elif kind == "aot_eager":
        from funrl.compiler import _interpreter as room
    else:
        from funrl.compiler import _inductor as room
    return room


def record(fn: Callable[..., Any], kind: str, device: torch.device, leaves: list[Any], form: Any, numbers: set[int]) -> Recording:
    """Run ``fn`` with traced arguments.

    Args:
        fn: the function.
        kind: the backend.
        device: where the program runs.
        leaves: those of (args, kwargs).
        form: the structure of (args, kwargs).
        numbers: the places of leaves that stand for floats of Python.
    """
    room = room_of(kind)
    decompositions = room.decompositions() if kind == "inductor" else None

    def run(replays: bool) -> Recording:
        trace = Trace(device, room.lowers, kind, decompositions, replays)
        given = [trace.argument(x.shape, x.dtype) if isinstance(x, torch.Tensor) else x for x in leaves]
        for i in numbers:
            given[i] = Number(given[i])
        args, kwargs = form.unflatten(given)
        with trace.active():
            out = fn(*args, **kwargs)
            values, out_form = flatten(out)
            floats = [k for k, x in enumerate(values) if isinstance(x, Number)]
            values = [x.value if isinstance(x, Number) else x for x in values]
            nodes = [trace.node(x) if isinstance(x, torch.Tensor) else None for x in values]
        return Recording(trace, args, out, values, out_form, nodes, floats)

    try:
        return run(True)
    except Reshaped:
        pass
    return run(False)
