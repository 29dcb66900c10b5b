"""Operators that look elements up in sorted numbers, and that count them."""

import jax
import jax.numpy as jnp
import torch
from jax import lax

from funrl.compiler._lowerings._table import cast, constant, lowers, torch_dtype

aten = torch.ops.aten
_FEW = 64
_FLAT = lax.GatherDimensionNumbers(offset_dims=(), collapsed_slice_dims=(0,), start_index_map=(0,))


def taken(x, index):
    """Return the elements of ``x`` [N] at ``index``, an array of integers; indices out of range are clipped."""
    index = lax.reshape(index, (*index.shape, 1))
    return lax.gather(x, index, _FLAT, slice_sizes=(1,), mode=lax.GatherScatterMode.CLIP)


def _all_compared(goes_right, rows, values):
    """Return how many boundaries [R, N] each value [R, M] is to the right of: N comparisons for each, but no loads at random."""
    shape = (*values.shape, rows.shape[1])
    hit = goes_right(lax.broadcast_in_dim(rows, shape, (0, 2)), lax.broadcast_in_dim(values, shape, (0, 1)))
    return lax.reduce_sum(lax.convert_element_type(hit, jnp.int32), (2,))


def _bisected(goes_right, rows, values):
    """Return the same by a binary search that takes the steps of torch's."""
    n = rows.shape[1]
    flat = lax.reshape(rows, (rows.size,))
    offset = lax.mul(lax.broadcasted_iota(jnp.int64, values.shape, 0), lax.full(values.shape, n, jnp.int64))
    low, high = lax.full_like(offset, 0), lax.full_like(offset, n)
    for _ in range(n.bit_length()):
        middle = lax.shift_right_arithmetic(lax.add(low, high), lax.full_like(low, 1))
        right = goes_right(taken(flat, lax.add(offset, middle)), values)
        open_ = lax.lt(low, high)
        low = lax.select(lax.bitwise_and(open_, right), lax.add(middle, lax.full_like(middle, 1)), low)
        high = lax.select(lax.bitwise_and(open_, lax.bitwise_not(right)), middle, high)
    return low


def _searched(out, boundaries, values, right):
    if not isinstance(values, jax.Array):
        dtype = torch_dtype(boundaries.dtype)
        if isinstance(values, float) and not dtype.is_floating_point:
            dtype = torch.get_default_dtype()
        values = constant(values, dtype)
    dtype = torch.promote_types(torch_dtype(boundaries.dtype), torch_dtype(values.dtype))
    boundaries, values = cast(boundaries, dtype), cast(values, dtype)
    n = boundaries.shape[-1]
    shape = tuple(out.shape)
    if boundaries.size == 0 or values.size == 0:
        return constant(0, out.dtype, shape)
    rows = lax.reshape(boundaries, (boundaries.size // n, n))
    values = lax.reshape(values, (rows.shape[0], values.size // rows.shape[0]))

    def goes_right(boundary, value):
        return lax.bitwise_not((lax.gt if right else lax.ge)(boundary, value))

    return lax.reshape((_all_compared if n <= _FEW else _bisected)(goes_right, rows, values), shape)


@lowers(aten.searchsorted.Tensor, aten.searchsorted.Scalar)
def _searchsorted(out, boundaries, values, out_int32=False, right=False, side=None, sorter=None):
    if sorter is not None:
        boundaries = jnp.take_along_axis(boundaries, sorter, axis=-1, mode="clip")
    return _searched(out, boundaries, values, right or side == "right")


@lowers(aten.bucketize.Tensor, aten.bucketize.Scalar)
def _bucketize(out, values, boundaries, out_int32=False, right=False):
    return _searched(out, boundaries, values, right)


def counted(index, valid, n, weights):
    """Return [n]: the sum of ``weights`` [M] at each ``index`` [M] that is ``valid``."""
    index = lax.select(valid, index, lax.full_like(index, n))
    return lax.full((n,), 0, weights.dtype).at[index].add(weights, mode="drop")


@lowers(aten.histc.default)
def _histc(out, x, bins=100, min=0, max=0):
    """Elements outside the range, and NaN, are not counted."""
    if x.size == 0:
        return constant(0, out.dtype, tuple(out.shape))
    dtype = out.dtype if out.is_floating_point() else torch.float32
    x = cast(lax.reshape(x, (x.size,)), dtype)
    low, high = constant(min, dtype), constant(max, dtype)
    if min == max:
        low, high = lax.reduce_min(x, (0,)), lax.reduce_max(x, (0,))
    same, one = lax.eq(low, high), constant(1, dtype)
    low, high = lax.select(same, lax.sub(low, one), low), lax.select(same, lax.add(high, one), high)
    low, high = lax.broadcast(low, x.shape), lax.broadcast(high, x.shape)
    position = lax.div(lax.mul(lax.sub(x, low), lax.full_like(x, bins)), lax.sub(high, low))
    index = lax.min(lax.convert_element_type(position, jnp.int64), lax.full(x.shape, bins - 1, jnp.int64))
    return counted(index, lax.bitwise_and(lax.ge(x, low), lax.le(x, high)), bins, lax.full_like(x, 1))


@lowers(aten.bincount.default)
def _bincount(out, x, weights=None, minlength=0):
    x = cast(x, torch.int64)
    weights = cast(1 if weights is None else weights, out.dtype)
    return counted(x, lax.ge(x, lax.full_like(x, 0)), out.shape[0], lax.broadcast(weights, x.shape) if weights.ndim == 0 else weights)
