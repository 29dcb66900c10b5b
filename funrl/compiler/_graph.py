"""Graphs of recorded operators: nodes, loops whose bodies are graphs, and which nodes a result needs."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch


class Node:
    """One value of a graph: an input, a constant, the result of an operator, or one of several results of another node.

    Attributes:
        op: the aten operator; a :class:`Loop`; or "input", "constant", "item", "number" (:mod:`funrl.compiler._constants`).
        args: as the operator takes them, with a Node for each tensor; of a constant its tensor, of an item (node, position), of a number
            its place.
        kwargs: likewise.
        meta: the meta tensor of this value (a tuple of them where there are several): its shape, strides and dtype.
        graph: the graph that contains it.
    """

    __slots__ = ("args", "graph", "kwargs", "meta", "op")

    def __init__(self, graph: "Graph", op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: Any) -> None:
        self.graph, self.op, self.args, self.kwargs, self.meta = graph, op, args, kwargs, meta


class Graph:
    """A program, or the body of a loop: inputs, nodes in the order of their recording, and outputs."""

    __slots__ = ("effects", "inputs", "nodes", "outputs")

    def __init__(self) -> None:
        self.inputs: list[Node] = []
        self.nodes: list[Node] = []
        self.outputs: list[Node] = []
        self.effects: list[Node] = []  # nodes with side effects

    def input(self, meta: Any) -> Node:
        """Add an input."""
        node = Node(self, "input", (), {}, meta)
        self.inputs.append(node)
        return node

    def add(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: Any) -> Node:
        """Add a node at the end."""
        node = Node(self, op, args, kwargs, meta)
        self.nodes.append(node)
        return node

    def live(self, outputs: Iterable[Node] | None = None) -> list[Node]:
        """Return the nodes that the outputs (or some of them) and the effects need, in their order."""
        needed: set[int] = set()
        stack = [*(self.outputs if outputs is None else outputs), *self.effects]
        while stack:
            node = stack.pop()
            if id(node) not in needed:
                needed.add(id(node))
                stack.extend(flat_nodes((node.args, node.kwargs)))
        return [node for node in self.nodes if id(node) in needed]


class Loop:
    """An operator that runs ``carry, ys = body(carry, row, constants)`` for each row of its columns.

    It takes (*carry, *columns, *constants) and gives (*carry, *ys); the inputs and outputs of its body come in the same order.
    """

    __slots__ = ("body", "length", "num_carries", "num_columns", "reverse")

    def __init__(self, body: Graph, num_carries: int, num_columns: int, length: int, reverse: bool) -> None:
        self.body, self.num_carries, self.num_columns = body, num_carries, num_columns
        self.length, self.reverse = length, reverse


class Plan(NamedTuple):
    """All that a backend needs to compile a recorded graph.

    Attributes:
        graph: its inputs are the leaves of the arguments, then the captured tensors.
        device: where the program runs.
        groups: for each leaf the argument that contains it.
        captured: tensors whose present values are read at each call.
        output_groups: for each output the part of the result that contains it.
        donated: the leaves whose memory may be used, each with the output that replaces it (None if that is not computed).
        returned: the donated leaves that are part of the result as they are; the backend may replace them by copies that it keeps.
        threads: the number of CPU threads that the program may use.
        name: the name for messages and profiles.
        note: a function that is called with the name of each stage when it begins.
    """

    graph: Graph
    device: torch.device
    groups: list[int]
    captured: list[Any]
    output_groups: list[int]
    donated: dict[int, int | None]
    returned: set[int]
    threads: int
    name: str
    note: Callable[[str], Any]


def flat_nodes(value: Any) -> Iterable[Node]:
    """Return the nodes in nested lists, tuples and dicts."""
    if isinstance(value, Node):
        return (value,)
    if isinstance(value, (list, tuple)):
        return [node for item in value for node in flat_nodes(item)]
    if isinstance(value, dict):
        return [node for item in value.values() for node in flat_nodes(item)]
    return ()


def replaced(value: Any, kind: type | tuple[type, ...], f: Callable[[Any], Any]) -> Any:
    """Return nested lists, tuples and dicts with ``f(x)`` for each ``x`` of a class."""
    if isinstance(value, kind):
        return f(value)
    if type(value) is tuple or type(value) is list:
        return type(value)([replaced(item, kind, f) for item in value])
    if type(value) is dict:
        return {name: replaced(item, kind, f) for name, item in value.items()}
    return value
