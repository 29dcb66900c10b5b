"""Sums and maxima over windows of one dimension after the other, as pooling and resampling need them.

A window is a row of ``index`` [out, taps]: the places of the input that it covers, and -1 for none.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funrl.compiler._lowerings._operands import expanded

MOST_TAPS = 16  # wider windows are gathered and reduced, rather than unrolled


def windows(n: int, out: int, size: int, stride: int, padding: int, dilation: int = 1) -> np.ndarray:
    """Return the places [out, size] that each window of a sliding pool covers."""
    places = np.arange(out)[:, None] * stride - padding + np.arange(size) * dilation
    return np.where((places >= 0) & (places < n), places, -1)


def adaptive(n: int, out: int) -> np.ndarray:
    """Return the places of each window of an adaptive pool."""
    first = np.arange(out) * n // max(out, 1)
    last = -(-(np.arange(out) + 1) * n // max(out, 1))
    places = first[:, None] + np.arange(int((last - first).max(initial=0)))
    return np.where(places < last[:, None], places, -1)


def transposed(index: np.ndarray, n: int, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return for each of ``n`` places the windows that cover it, and the weights it has there."""
    rows: list[list[tuple[int, Any]]] = [[] for _ in range(n)]
    for o, j in np.argwhere(index >= 0):
        rows[index[o, j]].append((int(o), 1 if weight is None else weight[o, j]))
    taps = max((len(row) for row in rows), default=0)
    back = np.array([[o for o, _ in row] + [-1] * (taps - len(row)) for row in rows], np.int64).reshape(n, taps)
    if weight is None:
        return back, None
    return back, np.array([[w for _, w in row] + [0] * (taps - len(row)) for row in rows], weight.dtype).reshape(n, taps)


def along(values: np.ndarray, axis: int, shape: Sequence[int]) -> jax.Array:
    """Return numbers that vary only along ``axis``, in a shape."""
    return lax.broadcast_in_dim(values, tuple(shape), (axis,))


def tap(x: Any, axis: int, places: np.ndarray, fill: Any) -> Any:
    """Return ``x`` at ``places`` along ``axis``, and ``fill`` where there is no place."""
    shape = (*x.shape[:axis], len(places), *x.shape[axis + 1 :])
    inside = np.flatnonzero(places >= 0)
    if not inside.size:
        return lax.full(shape, fill, x.dtype)
    lo, hi = int(inside[0]), int(inside[-1]) + 1
    steps = np.diff(places[lo:hi])
    step = int(steps[0]) if steps.size else 1
    if hi - lo == inside.size and step > 0 and (steps == step).all():
        x = lax.slice_in_dim(x, int(places[lo]), int(places[hi - 1]) + 1, step, axis)
        sides = [(0, 0, 0)] * x.ndim
        sides[axis] = (lo, len(places) - hi, 0)
        return lax.pad(x, np.asarray(fill, x.dtype), sides) if sides[axis] != (0, 0, 0) else x
    x = _gather(x, axis, np.maximum(places, 0))
    return x if inside.size == len(places) else lax.select(along(places >= 0, axis, shape), x, lax.full(shape, fill, x.dtype))


def _gather(x: Any, axis: int, places: np.ndarray) -> Any:
    numbers = lax.GatherDimensionNumbers(tuple(d for d in range(x.ndim) if d != axis), (axis,), (axis,))
    sizes = tuple(1 if d == axis else n for d, n in enumerate(x.shape))
    return lax.gather(x, places.astype(np.int32)[:, None], numbers, sizes, mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS)


