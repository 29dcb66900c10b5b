"""Arguments of a call: their leaves, the part of them in the key of a program, and messages that name a leaf."""

import functools
import itertools
import os
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import torch

from funrl.compiler import _torch_private as private
from funrl.compiler._backends import STATE
from funrl.compiler._donation import MARK
from funrl.compiler._traced import Traced

# In the structure of a call, the keys of a dict are in their own order: a function may loop over them.
_ORDERED = optree.dict_insertion_ordered(True, namespace="funrl.calls")
_ORDERED.__enter__()
flatten: Callable[[Any], tuple[list[Any], Any]] = functools.partial(optree.tree_flatten, namespace="funrl.calls")  # pyright: ignore

# Objects that are compared by identity and never change.
FIXED = (object, torch.dtype, torch.layout, torch.memory_format, types.EllipsisType)


def as_leaf(x: Any) -> Any:
    """Return a leaf as a plain tensor if it is a tensor or an array, a number of NumPy as a Python number, and others unchanged."""
    if isinstance(x, torch.Tensor):
        return x if isinstance(x, Traced) or private.is_transformed(x) or MARK in x.__dict__ else x.detach().as_subclass(torch.Tensor)
    if isinstance(x, np.ndarray):
        if not x.dtype.isnative:  # torch supports the machine's byte order only
            x = x.astype(x.dtype.newbyteorder("="))
        # torch takes no negative strides, and warns of arrays that cannot be written.
        return torch.as_tensor(x if x.flags.writeable and min(x.strides, default=0) >= 0 else x.copy())
    return x.item() if isinstance(x, np.generic) else x


def settings(backend: str) -> tuple[Any, ...]:
    """Return the part of a key that is not of the arguments: settings of torch, and for "auto" the choice of a backend."""
    cast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
    choice = (getattr(STATE, "backend", None), os.environ.get("FUNRL_BACKEND")) if backend == "auto" else ()
    return torch.get_default_dtype(), cast, *choice


class Usual:
    """A test of whether a call has the key of a program whose leaves are plain tensors, at the speed of C.

    It is never true for another key. It may be false for the program's own key, as when a leaf is not contiguous.
    """

    def __init__(self, leaves: list[torch.Tensor], form: Any, backend: str) -> None:
        self.form, self.backend, self.settings = form, backend, settings(backend)
        self.of_kinds = private.of_kinds(leaves)

    def __call__(self, leaves: list[Any], form: Any) -> bool:
        return (
            form == self.form
            and self.of_kinds(*leaves)
            and not any(map(hasattr, leaves, itertools.repeat(MARK)))
            and settings(self.backend) == self.settings
        )


def _place(form: Any, i: int) -> tuple[str, str]:
    _, argument, *inside = form.accessors()[i]
    return f"argument {argument.entry!r}", optree.PyTreeAccessor(inside).codify("")


def place_of(form: Any, i: int) -> str:
    """Return the place of leaf ``i`` of (args, kwargs), for messages."""
    return "".join(_place(form, i))


def leaf_of(form: Any, i: int) -> str:
    """Return leaf ``i`` of (args, kwargs) by its path in an argument, for messages."""
    argument, inside = _place(form, i)
    return f"leaf {inside or '(the whole tree)'} of {argument}"


def check_usable(x: torch.Tensor, name: str, form: Any, i: int) -> None:
    """Raise if leaf ``i`` of (args, kwargs) was donated before.

    Raises:
        ValueError: if so; the message names the leaf and the function that it was donated to.
    """
    if donated := x.__dict__.get(MARK):
        raise ValueError(f"{name}: {leaf_of(form, i)} was donated to {donated} before, which wrote over it; use what that call returned")


def changeable(name: str, form: Any, leaves: list[Any], i: int) -> TypeError:
    """Return the error for leaf ``i``, which is an object whose attributes may change."""
    where, kind = place_of(form, i), type(leaves[i])
    return TypeError(
        f"{name}: {where} is an object of {kind.__module__}.{kind.__qualname__}, whose attributes would stay as they are: "
        "make the class a funrl.tree.dataclass (its tensors are inputs, static fields part of the program), or give it __eq__ and __hash__"
    )


def unhashable(name: str, form: Any, leaves: list[Any]) -> TypeError:
    """Return the error for a leaf that cannot be a part of a key."""
    for i, x in enumerate(leaves):
        try:
            hash(x)
        except TypeError:
            where = place_of(form, i)
            return TypeError(f"{name}: leaf {where} is a {type(x).__name__}, which is neither a tensor nor a fixed value; make it a tensor")
    return TypeError(f"{name}: a static field of an argument cannot be hashed")


def what_changes(keys: list[Any], form: Any) -> str:
    """Return the reason for the many programs."""
    for i in range(form.num_leaves):
        kinds = {key[1 + i] for key in keys if len(key) > 1 + i}
        if len(kinds) > 1 and any(isinstance(kind[0], type) for kind in kinds):
            where = place_of(form, i)
            return f"{where} is a Python number (or another fixed value) that changes: make it a tensor, as in torch.tensor(0.1)"
        if len(kinds) > 1:
            return f"{place_of(form, i)} has another shape or dtype each time: pad it, or use a mask"
    return "their structure or static fields differ each time"
