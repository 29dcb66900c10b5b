"""Products of matrices and vectors: float32 stays float32, half precision is summed in float32, integers are exact."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import lax

from funrl.compiler._lowerings._operands import expanded
from funrl.compiler._lowerings._origins import before_transposition
from funrl.compiler._lowerings._table import constant, lowers, torch_dtype

aten = torch.ops.aten


def wide(x: Any) -> Any:
    """Return half precision as float32, in which torch computes; other dtypes as they are."""
    return lax.convert_element_type(x, jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def gradient_of_linear(f: Any, shape: Any, g: Any) -> Any:
    """Return the gradient of the argument of a linear function ``f``, of ``shape``, where that of its result is ``g``."""
    return jax.linear_transpose(f, jax.ShapeDtypeStruct(tuple(shape), g.dtype))(g)[0]


def scaled(x: Any, factor: float) -> Any:
    """Return ``x`` times a number of Python."""
    return x if factor == 1 else lax.mul(x, constant(factor, torch_dtype(x.dtype), x.shape))


def product(a: Any, b: Any, contracted: tuple[int, int], batched: int = 0) -> Any:
    """Return the sum of products over dimension ``contracted[0]`` of ``a`` and ``contracted[1]`` of ``b``.

    The first ``batched`` dimensions belong together. Half precision gives float32, which the table rounds once. Several matrices ``b`` that
    were transposed are taken as they were, because XLA would copy them.
    """
    if a.ndim == b.ndim == batched + 2 and contracted == (batched + 1, batched) and b.shape[-1] < a.shape[-2]:
        rows = before_transposition(a)
        if rows is not None:
            return _transposed_product(rows, b, batched)
    if batched and b.ndim == batched + 2 and contracted[1] == batched:
        columns = before_transposition(b)
        if columns is not None:
            return _dot(a, columns, (contracted[0], batched + 1), batched)
    return _dot(a, b, contracted, batched)


def _dot(a: Any, b: Any, contracted: tuple[int, int], batched: int) -> Any:
    together = tuple(range(batched))
    numbers = (((contracted[0],), (contracted[1],)), (together, together))
    return lax.dot_general(wide(a), wide(b), numbers, precision=lax.Precision.HIGHEST)


def _transposed_product(rows: Any, b: Any, batched: int) -> Any:
    """Return ``rows' b`` as the transpose of ``b' rows``, which is 1.3 to 6 times as fast where ``b`` has few columns.

    The gradient of a layer's weights is such a product: of outputs [rows, M], transposed, and inputs [rows, N]. XLA's product of a
    transposed matrix is vectorised over the columns of the second one. The barrier keeps XLA from exchanging them again. A transposition
    in the program would be computed in the loops of a product with one column.
    """
    transposed = lax.optimization_barrier(_dot(b, rows, (batched, batched), batched))
    return lax.transpose(transposed, (*range(batched), batched + 1, batched))


def _plus(out: Any, c: Any, ab: Any, beta: float, alpha: float) -> Any:
    """Return ``beta c + alpha ab``; with beta=0, NaN of ``c`` does not count."""
    ab = expanded(scaled(ab, alpha), out.shape)
    if beta == 0:
        return ab
    return lax.add(scaled(expanded(lax.convert_element_type(c, ab.dtype), out.shape), beta), ab)


@lowers(aten.mm.default)
def _(out: Any, a: Any, b: Any) -> Any:
    return product(a, b, (1, 0))


@lowers(aten.mv.default)
def _(out: Any, a: Any, b: Any) -> Any:
    return product(a, b, (1, 0))


@lowers(aten.dot.default)
def _(out: Any, a: Any, b: Any) -> Any:
    return product(a, b, (0, 0))


@lowers(aten.bmm.default)
def _(out: Any, a: Any, b: Any) -> Any:
    return product(a, b, (2, 1), 1)


@lowers(aten.addmm.default, aten.addmv.default)
def _(out: Any, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return _plus(out, c, product(a, b, (1, 0)), beta, alpha)


@lowers(aten.baddbmm.default)
def _(out: Any, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return _plus(out, c, product(a, b, (2, 1), 1), beta, alpha)


@lowers(aten.addmv.default)
def _(out: Any, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return _plus(out, c, product(a, b, (1, 0)), beta, alpha)


@lowers(aten.addbmm.default)
def _(out: Any, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    ab = lax.dot_general(wide(a), wide(b), (((0, 2), (0, 1)), ((), ())), precision=lax.Precision.HIGHEST)
    return _plus(out, c, ab, beta, alpha)


@lowers(aten._trilinear.default)
def _(out: Any, a: Any, b: Any, c: Any, expand1: Any, expand2: Any, expand3: Any, sumdim: Any, unroll_dim: int = 1) -> Any:
    ndim = a.ndim + len(expand1)
    rows = [lax.expand_dims(wide(x), tuple(d % ndim for d in dims)) for x, dims in ((a, expand1), (b, expand2), (c, expand3))]
    shape = tuple(max(sizes) if min(sizes) else 0 for sizes in zip(*(x.shape for x in rows), strict=True))
    first, second, third = (expanded(x, shape) for x in rows)
    y = lax.mul(lax.mul(first, third), second)
    return lax.reduce(y, lax.full((), 0, y.dtype), lax.add, tuple(d % ndim for d in sumdim))
