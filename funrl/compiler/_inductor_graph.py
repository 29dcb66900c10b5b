"""Recorded graphs as torch.fx modules, in the form that inductor takes."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from funrl.compiler import _torch_private as private
from funrl.compiler._graph import Graph, Loop, Node, flat_nodes, replaced

aten, prims = torch.ops.aten, torch.ops.prims
Place = torch.fx.Node


def constants(graph: Graph) -> list[torch.Tensor]:
    """Return the constants of a graph and of its loops that have more than one element; they become further inputs."""
    found: dict[int, torch.Tensor] = {}
    for node in graph.live():
        if node.op == "constant" and node.args[0].ndim:
            found[id(node.args[0])] = node.args[0]
        elif isinstance(node.op, Loop):
            found.update({id(x): x for x in constants(node.op.body)})
    return list(found.values())


# Operators that give their first argument with some entries changed.
_WRITES = {aten.index_put.default, aten.index_copy.default, aten.slice_scatter.default, aten.select_scatter.default}


def written(graph: Graph, large: set[int]) -> dict[int, int]:
    """Return the outputs that can be written in place: from an output to the input whose memory it takes.

    Such an output is an input with some entries changed, one or several times, if nothing else reads the input or the values in between:
    another reader would read the new entries.

    Args:
        graph: a program.
        large: the inputs that may be written.
    """
    reads: dict[Node, int] = {}
    for node in graph.live():
        for x in flat_nodes((node.args, node.kwargs)):
            reads[x] = reads.get(x, 0) + 1
    results = set(graph.outputs)
    inputs = {graph.inputs[i]: i for i in large}
    found: dict[int, int] = {}
    for k, node in enumerate(graph.outputs):
        x = node
        while x.op in _WRITES and reads[x.args[0]] == 1 and x.args[0] not in results:
            x = x.args[0]
        if x is not node and x in inputs and inputs[x] not in found.values():
            found[k] = inputs[x]
    return found


def module(graph: Graph, given: list[torch.Tensor], in_place: dict[int, int], fakes: Any, device: torch.device) -> Any:
    """Return a graph as a module, and its inputs as fake tensors.

    Args:
        graph: a recorded program.
        given: its constants, as :func:`constants` gives them.
        in_place: from an output to the input that receives its value in place; the module does not return these outputs.
        fakes: a mode of fake tensors.
        device: where it runs.
    """
    builder = _Builder(fakes, device)
    builder.chains = _chains(graph, in_place)
    for node in graph.inputs:
        builder.values[node] = builder.input(node.meta)
    for x in given:
        builder.constants[id(x)] = builder.input(torch.empty(x.shape, dtype=x.dtype, device="meta"))
    values = builder.run(graph, graph.outputs)
    results = builder.fresh([x for k, x in enumerate(values) if k not in in_place], [values[k] for k in in_place])
    for k, i in in_place.items():
        builder.call(aten.copy_.default, builder.inputs[i], values[k])
    return builder.module(results), [x.meta["val"] for x in builder.inputs]


def _chains(graph: Graph, in_place: dict[int, int]) -> set[Node]:
    """Return the nodes that write in place."""
    found: set[Node] = set()
    for k, i in in_place.items():
        node = graph.outputs[k]
        while node is not graph.inputs[i]:
            found.add(node)
            node = node.args[0]
    return found


class _Builder:
    """A torch.fx graph under construction."""

    def __init__(self, fakes: Any, device: torch.device) -> None:
        self.graph, self.root = torch.fx.Graph(), torch.nn.Module()
        self.fakes, self.device = fakes, device
        self.values: dict[Node, Place] = {}
        self.parts: dict[tuple[Node, int], Place] = {}
        self.num_bodies = 0
        self.chains: set[Node] = set()
        self.inputs: list[Place] = []
        self.constants: dict[int, Place] = {}

    def fake(self, meta: Any) -> Any:
        """Return fake tensors of the shapes and memory of meta tensors."""
        if isinstance(meta, torch.Tensor):
            return private.fake_tensor(self.fakes, meta, self.device)
        return None if meta is None else type(meta)([self.fake(x) for x in meta])

    def input(self, meta: torch.Tensor) -> Place:
        place = self.graph.placeholder(f"input_{len(self.inputs)}")
        place.meta["val"] = self.fake(meta)
        self.inputs.append(place)
        return place

    def add(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Place:
        place = self.graph.call_function(op, args, kwargs)
        place.meta["val"] = self.fake(meta)
        return place

    def call(self, op: Any, *args: Any, **kwargs: Any) -> Place:
        """Insert an operator and infer the form of its result."""
        place = self.graph.call_function(op, args, kwargs)
        with self.fakes:
            place.meta["val"] = op(*replaced(args, Place, _value), **replaced(kwargs, Place, _value))
        return place

    def module(self, results: list[Place]) -> torch.fx.GraphModule:
        end = self.graph.output(tuple(results))
        end.meta["val"] = tuple(x.meta["val"] for x in results)
        made = torch.fx.GraphModule(self.root, self.graph)
        end.meta["user_visible_output_idxs"] = list(range(len(results)))
        return made

    def fresh(self, results: list[Place], others: Sequence[Place] = ()) -> list[Place]:
        """Return contiguous results that share no memory with inputs or with each other."""
        taken = {_memory(x) for x in (*self.inputs, *others)}
        for i, x in enumerate(results):
            if _memory(x) in taken or not x.meta["val"].is_contiguous():
                x = results[i] = self.call(aten.clone.default, x, memory_format=torch.contiguous_format)
            taken.add(_memory(x))
        return results

    def run(self, graph: Graph, outputs: list[Node]) -> list[Place]:
        """Insert the nodes that the outputs need, and return the outputs."""
        live = graph.live(outputs)
        wanted: dict[Node, set[int]] = {}
        for node in live:
            if node.op == "item":
                wanted.setdefault(node.args[0], set()).add(node.args[1])
        for node in live:
            if isinstance(node.op, Loop):
                self.loop(node, sorted(wanted.get(node, ())))
            else:
                self.values[node] = self.one(node)
        return [self.values[x] for x in outputs]

    def one(self, node: Node) -> Place:
        """Insert a node that is no loop."""
        if node.op == "constant":
            return self.constant(node.args[0])
        if node.op == "item":
            source, i = node.args
            known = self.parts.get((source, i))
            return self.add(operator.getitem, (self.values[source], i), {}, node.meta) if known is None else known
        args = replaced(node.args, Node, self.values.__getitem__)
        kwargs = replaced(node.kwargs, Node, self.values.__getitem__)
        rewrite = _IN_PLACE.get(node.op) if node in self.chains else _REWRITES.get(node.op)
        if rewrite is not None:
            return rewrite(self, node.meta, *args, **kwargs)
        if any(argument.name == "device" for argument in private.schema(node.op).arguments):
            kwargs["device"] = self.device
        return self.add(node.op, args, kwargs, node.meta)

    def constant(self, x: torch.Tensor) -> Place:
        known = self.constants.get(id(x))
        if known is None:
            meta = torch.empty((), dtype=x.dtype, device="meta")
            known = self.add(aten.full.default, ([], x.item()), {"dtype": x.dtype, "device": self.device, "pin_memory": False}, meta)
        return known

    def loop(self, node: Node, wanted: list[int]) -> None:
        """Insert a loop. Inductor's operator requires at least one carry and one column, and returns at least two results."""
        loop = node.op
        num_carries, rows_end = loop.num_carries, loop.num_carries + loop.num_columns
        operands = [self.values[x] for x in node.args]
        columns = operands[num_carries:rows_end]
        if loop.reverse:
            columns = [self.call(prims.rev.default, x, [0]) for x in columns]
        carry = [self.contiguous(x) for x in operands[:num_carries]]
        columns = [self.contiguous(x) for x in columns] or [self.empty([loop.length, 0])]
        inner = _Builder(self.fakes, self.device)
        inputs = loop.body.inputs
        for x in inputs[:num_carries]:
            inner.values[x] = inner.input(_contiguous(x.meta))
        if not carry:
            carry = [self.empty([0])]
            inner.input(torch.empty(0, device="meta"))
        for x in inputs[num_carries:rows_end]:
            inner.values[x] = inner.input(_contiguous(x.meta))
        if rows_end == num_carries:
            inner.input(torch.empty(0, device="meta"))
        others = [self.contiguous(x) if _spread(x.meta["val"]) else x for x in operands[rows_end:]]
        for x, outer in zip(inputs[rows_end:], others, strict=True):
            value = outer.meta["val"]
            inner.values[x] = inner.input(torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta"))
        for x in constants(loop.body):
            inner.constants[id(x)] = inner.input(torch.empty(x.shape, dtype=x.dtype, device="meta"))
            others.append(self.constant(x))
        ys = [i for i in wanted if i >= num_carries]
        results = inner.run(loop.body, [loop.body.outputs[i] for i in (*range(num_carries), *ys)])
        if not num_carries:
            results = [inner.empty([0]), *results]
        if len(results) == 1:
            results.append(inner.empty([0]))
        results = inner.fresh(results)
        name = f"body_{self.num_bodies}"
        self.num_bodies += 1
        setattr(self.root, name, inner.module(results))
        metas = [x.meta["val"] for x in results]
        split = max(num_carries, 1)
        metas = [_contiguous(x, () if i < split else (loop.length,)) for i, x in enumerate(metas)]
        made = self.add(torch.ops.higher_order.scan, (self.graph.get_attr(name), carry, columns, tuple(others)), {}, tuple(metas))
        for k, i in enumerate((*range(num_carries), *ys), start=0 if num_carries else 1):
            part = self.add(operator.getitem, (made, k), {}, metas[k])
            if loop.reverse and i >= num_carries:
                part = self.call(prims.rev.default, part, [0])
            self.parts[node, i] = part

    def contiguous(self, x: Place) -> Place:
        if x.meta["val"].is_contiguous():
            return x
        return self.call(aten.clone.default, x, memory_format=torch.contiguous_format)

    def empty(self, shape: list[int]) -> Place:
        """Return a tensor without entries."""
        return self.call(aten.full.default, shape, 0.0, dtype=torch.float32, device=self.device, pin_memory=False)


def _value(place: Place) -> Any:
    return place.meta["val"]


def _memory(place: Place) -> int:
    return private.memory(place.meta["val"])


def _contiguous(x: torch.Tensor, before: tuple[int, ...] = ()) -> torch.Tensor:
    return torch.empty((*before, *x.shape), dtype=x.dtype, device="meta")


def _spread(x: torch.Tensor) -> bool:
    """Return whether entries of a tensor share memory."""
    return any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True))


