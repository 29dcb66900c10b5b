"""Resizing of images (nearest, linear, cubic): one dimension after the other, each by a weighted sum of a few places."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._linalg import wide
from funrl.compiler._lowerings._table import lowers
from funrl.compiler._lowerings._taps import sums, transposed

aten = torch.ops.aten
Rows = tuple[np.ndarray, np.ndarray | None]


def _nearest(exact: bool) -> Callable[..., Rows]:
    def rows(n: int, out: int, scale: float | None) -> Rows:
        step = np.float32(1 / scale if scale is not None and scale > 0 else n / max(out, 1))
        places = (np.arange(out, dtype=np.float32) + np.float32(0.5 if exact else 0)) * step
        return np.minimum(places.astype(np.int64), n - 1)[:, None], None

    return rows


def _source(n: int, out: int, align: bool, scale: float | None) -> np.ndarray:
    """Return the position in the input of each position of the result."""
    if align:
        return np.arange(out) * ((n - 1) / (out - 1) if out > 1 else 0.0)
    return (np.arange(out) + 0.5) * (1 / scale if scale is not None and scale > 0 else n / max(out, 1)) - 0.5


def _linear(n: int, out: int, align: bool, scale: float | None) -> Rows:
    x = np.maximum(_source(n, out, align, scale), 0)
    first = np.minimum(x.astype(np.int64), n - 1)
    share = np.clip(x - first, 0, 1)
    return np.stack([first, np.minimum(first + 1, n - 1)], 1), np.stack([1 - share, share], 1)


def _cubic(n: int, out: int, align: bool, scale: float | None) -> Rows:
    x = _source(n, out, align, scale)
    first = np.floor(x)
    t = np.clip(x - first, 0, 1)
    a = -0.75

    def near(d: np.ndarray) -> np.ndarray:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: np.ndarray) -> np.ndarray:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    places = np.clip(first.astype(np.int64)[:, None] + np.arange(-1, 3), 0, n - 1)
    return places, np.stack([far(t + 1), near(t), near(1 - t), far(2 - t)], 1)


def _rounded(x: Any) -> Any:
    """Return ``x`` as bytes: torch rounds and clips them after each dimension."""
    return lax.clamp(np.float32(0), lax.floor(lax.add(x, lax.full_like(x, 0.5))), np.float32(255))


def _binary(weight: Any) -> np.ndarray:
    """Return the weights by which torch averages bytes: as many binary places as keep them below 2**15."""
    places, top = 0, float(np.abs(weight).max(initial=0.0))
    while places < 22 and int(0.5 + top * (1 << (places + 1))) < (1 << 15):
        places += 1
    return np.trunc(weight * (1 << places) + np.sign(weight) * 0.5) / (1 << places)


def _forward(n: int, rows: Callable[..., Rows], aligns: bool) -> Callable[..., Any]:
    def f(out: Any, x: Any, sizes: Any, *rest: Any) -> Any:
        align, scales = (rest[:1], rest[1:]) if aligns else ((), rest)
        scales = scales or (None,) * n
        whole = aligns and not out.dtype.is_floating_point  # bytes, that are averaged
        x = lax.convert_element_type(x, np.float32) if whole else wide(x)
        for d in reversed(range(n)):
            index, weight = rows(x.shape[2 + d], out.shape[2 + d], *align, scales[d])
            x = _rounded(sums(x, 2 + d, index, _binary(weight))) if whole else sums(x, 2 + d, index, weight)
        return x

    return f


def _backward(n: int, rows: Callable[..., Rows], aligns: bool) -> Callable[..., Any]:
    def f(out: Any, g: Any, sizes: Any, input_size: Any, *rest: Any) -> Any:
        align, scales = (rest[:1], rest[1:]) if aligns else ((), rest)
        scales = scales or (None,) * n
        shape = tuple(g.shape)
        g = wide(g)
        for d in range(n):
            index, weight = rows(out.shape[2 + d], shape[2 + d], *align, scales[d])
            g = sums(g, 2 + d, *transposed(index, out.shape[2 + d], weight))
        return g

    return f


for name, rows, aligns in (
    *((f"upsample_nearest{n}d", _nearest(False), False) for n in (1, 2, 3)),
    *((f"_upsample_nearest_exact{n}d", _nearest(True), False) for n in (1, 2, 3)),
    ("upsample_linear1d", _linear, True),
    ("upsample_bilinear2d", _linear, True),
    ("upsample_trilinear3d", _linear, True),
    ("upsample_bicubic2d", _cubic, True),
):
    n = int(name[-2])
    lowers(getattr(aten, name).default)(_forward(n, rows, aligns))
    lowers(getattr(aten, f"{name}_backward").default)(_backward(n, rows, aligns))
