"""Operands of pointwise operators: numbers and arrays in one dtype and one shape, as torch promotes them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import lax

from funrl.compiler._lowerings._table import cast, constant, lowers, torch_dtype


def is_float(x: jax.Array) -> bool:
    """Return whether an array holds floating-point numbers."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def opmath(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that torch computes in: float32 for half precision."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def broadcast(x: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> jax.Array:
    """Return an array or a number in a dtype of torch, expanded to ``shape``."""
    if not isinstance(x, jax.Array):
        return constant(x, dtype, shape)
    return expanded(cast(x, dtype), shape)


def expanded(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Return ``x`` broadcast to ``shape`` by torch's rule: from the last dimension, where ones repeat."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    return lax.broadcast_in_dim(x, shape, tuple(range(len(shape) - x.ndim, len(shape))))


def operands(out: torch.Tensor, *args: Any) -> tuple[jax.Array, ...]:
    """Return arrays and numbers in the shape of ``out`` and the dtype that torch computes it in, each rounded to that of ``out`` before."""
    dtype, shape = opmath(out.dtype), tuple(out.shape)
    return tuple(broadcast(cast(x, out.dtype), dtype, shape) for x in args)


def unrounded(out: torch.Tensor, *args: Any) -> tuple[jax.Array, ...]:
    """Return :func:`operands`, but numbers and arrays without dimensions as they are, as mul, div and lerp in half precision do."""
    dtype, shape = opmath(out.dtype), tuple(out.shape)
    return tuple(broadcast(cast(x, out.dtype) if getattr(x, "ndim", 0) else x, dtype, shape) for x in args)


def promoted(out: torch.Tensor, *args: Any) -> tuple[jax.Array, ...]:
    """Return arrays and numbers in the shape of ``out`` and their own common dtype, as comparisons need them."""
    dtype, shape = promoted_dtype(*args), tuple(out.shape)
    return tuple(broadcast(cast(x, dtype), opmath(dtype), shape) for x in args)


def promoted_dtype(*args: Any) -> torch.dtype:
    """Return the common dtype of arrays and numbers: arrays without dimensions and numbers only decide its kind, as in torch."""
    dtype = None
    for rank in (_rank_0, _rank_1, _rank_2):
        dtypes = [d for d in map(rank, args) if d is not None]
        if not dtypes:
            continue
        lower = dtypes[0]
        for d in dtypes[1:]:
            lower = torch.promote_types(lower, d)
        if dtype is None or dtype == torch.bool or (lower.is_floating_point and not dtype.is_floating_point):
            dtype = lower
    assert dtype is not None
    return dtype


def _rank_0(x: Any) -> torch.dtype | None:
    return torch_dtype(x.dtype) if isinstance(x, jax.Array) and x.ndim else None


def _rank_1(x: Any) -> torch.dtype | None:
    return torch_dtype(x.dtype) if isinstance(x, jax.Array) and not x.ndim else None


def _rank_2(x: Any) -> torch.dtype | None:
    if isinstance(x, jax.Array):
        return None
    return torch.bool if isinstance(x, bool) else torch.int64 if isinstance(x, int) else torch.get_default_dtype()


def is_bool(x: jax.Array) -> bool:
    """Return whether an array holds booleans."""
    return x.dtype == jnp.bool_


def is_signed(x: jax.Array) -> bool:
    """Return whether an array holds numbers that can be negative."""
    return is_float(x) or jnp.issubdtype(x.dtype, jnp.signedinteger)


def signbit(x: jax.Array) -> jax.Array:
    """Return whether each number is negative, by its sign bit (-0.0 and negative NaN are)."""
    if is_float(x):
        x = lax.bitcast_convert_type(x, {4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize])
    return lax.lt(x, like(x, 0)) if is_signed(x) else lax.full(x.shape, False)


def like(x: jax.Array, value: float) -> jax.Array:
    """Return an array like ``x`` that holds ``value`` everywhere."""
    return lax.full(x.shape, value, x.dtype)


def where(condition: jax.Array, x: jax.Array | float, y: jax.Array | float) -> jax.Array:
    """Return ``x`` where a condition of its shape holds and ``y`` elsewhere; one of both may be a number."""
    if not isinstance(x, jax.Array):
        assert isinstance(y, jax.Array)
        x = like(y, x)
    return lax.select(condition, x, y if isinstance(y, jax.Array) else like(x, y))


def at_least(x: jax.Array, bound: float) -> jax.Array:
    """Return the larger of floating-point numbers and a bound, as torch does with NaN and zeros: where they are equal, x stays."""
    return where(lax.lt(x, like(x, bound)), bound, x)


def at_most(x: jax.Array, bound: float) -> jax.Array:
    """Return the smaller of floating-point numbers and a bound, as torch does with NaN and zeros: where they are equal, x stays."""
    return where(lax.gt(x, like(x, bound)), bound, x)


def chebyshev(x: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    """Evaluate a Chebyshev series of x / 2, its coefficients given from the highest degree down, the last one to be halved."""
    before, last, result = None, None, like(x, coefficients[0])
    for c in coefficients[1:]:
        before, last = last, result
        result = lax.add(lax.mul(x, last), like(x, c))
        result = result if before is None else lax.sub(result, before)
    assert last is not None
    return lax.mul(lax.sub(result, last if before is None else before), like(x, 0.5))


def enter(table: dict[Any, Callable[..., Any]], operands: Callable[..., Any] = operands) -> None:
    """Enter functions of equally shaped arrays in the dtype of the result as lowerings of pointwise operators."""
    for operator, f in table.items():
        lowers(operator)(lambda out, *args, f=f: f(*operands(out, *args)))


def enter_tests(table: dict[Any, Callable[..., Any]]) -> None:
    """Enter functions of equally shaped arrays in their own common dtype as lowerings of operators that return booleans."""
    for operator, f in table.items():
        lowers(operator)(lambda out, *args, f=f: f(*promoted(out, *args)))