# Operators that inductor takes in another form, or computes otherwise than torch --------------------------------------------


def _transpose(builder: _Builder, meta: torch.Tensor, x: Place, dim0: int = 0, dim1: int = 1) -> Place:
    order = list(range(meta.ndim))
    if len(order) > 1:
        order[dim0], order[dim1] = order[dim1], order[dim0]
    return builder.add(aten.permute.default, (x, order), {}, meta)


def _reshape(builder: _Builder, meta: torch.Tensor, x: Place, *args: Any) -> Place:
    return builder.add(aten.reshape.default, (x, list(meta.shape)), {}, meta)


def _to_copy(builder: _Builder, meta: torch.Tensor, x: Place, *, dtype: torch.dtype | None = None, **other: Any) -> Place:
    if dtype is None or dtype == x.meta["val"].dtype:
        return builder.add(aten.clone.default, (x,), {}, meta)
    return builder.add(prims.convert_element_type.default, (x, dtype), {}, meta)


def _put_slice(
    builder: _Builder,
    meta: torch.Tensor,
    x: Place,
    value: Place,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Place:
    dim %= meta.ndim
    first, last, step = slice(start, end, step).indices(meta.shape[dim])
    kind = {"dtype": torch.int64, "device": builder.device, "requires_grad": False}
    rows = builder.call(prims.iota.default, len(range(first, last, step)), start=first, step=step, **kind)
    return builder.add(aten.index_put.default, (x, [*[None] * dim, rows], value), {}, meta)


def _put_row(builder: _Builder, meta: torch.Tensor, x: Place, value: Place, dim: int, index: int) -> Place:
    dim %= meta.ndim
    index %= meta.shape[dim]
    return _put_slice(builder, meta, x, builder.call(aten.unsqueeze.default, value, dim), dim, index, index + 1)


# Writes in place are index_put: inductor does what it must to the others, reading one place and writing another.
_IN_PLACE: dict[Any, Callable[..., Place]] = {aten.slice_scatter.default: _put_slice, aten.select_scatter.default: _put_row}

_REWRITES: dict[Any, Callable[..., Place]] = {
    aten.t.default: _transpose,
    aten.transpose.int: _transpose,
    aten.view.default: _reshape,
    aten._reshape_alias.default: _reshape,
    aten._to_copy.default: _to_copy,
}
