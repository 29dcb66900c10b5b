"""Comparisons, logic, bits, selection, copies and casts: pointwise operators that compute no new numbers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import lax

from funrl.compiler._lowerings._operands import (
    at_least,
    at_most,
    broadcast,
    enter,
    enter_tests,
    is_float,
    is_signed,
    like,
    operands,
    signbit,
    where,
)
from funrl.compiler._lowerings._table import cast, constant, jax_dtype, lowers

aten = torch.ops.aten


# Comparison and logic


def _test(f: Any, otherwise: bool) -> Any:
    return lambda x: f(x) if is_float(x) else lax.full(x.shape, otherwise)


enter_tests(
    {
        **{
            getattr(getattr(aten, name), overload): getattr(lax, name)
            for name in ("eq", "ne", "lt", "le", "gt", "ge")
            for overload in ("Tensor", "Scalar")
        },
        aten.isnan.default: lambda x: lax.ne(x, x),
        aten.isfinite.default: _test(lax.is_finite, True),
        aten.isinf.default: _test(lambda x: lax.eq(lax.abs(x), like(x, math.inf)), False),
        aten.isposinf.default: _test(lambda x: lax.eq(x, like(x, math.inf)), False),
        aten.isneginf.default: _test(lambda x: lax.eq(x, like(x, -math.inf)), False),
        aten.signbit.default: signbit,
    }
)


def _logical(f: Any) -> Any:
    return lambda out, *args: f(*(broadcast(x, torch.bool, tuple(out.shape)) for x in args))


lowers(aten.logical_and.default)(_logical(lax.bitwise_and))
lowers(aten.logical_or.default)(_logical(lax.bitwise_or))
lowers(aten.logical_xor.default)(_logical(lax.bitwise_xor))
lowers(aten.logical_not.default)(_logical(lax.bitwise_not))


# Bits


def _shift_right(x: jax.Array, y: jax.Array) -> jax.Array:
    return lax.shift_right_arithmetic(x, y) if is_signed(x) else lax.shift_right_logical(x, y)


for _names, _f in {
    ("bitwise_and", "__and__"): lax.bitwise_and,
    ("bitwise_or", "__or__"): lax.bitwise_or,
    ("bitwise_xor", "__xor__"): lax.bitwise_xor,
    ("bitwise_left_shift", "__lshift__"): lax.shift_left,
    ("bitwise_right_shift", "__rshift__"): _shift_right,
}.items():
    _packets = [getattr(aten, name) for name in _names]
    enter({getattr(packet, overload): _f for packet in _packets for overload in packet.overloads() if not overload.endswith("out")})
enter({aten.bitwise_not.default: lax.bitwise_not})


# Selection and copies


@lowers(aten.where.self)
def _where(out, condition, x, y):
    shape = tuple(out.shape)
    return lax.select(broadcast(condition, torch.bool, shape), broadcast(x, out.dtype, shape), broadcast(y, out.dtype, shape))


@lowers(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(out, x, mask, value):
    return _where(out, mask, value, x)


@lowers(aten.clamp.default, aten.clamp.Tensor)
def _clamp(out, x, min=None, max=None):
    (x,) = operands(out, x)
    if min is not None:
        x = at_least(x, min) if _is_plain(x, min) else lax.max(x, *operands(out, min))
    if max is not None:
        x = at_most(x, max) if _is_plain(x, max) else lax.min(x, *operands(out, max))
    return x


def _is_plain(x, bound):
    return is_float(x) and not isinstance(bound, jax.Array) and bound == bound


@lowers(aten.clamp_min.default, aten.clamp_min.Tensor)
def _clamp_min(out, x, min):
    return _clamp(out, x, min)


@lowers(aten.clamp_max.default, aten.clamp_max.Tensor)
def _clamp_max(out, x, max):
    return _clamp(out, x, None, max)


@lowers(aten.nan_to_num.default)
def _nan_to_num(out, x, nan=None, posinf=None, neginf=None):
    if not out.dtype.is_floating_point:
        return x
    info = torch.finfo(out.dtype)
    x = where(lax.ne(x, x), 0.0 if nan is None else nan, x)
    x = where(lax.eq(x, like(x, math.inf)), info.max if posinf is None else posinf, x)
    return where(lax.eq(x, like(x, -math.inf)), info.min if neginf is None else neginf, x)


@lowers(
    aten.clone.default,
    aten.alias.default,
    aten.alias_copy.default,
    aten.detach.default,
    aten.detach_copy.default,
    aten.lift.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
    aten._conj.default,
    aten._conj_physical.default,
)
def _same(out, x):
    return x


@lowers(aten._to_copy.default, torch.ops.prims.convert_element_type.default)
def _to_copy(out, x, dtype=None):
    """Cast as x86 does: NaN and numbers out of range give the lowest int32 or int64, and smaller whole numbers the last bits."""
    if is_float(x) and out.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        wide = out.dtype == torch.int64 or (out.dtype == torch.uint8 and x.dtype == jnp.float64)
        whole = torch.int64 if wide else torch.int32
        limit = torch.iinfo(whole).min
        limit_above = math.inf if x.dtype == jnp.float16 else -float(limit)
        inside = lax.lt(x, like(x, limit_above))  # XLA gives the lowest number below the range, as x86 does
        x = where(inside, lax.convert_element_type(x, jax_dtype(whole)), limit)
    return cast(x, out.dtype)


@lowers(aten.copy.default)
def _copy(out, x, source, non_blocking=False):
    return broadcast(_to_copy(out, source), out.dtype, tuple(out.shape))


@lowers(aten.fill.Scalar, aten.fill.Tensor)
def _fill(out, x, value):
    return broadcast(value, out.dtype, tuple(out.shape))


@lowers(aten.zero.default)
def _zero(out, x):
    return constant(0, out.dtype, tuple(out.shape))
