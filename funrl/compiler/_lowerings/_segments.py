"""Reductions over segments of an axis: segment_reduce and bags of embeddings."""

import math

import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._indexing import read
from funrl.compiler._lowerings._origins import note_expanded
from funrl.compiler._lowerings._scattering import write, write_along
from funrl.compiler._lowerings._shape import expanded, sliced
from funrl.compiler._lowerings._softmax import norm
from funrl.compiler._lowerings._table import constant, lowers

aten = torch.ops.aten

_STARTS = {"sum": 0, "mean": 0, "prod": 1, "max": -math.inf, "min": math.inf}
_WRITES = {"sum": "add", "mean": "add", "prod": "multiply", "max": "amax", "min": "amin"}


def _segment_of(starts, ends, size):
    """Return for each of ``size`` places the number [..., size] of its segment, or how many there are for a place in none."""
    count, shape = ends.shape[-1], (*ends.shape[:-1], size, ends.shape[-1])
    places = lax.broadcasted_iota(ends.dtype, shape, len(shape) - 2)
    others = [d for d in range(len(shape)) if d != len(shape) - 2]
    after_start = lax.ge(places, lax.broadcast_in_dim(starts, shape, others))
    inside = lax.bitwise_and(after_start, lax.lt(places, lax.broadcast_in_dim(ends, shape, others)))
    number = lax.select(inside, lax.broadcasted_iota(ends.dtype, shape, len(shape) - 1), lax.full(shape, count, ends.dtype))
    return lax.reduce(number, np.array(count, ends.dtype), lax.min, (len(shape) - 1,))


@lowers(aten.segment_reduce.default)
def _segment_reduce(out, data, reduce, lengths=None, indices=None, offsets=None, axis=0, unsafe=False, initial=None):
    """Reduce the pieces of an axis; an empty piece gives ``initial`` or, without it, the neutral element of the reduction (NaN for a
    mean)."""
    if lengths is None:
        last = offsets.ndim - 1
        starts, ends = sliced(offsets, last, 0, offsets.shape[last] - 1), sliced(offsets, last, 1, offsets.shape[last])
        lengths = lax.sub(ends, starts)
    else:
        ends = lax.cumsum(lengths, lengths.ndim - 1)
        starts = lax.sub(ends, lengths)
    dtype, shape = out.dtype, tuple(out.shape)
    result = constant(_STARTS[reduce] if initial is None else initial, dtype, shape)
    if data.size and out.numel():
        numbers = _segment_of(starts, ends, data.shape[axis])
        numbers = lax.reshape(numbers, numbers.shape + (1,) * (data.ndim - numbers.ndim))
        index = expanded(numbers, data.shape)
        note_expanded(index, numbers)
        result = write_along(result, axis, index, data, _WRITES[reduce])
    if reduce != "mean":
        return result
    lengths = lax.broadcast_in_dim(lax.convert_element_type(lengths, result.dtype), shape, range(lengths.ndim))
    empty = lax.eq(lengths, lax.full_like(lengths, 0))
    mean = lax.div(result, lax.select(empty, lax.full_like(lengths, 1), lengths))
    return lax.select(empty, constant(math.nan, dtype, shape), mean) if initial is None else mean


@lowers(aten._embedding_bag.default)
def _embedding_bag(
    out,
    weight,
    indices,
    offsets,
    scale_grad_by_freq=False,
    mode=0,
    sparse=False,
    per_sample_weights=None,
    include_last_offset=False,
    padding_idx=-1,
):
    """Sum (mode 0), average (1) or take the maximum (2) of the rows of each bag; an empty bag gives zeros.

    Also return the number of each index's bag, the sizes of the bags, and the rows of the maxima (or the sizes again).
    """
    bags, width = out[0].shape
    size, kind = indices.shape[0], indices.dtype
    starts = sliced(offsets, 0, 0, bags)
    ends = sliced(offsets, 0, 1, bags + 1) if include_last_offset else None
    if ends is None:
        ends = lax.concatenate([sliced(starts, 0, 1, bags), lax.full((min(bags, 1),), size, starts.dtype)], 0)
    numbers = _segment_of(starts, ends, size)
    padding = lax.eq(indices, lax.full_like(indices, padding_idx)) if padding_idx >= 0 else lax.full(indices.shape, False, np.bool_)
    target = lax.select(padding, lax.full_like(numbers, bags), numbers)
    rows = read(weight, [0], [indices])
    counts = write(lax.full((bags,), 0, kind), [0], [target], lax.full((size,), 1, kind), "add")
    if per_sample_weights is not None:
        rows = lax.mul(rows, lax.broadcast_in_dim(per_sample_weights, rows.shape, (0,)))
    spread = lax.broadcast_in_dim(counts, (bags, width), (0,))
    chosen = counts if tuple(out[3].shape) == counts.shape else constant(0, out[3].dtype, tuple(out[3].shape))
    if mode == 2:
        result = write(lax.full((bags, width), -math.inf, rows.dtype), [0], [target], rows, "amax")
        result = lax.select(lax.gt(spread, lax.full_like(spread, 0)), result, lax.full_like(result, 0))
        if chosen.shape == result.shape and rows.size:
            chosen = _first_equal(result, rows, indices, numbers, target, bags)
    else:
        result = write(lax.full((bags, width), 0, rows.dtype), [0], [target], rows, "add")
        if mode == 1:
            divisor = lax.max(spread, lax.full_like(spread, 1))
            result = lax.div(result, lax.convert_element_type(divisor, result.dtype))
    return (
        result,
        numbers if tuple(out[1].shape) == numbers.shape else constant(0, out[1].dtype, tuple(out[1].shape)),
        counts if tuple(out[2].shape) == counts.shape else constant(0, out[2].dtype, tuple(out[2].shape)),
        chosen,
    )


@lowers(aten._embedding_bag_forward_only.default)
def _embedding_bag_forward_only(out, weight, indices, offsets, scale_grad_by_freq=False, mode=0, *args, **kwargs):
    """Return the same, but with zeros for the sizes of summed bags, as torch does, because only a gradient needs them."""
    results = _embedding_bag(out, weight, indices, offsets, scale_grad_by_freq, mode, *args, **kwargs)
    return results if mode else (*results[:2], *(lax.full_like(x, 0) for x in results[2:]))


def _first_equal(maxima, rows, indices, numbers, target, bags):
    """Return for each maximum [bags, width] the index of the first row of its bag that holds it."""
    size, kind = rows.shape[0], indices.dtype
    equal = lax.eq(rows, read(maxima, [0], [numbers]))
    places = lax.select(equal, lax.broadcasted_iota(kind, rows.shape, 0), lax.full(rows.shape, size, kind))
    first = write(lax.full(maxima.shape, size, kind), [0], [target], places, "amin")
    return lax.select(lax.lt(first, lax.full_like(first, size)), read(indices, [0], [first]), lax.full_like(first, 0))


@lowers(aten.embedding_renorm.default)
def _embedding_renorm(out, weight, indices, max_norm, norm_type):
    """Shrink the rows that ``indices`` name to a norm of at most ``max_norm``."""
    index = lax.reshape(indices, (indices.size,))
    if not index.size or not weight.size:
        return weight
    rows = read(weight, [0], [index])
    norms = norm(rows, norm_type, (1,))
    scale = lax.div(lax.full_like(norms, max_norm), lax.add(norms, lax.full_like(norms, 1e-7)))
    scale = lax.select(lax.gt(norms, lax.full_like(norms, max_norm)), scale, lax.full_like(scale, 1))
    return write(weight, [0], [index], lax.mul(rows, lax.broadcast_in_dim(scale, rows.shape, (0,))))
