"""Rules of pointwise operators, which broadcast and promote."""

from collections.abc import Callable
from typing import Any

import torch

from funrl.compiler._meta._table import Rule, broadcast, check, enter, floating, layout, new, result_type

aten = torch.ops.aten


def _pointwise(dtype: Callable[..., torch.dtype], count: int) -> Rule:
    def rule(*args: Any, **kwargs: Any) -> torch.Tensor:
        values = args[:count]
        shape = broadcast(*values)
        return new(shape, dtype(*values), layout(shape, *values))

    return rule


def _difference(a: Any, b: Any, *rest: Any) -> torch.dtype:
    truth = any(isinstance(x, bool) or (isinstance(x, torch.Tensor) and x.dtype == torch.bool) for x in (a, b))
    check(not truth, "Subtraction, the `-` operator, with a bool tensor is not supported: use `~`, or `^` of two, or .to(torch.uint8)")
    return result_type(a, b)


def _negated(x: torch.Tensor) -> torch.dtype:
    check(x.dtype != torch.bool, "Negation, the `-` operator, on a bool tensor is not supported: use `~` or logical_not()")
    return x.dtype


def _bits(*values: Any) -> torch.dtype:
    dtype = result_type(*values)
    check(not dtype.is_floating_point and not dtype.is_complex, f"bitwise operators are not implemented for {dtype}")
    return dtype


def _boolean(*values: Any) -> torch.dtype:
    return torch.bool


def _divided(a: Any, b: Any, *, rounding_mode: str | None = None) -> torch.Tensor:
    shape = broadcast(a, b)
    dtype = result_type(a, b)
    return new(shape, dtype if rounding_mode else floating(dtype), layout(shape, a, b))


def _own_dtype(x: Any, *rest: Any) -> torch.dtype:
    return x.dtype


