"""Views, as functions that return new arrays, and their ``*_copy`` twins."""

import math

import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._operands import expanded
from funrl.compiler._lowerings._origins import note_expanded, note_transposed, reshaped
from funrl.compiler._lowerings._table import axis, cast, jax_dtype, lowers

aten = torch.ops.aten


@lowers(
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.view_copy.default,
    aten._reshape_alias.default,
    aten._reshape_alias_copy.default,
    aten._reshape_copy.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze_copy.default,
    aten.squeeze_copy.dim,
    aten.squeeze_copy.dims,
    aten.unsqueeze.default,
    aten.unsqueeze_copy.default,
)
def _reshape(out, x, *args, **kwargs):
    """Give the elements, in their order, the shape of ``out``."""
    return reshaped(x, out.shape)


@lowers(aten._neg_view.default, aten._neg_view_copy.default)
def _negative(out, x):
    return lax.neg(x)


@lowers(aten.expand.default, aten.expand_copy.default)
def _expand(out, x, *args, **kwargs):
    result = expanded(x, out.shape)
    note_expanded(result, x)
    return result


@lowers(aten.permute.default, aten.permute_copy.default)
def _permute(out, x, dims):
    return transposed(x, [axis(d, x.ndim) for d in dims])


def transposed(x, order):
    """Return ``x`` with its dimensions in the order ``order``."""
    order = tuple(order)
    if order == tuple(range(x.ndim)):
        return x
    result = lax.transpose(x, order)
    note_transposed(result, x, order)
    return result


@lowers(aten.transpose.int, aten.transpose_copy.int)
def _transpose(out, x, a, b):
    order = list(range(x.ndim))
    if order:
        a, b = axis(a, x.ndim), axis(b, x.ndim)
        order[a], order[b] = order[b], order[a]
    return transposed(x, order)


@lowers(aten.t.default, aten.t_copy.default)
def _t(out, x):
    return transposed(x, range(x.ndim)[::-1])


def moved(x, source, destination):
    """Return ``x`` with the dimension ``source`` at the place ``destination``."""
    order = [d for d in range(x.ndim) if d != source]
    order.insert(destination, source)
    return transposed(x, order)


def sliced(x, dim, start, stop, step=1):
    """Return ``x[..., start:stop:step, ...]`` along ``dim``; the bounds lie within it."""
    stop = max(start, stop)
    if (start, stop, step) == (0, x.shape[dim], 1):
        return x
    starts, stops, steps = [0] * x.ndim, list(x.shape), [1] * x.ndim
    starts[dim], stops[dim], steps[dim] = start, stop, step
    return lax.slice(x, starts, stops, steps)


def bounds(start, end, size):
    """Return where a slice of torch starts and stops in a dimension of ``size``."""
    start, end, _ = slice(start, end).indices(size)
    return start, max(start, end)


@lowers(aten.slice.Tensor, aten.slice_copy.Tensor)
def _slice(out, x, dim=0, start=None, end=None, step=1):
    dim = axis(dim, x.ndim)
    return sliced(x, dim, *bounds(start, end, x.shape[dim]), step)


@lowers(aten.narrow_copy.default)
def _narrow(out, x, dim, start, length):
    dim = axis(dim, x.ndim)
    start = start + x.shape[dim] if start < 0 else start
    return sliced(x, dim, start, start + length)


def selected(x, dim, index):
    """Return ``x`` at a number of Python along ``dim``, without that dimension."""
    index = index + x.shape[dim] if index < 0 else index
    return lax.reshape(sliced(x, dim, index, index + 1), x.shape[:dim] + x.shape[dim + 1 :])


@lowers(aten.select.int, aten.select_copy.int)
def _select(out, x, dim, index):
    return selected(x, axis(dim, x.ndim), index)


@lowers(aten.unbind.int, aten.unbind_copy.int)
def _unbind(out, x, dim=0):
    dim = axis(dim, x.ndim)
    return [selected(x, dim, i) for i in range(x.shape[dim])]


@lowers(
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.split_copy.Tensor,
    aten.split_with_sizes_copy.default,
    aten.unsafe_split.Tensor,
    aten.unsafe_split_with_sizes.default,
)
def _split(out, x, how, dim=0):
    """Cut along ``dim`` into the lengths of ``out``, one after another."""
    dim, start, parts = axis(dim, x.ndim), 0, []
    for part in out:
        parts.append(sliced(x, dim, start, start + part.shape[dim]))
        start += part.shape[dim]
    return parts


