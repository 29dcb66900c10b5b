"""The table of lowerings, and their shared functions for dtypes, dimensions, and Python numbers in the dtype that torch gives them."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

TABLE: dict[Any, Callable[..., Any]] = {}

_DTYPES: dict[torch.dtype, Any] = {
    torch.float32: jnp.float32,
    torch.float64: jnp.float64,
    torch.float16: jnp.float16,
    torch.bfloat16: jnp.bfloat16,
    torch.int8: jnp.int8,
    torch.int16: jnp.int16,
    torch.int32: jnp.int32,
    torch.int64: jnp.int64,
    torch.uint8: jnp.uint8,
    torch.uint16: jnp.uint16,
    torch.uint32: jnp.uint32,
    torch.uint64: jnp.uint64,
    torch.bool: jnp.bool_,
}
_JAX_DTYPES = {np.dtype(jax_type): torch_type for torch_type, jax_type in _DTYPES.items()}
# A lowering does not decide the device and the memory layout of its result.
_DROPPED = frozenset({"device", "layout", "pin_memory", "memory_format", "generator", "non_blocking"})


def lowers(*operators: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter the decorated function as the lowering of aten operators (overloads such as ``aten.add.Tensor``).

    It is called as ``f(out, *args, **kwargs)``: ``out`` is the meta tensor that the operator gives (a tuple of them, where it gives
    several), and each tensor among the arguments is a jax array. It returns a jax array (or a tuple of them) of the shape of ``out``;
    its dtype is cast by :func:`apply`.
    """

    def enter(f: Callable[..., Any]) -> Callable[..., Any]:
        for operator in operators:
            TABLE[operator] = f
        return f

    return enter


def apply(operator: Any, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the result of the lowering of ``operator``, in the dtypes of the meta tensors ``out``.

    Raises:
        KeyError: if the operator has no lowering.
        RuntimeError: if a lowering gives another shape than torch does: a bug of the lowering, never of its caller.
    """
    result = TABLE[operator](out, *args, **{name: x for name, x in kwargs.items() if name not in _DROPPED})
    if isinstance(out, torch.Tensor):
        return _checked(operator, out, result)
    if len(out) != len(result):
        raise RuntimeError(f"funrl's lowering of {operator} gives {len(result)} results where torch gives {len(out)}; please report this")
    return type(result)(None if meta is None else _checked(operator, meta, x) for meta, x in zip(out, result, strict=True))


def _checked(operator: Any, meta: torch.Tensor, x: Any) -> jax.Array:
    x = cast(x, meta.dtype)
    if x.shape != tuple(meta.shape):
        raise RuntimeError(f"funrl's lowering of {operator} gives shape {x.shape}, and torch {tuple(meta.shape)}; please report this")
    return x


def jax_dtype(dtype: torch.dtype) -> Any:
    """Return jax's name for a dtype of torch.

    Raises:
        TypeError: if XLA has no such dtype (complex and quantised numbers are not lowered).
    """
    if dtype not in _DTYPES:
        raise TypeError(f"a traced function holds a tensor of dtype {dtype}, which backend='xla' does not know; use backend='inductor'")
    return _DTYPES[dtype]


def torch_dtype(dtype: Any) -> torch.dtype:
    """Return torch's name for a dtype of jax."""
    return _JAX_DTYPES[np.dtype(dtype)]


def cast(x: Any, dtype: torch.dtype) -> jax.Array:
    """Return ``x``, a jax array or a number of Python, in a dtype of torch, as ``Tensor.to`` does."""
    target = jax_dtype(dtype)
    if not isinstance(x, jax.Array):
        return constant(x, dtype)
    if x.dtype == target:
        return x
    if target == jnp.bool_:
        return lax.ne(x, lax.full_like(x, 0))
    if x.dtype == jnp.bool_ and dtype.is_floating_point:  # XLA takes convert(bool) * y for a select, which hides NaN and infinity in y
        return lax.select(x, lax.full(x.shape, 1, target), lax.full(x.shape, 0, target))
    return lax.convert_element_type(x, target)


def constant(value: float | bool, dtype: torch.dtype, shape: tuple[int, ...] = ()) -> jax.Array:
    """Return an array [*shape] that holds the number ``value`` everywhere; integers wrap as torch's do."""
    if dtype == torch.bool:
        return lax.full(shape, bool(value), jnp.bool_)
    if not dtype.is_floating_point:
        value = int(value) if math.isfinite(value) else 0
        bits, lowest = 8 * dtype.itemsize, torch.iinfo(dtype).min
        value = (value - lowest) % (1 << bits) + lowest
        return lax.full(shape, np.array(value, np.dtype(jax_dtype(dtype))), jax_dtype(dtype))
    with np.errstate(over="ignore"):  # to infinity
        return lax.full(shape, value, jax_dtype(dtype))


def axis(dim: int, ndim: int) -> int:
    """Return a dimension counted from the front; a tensor without dimensions counts as having one."""
    return dim % max(ndim, 1)


def axes(dims: Any, ndim: int) -> tuple[int, ...]:
    """Return dimensions counted from the front; None or an empty list means all of them."""
    if ndim == 0:
        return ()
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return tuple(range(ndim))
    return tuple(axis(d, ndim) for d in (dims if isinstance(dims, (list, tuple)) else (dims,)))
