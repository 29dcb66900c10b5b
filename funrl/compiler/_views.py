"""Writes to views: the value of a memory after a write to one of its views."""

from typing import Any

import torch

from funrl.compiler import _torch_private as private

aten = torch.ops.aten

# Views that are the whole of their base.
IDENTITIES = frozenset({aten.alias.default, aten.detach.default})


def same_steps(steps: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Return True if two views of a memory are known to have the same entries in the same order."""
    return len(steps) == len(others) and all(
        one[0] is other[0] and one[2:] == other[2:] and len(one[1]) == len(other[1]) and all(map(_same, one[1], other[1]))
        for one, other in zip(steps, others, strict=True)
    )


def _same(x: Any, y: Any) -> bool:
    return x is y or (not isinstance(x, torch.Tensor) and not isinstance(y, torch.Tensor) and x == y)


def write_back(trace: Any, base: Any, steps: tuple[Any, ...], value: Any) -> Any:
    """Return the node of a memory after its view was written.

    Args:
        trace: the trace.
        base: the memory's node before.
        steps: the views from the memory to the written tensor, as in :class:`Traced`.
        value: the node of the view's new value.
    """
    bases = [base] if steps else []
    for step in steps[:-1]:
        bases.append(trace.step(bases[-1], step))
    for around, (func, args, kwargs, place) in zip(reversed(bases), reversed(steps), strict=True):
        value = _inverse(trace, func, around, value, args, kwargs, place)
    return value


def _inverse(trace: Any, func: Any, base: Any, value: Any, args: Any, kwargs: Any, place: int | None) -> Any:
    shape = list(base.meta.shape)
    name = private.schema(func).name.split("::")[1]
    given = {a.name: x for a, x in zip(private.schema(func).arguments[1:], args, strict=False)} | kwargs
    dim = given.get("dim", 0)
    dim = dim % max(len(shape), 1) if isinstance(dim, int) else dim

    def emit(operator: Any, *args: Any, **kwargs: Any) -> Any:
        return trace.emit(operator, args, kwargs)

    if name == "select":
        return emit(aten.select_scatter.default, base, value, dim, given["index"])
    if name == "index_select":  # one row, at an index that is a tensor
        given = trace.fresh(base), dim, given["index"], trace.fresh(value)
        return trace.node(trace.pure(aten.index_copy.default, given, {}))
    if name == "slice":
        return emit(aten.slice_scatter.default, base, value, dim, given.get("start"), given.get("end"), given.get("step", 1))
    if name == "diagonal":
        return emit(aten.diagonal_scatter.default, base, value, given.get("offset", 0), given.get("dim1", 0), given.get("dim2", 1))
    if name == "as_strided":
        return emit(aten.as_strided_scatter.default, base, value, given["size"], given["stride"], given.get("storage_offset"))
    if name in ("split", "split_with_sizes", "unbind", "chunk"):
        if name == "unbind":
            return emit(aten.select_scatter.default, base, value, dim, place)
        sizes = given.get("split_sizes") if name == "split_with_sizes" else None
        size = given.get("split_size", 0)
        start = sum(sizes[:place]) if sizes is not None else size * (place or 0)
        return emit(aten.slice_scatter.default, base, value, dim, start, start + value.meta.shape[dim])
    if name in ("permute", "transpose", "t", "swapaxes", "movedim", "numpy_T", "mT"):
        # Where each dimension of the view comes from, read off a tensor of distinct strides.
        ramp = torch.empty([2] * len(shape), device="meta")
        order = [ramp.stride().index(s) for s in func(ramp, *args, **kwargs).stride()] if len(shape) > 1 else list(range(len(shape)))
        return emit(aten.permute.default, value, [order.index(i) for i in range(len(order))])
    if name == "expand":
        return emit(aten.reshape.default, value, shape)  # torch refuses a write to entries that share memory
    if name in ("_conj", "_neg_view"):  # its own inverse
        return emit(func, value)
    if name == "unfold":
        raise RuntimeError("a write to an unfolded tensor cannot be traced; write to the tensor itself")
    if base.meta.dtype != value.meta.dtype:  # a view of the bits
        value = emit(aten.view.dtype, value, base.meta.dtype)
    return emit(aten.reshape.default, value, shape)
