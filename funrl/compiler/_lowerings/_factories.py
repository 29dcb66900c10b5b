"""Operators that make tensors from numbers."""

import math

import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._origins import note_count
from funrl.compiler._lowerings._shape import expanded
from funrl.compiler._lowerings._table import cast, constant, jax_dtype, lowers

aten = torch.ops.aten


@lowers(
    aten.zeros.default,
    aten.zeros_like.default,
    aten.new_zeros.default,
    aten._new_zeros_with_same_feature_meta.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.empty_strided.default,
    aten.new_empty_strided.default,
    aten.empty_permuted.default,
)
def _zeros(out, *args, **kwargs):
    """Zeros; so are the tensors that torch leaves without values."""
    return constant(0, out.dtype, tuple(out.shape))


@lowers(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def _ones(out, *args, **kwargs):
    return constant(1, out.dtype, tuple(out.shape))


@lowers(aten.full.default)
def _full(out, size, fill_value, **kwargs):
    return _number(fill_value, out)


@lowers(aten.full_like.default)
def _full_like(out, x, fill_value, **kwargs):
    return _number(fill_value, out)


@lowers(aten.new_full.default)
def _new_full(out, x, size, fill_value, **kwargs):
    return _number(fill_value, out)


@lowers(aten.scalar_tensor.default)
def _scalar_tensor(out, s, **kwargs):
    return _number(s, out)


def _number(value, out):
    if hasattr(value, "ndim"):
        return expanded(cast(lax.reshape(value, ()), out.dtype), out.shape)
    return constant(value, out.dtype, tuple(out.shape))


@lowers(aten.arange.default)
def _arange(out, end, **kwargs):
    return _steps(out, 0, 1)


@lowers(aten.arange.start)
def _arange_start(out, start, end, **kwargs):
    return _steps(out, start, 1)


@lowers(aten.arange.start_step, aten.range.step)
def _arange_start_step(out, start, end, step=1, **kwargs):
    return _steps(out, start, step)


@lowers(aten.range.default)
def _range(out, start, end, **kwargs):
    return _steps(out, start, 1)


def _steps(out, start, step):
    """Return ``start + step * i``; torch reckons whole numbers in int64 and floating ones in float64, and rounds once."""
    whole = not out.dtype.is_floating_point
    kind, number = (np.int64, int) if whole else (np.float64, float)
    row = lax.iota(kind, out.shape[0])
    if step != 1:
        row = lax.mul(row, lax.full_like(row, number(step)))
    if start != 0:
        row = lax.add(row, lax.full_like(row, number(start)))
    if out.dtype == torch.int64:
        note_count(row, int(start), int(step))
    return row


def _float64(x):
    """Return a number, or a tensor with one element, as a float64 array []."""
    return lax.reshape(lax.convert_element_type(x, np.float64), ()) if hasattr(x, "ndim") else lax.full((), x, np.float64)


@lowers(aten.linspace.default, aten.linspace.Tensor_Tensor, aten.linspace.Tensor_Scalar, aten.linspace.Scalar_Tensor)
def _linspace(out, start, end, steps, **kwargs):
    """Count from the nearer end, as torch does, so that both ends are exact."""
    return _between(out, start, end, steps)


def _between(out, start, end, steps):
    shape = tuple(out.shape)
    start, end = _float64(start), _float64(end)
    if not out.dtype.is_floating_point:
        start, end = _toward_zero(start), _toward_zero(end)
    if steps < 2:
        return lax.broadcast_in_dim(start, shape, ())
    step = lax.div(lax.sub(end, start), lax.full((), steps - 1, np.float64))
    row = lax.iota(np.float64, steps)
    step = lax.broadcast_in_dim(step, shape, ())
    up = lax.add(lax.broadcast_in_dim(start, shape, ()), lax.mul(row, step))
    down = lax.sub(lax.broadcast_in_dim(end, shape, ()), lax.mul(lax.sub(lax.full(shape, steps - 1, np.float64), row), step))
    return lax.select(lax.lt(lax.iota(np.int64, steps), lax.full(shape, steps // 2, np.int64)), up, down)


def _toward_zero(x):
    return lax.select(lax.lt(x, lax.full_like(x, 0)), lax.ceil(x), lax.floor(x))


@lowers(aten.logspace.default, aten.logspace.Tensor_Tensor, aten.logspace.Tensor_Scalar, aten.logspace.Scalar_Tensor)
def _logspace(out, start, end, steps, base=10.0, **kwargs):
    exponents = _between(out, start, end, steps)
    return lax.pow(lax.full(tuple(out.shape), float(base), np.float64), exponents)


@lowers(aten.eye.default, aten.eye.m)
def _eye(out, *args, **kwargs):
    shape = tuple(out.shape)
    return lax.eq(lax.broadcasted_iota(np.int32, shape, 0), lax.broadcasted_iota(np.int32, shape, 1))


@lowers(aten.triu_indices.default)
def _triu_indices(out, row, col, offset=0, **kwargs):
    return jnp.asarray(np.stack(np.triu_indices(row, offset, col)), jax_dtype(out.dtype))


@lowers(aten.tril_indices.default)
def _tril_indices(out, row, col, offset=0, **kwargs):
    return jnp.asarray(np.stack(np.tril_indices(row, offset, col)), jax_dtype(out.dtype))


def _cosines(*weights):
    """Return a window that is a sum of cosines: ``sum_k weights[k] * cos(2 pi k x)`` for x in [0, 1]."""
    return lambda x: sum(w * np.cos(2 * math.pi * k * x) for k, w in enumerate(weights))


def _window(out, shape_of, length, periodic=True):
    """Return ``shape_of`` at ``length`` equal steps of [0, 1]; a periodic window lacks its last point."""
    if length <= 1:
        return constant(1, out.dtype, tuple(out.shape))
    points = np.arange(length, dtype=np.float64) / (length if periodic else length - 1)
    return jnp.asarray(shape_of(points), jax_dtype(out.dtype))


@lowers(aten.hann_window.default, aten.hann_window.periodic)
def _hann(out, length, periodic=True, **kwargs):
    return _window(out, _cosines(0.5, -0.5), length, periodic)


@lowers(
    aten.hamming_window.default,
    aten.hamming_window.periodic,
    aten.hamming_window.periodic_alpha,
    aten.hamming_window.periodic_alpha_beta,
)
def _hamming(out, length, periodic=True, alpha=0.54, beta=0.46, **kwargs):
    return _window(out, _cosines(alpha, -beta), length, periodic)


@lowers(aten.blackman_window.default, aten.blackman_window.periodic)
def _blackman(out, length, periodic=True, **kwargs):
    return _window(out, _cosines(0.42, -0.5, 0.08), length, periodic)


@lowers(aten.bartlett_window.default, aten.bartlett_window.periodic)
def _bartlett(out, length, periodic=True, **kwargs):
    return _window(out, lambda x: 1 - np.abs(2 * x - 1), length, periodic)


@lowers(aten.kaiser_window.default, aten.kaiser_window.periodic, aten.kaiser_window.beta)
def _kaiser(out, length, periodic=True, beta=12.0, **kwargs):
    return _window(out, lambda x: np.i0(beta * np.sqrt(np.maximum(0, 1 - (2 * x - 1) ** 2))) / np.i0(beta), length, periodic)
