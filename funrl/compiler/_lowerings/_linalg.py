"""Products of matrices and vectors: float32 stays float32, half precision is summed in float32, integers are exact."""

from typing import Any

import jax.numpy as jnp
import torch
from jax import lax

from funrl.compiler._lowerings._origins import before_transposition
from funrl.compiler._lowerings._table import constant, lowers, torch_dtype

aten = torch.ops.aten


def wide(x: Any) -> Any:
    """Return half precision as float32, in which torch computes; other dtypes as they are."""
    return lax.convert_element_type(x, jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def spread(x: Any, shape: Any) -> Any:
    """Return ``x`` broadcast to ``shape`` from the right, as torch does."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    skipped = len(shape) - x.ndim
    kept = tuple(i for i, n in enumerate(x.shape) if n == shape[skipped + i])
    return lax.broadcast_in_dim(lax.reshape(x, tuple(x.shape[i] for i in kept)), shape, tuple(skipped + i for i in kept))


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
    ab = spread(scaled(ab, alpha), out.shape)
    if beta == 0:
        return ab
    return lax.add(scaled(spread(lax.convert_element_type(c, ab.dtype), out.shape), beta), ab)


@lowers(aten.mm.default)
def _(out: Any, a: Any, b: Any) -> Any:
    return product(a, b, (1, 0))


@lowers(aten.bmm.default)
def _(out: Any, a: Any, b: Any) -> Any:
    return product(a, b, (2, 1), 1)


@lowers(aten.mv.default)
def _(out: Any, a: Any, b: Any) -> Any:
    return product(a, b, (1, 0))


@lowers(aten.dot.default, aten.vdot.default)
def _(out: Any, a: Any, b: Any) -> Any:
    return product(a, b, (0, 0))


@lowers(aten.addmm.default)
def _(out: Any, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return _plus(out, c, product(a, b, (1, 0)), beta, alpha)


@lowers(aten.baddbmm.default)
def _(out: Any, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return _plus(out, c, product(a, b, (2, 1), 1), beta, alpha)


@lowers(aten.addbmm.default)
def _(out: Any, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    ab = lax.dot_general(wide(a), wide(b), (((0, 2), (0, 1)), ((), ())), precision=lax.Precision.HIGHEST)
    return _plus(out, c, ab, beta, alpha)


@lowers(aten.addmv.default)
def _(out: Any, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return _plus(out, c, product(a, b, (1, 0)), beta, alpha)


@lowers(aten.addr.default)
def _(out: Any, c: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    if out.dtype == torch.bool:
        ab = lax.bitwise_and(_column(a, out.shape), spread(b, out.shape))
        ab = ab if alpha else lax.full_like(ab, False)
        return lax.bitwise_or(spread(c, out.shape), ab) if beta else ab
    return _plus(out, c, _outer(out, a, b), beta, alpha)


def _column(x: Any, shape: Any) -> Any:
    return lax.broadcast_in_dim(x, tuple(shape), (0,))


def _outer(out: Any, a: Any, b: Any) -> Any:
    dtype = torch.promote_types(torch_dtype(a.dtype), torch_dtype(b.dtype))
    a, b = (wide(lax.convert_element_type(x, jnp.dtype(str(dtype).removeprefix("torch.")))) for x in (a, b))
    return lax.mul(_column(a, out.shape), spread(b, out.shape))


@lowers(aten.matmul.default)
def _(out: Any, a: Any, b: Any) -> Any:
    return jnp.matmul(wide(a), wide(b), precision=lax.Precision.HIGHEST)


@lowers(aten.linear.default)
def _(out: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    y = product(x, weight, (x.ndim - 1, weight.ndim - 1))
    return y if bias is None else lax.add(y, spread(wide(bias), out.shape))


@lowers(aten._trilinear.default)
def _(out: Any, a: Any, b: Any, c: Any, expand1: Any, expand2: Any, expand3: Any, sumdim: Any, unroll_dim: int = 1) -> Any:
    ndim = a.ndim + len(expand1)
    rows = [lax.expand_dims(wide(x), tuple(d % ndim for d in dims)) for x, dims in ((a, expand1), (b, expand2), (c, expand3))]
    shape = tuple(max(sizes) if min(sizes) else 0 for sizes in zip(*(x.shape for x in rows), strict=True))
    first, second, third = (spread(x, shape) for x in rows)
    y = lax.mul(lax.mul(first, third), second)
    return lax.reduce(y, lax.full((), 0, y.dtype), lax.add, tuple(d % ndim for d in sumdim))
