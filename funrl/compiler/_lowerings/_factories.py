"""Operators that make tensors from numbers."""

import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._origins import note_count
from funrl.compiler._lowerings._shape import expanded
from funrl.compiler._lowerings._table import cast, constant, lowers

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


@lowers(aten.full.default, aten.full_like.default, aten.new_full.default, aten.scalar_tensor.default)
def _full(out, *args, fill_value=None, **kwargs):
    """Return the last argument everywhere."""
    value = args[-1] if fill_value is None else fill_value
    if hasattr(value, "ndim"):
        return expanded(cast(lax.reshape(value, ()), out.dtype), out.shape)
    return constant(value, out.dtype, tuple(out.shape))


@lowers(aten.arange.default, aten.arange.start, aten.arange.start_step, aten.range.default, aten.range.step)
def _arange(out, *bounds, **kwargs):
    """Return ``start + step * i``; torch reckons whole numbers in int64 and floating ones in float64, and rounds once."""
    start, _, step = (0, *bounds, 1) if len(bounds) == 1 else (*bounds, 1)[:3]
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


@lowers(aten.linspace.default)
def _linspace(out, start, end, steps, **kwargs):
    """Count from the nearer end, as torch does, so that both ends are exact."""
    if not out.dtype.is_floating_point:
        start, end = int(start), int(end)
    row = lax.iota(np.float64, steps)
    step = (end - start) / max(steps - 1, 1)
    up = lax.add(lax.mul(row, lax.full_like(row, step)), lax.full_like(row, start))
    down = lax.sub(lax.full_like(row, end), lax.mul(lax.sub(lax.full_like(row, steps - 1), row), lax.full_like(row, step)))
    return lax.select(lax.lt(row, lax.full_like(row, max(steps // 2, 1))), up, down)


@lowers(aten.eye.default, aten.eye.m)
def _eye(out, *args, **kwargs):
    shape = tuple(out.shape)
    return lax.eq(lax.broadcasted_iota(np.int32, shape, 0), lax.broadcasted_iota(np.int32, shape, 1))


def _enter_constants(*packets):
    """Enter operators that make small tables of numbers: torch itself makes them, once, when the program is compiled."""
    for packet in packets:
        for operator in (getattr(packet, overload) for overload in packet.overloads() if "out" not in overload):
            lowers(operator)(lambda out, *args, operator=operator, **kwargs: jnp.asarray(operator(*args, **kwargs).double().numpy()))


_enter_constants(aten.triu_indices, aten.tril_indices, aten.bartlett_window, aten.blackman_window, aten.hamming_window, aten.hann_window)
_enter_constants(aten.kaiser_window)
