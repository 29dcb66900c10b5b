"""Attention, and distances between rows."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._linalg import wide
from funrl.compiler._lowerings._normalisation import total
from funrl.compiler._lowerings._operands import expanded
from funrl.compiler._lowerings._softmax import norm
from funrl.compiler._lowerings._table import constant, lowers, torch_dtype

aten = torch.ops.aten


def _attended(q: Any, k: Any, v: Any, is_causal: bool, mask: Any, scale: float | None) -> tuple[Any, Any]:
    """Return the outputs [B, H, T, D] of attention, and the log of the sum of the exponentials of the scores.

    Groups of heads may share keys and values. A query that is masked everywhere gets zeros.
    """
    k, v = (jnp.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    scores = jnp.matmul(q, jnp.swapaxes(k, 2, 3), precision=lax.Precision.HIGHEST)
    scores = scores * (1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else scale)
    if is_causal:
        scores = jnp.where(jnp.tri(*scores.shape[2:], dtype=bool), scores, -jnp.inf)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf) if mask.dtype == np.bool_ else scores + mask.astype(scores.dtype)
    top = lax.stop_gradient(jnp.max(scores, axis=3, keepdims=True, initial=-jnp.inf))
    top = jnp.where(top == -jnp.inf, 0, top)
    weights = jnp.exp(scores - top)
    sums = jnp.sum(weights, axis=3, keepdims=True)
    y = jnp.matmul(weights / jnp.where(sums == 0, 1, sums), v, precision=lax.Precision.HIGHEST)
    return y, jnp.squeeze(top + jnp.log(sums), 3)


@lowers(aten._scaled_dot_product_flash_attention_for_cpu.default)
def _(
    out: Any, q: Any, k: Any, v: Any, dropout_p: float = 0.0, is_causal: bool = False, *, attn_mask: Any = None, scale: float | None = None
) -> Any:
    return _attended(wide(q), wide(k), wide(v), is_causal, attn_mask, scale)


@lowers(aten._scaled_dot_product_flash_attention_for_cpu_backward.default)
def _(
    out: Any, g: Any, q: Any, k: Any, v: Any, y: Any, logs: Any, dropout_p: float, is_causal: bool, *,
    attn_mask: Any = None, scale: float | None = None,
) -> Any:  # fmt: skip
    _, pull = jax.vjp(lambda *qkv: _attended(*qkv, is_causal, attn_mask, scale)[0], wide(q), wide(k), wide(v))
    return pull(wide(g))


def _norm_gradient(g: Any, difference: Any, distance: Any, p: float) -> Any:
    """Return the gradient of the p-norm with respect to ``difference``; ``g`` and ``distance`` lack its last dimension."""
    shape = difference.shape
    g, distance = (jnp.broadcast_to(jnp.expand_dims(x, -1), shape) for x in (g, distance))
    zero = lax.full_like(difference, 0)
    sign, size = lax.sign(difference), lax.abs(difference)
    if p == 0:
        return zero
    if p == 1:
        return lax.mul(g, sign)
    if p == math.inf:
        return lax.select(lax.eq(size, distance), lax.mul(g, sign), zero)
    safe = lax.select(lax.eq(distance, zero), lax.full_like(distance, 1), distance)
    if p == 2:
        direction = lax.div(difference, safe)
    else:
        power = constant(p - 1, torch_dtype(size.dtype), shape)
        direction = lax.mul(sign, lax.div(lax.pow(size, power), lax.pow(safe, power)))
        if p < 1:
            direction = lax.select(lax.eq(size, zero), zero, direction)
    return lax.select(lax.eq(distance, zero), zero, lax.mul(g, direction))


def _differences(x: Any, y: Any, lead: Any) -> Any:
    """Return [*lead, P, R, M]: each row of ``x`` less each of ``y``."""
    x, y = expanded(x, (*lead, *x.shape[-2:])), expanded(y, (*lead, *y.shape[-2:]))
    n = len(lead)
    shape = (*lead, x.shape[-2], y.shape[-2], x.shape[-1])
    rows = lax.broadcast_in_dim(x, shape, (*range(n), n, n + 2))
    return lax.sub(rows, lax.broadcast_in_dim(y, shape, (*range(n), n + 1, n + 2)))


@lowers(aten._cdist_forward.default)
def _(out: Any, x: Any, y: Any, p: float, compute_mode: int | None) -> Any:
    difference = _differences(x, y, np.broadcast_shapes(x.shape[:-2], y.shape[:-2]))
    return norm(difference, p, (difference.ndim - 1,))


@lowers(aten._cdist_backward.default)
def _(out: Any, g: Any, x: Any, y: Any, p: float, distance: Any) -> Any:
    lead = tuple(distance.shape[:-2])
    dx = total(_norm_gradient(g, _differences(x, y, lead), distance, p), (len(lead) + 1,))
    return dx if dx.shape == tuple(out.shape) else total(dx, tuple(range(len(lead)))).reshape(tuple(out.shape))


def _pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n, 1)


@lowers(aten._pdist_forward.default)
def _(out: Any, x: Any, p: float = 2.0) -> Any:
    first, second = _pairs(x.shape[0])
    return norm(lax.sub(x[first], x[second]), p, (1,))


@lowers(aten._pdist_backward.default)
def _(out: Any, g: Any, x: Any, p: float, distance: Any) -> Any:
    n = x.shape[0]
    first, second = _pairs(n)
    square = np.zeros((n, n), np.int64)
    square[first, second] = square[second, first] = np.arange(len(first))
    if not len(first):
        return lax.full(x.shape, 0, x.dtype)
    off = expanded(lax.ne(lax.broadcasted_iota(np.int32, (n, n), 0), lax.broadcasted_iota(np.int32, (n, n), 1)), (n, n))
    g, distance = (lax.select(off, v[square], lax.full((n, n), 0, v.dtype)) for v in (g, distance))
    return total(_norm_gradient(g, _differences(x, x, ()), distance, p), (1,))
