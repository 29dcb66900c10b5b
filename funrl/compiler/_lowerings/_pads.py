"""Pads that mirror or repeat the edges, and the gradients through them."""

from typing import Any

import jax.numpy as jnp
import torch

from funrl.compiler._lowerings._linalg import gradient_of_linear
from funrl.compiler._lowerings._shape import sliced
from funrl.compiler._lowerings._table import constant, lowers

aten = torch.ops.aten


def _padded(x: Any, padding: Any, mode: str) -> Any:
    """Pad by pairs that start at the last dimension; negative numbers cut."""
    for i in range(len(padding) // 2):
        dim, left, right = x.ndim - 1 - i, padding[2 * i], padding[2 * i + 1]
        x = jnp.pad(x, [(max(0, left), max(0, right)) if d == dim else (0, 0) for d in range(x.ndim)], mode=mode)
        x = sliced(x, dim, max(0, -left), x.shape[dim] - max(0, -right))
    return x


def _enter(name: str, mode: str) -> None:
    @lowers(getattr(aten, name).default)
    def _(out: Any, x: Any, padding: Any) -> Any:
        return _padded(x, padding, mode) if x.size else constant(0, out.dtype, tuple(out.shape))

    @lowers(getattr(aten, f"{name}_backward").default)
    def _(out: Any, grad: Any, x: Any, padding: Any) -> Any:
        if not grad.size or not x.size:
            return constant(0, out.dtype, tuple(out.shape))
        return gradient_of_linear(lambda x: _padded(x, padding, mode), x.shape, grad)


for _n in "123":
    _enter(f"reflection_pad{_n}d", "reflect")
    _enter(f"replication_pad{_n}d", "edge")
