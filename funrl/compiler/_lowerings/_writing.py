"""Writing into a part of an array, given by numbers of Python: the functional twins of writes to views, and the gradients of views."""

import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._scattering import write
from funrl.compiler._lowerings._shape import _is_dense, bounds, expanded, strided_places, transposed
from funrl.compiler._lowerings._table import axis, cast, lowers

aten = torch.ops.aten


def _put_slice(x, source, dim, start, stop, step=1):
    """Return ``x`` with ``source`` written to ``x[..., start:stop:step, ...]``."""
    if not source.size:
        return x
    if step == 1 or source.shape[dim] == 1:
        starts = [np.int32(start if d == dim else 0) for d in range(x.ndim)]
        return lax.dynamic_update_slice(x, source, starts, allow_negative_indices=False)
    count = source.shape[dim]
    places = lax.add(lax.mul(lax.iota(np.int64, count), lax.full((count,), step, np.int64)), lax.full((count,), start, np.int64))
    return write(x, [dim], [places], source)


@lowers(aten.slice_scatter.default)
def _slice_scatter(out, x, source, dim=0, start=None, end=None, step=1):
    dim = axis(dim, x.ndim)
    start, stop = bounds(start, end, x.shape[dim])
    count = -(-(stop - start) // step)
    source = expanded(cast(source, out.dtype), (*x.shape[:dim], count, *x.shape[dim + 1 :]))
    return _put_slice(x, source, dim, start, stop, step)


@lowers(aten.select_scatter.default)
def _select_scatter(out, x, source, dim, index):
    dim = axis(dim, x.ndim)
    start = index + x.shape[dim] if index < 0 else index
    source = expanded(cast(source, out.dtype), x.shape[:dim] + x.shape[dim + 1 :])
    return _put_slice(x, lax.expand_dims(source, (dim,)), dim, start, start + 1)


@lowers(aten.slice_backward.default)
def _slice_backward(out, grad, input_sizes, dim, start, end, step):
    """Zeros around the gradient of a slice."""
    dim, shape = axis(dim, len(input_sizes)), tuple(out.shape)
    if not grad.size:
        return lax.full(shape, 0, grad.dtype)
    start, _ = bounds(start, end, shape[dim])
    reach = start + (grad.shape[dim] - 1) * step + 1
    pads = [(start, shape[d] - reach, step - 1) if d == dim else (0, 0, 0) for d in range(len(shape))]
    return lax.pad(grad, lax.full((), 0, grad.dtype), pads)


@lowers(aten.select_backward.default)
def _select_backward(out, grad, input_sizes, dim, index):
    dim = axis(dim, len(input_sizes))
    start = index + input_sizes[dim] if index < 0 else index
    return _slice_backward(out, lax.expand_dims(grad, (dim,)), input_sizes, dim, start, start + 1, 1)


def _put_diagonal(x, source, offset, dim1, dim2):
    """Return ``x`` with ``source`` [..., n] written on a diagonal over two dimensions, by a select over all of ``x``."""
    dim1, dim2 = axis(dim1, x.ndim), axis(dim2, x.ndim)
    if not source.size:
        return x
    along, across = (dim1, dim2) if offset >= 0 else (dim2, dim1)  # an element of the diagonal stands at its own number along the first
    zero = lax.full((), 0, source.dtype)
    source = lax.pad(source, zero, [(0, 0, 0)] * (source.ndim - 1) + [(0, x.shape[along] - source.shape[-1], 0)])
    dims = [d for d in range(x.ndim) if d not in (dim1, dim2)] + [along]
    order = sorted(range(len(dims)), key=dims.__getitem__)
    source = lax.broadcast_in_dim(transposed(source, order), x.shape, sorted(dims))
    places = lax.broadcasted_iota(np.int32, x.shape, along)
    on = lax.eq(lax.broadcasted_iota(np.int32, x.shape, across), lax.add(places, lax.full_like(places, abs(offset))))
    return lax.select(on, source, x)


@lowers(aten.diagonal_scatter.default)
def _diagonal_scatter(out, x, source, offset=0, dim1=0, dim2=1):
    return _put_diagonal(x, cast(source, out.dtype), offset, dim1, dim2)


@lowers(aten.diag_embed.default)
def _diag_embed(out, x, offset=0, dim1=-2, dim2=-1):
    return _put_diagonal(lax.full(tuple(out.shape), 0, x.dtype), x, offset, dim1, dim2)


@lowers(aten.as_strided_scatter.default)
def _as_strided_scatter(out, x, source, size, stride, storage_offset=None):
    """Write to the flat array of ``x`` at given strides."""
    size, offset, flat = tuple(size), storage_offset or 0, lax.reshape(x, (x.size,))
    if 0 in size or not x.size:
        return x
    source = lax.reshape(expanded(cast(source, out.dtype), size), (int(np.prod(size, dtype=np.int64)),))
    longer = [d for d, n in enumerate(size) if n > 1]
    if _is_dense([size[d] for d in longer], [stride[d] for d in longer]):
        flat = lax.dynamic_update_slice(flat, source, [np.int32(offset)], allow_negative_indices=False)
    else:
        flat = write(flat, [0], [lax.reshape(strided_places(size, stride, offset), source.shape)], source)
    return lax.reshape(flat, x.shape)
