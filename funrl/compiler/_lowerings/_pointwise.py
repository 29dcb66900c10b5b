"""Pointwise arithmetic."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import lax

from funrl.compiler._lowerings._operands import (
    broadcast,
    enter,
    is_bool,
    is_float,
    is_signed,
    like,
    operands,
    signbit,
    unrounded,
    where,
)
from funrl.compiler._lowerings._table import cast, lowers

aten = torch.ops.aten


def _plus(x: jax.Array, y: jax.Array) -> jax.Array:
    return lax.bitwise_or(x, y) if is_bool(x) else lax.add(x, y)


def _times(x: jax.Array, y: jax.Array) -> jax.Array:
    return lax.bitwise_and(x, y) if is_bool(x) else lax.mul(x, y)


def _scaled(x: jax.Array, factor: Any) -> jax.Array:
    return x if not isinstance(factor, jax.Array) and factor == 1 else _times(x, like(x, factor))


# Arithmetic


def _alpha_times(out, y, alpha):
    return y if not isinstance(alpha, jax.Array) and alpha == 1 else _times(y, *operands(out, alpha))


@lowers(aten.add.Tensor, aten.add.Scalar)
def _add(out, x, y, alpha=1):
    x, y = operands(out, x, y)
    return _plus(x, _alpha_times(out, y, alpha))


@lowers(aten.sub.Tensor, aten.sub.Scalar)
def _sub(out, x, y, alpha=1):
    x, y = operands(out, x, y)
    return lax.sub(x, _alpha_times(out, y, alpha))


@lowers(aten.rsub.Tensor, aten.rsub.Scalar)
def _rsub(out, x, y, alpha=1):
    return _sub(out, y, x, alpha)


def _floor_divided(x: jax.Array, y: jax.Array) -> jax.Array:
    """Divide as torch does: the quotient is a whole number even where x / y rounds to one from below."""
    rest = lax.rem(x, y)
    zero = like(x, 0)
    if not is_signed(x):
        return lax.div(x, y)
    astray = lax.bitwise_and(lax.ne(rest, zero), lax.ne(lax.lt(rest, zero), lax.lt(y, zero)))
    if not is_float(x):
        quotient = lax.div(x, y)
        return where(astray, lax.sub(quotient, like(x, 1)), quotient)
    quotient = lax.div(lax.sub(x, rest), y)
    quotient = where(astray, lax.sub(quotient, like(x, 1)), quotient)
    whole = lax.floor(quotient)
    whole = where(lax.gt(lax.sub(quotient, whole), like(x, 0.5)), lax.add(whole, like(x, 1)), whole)
    plain = lax.div(x, y)
    whole = where(lax.eq(quotient, zero), _copysign(zero, plain), whole)
    return where(lax.eq(y, zero), plain, whole)


def _remainder(x: jax.Array, y: jax.Array) -> jax.Array:
    rest = lax.rem(x, y)
    if not is_signed(x):
        return rest
    zero = like(x, 0)
    astray = lax.bitwise_and(lax.ne(rest, zero), lax.ne(lax.lt(rest, zero), lax.lt(y, zero)))
    return where(astray, lax.add(rest, y), rest)


@lowers(aten.div.Tensor_mode, aten.div.Scalar_mode)
def _div_mode(out, x, y, rounding_mode=None):
    x, y = unrounded(out, x, y)
    if rounding_mode == "floor":
        return _floor_divided(x, y)
    quotient = lax.div(x, y)
    return _trunc(quotient) if rounding_mode == "trunc" and is_float(x) else quotient


def _trunc(x: jax.Array) -> jax.Array:
    if not is_float(x):
        return x
    return where(lax.lt(x, like(x, 0)), lax.ceil(x), lax.floor(x))


def _int_power(x: jax.Array, n: int) -> jax.Array:
    """Return x ** n of whole numbers, n negative too: 1 and -1 are the only bases that do not give 0 then."""
    if n >= 0:
        return lax.integer_pow(x, n)
    one = like(x, 1)
    unit = where(lax.eq(x, one), one, like(x, 0))
    return where(lax.eq(x, lax.neg(one)), like(x, -1 if n % 2 else 1), unit) if is_signed(x) else unit


def _power(x: jax.Array, y: jax.Array) -> jax.Array:
    if is_float(x):
        return lax.pow(x, y)
    if is_bool(x):
        return lax.bitwise_or(x, lax.bitwise_not(y))
    one, zero = like(x, 1), like(x, 0)

    def squared(state):
        result, base, exponent = state
        odd = lax.ne(lax.bitwise_and(exponent, one), zero)
        return where(odd, lax.mul(result, base), result), lax.mul(base, base), lax.shift_right_logical(exponent, one)

    def unfinished(state):
        return jnp.any(lax.ne(state[2], zero))

    exponent = where(lax.lt(y, zero), zero, y) if is_signed(x) else y
    result, _, _ = lax.while_loop(unfinished, squared, (one, x, exponent))
    if not is_signed(x):
        return result
    sign = where(lax.ne(lax.bitwise_and(y, one), zero), x, one)
    unit = lax.le(lax.abs(x), one)
    negative = where(lax.bitwise_and(unit, lax.ne(x, zero)), sign, zero)
    return where(lax.lt(y, zero), negative, result)


@lowers(aten.pow.Tensor_Scalar)
def _pow_scalar(out, x, exponent):
    (x,) = operands(out, x)
    if is_bool(x):
        return x if exponent else like(x, True)
    if not is_float(x):
        return _int_power(x, int(exponent))
    if exponent in (3, -2) and out.dtype == torch.bfloat16:  # whose square torch rounds
        (square,) = operands(out, cast(lax.square(x), out.dtype))
        return lax.mul(square, x) if exponent == 3 else lax.div(like(x, 1), square)
    if exponent in (0, 1, 2, 3):
        return lax.integer_pow(x, int(exponent))
    if exponent == 0.5:
        return lax.sqrt(x)
    if exponent in (-0.5, -1, -2):
        root = {-0.5: lax.sqrt, -1: lambda x: x, -2: lax.square}[float(exponent)](x)
        return lax.div(like(x, 1), root)
    return lax.pow(x, *operands(out, exponent))


enter({aten.pow.Tensor_Tensor: _power, aten.pow.Scalar: _power})


@lowers(aten.lerp.Scalar, aten.lerp.Tensor)
def _lerp(out, start, end, weight):
    start, end, weight = unrounded(out, start, end, weight)
    way = lax.sub(end, start)
    late = lax.sub(end, lax.mul(way, lax.sub(like(weight, 1), weight)))
    return where(lax.lt(lax.abs(weight), like(weight, 0.5)), lax.add(start, lax.mul(weight, way)), late)


@lowers(aten.addcmul.default)
def _addcmul(out, x, y, z, value=1):
    x, y, z = operands(out, x, y, z)
    return _plus(x, _times(_scaled(y, value), z))


@lowers(aten.addcdiv.default)
def _addcdiv(out, x, y, z, value=1):
    x, y, z = operands(out, x, y, z)
    return lax.add(x, lax.div(_scaled(y, value), z))


# One operand


def _if_float(f: Any) -> Any:
    return lambda x: f(x) if is_float(x) else x


def _sign(x: jax.Array) -> jax.Array:
    if not is_signed(x):
        return x if is_bool(x) else where(lax.eq(x, like(x, 0)), x, 1)
    if not is_float(x):
        return lax.sign(x)
    zero = like(x, 0)  # of -0.0 and of NaN
    return where(lax.gt(x, zero), 1, where(lax.lt(x, zero), -1, zero))


def _round(x: jax.Array) -> jax.Array:
    return lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)


@lowers(aten.round.decimals)
def _round_decimals(out, x, decimals=0):
    (x,) = operands(out, x)
    if not is_float(x):
        return x
    ten = like(x, 10.0 ** abs(decimals))
    if decimals == 0:
        return _round(x)
    return lax.mul(_round(lax.div(x, ten)), ten) if decimals < 0 else lax.div(_round(lax.mul(x, ten)), ten)


def _angle(x: jax.Array) -> jax.Array:
    return where(lax.ne(x, x), x, where(lax.lt(x, like(x, 0)), math.pi, like(x, 0))) if is_signed(x) else like(x, 0)


def _abs(x: jax.Array) -> jax.Array:
    return lax.abs(x) if is_signed(x) else x


def _fmax(x: jax.Array, y: jax.Array) -> jax.Array:
    return where(lax.ne(x, x), y, where(lax.ne(y, y), x, lax.max(x, y)))


def _fmin(x: jax.Array, y: jax.Array) -> jax.Array:
    return where(lax.ne(x, x), y, where(lax.ne(y, y), x, lax.min(x, y)))


def _hypot(x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = lax.abs(x), lax.abs(y)
    longer, shorter = lax.max(x, y), lax.min(x, y)
    zero = lax.eq(longer, like(x, 0))
    ratio = lax.div(shorter, where(zero, 1, longer))
    length = lax.mul(longer, lax.sqrt(lax.add(like(x, 1), lax.square(ratio))))
    infinite = lax.bitwise_or(lax.eq(x, like(x, math.inf)), lax.eq(y, like(x, math.inf)))
    return where(infinite, math.inf, where(zero, longer, length))


def _copysign(x: jax.Array, y: jax.Array) -> jax.Array:
    size = lax.abs(x)
    return where(signbit(y), lax.neg(size), size)


def _gcd(x: jax.Array, y: jax.Array) -> jax.Array:
    """Euclid's algorithm. The lowest number, which has no absolute value, stays as it is: a divisor of it can be negative, as torch's."""

    def unfinished(state):
        return jnp.any(lax.ne(state[0], zero))

    def divided(state):
        small, large = state
        done = lax.eq(small, zero)
        return where(done, zero, lax.rem(large, where(done, 1, small))), where(done, large, small)

    zero = like(x, 0)
    return lax.while_loop(unfinished, divided, (_abs(x), _abs(y)))[1]


def _lcm(x: jax.Array, y: jax.Array) -> jax.Array:
    divisor = _gcd(x, y)
    if x.dtype.itemsize < 4:  # C multiplies them as int32
        x, y, divisor = (lax.convert_element_type(n, jnp.int32) for n in (x, y, divisor))
    zero = lax.eq(divisor, like(x, 0))
    return where(zero, 0, _abs(lax.mul(lax.div(x, where(zero, 1, divisor)), y)))


enter(
    {
        aten.mul.Tensor: _times,
        aten.mul.Scalar: _times,
        aten.div.Tensor: lax.div,
        aten.div.Scalar: lax.div,
        aten.floor_divide.default: _floor_divided,
        aten.floor_divide.Scalar: _floor_divided,
    },
    unrounded,
)
enter(
    {
        aten.remainder.Tensor: _remainder,
        aten.remainder.Scalar: _remainder,
        aten.remainder.Scalar_Tensor: _remainder,
        aten.fmod.Tensor: lax.rem,
        aten.fmod.Scalar: lax.rem,
        aten.maximum.default: lax.max,
        aten.minimum.default: lax.min,
        aten.fmax.default: _fmax,
        aten.fmin.default: _fmin,
        aten.hypot.default: _hypot,
        aten.copysign.Tensor: _copysign,
        aten.copysign.Scalar: _copysign,
        aten.gcd.default: _gcd,
        aten.lcm.default: _lcm,
        aten.neg.default: lax.neg,
        aten.abs.default: _abs,
        aten.sign.default: _sign,
        aten.sgn.default: _sign,
        aten.angle.default: _angle,
        aten.floor.default: _if_float(lax.floor),
        aten.ceil.default: _if_float(lax.ceil),
        aten.trunc.default: _trunc,
        aten.round.default: _if_float(_round),
        aten.frac.default: lambda x: lax.sub(x, _trunc(x)),
        aten.sqrt.default: lax.sqrt,
        aten.rsqrt.default: lax.rsqrt,
        aten.deg2rad.default: lambda x: lax.mul(x, like(x, math.pi / 180)),
        aten.rad2deg.default: lambda x: lax.mul(x, like(x, 180 / math.pi)),
        aten.reciprocal.default: lambda x: lax.div(like(x, 1), x),
    }
)


@lowers(aten.nextafter.default)
def _nextafter(out, x, y):
    return lax.nextafter(broadcast(x, out.dtype, tuple(out.shape)), broadcast(y, out.dtype, tuple(out.shape)))


@lowers(aten.frexp.Tensor)
def _frexp(out, x):
    (x,) = operands(out[0], x)
    exponent = {4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
    bits, mask, bias = {4: (23, 0xFF, 126), 8: (52, 0x7FF, 1022)}[x.dtype.itemsize]
    tiny = lax.bitwise_and(lax.lt(lax.abs(x), like(x, float(jnp.finfo(x.dtype).tiny))), lax.ne(x, like(x, 0)))
    pattern = lax.bitcast_convert_type(where(tiny, lax.mul(x, like(x, 2.0**bits)), x), exponent)
    power = lax.bitwise_and(lax.shift_right_logical(pattern, like(pattern, bits)), like(pattern, mask))
    mantissa = lax.bitwise_or(lax.bitwise_and(pattern, like(pattern, ~(mask << bits))), like(pattern, bias << bits))
    special = lax.bitwise_or(lax.eq(x, like(x, 0)), lax.eq(power, like(power, mask)))
    power = lax.sub(power, where(tiny, like(power, bias + bits), bias))
    return where(special, x, lax.bitcast_convert_type(mantissa, x.dtype)), where(special, 0, power)
