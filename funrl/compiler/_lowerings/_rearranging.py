"""Operators that join, repeat, turn and mask arrays."""

import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._shape import expanded, sliced, transposed
from funrl.compiler._lowerings._table import axes, axis, cast, constant, lowers

aten = torch.ops.aten


def joined(parts, dim):
    """Return arrays of one dtype joined along ``dim``."""
    parts = [x for x in parts if x.shape[dim]] or parts[:1]
    return parts[0] if len(parts) == 1 else lax.concatenate(parts, dim)


@lowers(aten.cat.default, aten.concat.default, aten.concatenate.default)
def _cat(out, tensors, dim=0):
    """Join; an empty tensor with one dimension is left out, whatever the others' dimensions are."""
    parts = [cast(x, out.dtype) for x in tensors if x.shape != (0,)]
    return joined(parts, axis(dim, out.ndim)) if parts else constant(0, out.dtype, tuple(out.shape))


@lowers(aten.stack.default, aten._stack.default)
def _stack(out, tensors, dim=0):
    dim = axis(dim, out.ndim)
    parts = [cast(x, out.dtype) for x in tensors]
    return joined([lax.reshape(x, (*x.shape[:dim], 1, *x.shape[dim:])) for x in parts], dim)


@lowers(aten._chunk_cat.default)
def _chunk_cat(out, tensors, dim, num_chunks):
    """Cut each tensor along ``dim`` into equal chunks, the last filled with zeros; flatten the dimensions after it, and join the chunks."""
    rows = []
    for x in tensors:
        x, d = cast(x, out.dtype), axis(dim, x.ndim)
        size = -(-x.shape[d] // num_chunks)
        x = _padded(x, [(0, size * num_chunks - x.shape[d]) if i == d else (0, 0) for i in range(x.ndim)])
        rows.append(lax.reshape(x, (*x.shape[:d], num_chunks, x.size // max(1, num_chunks * int(np.prod(x.shape[:d]))))))
    return joined(rows, out.ndim - 1)


@lowers(aten.block_diag.default)
def _block_diag(out, tensors):
    rows, columns = out.shape
    blocks, first = [], 0
    for x in tensors:
        x = lax.reshape(cast(x, out.dtype), (1,) * (2 - x.ndim) + x.shape)
        blocks.append(_padded(x, [(0, 0), (first, columns - first - x.shape[1])]))
        first += x.shape[1]
    return joined(blocks, 0) if blocks else constant(0, out.dtype, (rows, columns))


@lowers(aten.flip.default)
def _flip(out, x, dims):
    return lax.rev(x, tuple(axis(d, x.ndim) for d in dims)) if x.ndim and dims else x


@lowers(aten.fliplr.default)
def _fliplr(out, x):
    return lax.rev(x, (1,))


@lowers(aten.flipud.default)
def _flipud(out, x):
    return lax.rev(x, (0,))


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


@lowers(aten.rot90.default)
def _rot90(out, x, k=1, dims=(0, 1)):
    a, b = axes(dims, x.ndim)
    order = list(range(x.ndim))
    order[a], order[b] = b, a
    if k % 4 == 0:
        return x
    if k % 4 == 2:
        return lax.rev(x, (a, b))
    return transposed(lax.rev(x, (b,)), order) if k % 4 == 1 else lax.rev(transposed(x, order), (b,))


@lowers(aten.repeat.default, aten.tile.default)
def _repeat(out, x, repeats):
    """Repeat the whole, dimension by dimension; a longer list makes new dimensions, a shorter one leaves the first as they are."""
    repeats = (1,) * (x.ndim - len(repeats)) + tuple(repeats)
    shape = (1,) * (len(repeats) - x.ndim) + x.shape
    if 0 in out.shape:
        return lax.full(tuple(out.shape), 0, x.dtype)
    pairs = [n for pair in zip(repeats, shape, strict=True) for n in pair]
    places = [2 * d + 1 for d in range(len(repeats) - x.ndim, len(repeats))]
    return lax.reshape(lax.broadcast_in_dim(x, pairs, places), tuple(out.shape))


@lowers(aten.repeat_interleave.self_int)
def _repeat_interleave(out, x, repeats, dim=None, output_size=None):
    if dim is None:
        x, dim = lax.reshape(x, (x.size,)), 0
    dim = axis(dim, x.ndim)
    x = lax.reshape(x, x.shape or (1,))
    shape = (*x.shape[: dim + 1], repeats, *x.shape[dim + 1 :])
    return lax.reshape(lax.broadcast_in_dim(x, shape, [d for d in range(len(shape)) if d != dim + 1]), tuple(out.shape))


@lowers(aten.repeat_interleave.Tensor)
def _repeat_numbers(out, repeats, output_size=None):
    """Return each index ``repeats`` times, by counting at each place the running sums up to it."""
    ends = lax.cumsum(lax.convert_element_type(repeats, np.int64), 0)
    places = lax.iota(np.int64, out.shape[0])
    return jnp.searchsorted(ends, places, side="right", method="compare_all" if out.shape[0] * ends.size < 1 << 16 else "scan")


def _padded(x, pairs):
    """Return ``x`` with zeros before and behind each dimension; negative numbers cut."""
    return lax.pad(x, lax.full((), 0, x.dtype), [(*pair, 0) for pair in pairs]) if any(map(any, pairs)) else x


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


@lowers(aten.pixel_shuffle.default)
def _pixel_shuffle(out, x, factor):
    *batch, channels, height, width = x.shape
    n = len(batch)
    x = lax.reshape(x, (*batch, channels // factor**2, factor, factor, height, width))
    return lax.reshape(transposed(x, [*range(n), n, n + 3, n + 1, n + 4, n + 2]), tuple(out.shape))


@lowers(aten.pixel_unshuffle.default)
def _pixel_unshuffle(out, x, factor):
    *batch, channels, height, width = x.shape
    n = len(batch)
    x = lax.reshape(x, (*batch, channels, height // factor, factor, width // factor, factor))
    return lax.reshape(transposed(x, [*range(n), n, n + 2, n + 4, n + 1, n + 3]), tuple(out.shape))


@lowers(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def _channel_shuffle(out, x, groups):
    batch, channels, *rest = x.shape
    parts = lax.reshape(x, (batch, groups, channels // groups, *rest))
    return lax.reshape(transposed(parts, [0, 2, 1, *range(3, parts.ndim)]), x.shape)
