"""Replacements of operators that inductor computes differently from torch. Each is known from a wrong result."""

from collections.abc import Callable
from typing import Any

import torch

aten, prims = torch.ops.aten, torch.ops.prims
Tensor = torch.Tensor

# Reductions of these dtypes start from wrong numbers: the minimum of bytes starts from 0, and so does the maximum of int8.
_NARROW = (torch.uint8, torch.int8, torch.int16, torch.bool)


def _wide(x: Tensor, dtype: torch.dtype = torch.int32) -> Tensor:
    return prims.convert_element_type(x, dtype)


def _reduction(operator: Any) -> Callable[..., Any]:
    """Return a reduction that goes through int32 where numbers are narrow; indices stay as they are."""

    def run(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.dtype not in _NARROW:
            return NotImplemented
        result = operator(_wide(x), *args, **kwargs)
        if isinstance(result, Tensor):
            return result if result.dtype == torch.int64 else _wide(result, x.dtype)
        return tuple(_wide(part, x.dtype) if part.dtype == torch.int32 else part for part in result)

    return run


def _truth(operator: Any) -> Callable[..., Any]:
    """Return any or all, whose result for bytes is bytes."""

    def run(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return _wide(operator(x != 0, *args, **kwargs), torch.uint8) if x.dtype == torch.uint8 else NotImplemented

    return run


def _arg_reduction(operator: Any) -> Callable[..., Any]:
    """Return argmax or argmin: without a dimension inductor counts in the order of memory, and it fails for a tensor without dimensions."""

    def run(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
        if x.ndim == 0:
            return torch.zeros((), dtype=torch.int64, device=x.device)
        if dim is None and x.ndim > 1:
            found = operator(x.clone(memory_format=torch.contiguous_format).reshape(-1), 0)
            return found.reshape([1] * x.ndim) if keepdim else found
        return operator(_wide(x), dim, keepdim) if x.dtype in _NARROW else NotImplemented

    return run


def _remainder(x: Any, y: Any) -> Any:
    kind = torch.result_type(x, y)
    if not kind.is_floating_point:
        return NotImplemented
    x, y, working = _both(x, y, kind)
    rest = torch.fmod(x, y)
    wrong = (rest != 0) & ((y < 0) != (rest < 0))
    return _wide(torch.where(wrong, rest + y, rest), kind) if working != kind else torch.where(wrong, rest + y, rest)


def _both(x: Any, y: Any, kind: torch.dtype) -> tuple[Tensor, Tensor, torch.dtype]:
    working = torch.float32 if kind in (torch.float16, torch.bfloat16) else kind
    device = x.device if isinstance(x, Tensor) else y.device
    x, y = (_wide(v, working) if isinstance(v, Tensor) else torch.full((), v, dtype=working, device=device) for v in (x, y))
    return x, y, working


def _floor_divide(x: Any, y: Any) -> Any:
    kind = torch.result_type(x, y)
    if not kind.is_floating_point:
        return NotImplemented
    x, y, working = _both(x, y, kind)
    rest = torch.fmod(x, y)
    quotient = (x - rest) / y
    quotient = torch.where((rest != 0) & ((y < 0) != (rest < 0)), quotient - 1, quotient)
    floor = torch.floor(quotient)
    floor = torch.where(quotient - floor > 0.5, floor + 1, floor)
    plain = x / y
    result = torch.where(y == 0, plain, torch.where(quotient != 0, floor, torch.copysign(torch.zeros_like(plain), plain)))
    return _wide(result, kind) if working != kind else result


def _divide(x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    return _floor_divide(x, y) if rounding_mode == "floor" else NotImplemented


def _cumulative(operator: Any) -> Callable[..., Any]:
    """Return cumsum or cumprod, whose ``dtype`` is that of the sums."""

    def run(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
        kind = dtype or (x.dtype if x.is_floating_point() or x.is_complex() else torch.int64)
        # Whole numbers wrap alike before and after they are summed, and without a dtype their sums are int64.
        working = kind if kind.is_floating_point or kind.is_complex else torch.int64
        if x.dtype == kind == working:
            return NotImplemented
        return _wide(operator(_wide(_wide(x, kind), working), dim), kind)

    return run


def _power_of_number(base: Any, exponent: Tensor) -> Any:
    kind = torch.result_type(base, exponent)
    if kind.is_floating_point or kind.is_complex:
        return NotImplemented
    return torch.pow(torch.full((), base, dtype=kind, device=exponent.device), _wide(exponent, kind))


def _expm1(x: Tensor) -> Any:
    """Compute expm1(x) on a CPU as tanh(x / 2) (exp(x) + 1); inductor's vectorised exp(x) - 1 has no correct digits near 0."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return NotImplemented
    # Below, tanh is -1 and exp(x) + 1 is 1; above, the product is inf as it is.
    return torch.tanh(x * 0.5) * (torch.exp(x) + 1.0)


def _scattering(operator: Any) -> Callable[..., Any]:
    """Return an operator that changes entries of its first argument; inductor would also write to entries that share memory with them."""

    def run(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if all(size < 2 or stride for size, stride in zip(x.shape, x.stride(), strict=True)):
            return NotImplemented
        return operator(x.clone(memory_format=torch.contiguous_format), *args, **kwargs)

    return run


MENDS: dict[Any, Callable[..., Any]] = {
    **{operator: _reduction(operator) for operator in (aten.amax.default, aten.amin.default, aten.max.default, aten.min.default)},
    **{operator: _reduction(operator) for operator in (aten.max.dim, aten.min.dim, aten.aminmax.default)},
    **{operator: _reduction(operator) for operator in (aten.cummax.default, aten.cummin.default)},
    **{operator: _truth(operator) for operator in (aten.any.default, aten.any.dim, aten.any.dims)},
    **{operator: _truth(operator) for operator in (aten.all.default, aten.all.dim, aten.all.dims)},
    **{operator: _arg_reduction(operator) for operator in (aten.argmax.default, aten.argmin.default)},
    **{operator: _scattering(operator) for operator in (aten.index_put.default, aten.scatter.src, aten.scatter.value)},
    **{operator: _scattering(operator) for operator in (aten.scatter.reduce, aten.scatter.value_reduce)},
    **{operator: _scattering(operator) for operator in (aten.scatter_add.default, aten.scatter_reduce.two)},
    aten.remainder.Tensor: _remainder,
    aten.remainder.Scalar: _remainder,
    aten.remainder.Scalar_Tensor: _remainder,
    aten.floor_divide.default: _floor_divide,
    aten.floor_divide.Scalar: _floor_divide,
    aten.div.Tensor_mode: _divide,
    aten.div.Scalar_mode: _divide,
    aten.cumsum.default: _cumulative(aten.cumsum.default),
    aten.cumprod.default: _cumulative(aten.cumprod.default),
    aten.pow.Scalar: _power_of_number,
    aten.expm1.default: _expm1,
}
