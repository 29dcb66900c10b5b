"""Arguments of a call: their leaves, the part of them in the key of a program, and messages that name a leaf."""

import functools
import itertools
import operator
import os
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import torch

from funrl import tree
from funrl.compiler import _torch_private as private
from funrl.compiler._backends import STATE
from funrl.compiler._donation import MARK
from funrl.compiler._traced import Traced

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

    def __init__(self, leaves: list[torch.Tensor], form: Any, trees: Any, backend: str) -> None:
        self.form, self.backend, self.settings = form, backend, settings(backend)
        self.order = orders(form)
        self.ordered = self.order(trees)
        self.of_kinds = private.of_kinds(leaves)

    def __call__(self, leaves: list[Any], form: Any, trees: Any) -> bool:
        return (
            form == self.form
            and self.of_kinds(*leaves)
            and not any(map(hasattr, leaves, itertools.repeat(MARK)))
            and self.order(trees) == self.ordered
            and settings(self.backend) == self.settings
        )


@functools.lru_cache(4096)
def orders(form: Any) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function from (args, kwargs) to the order of the keys of each dict, which their structure does not contain."""
    steps = [(accessor, k, entry) for accessor in form.accessors() for k, entry in enumerate(accessor)]
    dicts = {tuple(accessor[:k]): None for accessor, k, entry in steps if k > 1 and isinstance(entry, optree.MappingEntry)}
    numbers: dict[Any, int] = {(): 0}  # of the nodes on the way, in the order in which they are reached
    walk: list[tuple[int, Callable[[Any], Any]]] = []
    for place in dicts:
        for k, entry in enumerate(place, start=1):
            if place[:k] not in numbers:
                walk.append((numbers[place[: k - 1]], _getter(entry)))
                numbers[place[:k]] = len(walk)
    ends = [numbers[place] for place in dicts]

    def order(trees: Any) -> tuple[Any, ...]:
        nodes = [trees]
        for parent, get in walk:
            nodes.append(get(nodes[parent]))
        return tuple([tuple(nodes[k]) for k in ends])

    return order


def _getter(entry: Any) -> Callable[[Any], Any]:
    """Return a function from a node to the child of an entry, at the speed of C where there is one."""
    if type(entry) is optree.GetAttrEntry:
        return operator.attrgetter(entry.entry)
    return operator.itemgetter(entry.entry) if isinstance(entry, (optree.SequenceEntry, optree.MappingEntry)) else entry


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
