"""Programs on XLA, by jax: a recorded graph as a jax function, its executable, and how tensors go in and out.

Small leaves of one argument and one dtype travel as one vector, so that a call hands over a few arrays and not hundreds. The results
share the memory of jax's arrays, and remember them, so that they go in again without a conversion.

A call costs 0.1 to 0.3 ms around the executable, for 60 leaves: whatever is done for each leaf is done by ``map`` of functions in C.
"""

import collections
import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from funrl.compiler import _cache, _torch_private as private
from funrl.compiler._calls import Run, call
from funrl.compiler._constants import taken_out
from funrl.compiler._donation import LARGE
from funrl.compiler._effects import Effect
from funrl.compiler._graph import Graph, Loop, Node, Plan, flat_nodes, replaced
from funrl.compiler._jax import POOL, in_settings, load, settings, start

aten = torch.ops.aten
_ADDRESS, _IS_CONTIGUOUS, _IS_NEGATED = torch.Tensor.data_ptr, torch.Tensor.is_contiguous, torch.Tensor.is_neg


def lowers(operator: Any) -> bool:
    """Return whether an aten operator has a lowering."""
    load()  # or the error that names the extra
    from funrl.compiler import _lowerings

    return operator in _lowerings.TABLE


class _Layout:
    """Layout of the leaves of a call: small ones of one group and dtype in one vector, each large one by itself.

    Args:
        specs: for each leaf its group, shape and dtype.
        first: large leaves that come before the others, in this order. jax gives the memory of a donated array to the first output of its
            shape and dtype.
    """

    def __init__(self, specs: Sequence[tuple[int, Any, torch.dtype]], first: Sequence[int | None] = ()) -> None:
        vectors: dict[Any, list[int]] = {}
        self.single: list[int] = []
        for i, (group, shape, dtype) in enumerate(specs):
            if shape.numel() * dtype.itemsize >= LARGE:
                self.single.append(i)
            else:
                vectors.setdefault((group, dtype), []).append(i)
        order = {i: k for k, i in enumerate(first)}
        self.single.sort(key=lambda i: order.get(i, len(order)))
        self.vectors = list(vectors.values())
        self.dtypes = [dtype for _, dtype in vectors]
        self.shapes = [tuple(shape) for _, shape, _ in specs]
        self.sizes = [shape.numel() for _, shape, _ in specs]
        self.single_dtypes = [specs[i][2] for i in self.single]
        self.lengths = [tuple([self.sizes[i] for i in vector]) for vector in self.vectors]
        self.offsets = [[0, *itertools.accumulate(lengths)] for lengths in self.lengths]
        self.of_kinds = [
            private.of_kinds([torch.empty((), dtype=specs[i][2]).expand(specs[i][1]) for i in vector]) for vector in self.vectors
        ]
        self.empty = [[i for i, size in enumerate(lengths) if not size] for lengths in self.lengths]
        self.parts = [
            (
                ctypes.c_char * (offsets[-1] * dtype.itemsize),
                [self.shapes[i] for i in vector],
                _numpy_dtype(dtype),
                [begin * dtype.itemsize for begin in offsets],
            )
            for vector, dtype, offsets in zip(self.vectors, self.dtypes, self.offsets, strict=True)
        ]

    def avals(self) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Return shape and dtype of each array: the vectors, then the single leaves."""
        vectors = [((offsets[-1],), dtype) for offsets, dtype in zip(self.offsets, self.dtypes, strict=True)]
        return vectors + [(self.shapes[i], dtype) for i, dtype in zip(self.single, self.single_dtypes, strict=True)]

    def tensors(self, k: int, array: Any) -> list[torch.Tensor]:
        """Return the leaves of vector k, over the memory of the jax array in which they travel. Each has a storage of its own."""
        kind, shapes, dtype, begins = self.parts[k]
        memory = kind.from_address(array.block_until_ready().unsafe_buffer_pointer())
        memory.array = array  # which lives as long
        leaves = list(map(torch.from_numpy, map(np.ndarray, shapes, itertools.repeat(dtype), itertools.repeat(memory), begins)))
        if self.dtypes[k] == torch.bfloat16:
            leaves = [x.view(torch.bfloat16) for x in leaves]
        for i in self.empty[k]:  # NumPy has other strides
            leaves[i] = torch.empty(shapes[i], dtype=self.dtypes[k])
        leaves[0]._funrl_vector = Vector(array, self.lengths[k], list(map(_ADDRESS, leaves)))  # pyright: ignore
        return leaves

    def known(self, k: int, leaves: list[torch.Tensor]) -> Any:
        """Return the jax array over the memory of the leaves of vector k, if there is one."""
        known = leaves[0].__dict__.get("_funrl_vector")
        if type(known) is not Vector or known.lengths != self.lengths[k] or list(map(_ADDRESS, leaves)) != known.addresses:
            return None
        # A tensor that lies where a leaf of the vector was, in memory that the vector keeps, has the present numbers of that leaf.
        plain = self.of_kinds[k](*leaves) or (all(map(_IS_CONTIGUOUS, leaves)) and not any(map(_IS_NEGATED, leaves)))
        return known.array if plain else None

    def unpack(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the leaves, as jax arrays, of the arrays in which they travel."""
        from jax import lax

        leaves: list[Any] = [None] * len(self.shapes)
        for vector, offsets, array in zip(self.vectors, self.offsets, arrays, strict=False):
            for i, begin in zip(vector, offsets, strict=False):
                part = array if len(vector) == 1 else lax.slice_in_dim(array, begin, begin + self.sizes[i])
                leaves[i] = lax.reshape(part, self.shapes[i])
        for i, array in zip(self.single, arrays[len(self.vectors) :], strict=True):
            leaves[i] = array
        return leaves

    def pack(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the arrays in which leaves, jax arrays, travel."""
        from jax import lax

        flat = [[lax.reshape(leaves[i], (self.sizes[i],)) for i in vector] for vector in self.vectors]
        return [lax.concatenate(parts, 0) if len(parts) > 1 else parts[0] for parts in flat] + [leaves[i] for i in self.single]


class _Kept:
    """A jax array over the memory of a tensor, which has it as an attribute. Copies of the tensor, and files, do not."""

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __reduce__(self) -> Any:
        return collections.OrderedDict, ()  # which torch.load knows


class Vector(_Kept):
    """A jax array in which leaves travel, and their lengths and addresses."""

    __slots__ = ("addresses", "lengths")

    def __init__(self, array: Any, lengths: tuple[int, ...], addresses: list[int]) -> None:
        self.array, self.lengths, self.addresses = array, lengths, addresses


def _apart(leaves: list[torch.Tensor]) -> bool:
    """Return whether tensors share no memory, so that a write to one of them changes no other one."""
    spans = sorted((x.data_ptr(), x.data_ptr() + x.nbytes) for x in leaves)
    return all(map(_IS_CONTIGUOUS, leaves)) and all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def _numpy_dtype(dtype: torch.dtype) -> Any:
    """Return NumPy's dtype; for bfloat16, which it does not know, an integer of this size."""
    return torch.empty(0, dtype=torch.int16 if dtype == torch.bfloat16 else dtype).numpy().dtype


def _to_jax(x: torch.Tensor) -> Any:
    """Return a jax array over the memory of a contiguous tensor, or of a copy where jax cannot use that memory."""
    # Of a tensor of its own: x may give up its memory while the array still has it.
    return load().numpy.from_dlpack(x.detach())


def _to_torch(x: Any) -> torch.Tensor:
    """Return a tensor over the memory of a jax array."""
    return torch.from_dlpack(x.__dlpack__())  # a capsule, as torch asks an array for its device first, which takes as long


class Executable:
    """A recorded graph, compiled."""

    def __init__(self, plan: Plan) -> None:
        graph, _, groups, captured, output_groups, donated, self.returned, threads, name, note = plan
        jax = start(threads)
        leaves = graph.inputs[: len(groups)]
        self.inputs = _Layout([(group, node.meta.shape, node.meta.dtype) for group, node in zip(groups, leaves, strict=True)])
        self.outputs = _Layout(
            [(group, node.meta.shape, node.meta.dtype) for group, node in zip(output_groups, graph.outputs, strict=True)],
            first=[donated[i] for i in self.inputs.single if i in donated],
        )
        self.captured = captured
        self.shared: list[Any] = [None] * len(captured)
        self.name, self.kinds = name, [(x.shape, x.dtype) for x in captured]
        num_arrays = len(self.inputs.vectors) + len(self.inputs.single)
        places = tuple(len(self.inputs.vectors) + k for k, i in enumerate(self.inputs.single) if i in donated)
        self.donated = frozenset(places)
        options = {"xla_cpu_multi_thread_eigen": threads > 1, "xla_allow_excess_precision": False}
        avals = self.inputs.avals() + [(tuple(x.shape), x.dtype) for x in captured]
        numbers, places_of_numbers = taken_out(graph)
        rest = num_arrays + len(captured)
        self.effects = _effects_of(graph)

        def program(*arrays: Any) -> list[Any]:
            inputs = [*self.inputs.unpack(arrays[:num_arrays]), *arrays[num_arrays:rest]]
            values = {node: arrays[rest + node.args[0]] for node in places_of_numbers} | dict(zip(graph.inputs, inputs, strict=True))
            turn = [*arrays[rest + len(numbers) :]]  # of the first call of Python, if there are any
            return [*self.outputs.pack(_evaluate(graph, graph.outputs, values, turn)), *turn]

        program.__name__ = name

        def build() -> Any:
            from funrl.compiler._lowerings import jax_dtype

            note("lowering")
            given = [jax.ShapeDtypeStruct(shape, jax_dtype(dtype)) for shape, dtype in avals]
            given += [jax.ShapeDtypeStruct((), x.dtype) for x in numbers]
            given += [jax.ShapeDtypeStruct((), "int64")] if self.effects else []
            lowered = jax.jit(program, donate_argnums=places).lower(*given)
            note("compiling")
            return lowered.compile(compiler_options=options)

        with settings():
            self.numbers = [jax.numpy.asarray(x) for x in numbers]
            num_given = len(avals) + len(numbers)
            self.compiled = (
                build()
                if self.effects
                else _cache.loaded(graph, (self.inputs, self.outputs), (places, POOL[0]), options, num_given, build, note)
            )

    def __call__(self, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        with in_settings():
            arrays = self._arrays(leaves)
            run = Run() if self.effects else None
            results = self.compiled(*arrays, *self.numbers, *([run.turn] if run else ()))
        del arrays
        if run:
            results.pop().block_until_ready()  # the last turn
            if run.raised:
                raise run.raised[0]
        return self._tensors(results)

    def _arrays(self, leaves: list[torch.Tensor]) -> list[Any]:
        arrays = []
        for k, vector in enumerate(self.inputs.vectors):
            parts = [leaves[i] for i in vector]
            known = self.inputs.known(k, parts)
            arrays.append(self._packed(k, parts, leaves) if known is None else known)
        for i in self.inputs.single:
            x = leaves[i]
            known = x.__dict__.get("_funrl_array")
            known = known.array if type(known) is _Kept else None
            if known is None or known.unsafe_buffer_pointer() != x.data_ptr() or known.shape != tuple(x.shape):
                known = _to_jax(x)
                if len(arrays) not in self.donated and known.unsafe_buffer_pointer() == x.data_ptr():
                    x._funrl_array = _Kept(known)  # pyright: ignore
            elif len(arrays) in self.donated:
                del x._funrl_array  # pyright: ignore
                with torch.no_grad():
                    x.data = x.new_empty(0)  # the last holder of the memory has to be jax, or it copies
            arrays.append(known)
        for k, x in enumerate(self.captured):
            known = self.shared[k]
            plain = x.is_contiguous() and not x.is_neg()
            if known is None or known.unsafe_buffer_pointer() != x.data_ptr() or not plain or (x.shape, x.dtype) != self.kinds[k]:
                if (x.shape, x.dtype) != self.kinds[k]:
                    shape, dtype = self.kinds[k]
                    raise ValueError(
                        f"{self.name}: a tensor that it closes over has become {x.dtype} {list(x.shape)}; when it was traced, it was "
                        f"{dtype} {list(shape)}: compile the function again, or make the tensor an argument"
                    )
                x = x.detach()
                known = _to_jax(x if plain else x.resolve_neg().contiguous())
                self.shared[k] = known if plain and known.unsafe_buffer_pointer() == x.data_ptr() else None
            arrays.append(known)
        return arrays

    def _packed(self, k: int, parts: list[torch.Tensor], leaves: list[torch.Tensor]) -> Any:
        """Return a copy of the leaves of vector k in one array. Those that come back as they are become views of it, in ``leaves``."""
        vector = self.inputs.vectors[k]
        flat = torch.cat([x.detach().reshape(-1) for x in parts]) if len(parts) > 1 else parts[0].detach().reshape(-1).clone()
        if vector[0] in self.returned and _apart(parts):
            array = _to_jax(flat)
            for i, x in zip(vector, self.inputs.tensors(k, array), strict=True):
                leaves[i] = x
            return array
        # jax takes NumPy's arrays in a tenth of the time, but knows no bfloat16 of theirs.
        return _to_jax(flat) if flat.dtype == torch.bfloat16 else flat.numpy()

    def _tensors(self, results: list[Any]) -> list[torch.Tensor]:
        leaves: list[Any] = [None] * len(self.outputs.shapes)
        for k, vector in enumerate(self.outputs.vectors):
            for i, x in zip(vector, self.outputs.tensors(k, results[k]), strict=True):
                leaves[i] = x
        for i, array in zip(self.outputs.single, results[len(self.outputs.vectors) :], strict=True):
            leaves[i] = x = _to_torch(array)
            x._funrl_array = _Kept(array)  # pyright: ignore
        return leaves


def _evaluate(graph: Graph, outputs: Sequence[Node], values: dict[Node, Any], turn: list[Any]) -> list[Any]:
    """Return outputs of a graph as jax arrays.

    Args:
        graph: the graph.
        outputs: some of its nodes.
        values: those of its inputs, of numbers, and of other nodes that are known; it gets those of all nodes.
        turn: the turn of the first call of Python, and then that after the last one; empty if there are none.
    """
    from funrl.compiler import _lowerings

    live = graph.live(outputs)
    wanted: dict[Node, set[int]] = {}
    for node in live:
        if node.op == "item":
            wanted.setdefault(node.args[0], set()).add(node.args[1])
    for node in live:
        if node in values:
            pass
        elif node.op == "constant":
            values[node] = _constant(node.args[0])
        elif node.op == "item":
            values[node] = values[node.args[0]][node.args[1]]
        elif isinstance(node.op, Loop):
            values[node] = _loop(node.op, [values[x] for x in node.args], values, turn, wanted.get(node, set()))
        elif isinstance(node.op, Effect):
            turn[0], *found = call(node.op, [x.meta for x in node.args], [values[x] for x in node.args], *turn)
            values[node] = found[0] if found else None
        else:
            args, kwargs = (replaced(x, Node, values.__getitem__) for x in (node.args, node.kwargs))
            values[node] = _lowerings.apply(node.op, node.meta, args, kwargs)
    return [values[node] for node in outputs]


def _effects_of(graph: Graph) -> list[Effect]:
    return [x for node in graph.effects for x in (_effects_of(node.op.body) if isinstance(node.op, Loop) else [node.op])]


def _constant(x: torch.Tensor) -> Any:
    from funrl.compiler import _lowerings

    jax = load()
    if x.ndim == 0:
        return _lowerings.constant(x.item(), x.dtype)
    if x.dtype == torch.bfloat16:
        return jax.numpy.asarray(x.view(torch.int16).numpy().view(_lowerings.jax_dtype(x.dtype)))
    return jax.numpy.asarray(np.array(x.contiguous().numpy()))


def _loop(loop: Loop, operands: list[Any], outside: dict[Node, Any], turn: list[Any], wanted: set[int]) -> dict[int, Any]:
    """Return the results of a loop that are wanted, by their position; numbers in its body are among the values ``outside``."""
    from jax import lax

    rows_end = loop.num_carries + loop.num_columns
    constants = operands[rows_end:]
    ys = [i for i in range(loop.num_carries, len(loop.body.outputs)) if i in wanted]
    outputs = [loop.body.outputs[i] for i in (*range(loop.num_carries), *ys)]
    moved = _transposed(loop.body, dict(zip(loop.body.inputs[rows_end:], constants, strict=True)))

    def step(state: Any, row: Any) -> tuple[Any, Any]:
        carry, turn = state
        turn = [*turn]
        inputs = dict(zip(loop.body.inputs, [*carry, *row, *constants], strict=True))
        results = _evaluate(loop.body, outputs, outside | moved | inputs, turn)
        return (results[: loop.num_carries], turn), results[loop.num_carries :]

    start = (operands[: loop.num_carries], turn if loop.body.effects else [])
    (carry, last), stacked = lax.scan(step, start, operands[loop.num_carries : rows_end], length=loop.length, reverse=loop.reverse)
    turn[:] = last or turn
    return {**dict(enumerate(carry)), **dict(zip(ys, stacked, strict=True))}


_TRANSPOSES = (aten.t.default, aten.transpose.int, aten.permute.default)
_VIEWS = (*_TRANSPOSES, aten.view.default, aten.reshape.default, aten.slice.Tensor, aten.select.int, aten.unsqueeze.default)


def _transposed(body: Graph, values: dict[Node, Any]) -> dict[Node, Any]:
    """Return transposes of the values that all steps of a loop share, by their nodes.

    XLA would copy such a matrix at each step, to read it in another order."""
    from funrl.compiler import _lowerings

    found: dict[Node, Any] = {}
    for node in body.nodes:
        nodes = list(flat_nodes((node.args, node.kwargs)))
        if node.op in _VIEWS and nodes and all(x in values for x in nodes):
            args, kwargs = (replaced(x, Node, values.__getitem__) for x in (node.args, node.kwargs))
            values[node] = _lowerings.apply(node.op, node.meta, args, kwargs)
            if node.op in _TRANSPOSES:
                found[node] = values[node]
    return found
