"""Convolutions of one to three dimensions and their gradients."""

from typing import Any

import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._linalg import wide
from funrl.compiler._lowerings._table import lowers

aten = torch.ops.aten
HIGHEST = lax.Precision.HIGHEST


def _forward(x: Any, w: Any, sizes: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """Return the convolution whose places number ``sizes``."""
    sides = []
    for i, n in enumerate(sizes):
        covered = (n - 1) * stride[i] + 1 + (w.shape[2 + i] - 1) * dilation[i]
        sides.append((padding[i], covered - x.shape[2 + i] - padding[i]))
    return lax.conv_general_dilated(x, w, stride, sides, rhs_dilation=dilation, feature_group_count=groups, precision=HIGHEST)


def _grouped_transpose(w: Any, groups: int) -> Any:
    """Return kernels [O, C / groups, ...] as [C, O / groups, ...], their places reversed."""
    o, c, *places = w.shape
    w = lax.rev(w, tuple(range(2, w.ndim)))
    if groups == 1:
        return lax.transpose(w, (1, 0, *range(2, w.ndim)))
    w = lax.reshape(w, (groups, o // groups, c, *places))
    return lax.reshape(lax.transpose(w, (0, 2, 1, *range(3, w.ndim))), (groups * c, o // groups, *places))


def _backward(g: Any, w: Any, sizes: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """Return the gradient of an input whose places number ``sizes``."""
    sides = []
    for i, n in enumerate(sizes):
        before = dilation[i] * (w.shape[2 + i] - 1) - padding[i]
        spread = (g.shape[2 + i] - 1) * stride[i] + 1
        sides.append((before, n + dilation[i] * (w.shape[2 + i] - 1) - spread - before))
    return lax.conv_general_dilated(
        g, _grouped_transpose(w, groups), (1,) * len(sizes), sides, stride, dilation, feature_group_count=groups, precision=HIGHEST
    )


def _weights(x: Any, g: Any, places: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """Return the gradient of kernels of size ``places``: [O, C / groups, *places]."""
    dims = tuple(range(2, x.ndim))
    sides = []
    for i, k in enumerate(places):
        covered = (g.shape[2 + i] - 1) * stride[i] + 1 + (k - 1) * dilation[i]
        sides.append((padding[i], covered - x.shape[2 + i] - padding[i]))
    x, g = _channels_first(x, groups), lax.transpose(g, (1, 0, *dims))
    w = lax.conv_general_dilated(x, g, dilation, sides, rhs_dilation=stride, feature_group_count=groups, precision=HIGHEST)
    return lax.transpose(w, (1, 0, *dims))


def _channels_first(x: Any, groups: int) -> Any:
    """Return [N, groups C, ...] as [C, groups N, ...]."""
    n, c, *places = x.shape
    x = lax.reshape(x, (n, groups, c // groups, *places))
    return lax.reshape(lax.transpose(x, (2, 1, 0, *range(3, x.ndim))), (c // groups, groups * n, *places))


def _bias(g: Any) -> Any:
    return lax.reduce(g, np.zeros((), g.dtype), lax.add, (0, *range(2, g.ndim)))


@lowers(aten.convolution.default)
def _(out: Any, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, extra: Any, groups: int) -> Any:
    x, w = wide(x), wide(w)
    batched = x.ndim == w.ndim
    x = x if batched else lax.expand_dims(x, (0,))
    n = w.ndim - 2
    stride, padding, dilation = (tuple(p) * n if len(p) == 1 else tuple(p) for p in (stride, padding, dilation))
    if transposed:
        y = _backward(x, w, tuple(out.shape)[-n:], stride, padding, dilation, groups)
    else:
        y = _forward(x, w, tuple(out.shape)[-n:], stride, padding, dilation, groups)
    if b is not None:
        y = lax.add(y, lax.broadcast_in_dim(wide(b), y.shape, (1,)))
    return y if batched else lax.squeeze(y, (0,))


@lowers(aten.convolution_backward.default)
def _(
    out: Any,
    g: Any,
    x: Any,
    w: Any,
    sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    extra: Any,
    groups: int,
    mask: Any,
) -> Any:
    g, x, w = wide(g), wide(x), wide(w)
    n = w.ndim - 2
    stride, padding, dilation = (tuple(p) * n if len(p) == 1 else tuple(p) for p in (stride, padding, dilation))
    dx = dw = None
    if mask[0]:
        dx = (
            _forward(g, w, x.shape[2:], stride, padding, dilation, groups)
            if transposed
            else _backward(g, w, x.shape[2:], stride, padding, dilation, groups)
        )
    if mask[1]:
        dw = _weights(*((g, x) if transposed else (x, g)), w.shape[2:], stride, padding, dilation, groups)
    return dx, dw, _bias(g) if mask[2] else None
