"""Operators that reduce: sums, means, extremes, truth, norms and softmax."""

import math

import jax.numpy as jnp
import torch
from jax import lax

from funrl.compiler._lowerings._table import axes, axis, cast, lowers

aten = torch.ops.aten
_HALVES = (torch.float16, torch.bfloat16)


def shaped(out, x):
    """Return ``x`` in the shape of ``out``, which depends on ``keepdim``."""
    return x if x.shape == tuple(out.shape) else lax.reshape(x, tuple(out.shape))


def wide(x, dtype):
    """Return ``x`` in the dtype that torch accumulates in: float32 for halves, else ``dtype`` itself."""
    return cast(x, torch.float32 if dtype in _HALVES else dtype)


def along(x, like, kept):
    """Return ``x`` repeated along the dimensions of ``like`` that it lacks, those that are not ``kept``."""
    return lax.broadcast_in_dim(x, like.shape, kept)


def others(dims, ndim):
    """Return the dimensions that are not among ``dims``."""
    return tuple(d for d in range(ndim) if d not in dims)


def size(x, dims):
    """Return how many elements a reduction over ``dims`` joins."""
    return math.prod(x.shape[d] for d in dims)


def total(x, dims):
    """Return the sum of ``x`` over ``dims``."""
    return lax.reduce_sum(x, dims)


def highest(x, dims):
    """Return the greatest element over ``dims``; NaN is greater than all."""
    return lax.reduce_or(x, dims) if x.dtype == bool else lax.reduce_max(x, dims)


def lowest(x, dims):
    """Return the least element over ``dims``; NaN is less than all."""
    return lax.reduce_and(x, dims) if x.dtype == bool else lax.reduce_min(x, dims)


def first(hit, dim):
    """Return the first index along ``dim`` at which ``hit`` is true; the last index where it never is."""
    index = lax.broadcasted_iota(jnp.int32, hit.shape, dim)
    return lax.reduce_min(lax.select(hit, index, lax.full_like(index, max(hit.shape[dim] - 1, 0))), (dim,))


def holds(x, extreme, dims):
    """Return where ``x`` equals its extreme over ``dims``; where the extreme is NaN, the NaNs."""
    hit = lax.eq(x, along(extreme, x, others(dims, x.ndim)))
    return lax.bitwise_or(hit, lax.ne(x, x)) if jnp.issubdtype(x.dtype, jnp.floating) else hit


@lowers(aten.sum.default, aten.sum.dim_IntList)
def _sum(out, x, dim=None, keepdim=False, dtype=None):
    return shaped(out, total(wide(x, out.dtype), axes(dim, x.ndim)))


@lowers(aten.prod.default)
def _prod(out, x, dtype=None):
    return lax.reduce_prod(wide(x, out.dtype), tuple(range(x.ndim)))


@lowers(aten.prod.dim_int)
def _prod_dim(out, x, dim, keepdim=False, dtype=None):
    return shaped(out, lax.reduce_prod(wide(x, out.dtype), axes(dim, x.ndim)))


def mean(x, dims):
    """Return the mean of floating ``x`` over ``dims``."""
    return lax.div(sums := total(x, dims), lax.full_like(sums, size(x, dims)))


@lowers(aten.mean.default)
def _mean(out, x, dtype=None):
    return mean(wide(x, out.dtype), tuple(range(x.ndim)))


@lowers(aten.mean.dim)
def _mean_dim(out, x, dim=None, keepdim=False, dtype=None):
    return shaped(out, mean(wide(x, out.dtype), axes(dim, x.ndim)))


def _variance(x, dim, correction):
    dims = axes(dim, x.ndim)
    centre = mean(x, dims)
    offset = lax.sub(x, along(centre, x, others(dims, x.ndim)))
    squares = total(lax.mul(offset, offset), dims)
    count = max(size(x, dims) - (1 if correction is None else correction), 0)
    return lax.div(squares, lax.full_like(squares, count)), centre


@lowers(aten.var.correction)
def _var(out, x, dim=None, correction=None, keepdim=False):
    return shaped(out, _variance(wide(x, out.dtype), dim, correction)[0])


@lowers(aten.std.correction)
def _std(out, x, dim=None, correction=None, keepdim=False):
    return shaped(out, lax.sqrt(_variance(wide(x, out.dtype), dim, correction)[0]))


@lowers(aten.var_mean.correction)
def _var_mean(out, x, dim=None, correction=None, keepdim=False):
    variance, centre = _variance(wide(x, out[0].dtype), dim, correction)
    return shaped(out[0], variance), shaped(out[1], centre)


def _extremes(f, over_all, over_dims, over_dim, arg):
    @lowers(over_all, over_dims)
    def _(out, x, dim=None, keepdim=False):
        return shaped(out, f(x, axes(dim, x.ndim)))

    @lowers(over_dim)
    def _(out, x, dim, keepdim=False):
        if x.ndim == 0:
            return x, lax.full((), 0, jnp.int64)
        dim = axis(dim, x.ndim)
        extreme = f(x, (dim,))
        return shaped(out[0], extreme), shaped(out[1], first(holds(x, extreme, (dim,)), dim))

    @lowers(arg)
    def _(out, x, dim=None, keepdim=False):
        if x.ndim == 0 or dim is None:
            x, dim = lax.reshape(x, (x.size,)), 0
        dim = axis(dim, x.ndim)
        return shaped(out, first(holds(x, f(x, (dim,)), (dim,)), dim))


_extremes(highest, aten.max.default, aten.amax.default, aten.max.dim, aten.argmax.default)
_extremes(lowest, aten.min.default, aten.amin.default, aten.min.dim, aten.argmin.default)


@lowers(aten.any.default, aten.any.dim, aten.any.dims)
def _any(out, x, dim=None, keepdim=False):
    return shaped(out, lax.reduce_or(cast(x, torch.bool), axes(dim, x.ndim)))


@lowers(aten.all.default, aten.all.dim, aten.all.dims)
def _all(out, x, dim=None, keepdim=False):
    return shaped(out, lax.reduce_and(cast(x, torch.bool), axes(dim, x.ndim)))


@lowers(aten.count_nonzero.default, aten.count_nonzero.dim_IntList)
def _count_nonzero(out, x, dim=None):
    return shaped(out, total(cast(cast(x, torch.bool), torch.int64), axes(dim, x.ndim)))


@lowers(aten.hash_tensor.default)
def _hash_tensor(out, x, dim=(), keepdim=False, mode=0):
    """Return the exclusive or of the bits of all elements, as float64 or int64."""
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    bits = lax.bitcast_convert_type(lax.convert_element_type(x, jnp.float64 if floating else jnp.int64), jnp.uint64)
    return shaped(out, lax.reduce_xor(bits, axes(dim, x.ndim)))
