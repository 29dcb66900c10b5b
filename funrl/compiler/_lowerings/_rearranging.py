"""Operators that join, repeat, turn and mask arrays."""

import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._shape import expanded, sliced
from funrl.compiler._lowerings._table import axis, cast, constant, lowers

aten = torch.ops.aten


def joined(parts, dim):
    """Return arrays of one dtype joined along ``dim``."""
    parts = [x for x in parts if x.shape[dim]] or parts[:1]
    return parts[0] if len(parts) == 1 else lax.concatenate(parts, dim)


@lowers(aten.cat.default)
def _cat(out, tensors, dim=0):
    """Join; an empty tensor with one dimension is left out, whatever the others' dimensions are."""
    parts = [cast(x, out.dtype) for x in tensors if x.shape != (0,)]
    return joined(parts, axis(dim, out.ndim)) if parts else constant(0, out.dtype, tuple(out.shape))


@lowers(aten.stack.default, aten._stack.default)
def _stack(out, tensors, dim=0):
    dim = axis(dim, out.ndim)
    parts = [cast(x, out.dtype) for x in tensors]
    return joined([lax.reshape(x, (*x.shape[:dim], 1, *x.shape[dim:])) for x in parts], dim)


@lowers(aten.flip.default)
def _flip(out, x, dims):
    return lax.rev(x, tuple(axis(d, x.ndim) for d in dims)) if x.ndim and dims else x


def rolled(x, shift, dim):
    """Return ``x`` with its elements moved ``shift`` places along ``dim``, the last ones to the front."""
    size = x.shape[dim]
    cut = size - shift % size if size else 0
    return joined([sliced(x, dim, cut, size), sliced(x, dim, 0, cut)], dim)


@lowers(aten.roll.default)
def _roll(out, x, shifts, dims=()):
    """Roll each dimension, or else the flat array."""
    shifts, dims = ([d] if isinstance(d, int) else list(d) for d in (shifts, dims))
    if not dims:
        return lax.reshape(rolled(lax.reshape(x, (x.size,)), shifts[0], 0), x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        x = rolled(x, shift, axis(dim, x.ndim)) if x.ndim else x
    return x


@lowers(aten.repeat.default)
def _repeat(out, x, repeats):
    """Repeat the whole, dimension by dimension; a longer list makes new dimensions, a shorter one leaves the first as they are."""
    repeats = (1,) * (x.ndim - len(repeats)) + tuple(repeats)
    shape = (1,) * (len(repeats) - x.ndim) + x.shape
    if 0 in out.shape:
        return lax.full(tuple(out.shape), 0, x.dtype)
    pairs = [n for pair in zip(repeats, shape, strict=True) for n in pair]
    places = [2 * d + 1 for d in range(len(repeats) - x.ndim, len(repeats))]
    return lax.reshape(lax.broadcast_in_dim(x, pairs, places), tuple(out.shape))


@lowers(aten.repeat_interleave.Tensor)
def _repeat_numbers(out, repeats, output_size=None):
    """Return each index ``repeats`` times, by counting at each place the running sums up to it."""
    ends = lax.cumsum(lax.convert_element_type(repeats, np.int64), 0)
    places = lax.iota(np.int64, out.shape[0])
    return jnp.searchsorted(ends, places, side="right", method="compare_all" if out.shape[0] * ends.size < 1 << 16 else "scan")


@lowers(aten.constant_pad_nd.default)
def _constant_pad_nd(out, x, pad, value=0):
    """Pad by pairs that start at the last dimension."""
    pairs = [(0, 0, 0)] * x.ndim
    for i in range(len(pad) // 2):
        pairs[x.ndim - 1 - i] = (pad[2 * i], pad[2 * i + 1], 0)
    return lax.pad(x, constant(value, out.dtype), pairs)


@lowers(aten.triu.default)
def _triu(out, x, diagonal=0):
    return _where_columns(lax.ge, x, diagonal)


@lowers(aten.tril.default)
def _tril(out, x, diagonal=0):
    return _where_columns(lax.le, x, diagonal)


def _where_columns(compare, x, diagonal):
    """Return ``x`` where the number of the column compares so with that of the row, moved by ``diagonal``, and zeros elsewhere."""
    shape = x.shape[-2:]
    diagonal = max(-shape[0] - 1, min(shape[1] + 1, diagonal))
    rows, columns = lax.broadcasted_iota(np.int32, shape, 0), lax.broadcasted_iota(np.int32, shape, 1)
    mask = compare(columns, lax.add(rows, lax.full(shape, diagonal, np.int32)))
    return lax.select(expanded(mask, x.shape), x, lax.full(x.shape, 0, x.dtype))
