"""Direct tracing: tensors that record the operators that use them, below torch.func and without Dynamo.

While a function is traced, each aten operator that reaches the bottom of torch's dispatch is written into a :class:`Graph`; torch.func's
transforms work above as they do eagerly. In-place operators and writes to views are turned into their functional twins: every tensor has
a :class:`~funrl.compiler._traced.Memory` whose value is a node, a view stores the steps from the memory to itself, and a write to the view
reverses them.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from funrl import tree
from funrl._check import describe
from funrl.compiler import _torch_private as private
from funrl.compiler._errors import TraceError, line
from funrl.compiler._graph import Loop, Node, replaced
from funrl.compiler._meta import on_meta
from funrl.compiler._traced import Frame, Memory, Traced
from funrl.compiler._views import IDENTITIES, same_steps, write_back

aten = torch.ops.aten
_STATE = threading.local()
# The treatment of each operator, determined at its first use.
_PLANS: dict[Any, Callable[..., Any]] = {}


def current() -> "Trace | None":  # pyright: ignore
    """Return the trace that this thread is in, or None."""
    return getattr(_STATE, "trace", None)


def tracing(backend: str | None = None) -> bool:
    """Return whether this code is being traced into a program (for ``backend``, if given), so that tensors have shapes but no values.

    Args:
        backend: "xla" or "inductor"; None is any.

    Example:
        >>> from funrl import compiler
        >>> seen = []
        >>> double = lambda x: seen.append(tracing()) or 2 * x
        >>> double(torch.ones(1)), compiler.compile(double)(torch.ones(1)), seen
        (tensor([2.]), tensor([2.]), [False, True])
    """
    trace = current()
    return trace is not None and backend in (None, trace.backend)


@private.without_dynamo
class Trace(private.TorchDispatchMode):
    """The recording of one function.

    Args:
        device: where the program runs.
        lowers: whether an operator is recorded unchanged; the others are decomposed.
        backend: its name, for messages.
        decompositions: a table of the backend's own, of functions that may return NotImplemented. An operator that cannot be decomposed is
            then recorded unchanged.
        replays: whether derivatives of writes to views take the views again as they were taken. A tensor that gets another shape in place
            then raises :class:`~funrl.compiler._traced.Reshaped`, because autograd does not notice it. If False, only rows at indices that
            are tensors are replayed.
    """

    def __init__(
        self,
        device: torch.device,
        lowers: Callable[[Any], bool],
        backend: str,
        decompositions: dict[Any, Callable[..., Any]] | None = None,
        replays: bool = True,
    ) -> None:
        super().__init__()
        private.needed()
        self.replays = replays
        self.device, self.lowers, self.backend, self.decompositions = device, lowers, backend, decompositions
        self.frame = Frame(None)
        self.captured: dict[int, tuple[torch.Tensor, Traced]] = {}
        self.laid_out: set[Node] = set()  # inputs of which as_strided was taken
        self.places: dict[int, Traced] = {}  # indices that are tensors, by the integers that represent them
        self.numbers: dict[Any, int] = {}  # these integers, by the operations that computed the tensors

    # What a function is given and gives ------------------------------------------------------------------------------------

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the context, record this thread's operators."""
        from funrl.compiler._indexing import Indexing

        _STATE.trace = self
        try:
            with (
                torch.inference_mode(False),
                private.replayed_views(self.replays),
                private.on_wrapping(self._wrapped),
                Indexing(),
                self,
            ):
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
        for step in x.steps:
            node = self.step(node, step)
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
                f"{line()}a tensor of an outer vmap or grad ({describe(x)}) is used in a traced function; hand it in as an argument"
            )
        if x.device.type != self.device.type and x.ndim:
            raise TraceError(
                f"{line()}a tensor on {x.device} ({describe(x)}) is used in a program that runs on {self.device}; move it there first"
            )
        root = self.frame
        while root.parent is not None:
            root = root.parent
        # A transform that is at work wraps what is made.
        node = root.graph.input(private.unwrapped(torch.empty(x.shape, dtype=x.dtype, device="meta")))
        traced = Traced.make(node.meta, Memory(node, root, "a tensor from outside the function"), (), node, self.device)
        self.captured[id(x)] = (x, traced)
        return traced

    def _wrapped(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tensor that vmap and grad wrap: their rules depend on its strides, which have to be those of the traced tensor."""
        plain = not isinstance(x, Traced) and not private.is_transformed(x)
        return self.capture(x) if plain and x.device.type == self.device.type else x

    # Recording -------------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plan = _PLANS.get(func)
        if plan is None:
            from funrl.compiler._operators import plan as found

            plan = _PLANS[func] = found(func)
        return plan(self, func, args, kwargs or {})

    def emit(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
        """Record an operator on nodes of the present graph."""
        node = self.frame.graph.add(func, args, kwargs, None)
        node.meta = on_meta(func, replaced(args, Node, _meta_of), replaced(kwargs, Node, _meta_of))
        return node

    def result(self, node: Node, place: int | None) -> Node:
        """Return one of several results of a node, or the node itself where ``place`` is None."""
        return node if place is None else self.frame.graph.add("item", (node, place), {}, node.meta[place])

    def step(self, base: Node, step: tuple[Any, ...]) -> Node:
        """Record the step from a tensor to a view of it."""
        func, args, kwargs, place = step
        if func is aten.index_select.default:  # no view for torch, so a backend may decompose it
            return self.node(self.pure(func, (self.fresh(base), *args), kwargs))
        return self.result(self.emit(func, (base, *args), kwargs), place)

    def pure(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Record an operator that writes nothing and whose results are no views."""
        if self.lowers(func):
            return self.recorded(func, args, kwargs)
        given: set[int] = set()
        replaced((args, kwargs), Traced, lambda x: given.add(id(x.memory)))
        # A write to a result must not change an argument of the operator.
        return replaced(self.decomposed(func, args, kwargs), Traced, lambda x: self.fresh(self.node(x)) if id(x.memory) in given else x)

    def recorded(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Record an operator as it is."""
        given = replaced(args, torch.Tensor, self.node), replaced(kwargs, torch.Tensor, self.node)
        try:
            node = self.emit(func, *given)
        except NotImplementedError:  # torch cannot infer the shape of the result
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
            given = ", ".join(describe(x) for x in args if isinstance(x, torch.Tensor))
            raise TraceError(
                f"{line()}the operator {func} ({given}) has no lowering for backend='{self.backend}'"
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
        if private.is_composite(func):
            return self.decomposed(func, args, kwargs)
        node = self.frame.graph.add(func, (self.node(base), *args[1:]), kwargs, None)
        meta = node.meta = on_meta(func, (base.meta, *args[1:]), kwargs)

        def one(view: torch.Tensor, place: int | None) -> Traced:
            steps = (*base.steps, (func, args[1:], kwargs, place))
            return Traced.make(view, base.memory, steps, self.result(node, place), self.device)

        return one(meta, None) if isinstance(meta, torch.Tensor) else type(meta)([one(x, i) for i, x in enumerate(meta)])

    def row(self, x: torch.Tensor, dim: int, number: int) -> Traced:
        """Record ``x.select(dim, i)``, a view, where ``i`` is a tensor that an integer represents (:mod:`funrl.compiler._indexing`)."""
        base = x if isinstance(x, Traced) else self.capture(x)
        base.memory.has_rows = True
        dim %= base.ndim
        steps = ((aten.index_select.default, (dim, self.places[number]), {}, None), (aten.squeeze.dim, (dim,), {}, None))
        node = self.step(self.step(self.node(base), steps[0]), steps[1])
        node.meta = on_meta(aten.select.int, (base.meta, dim, 0), {})
        return Traced.make(node.meta, base.memory, (*base.steps, *steps), node, self.device)

    def _as_strided(self, base: Traced, size: Any, stride: Any, offset: int | None = None) -> Traced:
        """Record as_strided, whose arguments refer to the memory and not to the tensor, as operations on the whole memory."""
        if any(func is aten.index_select.default for func, *_ in base.steps):
            raise TraceError(f"{line()}as_strided of a row taken at a tensor index cannot be traced; call .clone() first")
        memory = base.memory.meta
        if base.memory.readonly:
            self.laid_out.add(base.memory.node)
            for x, known in self.captured.values():
                if known.memory is base.memory and not x.is_contiguous():
                    raise TraceError(
                        f"{line()}as_strided of a tensor from outside the function that is not contiguous; call .contiguous() first"
                    )
        offset = base.meta.storage_offset() if offset is None else offset  # pyright: ignore
        order = sorted(range(memory.ndim), key=memory.stride().__getitem__, reverse=True)
        steps: tuple[Any, ...] = () if memory.is_contiguous() else ((aten.permute.default, (order,), {}, None),)
        if not memory.permute(order).is_contiguous() and not memory.is_contiguous():
            raise TraceError(f"{line()}as_strided of a tensor with gaps or overlaps in memory cannot be traced; call .contiguous() first")
        steps = (*steps, (aten.as_strided.default, (list(size), list(stride), offset), {}, None))
        node = self.frame.place(base.memory.node)
        for func, args, kwargs, _ in steps:
            node = self.emit(func, (node, *args), kwargs)
        node.meta = memory.as_strided(size, stride, offset)
        return Traced.make(node.meta, base.memory, steps, node, self.device)

    def write(self, func: Any, args: Any, kwargs: Any, target: torch.Tensor, compute: Callable[[], Node]) -> torch.Tensor:
        """Give ``target`` the value that ``compute`` records, as an in-place operator does."""
        parameter = target.requires_grad and target.is_leaf
        if not isinstance(target, Traced):
            target = self.capture(target)
        memory = target.memory
        reason = memory.readonly or ("" if memory.frame is self.frame else "a tensor from outside the loop's body")
        if reason:
            raise TraceError(
                f"{line()}{func} would change {reason} ({describe(target)}) in place; a traced function changes nothing "
                "that it is given: "
                "compute a new tensor and return it (funrl.compile's donate= lets it take the old one's memory)"
                + ("; an optimizer of torch does this: use torch.func.grad and funrl.optim" if parameter else "")
            )
        if (
            func is aten.copy_.default
            and isinstance(args[1], Traced)
            and args[1].memory is memory
            and same_steps(args[1].steps, target.steps)
        ):
            return target  # x[i] += 1 writes to x[i] and then assigns it to itself
        value = compute()
        if not torch.can_cast(value.meta.dtype, target.dtype) and func is not aten.copy_.default:
            raise RuntimeError(f"result type {value.meta.dtype} can't be cast to the desired output type {target.dtype}")
        if value.meta.shape != target.meta.shape and func is not aten.copy_.default:
            raise RuntimeError(f"output with shape {list(target.shape)} doesn't match the broadcast shape {list(value.meta.shape)}")
        if 0 in target.meta.stride() and any(n > 1 and s == 0 for n, s in zip(target.shape, target.meta.stride(), strict=True)):
            raise RuntimeError(
                f"{line()}{func}: several entries of the written tensor are one place in memory (it was expanded); clone it first"
            )
        if value.meta.dtype != target.dtype:
            value = self.emit(aten._to_copy.default, (value,), {"dtype": target.dtype})
        if value.meta.shape != target.meta.shape:
            value = self.emit(aten.expand.default, (value, list(target.meta.shape)), {})
        value = self._laid_out(value, target.meta)
        # Other views of this memory depend on its layout.
        memory.node = self._laid_out(write_back(self, self.frame.place(memory.node), target.steps, value), memory.meta)
        memory.version += 1
        target.node, target.version = value, memory.version
        return target

    def _laid_out(self, node: Node, meta: torch.Tensor) -> Node:
        """Return a node of the same value, whose memory has the layout of ``meta``."""
        if node.meta.stride() == meta.stride():
            return node
        return self.frame.graph.add(aten.clone.default, (node,), {"memory_format": torch.contiguous_format}, meta)

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

    def call(self, f: Callable[..., Any], tensors: list[torch.Tensor], meta: Any = ()) -> Node:
        """Record a call of Python, whose result is like ``meta``, a meta tensor or ()."""
        if self.backend == "inductor":
            raise TraceError(
                f"{line()}a program that inductor compiles cannot call Python (funrl.debug, funrl.distributed): compile with "
                "backend='xla', or run within funrl.compiler.eager()"
            )
        node = self.frame.graph.add(f, tuple([self.node(x) for x in tensors]), {}, meta)
        self.frame.graph.effects.append(node)
        return node

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


def meta_of_tensor(x: torch.Tensor) -> torch.Tensor:
    """Return a meta tensor with the shape, strides and dtype of a tensor, traced or not."""
    return x.meta if isinstance(x, Traced) else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def transformed(*trees: Any) -> bool:
    """Return True inside a compiled program, or if torch.func transforms a leaf of ``trees``.

    Otherwise values can be read, and kernels without rules for transforms can be used.

    Args:
        *trees: any trees of tensors.

    Example:
        >>> import torch
        >>> transformed(torch.ones(2)), torch.func.vmap(lambda x: x + transformed(x))(torch.zeros(2))
        (False, tensor([1., 1.]))
    """
    if current() is not None:
        return True
    return any(isinstance(x, torch.Tensor) and private.is_transformed(x) for x in tree.leaves(trees))
