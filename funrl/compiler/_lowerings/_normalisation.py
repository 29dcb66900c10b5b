"""Normalisation over layers, groups and batches, forward and backward."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._linalg import wide
from funrl.compiler._lowerings._operands import expanded
from funrl.compiler._lowerings._table import constant, lowers, torch_dtype

aten = torch.ops.aten


def total(x: Any, dims: Sequence[int], keep: bool = False) -> Any:
    """Return the sum over ``dims``."""
    y = lax.reduce(x, np.zeros((), x.dtype), lax.add, tuple(dims))
    return lax.reshape(y, tuple(1 if i in dims else n for i, n in enumerate(x.shape))) if keep else y


def _average(x: Any, dims: Sequence[int]) -> Any:
    count = math.prod(x.shape[d] for d in dims)
    y = total(x, dims, keep=True)
    return lax.mul(y, constant(1 / count if count else math.nan, torch_dtype(x.dtype), y.shape))


def moments(x: Any, dims: Sequence[int], eps: float) -> tuple[Any, Any, Any]:
    """Return ``x`` minus its mean, the mean, and the reciprocal standard deviation, with their dimensions kept."""
    mean = _average(x, dims)
    centred = lax.sub(x, expanded(mean, x.shape))
    variance = _average(lax.square(centred), dims)
    return centred, mean, lax.rsqrt(lax.add(variance, constant(eps, torch_dtype(x.dtype), variance.shape)))


def affine(y: Any, weight: Any, bias: Any, dims: Sequence[int]) -> Any:
    """Return ``y weight + bias``, which lie along ``dims`` of ``y``; None is 1 and 0."""
    if weight is not None:
        y = lax.mul(y, lax.broadcast_in_dim(wide(weight), y.shape, tuple(dims)))
    return y if bias is None else lax.add(y, lax.broadcast_in_dim(wide(bias), y.shape, tuple(dims)))


def input_gradient(g: Any, normal: Any, rstd: Any, dims: Sequence[int]) -> Any:
    """Return the gradient of the input, where ``g`` is that of the normalised input ``normal``."""
    along = lax.mul(normal, expanded(_average(lax.mul(g, normal), dims), g.shape))
    return lax.mul(lax.sub(lax.sub(g, expanded(_average(g, dims), g.shape)), along), expanded(rstd, g.shape))


@lowers(aten.native_layer_norm.default)
def _(out: Any, x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    dims = tuple(range(x.ndim - len(shape), x.ndim))
    centred, mean, rstd = moments(wide(x), dims, eps)
    return affine(lax.mul(centred, expanded(rstd, x.shape)), weight, bias, dims), mean, rstd


@lowers(aten.native_layer_norm_backward.default)
def _(out: Any, g: Any, x: Any, shape: Any, mean: Any, rstd: Any, weight: Any, bias: Any, mask: Any) -> Any:
    inner, outer = tuple(range(x.ndim - len(shape), x.ndim)), tuple(range(x.ndim - len(shape)))
    g, x, mean, rstd = wide(g), wide(x), wide(mean), wide(rstd)
    normal = lax.mul(lax.sub(x, expanded(mean, x.shape)), expanded(rstd, x.shape))
    return (
        input_gradient(affine(g, weight, None, inner), normal, rstd, inner) if mask[0] else None,
        total(lax.mul(g, normal), outer) if mask[1] and weight is not None else None,
        total(g, outer) if mask[2] and bias is not None else None,
    )
