"""The gamma function's family, zeta, and the error function's scaled and inverse forms."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import torch
from jax import lax
from jax.scipy import special as jax_special

from funrl.compiler._lowerings._operands import chebyshev, enter, like, operands, where
from funrl.compiler._lowerings._table import lowers

aten = torch.ops.aten

# exp(x ** 2) * erfc(x) * (1 + 2 * x) as a Chebyshev series of (x - 3.75) / (x + 3.75), the idea of Shepherd and Laframboise (1981).
_ERFCX = (
    9.729574066701626e-20,
    2.6706260050636183e-20,
    -2.187392880138644e-18,
    -2.2370961931509366e-18,
    5.068146013060458e-17,
    7.418233442194908e-17,
    -1.2507950603417642e-15,
    -1.8645628767814072e-15,
    3.347811949739705e-14,
    3.2525481506828756e-14,
    -9.654696748073274e-13,
    1.945586855042697e-13,
    2.8687950109363422e-11,
    -6.31808834088002e-11,
    -7.754400208830589e-10,
    4.521959811218372e-09,
    1.0764999465671004e-08,
    -2.1886401049234386e-07,
    7.740383066198491e-07,
    4.13902798607301e-06,
    -6.916973302501207e-05,
    0.0004907758365258086,
    -0.002413163540417608,
    0.009074997670705265,
    -0.026658668435305753,
    0.05920993999819189,
    -0.08424913336651792,
    -0.004590054580646478,
    2.3551578691348034,
)


def erfcx(x: jax.Array) -> jax.Array:
    """Return exp(x ** 2) * erfc(x)."""
    size = lax.abs(x)
    t = 2.0 * (1.0 - 7.5 / (size + 3.75))
    result = chebyshev(t, _ERFCX) / (1.0 + 2.0 * size)
    return where(x < 0, 2.0 * lax.exp(x * x) - result, result)


def _digamma(x: jax.Array) -> jax.Array:
    """Return the digamma function: infinite at 0, with the sign that torch gives it, and undefined at negative whole numbers."""
    pole = where((x < 0) & (lax.floor(x) == x), math.nan, lax.digamma(x))
    return where(x == 0, -1.0 / x, pole)


def _trigamma(x: jax.Array) -> jax.Array:
    reflected = x < 0.5
    sine = lax.sin(math.pi * x)
    y = where(reflected, 1.0 - x, x)
    result = like(x, 0)
    for _ in range(6):
        result = result + 1.0 / (y * y)
        y = y + 1.0
    z = 1.0 / (y * y)
    result = result + (1.0 + 1.0 / (2.0 * y) + z * (1 / 6 - z * (1 / 30 - z / 42))) / y
    return where(reflected, math.pi**2 / (sine * sine) - result, result)


@lowers(aten.polygamma.default)
def _polygamma(out, n, x):
    (x,) = operands(out, x)
    if n < 2:
        return _trigamma(x) if n else _digamma(x)
    return _zeta(like(x, n + 1), x) * ((-1) ** (n + 1) * math.exp(math.lgamma(n + 1)))


# B(2k) / (2k)! inverted, k = 1, ..., 12: the corrections of the Euler-Maclaurin formula.
_ZETA = (
    12.0,
    -720.0,
    30240.0,
    -1209600.0,
    47900160.0,
    -1.8924375803183791606e9,
    7.47242496e10,
    -2.950130727918164224e12,
    1.1646782814350067249e14,
    -4.5979787224074726105e15,
    1.8152105401943546773e17,
    -7.1661652561756670113e18,
)


def _zeta(x: jax.Array, q: jax.Array) -> jax.Array:
    """Return the sum of (k + q) ** -x over k = 0, 1, ...: terms until k + q > 9, then the Euler-Maclaurin formula."""
    zero, one = like(x, 0), like(x, 1)

    def unfinished(state):
        i, a, _, _ = state
        return (i < 9) | jnp.any((a <= 9.0) & (a > -1e5))

    def with_term(state):
        i, a, b, s = state
        more = (a <= 9.0) | (i < 9)
        a = where(more, a + 1.0, a)
        b = where(more, lax.pow(a, -x), b)
        return i + 1, a, b, where(more, s + b, s)

    _, w, b, s = lax.while_loop(unfinished, with_term, (0, q, zero, lax.pow(q, -x)))
    s = s + b * w / (x - 1.0) - 0.5 * b
    factor, k = one, 0.0
    for c in _ZETA:
        factor, b = factor * (x + k), b / w
        s = s + where(b == 0, zero, factor * b / c)
        factor, b, k = factor * (x + (k + 1.0)), b / w, k + 2.0
    pole = where(lax.floor(q) == q, math.inf, where(lax.floor(x) == x, s, math.nan))
    s = where(q <= 0, pole, s)
    return where(x == 1.0, math.inf, where(x < 1.0, math.nan, s))


def _igamma(is_upper: bool) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return the regularised incomplete gamma function, computed in float64: jax's loses digits in float32 where ``a`` is large."""

    def f(a, x):
        a, x = (lax.convert_element_type(y, jnp.float64) for y in (a, x))
        at_zero, at_infinity = (1.0, 0.0) if is_upper else (0.0, 1.0)
        result = (lax.igammac if is_upper else lax.igamma)(a, x)
        result = where(x == math.inf, at_infinity, where(a == math.inf, at_zero, result))
        result = where(x == 0, at_zero, result)
        result = where(a == 0, where(x > 0, at_infinity, like(x, math.nan)), result)
        result = where((a == math.inf) & (x == math.inf), math.nan, result)
        return where((a < 0) | (x < 0) | (a != a) | (x != x), math.nan, result)

    return f


enter(
    {
        aten.special_erfcx.default: erfcx,
        aten.special_ndtri.default: jax_special.ndtri,
        aten.digamma.default: _digamma,
        aten.igamma.default: _igamma(False),
        aten.igammac.default: _igamma(True),
        aten.special_zeta.default: _zeta,
        aten.special_zeta.other_scalar: _zeta,
        aten.special_zeta.self_scalar: _zeta,
    }
)