def _apart(x: Any, axis: int, index: np.ndarray, fill: Any) -> Any:
    """Return ``x`` at the places of all windows: [..., out, taps, ...]."""
    y = tap(x, axis, index.reshape(-1), fill)
    return lax.reshape(y, (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def sums(x: Any, axis: int, index: np.ndarray, weight: np.ndarray | None = None) -> Any:
    """Return the (weighted) sum of ``x`` over each window along ``axis``."""
    weight = None if weight is None else weight.astype(x.dtype)
    if index.shape[1] > MOST_TAPS:
        y = _apart(x, axis, index, 0)
        if weight is not None:
            y = lax.mul(y, lax.broadcast_in_dim(weight, y.shape, (axis, axis + 1)))
        return lax.reduce(y, np.zeros((), y.dtype), lax.add, (axis + 1,))
    y = None
    for j in range(index.shape[1]):
        part = tap(x, axis, index[:, j], 0)
        if weight is not None:
            part = lax.mul(part, along(weight[:, j], axis, part.shape))
        y = part if y is None else lax.add(y, part)
    return tap(x, axis, np.full(len(index), -1), 0) if y is None else y


def _lowest(dtype: Any) -> Any:
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def _greater(x: Any, best: Any) -> Any:
    """Return where ``x`` is above ``best`` or NaN."""
    above = lax.gt(x, best)
    return lax.bitwise_or(above, lax.ne(x, x)) if jnp.issubdtype(x.dtype, jnp.floating) else above


def maxima(x: Any, where: Any, axis: int, index: np.ndarray, scale: int) -> tuple[Any, Any]:
    """Return the greatest of each window along ``axis`` and its place: ``where`` (None: 0) plus ``scale`` times its place along ``axis``.

    Of equals the first counts, and of NaN the last, as in torch.
    """
    shape = (*x.shape[:axis], len(index), *x.shape[axis + 1 :])
    if index.shape[1] > MOST_TAPS:
        return _maxima_apart(x, where, axis, index, scale)
    best = place = None
    started = np.zeros(len(index), bool)
    for j in range(index.shape[1]):
        column = index[:, j]
        value = tap(x, axis, column, _lowest(x.dtype))
        at = along((column * scale).astype(np.int32), axis, shape)
        at = at if where is None else lax.add(at, tap(where, axis, column, 0))
        if best is None:
            best, place = value, at
        else:
            better = _greater(value, best)
            first = (column >= 0) & ~started
            better = lax.bitwise_or(better, along(first, axis, shape)) if first.any() else better
            best, place = lax.select(better, value, best), lax.select(better, at, place)
        started |= column >= 0
    if best is None:
        return lax.full(shape, _lowest(x.dtype), x.dtype), lax.full(shape, 0, jnp.int32)
    return best, place


def _maxima_apart(x: Any, where: Any, axis: int, index: np.ndarray, scale: int) -> tuple[Any, Any]:
    first = np.where(index >= 0, index, np.maximum(index.max(1, keepdims=True), 0))  # a place counted twice does no harm
    values = _apart(x, axis, first, 0)
    at = lax.broadcast_in_dim((first * scale).astype(np.int32), values.shape, (axis, axis + 1))
    at = at if where is None else lax.add(at, _apart(where, axis, first, 0))

    def better(a: Any, b: Any) -> Any:
        (x, i), (y, j) = a, b
        take = lax.bitwise_or(lax.gt(y, x), lax.bitwise_and(lax.eq(x, y), lax.lt(j, i)))
        if jnp.issubdtype(x.dtype, jnp.floating):
            x_is, y_is = lax.eq(x, x), lax.eq(y, y)  # numbers
            later = lax.bitwise_and(lax.bitwise_not(y_is), lax.bitwise_or(x_is, lax.gt(j, i)))
            take = lax.bitwise_or(lax.bitwise_and(take, x_is), later)
        return lax.select(take, y, x), lax.select(take, j, i)

    start = (np.asarray(_lowest(x.dtype), x.dtype), np.asarray(np.iinfo(np.int32).max, np.int32))
    return tuple(lax.reduce((values, at), start, better, (axis + 1,)))


def routed(g: Any, where: Any, indices: Sequence[np.ndarray], sizes: Sequence[int]) -> Any:
    """Return the gradient of maxima: each ``g`` goes to the place ``where`` (flat over the last dimensions, of ``sizes``) it came from."""
    n = len(sizes)
    axes = range(g.ndim - n, g.ndim)
    back = [transposed(index, size)[0] for index, size in zip(indices, sizes, strict=True)]
    shape = (*g.shape[: g.ndim - n], *sizes)
    if np.prod([b.shape[1] for b in back]) > 4 * MOST_TAPS:
        return _scattered(g, where, shape, n)
    own = expanded(lax.reshape(lax.iota(where.dtype, int(np.prod(sizes))), tuple(sizes)), shape)
    total = None
    for combination in np.ndindex(*(b.shape[1] for b in back)):
        part, at = g, where
        for axis, b, j in zip(axes, back, combination, strict=True):
            part, at = tap(part, axis, b[:, j], 0), tap(at, axis, b[:, j], -1)
        part = lax.select(lax.eq(at, own), part, lax.full_like(part, 0))
        total = part if total is None else lax.add(total, part)
    return lax.full(shape, 0, g.dtype) if total is None else total


def _scattered(g: Any, where: Any, shape: Sequence[int], n: int) -> Any:
    rows = int(np.prod(shape[: len(shape) - n]))
    g, where = lax.reshape(g, (rows, g.size // rows)), lax.reshape(where, (rows, g.size // rows))
    flat = jnp.zeros((rows, int(np.prod(shape[len(shape) - n :]))), g.dtype)
    return lax.reshape(flat.at[lax.broadcasted_iota(where.dtype, where.shape, 0), where].add(g), tuple(shape))
