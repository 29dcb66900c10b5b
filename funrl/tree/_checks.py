"""Errors for classes and containers that cannot be nodes of a tree."""

import dataclasses
import inspect
from collections import deque
from typing import Any


def check_class(cls: type) -> None:
    """Raise a TypeError for a class whose objects could not be copied from their fields.

    Example:
        >>> class Ball:
        ...     height: float
        >>> check_class(Ball)
    """
    if hasattr(cls, "__post_init__"):
        raise TypeError(
            f"{cls.__name__} has a __post_init__, which transforms would run on objects that are not tensors: "
            f"move it to a function that builds {cls.__name__}"
        )
    if "__init__" in vars(cls):
        raise TypeError(
            f"{cls.__name__} defines __init__, but its copies are made from its fields: move it to a function that builds {cls.__name__}"
        )
    for name in inspect.get_annotations(cls):
        field = vars(cls).get(name)
        if isinstance(field, dataclasses.Field) and not field.init:
            raise TypeError(
                f"{cls.__name__}: field {name!r}: expected one that __init__ takes, as copies are made from the fields, got init=False; "
                "compute it where it is used, or give it when the object is built"
            )


def check_decorated(kind: Any) -> None:
    """Raise a TypeError for a class that inherits from a dataclass without the decorator, as its new fields would be lost.

    Example:
        >>> import torch
        >>> from funrl.tree import dataclass
        >>> @dataclass
        ... class Ball:
        ...     height: torch.Tensor
        >>> check_decorated(Ball)
    """
    if "_funrl_data" not in vars(kind):
        base = next(base for base in kind.__mro__ if "_funrl_data" in vars(base))
        raise TypeError(
            f"tree: {kind.__name__} inherits from {base.__name__}, which is a tree.dataclass, but is not one itself, so that its fields "
            f"and its type would be lost; put @tree.dataclass above class {kind.__name__}"
        )


def check_leaf(node: Any) -> None:
    """Raise a TypeError for a container that is not a tree.

    Example:
        >>> check_leaf(3)
    """
    if isinstance(node, (dict, list, tuple, deque)):
        kind = type(node)
        name = kind.__name__ if kind.__module__ in ("builtins", "collections") else f"{kind.__module__}.{kind.__name__}"
        article = "an" if name[0] in "AEIOUaeiou" else "a"
        raise TypeError(f"tree: {article} {name} is not a tree; use dict, list, tuple, NamedTuple or a funrl.tree.dataclass")
