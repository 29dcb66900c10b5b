"""Normalisation over batches, forward and backward, with and without running averages."""

import math
from typing import Any

import torch
from jax import lax

from funrl.compiler._lowerings._linalg import scaled, spread, wide
from funrl.compiler._lowerings._normalisation import affine, input_gradient, moments, total
from funrl.compiler._lowerings._table import constant, jax_dtype, lowers, torch_dtype

aten = torch.ops.aten


def _fixed(out: Any, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, eps: float) -> Any:
    """Return the batch normalised by running averages, and the values that torch stores for the gradient: nothing, or these averages."""
    x, mean, variance = wide(x), wide(mean), wide(variance)
    rstd = _rstd(variance, eps)
    y = lax.mul(lax.sub(x, _lying(mean, x)), _lying(rstd, x))
    kept = (_kept(meta, v) for meta, v in zip(out[1:3], (mean, rstd), strict=True))
    return affine(y, weight, bias, (1,)), *kept


def _kept(meta: Any, v: Any) -> Any:
    return v if tuple(meta.shape) == v.shape else lax.full(tuple(meta.shape), 0, jax_dtype(meta.dtype))


def _rstd(variance: Any, eps: float) -> Any:
    return lax.rsqrt(lax.add(variance, constant(eps, torch_dtype(variance.dtype), variance.shape)))


def _lying(v: Any, x: Any) -> Any:
    return lax.broadcast_in_dim(v, x.shape, (1,))


def _outer(x: Any) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _training(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    """Return the normalised batch, the average and the reciprocal deviation of each channel."""
    centred, mean, rstd = moments(wide(x), _outer(x), eps)
    y = affine(lax.mul(centred, spread(rstd, x.shape)), weight, bias, (1,))
    return y, lax.reshape(mean, (x.shape[1],)), lax.reshape(rstd, (x.shape[1],))


def _moved(running: Any, new: Any, momentum: float) -> Any:
    """Return the running average after a batch."""
    new = lax.convert_element_type(new, running.dtype)
    return lax.add(scaled(running, 1 - momentum), scaled(new, momentum))


def _running(x: Any, mean: Any, running_mean: Any, running_var: Any, momentum: float) -> tuple[Any, Any]:
    centred = lax.sub(wide(x), _lying(mean, x))
    count = math.prod(x.shape[d] for d in _outer(x))
    variance = scaled(total(lax.square(centred), _outer(x)), 1 / (count - 1) if count > 1 else math.nan)
    return _moved(running_mean, mean, momentum), _moved(running_var, variance, momentum)


@lowers(aten._native_batch_norm_legit.no_stats)
def _(out: Any, x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float) -> Any:
    return _training(x, weight, bias, eps)


@lowers(aten._native_batch_norm_legit_no_training.default)
def _(out: Any, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float) -> Any:
    return _fixed(out, x, weight, bias, running_mean, running_var, eps)


@lowers(aten._native_batch_norm_legit_functional.default)
def _(out: Any, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float) -> Any:
    if not training:
        return *_fixed(out, x, weight, bias, running_mean, running_var, eps), running_mean, running_var
    y, mean, rstd = _training(x, weight, bias, eps)
    return y, mean, rstd, *_running(x, mean, running_mean, running_var, momentum)


@lowers(aten._batch_norm_with_update_functional.default)
def _(out: Any, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float) -> Any:
    y, mean, rstd = _training(x, weight, bias, eps)
    nothing = lax.full(tuple(out[3].shape), 0, jax_dtype(out[3].dtype))
    return y, mean, rstd, nothing, *_running(x, mean, running_mean, running_var, momentum)


@lowers(aten._batch_norm_no_update.default)
def _(out: Any, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float) -> Any:
    nothing = lax.full(tuple(out[3].shape), 0, jax_dtype(out[3].dtype))
    return *_fixed(out, x, weight, bias, running_mean, running_var, eps), nothing


def _backward(g: Any, x: Any, weight: Any, mean: Any, rstd: Any, train: bool, mask: Any) -> Any:
    g, x = wide(g), wide(x)
    normal = lax.mul(lax.sub(x, _lying(mean, x)), _lying(rstd, x))
    scaled_g = affine(g, weight, None, (1,))
    kept = lax.reshape(rstd, tuple(n if d == 1 else 1 for d, n in enumerate(x.shape)))
    dx = input_gradient(scaled_g, normal, kept, _outer(x)) if train else lax.mul(scaled_g, _lying(rstd, x))
    return (
        dx if mask[0] else None,
        total(lax.mul(g, normal), _outer(x)) if mask[1] else None,
        total(g, _outer(x)) if mask[2] else None,
    )


@lowers(aten.native_batch_norm_backward.default)
def _(
    out: Any, g: Any, x: Any, weight: Any, running_mean: Any, running_var: Any, mean: Any, rstd: Any, train: bool, eps: float, mask: Any
) -> Any:
    if not train:
        mean, rstd = wide(running_mean), _rstd(wide(running_var), eps)
    return _backward(g, x, weight, wide(mean), wide(rstd), train, mask)


@lowers(aten.batch_norm_backward.default)
def _(
    out: Any,
    g: Any,
    x: Any,
    weight: Any,
    running_mean: Any,
    running_var: Any,
    mean: Any,
    rstd: Any,
    train: bool,
    eps: float,
    mask: Any,
    reserve: Any,
) -> Any:
    if not train:
        mean, rstd = wide(running_mean), _rstd(wide(running_var), eps)
    return _backward(g, x, weight, wide(mean), wide(rstd), train, mask)
