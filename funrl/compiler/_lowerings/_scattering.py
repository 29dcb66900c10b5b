"""Writing at places that tensors give: index_put, scatter and the like. Places out of range are left out, of equal ones the last wins."""

import math

import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._indexing import (
    aligned,
    counted_slice,
    is_mask,
    places_of,
    ranks,
    read,
    read_shape,
    rows_along,
    stacked,
    starts_of,
    window,
    wrapped,
)
from funrl.compiler._lowerings._shape import expanded
from funrl.compiler._lowerings._table import axis, cast, constant, lowers, torch_dtype

aten = torch.ops.aten

# One element a row is written by a select over all of them, which XLA fuses with what comes before and after, where the rows or the
# whole are as short as this; else by a scatter, which takes 10 ns an element.
_SHORT, _SMALL = 8, 2048
_SCATTERS = {
    "set": (lax.scatter, lambda x, update: update),
    "add": (lax.scatter_add, lax.add),
    "multiply": (lax.scatter_mul, lax.mul),
    "amax": (lax.scatter_max, lax.max),
    "amin": (lax.scatter_min, lax.min),
}
_OF_BOOLS = {"add": "amax", "multiply": "amin"}
_NAMES = {"sum": "add", "add": "add", "mean": "add", "prod": "multiply", "multiply": "multiply", "amax": "amax", "amin": "amin"}


def _kind(x, how):
    return _SCATTERS[_OF_BOOLS.get(how, how) if x.dtype == np.bool_ else how]


def write(x, dims, indices, updates, how="set"):
    """Return ``x`` with ``updates`` (of the shape that :func:`read` gives) written at index tensors along ascending ``dims``."""
    indices = aligned(x, dims, indices)
    if not updates.size or not x.size:
        return x
    if math.prod(indices[0].shape) == 1:
        sizes = [1 if d in dims else n for d, n in enumerate(x.shape)]
        return _put_block(x, starts_of(x, dims, indices), lax.reshape(updates, sizes), how)
    _, offset_dims = window(x, dims, indices[0].shape)
    numbers = lax.ScatterDimensionNumbers(offset_dims, tuple(dims), tuple(dims))
    return _kind(x, how)[0](x, stacked(indices), updates, numbers, mode="drop")


@lowers(aten.index_put.default)
def _index_put(out, x, indices, values, accumulate=False):
    """Write values, broadcast to the shape that the index would read."""
    how, values = "add" if accumulate else "set", cast(values, out.dtype)
    given = [i for i in indices if i is not None]
    if not given:
        return _kind(x, how)[1](x, expanded(values, x.shape))
    if len(given) == 1 and is_mask(given[0]):
        return _masked_put(x, [i is None for i in indices].index(False), given[0], values, how)
    count = None
    if any(map(is_mask, given)):
        dims, found = places_of(x, indices, 1)
        shape = read_shape(x, dims, np.broadcast_shapes(*(i.shape for i in found)))
        place, _ = window(x, dims, ())
        behind = x.ndim - len(dims) - place
        count = values.shape[values.ndim - 1 - behind] if values.ndim > behind else 1
        numbers = np.broadcast_shapes(*(i.shape for i in given if not is_mask(i)))
        count = numbers[-1] if numbers and numbers[-1] > 1 else None if count == 1 else count
    dims, found = places_of(x, indices, count)
    shape = read_shape(x, dims, np.broadcast_shapes(*(i.shape for i in found)))
    return write(x, dims, found, expanded(values, shape), how)


def _masked_put(x, dim, mask, values, how):
    """Write where a mask over some dimensions from ``dim`` is true: one value for all, or else the values one after another."""
    mask = lax.ne(mask, lax.full_like(mask, 0))
    behind = x.ndim - dim - mask.ndim
    if not values.size or not x.size:
        return x
    if values.ndim > behind:
        at = values.ndim - 1 - behind
        if values.shape[at] == 1:
            values = lax.reshape(values, (*values.shape[:at], *(1,) * mask.ndim, *values.shape[at + 1 :]))
        else:
            values = read(values, [at], [ranks(mask)])
    mask = lax.broadcast_in_dim(mask, x.shape, range(dim, dim + mask.ndim))
    return lax.select(mask, _kind(x, how)[1](x, expanded(values, x.shape)), x)


