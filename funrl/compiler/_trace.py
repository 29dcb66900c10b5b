"""Direct tracing: tensors that record what is done with them, below torch.func and without Dynamo.

While a function is traced, each aten operator that reaches the bottom of torch's dispatch is written into a :class:`Graph`; torch.func's
transforms work above as they do eagerly. In-place operators and writes to views are turned into their functional twins: every tensor has
a :class:`Memory` whose value is a node, a view knows the steps from there to itself, and a write goes these steps back.
"""

import itertools
import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from funrl.compiler import _torch_private as private
from funrl.compiler._graph import Graph, Loop, Node, replaced
from funrl.compiler._meta import known
from funrl.compiler._views import IDENTITIES, write_back

__all__ = ["Indexing", "Trace", "TraceError", "Traced", "current", "described", "tracing"]

aten = torch.ops.aten
_SERIAL = itertools.count()
_STATE = threading.local()


class TraceError(RuntimeError):
    """A function that cannot be traced; the message names the line and the remedy."""


def current() -> "Trace | None":  # pyright: ignore
    """Return the trace that this thread is in, or None."""
    return getattr(_STATE, "trace", None)


def tracing() -> bool:
    """Return whether this code is being traced into a program, so that tensors have shapes but no values.

    Example:
        >>> from funrl import compiler
        >>> seen = []
        >>> double = lambda x: seen.append(tracing()) or 2 * x
        >>> double(torch.ones(1)), compiler.compile(double)(torch.ones(1)), seen
        (tensor([2.]), tensor([2.]), [False, True])
    """
    return current() is not None


class Memory:
    """What tensors that are views of each other share: its present value, a node, and why it may not be written."""

    __slots__ = ("frame", "meta", "node", "readonly", "version")

    def __init__(self, node: Node, frame: "Frame", readonly: str = "") -> None:
        self.node, self.frame, self.readonly, self.version = node, frame, readonly, 0
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
        """Record as another tensor does, whose shape this one has been given."""
        self.memory, self.steps, self.meta, self.node, self.version = other.memory, other.steps, other.meta, other.node, other.version

    def __repr__(self, **options: Any) -> str:
        return f"<traced {described(self)}: it has no value before the program runs; funrl.debug.print shows it then>"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TraceError(
            f"{_line()}a traced tensor was used after its trace ended: a function that funrl.compile traces runs once, and what it leaves "
            "behind (in a list, a global or an attribute) is no tensor; return it from the function"
        )

    def __format__(self, spec: str) -> str:
        if spec:
            raise _value_asked(self, f"a format of {spec!r}")
        return repr(self)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise _value_asked(self, "numpy()")

    def tolist(self) -> Any:
        raise _value_asked(self, "tolist()")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise _value_asked(self, "NumPy")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TraceError(f"{_line()}a traced tensor cannot be pickled or deep-copied; it has no value before the program runs")

    def __copy__(self) -> Any:
        return self.view_as(self)

    def __deepcopy__(self, memo: Any) -> Any:
        return self.clone()


def described(x: torch.Tensor) -> str:
    """Return dtype and shape, for messages."""
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"


class Frame:
    """One graph under construction: the program, or the body of a loop in its parent."""

    __slots__ = ("graph", "lifted", "operands", "parent")

    def __init__(self, parent: "Frame | None") -> None:
        self.graph, self.parent = Graph(), parent
        self.lifted: dict[Node, Node] = {}  # from a node of the parent to the input that stands for it
        self.operands: list[Node] = []

    def place(self, node: Node) -> Node:
        """Return a node of this graph that has the value of ``node``, of this graph or one around it."""
        if node.graph is self.graph:
            return node
        if self.parent is None:
            raise TraceError(
                f"{_line()}a tensor left the body of a loop, or an abandoned trace, by another way than being returned; return it from the "
                "function given to scan"
            )
        outer = self.parent.place(node)
        if outer.op == "constant":
            return self.graph.add("constant", outer.args, {}, outer.meta)
        if outer not in self.lifted:
            self.lifted[outer] = self.graph.input(outer.meta)
            self.operands.append(outer)
        return self.lifted[outer]


