"""Arguments of a call: their leaves, the part of them in the key of a program, and messages that name a leaf."""

import functools
import types
from typing import Any

import numpy as np
import optree
import torch

from funrl import tree
from funrl.compiler import _torch_private as private
from funrl.compiler._traced import Traced

# Objects that are compared by identity and never change.
FIXED = (object, torch.dtype, torch.layout, torch.memory_format, types.EllipsisType)


def as_leaf(x: Any) -> Any:
    """Return a leaf as a plain tensor if it is a tensor or an array, a number of NumPy as a Python number, and others unchanged."""
    if isinstance(x, torch.Tensor):
        return (
            x
            if isinstance(x, Traced) or private.is_transformed(x) or "_funrl_donated" in x.__dict__
            else x.detach().as_subclass(torch.Tensor)
        )
    if isinstance(x, np.ndarray):
        if not x.dtype.isnative:  # torch supports the machine's byte order only
            x = x.astype(x.dtype.newbyteorder("="))
        # torch takes no negative strides, and warns of arrays that cannot be written.
        return torch.as_tensor(x if x.flags.writeable and min(x.strides, default=0) >= 0 else x.copy())
    return x.item() if isinstance(x, np.generic) else x


@functools.lru_cache(4096)
def dicts(form: Any) -> list[Any]:
    """Return a function that finds the dicts in (args, kwargs) of a structure, which does not contain the order of their entries."""
    places = {}
    for accessor in form.accessors():
        for k, entry in enumerate(accessor):
            if k > 1 and isinstance(entry, optree.MappingEntry):
                places[accessor[:k]] = None
    return list(places)


def changeable(name: str, args: Any, kwargs: Any, place: int) -> TypeError:
    """Return the error for a leaf that is an object whose attributes may change."""
    where, kind = path(optree.tree_paths((args, kwargs), namespace="funrl")[place]), type(tree.leaves((args, kwargs))[place])  # pyright: ignore
    return TypeError(
        f"{name}: {where} is an object of {kind.__module__}.{kind.__qualname__}, whose attributes would stay as they are: "
        "make the class a funrl.tree.dataclass (its tensors are inputs, static fields part of the program), or give it __eq__ and __hash__"
    )


def unhashable(name: str, args: Any, kwargs: Any, leaves: list[Any]) -> TypeError:
    """Return the error for a leaf that cannot be a part of a key."""
    places = optree.tree_paths((args, kwargs), namespace="funrl")  # pyright: ignore
    for place, x in zip(places, leaves, strict=True):
        try:
            hash(x)
        except TypeError:
            return TypeError(
                f"{name}: leaf {path(place)} is a {type(x).__name__}, which is neither a tensor nor a fixed value; make it a tensor"
            )
    return TypeError(f"{name}: a static field of an argument cannot be hashed")


def path(place: tuple[Any, ...]) -> str:
    """Return the path of a leaf of (args, kwargs), for messages."""
    which, *rest = place
    where = f"argument {rest[0]}" if which == 0 and isinstance(rest[0], int) else f"argument {rest[0]!r}"
    return where + "".join(f"[{step!r}]" for step in rest[1:])


def what_changes(keys: list[Any], args: Any, kwargs: Any) -> str:
    """Return the reason for the many programs."""
    places = optree.tree_paths((args, kwargs), namespace="funrl")  # pyright: ignore
    for k, place in enumerate(places, start=1):
        kinds = {key[k] for key in keys if len(key) > k}
        if len(kinds) > 1 and any(isinstance(kind[0], type) for kind in kinds):
            return f"{path(place)} is a Python number (or another fixed value) that changes: make it a tensor, as in torch.tensor(0.1)"
        if len(kinds) > 1:
            return f"{path(place)} has another shape or dtype each time: pad it, or use a mask"
    return "their structure or static fields differ each time"
