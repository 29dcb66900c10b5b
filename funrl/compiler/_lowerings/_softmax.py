"""Softmax and norms."""

import math

import torch
from jax import lax

from funrl.compiler._lowerings._reductions import along, highest, lowest, others, shaped, total, wide
from funrl.compiler._lowerings._table import axes, cast, lowers, torch_dtype

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


def norm(x, order, dims):
    """Return the norm of an order over ``dims``."""
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
    return shaped(out, norm(x, order, axes(dim, x.ndim)))
