"""Convolutions of one to three dimensions and their gradients.

The forward pass is XLA's own convolution (except for many channels in groups). Of its gradients (a dilated convolution, and one
with a kernel as large as the image) XLA's CPU backend makes slow loops, so they are a product of matrices and the patches of the image,
laid side by side.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._linalg import gradient_of_linear, wide
from funrl.compiler._lowerings._normalisation import total
from funrl.compiler._lowerings._table import lowers
from funrl.compiler._lowerings._taps import tap, windows

aten = torch.ops.aten
HIGHEST = lax.Precision.HIGHEST
MOST_PLACES = 128  # of a kernel: the gradients of larger ones are convolutions
SMALL_KERNEL = 64  # weights of an output channel
Sizes = Sequence[int]


def forward(x: Any, w: Any, sizes: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Any:
    """Return the convolution [N, O, *sizes] of images [N, C, ...] with kernels [O, C / groups, ...].

    XLA's CPU backend is quick with channels first where the kernels are small, and else (by far) with channels last.
    """
    if int(np.prod(w.shape[1:])) <= SMALL_KERNEL or 0 in (*x.shape, *w.shape) or (groups > 1 and int(np.prod(w.shape[2:])) > MOST_PLACES):
        return _plain(x, w, sizes, stride, padding, dilation, groups)
    if groups > 1:
        return _forward_by_patches(x, w, sizes, stride, padding, dilation, groups)
    n = len(sizes)
    last = (0, *range(2, n + 2), 1)
    numbers = lax.ConvDimensionNumbers((0, n + 1, *range(1, n + 1)), (n + 1, n, *range(n)), (0, n + 1, *range(1, n + 1)))
    y = lax.conv_general_dilated(
        lax.transpose(x, last),
        lax.transpose(w, (*range(2, n + 2), 1, 0)),
        stride,
        _sides(x, w, sizes, stride, padding, dilation),
        rhs_dilation=dilation,
        dimension_numbers=numbers,
        precision=HIGHEST,
    )
    return lax.transpose(y, (0, n + 1, *range(1, n + 1)))


def _sides(x: Any, w: Any, sizes: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> list[tuple[int, int]]:
    """Return the padding before and after the image along each dimension that results in ``sizes``."""
    covered = [(n - 1) * s + 1 + (k - 1) * d for n, s, k, d in zip(sizes, stride, w.shape[2:], dilation, strict=True)]
    return [(p, c - m - p) for p, c, m in zip(padding, covered, x.shape[2:], strict=True)]


def _plain(x: Any, w: Any, sizes: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Any:
    """Return XLA's own convolution."""
    sides = _sides(x, w, sizes, stride, padding, dilation)
    return lax.conv_general_dilated(x, w, stride, sides, rhs_dilation=dilation, feature_group_count=groups, precision=HIGHEST)


