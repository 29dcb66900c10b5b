"""Numbers of Python that a graph adds, subtracts and multiplies by, as inputs of its executable.

After such a number in a function is edited, the existing executable is used, without another compilation.
"""

import math
from typing import Any

import numpy as np
import torch

from funrl.compiler._graph import Graph, Loop, Node, flat_nodes

aten = torch.ops.aten
# Operators that accept a tensor without dimensions instead of a number, and are not faster for a known number.
_SUMS = frozenset(
    {
        *(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Tensor, aten.rsub.Scalar),
        *(aten.mul.Tensor, aten.mul.Scalar),
    }
)
_TAKE_TENSORS = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor})
_DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
# Numbers that make an operation simpler when they are known.
_PLAIN = (0.0, 1.0, -1.0)


def taken_out(graph: Graph) -> tuple[list[np.generic], list[Node]]:
    """Put nodes ("number", place) where a graph, or the body of a loop in it, has numbers; return the numbers by place, and the nodes.

    Equal numbers of one dtype share an input where they are combined with tensors with dimensions, so that XLA finds equal computations.
    """
    places: dict[Any, int] = {}
    numbers: list[np.generic] = []
    nodes: list[Node] = []

    def taken(x: Any, meta: torch.Tensor, shared: bool) -> Any:
        if type(x) is not float or x in _PLAIN or not math.isfinite(x) or meta.dtype not in _DTYPES:
            return x
        with np.errstate(over="ignore"):  # to infinity
            number = _DTYPES[meta.dtype](x)
        place = places.setdefault((meta.dtype, number.tobytes()), len(numbers)) if shared else len(numbers)
        if place == len(numbers):
            numbers.append(number)
        nodes.append(Node(graph, "number", (place,), {}, torch.empty((), dtype=meta.dtype, device="meta")))
        return nodes[-1]

    def visit(graph: Graph) -> None:
        live = graph.live()
        users: dict[Node, list[Node | None]] = {node: [None] for node in graph.outputs}
        for node in live:
            for given in flat_nodes((node.args, node.kwargs)):
                users.setdefault(given, []).append(node)
        for node in live:
            args: Any = node.args
            if isinstance(node.op, Loop):
                visit(node.op.body)
            elif node.op in _SUMS and len(args) > 1:
                x, other, *rest = args
                node.args = (x, taken(other, node.meta, node.meta.ndim > 0), *rest)
            elif node.op is aten.scalar_tensor.default and all(x is not None and x.op in _TAKE_TENSORS for x in users.get(node, ())):
                node.args = tuple(taken(x, node.meta, False) for x in node.args)

    visit(graph)
    return numbers, nodes
