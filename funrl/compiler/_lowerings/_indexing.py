"""Reading at places that tensors give: index, gather, take, embedding. Places out of range are clipped, negative ones count from behind."""

import math

import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._origins import counts_from, spread
from funrl.compiler._lowerings._shape import expanded
from funrl.compiler._lowerings._table import axis, constant, lowers

aten = torch.ops.aten


def wrapped(index, size):
    """Return places counted from the front: the negative ones count from behind."""
    if jnp.issubdtype(index.dtype, jnp.unsignedinteger):
        index = lax.convert_element_type(index, np.int64)
    return lax.select(lax.lt(index, lax.full_like(index, 0)), lax.add(index, lax.full_like(index, size)), index)


def is_mask(index):
    """Return True for an index tensor that is a mask: bool, or uint8 as in older code."""
    return index.dtype in (np.bool_, np.uint8)


def aligned(x, dims, indices):
    """Return index tensors wrapped and expanded to their common shape."""
    shape = np.broadcast_shapes(*(i.shape for i in indices))
    dtype = np.result_type(*(i.dtype for i in indices)) if len({i.dtype for i in indices}) > 1 else None
    indices = [lax.convert_element_type(i, dtype) for i in indices] if dtype else indices
    return [expanded(wrapped(i, x.shape[d]), shape) for d, i in zip(dims, indices, strict=True)]


def window(x, dims, shape):
    """Return the position of the dimensions ``shape`` of the index tensors in the result, and the positions of the other dimensions.

    They replace the indexed dimensions if these are adjacent; otherwise they come first.
    """
    place = dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0
    ndim = len(shape) + x.ndim - len(dims)
    return place, tuple(d for d in range(ndim) if not place <= d < place + len(shape))


def read_shape(x, dims, shape):
    """Return the shape of the result of reading from ``x`` by index tensors of ``shape`` along ``dims``."""
    place, _ = window(x, dims, shape)
    rest = [n for d, n in enumerate(x.shape) if d not in dims]
    return (*rest[:place], *shape, *rest[place:])


def starts_of(x, dims, indices):
    """Return the place [ndim scalars] of the single block that index tensors with one element select."""
    starts = [np.zeros((), indices[0].dtype)] * x.ndim
    for d, i in zip(dims, indices, strict=True):
        starts[d] = lax.reshape(i, ())
    return starts


def stacked(indices):
    """Return index tensors of one shape as coordinates in a new last dimension."""
    columns = [lax.expand_dims(i, (i.ndim,)) for i in indices]
    return columns[0] if len(columns) == 1 else lax.concatenate(columns, indices[0].ndim)


def read(x, dims, indices):
    """Return ``x`` at index tensors along ascending ``dims``, whole in its other dimensions."""
    indices = aligned(x, dims, indices)
    shape = indices[0].shape
    result = read_shape(x, dims, shape)
    sizes = [1 if d in dims else n for d, n in enumerate(x.shape)]
    if 0 in result or not x.size:
        return lax.full(result, 0, x.dtype)
    if math.prod(shape) == 1:
        return lax.reshape(lax.dynamic_slice(x, starts_of(x, dims, indices), sizes, allow_negative_indices=False), result)
    _, offset_dims = window(x, dims, shape)
    numbers = lax.GatherDimensionNumbers(offset_dims, tuple(dims), tuple(dims))
    return lax.gather(x, stacked(indices), numbers, sizes, mode="clip")


def places_of(x, indices, mask_counts=None):
    """Return the indexed dimensions and their index tensors; masks become the places where they are true, as many as ``mask_counts``.

    If a mask is true less often, the remaining places are out of range; but a single one is repeated, as torch broadcasts it.
    """
    longest = max((i.size for i in indices if i is not None and is_mask(i)), default=0)
    dims, found, dim = [], [], 0
    for index in indices:
        if index is None:
            dim += 1
        elif is_mask(index):
            index = lax.ne(index, lax.full_like(index, 0))
            found += _places_of_mask(index, longest if mask_counts is None else mask_counts, max(x.shape), mask_counts is not None)
            dims += range(dim, dim + index.ndim)
            dim += index.ndim
        else:
            found.append(index)
            dims.append(dim)
            dim += 1
    return dims, found


def _places_of_mask(mask, size, fill, repeated):
    """Return the coordinates, an array [size] a dimension, of where a mask is true; ``repeated``: a single one fills all of them."""
    places = jnp.nonzero(mask, size=size, fill_value=fill)
    if not repeated or size < 2:
        return places
    once = lax.eq(lax.reduce(lax.convert_element_type(mask, np.int64), np.int64(0), lax.add, tuple(range(mask.ndim))), np.int64(1))
    once = lax.broadcast_in_dim(once, (size,), ())
    return [lax.select(once, lax.broadcast_in_dim(p[0], (size,), ()), p) for p in places]


@lowers(aten.index.Tensor)
def _index(out, x, indices):
    count = None
    if any(i is not None and is_mask(i) for i in indices):
        dims, _ = places_of(x, indices, 0)
        place = dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0
        count = out.shape[place + out.ndim - (x.ndim - len(dims)) - 1]
    dims, found = places_of(x, indices, count)
    return read(x, dims, found) if dims else x


@lowers(aten.index_select.default)
def _index_select(out, x, dim, index):
    if not x.ndim:
        return expanded(x, out.shape)
    return read(x, [axis(dim, x.ndim)], [lax.reshape(index, (index.size,))])


