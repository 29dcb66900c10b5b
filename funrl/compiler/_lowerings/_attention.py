"""Attention, the losses whose gradients would scatter, and distances between rows."""

import math
from typing import Any

import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._linalg import scaled, spread, wide
from funrl.compiler._lowerings._normalisation import total
from funrl.compiler._lowerings._table import constant, lowers, torch_dtype

aten = torch.ops.aten


def _heads(x: Any, y: Any, contracted: tuple[int, int]) -> Any:
    """Return the products of the matrices of each head: [B, H, ., .]."""
    numbers = (((contracted[0],), (contracted[1],)), ((0, 1), (0, 1)))
    return lax.dot_general(x, y, numbers, precision=lax.Precision.HIGHEST)


def _repeated(x: Any, heads: int) -> Any:
    """Return keys or values [B, H', ...] for ``heads`` heads, groups of which share them."""
    if x.shape[1] == heads:
        return x
    b, h, *rest = x.shape
    return lax.reshape(lax.broadcast_in_dim(x, (b, h, heads // h, *rest), (0, 1, 3, 4)), (b, heads, *rest))


def _summed_heads(g: Any, heads: int) -> Any:
    if g.shape[1] == heads:
        return g
    b, h, *rest = g.shape
    return total(lax.reshape(g, (b, heads, h // heads, *rest)), (2,))


def _scores(q: Any, k: Any, is_causal: bool, mask: Any, scale: float | None) -> Any:
    factor = 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else scale
    scores = scaled(_heads(q, k, (3, 3)), factor)
    if is_causal:
        rows, columns = (lax.broadcasted_iota(np.int32, scores.shape, d) for d in (2, 3))
        scores = lax.select(lax.ge(rows, columns), scores, lax.full_like(scores, -math.inf))
    if mask is None:
        return scores
    if mask.dtype == np.bool_:
        return lax.select(spread(mask, scores.shape), scores, lax.full_like(scores, -math.inf))
    return lax.add(scores, spread(lax.convert_element_type(mask, scores.dtype), scores.shape))


def _kept(x: Any, shape: Any) -> Any:
    return lax.broadcast_in_dim(x, tuple(shape), tuple(range(x.ndim)))


def _softmax(scores: Any) -> tuple[Any, Any]:
    """Return the weights of the last dimension and the log of their sum; where all are -inf, weights are 0."""
    top = lax.reduce(scores, np.asarray(-np.inf, scores.dtype), lax.max, (3,))
    steady = lax.select(lax.eq(top, lax.full_like(top, -math.inf)), lax.full_like(top, 0), top)
    weights = lax.exp(lax.sub(scores, _kept(steady, scores.shape)))
    sums = total(weights, (3,))
    empty = lax.eq(sums, lax.full_like(sums, 0))
    divisor = lax.select(empty, lax.full_like(sums, 1), sums)
    return lax.div(weights, _kept(divisor, scores.shape)), lax.add(steady, lax.log(sums))


@lowers(aten._scaled_dot_product_flash_attention_for_cpu.default)
def _(
    out: Any, q: Any, k: Any, v: Any, dropout_p: float = 0.0, is_causal: bool = False, *, attn_mask: Any = None, scale: float | None = None
) -> Any:
    q, k, v = wide(q), _repeated(wide(k), q.shape[1]), _repeated(wide(v), q.shape[1])
    weights, logs = _softmax(_scores(q, k, is_causal, attn_mask, scale))
    return _heads(weights, v, (3, 2)), logs


@lowers(aten._scaled_dot_product_flash_attention_for_cpu_backward.default)
def _(
    out: Any,
    g: Any,
    q: Any,
    k: Any,
    v: Any,
    y: Any,
    logs: Any,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Any = None,
    scale: float | None = None,
) -> Any:
    g, q, y = wide(g), wide(q), wide(y)
    heads = k.shape[1]
    k, v = _repeated(wide(k), q.shape[1]), _repeated(wide(v), q.shape[1])
    factor = 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else scale
    weights, _ = _softmax(_scores(q, k, is_causal, attn_mask, scale))
    inner = lax.sub(_heads(g, v, (3, 3)), _kept(total(lax.mul(g, y), (3,)), weights.shape))
    inner = scaled(lax.mul(weights, inner), factor)
    return (
        _heads(inner, k, (3, 2)),
        _summed_heads(_heads(inner, q, (2, 2)), heads),
        _summed_heads(_heads(weights, g, (2, 2)), heads),
    )


def _chosen(target: Any, shape: Any, axis: int) -> Any:
    """Return [*shape]: True along ``axis`` at the class of ``target``."""
    others = tuple(d for d in range(len(shape)) if d != axis)
    target = lax.broadcast_in_dim(target, tuple(shape), others)
    return lax.eq(target, lax.broadcasted_iota(target.dtype, tuple(shape), axis))


def _class_weights(x: Any, target: Any, weight: Any, ignore_index: int, axis: int) -> Any:
    """Return the weight of each target: that of its class, and 0 where it is ignored."""
    counted = lax.ne(target, lax.full_like(target, ignore_index))
    if weight is None:
        return counted.astype(x.dtype)
    shape = (*target.shape, weight.shape[0])
    chosen = _chosen(target, shape, target.ndim)
    w = lax.broadcast_in_dim(lax.convert_element_type(weight, x.dtype), shape, (target.ndim,))
    w = total(lax.select(chosen, w, lax.full_like(w, 0)), (target.ndim,))
    return lax.select(counted, w, lax.full_like(w, 0))


def _class_axis(x: Any) -> int:
    return 0 if x.ndim == 1 else 1


@lowers(aten.nll_loss_forward.default, aten.nll_loss2d_forward.default)
def _(out: Any, x: Any, target: Any, weight: Any, reduction: int, ignore_index: int) -> Any:
    x, axis = wide(x), _class_axis(x)
    target = lax.reshape(target, ()) if x.ndim == 1 else target
    w = _class_weights(x, target, weight, ignore_index, axis)
    chosen = _chosen(target, x.shape, axis)
    picked = total(lax.select(chosen, x, lax.full_like(x, 0)), (axis,))
    losses = lax.neg(lax.select(lax.ne(w, lax.full_like(w, 0)), lax.mul(w, picked), lax.full_like(w, 0)))
    if reduction == 0 and x.ndim > 1:
        return losses, lax.full(tuple(out[1].shape), 0, x.dtype)
    every = tuple(range(w.ndim))
    weights, loss = total(w, every), total(losses, every)
    if reduction == 1:
        loss = lax.div(loss, weights)
    return lax.reshape(loss, tuple(out[0].shape)), weights


@lowers(aten.nll_loss_backward.default, aten.nll_loss2d_backward.default)
def _(out: Any, g: Any, x: Any, target: Any, weight: Any, reduction: int, ignore_index: int, weights: Any) -> Any:
    x, axis, g = wide(x), _class_axis(x), wide(g)
    target = lax.reshape(target, ()) if x.ndim == 1 else target
    w = _class_weights(x, target, weight, ignore_index, axis)
    if reduction == 1:
        g = lax.div(g, wide(weights))
    g = lax.reshape(g, ()) if x.ndim == 1 else g
    w = lax.neg(lax.mul(w, spread(g, w.shape)))
    w = lax.broadcast_in_dim(w, x.shape, tuple(d for d in range(x.ndim) if d != axis))
    return lax.select(_chosen(target, x.shape, axis), w, lax.full_like(x, 0))


def _norm(difference: Any, p: float) -> Any:
    """Return the p-norm over the last dimension."""
    size, last = lax.abs(difference), (difference.ndim - 1,)
    if p == 0:
        return total(lax.ne(size, lax.full_like(size, 0)).astype(size.dtype), last)
    if p == 1:
        return total(size, last)
    if p == 2:
        return lax.sqrt(total(lax.square(size), last))
    if p == math.inf:
        return lax.reduce(size, np.zeros((), size.dtype), lax.max, last)
    powers = total(lax.pow(size, constant(p, torch_dtype(size.dtype), size.shape)), last)
    return lax.pow(powers, constant(1 / p, torch_dtype(size.dtype), powers.shape))


def _norm_gradient(g: Any, difference: Any, distance: Any, p: float) -> Any:
    """Return the gradient of the p-norm with respect to ``difference``; ``g`` and ``distance`` lack its last dimension."""
    shape = difference.shape
    g, distance = _kept(g, shape), _kept(distance, shape)
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
    x, y = spread(x, (*lead, *x.shape[-2:])), spread(y, (*lead, *y.shape[-2:]))
    n = len(lead)
    shape = (*lead, x.shape[-2], y.shape[-2], x.shape[-1])
    rows = lax.broadcast_in_dim(x, shape, (*range(n), n, n + 2))
    return lax.sub(rows, lax.broadcast_in_dim(y, shape, (*range(n), n + 1, n + 2)))


@lowers(aten._cdist_forward.default)
def _(out: Any, x: Any, y: Any, p: float, compute_mode: int | None) -> Any:
    return _norm(_differences(x, y, np.broadcast_shapes(x.shape[:-2], y.shape[:-2])), p)


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
    return _norm(lax.sub(x[first], x[second]), p)


@lowers(aten._pdist_backward.default)
def _(out: Any, g: Any, x: Any, p: float, distance: Any) -> Any:
    n = x.shape[0]
    first, second = _pairs(n)
    square = np.zeros((n, n), np.int64)
    square[first, second] = square[second, first] = np.arange(len(first))
    if not len(first):
        return lax.full(x.shape, 0, x.dtype)
    off = spread(lax.ne(lax.broadcasted_iota(np.int32, (n, n), 0), lax.broadcasted_iota(np.int32, (n, n), 1)), (n, n))
    g, distance = (lax.select(off, v[square], lax.full((n, n), 0, v.dtype)) for v in (g, distance))
    return total(_norm_gradient(g, _differences(x, x, ()), distance, p), (1,))