@lowers(aten.diagonal.default, aten.diagonal_copy.default)
def _diagonal(out, x, offset=0, dim1=0, dim2=1):
    dim1, dim2 = axis(dim1, x.ndim), axis(dim2, x.ndim)
    x = transposed(x, [*(d for d in range(x.ndim) if d not in (dim1, dim2)), dim1, dim2])
    rows, columns, length = *x.shape[-2:], out.shape[-1]
    if not length or not x.size:
        return lax.full(tuple(out.shape), 0, x.dtype)
    first = offset if offset >= 0 else -offset * columns
    flat = lax.reshape(x, (*x.shape[:-2], rows * columns))
    return sliced(flat, flat.ndim - 1, first, first + (length - 1) * (columns + 1) + 1, columns + 1)


@lowers(aten.unfold.default, aten.unfold_copy.default)
def _unfold(out, x, dimension, size, step):
    """Windows of ``size`` at each ``step`` along a dimension, the elements of a window in a new last dimension."""
    if not x.ndim:
        return lax.reshape(lax.slice(lax.reshape(x, (1,)), (0,), (size,)), tuple(out.shape))
    dim = axis(dimension, x.ndim)
    count = out.shape[dim]
    if 0 in out.shape:
        return lax.full(tuple(out.shape), 0, x.dtype)
    if size <= step and count * step <= x.shape[dim]:
        x = sliced(x, dim, 0, count * step)
        x = sliced(lax.reshape(x, (*x.shape[:dim], count, step, *x.shape[dim + 1 :])), dim + 1, 0, size)
        return moved(x, dim + 1, x.ndim - 1)
    if min(count, size) > 32:
        windows = lax.expand_dims(strided_places((count, size), (step, 1), 0), (2,))
        others = tuple(d for d in range(x.ndim) if d != dim)
        numbers = lax.GatherDimensionNumbers(others, (dim,), (dim,))
        return lax.gather(x, windows, numbers, [1 if d == dim else n for d, n in enumerate(x.shape)], mode="clip")
    if count < size:
        parts = [moved(sliced(x, dim, i * step, i * step + size), dim, x.ndim - 1) for i in range(count)]
        return lax.concatenate([lax.expand_dims(p, (dim,)) for p in parts], dim)
    parts = [sliced(x, dim, i, i + (count - 1) * step + 1, step) for i in range(size)]
    return lax.concatenate([lax.expand_dims(p, (x.ndim,)) for p in parts], x.ndim)


def strided_places(size, stride, offset):
    """Return an array [*size] of the places in flat memory that a strided view reads."""
    places = lax.full(tuple(size), offset or 0, np.int64)
    for d, (n, s) in enumerate(zip(size, stride, strict=True)):
        if s and n > 1:
            places = lax.add(places, lax.mul(lax.broadcasted_iota(np.int64, tuple(size), d), lax.full(tuple(size), s, np.int64)))
    return places


def _is_dense(size, stride):
    """Return True for dimensions, each longer than one, that are contiguous in memory, with the last one innermost."""
    expected = 1
    for n, s in zip(size[::-1], stride[::-1], strict=True):
        if s != expected:
            return False
        expected *= n
    return True


@lowers(aten.as_strided.default, aten.as_strided_copy.default)
def _as_strided(out, x, size, stride, storage_offset=None):
    """Read the flat array of ``x`` (it is contiguous and starts at its storage's first element) at given strides."""
    size, offset = tuple(size), storage_offset or 0
    if 0 in size:
        return lax.full(size, 0, x.dtype)
    reach = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if reach >= x.size:
        raise RuntimeError(
            f"as_strided(size={size}, stride={tuple(stride)}, storage_offset={offset}) reads place {reach} of a tensor of {x.size} elements"
        )
    flat = lax.reshape(x, (x.size,))
    order = sorted((d for d, (n, s) in enumerate(zip(size, stride, strict=True)) if n > 1 and s), key=lambda d: -stride[d])
    lengths = [size[d] for d in order]
    if not _is_dense(lengths, [stride[d] for d in order]):
        places = lax.expand_dims(strided_places(size, stride, offset), (len(size),))
        return lax.gather(flat, places, lax.GatherDimensionNumbers((), (0,), (0,)), (1,), mode="clip")
    dense = lax.reshape(sliced(flat, 0, offset, offset + math.prod(lengths)), tuple(lengths))
    dims = sorted(order)
    return lax.broadcast_in_dim(transposed(dense, [order.index(d) for d in dims]), size, dims)


@lowers(aten.view.dtype, aten.view_copy.dtype)
def _bitcast(out, x, dtype):
    """Return the same bits as another dtype; narrower or wider elements change the last dimension."""
    if x.dtype == jnp.bool_:
        x = lax.convert_element_type(x, np.uint8)
    target = np.dtype(np.uint8) if dtype == torch.bool else np.dtype(jax_dtype(dtype))
    ours, theirs = x.dtype.itemsize, target.itemsize
    if theirs > ours:
        x = lax.reshape(x, (*x.shape[:-1], x.shape[-1] // (theirs // ours), theirs // ours))
    if x.dtype != target:
        x = lax.bitcast_convert_type(x, target)
    return cast(lax.reshape(x, tuple(out.shape)), dtype)
