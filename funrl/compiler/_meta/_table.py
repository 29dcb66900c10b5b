"""The table of rules, and the functions that rules use: new meta tensors, dtypes by a probe, broadcasting, checks."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from funrl.compiler import _torch_private as private
from funrl.compiler._graph import replaced

aten = torch.ops.aten
Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
_PROBED: dict[Any, Any] = {}


@functools.cache
def known(operator: Any) -> Rule | None:
    """Return the rule of an operator, from meta tensors of its arguments to those of its results; None if there is only torch's own."""
    general = alike if torch.Tag.pointwise in operator.tags else reduced if torch.Tag.reduction in operator.tags else None
    return RULES.get(operator) or (functools.partial(general, operator) if general else None)


def on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator on meta tensors, to infer the shapes, strides and dtypes of its results."""
    rule = known(func)
    if rule is not None:
        with private.no_function_modes():  # a mode is called for each attribute of a tensor
            return rule(*args, **kwargs)
    if takes_device(func):
        kwargs = {**kwargs, "device": "meta"}
    with private.no_dispatch():  # the trace may be active
        return func(*args, **kwargs)


@functools.cache
def takes_device(operator: Any) -> bool:
    """Return whether an operator takes a device."""
    return "device" in _names(operator)


@functools.cache
def _names(operator: Any) -> tuple[str, ...]:
    return tuple(argument.name for argument in private.schema(operator).arguments)


def enter(rule: Rule, *names: str, overloads: tuple[str, ...] = ("default",)) -> None:
    """Enter a rule for overloads of operators by name."""
    for operator in _overloads(names, overloads):
        RULES[operator] = rule


def enter_general(general: Rule, *names: str, overloads: tuple[str, ...] = ("default",)) -> None:
    """Enter a rule that takes the operator before its arguments."""
    for operator in _overloads(names, overloads):
        RULES[operator] = functools.partial(general, operator)


def _overloads(names: tuple[str, ...], overloads: tuple[str, ...]) -> list[Any]:
    packets = [getattr(aten, name) for name in names]
    return [getattr(packet, overload) for packet in packets for overload in overloads if overload in packet.overloads()]


def new(shape: Any, dtype: torch.dtype, like: torch.Tensor | None = None) -> torch.Tensor:
    """Return a meta tensor; its dimensions lie in memory in the order of those of ``like``, if that has the same shape."""
    if like is None or like.is_contiguous() or 0 in like.stride() or like.shape != tuple(shape):
        return torch.empty(shape, dtype=dtype, device="meta")
    order = sorted(range(like.ndim), key=like.stride().__getitem__, reverse=True)
    return torch.empty_permuted(shape, order, dtype=dtype, device="meta")


def probed(operator: Any, args: Any, kwargs: Any, value: int = 1) -> Any:
    """Return what an operator gives for tensors of one entry, ``value``, in place of those of ``args``: its dtypes, and torch's own errors.

    Dimensions without entries stay so. Results are stored for each combination of dtypes, ranks and numbers.
    """
    key = (operator, torch.get_default_dtype(), *map(_kind, args))
    if kwargs:
        key += tuple([(name, _kind(x)) for name, x in kwargs.items()])
    found = _PROBED.get(key)
    if found is None:
        with private.no_dispatch():
            given = replaced((args, kwargs), torch.Tensor, lambda x: torch.full(_small(x), value, dtype=x.dtype))
            try:
                found = _PROBED[key] = operator(*given[0], **given[1])
            except NotImplementedError as error:  # for a dtype; a trace would take it for the lack of a rule
                raise RuntimeError(str(error)) from None
    return found


def _kind(x: Any) -> Any:
    """Return the properties of an argument on which dtypes and errors depend."""
    if isinstance(x, torch.Tensor):
        return x.dtype, x.ndim if x.numel() else _small(x)
    return tuple([_kind(y) for y in x]) if isinstance(x, (list, tuple)) else (type(x), x)


def _small(x: torch.Tensor) -> tuple[int, ...]:
    return tuple([min(n, 1) for n in x.shape])


def alike(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the results of an operator that all have the common shape of its tensors, such as a pointwise one."""
    result = probed(operator, args, kwargs)
    tensors = [x for x in ((*args, *kwargs.values()) if kwargs else args) if isinstance(x, torch.Tensor)]
    like = tensors[0]
    shape = tuple(like.shape)
    if len(tensors) > 1:
        shape = broadcast(*tensors)
        like = next((x for x in tensors if x.shape == shape and 0 not in x.stride()), None)  # that is not expanded
    return new(shape, result.dtype, like) if isinstance(result, torch.Tensor) else tuple([new(shape, x.dtype, like) for x in result])


def unlaid(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the same, but contiguous."""
    result = alike(operator, *args, **kwargs)
    return new(result.shape, result.dtype)


def reduced(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the results of an operator that reduces the dimensions ``dim`` of its first tensor, all of them where there is none."""
    x, result = args[0], probed(operator, args, kwargs)
    given = dict(zip(_names(operator), args, strict=False)) | kwargs
    dims = given.get("dim")
    dims = dims if isinstance(dims, (list, tuple)) else [] if dims is None else [dims]
    taken = {d % max(x.ndim, 1) for d in dims} if dims else range(x.ndim)
    shape = [1 if i in taken else n for i, n in enumerate(x.shape) if given.get("keepdim") or i not in taken]
    return new(shape, result.dtype) if isinstance(result, torch.Tensor) else tuple([new(shape, y.dtype) for y in result])


def averaged(operator: Any, *args: Any, correction: Any = None, **kwargs: Any) -> Any:
    """Return the results of a variance, for which torch warns of a single entry."""
    return reduced(operator, *args, correction=0, **kwargs)


def broadcast(*tensors: torch.Tensor) -> tuple[int, ...]:
    """Return the common shape of tensors; raise a RuntimeError, as torch does, if there is none."""
    return _common(tuple([tuple(x.shape) for x in tensors]))


@functools.lru_cache(4096)
def _common(shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        torch.broadcast_tensors(*[torch.empty(shape, device="meta") for shape in shapes])  # raises torch's error, which names the sizes
        raise


def check(right: bool, text: str) -> None:
    """Raise a RuntimeError with the text unless ``right``."""
    if not right:
        raise RuntimeError(text)
