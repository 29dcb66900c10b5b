"""Rules of operators whose results have a shape of their own or that of their first tensor: joins, indices, writes, new tensors."""

import math
from typing import Any

import torch

from funrl.compiler._meta._table import alike, averaged, broadcast, check, enter, enter_general, new, probed, unlaid

aten = torch.ops.aten

enter_general(alike, "elu_backward", "flip", "floor_divide", "hardsigmoid_backward", "hardswish", "hardswish_backward", "hardtanh_backward")
enter_general(alike, "leaky_relu_backward", "log_sigmoid_backward", "log_sigmoid_forward", "mish_backward", "softplus_backward", "sort")
enter_general(alike, "floor_divide", "rsub", "sort", overloads=("Scalar", "Tensor", "stable"))
enter_general(averaged, "var", "std", "var_mean", "std_mean", overloads=("correction",))
enter_general(unlaid, "_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data")
enter_general(unlaid, "cumsum", "cumprod", "tril", "triu", "native_dropout_backward", "mvlgamma")
enter_general(unlaid, "masked_fill", overloads=("Scalar", "Tensor"))


def _like_first(
    x: torch.Tensor, *args: Any, dtype: torch.dtype | None = None, memory_format: torch.memory_format | None = None, **kwargs: Any
) -> torch.Tensor:
    return new(x.shape, dtype or x.dtype, x if memory_format in (None, torch.preserve_format) else None)


enter(_like_first, "zeros_like", "ones_like", "full_like", "empty_like", "_to_copy", "clone", "_logcumsumexp")
enter(_like_first, "_conj", "_neg_view")  # without the bit by which torch puts them off
enter(_like_first, "index_put", "slice_scatter", "diagonal_scatter", "copy")
enter(_like_first, "fill", overloads=("Scalar", "Tensor"))


def _index_fill(operator: Any, x: torch.Tensor, *args: Any) -> torch.Tensor:
    probed(operator, (x, *args), {}, 0)
    return new(x.shape, x.dtype, x)


