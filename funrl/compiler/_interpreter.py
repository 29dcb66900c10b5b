"""Programs without generated code: a recorded graph is run operator by operator, so a wrong result is an error of the trace."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from funrl.compiler._arguments import flatten
from funrl.compiler._graph import Graph, Loop, Node, Plan, replaced

aten = torch.ops.aten
_LAZY = frozenset({aten._conj.default, aten._neg_view.default})
_OF_MEMORY = frozenset({aten.as_strided.default, aten.as_strided_scatter.default, aten.view.default, aten.view.dtype})


def lowers(operator: Any) -> bool:
    """Return whether an aten operator is recorded as it is: all are."""
    return True


class Executable:
    """A recorded graph, interpreted."""

    def __init__(self, plan: Plan) -> None:
        self.graph, self.captured = plan.graph, plan.captured

    def __call__(self, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        with torch.no_grad():
            outputs = _evaluate(self.graph, [*leaves, *self.captured])
        return [x.clone(memory_format=torch.contiguous_format) for x in outputs]


def operators_of(fn: Callable[..., Any], *tensors: torch.Tensor) -> Callable[..., list[torch.Tensor]]:
    """Record ``fn(*tensors)``, a tuple of tensors, and return a function of such tensors that runs its operators, in a list of results.

    Raises:
        TraceError: if its operators depend on values.

    Example:
        >>> operators_of(lambda x: (x + x.numel(),), torch.zeros(2))(torch.ones(2))
        [tensor([3., 3.])]
    """
    from funrl.compiler._recording import record

    recording = record(fn, "aot_eager", torch.device("cpu"), *flatten((tensors, {})), set())
    graph = recording.trace.frame.graph
    graph.outputs = [node for node in recording.nodes if node is not None]
    captured = [x for x, _ in recording.trace.captured.values()]
    return lambda *values: _evaluate(graph, [*values, *captured])


def _evaluate(graph: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    values: dict[Node, Any] = dict(zip(graph.inputs, inputs, strict=True))

    def flat(node: Node) -> Any:
        return values[node].contiguous()

    for node in graph.live():
        if node.op == "constant":
            result = node.args[0]
        elif node.op == "item":
            result = values[node.args[0]][node.args[1]]
        elif isinstance(node.op, Loop):
            result = _loop(node.op, [values[x] for x in node.args])
        else:
            given = flat if node.op in _OF_MEMORY else values.__getitem__  # a value has one layout here, and another one in what was traced
            result = node.op(*replaced(node.args, Node, given), **replaced(node.kwargs, Node, given))
            if node.op in _LAZY:
                result = result.resolve_conj().resolve_neg()
        values[node] = result  # None for a call of Python
    return [values[node] for node in graph.outputs]


def _loop(loop: Loop, operands: list[torch.Tensor]) -> list[torch.Tensor]:
    rows_end = loop.num_carries + loop.num_columns
    carry, columns, constants = operands[: loop.num_carries], operands[loop.num_carries : rows_end], operands[rows_end:]
    ys: list[Any] = [None] * loop.length
    for t in reversed(range(loop.length)) if loop.reverse else range(loop.length):
        outputs = _evaluate(loop.body, [*carry, *(x[t] for x in columns), *constants])
        carry, ys[t] = outputs[: loop.num_carries], outputs[loop.num_carries :]
    return [*carry, *(torch.stack(rows) for rows in zip(*ys, strict=True))]
