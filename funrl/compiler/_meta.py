"""Shapes, strides and dtypes of what common operators give.

torch's own rules for these are written in Python: a quarter of a millisecond each, and their first use imports Dynamo and sympy, which
takes two seconds. An operator without a rule here takes torch's. The test suite holds the two beside each other.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from funrl.compiler import _torch_private as private

__all__ = ["known", "on_meta", "takes_device"]

aten = torch.ops.aten
Rule = Callable[..., Any]
_RULES: dict[Any, Rule] = {}
_RESULT: dict[Any, torch.dtype] = {}


def known(operator: Any) -> Rule | None:
    """Return what computes the meta tensors of an operator's results from meta tensors, or None where only torch knows."""
    return _RULES.get(operator)


def on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator on meta tensors: what shape, strides and dtype its results have."""
    rule = _RULES.get(func)
    if rule is not None:
        return rule(*args, **kwargs)
    if takes_device(func):
        kwargs = {**kwargs, "device": "meta"}
    with private.no_dispatch():  # this may be called by what no operator has led to, with the trace listening
        return func(*args, **kwargs)


@functools.cache
def takes_device(operator: Any) -> bool:
    """Return whether an operator takes a device."""
    return any(argument.name == "device" for argument in operator._schema.arguments)


def _enter(rule: Rule, *names: str, overloads: tuple[str, ...] = ()) -> None:
    for name in names:
        packet = getattr(aten, name, None)
        if packet is None:
            continue
        for overload in packet.overloads():
            if not overloads or overload in overloads:
                operator = getattr(packet, overload)
                if not operator._schema.is_mutable and "out" not in overload:
                    _RULES[operator] = rule


def _new(shape: Any, dtype: torch.dtype, like: torch.Tensor | None = None) -> torch.Tensor:
    """Return a meta tensor; its dimensions lie in memory in the order of those of ``like``, if that has the same shape."""
    if like is None or like.is_contiguous() or 0 in like.stride() or like.shape != torch.Size(shape):
        return torch.empty(shape, dtype=dtype, device="meta")
    order = sorted(range(like.ndim), key=like.stride().__getitem__, reverse=True)
    return torch.empty_permuted(shape, order, dtype=dtype, device="meta")


def _kind(x: Any) -> Any:
    return (x.dtype, x.ndim > 0) if isinstance(x, torch.Tensor) else type(x)


def _result_type(*values: Any) -> torch.dtype:
    """Return the dtype that torch computes with for tensors and numbers."""
    key = (torch.get_default_dtype(), *[_kind(x) for x in values])
    if key not in _RESULT:
        small = [torch.empty((1,) if x.ndim else (), dtype=x.dtype) if isinstance(x, torch.Tensor) else x for x in values]
        # Category by category, as torch does: with dimensions, without, numbers.
        tensors = sorted((x for x in small if isinstance(x, torch.Tensor)), key=lambda x: -x.ndim)
        others = [x for x in small if not isinstance(x, torch.Tensor)]
        result: Any = tensors[0] if tensors else others.pop(0)
        for x in [*tensors[1:], *others]:
            result = torch.empty((1,) if isinstance(result, torch.Tensor) and result.ndim else (), dtype=torch.result_type(result, x))
        _RESULT[key] = result.dtype if isinstance(result, torch.Tensor) else torch.tensor(result).dtype
    return _RESULT[key]


def _floating(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.get_default_dtype()


def _broadcast(*values: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = ()
    for x in values:
        if not isinstance(x, torch.Tensor):
            continue
        own = tuple(x.shape)
        if own == shape or not own:
            continue
        if not shape:
            shape = own
            continue
        n = max(len(own), len(shape))
        one, other = (1,) * (n - len(shape)) + shape, (1,) * (n - len(own)) + own
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b and a != 1 and b != 1:
                raise RuntimeError(
                    f"The size of tensor a ({a}) must match the size of tensor b ({b}) at non-singleton dimension {i}: "
                    f"shapes {list(shape)} and {list(own)} cannot be broadcast"
                )
        shape = tuple(b if a == 1 else a for a, b in zip(one, other, strict=True))
    return shape


def _layout(shape: tuple[int, ...], *values: Any) -> torch.Tensor | None:
    return next((x for x in values if isinstance(x, torch.Tensor) and tuple(x.shape) == shape and 0 not in x.stride()), None)


def _pointwise(dtype: Callable[..., torch.dtype], count: int) -> Rule:
    def rule(*args: Any, **kwargs: Any) -> torch.Tensor:
        values = args[:count]
        shape = _broadcast(*values)
        return _new(shape, dtype(*values), _layout(shape, *values))

    return rule


def _difference(a: Any, b: Any, *rest: Any) -> torch.dtype:
    truth = any(isinstance(x, bool) or (isinstance(x, torch.Tensor) and x.dtype == torch.bool) for x in (a, b))
    dtype = _result_type(a, b)
    _check(not truth or dtype != torch.bool, "Subtraction, the `-` operator, with a bool tensor is not supported: use `^` or logical_xor()")
    return dtype


def _negated(x: torch.Tensor) -> torch.dtype:
    _check(x.dtype != torch.bool, "Negation, the `-` operator, on a bool tensor is not supported: use `~` or logical_not()")
    return x.dtype


def _bits(*values: Any) -> torch.dtype:
    dtype = _result_type(*values)
    _check(not dtype.is_floating_point, f"bitwise operators are not implemented for {dtype}")
    return dtype


def _boolean(*values: Any) -> torch.dtype:
    return torch.bool


def _division(a: Any, b: Any, rounding_mode: str | None = None) -> torch.dtype:
    return _floating(_result_type(a, b))


def _divided(a: Any, b: Any, *, rounding_mode: str | None = None) -> torch.Tensor:
    shape = _broadcast(a, b)
    dtype = _result_type(a, b)
    return _new(shape, dtype if rounding_mode else _floating(dtype), _layout(shape, a, b))


def _own_dtype(x: Any, *rest: Any) -> torch.dtype:
    return x.dtype


_TENSOR_TWO = ("Tensor", "Scalar", "Tensor_Scalar", "Tensor_Tensor", "Scalar_Tensor", "default")
_enter(
    _pointwise(_result_type, 2),
    "add",
    "sub",
    "mul",
    "rsub",
    "minimum",
    "maximum",
    "fmin",
    "fmax",
    "remainder",
    "fmod",
    overloads=_TENSOR_TWO,
)
_enter(
    _pointwise(_result_type, 2),
    "floor_divide",
    "__rshift__",
    "__lshift__",
    overloads=_TENSOR_TWO,
)
_enter(_pointwise(_bits, 2), "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_right_shift", "bitwise_left_shift", overloads=_TENSOR_TWO)
_enter(_pointwise(_bits, 1), "bitwise_not")
_enter(_pointwise(_difference, 2), "sub", "rsub", overloads=_TENSOR_TWO)
_enter(_pointwise(_negated, 1), "neg")
_enter(_pointwise(_result_type, 2), "pow", overloads=("Tensor_Scalar", "Tensor_Tensor", "Scalar"))
_enter(_pointwise(lambda a, b: _floating(_result_type(a, b)), 2), "atan2", "xlogy", "logaddexp", "hypot", overloads=_TENSOR_TWO)
_enter(_divided, "div", overloads=("Tensor", "Scalar", "Tensor_mode", "Scalar_mode"))
_enter(_pointwise(_boolean, 2), "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor")
_enter(_pointwise(_boolean, 1), "logical_not", "isnan", "isinf", "isfinite", "signbit")
_enter(_pointwise(_own_dtype, 1), "abs", "sign", "floor", "ceil", "round", "trunc", "relu", "square", "positive")
_enter(
    _pointwise(_own_dtype, 1),
    "silu",
    "gelu",
    "elu",
    "leaky_relu",
    "softplus",
    "hardtanh",
    "hardswish",
    "mish",
    "celu",
    "selu",
    overloads=("default",),
)
_FLOAT = (
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
)
_FLOAT += (
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "sigmoid",
    "erf",
    "erfc",
    "erfinv",
    "reciprocal",
    "lgamma",
    "digamma",
    "special_ndtri",
    "log_sigmoid",
    "logit",
    "sinc",
    "special_entr",
    "special_erfcx",
    "special_log_ndtr",
    "special_ndtr",
    "deg2rad",
    "rad2deg",
    "i0",
    "special_i0e",
    "special_i1",
    "special_i1e",
)
_enter(_pointwise(lambda x: _floating(x.dtype), 1), *_FLOAT, overloads=("default",))
_enter(
    _pointwise(_own_dtype, 2),
    "tanh_backward",
    "sigmoid_backward",
    "threshold_backward",
    "silu_backward",
    "softplus_backward",
    "gelu_backward",
    "leaky_relu_backward",
    "elu_backward",
    "hardsigmoid_backward",
    "hardswish_backward",
    "hardtanh_backward",
    "mish_backward",
    "log_sigmoid_backward",
    "logit_backward",
)
_enter(
    _pointwise(_own_dtype, 1),
    "hardsigmoid",
    "relu6",
    "hardshrink",
    "threshold",
    "frac",
    "sgn",
    "nan_to_num",
    overloads=("default",),
)
_enter(_pointwise(_boolean, 1), "isposinf", "isneginf", overloads=("default",))
_enter(_pointwise(_result_type, 2), "heaviside", "gcd", "lcm", overloads=("default",))
_enter(_pointwise(lambda a, b: _floating(_result_type(a, b)), 2), "logaddexp2", "special_xlog1py", "copysign", overloads=_TENSOR_TWO)
_enter(
    _pointwise(lambda a, b: _floating(_result_type(a, b)), 2),
    "xlogy",
    "special_xlog1py",
    overloads=("Scalar_Other", "Scalar_Self", "other_scalar", "self_scalar"),
)


def _lerp(x: torch.Tensor, end: torch.Tensor, weight: Any) -> torch.Tensor:
    _check(x.dtype == end.dtype, f"expected dtype {x.dtype} for `end` but got dtype {end.dtype}")
    _check(not isinstance(weight, torch.Tensor) or weight.dtype == x.dtype, f"expected dtype {x.dtype} for `weight`")
    shape = _broadcast(x, end, weight)
    return _new(shape, x.dtype, _layout(shape, x, end, weight))


def _log_sigmoid(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _new(x.shape, x.dtype, x), _new(x.shape, x.dtype, x)


def _mv(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    _check(a.ndim == 2 and b.ndim == 1 and a.shape[1] == b.shape[0], f"size mismatch, got {list(a.shape)} and {list(b.shape)}")
    _check(a.dtype == b.dtype, f"expected m1 and m2 to have the same dtype, but got {a.dtype} and {b.dtype}")
    return _new((a.shape[0],), a.dtype)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    _check(
        a.ndim == b.ndim == 1 and a.shape == b.shape, f"inconsistent tensor size, expected equal vectors: {list(a.shape)}, {list(b.shape)}"
    )
    _check(a.dtype == b.dtype, f"dot: expected both vectors to have same dtype, but found {a.dtype} and {b.dtype}")
    return _new((), a.dtype)


def _softshrink(x: torch.Tensor, lambd: float = 0.5) -> torch.Tensor:
    _check(lambd >= 0, f"lambda must be at least 0, but found {lambd}")
    return _new(x.shape, x.dtype, x)


_enter(_softshrink, "softshrink", overloads=("default",))


def _back(grad: torch.Tensor, shape: Any, *place: Any) -> torch.Tensor:
    return _new(shape, grad.dtype)


def _repeat(x: torch.Tensor, repeats: Any) -> torch.Tensor:
    _check(len(repeats) >= x.ndim, "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    _check(min(repeats, default=0) >= 0, f"Repeats cannot be negative, found {list(repeats)}")
    shape = (*(1,) * (len(repeats) - x.ndim), *x.shape)
    return _new([n * m for n, m in zip(shape, repeats, strict=True)], x.dtype)


_enter(_repeat, "repeat", overloads=("default",))
_enter(_back, "select_backward", "slice_backward", "diagonal_backward", overloads=("default",))
_enter(_lerp, "lerp", overloads=("Scalar", "Tensor"))
_enter(_log_sigmoid, "log_sigmoid_forward", overloads=("default",))
_enter(_mv, "mv", overloads=("default",))
_enter(_dot, "dot", overloads=("default",))


def _masked_fill(x: torch.Tensor, mask: torch.Tensor, value: Any) -> torch.Tensor:
    return _new(_broadcast(x, mask), x.dtype)


_enter(_masked_fill, "masked_fill", overloads=("Scalar", "Tensor"))


def _where(condition: Any, a: Any, b: Any) -> torch.Tensor:
    shape = _broadcast(condition, a, b)
    return _new(shape, _result_type(a, b), _layout(shape, condition, a, b))


_enter(_where, "where", overloads=("self", "ScalarSelf", "ScalarOther"))


def _clamp(x: torch.Tensor, low: Any = None, high: Any = None, **kwargs: Any) -> torch.Tensor:
    values = [y for y in (x, kwargs.get("min", low), kwargs.get("max", high)) if y is not None]
    shape = _broadcast(*values)
    return _new(shape, _result_type(*values), _layout(shape, *values))


_enter(_clamp, "clamp", "clamp_min", "clamp_max", overloads=("default", "Tensor"))


def _combined(a: Any, b: Any, c: Any, **kwargs: Any) -> torch.Tensor:
    shape = _broadcast(a, b, c)
    return _new(shape, _result_type(a, b, c), _layout(shape, a, b, c))


_enter(_combined, "addcmul", "addcdiv", overloads=("default",))


def _like_first(
    x: torch.Tensor, *args: Any, dtype: torch.dtype | None = None, memory_format: torch.memory_format | None = None, **kwargs: Any
) -> torch.Tensor:
    return _new(x.shape, dtype or x.dtype, x if memory_format in (None, torch.preserve_format) else None)


def _contiguous_like_first(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return _new(x.shape, x.dtype)


_enter(_like_first, "zeros_like", "ones_like", "full_like", "empty_like", overloads=("default",))
_enter(_like_first, "_to_copy", "clone", overloads=("default",))
_enter(_like_first, "index_put", "slice_scatter", "diagonal_scatter", "fill", "copy")


def _with_dimension(x: torch.Tensor, dim: int, *args: Any, **kwargs: Any) -> torch.Tensor:
    _dimension(x, dim)
    return _new(x.shape, x.dtype, x)


def _indexed(x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    d = _dimension(x, dim)
    _check(source.ndim == x.ndim or not x.ndim or not source.ndim, "source and self have to have the same number of dimensions")
    rows = all(n == m for i, (n, m) in enumerate(zip(source.shape, x.shape, strict=False)) if i != d)
    _check(rows and (not source.ndim or source.shape[d] == index.numel()), f"source {list(source.shape)} does not fit self {list(x.shape)}")
    _check(source.dtype == x.dtype, f"self ({x.dtype}) and source ({source.dtype}) have to have the same dtype")
    return _new(x.shape, x.dtype)


def _scatter(x: torch.Tensor, dim: int, index: torch.Tensor, source: Any = 0, **kwargs: Any) -> torch.Tensor:
    d = _dimension(x, dim)
    if index.numel() and index.ndim and x.ndim:
        _check(index.ndim == x.ndim, "index and self have to have the same number of dimensions")
        fits = all(n <= m for i, (n, m) in enumerate(zip(index.shape, x.shape, strict=True)) if i != d)
        _check(fits, f"index {list(index.shape)} is too large for self {list(x.shape)} apart from dimension {dim}")
    if isinstance(source, torch.Tensor):
        _check(source.dtype == x.dtype, f"self ({x.dtype}) and src ({source.dtype}) have to have the same dtype")
        if index.numel() and index.ndim and source.ndim:
            _check(index.ndim == source.ndim, "index and src have to have the same number of dimensions")
            _check(all(n <= m for n, m in zip(index.shape, source.shape, strict=True)), f"index {list(index.shape)} is too large for src")
    return _new(x.shape, x.dtype)


def _select_scatter(x: torch.Tensor, source: torch.Tensor, dim: int, index: int) -> torch.Tensor:
    d = _dimension(x, dim)
    rest = (*x.shape[:d], *x.shape[d + 1 :])
    if not -x.shape[d] <= index < x.shape[d]:
        raise IndexError(f"index {index} is out of bounds for dimension {dim} with size {x.shape[d]}")
    _check(tuple(source.shape) == rest, f"expected src to have a size equal to the slice of self: {list(source.shape)} and {list(rest)}")
    return _new(x.shape, x.dtype, x)


def _flip(x: torch.Tensor, dims: Any) -> torch.Tensor:
    for d in dims:
        _dimension(x, d)
    return _new(x.shape, x.dtype, x)


def _triangle(x: torch.Tensor, diagonal: int = 0) -> torch.Tensor:
    _check(x.ndim >= 2, "tril, triu: the tensor must have at least 2 dimensions")
    return _new(x.shape, x.dtype)


def _check(right: bool, text: str) -> None:
    if not right:
        raise RuntimeError(text)


_enter(_with_dimension, "index_fill")
_enter(_indexed, "index_copy", "index_add")
_enter(_scatter, "scatter", "scatter_add")
_enter(_select_scatter, "select_scatter")
_enter(_flip, "flip")
_enter(_triangle, "tril", "triu", overloads=("default",))


def _softmax(x: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
    _dimension(x, dim)
    return _new(x.shape, torch.float32 if half_to_float else x.dtype)


def _softmax_backward(grad: torch.Tensor, output: torch.Tensor, dim: int, input_dtype: torch.dtype) -> torch.Tensor:
    return _new(grad.shape, input_dtype)


_enter(_softmax, "_softmax", "_log_softmax", overloads=("default",))
_enter(_softmax_backward, "_softmax_backward_data", "_log_softmax_backward_data", overloads=("default",))


def _cumulated(x: torch.Tensor, dim: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    _dimension(x, dim)
    return _new(x.shape, dtype or (x.dtype if x.is_floating_point() else torch.int64))


_enter(_cumulated, "cumsum", "cumprod", overloads=("default",))


def _dimension(x: torch.Tensor, d: int) -> int:
    """Return a dimension counted from the front."""
    n = max(x.ndim, 1)
    if not -n <= d < n:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {d})")
    return d % n


def _reduced(x: torch.Tensor, dims: Any, keepdim: bool, dtype: torch.dtype) -> torch.Tensor:
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        taken = set(range(x.ndim))
    else:
        taken = set()
        for d in dims if isinstance(dims, (list, tuple)) else (dims,):
            d = _dimension(x, d)
            _check(d not in taken, f"dim {d} appears multiple times in the list of dims")
            taken.add(d)
    shape = [1 if i in taken else n for i, n in enumerate(x.shape) if keepdim or i not in taken]
    return _new(shape, dtype)


def _whole(x: torch.Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.int64


def _sum(x: torch.Tensor, dims: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    return _reduced(x, dims, keepdim, dtype or _whole(x))


def _sum_all(x: torch.Tensor, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    return _new((), dtype or _whole(x))


_enter(_sum, "sum", overloads=("dim_IntList",))
_enter(_sum_all, "sum", "prod", overloads=("default",))


def _mean(x: torch.Tensor, dims: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    if not (dtype or x.dtype).is_floating_point:
        raise RuntimeError(
            f"mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. Got: {x.dtype}"
        )
    return _reduced(x, dims, keepdim, dtype or x.dtype)


_enter(_mean, "mean", overloads=("dim", "default"))


def _extreme(x: torch.Tensor, dims: Any = (), keepdim: bool = False) -> torch.Tensor:
    if not all(x.shape[d] for d in ((dims if isinstance(dims, (list, tuple)) else (dims,)) or range(x.ndim)) if x.ndim):
        raise RuntimeError("amax(), amin() of an empty dimension have no value")
    return _reduced(x, dims, keepdim, x.dtype)


def _test(x: torch.Tensor, dims: Any = None, keepdim: bool = False) -> torch.Tensor:
    return _reduced(x, dims, keepdim, torch.uint8 if x.dtype == torch.uint8 else torch.bool)


_enter(_extreme, "amax", "amin", overloads=("default",))
_enter(_test, "any", "all", overloads=("default", "dim", "dims"))


def _norm(x: torch.Tensor, ord: Any = 2, dims: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    return _reduced(x, dims, keepdim, dtype or x.dtype)


_enter(_norm, "linalg_vector_norm", overloads=("default",))


def _log_sum(x: torch.Tensor, dims: Any, keepdim: bool = False) -> torch.Tensor:
    return _reduced(x, dims, keepdim, _floating(x.dtype))


def _factored(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _new(x.shape, x.dtype), _new((*x.shape[:-2], min(x.shape[-2:])), x.dtype)


_enter(_log_sum, "logsumexp", overloads=("default",))
_enter(_like_first, "_logcumsumexp", overloads=("default",))
_enter(_factored, "geqrf", overloads=("default",))


def _addmm(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    return _mm(a, b)


def _mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.ndim != b.ndim or a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2] or a.dtype != b.dtype:
        raise RuntimeError(f"mat1 and mat2 shapes or dtypes cannot be multiplied: {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}")
    return _new((*a.shape[:-1], b.shape[-1]), a.dtype)


_enter(_addmm, "addmm", overloads=("default",))
_enter(_mm, "mm", "bmm", overloads=("default",))


def _stack(tensors: Any, dim: int = 0) -> torch.Tensor:
    first = tensors[0]
    if any(x.shape != first.shape for x in tensors):
        raise RuntimeError(f"stack expects each tensor to be equal size, but got {[list(x.shape) for x in tensors]}")
    dim = dim % (first.ndim + 1)
    return _new((*first.shape[:dim], len(tensors), *first.shape[dim:]), _result_type(*tensors))


_enter(_stack, "stack", overloads=("default",))


def _cat(tensors: Any, dim: int = 0) -> torch.Tensor:
    kept = [x for x in tensors if tuple(x.shape) != (0,)] or list(tensors)
    first = kept[0]
    dim = dim % first.ndim
    if any(x.ndim != first.ndim or x.shape[:dim] + x.shape[dim + 1 :] != first.shape[:dim] + first.shape[dim + 1 :] for x in kept):
        raise RuntimeError(f"Sizes of tensors must match except in dimension {dim}: got {[list(x.shape) for x in tensors]}")
    return _new((*first.shape[:dim], sum(x.shape[dim] for x in kept), *first.shape[dim + 1 :]), _result_type(*tensors))


_enter(_cat, "cat", overloads=("default",))


def _gather(x: torch.Tensor, dim: int, index: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    _scatter(x, dim, index)
    return _new(index.shape, x.dtype)


def _index_select(x: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    shape = list(x.shape)
    if shape:
        shape[dim] = index.numel()
    return _new(shape, x.dtype)


_enter(_gather, "gather", overloads=("default",))
_enter(_index_select, "index_select", overloads=("default",))


def _variance(x: torch.Tensor, dims: Any = None, *, correction: Any = None, keepdim: bool = False) -> torch.Tensor:
    return _reduced(x, dims, keepdim, x.dtype)


_enter(_variance, "var", "std", overloads=("correction",))


def _index(x: torch.Tensor, indices: Any) -> torch.Tensor:
    places = [i for i, index in enumerate(indices) if index is not None]
    inner = _broadcast(*(indices[i] for i in places))
    # Indices next to each other stand where they are; others come first.
    together = places == list(range(places[0], places[-1] + 1))
    before = [n for i, n in enumerate(x.shape) if i not in places and (not together or i < places[0])]
    after = [n for i, n in enumerate(x.shape) if i not in places and together and i > places[0]]
    return _new((*before, *inner, *after) if together else (*inner, *before), x.dtype)


_enter(_index, "index", overloads=("Tensor",))


def _layer_norm(x: torch.Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> tuple[torch.Tensor, ...]:
    _check(
        len(shape) > 0 and list(x.shape[x.ndim - len(shape) :]) == list(shape), f"normalized_shape is {list(shape)}, input {list(x.shape)}"
    )
    _check(all(w is None or list(w.shape) == list(shape) for w in (weight, bias)), f"weight and bias have to be of shape {list(shape)}")
    rows = [*x.shape[: x.ndim - len(shape)], *(1 for _ in shape)]
    return _new(x.shape, x.dtype), _new(rows, x.dtype), _new(rows, x.dtype)


_enter(_layer_norm, "native_layer_norm", overloads=("default",))


def _layer_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, shape: Any, mean: Any, rstd: Any, weight: Any, bias: Any, wanted: Any
) -> tuple[torch.Tensor | None, ...]:
    ends = (
        _new(x.shape, x.dtype),
        None if weight is None else _new(weight.shape, weight.dtype),
        None if bias is None else _new(bias.shape, bias.dtype),
    )
    return tuple([end if is_wanted else None for end, is_wanted in zip(ends, wanted, strict=True)])


_enter(_layer_norm_backward, "native_layer_norm_backward", overloads=("default",))


def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> torch.Tensor:
    sizes = []
    n = weight.ndim - 2
    stride, padding, dilation, output_padding = (
        list(v) * n if len(v) == 1 else list(v) for v in (stride, padding, dilation, output_padding)
    )
    for i in range(n):
        reach = dilation[i] * (weight.shape[2 + i] - 1)
        if transposed:
            sizes.append((x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + reach + output_padding[i] + 1)
        else:
            sizes.append((x.shape[2 + i] + 2 * padding[i] - reach - 1) // stride[i] + 1)
    channels = x.shape[1] if x.ndim > 1 else 0
    if (
        x.ndim != n + 2
        or channels != (weight.shape[0] if transposed else weight.shape[1] * groups)
        or min(sizes) < 1
        or x.dtype != weight.dtype
    ):
        raise RuntimeError(
            f"convolution: an input {x.dtype} {list(x.shape)} and a weight {weight.dtype} {list(weight.shape)} of {groups} groups do not "
            "fit together"
        )
    return _new((x.shape[0], weight.shape[1] * groups if transposed else weight.shape[0], *sizes), x.dtype)


def _convolution_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias_sizes: Any, *args: Any, output_mask: Any = None
) -> tuple[torch.Tensor | None, ...]:
    wanted = args[-1] if output_mask is None else output_mask
    shapes = (x.shape, weight.shape, bias_sizes if bias_sizes else (grad.shape[1],))
    return tuple([_new(shape, grad.dtype) if is_wanted else None for shape, is_wanted in zip(shapes, wanted, strict=True)])


def _linspace(start: Any, end: Any, steps: int, *, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return _new((steps,), dtype or torch.get_default_dtype())


_enter(_convolution, "convolution", overloads=("default",))
_enter(_convolution_backward, "convolution_backward", overloads=("default",))
_enter(_linspace, "linspace", overloads=("default",))


def _argument(x: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> torch.Tensor:
    if (not x.numel() and dim is None) or (dim is not None and x.ndim and not x.shape[dim]):
        raise IndexError("argmax(), argmin(): Expected reduction dim to be specified for input.numel() == 0.")
    return _reduced(x, dim, keepdim, torch.int64)


_enter(_argument, "argmax", "argmin", overloads=("default",))


def _sorted(x: torch.Tensor, dim: int = -1, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    _dimension(x, dim)
    return _new(x.shape, x.dtype, x), _new(x.shape, torch.int64, x)


_enter(_sorted, "sort", overloads=("default", "stable"))


def _chosen(x: torch.Tensor, dim: int, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    if x.ndim and not x.shape[dim]:
        raise IndexError(f"max(), min(): Expected reduction dim {dim} to have non-zero size.")
    return _reduced(x, dim, keepdim, x.dtype), _reduced(x, dim, keepdim, torch.int64)


_enter(_chosen, "max", "min", overloads=("dim",))


def _full(shape: Any, value: Any = 0.0, *, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return _new(shape, dtype or torch.tensor(value).dtype)


def _empty(shape: Any, *, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return _new(shape, dtype or torch.get_default_dtype())


def _scalar(value: Any, *, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return _new((), dtype or torch.get_default_dtype())


def _new_of(x: torch.Tensor, shape: Any, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    return _new(shape, dtype or x.dtype)


def _arange(*bounds: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> torch.Tensor:
    start, end, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    whole = all(isinstance(x, int) for x in bounds)
    if step == 0 or (end - start) * step < 0:
        raise RuntimeError("upper bound and larger bound inconsistent with step sign" if step else "step must be nonzero")
    length = -((start - end) // step) if whole else math.ceil((end - start) / step)
    return _new((length,), dtype or (torch.int64 if whole else torch.get_default_dtype()))


_enter(_full, "full", overloads=("default",))
_enter(_empty, "zeros", "ones", overloads=("default",))
_enter(_empty, "empty", overloads=("memory_format",))
_enter(_scalar, "scalar_tensor", overloads=("default",))
_enter(_new_of, "new_zeros", "new_ones", "new_empty", "new_full", overloads=("default",))
_enter(_arange, "arange", overloads=("default", "start", "start_step"))
