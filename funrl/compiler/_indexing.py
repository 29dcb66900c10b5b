"""Uses of a tensor in Python that torch does not pass on as operators: indices and numbers that are tensors, and ``.data =``."""

import functools
import warnings
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from funrl._check import describe
from funrl.compiler import _torch_private as private
from funrl.compiler._errors import TraceError, line, value_asked
from funrl.compiler._trace import current
from funrl.compiler._traced import Reshaped, Traced


class Indexing(TorchFunctionMode):
    """Let a traced tensor of shape [] be an index, and an entry of ``torch.tensor``, where torch would ask for its value."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _GET or func is _SET:
            index = args[1] if type(args[1]) is tuple else (args[1],)
            if type(args[1]) is list and _holds_tensors(args[1]) and _lists_are_tuples():
                index = tuple(args[1])
            if any(type(i) is list and _holds_tensors(i) for i in index):
                index = tuple([_tensor_of(i) if type(i) is list and _holds_tensors(i) else i for i in index])
                args = (args[0], index, *args[2:])
            for i in index:
                if type(i) is slice:
                    _refuse_bounds(i)
            if any(_is_place(i) for i in index):
                return _index(args[0], index) if func is _GET else _set_index(args[0], index, args[2])
        elif type(func) is type(_SET_DATA) and func == _SET_DATA:
            return _set_data(*args)
        elif func in _RESHAPES:
            _check_reshape(func, *args, **(kwargs or {}))
        elif (func is torch.tensor or func is torch.as_tensor) and _holds_tensors(args[0]):
            return _tensor_of(*args, **(kwargs or {}))
        elif func is torch.full and len(args) == 2 and isinstance(args[1], torch.Tensor) and not args[1].ndim:
            options = kwargs or {}
            return args[1].detach().to(options.get("dtype") or args[1].dtype).expand(args[0]).clone()
        return func(*args, **(kwargs or {}))


_GET, _SET = torch.Tensor.__getitem__, torch.Tensor.__setitem__
# Operators that make a tensor a view of itself, and the views.
_RESHAPES = {
    getattr(torch.Tensor, f"{name}_"): getattr(torch.Tensor, name)
    for name in ("as_strided", "squeeze", "swapaxes", "swapdims", "t", "transpose", "unsqueeze")
}
_SET_DATA: Any = torch.Tensor.data.__set__  # pyright: ignore


def _set_data(target: torch.Tensor, value: torch.Tensor) -> None:
    """Replace a tensor of the function by another one, as ``target.data = value`` does."""
    trace = current()
    if trace is None:
        _SET_DATA(target, value)
        return
    if not isinstance(target, Traced):
        what = "a tensor of a transform" if private.is_transformed(target) else "a tensor from outside the function"
        raise TraceError(
            f"{line()}`.data =` would change {what} ({describe(target)}); a traced function changes nothing that it is given: compute a "
            "new tensor and return it (torch.func.functional_call calls a module with other parameters)"
        )
    if target.memory.readonly:
        what = target.memory.readonly
        raise TraceError(f"{line()}`.data =` would change {what} ({describe(target)}); compute a new tensor and return it")
    value = value if isinstance(value, Traced) else trace.capture(value)
    _SET_DATA(target, value)
    target.become(value)


def _check_reshape(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> None:
    """Raise :class:`Reshaped`, or an error, where a tensor that is differentiated gets another shape in place.

    A view that is replayed has the shape it was taken with: derivatives of writes to it would be those of other entries.
    """
    trace, bottom = current(), private.unwrapped(x)
    if trace is None or not isinstance(bottom, Traced) or not private.is_differentiated(x):
        return
    with private.no_dispatch():  # and without the wrappers of transforms, by which a loop knows what its body takes from outside
        before = private.unwrapped(torch.empty_strided(x.shape, x.stride(), device="meta"))
        after = private.unwrapped(_RESHAPES[func](before, *args, **kwargs))
    if before.shape == after.shape and before.stride() == after.stride():
        return
    if bottom.memory.has_rows:
        raise TraceError(
            f"{line()}a tensor of which x[i] was taken, with a tensor i, is given another shape in place ({func.__name__}) within a "
            "derivative, which then loses sight of what it is a view of; make a new tensor: "
            f"y = x.{func.__name__.removesuffix('_')}(...)"
        )
    if trace.replays:
        raise Reshaped


def _holds_tensors(value: Any) -> bool:
    return type(value) in (list, tuple) and any(isinstance(x, torch.Tensor) or _holds_tensors(x) for x in value)


def _tensor_of(values: Any, dtype: Any = None, device: Any = None, **options: Any) -> torch.Tensor:
    """Return the result of torch.tensor for nested lists that contain tensors of shape []; it carries no gradient."""

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


@functools.cache
def _lists_are_tuples() -> bool:
    """Return whether this torch takes ``x[[i, j]]`` for ``x[i, j]`` as it did when it deprecated that."""
    with private.no_dispatch(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        i = torch.zeros((), dtype=torch.int64)
        return torch.zeros(1, 1)[[i, i]].ndim == 0  # pyright: ignore


def _refuse_bounds(i: slice) -> None:
    """Raise an error for a slice whose length is known only when the program runs."""
    for bound in (i.start, i.stop, i.step):
        if isinstance(bound, torch.Tensor):
            remedy = "a slice, which has another shape at each value; take a fixed number of rows: x[i + torch.arange(n)], or torch.gather"
            raise value_asked(bound, remedy)


def _is_place(i: Any) -> bool:
    """Return whether an index is a number that is known only when the program runs."""
    if not isinstance(i, torch.Tensor) or i.ndim or i.dtype in (torch.bool, torch.uint8) or i.is_floating_point():
        return False
    while private.is_transformed(i):
        if private.functorch.is_batchedtensor(i):
            return False  # torch treats it as a tensor of numbers
        i = private.functorch.get_unwrapped(i)
    return True


def _taken(i: Any) -> int:
    """Return the number of dimensions that an entry of an index selects from."""
    if i is None or isinstance(i, bool):
        return 0
    return i.ndim if isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) else 1


def _dimensions(x: torch.Tensor, index: tuple[Any, ...]) -> list[tuple[Any, int]]:
    """Return the entries of an index, the ellipsis written out, each with the first dimension of ``x`` that it is for."""
    rest = x.ndim - sum(_taken(i) for i in index if i is not Ellipsis)
    entries, dim = [], 0
    for i in index:
        if i is Ellipsis:
            entries += [(slice(None), dim + k) for k in range(rest)]
            dim += rest
            continue
        entries.append((i, dim))
        dim += _taken(i)
    if rest < 0 or dim > x.ndim:
        raise IndexError(f"too many indices for tensor of dimension {x.ndim}")
    return entries


def _rows(x: torch.Tensor, entries: list[tuple[Any, int]]) -> torch.Tensor:
    """Return the view of ``x`` at those entries of an index that are known only when the program runs."""
    for i, dim in reversed(entries):
        if _is_place(i):
            x = _row(x, dim, i)
    return x


def _row(x: torch.Tensor, dim: int, i: torch.Tensor) -> torch.Tensor:
    """Return ``x.select(dim, i)``.

    It is a view for every transform of torch.func, by torch's own rules for ``select``: these rules accept any integer, so they get one
    that represents the tensor, and :meth:`Trace.row` replaces it by the tensor.
    """
    trace = current()
    assert trace is not None
    bottom = private.unwrapped(i)
    bottom = bottom if isinstance(bottom, Traced) else trace.capture(bottom)
    key = trace.frame, bottom.serial, bottom.memory, bottom.memory.version, x.shape[dim]
    number = trace.numbers.get(key)
    if number is None:
        place = private.unwrapped(_from_the_front(i, x.shape[dim]))
        assert isinstance(place, Traced)
        number = trace.numbers[key] = _FIRST + len(trace.places)
        trace.places[number] = place
    with private.replayed_views():
        return x.select(dim, number)


# No tensor has as many rows.
_FIRST = 1 << 61


def _index(x: torch.Tensor, index: tuple[Any, ...]) -> torch.Tensor:
    entries = _dimensions(x, index)
    rest = tuple(i for i, _ in entries if not _is_place(i))
    x = _rows(x, entries)
    return x[rest] if any(not (isinstance(i, slice) and i == slice(None)) for i in rest) else x


def _from_the_front(i: torch.Tensor, size: int) -> torch.Tensor:
    i = i if i.dtype == torch.int64 else i.to(torch.int64)  # index_copy takes no other
    # An index below -size does not change; otherwise it would count as an index from the end.
    return torch.where((i < 0) & (i >= -size), i + size, i).reshape(1)


def _set_index(x: torch.Tensor, index: tuple[Any, ...], value: Any) -> None:
    entries = _dimensions(x, index)
    places = [(i, dim) for i, dim in entries if _is_place(i)]
    if len(places) == 1 or any(isinstance(i, (torch.Tensor, list, tuple, bool)) and not _is_place(i) for i, _ in entries):
        _rows(x, entries)[tuple(i for i, _ in entries if not _is_place(i))] = value
        return
    # One write of all places, where a row of a row would be written back twice.
    part = x[tuple(slice(None) if _is_place(i) else i for i, _ in entries)]
    dim, order = 0, []
    for i, _ in entries:
        if _is_place(i):
            order.append(dim)
        dim += isinstance(i, slice) or i is None or _is_place(i)
    order += [dim for dim in range(part.ndim) if dim not in order]
    part = part.permute(order)
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    while value.ndim > part.ndim - len(places) and value.shape[0] == 1:
        value = value.squeeze(0)  # as torch does
    part.index_put_(tuple(i for i, _ in places), value.broadcast_to(part.shape[len(places) :]))
