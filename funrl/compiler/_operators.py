"""Treatment of each operator in a trace: recorded in the graph, a view, an in-place write by its functional twin, or an error."""

from collections.abc import Callable
from typing import Any

import torch

from funrl.compiler import _torch_private as private
from funrl.compiler._errors import TraceError, line, value_asked
from funrl.compiler._graph import replaced
from funrl.compiler._meta import takes_device
from funrl.compiler._trace import Trace, meta_of_tensor
from funrl.compiler._traced import Traced

aten = torch.ops.aten


def plan(func: Any) -> Callable[[Trace, Any, Any, Any], Any]:
    """Return the treatment of an operator by a trace: a function ``(trace, operator, args, kwargs) -> results``."""
    schema, tags = private.schema(func), func.tags
    asking = (aten._local_scalar_dense.default, aten.item.default, aten.equal.default, aten._is_all_true.default)
    if func in asking or torch.Tag.data_dependent_output in tags:
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
    if func is aten.multi_margin_loss.default:
        return _classified
    if func in (aten.native_batch_norm.default, aten.cudnn_batch_norm.default, aten.miopen_batch_norm.default):
        return _batch_norm
    if func in (aten.select.int, aten.select_backward.default, aten.select_scatter.default):
        return _select
    if not any(str(result.type) in ("Tensor", "List[Tensor]", "Optional[Tensor]") for result in schema.returns):
        return lambda trace, func, args, kwargs: func(*replaced(args, torch.Tensor, meta_of_tensor), **kwargs)
    if any(result.alias_info is not None for result in schema.returns):
        return Trace.view
    if takes_device(func):
        return _make
    return Trace.pure


