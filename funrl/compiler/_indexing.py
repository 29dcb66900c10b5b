"""Python's ways with a tensor that torch does not hand down as operators: indices and numbers that are tensors, and ``.data =``."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from funrl.compiler import _torch_private as private
from funrl.compiler._errors import TraceError, described, line
from funrl.compiler._trace import Traced, current

__all__ = ["Indexing"]


class Indexing(TorchFunctionMode):
    """Let a traced tensor of shape [] be an index, and an entry of ``torch.tensor``, where torch would ask for its value."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _GET or func is _SET:
            index = args[1] if type(args[1]) is tuple else (args[1],)
            if any(_is_place(i) for i in index):
                return _index(args[0], index) if func is _GET else _set_index(args[0], index, args[2])
        elif type(func) is type(_SET_DATA) and func == _SET_DATA:
            return _set_data(*args)
        elif (func is torch.tensor or func is torch.as_tensor) and _holds_tensors(args[0]):
            return _tensor_of(*args, **(kwargs or {}))
        elif func is torch.full and len(args) == 2 and isinstance(args[1], torch.Tensor) and not args[1].ndim:
            options = kwargs or {}
            return args[1].detach().to(options.get("dtype") or args[1].dtype).expand(args[0]).clone()
        return func(*args, **(kwargs or {}))


_GET, _SET = torch.Tensor.__getitem__, torch.Tensor.__setitem__
_SET_DATA: Any = torch.Tensor.data.__set__  # pyright: ignore


def _set_data(target: torch.Tensor, value: torch.Tensor) -> None:
    """Let a tensor of the function be another one, as ``target.data = value`` does."""
    trace = current()
    if trace is None:
        _SET_DATA(target, value)
        return
    if not isinstance(target, Traced):
        what = "a tensor of a transform" if private.is_transformed(target) else "a tensor from outside the function"
        raise TraceError(
            f"{line()}`.data =` would change {what} ({described(target)}); a traced function changes nothing that it is given: compute a "
            "new tensor and return it (torch.func.functional_call calls a module with other parameters)"
        )
    if target.memory.readonly:
        what = target.memory.readonly
        raise TraceError(f"{line()}`.data =` would change {what} ({described(target)}); compute a new tensor and return it")
    value = value if isinstance(value, Traced) else trace.capture(value)
    _SET_DATA(target, value)
    target.become(value)


def _holds_tensors(value: Any) -> bool:
    return type(value) in (list, tuple) and any(isinstance(x, torch.Tensor) or _holds_tensors(x) for x in value)


def _tensor_of(values: Any, dtype: Any = None, device: Any = None, **options: Any) -> torch.Tensor:
    """Return what torch.tensor makes of nested lists with tensors of shape [] in them: without their gradients."""

    def stacked(value: Any) -> torch.Tensor:
        if type(value) in (list, tuple):
            parts = [stacked(x) for x in value]
            kind = parts[0].dtype if parts else torch.get_default_dtype()
            for x in parts[1:]:
                kind = torch.promote_types(kind, x.dtype)
            return torch.stack([x.to(kind) for x in parts]) if parts else torch.empty(0)
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            raise ValueError("only one element tensors can be converted to Python scalars: use torch.stack")
        return value.detach().reshape(()) if isinstance(value, torch.Tensor) else torch.tensor(value)

    made = stacked(values)
    return made if dtype is None else made.to(dtype)


def _is_place(i: Any) -> bool:
    """Return whether an index is a number that is known only when the program runs."""
    if not isinstance(i, torch.Tensor) or i.ndim or i.dtype in (torch.bool, torch.uint8) or i.is_floating_point():
        return False
    while private.is_transformed(i):
        if private.functorch.is_batchedtensor(i):
            return False  # torch takes it for a tensor of numbers
        i = private.functorch.get_unwrapped(i)
    return True


def _dimensions(x: torch.Tensor, index: tuple[Any, ...]) -> list[tuple[Any, int]]:
    """Return the entries of an index, the ellipsis written out, each with the first dimension of ``x`` that it is for."""
    taken = sum(0 if i is None or i is Ellipsis else i.ndim if isinstance(i, torch.Tensor) and i.dtype == torch.bool else 1 for i in index)
    entries, dim = [], 0
    for i in index:
        if i is Ellipsis:
            rest = x.ndim - taken
            entries += [(slice(None), dim + k) for k in range(rest)]
            dim += rest
            continue
        entries.append((i, dim))
        dim += 0 if i is None else i.ndim if isinstance(i, torch.Tensor) and i.dtype == torch.bool else 1
    return entries


def _index(x: torch.Tensor, index: tuple[Any, ...]) -> torch.Tensor:
    entries = _dimensions(x, index)
    rest = tuple(i for i, _ in entries if not _is_place(i))
    for i, dim in reversed(entries):
        if _is_place(i):
            x = x.index_select(dim, _from_the_front(i, x.shape[dim])).squeeze(dim)
    return x[rest] if any(i is None or not (isinstance(i, slice) and i == slice(None)) for i in rest) else x


def _from_the_front(i: torch.Tensor, size: int) -> torch.Tensor:
    i = i if i.dtype in (torch.int32, torch.int64) else i.to(torch.int64)
    return torch.where(i < 0, i + size, i).reshape(1)


def _set_index(x: torch.Tensor, index: tuple[Any, ...], value: Any) -> None:
    entries = _dimensions(x, index)
    if any(isinstance(i, (torch.Tensor, list)) and not _is_place(i) for i, _ in entries):
        # One kind of index only: numbers count as tensors that are broadcast.
        x.index_put_(
            tuple(i if isinstance(i, torch.Tensor) else torch.tensor(i) for i, _ in entries), torch.as_tensor(value, dtype=x.dtype)
        )
        return
    part = x[tuple(slice(None) if _is_place(i) else i for i, _ in entries)]
    dim, places = 0, []
    for i, _ in entries:
        if _is_place(i):
            places.append((i, dim))
        dim += isinstance(i, slice) or i is None or _is_place(i)
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    indices: list[Any] = [None] * part.ndim
    for i, dim in places:
        indices[dim] = i.reshape(1)
    shape = [n for dim, n in enumerate(part.shape) if indices[dim] is None]
    value = value.broadcast_to(shape)
    if len(places) == 1:
        i, dim = places[0]
        part.index_copy_(dim, _from_the_front(i, part.shape[dim]), value.unsqueeze(dim))
        return
    order = [dim for _, dim in places] + [dim for dim in range(part.ndim) if indices[dim] is None]
    part.permute(order).index_put_(tuple(i for i, _ in places), value)
