"""Pools and their gradients."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._linalg import gradient_of_linear, wide
from funrl.compiler._lowerings._table import lowers
from funrl.compiler._lowerings._taps import adaptive, maxima, routed, sums, windows

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
    return lambda out, g, x: gradient_of_linear(lambda x: _adaptive_avg_pool(n)(g, x, ()), x.shape, wide(g))


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
    return lambda out, g, x, *options: gradient_of_linear(lambda x: _avg_pool(n)(g, x, *options), x.shape, wide(g))


for n in (2, 3):
    lowers(getattr(aten, f"avg_pool{n}d").default)(_avg_pool(n))
    lowers(getattr(aten, f"avg_pool{n}d_backward").default)(_avg_pool_backward(n))
