"""The table of rules, and the functions that rules use: new meta tensors, promotion, broadcasting, checks."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from funrl.compiler import _torch_private as private

aten = torch.ops.aten
Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
_RESULT: dict[Any, torch.dtype] = {}


def known(operator: Any) -> Rule | None:
    """Return the rule of an operator, from meta tensors of its arguments to those of its results; None if there is only torch's own."""
    return RULES.get(operator)


def on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator on meta tensors, to infer the shapes, strides and dtypes of its results."""
    rule = RULES.get(func)
    if rule is not None:
        return rule(*args, **kwargs)
    if takes_device(func):
        kwargs = {**kwargs, "device": "meta"}
    with private.no_dispatch():  # the trace may be active
        return func(*args, **kwargs)


@functools.cache
def takes_device(operator: Any) -> bool:
    """Return whether an operator takes a device."""
    return any(argument.name == "device" for argument in private.schema(operator).arguments)


def enter(rule: Rule, *names: str, overloads: tuple[str, ...] = ()) -> None:
    """Enter a rule for operators by name, for all overloads or only these, except for those that write to arguments."""
    for name in names:
        packet = getattr(aten, name, None)
        if packet is None:
            continue
        for overload in packet.overloads():
            if not overloads or overload in overloads:
                operator = getattr(packet, overload)
                if not private.schema(operator).is_mutable and "out" not in overload:
                    RULES[operator] = rule


def new(shape: Any, dtype: torch.dtype, like: torch.Tensor | None = None) -> torch.Tensor:
    """Return a meta tensor; its dimensions lie in memory in the order of those of ``like``, if that has the same shape."""
    if like is None or like.is_contiguous() or 0 in like.stride() or like.shape != torch.Size(shape):
        return torch.empty(shape, dtype=dtype, device="meta")
    order = sorted(range(like.ndim), key=like.stride().__getitem__, reverse=True)
    return torch.empty_permuted(shape, order, dtype=dtype, device="meta")


def kind(x: Any) -> Any:
    """Return the properties of an operand on which promotion depends."""
    return (x.dtype, x.ndim > 0) if isinstance(x, torch.Tensor) else type(x)


def result_type(*values: Any) -> torch.dtype:
    """Return the dtype that torch computes with for tensors and numbers."""
    key = (torch.get_default_dtype(), *[kind(x) for x in values])
    if key not in _RESULT:
        small = [torch.empty((1,) if x.ndim else (), dtype=x.dtype) if isinstance(x, torch.Tensor) else x for x in values]
        # Category by category, as torch does: with dimensions, without, numbers.
        tensors = sorted((x for x in small if isinstance(x, torch.Tensor)), key=lambda x: -x.ndim)
        others = [x for x in small if not isinstance(x, torch.Tensor)]
        result: Any = tensors[0] if tensors else others.pop(0)
        for x in [*tensors[1:], *others]:
            result = torch.empty((1,) if isinstance(result, torch.Tensor) and result.ndim else (), dtype=torch.result_type(result, x))
        _RESULT[key] = result.dtype if isinstance(result, torch.Tensor) else torch.tensor(result).dtype
    return _RESULT[key]


def floating(dtype: torch.dtype) -> torch.dtype:
    """Return a floating-point or complex dtype unchanged, and the default dtype for others."""
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.get_default_dtype()


def broadcast(*values: Any) -> tuple[int, ...]:
    """Return the common shape of tensors (numbers are ignored); raise a RuntimeError, as torch does, if there is none."""
    shape: tuple[int, ...] = ()
    for x in values:
        if not isinstance(x, torch.Tensor):
            continue
        own = tuple(x.shape)
        if own == shape or not own:
            continue
        if not shape:
            shape = own
            continue
        n = max(len(own), len(shape))
        one, other = (1,) * (n - len(shape)) + shape, (1,) * (n - len(own)) + own
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b and a != 1 and b != 1:
                raise RuntimeError(
                    f"The size of tensor a ({a}) must match the size of tensor b ({b}) at non-singleton dimension {i}: "
                    f"shapes {list(shape)} and {list(own)} cannot be broadcast"
                )
        shape = tuple(b if a == 1 else a for a, b in zip(one, other, strict=True))
    return shape


def layout(shape: tuple[int, ...], *values: Any) -> torch.Tensor | None:
    """Return the first tensor of the shape that is not expanded; its layout is that of a result."""
    return next((x for x in values if isinstance(x, torch.Tensor) and tuple(x.shape) == shape and 0 not in x.stride()), None)


def check(right: bool, text: str) -> None:
    """Raise a RuntimeError with the text unless ``right``."""
    if not right:
        raise RuntimeError(text)


def dimension(x: torch.Tensor, d: int) -> int:
    """Return a dimension counted from the front."""
    n = max(x.ndim, 1)
    if not -n <= d < n:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {d})")
    return d % n
