"""Softmax and norms."""

import math

import jax.numpy as jnp
import torch
from jax import lax

from funrl.compiler._lowerings._reductions import along, highest, lowest, others, shaped, total, wide
from funrl.compiler._lowerings._table import axes, axis, cast, lowers, torch_dtype

aten = torch.ops.aten


def _shifted(x, dims):
    """Return ``x`` minus its maximum over ``dims``, and the dimensions that are kept."""
    kept = others(dims, x.ndim)
    return lax.sub(x, along(highest(x, dims), x, kept)), kept


def _widened(x):
    return wide(x, torch_dtype(x.dtype))


@lowers(aten._softmax.default)
def _softmax(out, x, dim, half_to_float=False):
    x, dims = wide(x, out.dtype), axes(dim, x.ndim)
    x, kept = _shifted(x, dims)
    weights = lax.exp(x)
    return lax.div(weights, along(total(weights, dims), x, kept))


@lowers(aten._log_softmax.default)
def _log_softmax(out, x, dim, half_to_float=False):
    x, dims = wide(x, out.dtype), axes(dim, x.ndim)
    x, kept = _shifted(x, dims)
    return lax.sub(x, along(lax.log(total(lax.exp(x), dims)), x, kept))


@lowers(aten._safe_softmax.default)
def _safe_softmax(out, x, dim, dtype=None):
    """Rows that are -inf everywhere give 0, not NaN."""
    x = wide(x, out.dtype)
    dims = axes(dim, x.ndim)
    peak = highest(x, dims)
    masked = along(lax.eq(peak, lax.full_like(peak, -math.inf)), x, others(dims, x.ndim))
    return lax.select(masked, lax.full_like(x, 0), _softmax(out, x, dim))


@lowers(aten._softmax_backward_data.default)
def _softmax_backward(out, grad, y, dim, input_dtype):
    grad, y = _widened(grad), _widened(y)
    dims = axes(dim, y.ndim)
    product = lax.mul(grad, y)
    return lax.sub(product, lax.mul(y, along(total(product, dims), y, others(dims, y.ndim))))


@lowers(aten._log_softmax_backward_data.default)
def _log_softmax_backward(out, grad, y, dim, input_dtype):
    grad, y = _widened(grad), _widened(y)
    dims = axes(dim, y.ndim)
    return lax.sub(grad, lax.mul(lax.exp(y), along(total(grad, dims), y, others(dims, y.ndim))))


@lowers(aten.logsumexp.default)
def _logsumexp(out, x, dim, keepdim=False):
    x = wide(x, out.dtype)
    dims = axes(dim, x.ndim)
    peak = highest(x, dims)
    peak = lax.select(lax.eq(lax.abs(peak), lax.full_like(peak, math.inf)), lax.full_like(peak, 0), peak)
    shifted = lax.sub(x, along(peak, x, others(dims, x.ndim)))
    return shaped(out, lax.add(lax.log(total(lax.exp(shifted), dims)), peak))


def _norm(x, order, dims):
    x = lax.abs(x)
    if order == 0:
        return total(cast(cast(x, torch.bool), torch_dtype(x.dtype)), dims)
    if order == math.inf:
        return highest(x, dims)
    if order == -math.inf:
        return lowest(x, dims)
    if order == 1:
        return total(x, dims)
    if order == 2:
        return lax.sqrt(total(lax.mul(x, x), dims))
    sums = total(lax.pow(x, lax.full_like(x, order)), dims)
    return lax.pow(sums, lax.full_like(sums, 1 / order))


@lowers(aten.linalg_vector_norm.default)
def _vector_norm(out, x, order=2, dim=None, keepdim=False, dtype=None):
    x = wide(x, out.dtype)
    return shaped(out, _norm(x, order, axes(dim, x.ndim)))


@lowers(aten.norm.Scalar, aten.norm.ScalarOpt_dim, aten.norm.ScalarOpt_dim_dtype)
def _norm_of(out, x, p=2, dim=None, keepdim=False, dtype=None):
    x = wide(x, out.dtype)
    return shaped(out, _norm(x, 2 if p is None else p, axes(dim, x.ndim)))


@lowers(aten.norm.ScalarOpt_dtype)
def _norm_dtype(out, x, p, dtype):
    return _norm_of(out, x, p)


@lowers(aten.dist.default)
def _dist(out, x, y, p=2):
    shape = jnp.broadcast_shapes(x.shape, y.shape)
    x, y = wide(x, out.dtype), wide(y, out.dtype)
    return _norm(lax.sub(jnp.broadcast_to(x, shape), jnp.broadcast_to(y, shape)), p, tuple(range(len(shape))))


@lowers(aten.renorm.default)
def _renorm(out, x, p, dim, maxnorm):
    """Slices of a greater norm are scaled down to ``maxnorm``; torch adds 1e-7 to the norm that it divides by."""
    dim, y = axis(dim, x.ndim), wide(x, out.dtype)
    norm = _norm(y, p, others((dim,), x.ndim))
    limit = lax.full_like(norm, maxnorm)
    scale = lax.select(lax.gt(norm, limit), lax.div(limit, lax.add(norm, lax.full_like(norm, 1e-7))), lax.full_like(norm, 1))
    return lax.mul(y, along(scale, y, (dim,)))