_TENSOR_TWO = ("Tensor", "Scalar", "Tensor_Scalar", "Tensor_Tensor", "Scalar_Tensor", "default")
enter(
    _pointwise(result_type, 2),
    "add",
    "mul",
    "minimum",
    "maximum",
    "fmin",
    "fmax",
    "remainder",
    "fmod",
    overloads=_TENSOR_TWO,
)
enter(
    _pointwise(result_type, 2),
    "floor_divide",
    "__rshift__",
    "__lshift__",
    overloads=_TENSOR_TWO,
)
enter(_pointwise(_bits, 2), "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_right_shift", "bitwise_left_shift", overloads=_TENSOR_TWO)
enter(_pointwise(_bits, 1), "bitwise_not")
enter(_pointwise(_difference, 2), "sub", "rsub", overloads=_TENSOR_TWO)
enter(_pointwise(_negated, 1), "neg")
enter(_pointwise(result_type, 2), "pow", overloads=("Tensor_Scalar", "Tensor_Tensor", "Scalar"))
enter(_pointwise(lambda a, b: floating(result_type(a, b)), 2), "atan2", "xlogy", "logaddexp", "hypot", overloads=_TENSOR_TWO)
enter(_divided, "div", overloads=("Tensor", "Scalar", "Tensor_mode", "Scalar_mode"))
enter(_pointwise(_boolean, 2), "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor")
enter(_pointwise(_boolean, 1), "logical_not", "isnan", "isinf", "isfinite", "signbit")
enter(_pointwise(lambda x: x.dtype.to_real(), 1), "abs")
enter(_pointwise(_own_dtype, 1), "sign", "floor", "ceil", "round", "trunc", "relu", "square", "positive")
enter(
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
enter(_pointwise(lambda x: floating(x.dtype), 1), *_FLOAT, overloads=("default",))
enter(
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
enter(
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
enter(_pointwise(_boolean, 1), "isposinf", "isneginf", overloads=("default",))
enter(_pointwise(result_type, 2), "heaviside", "gcd", "lcm", overloads=("default",))
enter(_pointwise(lambda a, b: floating(result_type(a, b)), 2), "logaddexp2", "special_xlog1py", "copysign", overloads=_TENSOR_TWO)
enter(
    _pointwise(lambda a, b: floating(result_type(a, b)), 2),
    "xlogy",
    "special_xlog1py",
    overloads=("Scalar_Other", "Scalar_Self", "other_scalar", "self_scalar"),
)


def _lerp(x: torch.Tensor, end: torch.Tensor, weight: Any) -> torch.Tensor:
    check(x.dtype == end.dtype, f"expected dtype {x.dtype} for `end` but got dtype {end.dtype}")
    check(not isinstance(weight, torch.Tensor) or weight.dtype == x.dtype, f"expected dtype {x.dtype} for `weight`")
    shape = broadcast(x, end, weight)
    return new(shape, x.dtype, layout(shape, x, end, weight))


def _log_sigmoid(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return new(x.shape, x.dtype, x), new(x.shape, x.dtype, x)


def _mv(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    check(a.ndim == 2 and b.ndim == 1 and a.shape[1] == b.shape[0], f"size mismatch, got {list(a.shape)} and {list(b.shape)}")
    check(a.dtype == b.dtype, f"expected m1 and m2 to have the same dtype, but got {a.dtype} and {b.dtype}")
    return new((a.shape[0],), a.dtype)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    check(
        a.ndim == b.ndim == 1 and a.shape == b.shape, f"inconsistent tensor size, expected equal vectors: {list(a.shape)}, {list(b.shape)}"
    )
    check(a.dtype == b.dtype, f"dot: expected both vectors to have same dtype, but found {a.dtype} and {b.dtype}")
    return new((), a.dtype)


def _softshrink(x: torch.Tensor, lambd: float = 0.5) -> torch.Tensor:
    check(lambd >= 0, f"lambda must be at least 0, but found {lambd}")
    return new(x.shape, x.dtype, x)


enter(_softshrink, "softshrink", overloads=("default",))


def _back(grad: torch.Tensor, shape: Any, *place: Any) -> torch.Tensor:
    return new(shape, grad.dtype)


def _repeat(x: torch.Tensor, repeats: Any) -> torch.Tensor:
    check(len(repeats) >= x.ndim, "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    check(min(repeats, default=0) >= 0, f"Repeats cannot be negative, found {list(repeats)}")
    shape = (*(1,) * (len(repeats) - x.ndim), *x.shape)
    return new([n * m for n, m in zip(shape, repeats, strict=True)], x.dtype)


enter(_repeat, "repeat", overloads=("default",))
enter(_back, "select_backward", "slice_backward", "diagonal_backward", overloads=("default",))
enter(_lerp, "lerp", overloads=("Scalar", "Tensor"))
enter(_log_sigmoid, "log_sigmoid_forward", overloads=("default",))
enter(_mv, "mv", overloads=("default",))
enter(_dot, "dot", overloads=("default",))


def _masked_fill(x: torch.Tensor, mask: torch.Tensor, value: Any) -> torch.Tensor:
    return new(broadcast(x, mask), x.dtype)


enter(_masked_fill, "masked_fill", overloads=("Scalar", "Tensor"))


def _where(condition: Any, a: Any, b: Any) -> torch.Tensor:
    shape = broadcast(condition, a, b)
    return new(shape, result_type(a, b), layout(shape, condition, a, b))


enter(_where, "where", overloads=("self", "ScalarSelf", "ScalarOther"))


def _clamp(x: torch.Tensor, low: Any = None, high: Any = None, **kwargs: Any) -> torch.Tensor:
    values = [y for y in (x, kwargs.get("min", low), kwargs.get("max", high)) if y is not None]
    shape = broadcast(*values)
    return new(shape, result_type(*values), layout(shape, *values))


enter(_clamp, "clamp", "clamp_min", "clamp_max", overloads=("default", "Tensor"))


def _combined(a: Any, b: Any, c: Any, **kwargs: Any) -> torch.Tensor:
    shape = broadcast(a, b, c)
    return new(shape, result_type(a, b, c), layout(shape, a, b, c))


enter(_combined, "addcmul", "addcdiv", overloads=("default",))
