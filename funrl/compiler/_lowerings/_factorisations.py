"""Factorisations of matrices, and solutions of linear systems. Where torch raises, as for a singular matrix, the result is NaN or
infinite."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from funrl.compiler._lowerings._operands import expanded
from funrl.compiler._lowerings._table import lowers, torch_dtype

aten = torch.ops.aten
_mT = jnp.matrix_transpose


def _matmul(a: Any, b: Any) -> Any:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _diagonal(x: Any) -> Any:
    return jnp.diagonal(x, axis1=-2, axis2=-1)


def _solve_triangular(a: Any, b: Any, *, upper: bool, left: bool = True, transpose: bool = False, unit: bool = False) -> Any:
    """Return X of ``A X = B`` (or ``X A = B``, or with A transposed); leading dimensions broadcast."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = expanded(a, (*lead, *a.shape[-2:])), expanded(b, (*lead, *b.shape[-2:]))
    if b.size == 0 or a.size == 0:
        return b
    return lax.linalg.triangular_solve(a, b, left_side=left, lower=not upper, transpose_a=transpose, unit_diagonal=unit)


@lowers(aten.linalg_solve_triangular.default)
def _(out: Any, a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    return _solve_triangular(a, b, upper=upper, left=left, unit=unitriangular)


@lowers(aten.triangular_solve.default)
def _(out: Any, b: Any, a: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False) -> Any:
    return _solve_triangular(a, b, upper=upper, transpose=transpose, unit=unitriangular), expanded(a, out[1].shape)


def _cholesky(x: Any, upper: bool) -> Any:
    if x.size == 0:
        return x
    factor = lax.linalg.cholesky(_mT(x) if upper else x, symmetrize_input=False)
    return _mT(factor) if upper else factor


@lowers(*([aten.cholesky.default] if hasattr(aten, "cholesky") else []))  # torch 2.14 has it no more
def _(out: Any, x: Any, upper: bool = False) -> Any:
    return _cholesky(x, upper)


@lowers(aten.linalg_cholesky_ex.default)
def _(out: Any, x: Any, *, upper: bool = False, check_errors: bool = False) -> Any:
    factor = _cholesky(x, upper)
    bad = lax.ne(factor, factor)
    return factor, lax.reduce(bad, np.False_, lax.bitwise_or, (x.ndim - 2, x.ndim - 1))


def _cholesky_solve(b: Any, factor: Any, upper: bool) -> Any:
    y = _solve_triangular(factor, b, upper=upper, transpose=upper)
    return _solve_triangular(factor, y, upper=upper, transpose=not upper)


@lowers(aten.cholesky_solve.default)
def _(out: Any, b: Any, factor: Any, upper: bool = False) -> Any:
    return _cholesky_solve(b, factor, upper)


@lowers(aten.cholesky_inverse.default)
def _(out: Any, factor: Any, upper: bool = False) -> Any:
    return _cholesky_solve(expanded(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape), factor, upper)


def _lu(x: Any) -> tuple[Any, Any, Any, Any]:
    """Return L and U in one matrix, the pivots (counted from 0), the permutation of rows, and torch's ``info``: the first zero pivot."""
    lead, (m, n) = x.shape[:-2], x.shape[-2:]
    if x.size == 0:
        rows = expanded(lax.iota(np.int32, m), (*lead, m))
        return x, lax.slice_in_dim(rows, 0, min(m, n), axis=len(lead)), rows, lax.full(lead, 0, jnp.int32)
    lu, pivots, permutation = lax.linalg.lu(x)
    zero = _diagonal(lu) == 0
    info = jnp.where(jnp.any(zero, -1), jnp.argmax(zero, -1).astype(np.int32) + 1, 0)
    return lu, pivots, permutation, info


def _rows(b: Any, places: Any) -> Any:
    """Return the rows of ``b`` [..., n, k] at ``places`` [..., n]."""
    return jnp.take_along_axis(b, lax.expand_dims(places, (places.ndim,)), axis=-2)


def _lu_solve(lu: Any, permutation: Any, b: Any, left: bool = True, adjoint: bool = False) -> Any:
    if not left:
        return _mT(_lu_solve(lu, permutation, _mT(b), True, not adjoint))
    lead = np.broadcast_shapes(lu.shape[:-2], b.shape[:-2])
    lu, permutation = expanded(lu, (*lead, *lu.shape[-2:])), expanded(permutation, (*lead, permutation.shape[-1]))
    b = expanded(b, (*lead, *b.shape[-2:]))
    if b.size == 0:
        return b
    if adjoint:
        y = _solve_triangular(lu, _solve_triangular(lu, b, upper=True, transpose=True), upper=False, transpose=True, unit=True)
        return _rows(y, jnp.argsort(permutation, axis=-1))
    return _solve_triangular(lu, _solve_triangular(lu, _rows(b, permutation), upper=False, unit=True), upper=True)


def _permutation(pivots: Any, n: int) -> Any:
    """Return the permutation of ``n`` rows that corresponds to torch's pivots, which are counted from 1."""
    if pivots.size == 0 or n == 0:
        return expanded(lax.iota(np.int32, n), (*pivots.shape[:-1], n))
    return lax.linalg.lu_pivots_to_permutation(lax.sub(pivots, np.int32(1)), n)


def _swapped(permutation: Any, dtype: Any) -> Any:
    """Return P of ``A = P L U``."""
    return (permutation[..., None, :] == jnp.arange(permutation.shape[-1])[:, None]).astype(dtype)


def _unpacked(lu: Any) -> tuple[Any, Any]:
    m, n = lu.shape[-2:]
    k = min(m, n)
    return jnp.tril(lu[..., :k], -1) + jnp.eye(m, k, dtype=lu.dtype), jnp.triu(lu[..., :k, :])


@lowers(aten.linalg_lu_factor_ex.default)
def _(out: Any, x: Any, *, pivot: bool = True, check_errors: bool = False) -> Any:
    lu, pivots, _, info = _lu(x)
    return lu, lax.add(pivots, np.int32(1)), info


@lowers(aten.linalg_lu.default)
def _(out: Any, x: Any, *, pivot: bool = True) -> Any:
    lu, _, permutation, _ = _lu(x)
    return _swapped(permutation, x.dtype), *_unpacked(lu)


@lowers(aten.lu_unpack.default)
def _(out: Any, lu: Any, pivots: Any, unpack_data: bool = True, unpack_pivots: bool = True) -> Any:
    nothing = lax.full((0,), 0, lu.dtype)
    p = _swapped(_permutation(pivots, lu.shape[-2]), lu.dtype) if unpack_pivots else nothing
    return p, *(_unpacked(lu) if unpack_data else (nothing, nothing))


@lowers(aten.linalg_lu_solve.default)
def _(out: Any, lu: Any, pivots: Any, b: Any, *, left: bool = True, adjoint: bool = False) -> Any:
    return _lu_solve(lu, _permutation(pivots, lu.shape[-2]), b, left, adjoint)


@lowers(aten._linalg_solve_ex.default)
def _(out: Any, a: Any, b: Any, *, left: bool = True, check_errors: bool = False) -> Any:
    lu, pivots, permutation, info = _lu(a)
    vector = b.ndim == 1 or (b.ndim < a.ndim and b.shape == a.shape[:-1])
    x = _lu_solve(lu, permutation, lax.expand_dims(b, (b.ndim,)) if vector else b, left or vector)
    return lax.squeeze(x, (x.ndim - 1,)) if vector else x, lu, lax.add(pivots, np.int32(1)), info


@lowers(aten.linalg_inv_ex.default)
def _(out: Any, a: Any, *, check_errors: bool = False) -> Any:
    lu, _, permutation, info = _lu(a)
    return _lu_solve(lu, permutation, expanded(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)), info


def _signs(pivots: Any, dtype: Any) -> Any:
    """Return 1 or -1 for each permutation: whether its swaps are even or odd."""
    swaps = jnp.sum(pivots != jnp.arange(pivots.shape[-1]), -1)
    return (1 - 2 * (swaps % 2)).astype(dtype)


@lowers(aten._linalg_det.default)
def _(out: Any, a: Any) -> Any:
    """Like torch, factorise the transposed matrix (as of a contiguous one: a matrix of jax has no strides)."""
    lu, pivots, _, _ = _lu(_mT(a))
    return lax.mul(jnp.prod(_diagonal(lu), -1), _signs(pivots, a.dtype)), lu, lax.add(pivots, np.int32(1))


@lowers(aten._linalg_slogdet.default)
def _(out: Any, a: Any) -> Any:
    lu, pivots, _, _ = _lu(_mT(a))
    diagonal = _diagonal(lu)
    sign, size = jnp.prod(lax.sign(diagonal), -1), jnp.sum(lax.log(lax.abs(diagonal)), -1)
    return lax.mul(sign, _signs(pivots, a.dtype)), size, lu, lax.add(pivots, np.int32(1))


@lowers(aten.linalg_qr.default)
def _(out: Any, a: Any, mode: str = "reduced") -> Any:
    q, r = out
    if a.size == 0:
        return _unit(q, a.dtype), lax.full(tuple(r.shape), 0, a.dtype)
    left, right = lax.linalg.qr(a, full_matrices=mode == "complete")
    return (lax.full((0,), 0, a.dtype) if mode == "r" else left), right


@lowers(aten.geqrf.default)
def _(out: Any, a: Any) -> Any:
    if a.size == 0:
        return a, lax.full(tuple(out[1].shape), 0, a.dtype)
    factors, tau = jnp.linalg.qr(a, mode="raw")
    return _mT(factors), tau


@lowers(aten.linalg_householder_product.default)
def _(out: Any, a: Any, tau: Any) -> Any:
    if a.size == 0 or tau.size == 0:
        return expanded(jnp.eye(*a.shape[-2:], dtype=a.dtype), tuple(out.shape))
    return lax.linalg.householder_product(a, tau)


@lowers(aten._linalg_eigh.default)
def _(out: Any, a: Any, UPLO: str = "L", compute_v: bool = True) -> Any:
    values, vectors = out
    if a.size == 0:
        return lax.full(tuple(values.shape), 0, a.dtype), lax.full(tuple(vectors.shape), 0, a.dtype)
    v, w = lax.linalg.eigh(a, lower=UPLO.upper() == "L", symmetrize_input=False)
    return w, v if compute_v else lax.full((0,), 0, a.dtype)


def _unit(meta: Any, dtype: Any) -> Any:
    """Return an orthogonal matrix for a matrix without elements."""
    shape = tuple(meta.shape)
    if len(shape) > 1 and shape[-1] == shape[-2]:
        return expanded(jnp.eye(shape[-1], dtype=dtype), shape)
    return lax.full(shape, 0, dtype)


@lowers(aten._linalg_svd.default)
def _(out: Any, a: Any, full_matrices: bool = False, compute_uv: bool = True, *, driver: str | None = None) -> Any:
    if a.size == 0:
        u, s, v = out
        return _unit(u, a.dtype), lax.full(tuple(s.shape), 0, a.dtype), _unit(v, a.dtype)
    if compute_uv:
        return lax.linalg.svd(a, full_matrices=full_matrices, compute_uv=True)
    nothing = lax.full((0,), 0, a.dtype)
    return nothing, lax.linalg.svd(a, full_matrices=False, compute_uv=False), nothing


def _beyond(values: Any, atol: Any, rtol: Any) -> Any:
    """Return the reciprocals of the values above the tolerance, and 0 for the others."""
    size = lax.abs(values)
    edge = jnp.maximum(atol, rtol * jnp.max(size, -1, initial=0))[..., None]
    return jnp.where(size > edge, 1 / values, 0).astype(values.dtype)


@lowers(aten.linalg_pinv.atol_rtol_tensor)
def _(out: Any, a: Any, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Any:
    if a.size == 0:
        return lax.full(tuple(out.shape), 0, a.dtype)
    if rtol is None:
        rtol = torch.finfo(torch_dtype(a.dtype)).eps * max(a.shape[-2:])
        rtol = rtol if atol is None else jnp.where(atol > 0, 0, rtol)
    atol = 0 if atol is None else atol
    if hermitian:
        v, w = lax.linalg.eigh(a, lower=True, symmetrize_input=False)
        return _matmul(v * _beyond(w, atol, rtol)[..., None, :], _mT(v))
    u, s, v = lax.linalg.svd(a, full_matrices=False, compute_uv=True)
    return _matmul(_mT(v) * _beyond(s, atol, rtol)[..., None, :], _mT(u))


@lowers(aten.linalg_matrix_exp.default)
def _(out: Any, a: Any) -> Any:
    return a if a.size == 0 else jax.scipy.linalg.expm(a)