def write_along(x, dim, index, updates, how="set"):
    """Return ``x`` with ``updates``, cut to the shape of ``index``, written along ``dim`` as ``Tensor.scatter_`` does."""
    if not x.ndim or not index.ndim:
        shape, whole = x.shape, [lax.reshape(a, a.shape or (1,)) for a in (x, index, updates)]
        return lax.reshape(write_along(whole[0], 0, whole[1], whole[2], how), shape)
    if not index.size or not x.size:
        return x
    dim, updates = axis(dim, x.ndim), lax.slice(updates, [0] * x.ndim, index.shape)
    first = counted_slice(x, dim, index)
    if first is not None and how == "set":
        starts = [np.int32(first if d == dim else 0) for d in range(x.ndim)]
        return lax.dynamic_update_slice(x, updates, starts, allow_negative_indices=False)
    one_a_row = index.shape == (*x.shape[:dim], 1, *x.shape[dim + 1 :])
    varying, dims, places, sizes = rows_along(x, dim, index)
    if one_a_row and (x.size <= _SMALL or (x.shape[dim] <= _SHORT and math.prod(sizes) == 1)):
        return _select_along(x, dim, index, updates, how)
    if dim not in varying and index.shape[dim] > 1:
        if how == "set":  # all go to one place, where the last stays
            updates = lax.slice_in_dim(updates, index.shape[dim] - 1, index.shape[dim], axis=dim)
        else:
            varying = sorted([*varying, dim])
            shape = [index.shape[d] for d in varying]
            places = [lax.broadcast_in_dim(p, shape, [i for i, d in enumerate(varying) if d != dim]) for p in places]
    if not varying:
        return _put_block(x, starts_of(x, dims, places), updates, how)
    window_dims = tuple(d for d in range(x.ndim) if d not in varying)
    numbers = lax.ScatterDimensionNumbers(window_dims, tuple(varying), tuple(dims))
    return _kind(x, how)[0](x, stacked(places), updates, numbers, mode="drop")


def _put_block(x, starts, updates, how):
    """Return ``x`` with one block written from the place ``starts`` on, which may be out of range where it is not a constant."""
    inside = _inside(x, starts, updates.shape)
    if how != "set" or inside is not None:
        old = lax.dynamic_slice(x, starts, updates.shape, allow_negative_indices=False)
        updates = updates if how == "set" else _kind(x, how)[1](old, updates)
        updates = updates if inside is None else lax.select(lax.broadcast_in_dim(inside, updates.shape, ()), updates, old)
    return lax.dynamic_update_slice(x, updates, starts, allow_negative_indices=False)


def _inside(x, starts, sizes):
    """Return a traced bool, True if a block is inside ``x``, or None if its position is known."""
    inside = None
    for n, size, start in zip(x.shape, sizes, starts, strict=True):
        if isinstance(start, np.ndarray):
            continue
        fits = lax.bitwise_and(lax.ge(start, lax.full_like(start, 0)), lax.le(start, lax.full_like(start, n - size)))
        inside = fits if inside is None else lax.bitwise_and(inside, fits)
    return inside


def _select_along(x, dim, index, updates, how):
    """Return ``x`` with one element of each row along ``dim`` written, by a select over all of ``x``."""
    index = lax.convert_element_type(wrapped(index, x.shape[dim]), np.int32)
    hit = lax.eq(lax.broadcasted_iota(np.int32, x.shape, dim), _over(index, x.shape))
    return lax.select(hit, _kind(x, how)[1](x, _over(updates, x.shape)), x)


def _over(x, shape):
    """Return ``x`` broadcast to ``shape``, which has as many dimensions."""
    return x if x.shape == shape else lax.broadcast_in_dim(x, shape, range(len(shape)))


@lowers(aten.scatter.src)
def _scatter(out, x, dim, index, src):
    return write_along(x, dim, index, src)


