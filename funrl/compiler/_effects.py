"""Calls of Python functions from a running program: for their side effects, or for a tensor that they return."""

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import torch

from funrl.compiler import _torch_private as private
from funrl.compiler._graph import Loop, Node, flat_nodes, replaced
from funrl.compiler._trace import current
from funrl.compiler._traced import Traced


def effect(f: Callable[..., Any], *tensors: torch.Tensor) -> None:
    """Call ``f(*tensors)`` at run time with the present values of the tensors, once for each instance of vmap.

    A program of XLA makes the call while it runs; an exception of ``f`` is raised after the end of the program.

    Args:
        f: a function of tensors; its result is ignored.
        tensors: its arguments.

    Raises:
        TraceError: in a program compiled by inductor.

    Example:
        >>> seen = []
        >>> effect(lambda x: seen.append(x.item()), torch.tensor(2.0))
        >>> seen
        [2.0]
    """
    _bind(f, [private.heard(x) for x in tensors], 0)


def elementwise_call(f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return ``f(x)``, which Python computes at run time, in the order of all such calls; the result carries no gradient.

    Under vmap there is one call with the tensor of all instances. A program of XLA makes the call while it runs; an exception of ``f`` is
    raised after the end of the program, and later calls of ``f`` are left out.

    Args:
        f: a function from a tensor on the CPU to a tensor of the same shape and dtype, which treats each element by itself. It may
            neither change nor keep its argument, whose memory a program uses again.
        x: a tensor.

    Raises:
        TypeError: if ``f`` returns another shape or dtype.
        TraceError: in a program compiled by inductor.

    Example:
        >>> elementwise_call(lambda x: 2 * x, torch.tensor([1.0, 2.0]))
        tensor([2., 4.])
    """
    needed = private.needed()
    if needed.peek_interpreter_stack() is None:
        trace, call = current(), ElementwiseCall(f)
        return call(x) if trace is None else trace.fresh(trace.call(call, [x], torch.empty(x.shape, dtype=x.dtype, device="meta")))
    interpreter = needed.retrieve_current_functorch_interpreter()
    level, dim = interpreter.level(), None
    if interpreter.key() == needed.TransformType.Vmap:
        (x,), (dim,) = needed.unwrap_batched((x,), level)
    else:
        x = needed._unwrap_for_grad(x, level)
    with interpreter.lower():
        result = elementwise_call(f, x)
    return result if dim is None else needed.wrap_batched((result,), (dim,), level)[0]


def _bind(f: Callable[..., Any], tensors: list[torch.Tensor], batch_dims: int) -> None:
    needed = private.needed()
    if needed.peek_interpreter_stack() is None:
        trace, call = current(), Effect(f, batch_dims)
        if trace is None:
            call(*tensors)
        else:
            trace.call(call, tensors)
        return
    interpreter = needed.retrieve_current_functorch_interpreter()
    level = interpreter.level()
    if interpreter.key() == needed.TransformType.Vmap:
        size = interpreter.batch_size()
        values, dims = needed.unwrap_batched(tuple(tensors), level)
        tensors = [x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in zip(values, dims, strict=True)]
        batch_dims += 1
    else:
        tensors = [needed._unwrap_for_grad(x, level) for x in tensors]
    with interpreter.lower():
        _bind(f, tensors, batch_dims)


class Effect:
    """A function that is called for each instance of a batch.

    Args:
        f: a function of tensors.
        batch_dims: the number of leading dimensions of its arguments that count instances.
    """

    def __init__(self, f: Callable[..., Any], batch_dims: int) -> None:
        self.f, self.batch_dims = f, batch_dims
        self.calls: list[Any] = []  # of it, in programs

    def __call__(self, *tensors: torch.Tensor) -> Any:
        shape = tensors[0].shape[: self.batch_dims] if tensors else ()
        for place in itertools.product(*map(range, shape)):
            self.f(*(x.detach()[place] for x in tensors))


class ElementwiseCall(Effect):
    """A function of one tensor that returns a tensor like it."""

    def __init__(self, f: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(f, 0)

    def __call__(self, *tensors: torch.Tensor) -> Any:
        return self.checked(tensors[0].detach().clone(memory_format=torch.contiguous_format))

    def checked(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``f(x)`` for a contiguous tensor without gradient."""
        result = self.f(x)
        if not isinstance(result, torch.Tensor) or result.shape != x.shape or result.dtype != x.dtype:
            found = f"{result.dtype} {list(result.shape)}" if isinstance(result, torch.Tensor) else type(result).__name__
            raise TypeError(f"elementwise_call: f: expected to return a tensor like its argument, {x.dtype} {list(x.shape)}, got {found}")
        return result


def instances(x: torch.Tensor) -> list[Any]:
    """Return an identity of the value of a tensor [] (or of each instance under vmap): a number, or the operations that computed it."""
    x = private.unwrapped(x)
    return [_origin(x.node)] if isinstance(x, Traced) else x.reshape(-1).tolist()


def from_around_a_loop(x: torch.Tensor) -> bool:
    """Return whether the body of a loop is being traced, and a tensor is the same at each of its steps."""
    trace, x = current(), private.unwrapped(x)
    return trace is not None and trace.frame.parent is not None and (not isinstance(x, Traced) or x.node.graph is not trace.frame.graph)


def _origin(node: Node) -> str:
    """Return a name of a node's value: values of equal computations have the same name."""
    names: dict[int, str] = {}
    stack = [node]
    while stack:
        node = stack[-1]
        missing = [x for x in flat_nodes((node.args, node.kwargs)) if id(x) not in names]
        if missing:
            stack += missing
            continue
        stack.pop()
        names[id(node)] = _name(node, names)
    return names[id(node)]


def _name(node: Node, names: dict[int, str]) -> str:
    op, args = node.op, node.args
    if op == "constant" and args[0].numel() < 100:
        text = f"constant {args[0].dtype} {args[0].tolist()}"
    elif op in ("input", "constant") or isinstance(op, (Loop, Effect)):
        return f"{op} {id(node)}"
    else:
        if op == "item" and args[0].op is torch.ops.aten.unbind.int and not any(args[0].args[1:]):
            op, args = torch.ops.aten.select.int, (args[0].args[0], 0, args[1])  # one of the rows
        text = f"{op} {replaced(args, Node, lambda x: names[id(x)])} {replaced(node.kwargs, Node, lambda x: names[id(x)])}"
    return hashlib.sha256(text.encode()).hexdigest()
