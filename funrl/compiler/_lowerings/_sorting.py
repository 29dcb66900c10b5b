"""Operators that sort: sort, topk, order statistics and mode."""

import jax.numpy as jnp
import torch
from jax import lax

from funrl.compiler._lowerings._cumulative import highest_so_far, least
from funrl.compiler._lowerings._reductions import first, holds, shaped
from funrl.compiler._lowerings._table import axis, cast, lowers, torch_dtype

aten = torch.ops.aten
_BITS = {jnp.dtype("float32"): jnp.int32, jnp.dtype("float64"): jnp.int64}


def _turned(bits):
    """Return the bits of floats as integers in the order of the floats, and the reverse: only negative numbers change."""
    shift = lax.full_like(bits, 8 * bits.dtype.itemsize - 1)
    mask = lax.full_like(bits, jnp.iinfo(bits.dtype).max)
    return lax.bitwise_xor(bits, lax.bitwise_and(lax.shift_right_arithmetic(bits, shift), mask))


def _one_zero(x):
    """Return floats with one kind of zero and one kind of NaN, so that their bits have an order."""
    x = lax.select(lax.eq(x, lax.full_like(x, 0)), lax.full_like(x, 0), x)
    return lax.select(lax.ne(x, x), lax.full_like(x, jnp.nan), x)


def keys(x, descending=False):
    """Return integers in the order of torch: -0 equals 0, NaN is greatest. XLA sorts integers far faster than floats."""
    if x.dtype in (jnp.float16, jnp.bfloat16):
        x = lax.convert_element_type(x, jnp.float32)
    if x.dtype in _BITS:
        x = _turned(lax.bitcast_convert_type(_one_zero(x), _BITS[x.dtype]))
    elif x.dtype == bool:
        x = lax.convert_element_type(x, jnp.int32)
    elif x.dtype == jnp.uint64:
        x = lax.bitcast_convert_type(lax.bitwise_xor(x, lax.full_like(x, 1 << 63)), jnp.int64)
    return lax.bitwise_not(x) if descending else x


def unkeyed(key, dtype, descending=False):
    """Return the elements of a dtype of jax whose ``keys`` are given."""
    key = lax.bitwise_not(key) if descending else key
    if jnp.issubdtype(dtype, jnp.floating):
        wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
        return lax.convert_element_type(lax.bitcast_convert_type(_turned(key), wide), dtype)
    if dtype == jnp.uint64:
        key = lax.bitcast_convert_type(key, jnp.uint64)
        return lax.bitwise_xor(key, lax.full_like(key, 1 << 63))
    return cast(key, torch_dtype(dtype))


def ordered(x, dim, descending=False):
    """Return the elements of ``x`` in stable order along ``dim`` and their indices.

    Elements of up to 32 bits share an int64 with their index: XLA sorts one array of integers about five times faster than a pair.
    """
    if x.ndim == 0:
        return x, lax.full((), 0, jnp.int64)
    key = keys(x, descending)
    if key.dtype.itemsize == 8:
        key, index = lax.sort((key, lax.broadcasted_iota(jnp.int32, x.shape, dim)), dimension=dim, is_stable=True, num_keys=1)
        return unkeyed(key, x.dtype, descending), index
    key_dtype, key = key.dtype, lax.convert_element_type(key, jnp.int64)
    key = lax.shift_left(key, lax.full_like(key, 32))
    key = lax.sort(lax.bitwise_or(key, lax.broadcasted_iota(jnp.int64, x.shape, dim)), dimension=dim, is_stable=False)
    index = lax.bitwise_and(key, lax.full_like(key, 0xFFFFFFFF))
    key = lax.convert_element_type(lax.shift_right_arithmetic(key, lax.full_like(key, 32)), key_dtype)
    return unkeyed(key, x.dtype, descending), index


@lowers(aten.sort.default)
def _sort(out, x, dim=-1, descending=False):
    return ordered(x, axis(dim, x.ndim), descending)


@lowers(aten.sort.stable)
def _stable_sort(out, x, stable=None, dim=-1, descending=False):
    return ordered(x, axis(dim, x.ndim), descending)