def _indexed(operator: Any, x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    probed(operator, (x, dim, index, source), kwargs, 0)
    d = dim % max(x.ndim, 1)
    rows = all(n == m for i, (n, m) in enumerate(zip(source.shape, x.shape, strict=False)) if i != d)
    check(rows and (not source.ndim or source.shape[d] == index.numel()), f"source {list(source.shape)} does not fit self {list(x.shape)}")
    return new(x.shape, x.dtype)


def _scatter(operator: Any, x: torch.Tensor, dim: int, index: torch.Tensor, source: Any = 0, *args: Any, **kwargs: Any) -> torch.Tensor:
    probed(operator, (x, dim, index, source, *args), kwargs, 0)
    if index.numel() and index.ndim and x.ndim:
        fits = all(n <= m for i, (n, m) in enumerate(zip(index.shape, x.shape, strict=True)) if i != dim % x.ndim)
        check(fits, f"index {list(index.shape)} is too large for self {list(x.shape)} apart from dimension {dim}")
    if isinstance(source, torch.Tensor) and index.numel() and index.ndim and source.ndim:
        check(all(n <= m for n, m in zip(index.shape, source.shape, strict=True)), f"index {list(index.shape)} is too large for src")
    return new(x.shape, x.dtype)


def _gather(operator: Any, x: torch.Tensor, dim: int, index: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    probed(operator, (x, dim, index), kwargs, 0)
    _scatter(aten.scatter.value, x, dim, index)
    return new(index.shape, x.dtype)


def _index_select(operator: Any, x: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    probed(operator, (x, dim, index), {}, 0)
    shape = list(x.shape)
    if shape:
        shape[dim] = index.numel()
    return new(shape, x.dtype)


enter_general(_index_fill, "index_fill", overloads=("int_Scalar", "int_Tensor"))
enter_general(_indexed, "index_copy", "index_add")
enter_general(_scatter, "scatter", "scatter_add", overloads=("src", "value", "reduce", "value_reduce", "default"))
enter_general(_gather, "gather")
enter_general(_index_select, "index_select")


def _select_scatter(x: torch.Tensor, source: torch.Tensor, dim: int, index: int) -> torch.Tensor:
    if not -x.ndim <= dim < x.ndim or not -x.shape[dim] <= index < x.shape[dim]:
        raise IndexError(f"index {index} of dimension {dim} is out of bounds for a tensor {list(x.shape)}")
    rest = [n for i, n in enumerate(x.shape) if i != dim % x.ndim]
    check(list(source.shape) == rest, f"expected src to have a size equal to the slice of self: {list(source.shape)} and {rest}")
    return new(x.shape, x.dtype, x)


def _index(x: torch.Tensor, indices: Any) -> torch.Tensor:
    places = [i for i, index in enumerate(indices) if index is not None]
    inner = broadcast(*(indices[i] for i in places))
    # Indices next to each other stand where they are; others come first.
    together = places == list(range(places[0], places[-1] + 1))
    before = [n for i, n in enumerate(x.shape) if i not in places and (not together or i < places[0])]
    after = [n for i, n in enumerate(x.shape) if i not in places and together and i > places[0]]
    return new((*before, *inner, *after) if together else (*inner, *before), x.dtype)


def _back(grad: torch.Tensor, shape: Any, *place: Any) -> torch.Tensor:
    return new(shape, grad.dtype)


def _repeat(x: torch.Tensor, repeats: Any) -> torch.Tensor:
    check(len(repeats) >= x.ndim, "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    check(min(repeats, default=0) >= 0, f"Repeats cannot be negative, found {list(repeats)}")
    shape = (*(1,) * (len(repeats) - x.ndim), *x.shape)
    return new([n * m for n, m in zip(shape, repeats, strict=True)], x.dtype)


def _factored(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return new(x.shape, x.dtype), new((*x.shape[:-2], min(x.shape[-2:])), x.dtype)


enter(_select_scatter, "select_scatter")
enter(_index, "index", overloads=("Tensor",))
enter(_back, "select_backward", "slice_backward", "diagonal_backward")
enter(_repeat, "repeat")
enter(_factored, "geqrf")


def _stack(operator: Any, tensors: Any, dim: int = 0) -> torch.Tensor:
    first = tensors[0]
    if any(x.shape != first.shape for x in tensors):
        raise RuntimeError(f"stack expects each tensor to be equal size, but got {[list(x.shape) for x in tensors]}")
    dim = dim % (first.ndim + 1)
    return new((*first.shape[:dim], len(tensors), *first.shape[dim:]), probed(operator, (tensors,), {}).dtype)


def _cat(operator: Any, tensors: Any, dim: int = 0) -> torch.Tensor:
    kept = [x for x in tensors if tuple(x.shape) != (0,)] or list(tensors)
    first = kept[0]
    dim = dim % first.ndim
    if any(x.ndim != first.ndim or x.shape[:dim] + x.shape[dim + 1 :] != first.shape[:dim] + first.shape[dim + 1 :] for x in kept):
        raise RuntimeError(f"Sizes of tensors must match except in dimension {dim}: got {[list(x.shape) for x in tensors]}")
    shape = (*first.shape[:dim], sum(x.shape[dim] for x in kept), *first.shape[dim + 1 :])
    return new(shape, probed(operator, (tensors, dim), {}).dtype)


enter_general(_stack, "stack")
enter_general(_cat, "cat")


def _made(shape: Any, value: Any = 0.0, *, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return new(shape, dtype or torch.tensor(value).dtype)


def _scalar(value: Any, *, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return new((), dtype or torch.get_default_dtype())


def _new_of(x: torch.Tensor, shape: Any, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return new(shape, dtype or x.dtype)


def _linspace(start: Any, end: Any, steps: int, *, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return new((steps,), dtype or torch.get_default_dtype())


def _arange(*bounds: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    start, end, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    whole = all(isinstance(x, int) for x in bounds)
    if step == 0 or (end - start) * step < 0:
        raise RuntimeError("upper bound and larger bound inconsistent with step sign" if step else "step must be nonzero")
    length = -((start - end) // step) if whole else math.ceil((end - start) / step)
    return new((length,), dtype or (torch.int64 if whole else torch.get_default_dtype()))


enter(_made, "full", "zeros", "ones", "empty", overloads=("default", "memory_format"))
enter(_scalar, "scalar_tensor")
enter(_new_of, "new_zeros", "new_ones", "new_empty", "new_full")
enter(_linspace, "linspace")
enter(_arange, "arange", overloads=("default", "start", "start_step"))
