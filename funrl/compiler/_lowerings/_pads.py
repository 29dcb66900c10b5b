"""Pads that mirror or repeat the edges, and the gradients through them."""

import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._rearranging import joined
from funrl.compiler._lowerings._shape import sliced
from funrl.compiler._lowerings._table import constant, lowers

aten = torch.ops.aten


def _pairs(x, padding):
    """Return the dimensions that are padded, from the last, with how many places come before and behind."""
    return [(x.ndim - 1 - i, padding[2 * i], padding[2 * i + 1]) for i in range(len(padding) // 2)]


def _mirrored(x, dim, left, right):
    size = x.shape[dim]
    before = [lax.rev(sliced(x, dim, 1, left + 1), (dim,))] if left > 0 else []
    behind = [lax.rev(sliced(x, dim, size - 1 - right, size - 1), (dim,))] if right > 0 else []
    return joined([*before, _cut(x, dim, left, right), *behind], dim)


def _repeated(x, dim, left, right):
    size, others = x.shape[dim], [d for d in range(x.ndim) if d != dim]

    def edge(at, count):
        row = lax.squeeze(sliced(x, dim, at, at + 1), (dim,))
        return [lax.broadcast_in_dim(row, (*x.shape[:dim], count, *x.shape[dim + 1 :]), others)] if count > 0 else []

    return joined([*edge(0, left), _cut(x, dim, left, right), *edge(size - 1, right)], dim)


def _cut(x, dim, left, right):
    """Return ``x`` without the places that negative pads take away."""
    return sliced(x, dim, max(0, -left), x.shape[dim] - max(0, -right))


def _padded_by(pad):
    def f(out, x, padding):
        if not x.size:
            return constant(0, out.dtype, tuple(out.shape))
        for dim, left, right in _pairs(x, padding):
            x = pad(x, dim, left, right)
        return x

    return f


def _middle(grad, dim, left, right, size):
    """Return the gradients of the places that are not pads, zeros where negative pads took a place away."""
    kept = sliced(grad, dim, max(0, left), grad.shape[dim] - max(0, right))
    return _at(kept, dim, max(0, -left), size)


def _at(x, dim, start, size):
    """Return zeros of ``size`` along ``dim`` that hold ``x`` from ``start``."""
    pads = [(start, size - start - x.shape[dim], 0) if d == dim else (0, 0, 0) for d in range(x.ndim)]
    return lax.pad(x, lax.full((), 0, x.dtype), pads) if x.shape[dim] != size else x


def _mirrored_backward(grad, dim, left, right, size):
    total, end = _middle(grad, dim, left, right, size), grad.shape[dim]
    if left > 0:
        total = lax.add(total, _at(lax.rev(sliced(grad, dim, 0, left), (dim,)), dim, 1, size))
    if right > 0:
        total = lax.add(total, _at(lax.rev(sliced(grad, dim, end - right, end), (dim,)), dim, size - 1 - right, size))
    return total


def _repeated_backward(grad, dim, left, right, size):
    total, end = _middle(grad, dim, left, right, size), grad.shape[dim]

    def summed(start, stop):
        part = sliced(grad, dim, start, stop)
        return lax.expand_dims(lax.reduce(part, np.zeros((), grad.dtype), lax.add, (dim,)), (dim,))

    if left > 0:
        total = lax.add(total, _at(summed(0, left), dim, 0, size))
    if right > 0:
        total = lax.add(total, _at(summed(end - right, end), dim, size - 1, size))
    return total


def _backward_by(pad_backward):
    def f(out, grad, x, padding):
        if not grad.size or not x.size:
            return constant(0, out.dtype, tuple(out.shape))
        for dim, left, right in reversed(_pairs(grad, padding)):
            grad = pad_backward(grad, dim, left, right, x.shape[dim])
        return grad

    return f


for _n in "123":
    for _name, _pad, _pad_backward in (("reflection", _mirrored, _mirrored_backward), ("replication", _repeated, _repeated_backward)):
        lowers(getattr(aten, f"{_name}_pad{_n}d").default)(_padded_by(_pad))
        lowers(getattr(aten, f"{_name}_pad{_n}d_backward").default)(_backward_by(_pad_backward))
