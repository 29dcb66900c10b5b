"""Orthogonal polynomials of a degree that may differ from element to element."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import torch
from jax import lax

from funrl.compiler._lowerings._operands import enter, like, where

aten = torch.ops.aten


def _recurred(first: jax.Array, degree: jax.Array, step: Callable[..., jax.Array]) -> jax.Array:
    """Return the polynomial of ``degree``: 1 at degree 0, ``first`` at 1, then ``step(m, last, before)`` for m = 2, 3, ..."""

    def is_active(m, last):
        return (degree >= m) & (last == last)

    def unfinished(state):
        m, last, _ = state
        return jnp.any(is_active(m, last))

    def with_next(state):
        m, last, before = state
        active = is_active(m, last)
        k = lax.convert_element_type(m, last.dtype)
        return m + 1, where(active, step(k, last, before), last), where(active, last, before)

    _, result, _ = lax.while_loop(unfinished, with_next, (jnp.int64(2), first, like(first, 1)))
    return where(degree == 0, 1, where(degree < 0, 0, result))


def _degree(x: jax.Array, n: jax.Array) -> jax.Array:
    """Return degrees as whole numbers; those that are not finite count as negative."""
    return lax.convert_element_type(where(lax.is_finite(n), n, -1), jnp.int64)


def _chebyshev(kind: str, limit: int, is_shifted: bool) -> Callable[..., jax.Array]:
    """Return a Chebyshev polynomial; inside [-1, 1], degrees above ``limit`` are computed by angles, as torch computes them."""

    def f(x, n):
        degree = _degree(x, n)
        x = x + x - 1.0 if is_shifted else x
        angle, n = lax.acos(x), lax.convert_element_type(degree, x.dtype)
        one = like(x, 1)
        first, closed, at_one, at_minus_one = {
            "t": lambda: (x, lax.cos(n * angle), one, one),
            "u": lambda: (x + x, lax.sin((n + 1.0) * angle) / lax.sin(angle), n + 1.0, n + 1.0),
            "v": lambda: (x + x - 1.0, lax.cos((n + 0.5) * angle) / lax.cos(angle / 2.0), one, 2.0 * n + 1.0),
            "w": lambda: (x + x + 1.0, lax.sin((n + 0.5) * angle) / lax.sin(angle / 2.0), 2.0 * n + 1.0, one),
        }[kind]()
        closed = where(x == 1.0, at_one, closed)
        closed = where(x == -1.0, where(degree % 2 == 0, at_minus_one, lax.neg(at_minus_one)), closed)
        is_closed = (degree > limit) & (lax.abs(x) <= 1.0)
        result = _recurred(first, where(is_closed, 0, degree), lambda m, last, before: (x + x) * last - before)
        return where(is_closed, closed, result)

    return f


def _hermite(factor: float) -> Callable[..., jax.Array]:
    """Return the Hermite polynomials of the physicist (``factor`` 2) or of the probabilist (1)."""

    def f(x, n):
        degree = _degree(x, n)
        too_high = degree > {4: 128, 8: 512}[x.dtype.itemsize]
        x = factor * x
        result = _recurred(x, where(too_high, 0, degree), lambda m, last, before: x * last - factor * (m - 1.0) * before)
        return where(too_high, math.nan, result)

    return f


def _laguerre(x, n):
    def step(m, last, before):
        return ((2.0 * (m - 1.0) + (1.0 - x)) * last - (m - 1.0) * before) / m

    return _recurred(1.0 - x, where(x == 0, lax.min(_degree(x, n), jnp.full(x.shape, 1)), _degree(x, n)), step)


def _legendre(x, n):
    return _recurred(x, _degree(x, n), lambda m, last, before: ((2.0 * m - 1.0) * x * last - (m - 1.0) * before) / m)


_polynomials = {
    "hermite_polynomial_h": _hermite(2.0),
    "hermite_polynomial_he": _hermite(1.0),
    "laguerre_polynomial_l": _laguerre,
    "legendre_polynomial_p": _legendre,
}
for _kind, _limit, _shifted_limit in (("t", 6, 6), ("u", 8, 6), ("v", 8, 6), ("w", 8, 4)):
    _polynomials[f"chebyshev_polynomial_{_kind}"] = _chebyshev(_kind, _limit, is_shifted=False)
    _polynomials[f"shifted_chebyshev_polynomial_{_kind}"] = _chebyshev(_kind, _shifted_limit, is_shifted=True)
for _name, _f in _polynomials.items():
    _packet = getattr(aten, f"special_{_name}")
    enter({_packet.default: _f, _packet.x_scalar: _f, _packet.n_scalar: _f})