def _select(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    """Record a selected row, its gradient, or a tensor with a replaced row; the index may be an integer that represents a tensor."""
    x, *others, dim, i = args
    if i not in trace.places:
        return trace.view(func, args, kwargs) if func is aten.select.int else trace.pure(func, args, kwargs)
    if func is aten.select.int:
        return trace.row(x, dim, i)
    if func is aten.select_backward.default:
        base = trace.pure(aten.new_zeros.default, (x, *others), {})
        row, write = x, aten.index_add.default
    else:
        base, (row,), write = x, others, aten.index_copy.default
    dim %= base.ndim
    return trace.pure(write, (base, dim, trace.places[i], trace.view(aten.unsqueeze.default, (row, dim), {})), {})


def _make(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    device = kwargs.get("device")
    if device is not None and torch.device(device).type != trace.device.type:
        if torch.device(device).type == "meta":
            return func(*replaced(args, torch.Tensor, meta_of_tensor), **kwargs)
        raise TraceError(f"{line()}{func} makes a tensor on {device} in a program that runs on {trace.device}; a program has one device")
    if func is aten._to_copy.default and not isinstance(args[0], torch.Tensor):  # torch passes numbers as such
        return trace.pure(
            aten.scalar_tensor.default, args, {"dtype": kwargs.get("dtype") or torch.tensor(args[0]).dtype, "device": trace.device}
        )
    if func is aten._efficientzerotensor.default:  # a tangent of zeros, which torch keeps without memory
        # One of bools is subtracted, as torch lets nothing else of bools be.
        dtype = torch.uint8 if kwargs.get("dtype") == torch.bool else kwargs.get("dtype")
        return trace.pure(aten.zeros.default, args, {**kwargs, "dtype": dtype})
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
    """Return a function that records the functional twin of an in-place operator, or of one with ``out=``."""
    schema = private.schema(func)
    packet = func.overloadpacket
    name = schema.name.split("::")[1]
    written = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if func is aten.copy_.default:
        return lambda trace, func, args, kwargs: trace.write(func, args, kwargs, args[0], lambda: trace.node(args[1]))
    if name == "_index_put_impl_":
        return lambda trace, func, args, kwargs: _plan_of_write(aten.index_put_.default)(trace, aten.index_put_.default, args[:4], kwargs)
    if name.endswith("_") and not name.endswith("__") and len(written) == 1 and hasattr(aten, name[:-1]):
        twins = getattr(aten, name[:-1])
        twin = next((twin for overload in twins.overloads() if _types(twin := getattr(twins, overload)) == _types(func)), None)
        if twin is not None:

            def in_place(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
                return trace.write(func, args, kwargs, args[0], lambda: trace.node(trace.pure(twin, args, kwargs)))

            return in_place
    outs = [a.name for a in written]
    if all(a.kwarg_only for a in written):
        taken = [(a.name, str(a.type)) for a in schema.arguments if a.name not in outs]
        for overload in packet.overloads():
            twin = getattr(packet, overload)
            if [(a.name, str(a.type)) for a in private.schema(twin).arguments if a.name not in _PLACES] == [
                a for a in taken if a[0] not in _PLACES
            ]:
                return _into(twin, outs)
    twin = getattr(getattr(aten, f"{name}_functional", None), private.overload(func), None)
    if twin is not None:
        return _and_writes(twin, [schema.arguments.index(a) for a in written])
    return _refuse_write


def _types(operator: Any) -> list[str]:
    return [str(a.type) for a in private.schema(operator).arguments]


def _and_writes(twin: Any, places: list[int]) -> Callable[[Trace, Any, Any, Any], Any]:
    """Return a function that records the functional twin of an operator that returns results and also writes to arguments.

    This is batch normalisation in training, which updates its running averages.
    """
    training = next((i for i, a in enumerate(private.schema(twin).arguments) if a.name == "training"), None)

    def run(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
        *results, mean, variance = trace.pure(twin, args, kwargs)
        if training is None or args[training]:
            for i, value in zip(places, (mean, variance), strict=True):
                trace.write(func, args, kwargs, args[i], lambda value=value: trace.node(value))
        return tuple(results)

    return run


def _batch_norm(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    """Record a batch normalisation that updates its averages, although its schema does not say so."""
    x, weight, bias, mean, variance, *options = args
    with trace:
        if mean is None:
            out = aten._native_batch_norm_legit.no_stats(x, weight, bias, *options)
        else:
            out = aten._native_batch_norm_legit.default(x, weight, bias, mean, variance, *options)
        return out if func is aten.native_batch_norm.default else (*out, x.new_empty(0, dtype=torch.uint8))


def _classified(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    """Record a loss of classes, whose dtype torch's decomposition does not check."""
    if args[1].dtype != torch.int64:
        raise RuntimeError(f"{func}: expected a target of dtype int64, the classes, but found {args[1].dtype}")
    return trace.pure(func, args, kwargs)


def _determinant(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    """Record a determinant, whose factors are of the matrix transposed where it is contiguous, and of itself where it is not.

    Derivatives depend on the same flag, which an executable does not have: a matrix that is not contiguous is passed as the transpose of a
    contiguous one.
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
                    f"{line()}out= of {func} has shape {list(target.shape)}, its result {list(value.shape)}; they have to agree"
                )
            trace.write(aten.copy_.default, (target, value), {}, target, lambda value=value: trace.node(value))
        return places[0] if len(places) == 1 else tuple(places)

    return run


def _change_shape(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator such as squeeze_, that makes a tensor a view of itself."""
    name = private.schema(func).name.split("::")[1]
    target = args[0]
    twin = aten.transpose.int if name == "transpose_" else getattr(getattr(aten, name[:-1], None), private.overload(func), None)
    if twin is None or not isinstance(target, Traced) or name in ("resize_", "set_", "resize_as_"):
        return _refuse_write(trace, func, args, kwargs)
    changed = trace.view(twin, args, kwargs)
    with trace:
        target.data = changed
    target.become(changed)
    return target


def _refuse_write(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    raise TraceError(f"{line()}{func} writes in place in a way that cannot be traced; use an operator that returns a new tensor")


def _refuse_value(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [x for x in args if isinstance(x, torch.Tensor)]
    if func is aten._is_all_true.default:
        remedy = "Use funrl.distributions, or torch's with validate_args=False. "
        raise value_asked(tensors[0], "torch.distributions, which checks its arguments", remedy)
    raise value_asked(tensors[0], "bool(), int(), float(), .item() or `if`" if func is not aten.equal.default else "torch.equal")


def _refuse_random(trace: Trace, func: Any, args: Any, kwargs: Any) -> Any:
    given = {a.name: x for a, x in zip(private.schema(func).arguments, args, strict=False)} | kwargs
    without = 0 if "dropout_p" in [a.name for a in private.schema(func).arguments] else 1
    if given.get("dropout_p", without) == 0 or not given.get("train", True):
        return trace.pure(func, args, kwargs)  # nothing is drawn
    raise TraceError(
        f"{line()}{func} draws from torch's global generator; a compiled program would repeat one draw for ever: draw "
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
        f"{line()}the shape of what {func} gives depends on values, which a traced tensor does not have; use a mask with "
        "torch.where, or a fixed "
        "number of rows"
    )


def _places(trace: Trace, mask: torch.Tensor) -> torch.Tensor | None:
    """Return the places of the entries of a constant that are not zero; None if it is not a constant."""
    node = trace.node(mask)
    return node.args[0].nonzero() if node.op == "constant" else None