@lowers(aten.scatter.value)
def _scatter_value(out, x, dim, index, value):
    return write_along(x, dim, index, constant(value, out.dtype, index.shape))


@lowers(aten.scatter.reduce)
def _scatter_reduce(out, x, dim, index, src, reduce):
    return write_along(x, dim, index, src, _NAMES[reduce])


@lowers(aten.scatter.value_reduce)
def _scatter_value_reduce(out, x, dim, index, value, reduce):
    return write_along(x, dim, index, constant(value, out.dtype, index.shape), _NAMES[reduce])


@lowers(aten.scatter_add.default)
def _scatter_add(out, x, dim, index, src):
    return write_along(x, dim, index, src, "add")


def _reduced(x, put, src, reduce, include_self):
    """Reduce by ``put(x, updates, how)``: where it writes, the old value counts only if ``include_self``."""
    dtype = torch_dtype(x.dtype)
    if not include_self:
        touched = put(lax.full(x.shape, False, np.bool_), lax.full(src.shape, True, np.bool_), "set")
        x = lax.select(touched, constant(_neutral(reduce, dtype), dtype, x.shape), x)
    result = put(x, src, _NAMES[reduce])
    if reduce != "mean":
        return result
    ones = constant(1, dtype, src.shape)
    counts = put(constant(1 if include_self else 0, dtype, x.shape), ones, "add")
    counts = lax.select(lax.eq(counts, lax.full_like(counts, 0)), lax.full_like(counts, 1), counts)
    if dtype.is_floating_point:
        return lax.div(result, counts)
    return jnp.floor_divide(result, counts) if dtype != torch.bool else result


def _neutral(reduce, dtype):
    if reduce in ("amax", "amin"):
        info = None if dtype == torch.bool else torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
        low, high = (-math.inf, math.inf) if dtype.is_floating_point else (info.min, info.max) if info else (False, True)
        return low if reduce == "amax" else high
    return 1 if reduce in ("prod", "multiply") else 0


@lowers(aten.scatter_reduce.two)
def _scatter_reduce_two(out, x, dim, index, src, reduce, include_self=True):
    return _reduced(x, lambda x, updates, how: write_along(x, dim, index, updates, how), src, reduce, include_self)


def write_rows(x, dim, index, source, how="set"):
    """Return ``x`` with the slices of ``source`` along ``dim`` written at the places ``index`` [n]."""
    shape = x.shape
    x, source = (lax.reshape(a, a.shape or (1,)) for a in (x, source))
    index = lax.reshape(index, (index.size,))
    return lax.reshape(write(x, [axis(dim, x.ndim)], [index], source, how), shape)


@lowers(aten.index_copy.default)
def _index_copy(out, x, dim, index, source):
    return write_rows(x, dim, index, source)


@lowers(aten.index_add.default)
def _index_add(out, x, dim, index, source, alpha=1):
    if alpha != 1:
        times = lax.bitwise_and if out.dtype == torch.bool else lax.mul
        source = times(source, constant(alpha, out.dtype, source.shape))
    return write_rows(x, dim, index, source, "add")


@lowers(aten.index_fill.int_Scalar, aten.index_fill.int_Tensor)
def _index_fill(out, x, dim, index, value):
    """Fill rows; torch's own decomposition takes no value of another dtype."""
    dim = axis(dim, x.ndim)
    value = lax.reshape(cast(value, out.dtype), ())
    return write_rows(x, dim, index, expanded(value, (*x.shape[:dim], index.size, *x.shape[dim + 1 :])))


@lowers(aten.index_reduce.default)
def _index_reduce(out, x, dim, index, source, reduce, include_self=True):
    return _reduced(x, lambda x, updates, how: write_rows(x, dim, index, updates, how), source, reduce, include_self)


@lowers(aten.put.default)
def _put(out, x, index, source, accumulate=False):
    flat = lax.reshape(x, (x.size,))
    index, source = lax.reshape(index, (index.size,)), lax.reshape(source, (source.size,))
    return lax.reshape(write(flat, [0], [index], source, "add" if accumulate else "set"), x.shape)