@private.without_dynamo
class Trace(private.TorchDispatchMode):
    """The recording of one function.

    Args:
        device: where the program runs.
        lowers: whether an operator goes into the graph as it is; the others are decomposed.
        backend: its name, for messages.
        decompositions: a table of the backend's own, of functions that may give NotImplemented. What then cannot be decomposed goes into
            the graph as it is.
    """

    def __init__(
        self,
        device: torch.device,
        lowers: Callable[[Any], bool],
        backend: str,
        decompositions: dict[Any, Callable[..., Any]] | None = None,
    ) -> None:
        super().__init__()
        private.needed()
        self.device, self.lowers, self.backend, self.decompositions = device, lowers, backend, decompositions
        self.frame = Frame(None)
        self.captured: dict[int, tuple[torch.Tensor, Traced]] = {}

    # What a function is given and gives ------------------------------------------------------------------------------------

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the context, record this thread's operators."""
        _STATE.trace = self
        try:
            with torch.inference_mode(False), Indexing(), self:
                yield
        finally:
            _STATE.trace = None

    def argument(self, shape: Any, dtype: torch.dtype) -> Traced:
        """Return a tensor that stands for an argument of the function."""
        meta = torch.empty(tuple(shape), dtype=dtype, device="meta")
        return self.fresh(self.frame.graph.input(meta), readonly="an argument of the function")

    def fresh(self, node: Node, readonly: str = "") -> Traced:
        """Return a tensor with memory of its own, whose value is ``node``."""
        return Traced.make(node.meta, Memory(node, self.frame, readonly), (), node, self.device)

    def node(self, x: torch.Tensor) -> Node:
        """Return the node, in the present graph, of the present value of a tensor."""
        if not isinstance(x, Traced):
            x = self.capture(x)
        memory = x.memory
        if x.version == memory.version:
            return self.frame.place(x.node)
        node = self.frame.place(memory.node)
        for func, args, kwargs, place in x.steps:
            node = self.result(self.emit(func, (node, *args), kwargs), place)
        if memory.frame is self.frame:
            x.node, x.version = node, memory.version
        return node

    def capture(self, x: torch.Tensor) -> Traced:
        """Return a tensor that stands for one from outside the function: an input whose present values are read at each call."""
        known = self.captured.get(id(x))
        if known is not None:
            return known[1]
        if private.is_transformed(x):
            raise TraceError(
                f"{_line()}a tensor of an outer vmap or grad ({described(x)}) is used in a traced function; hand it in as an argument"
            )
        if x.device.type != self.device.type and x.ndim:
            raise TraceError(
                f"{_line()}a tensor on {x.device} ({described(x)}) is used in a program that runs on {self.device}; move it there first"
            )
        root = self.frame
        while root.parent is not None:
            root = root.parent
        node = root.graph.input(torch.empty(x.shape, dtype=x.dtype, device="meta"))
        traced = Traced.make(node.meta, Memory(node, root, "a tensor from outside the function"), (), node, self.device)
        self.captured[id(x)] = (x, traced)
        return traced

    # Recording -------------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plan = _PLANS.get(func)
        if plan is None:
            plan = _PLANS[func] = _plan(func)
        return plan(self, func, args, kwargs or {})

    def emit(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
        """Record an operator on nodes of the present graph."""
        node = self.frame.graph.add(func, args, kwargs, None)
        node.meta = _on_meta(func, replaced(args, Node, _meta_of), replaced(kwargs, Node, _meta_of))
        return node

    def result(self, node: Node, place: int | None) -> Node:
        """Return one of several results of a node, or the node itself where ``place`` is None."""
        return node if place is None else self.frame.graph.add("item", (node, place), {}, node.meta[place])

    def pure(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Record an operator that writes nothing and whose results are no views."""
        if self.lowers(func):
            return self.recorded(func, args, kwargs)
        given: set[int] = set()
        replaced((args, kwargs), Traced, lambda x: given.add(id(x.memory)))
        # What is written into a result may not be written into what the operator was given.
        return replaced(self.decomposed(func, args, kwargs), Traced, lambda x: self.fresh(self.node(x)) if id(x.memory) in given else x)

    def recorded(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Record an operator as it is."""
        given = replaced(args, torch.Tensor, self.node), replaced(kwargs, torch.Tensor, self.node)
        try:
            node = self.emit(func, *given)
        except NotImplementedError:  # torch does not know what shape it gives
            self.frame.graph.nodes.pop()
            return self.decomposed(func, args, kwargs)
        if isinstance(node.meta, torch.Tensor):
            return self.fresh(node)
        return type(node.meta)([None if x is None else self.fresh(self.result(node, i)) for i, x in enumerate(node.meta)])

    def decomposed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator that has no lowering as simpler ones."""
        with self:
            simpler = (private.decompositions() if self.decompositions is None else self.decompositions).get(func)
            out = simpler(*args, **kwargs) if simpler is not None else NotImplemented
            if out is NotImplemented:
                out = func.decompose(*args, **kwargs)
        if out is NotImplemented and self.decompositions is not None:
            return self.recorded(func, args, kwargs)
        if out is NotImplemented:
            given = ", ".join(described(x) for x in args if isinstance(x, torch.Tensor))
            raise TraceError(
                f"{_line()}the operator {func} ({given}) has no lowering for backend='{self.backend}'"
                + ("; compile this function with backend='inductor', or write it with other operators" if self.backend == "xla" else "")
            )
        return out

    def view(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Record an operator that gives views of its first argument."""
        base = args[0] if isinstance(args[0], Traced) else self.capture(args[0])
        if func in IDENTITIES:
            return Traced.make(base.meta, base.memory, base.steps, self.node(base), self.device)
        if func is aten.as_strided.default:
            return self._as_strided(base, *args[1:], **kwargs)
        if self.decompositions is not None and private.is_composite(func):
            return self.decomposed(func, args, kwargs)
        node = self.frame.graph.add(func, (self.node(base), *args[1:]), kwargs, None)
        meta = node.meta = _on_meta(func, (base.meta, *args[1:]), kwargs)

        def one(view: torch.Tensor, place: int | None) -> Traced:
            steps = (*base.steps, (func, args[1:], kwargs, place))
            return Traced.make(view, base.memory, steps, self.result(node, place), self.device)

        return one(meta, None) if isinstance(meta, torch.Tensor) else type(meta)([one(x, i) for i, x in enumerate(meta)])

    def _as_strided(self, base: Traced, size: Any, stride: Any, offset: int | None = None) -> Traced:
        """Record as_strided, which speaks of memory and not of the tensor that it is given: by way of the memory's own order."""
        memory = base.memory.meta
        offset = base.meta.storage_offset() if offset is None else offset  # pyright: ignore
        order = sorted(range(memory.ndim), key=memory.stride().__getitem__, reverse=True)
        steps: tuple[Any, ...] = () if memory.is_contiguous() else ((aten.permute.default, (order,), {}, None),)
        if not memory.permute(order).is_contiguous() and not memory.is_contiguous():
            raise TraceError(f"{_line()}as_strided of a tensor with gaps or overlaps in memory cannot be traced; call .contiguous() first")
        steps = (*steps, (aten.as_strided.default, (list(size), list(stride), offset), {}, None))
        node = self.frame.place(base.memory.node)
        for func, args, kwargs, _ in steps:
            node = self.emit(func, (node, *args), kwargs)
        node.meta = memory.as_strided(size, stride, offset)
        return Traced.make(node.meta, base.memory, steps, node, self.device)

    def write(self, func: Any, args: Any, kwargs: Any, target: torch.Tensor, compute: Callable[[], Node]) -> torch.Tensor:
        """Give ``target`` the value that ``compute`` records, as an in-place operator does."""
        if not isinstance(target, Traced):
            target = self.capture(target)
        memory = target.memory
        reason = memory.readonly or ("" if memory.frame is self.frame else "a tensor from outside the loop's body")
        if reason:
            raise TraceError(
                f"{_line()}{func} would change {reason} ({described(target)}) in place; a traced function changes nothing "
                "that it is given: "
                "compute a new tensor and return it (funrl.compile's donate= lets it take the old one's memory)"
            )
        value = compute()
        if not torch.can_cast(value.meta.dtype, target.dtype) and func is not aten.copy_.default:
            raise RuntimeError(f"result type {value.meta.dtype} can't be cast to the desired output type {target.dtype}")
        if value.meta.shape != target.meta.shape and func is not aten.copy_.default:
            raise RuntimeError(f"output with shape {list(target.shape)} doesn't match the broadcast shape {list(value.meta.shape)}")
        if 0 in target.meta.stride() and any(n > 1 and s == 0 for n, s in zip(target.shape, target.meta.stride(), strict=True)):
            raise RuntimeError(
                f"{_line()}{func}: several entries of the written tensor are one place in memory (it was expanded); clone it first"
            )
        if value.meta.dtype != target.dtype:
            value = self.emit(aten._to_copy.default, (value,), {"dtype": target.dtype})
        if value.meta.shape != target.meta.shape:
            value = self.emit(aten.expand.default, (value, list(target.meta.shape)), {})
        node = write_back(self, self.frame.place(memory.node), target.steps, value)
        if node.meta.stride() != memory.meta.stride():  # other views of this memory stand on its layout
            node = self.frame.graph.add(aten.clone.default, (node,), {"memory_format": torch.contiguous_format}, memory.meta)
        memory.node = node
        memory.version += 1
        target.node, target.version = value, memory.version
        return target

    def loop(
        self, body: Callable[..., list[torch.Tensor]], carry: Any, columns: Any, constants: Any, length: int, reverse: bool
    ) -> list[torch.Tensor]:
        """Record a loop: ``body(*carry, *row, *constants)`` returns the new carry and the ys."""
        operands = [self.node(x) for x in (*carry, *columns, *constants)]
        with self.inner_frame() as frame:
            rows_end = len(carry) + len(columns)
            shapes = [x.meta.shape[1:] if len(carry) <= i < rows_end else x.meta.shape for i, x in enumerate(operands)]
            metas = [torch.empty(shape, dtype=x.meta.dtype, device="meta") for shape, x in zip(shapes, operands, strict=True)]
            inputs = [self.fresh(frame.graph.input(x), readonly="an argument of the loop's body") for x in metas]
            outputs = body(*inputs)
            frame.graph.outputs = [self.node(x) for x in outputs]
        metas = [x.meta for x in frame.graph.outputs]
        shapes = [list(x.shape) if i < len(carry) else [length, *x.shape] for i, x in enumerate(metas)]
        metas = tuple(torch.empty(shape, dtype=x.dtype, device="meta") for shape, x in zip(shapes, metas, strict=True))
        loop = Loop(frame.graph, len(carry), len(columns), length, reverse)
        node = self.frame.graph.add(loop, (*operands, *frame.operands), {}, metas)
        if frame.graph.effects:
            self.frame.graph.effects.append(node)
        return [self.fresh(self.result(node, i)) for i in range(len(metas))]

    def effect(self, f: Callable[..., Any], tensors: list[torch.Tensor]) -> None:
        """Record a call of Python."""
        if self.backend == "inductor":
            raise TraceError(
                f"{_line()}a program that inductor compiles cannot call Python (funrl.debug): compile with backend='xla', or run "
                "within funrl.compiler.eager()"
            )
        node = self.frame.graph.add(f, tuple([self.node(x) for x in tensors]), {}, ())
        self.frame.graph.effects.append(node)

    @contextmanager
    def inner_frame(self) -> Iterator[Frame]:
        """Within the context, record into a graph of its own."""
        outer, self.frame = self.frame, Frame(self.frame)
        try:
            yield self.frame
        finally:
            self.frame = outer


def _meta_of(node: Node) -> Any:
    return node.meta


def _meta_of_tensor(x: torch.Tensor) -> torch.Tensor:
    return x.meta if isinstance(x, Traced) else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator on meta tensors: what shape, strides and dtype its results have."""
    rule = known(func)
    if rule is not None:
        return rule(*args, **kwargs)
    if func in _WITH_DEVICE:
        kwargs = {**kwargs, "device": "meta"}
    with private.no_dispatch():  # this may be called by what no operator has led to, with the trace listening
        return func(*args, **kwargs)


# Operators that take a device.
_WITH_DEVICE: set[Any] = set()

# What is done with an operator, found out at its first use.
_PLANS: dict[Any, Callable[[Trace, Any, Any, Any], Any]] = {}


def _plan(func: Any) -> Callable[[Trace, Any, Any, Any], Any]:
    schema, tags = func._schema, func.tags
    if any(argument.name == "device" for argument in schema.arguments):
        _WITH_DEVICE.add(func)
    if func in (aten._local_scalar_dense.default, aten.item.default, aten.equal.default) or torch.Tag.data_dependent_output in tags:
        return _refuse_value
    if torch.Tag.nondeterministic_seeded in tags:
        return _refuse_random
    if torch.Tag.dynamic_output_shape in tags:
        return _refuse_shape
    if func in (aten.lift_fresh.default, aten.lift_fresh_copy.default, aten.lift.default):
        return _constant
    if torch.Tag.inplace_view in tags:
        return _change_shape
    if schema.is_mutable:
        return _plan_of_write(func)
    if func in (aten._linalg_det.default, aten._linalg_slogdet.default):
        return _determinant
    if func in (aten.native_batch_norm.default, aten.cudnn_batch_norm.default, aten.miopen_batch_norm.default):
        return _batch_norm
    if not any(str(result.type) in ("Tensor", "List[Tensor]", "Optional[Tensor]") for result in schema.returns):
        return lambda trace, func, args, kwargs: func(*replaced(args, torch.Tensor, _meta_of_tensor), **kwargs)
    if any(result.alias_info is not None for result in schema.returns):
        return Trace.view
    if func in _WITH_DEVICE:
        return _make
    return Trace.pure


def _make(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    device = kwargs.get("device")
    if device is not None and torch.device(device).type != trace.device.type:
        if torch.device(device).type == "meta":
            return func(*replaced(args, torch.Tensor, _meta_of_tensor), **kwargs)
        raise TraceError(f"{_line()}{func} makes a tensor on {device} in a program that runs on {trace.device}; a program has one device")
    if func is aten._to_copy.default and not isinstance(args[0], torch.Tensor):  # torch hands numbers down as such
        return trace.pure(
            aten.scalar_tensor.default, args, {"dtype": kwargs.get("dtype") or torch.tensor(args[0]).dtype, "device": trace.device}
        )
    if func is aten._efficientzerotensor.default:  # a tangent of zeros, which torch keeps without memory
        return trace.pure(aten.zeros.default, args, kwargs)
    if func is aten.empty_strided.default or func is aten.new_empty_strided.default:
        kwargs = {name: x for name, x in kwargs.items() if x is not None}
        shape, stride = args[-2:]
        made = (
            trace.pure(aten.new_empty.default, (args[0], shape), kwargs)
            if len(args) > 2
            else trace.pure(aten.empty.memory_format, (shape,), kwargs)
        )
        node = made.node
        node.meta = torch.empty_strided(shape, stride, dtype=node.meta.dtype, device="meta")
        return trace.fresh(node)
    return trace.pure(func, args, kwargs)


def _constant(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    value = args[0]
    if isinstance(value, Traced):
        return trace.view(aten.alias.default, args, {})
    meta = torch.empty(value.shape, dtype=value.dtype, device="meta")
    return trace.fresh(trace.frame.graph.add("constant", (value.detach(),), {}, meta))


def _plan_of_write(func: Any) -> Callable[[Trace, Any, Any, Any], Any]:
    """Return what turns an in-place operator, or one with ``out=``, into its functional twin."""
    schema = func._schema
    packet = func.overloadpacket
    name = schema.name.split("::")[1]
    written = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if func is aten.copy_.default:
        return lambda trace, func, args, kwargs: trace.write(func, args, kwargs, args[0], lambda: trace.node(args[1]))
    if name == "_index_put_impl_":
        return lambda trace, func, args, kwargs: _plan_of_write(aten.index_put_.default)(trace, aten.index_put_.default, args[:4], kwargs)
    if name.endswith("_") and not name.endswith("__") and len(written) == 1 and hasattr(aten, name[:-1]):
        twin = getattr(getattr(aten, name[:-1]), func._overloadname, None)
        if twin is not None:

            def in_place(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
                return trace.write(func, args, kwargs, args[0], lambda: trace.node(trace.pure(twin, args, kwargs)))

            return in_place
    outs = [a.name for a in written]
    if all(a.kwarg_only for a in written):
        taken = [(a.name, str(a.type)) for a in schema.arguments if a.name not in outs]
        for overload in packet.overloads():
            twin = getattr(packet, overload)
            if [(a.name, str(a.type)) for a in twin._schema.arguments if a.name not in _PLACES] == [
                a for a in taken if a[0] not in _PLACES
            ]:
                return _into(twin, outs)
    beside = getattr(getattr(aten, f"{name}_functional", None), func._overloadname, None)
    if beside is not None:
        return _and_writes(beside, [schema.arguments.index(a) for a in written])
    return _refuse_write


def _and_writes(twin: Any, places: list[int]) -> Callable[[Trace, Any, Any, Any], Any]:
    """Return what runs the functional twin of an operator that has results and writes into some arguments besides.

    It is batch normalisation, which moves its running averages on, in training only.
    """
    training = next((i for i, a in enumerate(twin._schema.arguments) if a.name == "training"), None)

    def run(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
        *results, mean, variance = trace.pure(twin, args, kwargs)
        if training is None or args[training]:
            for i, value in zip(places, (mean, variance), strict=True):
                trace.write(func, args, kwargs, args[i], lambda value=value: trace.node(value))
        return tuple(results)

    return run


def _batch_norm(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    """Record a batch normalisation that moves its averages on, although its schema does not say so."""
    x, weight, bias, mean, variance, *options = args
    with trace:
        if mean is None:
            out = aten._native_batch_norm_legit.no_stats(x, weight, bias, *options)
        else:
            out = aten._native_batch_norm_legit.default(x, weight, bias, mean, variance, *options)
        return out if func is aten.native_batch_norm.default else (*out, x.new_empty(0, dtype=torch.uint8))


def _determinant(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    """Record a determinant, whose factors are of the matrix transposed where it is contiguous, and of itself where it is not.

    Derivatives go by the same flag, which no executable knows: a matrix that is not contiguous goes in as the transposed of one that is.
    """
    (x,) = args
    if not x.is_contiguous():
        with trace:
            x = x.transpose(-2, -1).contiguous()
    return trace.pure(func, (x,), kwargs)


_PLACES = ("layout", "device", "pin_memory", "memory_format", "dtype")


def _into(twin: Any, outs: list[str]) -> Callable[[Trace, Any, Any, Any], Any]:
    def run(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
        results = trace.pure(twin, args, {name: x for name, x in kwargs.items() if name not in outs})
        places = [kwargs[name] for name in outs]
        for target, value in zip(places, results if isinstance(results, (tuple, list)) else (results,), strict=True):
            if target.shape != value.shape:
                raise TraceError(
                    f"{_line()}out= of {func} has shape {list(target.shape)}, its result {list(value.shape)}; they have to agree"
                )
            trace.write(aten.copy_.default, (target, value), {}, target, lambda value=value: trace.node(value))
        return places[0] if len(places) == 1 else tuple(places)

    return run


def _change_shape(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator such as squeeze_, that makes a tensor a view of itself."""
    name = func._schema.name.split("::")[1]
    target = args[0]
    twin = getattr(getattr(aten, name[:-1], None), func._overloadname, None)
    if twin is None or not isinstance(target, Traced) or name in ("resize_", "set_", "resize_as_"):
        return _refuse_write(trace, func, args, kwargs)
    changed = trace.view(twin, args, kwargs)
    with trace:
        target.data = changed
    target.become(changed)
    return target


def _refuse_write(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    raise TraceError(f"{_line()}{func} writes in place in a way that cannot be traced; use an operator that returns a new tensor")


def _value_asked(x: torch.Tensor, how: str) -> TraceError:
    return TraceError(
        f"{_line()}the value of a traced tensor ({described(x)}) was asked for ({how}): while a function is compiled its "
        "tensors have shapes "
        "but no values. For `if` use torch.where, for a loop funrl.scan with a mask; keep numbers as tensors instead of int(), float() or "
        ".item(); funrl.debug.print shows values, and `with funrl.compiler.eager():` runs without compiling"
    )


def _refuse_value(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [x for x in args if isinstance(x, torch.Tensor)]
    raise _value_asked(tensors[0], "bool(), int(), float(), .item() or `if`" if func is not aten.equal.default else "torch.equal")


def _refuse_random(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    given = {a.name: x for a, x in zip(func._schema.arguments, args, strict=False)} | kwargs
    if given.get("dropout_p", 0 if "dropout_p" in [a.name for a in func._schema.arguments] else 1) == 0 or not given.get("train", True):
        return trace.pure(func, args, kwargs)  # nothing is drawn
    raise TraceError(
        f"{_line()}{func} draws from torch's global generator; a compiled program would repeat one draw for ever: draw "
        "with funrl.random and a "
        "key that is an argument of the function"
    )


def _refuse_shape(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    if func is aten.nonzero.default and (places := _places(trace, args[0])) is not None:
        return _constant(trace, func, (places,), {})
    if func is aten.index.Tensor and not kwargs:
        indices: list[Any] = []
        for i in args[1]:
            places = _places(trace, i) if isinstance(i, Traced) and i.dtype in (torch.bool, torch.uint8) else None
            indices += [i] if places is None else [_constant(trace, func, (x,), {}) for x in places.unbind(1)]
        if all(i is None or i.dtype not in (torch.bool, torch.uint8) for i in indices):
            return trace.pure(func, (args[0], indices), kwargs)
    raise TraceError(
        f"{_line()}the shape of what {func} gives depends on values, which a traced tensor has not; use a mask with "
        "torch.where, or a fixed "
        "number of rows"
    )


def _places(trace: Trace, mask: torch.Tensor) -> torch.Tensor | None:
    """Return the places of the entries of a constant that are not zero, or None for what is no constant."""
    node = trace.node(mask)
    return node.args[0].nonzero() if node.op == "constant" else None


class Indexing(TorchFunctionMode):
    """Let a traced tensor of shape [] be an index, and an entry of ``torch.tensor``, where torch would ask for its value."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _GET or func is _SET:
            index = args[1] if type(args[1]) is tuple else (args[1],)
            if any(_is_place(i) for i in index):
                return _index(args[0], index) if func is _GET else _set_index(args[0], index, args[2])
        elif type(func) is type(_SET_DATA) and func == _SET_DATA:
            return _set_data(*args)
        elif (func is torch.tensor or func is torch.as_tensor) and _holds_tensors(args[0]):
            return _tensor_of(*args, **(kwargs or {}))
        elif func is torch.full and len(args) == 2 and isinstance(args[1], torch.Tensor) and not args[1].ndim:
            options = kwargs or {}
            return args[1].detach().to(options.get("dtype") or args[1].dtype).expand(args[0]).clone()
        return func(*args, **(kwargs or {}))


_GET, _SET, _SET_DATA = torch.Tensor.__getitem__, torch.Tensor.__setitem__, torch.Tensor.data.__set__


def _set_data(target: torch.Tensor, value: torch.Tensor) -> None:
    """Let a tensor of the function be another one, as ``target.data = value`` does."""
    trace = current()
    if trace is None:
        _SET_DATA(target, value)
        return
    if not isinstance(target, Traced):
        what = "a tensor of a transform" if private.is_transformed(target) else "a tensor from outside the function"
        raise TraceError(
            f"{_line()}`.data =` would change {what} ({described(target)}); a traced function changes nothing that it is given: compute a "
            "new tensor and return it (torch.func.functional_call calls a module with other parameters)"
        )
    if target.memory.readonly:
        what = target.memory.readonly
        raise TraceError(f"{_line()}`.data =` would change {what} ({described(target)}); compute a new tensor and return it")
    value = value if isinstance(value, Traced) else trace.capture(value)
    _SET_DATA(target, value)
    target.become(value)


def _holds_tensors(value: Any) -> bool:
    return type(value) in (list, tuple) and any(isinstance(x, torch.Tensor) or _holds_tensors(x) for x in value)


def _tensor_of(values: Any, dtype: Any = None, device: Any = None, **options: Any) -> torch.Tensor:
    """Return what torch.tensor makes of nested lists with tensors of shape [] in them: without their gradients."""

    def stacked(value: Any) -> torch.Tensor:
        if type(value) in (list, tuple):
            parts = [stacked(x) for x in value]
            kind = parts[0].dtype if parts else torch.get_default_dtype()
            for x in parts[1:]:
                kind = torch.promote_types(kind, x.dtype)
            return torch.stack([x.to(kind) for x in parts]) if parts else torch.empty(0)
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            raise ValueError("only one element tensors can be converted to Python scalars: use torch.stack")
        return value.detach().reshape(()) if isinstance(value, torch.Tensor) else torch.tensor(value)

    made = stacked(values)
    return made if dtype is None else made.to(dtype)


def _is_place(i: Any) -> bool:
    """Return whether an index is a number that is known only when the program runs."""
    if not isinstance(i, torch.Tensor) or i.ndim or i.dtype in (torch.bool, torch.uint8) or i.is_floating_point():
        return False
    while private.is_transformed(i):
        if private.functorch.is_batchedtensor(i):
            return False  # torch takes it for a tensor of numbers
        i = private.functorch.get_unwrapped(i)
    return True


def _dimensions(x: torch.Tensor, index: tuple[Any, ...]) -> list[tuple[Any, int]]:
    """Return the entries of an index, the ellipsis written out, each with the first dimension of ``x`` that it is for."""
    taken = sum(0 if i is None or i is Ellipsis else i.ndim if isinstance(i, torch.Tensor) and i.dtype == torch.bool else 1 for i in index)
    entries, dim = [], 0
    for i in index:
        if i is Ellipsis:
            rest = x.ndim - taken
            entries += [(slice(None), dim + k) for k in range(rest)]
            dim += rest
            continue
        entries.append((i, dim))
        dim += 0 if i is None else i.ndim if isinstance(i, torch.Tensor) and i.dtype == torch.bool else 1
    return entries


def _index(x: torch.Tensor, index: tuple[Any, ...]) -> torch.Tensor:
    entries = _dimensions(x, index)
    rest = tuple(i for i, _ in entries if not _is_place(i))
    for i, dim in reversed(entries):
        if _is_place(i):
            x = x.index_select(dim, _from_the_front(i, x.shape[dim])).squeeze(dim)
    return x[rest] if any(i is None or not (isinstance(i, slice) and i == slice(None)) for i in rest) else x


def _from_the_front(i: torch.Tensor, size: int) -> torch.Tensor:
    i = i if i.dtype in (torch.int32, torch.int64) else i.to(torch.int64)
    return torch.where(i < 0, i + size, i).reshape(1)


def _set_index(x: torch.Tensor, index: tuple[Any, ...], value: Any) -> None:
    entries = _dimensions(x, index)
    if any(isinstance(i, (torch.Tensor, list)) and not _is_place(i) for i, _ in entries):
        # One kind of index only: numbers count as tensors that are broadcast.
        x.index_put_(
            tuple(i if isinstance(i, torch.Tensor) else torch.tensor(i) for i, _ in entries), torch.as_tensor(value, dtype=x.dtype)
        )
        return
    part = x[tuple(slice(None) if _is_place(i) else i for i, _ in entries)]
    dim, places = 0, []
    for i, _ in entries:
        if _is_place(i):
            places.append((i, dim))
        dim += isinstance(i, slice) or i is None or _is_place(i)
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    indices: list[Any] = [None] * part.ndim
    for i, dim in places:
        indices[dim] = i.reshape(1)
    shape = [n for dim, n in enumerate(part.shape) if indices[dim] is None]
    value = value.broadcast_to(shape)
    if len(places) == 1:
        i, dim = places[0]
        part.index_copy_(dim, _from_the_front(i, part.shape[dim]), value.unsqueeze(dim))
        return
    order = [dim for _, dim in places] + [dim for dim in range(part.ndim) if indices[dim] is None]
    part.permute(order).index_put_(tuple(i for i, _ in places), value)


def _line() -> str:
    """Return the file and the line of the user's code that is being traced, and its text."""
    frame: Any = sys._getframe(1)
    best = None
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_NOT_THEIRS) and not name.startswith("<frozen"):
            if name.startswith(_COMPILER):
                pass
            elif name.startswith(_FUNRL):
                best = best or frame
            else:
                best = frame
                break
        frame = frame.f_back
    if best is None:
        return ""
    text = linecache.getline(best.f_code.co_filename, best.f_lineno).strip()
    return f"{best.f_code.co_filename}:{best.f_lineno}: " + (f"`{text}`: " if text else "")


_COMPILER = os.path.dirname(__file__)
_FUNRL = os.path.dirname(_COMPILER)
_NOT_THEIRS = (
    os.path.dirname(torch.__file__),
    os.path.dirname(os.__file__) + os.sep + "contextlib",
    os.path.dirname(os.__file__) + os.sep + "copy",
    os.path.dirname(os.__file__) + os.sep + "functools",
)
