"""Pointwise functions of analysis: exponentials, logarithms, trigonometry, the error and gamma functions."""

import math

import jax
import jax.numpy as jnp
import torch
from jax import lax

from funrl.compiler._lowerings._operands import enter, like, operands, where
from funrl.compiler._lowerings._table import lowers

aten = torch.ops.aten


def _log_base(base: float):
    return lambda x: lax.mul(lax.log(x), like(x, 1 / math.log(base)))


def log_add_exp(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return log(exp(x) + exp(y))."""
    longer = lax.max(x, y)
    both = lax.add(longer, lax.log1p(lax.exp(lax.neg(lax.abs(lax.sub(x, y))))))
    return where(lax.bitwise_and(lax.eq(x, y), lax.eq(lax.abs(x), like(x, math.inf))), x, both)


def _x_log(log):
    def f(out, x, y):
        x, y = operands(out, x, y)
        (logarithm,) = operands(out, log(y))  # half precision of torch rounds it
        zero = where(lax.eq(x, like(x, 0)), 0, lax.mul(x, logarithm))
        return where(lax.ne(y, y), math.nan, zero)

    return f


lowers(aten.xlogy.Tensor, aten.xlogy.Scalar_Other, aten.xlogy.Scalar_Self)(_x_log(lax.log))
lowers(aten.special_xlog1py.default, aten.special_xlog1py.other_scalar, aten.special_xlog1py.self_scalar)(_x_log(lax.log1p))


def _power_of_two(n: jax.Array) -> jax.Array:
    """Return 2 ** n exactly, for whole numbers held as floating-point numbers from -126 to 127."""
    word, bits, bias = {4: (jnp.int32, 23, 127), 8: (jnp.int64, 52, 1023)}[n.dtype.itemsize]
    pattern = lax.convert_element_type(n, word)
    return lax.bitcast_convert_type(lax.shift_left(lax.add(pattern, like(pattern, bias)), like(pattern, bits)), n.dtype)


def exp2(x: jax.Array) -> jax.Array:
    """Return 2 ** x, exactly where x is a whole number."""
    largest = {4: 250.0, 8: 2040.0}[x.dtype.itemsize]
    whole = lax.floor(lax.min(lax.max(x, like(x, -largest)), like(x, largest)))
    half = lax.floor(lax.mul(whole, like(x, 0.5)))
    rest = lax.exp(lax.mul(lax.min(lax.sub(x, whole), like(x, 1)), like(x, math.log(2))))
    return lax.mul(lax.mul(rest, _power_of_two(half)), _power_of_two(lax.sub(whole, half)))


def _ldexp(x: jax.Array, exponent: jax.Array) -> jax.Array:
    return lax.mul(x, exp2(exponent))


def _hyperbolic_halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return exp(x) / 2 and exp(-x) / 2; exp(x) itself may be infinite."""
    root, half = lax.exp(lax.mul(x, like(x, 0.5))), like(x, 0.5)
    return lax.mul(lax.mul(half, root), root), lax.div(lax.div(half, root), root)


def _cosh(x: jax.Array) -> jax.Array:
    return lax.add(*_hyperbolic_halves(lax.abs(x)))


def _sinh(x: jax.Array) -> jax.Array:
    size = lax.abs(x)
    large = lax.sub(*_hyperbolic_halves(size))
    return where(lax.lt(size, like(x, 1)), lax.sinh(x), where(lax.lt(x, like(x, 0)), lax.neg(large), large))


@lowers(aten.logit.default)
def _logit(out, x, eps=None):
    (x,) = operands(out, x)
    if eps is not None:
        x = where(lax.lt(x, like(x, eps)), eps, where(lax.gt(x, like(x, 1 - eps)), 1 - eps, x))
    return lax.log(lax.div(x, lax.sub(like(x, 1), x)))


def _grown(bessel):
    """Return a Bessel function of its exponentially scaled form."""
    return lambda x: lax.mul(lax.exp(lax.abs(x)), bessel(x))


enter(
    {
        aten.i0.default: _grown(lax.bessel_i0e),
        aten.special_i0e.default: lax.bessel_i0e,
        aten.special_i1.default: _grown(lax.bessel_i1e),
        aten.special_i1e.default: lax.bessel_i1e,
        aten.exp.default: lax.exp,
        aten.exp2.default: exp2,
        aten.expm1.default: lax.expm1,
        aten.ldexp.Tensor: _ldexp,
        aten.log.default: lax.log,
        aten.log1p.default: lax.log1p,
        aten.log2.default: _log_base(2),
        aten.log10.default: _log_base(10),
        aten.logaddexp.default: log_add_exp,
        aten.sin.default: lax.sin,
        aten.cos.default: lax.cos,
        aten.tan.default: lax.tan,
        aten.asin.default: lax.asin,
        aten.acos.default: lax.acos,
        aten.atan.default: lax.atan,
        aten.atan2.default: lax.atan2,
        aten.sinh.default: _sinh,
        aten.cosh.default: _cosh,
        aten.tanh.default: lax.tanh,
        aten.asinh.default: lax.asinh,
        aten.acosh.default: lax.acosh,
        aten.atanh.default: lax.atanh,
        aten.sigmoid.default: lax.logistic,
        aten.erf.default: lax.erf,
        aten.erfc.default: lax.erfc,
        aten.erfinv.default: lax.erf_inv,
        aten.lgamma.default: lax.lgamma,
    }
)
