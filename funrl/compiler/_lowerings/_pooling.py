"""Pools and their gradients."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._linalg import wide
from funrl.compiler._lowerings._table import lowers
from funrl.compiler._lowerings._taps import adaptive, maxima, routed, sums, tap, transposed, windows

aten = torch.ops.aten


def _each(value: Any, n: int) -> tuple[int, ...]:
    value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return value * n if len(value) == 1 else value


def _sliding(x: Any, sizes: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> list[np.ndarray]:
    n = len(sizes)
    kernel, padding, dilation = _each(kernel, n), _each(padding, n), _each(dilation, n)
    stride = _each(stride, n) if stride not in ([], (), None) else kernel
    return [windows(*z) for z in zip(x.shape[-n:], sizes, kernel, stride, padding, dilation, strict=True)]


def _max(x: Any, indices: Sequence[np.ndarray]) -> tuple[Any, Any]:
    n = len(indices)
    where, scale = None, 1
    for d in reversed(range(n)):
        size = x.shape[x.ndim - n + d]
        x, where = maxima(x, where, x.ndim - n + d, indices[d], scale)
        scale *= size
    return x, where


def _summed(x: Any, indices: Sequence[np.ndarray]) -> Any:
    for d, index in enumerate(indices):
        x = sums(x, x.ndim - len(indices) + d, index)
    return x


def _spread_back(g: Any, indices: Sequence[np.ndarray], sizes: Sequence[int]) -> Any:
    return _summed(g, [transposed(index, n)[0] for index, n in zip(indices, sizes, strict=True)])


def _over(x: Any, counts: Sequence[np.ndarray]) -> Any:
    """Return ``x`` divided by the number of places in each window, the product over the last dimensions."""
    count = np.ones((), np.int64)
    for c in counts:
        count = count[..., None] * c
    if count.size and (count == count.flat[0]).all():
        return lax.div(x, lax.full_like(x, int(count.flat[0])))
    return lax.div(x, lax.broadcast_in_dim(count.astype(x.dtype), x.shape, tuple(range(x.ndim - len(counts), x.ndim))))


def _counts(x: Any, sizes: Any, kernel: Any, stride: Any, padding: Any, include: bool, divisor: int | None) -> list[np.ndarray]:
    n = len(sizes)
    if divisor is not None:
        return [np.full(m, divisor if d == 0 else 1, np.int64) for d, m in enumerate(sizes)]
    kernel, padding = _each(kernel, n), _each(padding, n)
    stride = _each(stride, n) if stride not in ([], (), None) else kernel
    counts = []
    for m, out, k, s, p in zip(x.shape[-n:], sizes, kernel, stride, padding, strict=True):
        first = np.arange(out) * s - p
        last = np.minimum(first + k, m + p)
        counts.append(last - first if include else np.minimum(last, m) - np.maximum(first, 0))
    return counts


def _max_pool(n: int) -> Any:
    def f(out: Any, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False) -> Any:
        return _max(x, _sliding(x, out[0].shape[-n:], kernel, stride, padding, dilation))

    return f


def _max_pool_backward(n: int) -> Any:
    def f(out: Any, g: Any, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, where: Any) -> Any:
        return routed(wide(g), where, _sliding(x, g.shape[-n:], kernel, stride, padding, dilation), x.shape[-n:])

    return f


for n, forward, backward in (
    (2, aten.max_pool2d_with_indices.default, aten.max_pool2d_with_indices_backward.default),
    (3, aten.max_pool3d_with_indices.default, aten.max_pool3d_with_indices_backward.default),
):
    lowers(forward)(_max_pool(n))
    lowers(backward)(_max_pool_backward(n))


def _adaptive_max_pool(n: int) -> Any:
    def f(out: Any, x: Any, sizes: Any) -> Any:
        return _max(x, [adaptive(m, k) for m, k in zip(x.shape[-n:], out[0].shape[-n:], strict=True)])

    return f


def _adaptive_max_pool_backward(n: int) -> Any:
    def f(out: Any, g: Any, x: Any, where: Any) -> Any:
        return routed(wide(g), where, [adaptive(m, k) for m, k in zip(x.shape[-n:], g.shape[-n:], strict=True)], x.shape[-n:])

    return f


def _adaptive_avg_pool(n: int) -> Any:
    def f(out: Any, x: Any, sizes: Any) -> Any:
        indices = [adaptive(m, k) for m, k in zip(x.shape[-n:], out.shape[-n:], strict=True)]
        return _over(_summed(wide(x), indices), [(index >= 0).sum(1) for index in indices])

    return f


def _adaptive_avg_pool_backward(n: int) -> Any:
    def f(out: Any, g: Any, x: Any) -> Any:
        indices = [adaptive(m, k) for m, k in zip(x.shape[-n:], g.shape[-n:], strict=True)]
        return _spread_back(_over(wide(g), [(index >= 0).sum(1) for index in indices]), indices, x.shape[-n:])

    return f


for n in (2, 3):
    lowers(getattr(aten, f"adaptive_max_pool{n}d").default)(_adaptive_max_pool(n))
    lowers(getattr(aten, f"adaptive_max_pool{n}d_backward").default)(_adaptive_max_pool_backward(n))
    lowers(getattr(aten, f"_adaptive_avg_pool{n}d").default)(_adaptive_avg_pool(n))
    lowers(getattr(aten, f"_adaptive_avg_pool{n}d_backward").default)(_adaptive_avg_pool_backward(n))


def _avg_pool(n: int) -> Any:
    def f(
        out: Any,
        x: Any,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> Any:
        sizes = out.shape[-n:]
        total = _summed(wide(x), _sliding(x, sizes, kernel, stride, padding))
        return _over(total, _counts(x, sizes, kernel, stride, padding, count_include_pad, divisor))

    return f


def _avg_pool_backward(n: int) -> Any:
    def f(out: Any, g: Any, x: Any, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, include: bool, divisor: int | None) -> Any:
        sizes = g.shape[-n:]
        g = _over(wide(g), _counts(x, sizes, kernel, stride, padding, include, divisor))
        return _spread_back(g, _sliding(x, sizes, kernel, stride, padding), x.shape[-n:])

    return f


for n in (2, 3):
    lowers(getattr(aten, f"avg_pool{n}d").default)(_avg_pool(n))
    lowers(getattr(aten, f"avg_pool{n}d_backward").default)(_avg_pool_backward(n))
lowers(aten.avg_pool1d.default)(_avg_pool(1))
lowers(aten.adaptive_avg_pool1d.default)(_adaptive_avg_pool(1))


@lowers(aten.im2col.default)
def _(out: Any, x: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    """Patches [..., C kh kw, places], as slices laid side by side."""
    kernel, dilation, padding, stride = (_each(v, 2) for v in (kernel, dilation, padding, stride))
    lead = x.shape[:-3]
    rows = [(m + 2 * p - d * (k - 1) - 1) // s + 1 for m, p, d, k, s in zip(x.shape[-2:], padding, dilation, kernel, stride, strict=True)]
    for i in range(2):
        axis = len(lead) + 1 + 2 * i  # kernel places come before the windows of each dimension
        index = windows(x.shape[axis], rows[i], kernel[i], stride[i], padding[i], dilation[i])
        x = _laid_apart(x, axis, index)
    x = lax.transpose(x, (*range(len(lead) + 2), len(lead) + 3, len(lead) + 2, len(lead) + 4))
    return lax.reshape(x, tuple(out.shape))


def _laid_apart(x: Any, axis: int, index: np.ndarray) -> Any:
    """Return [..., taps, out, ...]: ``x`` at each tap of its windows."""
    return lax.concatenate([lax.expand_dims(tap(x, axis, index[:, j], 0), (axis,)) for j in range(index.shape[1])], axis)


@lowers(aten.col2im.default)
def _(out: Any, x: Any, sizes: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    kernel, dilation, padding, stride = (_each(v, 2) for v in (kernel, dilation, padding, stride))
    rows = [(m + 2 * p - d * (k - 1) - 1) // s + 1 for m, p, d, k, s in zip(sizes, padding, dilation, kernel, stride, strict=True)]
    lead = x.ndim - 2
    x = lax.reshape(wide(x), (*x.shape[:lead], x.shape[-2] // (kernel[0] * kernel[1]), *kernel, *rows))
    for i, place, window in ((1, lead + 2, lead + 3), (0, lead + 1, lead + 1)):  # [..., C, kh, kw, h, w]: kw with w, then kh with h
        index = windows(sizes[i], rows[i], kernel[i], stride[i], padding[i], dilation[i])
        total = None
        for j in range(kernel[i]):
            part = lax.squeeze(lax.slice_in_dim(x, j, j + 1, axis=place), (place,))
            part = sums(part, window, transposed(index[:, j : j + 1], sizes[i])[0])
            total = part if total is None else lax.add(total, part)
        x = total
    return x