@lowers(aten.topk.default)
def _topk(out, x, k, dim=-1, largest=True, sorted=True):
    if x.ndim == 0:
        return tuple(shaped(o, r) for o, r in zip(out, ordered(x, 0), strict=True))
    dim = axis(dim, x.ndim)
    if dim == x.ndim - 1 and x.size and x.dtype in (jnp.float32, jnp.float16, jnp.bfloat16):
        # XLA's own selection, several times faster than a sort, is for float32 and orders by bits: NaN is last on its side.
        x = _one_zero(lax.convert_element_type(x, jnp.float32))
        values, indices = lax.top_k(x if largest else lax.neg(x), k)
        return values if largest else lax.neg(values), indices
    values, indices = ordered(x, dim, descending=largest)
    return lax.slice_in_dim(values, 0, k, axis=dim), lax.slice_in_dim(indices, 0, k, axis=dim)


def _at(x, position, dim):
    """Return the element of each row of ``x`` along ``dim`` at ``position``: a number, or an array that lacks ``dim``."""
    if isinstance(position, int):
        return lax.index_in_dim(x, position, axis=dim, keepdims=False)
    kept = tuple(d for d in range(x.ndim) if d != dim)
    index = lax.broadcasted_iota(position.dtype, x.shape, dim)
    hit = lax.eq(index, lax.broadcast_in_dim(position, x.shape, kept))
    if x.dtype == bool:
        return lax.reduce_or(lax.bitwise_and(hit, x), (dim,))
    return lax.reduce_sum(lax.select(hit, x, lax.full_like(x, 0)), (dim,))


@lowers(aten.kthvalue.default)
def _kthvalue(out, x, k, dim=-1, keepdim=False):
    if x.ndim == 0:
        return ordered(x, 0)
    dim = axis(dim, x.ndim)
    values, indices = ordered(x, dim)
    return shaped(out[0], _at(values, k - 1, dim)), shaped(out[1], _at(indices, k - 1, dim))


def _median(x, dim, skip_nan):
    """Return the lower median along ``dim`` and its index; with NaN in a row: NaN, or the median of the rest."""
    values, indices = ordered(x, dim)
    half = (x.shape[dim] - 1) // 2
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return _at(values, half, dim), _at(indices, half, dim)
    nan = lax.ne(x, x)
    if skip_nan:
        count = lax.reduce_sum(lax.convert_element_type(lax.bitwise_not(nan), jnp.int32), (dim,))
        position = lax.max(lax.div(lax.sub(count, lax.full_like(count, 1)), lax.full_like(count, 2)), lax.full_like(count, 0))
        return _at(values, position, dim), _at(indices, position, dim)
    found = lax.reduce_or(nan, (dim,))
    value, index = _at(values, half, dim), _at(indices, half, dim)
    value = lax.select(found, lax.full_like(value, jnp.nan), value)
    return value, lax.select(found, lax.convert_element_type(first(nan, dim), index.dtype), index)


def _medians(over_all, over_dim, skip_nan):
    @lowers(over_all)
    def _(out, x):
        if x.size == 0:
            return lax.full((), jnp.nan if out.is_floating_point() else least(x.dtype) if x.dtype.itemsize > 2 else 0, x.dtype)
        return _median(lax.reshape(x, (x.size,)), 0, skip_nan)[0]

    @lowers(over_dim)
    def _(out, x, dim=-1, keepdim=False):
        if x.ndim == 0:
            return ordered(x, 0)
        value, index = _median(x, axis(dim, x.ndim), skip_nan)
        return shaped(out[0], value), shaped(out[1], index)


_medians(aten.median.default, aten.median.dim, skip_nan=False)
_medians(aten.nanmedian.default, aten.nanmedian.dim, skip_nan=True)


@lowers(aten.mode.default)
def _mode(out, x, dim=-1, keepdim=False):
    """Return the value of the first of the longest runs of equal elements in sorted order, and the last index of that run."""
    if x.ndim == 0:
        return ordered(x, 0)
    dim = axis(dim, x.ndim)
    values, indices = ordered(x, dim)
    index = lax.broadcasted_iota(jnp.int32, x.shape, dim)
    before = [(1, -1, 0) if d == dim else (0, 0, 0) for d in range(x.ndim)]
    starts = lax.ne(values, lax.pad(values, lax.full((), 0, x.dtype), before))
    length = lax.sub(index, highest_so_far(lax.select(starts, index, lax.full_like(index, 0)), dim))
    position = first(holds(length, lax.reduce_max(length, (dim,)), (dim,)), dim)
    return shaped(out[0], _at(values, position, dim)), shaped(out[1], _at(indices, position, dim))