def _forward_by_patches(x: Any, w: Any, sizes: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Any:
    patches = _patches(x, w.shape[2:], sizes, stride, padding, dilation)
    o, c, *_ = w.shape
    n, steps = patches.shape[:2]
    patches = lax.reshape(patches, (n, steps, groups, c, int(np.prod(sizes))))
    w = lax.reshape(w, (groups, o // groups, c, steps))
    y = lax.dot_general(w, patches, (((2, 3), (3, 1)), ((0,), (2,))), precision=HIGHEST)  # [groups, O / groups, N, prod(sizes)]
    return lax.reshape(lax.transpose(y, (2, 0, 1, 3)), (n, o, *sizes))


def _blocks(x: Any, lengths: Sizes, stride: Sizes) -> Any:
    """Return images [N, C, ...], of which each side is cut or filled up to ``lengths``, as blocks [N, C prod(stride), ...]."""
    n = len(lengths)
    x = lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0)] * 2 + [(0, m - k, 0) for m, k in zip(lengths, x.shape[2:], strict=True)])
    x = lax.reshape(x, (*x.shape[:2], *(k for m, s in zip(lengths, stride, strict=True) for k in (m // s, s))))
    x = lax.transpose(x, (0, 1, *range(3, 3 + 2 * n, 2), *range(2, 2 + 2 * n, 2)))
    return lax.reshape(x, (x.shape[0], x.shape[1] * int(np.prod(stride)), *x.shape[2 + n :]))


def _unblocked(x: Any, stride: Sizes) -> Any:
    """Return blocks as images, the inverse of :func:`_blocks`."""
    n, sizes = len(stride), x.shape[2:]
    x = lax.reshape(x, (x.shape[0], x.shape[1] // int(np.prod(stride)), *stride, *sizes))
    x = lax.transpose(x, (0, 1, *(d for i in range(n) for d in (2 + n + i, 2 + i))))
    return lax.reshape(x, (*x.shape[:2], *(m * s for m, s in zip(sizes, stride, strict=True))))


def _shifted(x: Any, sides: Sequence[tuple[int, int]]) -> Any:
    return lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0)] * 2 + [(lo, hi, 0) for lo, hi in sides])


def _in_blocks(places: Sizes, stride: Sizes, dilation: Sizes) -> bool:
    """Return whether strides divide the kernel: then a convolution of blocks without stride is the same, with fewer, larger steps."""
    return max(stride) > 1 and max(dilation) == 1 and all(k % s == 0 for k, s in zip(places, stride, strict=True))


def _patches(x: Any, places: Sizes, sizes: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> Any:
    """Return [N, prod(places), C, *sizes]: the inputs of each place of a kernel."""
    rows = [x]
    for i, k in enumerate(places):
        index = windows(x.shape[2 + i], sizes[i], k, stride[i], padding[i], dilation[i])
        rows = [tap(row, 2 + i, index[:, j], 0) for row in rows for j in range(k)]
    return lax.concatenate([lax.expand_dims(row, (1,)) for row in rows], 1)


def weight_gradient(x: Any, g: Any, places: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Any:
    """Return the gradient of kernels of size ``places``: [O, C / groups, *places]."""
    sizes = g.shape[2:]
    if _in_blocks(places, stride, dilation):
        lengths = [(m - 1) * s + k for m, s, k in zip(sizes, stride, places, strict=True)]
        x = _blocks(_shifted(x, [(p, 0) for p in padding]), lengths, stride)
        steps = [k // s for k, s in zip(places, stride, strict=True)]
        one = (1,) * len(sizes)
        return _unblocked(weight_gradient(x, g, steps, one, (0,) * len(sizes), one, groups), stride)
    if int(np.prod(places)) > MOST_PLACES:
        shape = (g.shape[1], x.shape[1] // groups, *places)
        return gradient_of_linear(lambda w: _plain(x, w, sizes, stride, padding, dilation, groups), shape, g)
    n, c = x.shape[:2]
    patches = _patches(x, places, sizes, stride, padding, dilation)
    steps = patches.shape[1]
    patches = lax.reshape(patches, (n, steps, groups, c // groups, int(np.prod(sizes))))
    g = lax.reshape(g, (n, groups, g.shape[1] // groups, int(np.prod(sizes))))
    w = lax.dot_general(g, patches, (((0, 3), (0, 4)), ((1,), (2,))), precision=HIGHEST)  # [groups, O / groups, steps, C / groups]
    w = lax.transpose(w, (0, 1, 3, 2))
    return lax.reshape(w, (w.shape[0] * w.shape[1], c // groups, *places))


def input_gradient(g: Any, w: Any, sizes: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> Any:
    """Return the gradient of images whose places number ``sizes``."""
    places, rows, n = w.shape[2:], g.shape[2:], len(sizes)
    if _in_blocks(places, stride, dilation):
        lengths = [(m - 1) * s + k for m, s, k in zip(rows, stride, places, strict=True)]
        one = (1,) * n
        blocks = [m // s for m, s in zip(lengths, stride, strict=True)]
        x = input_gradient(g, _blocks(w, places, stride), blocks, one, (0,) * n, one, groups)
        x = _unblocked(x, stride)
        return _shifted(x, [(-p, m + p - k) for p, m, k in zip(padding, sizes, x.shape[2:], strict=True)])
    if int(np.prod(places)) > MOST_PLACES:
        shape = (g.shape[0], w.shape[1] * groups, *sizes)
        return gradient_of_linear(lambda x: _plain(x, w, rows, stride, padding, dilation, groups), shape, g)
    o, c = w.shape[:2]
    g = lax.reshape(g, (g.shape[0], groups, o // groups, *rows))
    w = lax.reshape(w, (groups, o // groups, c, int(np.prod(places))))
    patches = lax.dot_general(w, g, (((1,), (2,)), ((0,), (1,))), precision=HIGHEST)  # [groups, C / groups, steps, N, *rows]
    x = None
    for step, place in enumerate(np.ndindex(*places)):
        part = lax.squeeze(lax.slice_in_dim(patches, step, step + 1, axis=2), (2,))
        sides = [(0, 0, 0)] * 3
        for i, k in enumerate(place):
            before = k * dilation[i] - padding[i]
            sides.append((before, sizes[i] - before - ((rows[i] - 1) * stride[i] + 1), stride[i] - 1))
        part = lax.pad(part, np.zeros((), part.dtype), sides)
        x = part if x is None else lax.add(x, part)
    return lax.reshape(lax.transpose(x, (2, 0, 1, *range(3, 3 + n))), (g.shape[0], groups * c, *sizes))


def _each(n: int, *values: Sizes) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(v) * n if len(v) == 1 else tuple(v) for v in values)


@lowers(aten.convolution.default)
def _(out: Any, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, extra: Any, groups: int) -> Any:
    x, w, n = wide(x), wide(w), w.ndim - 2
    batched = x.ndim == w.ndim
    x = x if batched else lax.expand_dims(x, (0,))
    run = input_gradient if transposed else forward
    y = run(x, w, tuple(out.shape)[-n:], *_each(n, stride, padding, dilation), groups)
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
    steps = _each(w.ndim - 2, stride, padding, dilation)
    dx = dw = None
    if mask[0]:
        dx = (forward if transposed else input_gradient)(g, w, x.shape[2:], *steps, groups)
    if mask[1]:
        dw = weight_gradient(*((g, x) if transposed else (x, g)), w.shape[2:], *steps, groups)
    return dx, dw, total(g, (0, *range(2, g.ndim))) if mask[2] else None
