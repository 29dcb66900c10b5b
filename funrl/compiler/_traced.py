"""Tensors that record the operators that use them, and the memory that views share."""

import itertools
from typing import Any

import torch

from funrl._check import describe
from funrl.compiler import _torch_private as private
from funrl.compiler._errors import TraceError, line, value_asked
from funrl.compiler._graph import Graph, Node

_SERIAL = itertools.count()
_TORCH = "Use torch's functions for NumPy's, and torch.as_tensor for an array of NumPy. "


def serial() -> int:
    """Return a number that increases with each call."""
    return next(_SERIAL)


class Reshaped(BaseException):
    """A tensor got another shape in place where derivatives replay views. A BaseException, which functions do not catch."""


class Memory:
    """Storage shared by tensors that are views of each other: present value, node, reason against writes, and use of tensor indices."""

    __slots__ = ("frame", "has_rows", "meta", "node", "readonly", "version")

    def __init__(self, node: Node, frame: "Frame", readonly: str = "") -> None:
        self.node, self.frame, self.readonly, self.version, self.has_rows = node, frame, readonly, 0, False
        self.meta = node.meta


class Traced(torch.Tensor):
    """A tensor that records. It has a shape, a dtype and a device, but no values."""

    memory: Memory
    steps: tuple[Any, ...]  # (operator, its other arguments, its keywords, which of its results), from the memory to here
    serial: int
    meta: torch.Tensor
    node: Node
    version: int

    __torch_function__ = private.no_torch_function

    @staticmethod
    def make(meta: torch.Tensor, memory: Memory, steps: tuple[Any, ...], node: Node, device: torch.device) -> "Traced":
        """Return a tensor of the shape of ``meta`` whose value is ``node``."""
        self = private.wrapper_tensor(Traced, meta, device)
        self.memory, self.steps, self.meta = memory, steps, meta
        self.node, self.version, self.serial = node, memory.version, next(_SERIAL)
        return self

    def become(self, other: "Traced") -> None:
        """Become another traced tensor, whose shape this one has already."""
        self.memory, self.steps, self.meta, self.node, self.version = other.memory, other.steps, other.meta, other.node, other.version

    def __repr__(self, **options: Any) -> str:
        return f"<traced {describe(self)}: it has no value before the program runs; funrl.debug.print shows it then>"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from funrl.compiler._trace import current

        if current() is not None:
            raise TraceError(
                f"{line()}torch makes a parameter of a traced tensor ({func}), or uses it where a trace cannot record it: make modules and "
                "parameters outside the function, and call them by torch.func.functional_call"
            )
        raise TraceError(
            f"{line()}a traced tensor was used after its trace ended: a function that funrl.compile traces runs once, and what it leaves "
            "behind (in a list, a global or an attribute) is no tensor; return it from the function"
        )

    def __format__(self, spec: str) -> str:
        if spec:
            raise value_asked(self, f"a format of {spec!r}")
        return repr(self)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise value_asked(self, "numpy()", _TORCH)

    def tolist(self) -> Any:
        raise value_asked(self, "tolist()")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise value_asked(self, "NumPy", _TORCH)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TraceError(f"{line()}a traced tensor cannot be pickled or deep-copied; it has no value before the program runs")

    def __copy__(self) -> Any:
        return self.view_as(self)

    def __deepcopy__(self, memo: Any) -> Any:
        return self.clone()


class Frame:
    """One graph under construction: the program, or the body of a loop in its parent."""

    __slots__ = ("graph", "lifted", "operands", "parent")

    def __init__(self, parent: "Frame | None") -> None:
        self.graph, self.parent = Graph(), parent
        self.lifted: dict[Node, Node] = {}  # from a node of the parent to the input that represents it
        self.operands: list[Node] = []

    def place(self, node: Node) -> Node:
        """Return a node of this graph that has the value of ``node``, of this graph or one around it."""
        if node.graph is self.graph:
            return node
        if self.parent is None:
            raise TraceError(
                f"{line()}a tensor left the body of a loop, or an abandoned trace, by another way than being returned; return it from the "
                "function given to scan"
            )
        outer = self.parent.place(node)
        if outer.op == "constant":
            return self.graph.add("constant", outer.args, {}, outer.meta)
        if outer not in self.lifted:
            self.lifted[outer] = self.graph.input(outer.meta)
            self.operands.append(outer)
        return self.lifted[outer]
