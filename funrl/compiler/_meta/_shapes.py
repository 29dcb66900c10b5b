"""Rules of reductions, of operators that gather, scatter, join and sort, and of those that make tensors."""

import math
from typing import Any

import torch

from funrl.compiler._meta._table import broadcast, check, dimension, enter, floating, new, result_type

aten = torch.ops.aten


def _like_first(
    x: torch.Tensor, *args: Any, dtype: torch.dtype | None = None, memory_format: torch.memory_format | None = None, **kwargs: Any
) -> torch.Tensor:
    return new(x.shape, dtype or x.dtype, x if memory_format in (None, torch.preserve_format) else None)


enter(_like_first, "zeros_like", "ones_like", "full_like", "empty_like", overloads=("default",))
enter(_like_first, "_to_copy", "clone", overloads=("default",))
enter(_like_first, "index_put", "slice_scatter", "diagonal_scatter", "fill", "copy")


def _with_dimension(x: torch.Tensor, dim: int, *args: Any, **kwargs: Any) -> torch.Tensor:
    dimension(x, dim)
    return new(x.shape, x.dtype, x)


def _indexed(x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    d = dimension(x, dim)
    check(source.ndim == x.ndim or not x.ndim or not source.ndim, "source and self have to have the same number of dimensions")
    rows = all(n == m for i, (n, m) in enumerate(zip(source.shape, x.shape, strict=False)) if i != d)
    check(rows and (not source.ndim or source.shape[d] == index.numel()), f"source {list(source.shape)} does not fit self {list(x.shape)}")
    check(source.dtype == x.dtype, f"self ({x.dtype}) and source ({source.dtype}) have to have the same dtype")
    return new(x.shape, x.dtype)


def _scatter(x: torch.Tensor, dim: int, index: torch.Tensor, source: Any = 0, **kwargs: Any) -> torch.Tensor:
    d = dimension(x, dim)
    if index.numel() and index.ndim and x.ndim:
        check(index.ndim == x.ndim, "index and self have to have the same number of dimensions")
        fits = all(n <= m for i, (n, m) in enumerate(zip(index.shape, x.shape, strict=True)) if i != d)
        check(fits, f"index {list(index.shape)} is too large for self {list(x.shape)} apart from dimension {dim}")
    if isinstance(source, torch.Tensor):
        check(source.dtype == x.dtype, f"self ({x.dtype}) and src ({source.dtype}) have to have the same dtype")
        if index.numel() and index.ndim and source.ndim:
            check(index.ndim == source.ndim, "index and src have to have the same number of dimensions")
            check(all(n <= m for n, m in zip(index.shape, source.shape, strict=True)), f"index {list(index.shape)} is too large for src")
    return new(x.shape, x.dtype)


def _select_scatter(x: torch.Tensor, source: torch.Tensor, dim: int, index: int) -> torch.Tensor:
    d = dimension(x, dim)
    rest = (*x.shape[:d], *x.shape[d + 1 :])
    if not -x.shape[d] <= index < x.shape[d]:
        raise IndexError(f"index {index} is out of bounds for dimension {dim} with size {x.shape[d]}")
    check(tuple(source.shape) == rest, f"expected src to have a size equal to the slice of self: {list(source.shape)} and {list(rest)}")
    return new(x.shape, x.dtype, x)


def _flip(x: torch.Tensor, dims: Any) -> torch.Tensor:
    for d in dims:
        dimension(x, d)
    return new(x.shape, x.dtype, x)


def _triangle(x: torch.Tensor, diagonal: int = 0) -> torch.Tensor:
    check(x.ndim >= 2, "tril, triu: the tensor must have at least 2 dimensions")
    return new(x.shape, x.dtype)


enter(_with_dimension, "index_fill")
enter(_indexed, "index_copy", "index_add")
enter(_scatter, "scatter", "scatter_add")
enter(_select_scatter, "select_scatter")
enter(_flip, "flip")
enter(_triangle, "tril", "triu", overloads=("default",))


def _cumulated(x: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    dimension(x, dim)
    return new(x.shape, dtype or _whole(x))


enter(_cumulated, "cumsum", "cumprod", overloads=("default",))


def _reduced(x: torch.Tensor, dims: Any, keepdim: bool, dtype: torch.dtype) -> torch.Tensor:
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        taken = set(range(x.ndim))
    else:
        taken = set()
        for d in dims if isinstance(dims, (list, tuple)) else (dims,):
            d = dimension(x, d)
            check(d not in taken, f"dim {d} appears multiple times in the list of dims")
            taken.add(d)
    shape = [1 if i in taken else n for i, n in enumerate(x.shape) if keepdim or i not in taken]
    return new(shape, dtype)


def _whole(x: torch.Tensor) -> torch.dtype:
    return x.dtype if x.dtype.is_floating_point or x.dtype.is_complex else torch.int64


def _sum(x: torch.Tensor, dims: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    return _reduced(x, dims, keepdim, dtype or _whole(x))


def _sum_all(x: torch.Tensor, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    return new((), dtype or _whole(x))


enter(_sum, "sum", overloads=("dim_IntList",))
enter(_sum_all, "sum", "prod", overloads=("default",))


def _mean(x: torch.Tensor, dims: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    if not ((dtype or x.dtype).is_floating_point or (dtype or x.dtype).is_complex):
        raise RuntimeError(
            f"mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. Got: {x.dtype}"
        )
    return _reduced(x, dims, keepdim, dtype or x.dtype)


enter(_mean, "mean", overloads=("dim", "default"))


def _extreme(x: torch.Tensor, dims: Any = (), keepdim: bool = False) -> torch.Tensor:
    if not all(x.shape[d] for d in ((dims if isinstance(dims, (list, tuple)) else (dims,)) or range(x.ndim)) if x.ndim):
        raise RuntimeError("amax(), amin() of an empty dimension have no value")
    return _reduced(x, dims, keepdim, x.dtype)


def _test(x: torch.Tensor, dims: Any = None, keepdim: bool = False) -> torch.Tensor:
    return _reduced(x, dims, keepdim, torch.uint8 if x.dtype == torch.uint8 else torch.bool)


enter(_extreme, "amax", "amin", overloads=("default",))
enter(_test, "any", "all", overloads=("default", "dim", "dims"))


def _norm(x: torch.Tensor, ord: Any = 2, dims: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    return _reduced(x, dims, keepdim, (dtype or x.dtype).to_real())


enter(_norm, "linalg_vector_norm", overloads=("default",))


def _log_sum(x: torch.Tensor, dims: Any, keepdim: bool = False) -> torch.Tensor:
    return _reduced(x, dims, keepdim, floating(x.dtype))


def _factored(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return new(x.shape, x.dtype), new((*x.shape[:-2], min(x.shape[-2:])), x.dtype)


enter(_log_sum, "logsumexp", overloads=("default",))
enter(_like_first, "_logcumsumexp", overloads=("default",))
enter(_like_first, "_conj", "_neg_view", overloads=("default",))  # without the bit by which torch puts them off
enter(_factored, "geqrf", overloads=("default",))


def _stack(tensors: Any, dim: int = 0) -> torch.Tensor:
    first = tensors[0]
    if any(x.shape != first.shape for x in tensors):
        raise RuntimeError(f"stack expects each tensor to be equal size, but got {[list(x.shape) for x in tensors]}")
    dim = dim % (first.ndim + 1)
    return new((*first.shape[:dim], len(tensors), *first.shape[dim:]), result_type(*tensors))


enter(_stack, "stack", overloads=("default",))


def _cat(tensors: Any, dim: int = 0) -> torch.Tensor:
    kept = [x for x in tensors if tuple(x.shape) != (0,)] or list(tensors)
    first = kept[0]
    dim = dim % first.ndim
    if any(x.ndim != first.ndim or x.shape[:dim] + x.shape[dim + 1 :] != first.shape[:dim] + first.shape[dim + 1 :] for x in kept):
        raise RuntimeError(f"Sizes of tensors must match except in dimension {dim}: got {[list(x.shape) for x in tensors]}")
    return new((*first.shape[:dim], sum(x.shape[dim] for x in kept), *first.shape[dim + 1 :]), result_type(*tensors))


enter(_cat, "cat", overloads=("default",))


def _gather(x: torch.Tensor, dim: int, index: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    _scatter(x, dim, index)
    return new(index.shape, x.dtype)


def _index_select(x: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    shape = list(x.shape)
    if shape:
        shape[dim] = index.numel()
    return new(shape, x.dtype)


enter(_gather, "gather", overloads=("default",))
enter(_index_select, "index_select", overloads=("default",))


def _variance(x: torch.Tensor, dims: Any = None, *, correction: Any = None, keepdim: bool = False) -> torch.Tensor:
    return _reduced(x, dims, keepdim, x.dtype.to_real())


enter(_variance, "var", "std", overloads=("correction",))


def _index(x: torch.Tensor, indices: Any) -> torch.Tensor:
    places = [i for i, index in enumerate(indices) if index is not None]
    inner = broadcast(*(indices[i] for i in places))
    # Indices next to each other stand where they are; others come first.
    together = places == list(range(places[0], places[-1] + 1))
    before = [n for i, n in enumerate(x.shape) if i not in places and (not together or i < places[0])]
    after = [n for i, n in enumerate(x.shape) if i not in places and together and i > places[0]]
    return new((*before, *inner, *after) if together else (*inner, *before), x.dtype)


enter(_index, "index", overloads=("Tensor",))


def _linspace(start: Any, end: Any, steps: int, *, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return new((steps,), dtype or torch.get_default_dtype())


enter(_linspace, "linspace", overloads=("default",))


def _argument(x: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> torch.Tensor:
    if (not x.numel() and dim is None) or (dim is not None and x.ndim and not x.shape[dim]):
        raise IndexError("argmax(), argmin(): Expected reduction dim to be specified for input.numel() == 0.")
    return _reduced(x, dim, keepdim, torch.int64)


enter(_argument, "argmax", "argmin", overloads=("default",))


def _sorted(x: torch.Tensor, dim: int = -1, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    dimension(x, dim)
    return new(x.shape, x.dtype, x), new(x.shape, torch.int64, x)


enter(_sorted, "sort", overloads=("default", "stable"))


def _chosen(x: torch.Tensor, dim: int, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    if x.ndim and not x.shape[dim]:
        raise IndexError(f"max(), min(): Expected reduction dim {dim} to have non-zero size.")
    return _reduced(x, dim, keepdim, x.dtype), _reduced(x, dim, keepdim, torch.int64)


enter(_chosen, "max", "min", overloads=("dim",))


def _full(shape: Any, value: Any = 0.0, *, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return new(shape, dtype or torch.tensor(value).dtype)


def _empty(shape: Any, *, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return new(shape, dtype or torch.get_default_dtype())


def _scalar(value: Any, *, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return new((), dtype or torch.get_default_dtype())


def _new_of(x: torch.Tensor, shape: Any, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return new(shape, dtype or x.dtype)


def _arange(*bounds: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    start, end, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    whole = all(isinstance(x, int) for x in bounds)
    if step == 0 or (end - start) * step < 0:
        raise RuntimeError("upper bound and larger bound inconsistent with step sign" if step else "step must be nonzero")
    length = -((start - end) // step) if whole else math.ceil((end - start) / step)
    return new((length,), dtype or (torch.int64 if whole else torch.get_default_dtype()))


enter(_full, "full", overloads=("default",))
enter(_empty, "zeros", "ones", overloads=("default",))
enter(_empty, "empty", overloads=("memory_format",))
enter(_scalar, "scalar_tensor", overloads=("default",))
enter(_new_of, "new_zeros", "new_ones", "new_empty", "new_full", overloads=("default",))
enter(_arange, "arange", overloads=("default", "start", "start_step"))