@lowers(aten.embedding.default)
def _embedding(out, weight, indices, *args, **kwargs):
    return read(weight, [0], [indices])


@lowers(aten.take.default)
def _take(out, x, index):
    return read(lax.reshape(x, (x.size,)), [0], [index])


def rows_along(x, dim, index):
    """Return by which rows ``gather`` and ``scatter`` along ``dim`` go, whole where ``index`` is constant.

    That is: the dimensions over which ``index`` varies; the dimensions of ``x`` that the coordinates of a row speak of; the coordinates, an
    array for each of these; and the sizes of a row in the dimensions of ``x``.
    """
    base, varying = spread(index)
    places = {d: lax.broadcasted_iota(index.dtype, base.shape, i) for i, d in enumerate(varying)}
    places[dim] = wrapped(base, x.shape[dim])
    dims = sorted(places)
    return varying, dims, [places[d] for d in dims], [1 if d in places else n for d, n in enumerate(index.shape)]


def counted_slice(x, dim, index):
    """Return where a slice of ``x`` starts if ``index`` counts up its places and is constant along the other dimensions, or None."""
    base, varying = spread(index)
    first = counts_from(base) if varying == [dim] or (not varying and index.shape[dim] == 1) else None
    return first if first is not None and 0 <= first <= x.shape[dim] - index.shape[dim] else None


def _flat_gather(x, dim, index):
    """Gather element by element, from the flat array."""
    last = np.array(x.shape[dim] - 1, index.dtype)
    flat = lax.full_like(index, 0)
    for d in range(x.ndim):
        if index.shape[d] == 1 and d != dim:
            continue
        if d == dim:
            places = lax.clamp(np.array(0, index.dtype), wrapped(index, x.shape[dim]), last)
        else:
            places = lax.broadcasted_iota(index.dtype, index.shape, d)
        flat = lax.add(flat, lax.mul(places, lax.full_like(places, math.prod(x.shape[d + 1 :]))))
    numbers = lax.GatherDimensionNumbers((), (0,), (0,))
    return lax.gather(lax.reshape(x, (x.size,)), lax.expand_dims(flat, (index.ndim,)), numbers, (1,), mode="clip")


@lowers(aten.gather.default)
def _gather(out, x, dim, index, sparse_grad=False):
    """Read along ``dim``: whole rows where the index is constant along others, and else element by element."""
    if not x.ndim:
        return expanded(x, out.shape)
    if not index.ndim:
        return read(x, [0], [index])
    shape, dim = tuple(out.shape), axis(dim, x.ndim)
    if not x.size or not index.size:
        return lax.full(shape, 0, x.dtype)
    first = counted_slice(x, dim, index)
    if first is not None:
        starts = [first if d == dim else 0 for d in range(x.ndim)]
        return lax.slice(x, starts, [a + n for a, n in zip(starts, shape, strict=True)])
    varying, dims, places, sizes = rows_along(x, dim, index)
    if all(n == 1 for n in sizes):
        return _flat_gather(x, dim, index)
    if not varying:
        starts = starts_of(x, dims, places)
        rows = lax.dynamic_slice(x, starts, sizes, allow_negative_indices=False)
    else:
        offset_dims = tuple(d for d in range(x.ndim) if d not in varying)
        numbers = lax.GatherDimensionNumbers(offset_dims, tuple(varying), tuple(dims))
        rows = lax.gather(x, stacked(places), numbers, sizes, mode="clip")
    return rows if rows.shape == shape else lax.broadcast_in_dim(rows, shape, range(len(shape)))


@lowers(aten.nonzero_static.default)
def _nonzero_static(out, x, size, fill_value=-1):
    """Return the coordinates of the nonzero elements of ``x``, one row each: the first ``size``, then rows of ``fill_value``."""
    if not x.ndim or not x.size or not size:
        return constant(fill_value, out.dtype, tuple(out.shape))
    return stacked(jnp.nonzero(x, size=size, fill_value=fill_value))


def ranks(mask):
    """Return for each element of a mask the number of true elements before it, in flat order."""
    flat = lax.convert_element_type(lax.reshape(mask, (mask.size,)), np.int64)
    return lax.reshape(lax.sub(lax.cumsum(flat, 0), flat), mask.shape)


@lowers(aten.masked_scatter.default)
def _masked_scatter(out, x, mask, source):
    """Write the elements of ``source``, in order, where the mask is true."""
    x, mask = expanded(x, out.shape), expanded(mask, out.shape)
    if not source.size or not x.size:
        return x
    return lax.select(mask, read(lax.reshape(source, (source.size,)), [0], [ranks(mask)]), x)


@lowers(aten.masked_scatter_backward.default)
def _masked_scatter_backward(out, grad, mask, sizes):
    """Return the gradients where the mask is true, in order, and then zeros."""
    mask = expanded(mask, grad.shape)
    shape = tuple(out.shape)
    if not grad.size or 0 in shape:
        return lax.full(shape, 0, grad.dtype)
    count = math.prod(shape)
    flat = lax.reshape(mask, (mask.size,))
    places = jnp.nonzero(flat, size=count, fill_value=mask.size)[0]
    values = read(lax.reshape(grad, (grad.size,)), [0], [places])
    return lax.reshape(lax.select(lax.lt(places, lax.full_like(places, mask.size)), values, lax.full_like(values, 0)), shape)
