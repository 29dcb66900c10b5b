"""The nodes of a tree: frozen dataclasses that are pytrees."""

import builtins
import dataclasses
import math
import operator
from typing import Any, Self, TypeVar, dataclass_transform

import optree
import optree.registry
from optree import GetAttrEntry
from torch.utils import _pytree as torch_pytree

from funrl.tree._checks import check_class, check_decorated
from funrl.tree._show import shown_short
from funrl.tree._walks import leaves

T = TypeVar("T")


class _Statics(tuple[Any, ...]):
    """Static values in the structure, compared with their types and signs: 1, 1.0 and True are equal in Python, but give other programs."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if tuple.__eq__(self, other) is not True or not isinstance(other, tuple):
            return False
        return all(builtins.map(operator.is_, self, other)) or all(builtins.map(_alike, self, other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


def _alike(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return all(builtins.map(_alike, a, b))
    return type(a) is not float or math.copysign(1, a) == math.copysign(1, b)


def static(**options: Any) -> Any:
    """Mark a field of a :func:`dataclass` as static: part of the structure, not a leaf.

    A static value has to be hashable; two trees whose static fields differ have different structures.

    Args:
        **options: as for :func:`dataclasses.field`, such as ``default``.

    Example:
        >>> import torch
        >>> @dataclass
        ... class Noise:
        ...     scale: torch.Tensor
        ...     kind: str = static(default="gaussian")
        >>> leaves(Noise(torch.tensor(2.0)))
        [tensor(2.)]
    """
    metadata = {**options.pop("metadata", {}), "static": True}
    return dataclasses.field(metadata=metadata, **options)


def constant(value: Any) -> Any:
    """Note beside a field the number, or list of numbers, by which :func:`funrl.env.constants` fills it.

    Example:
        >>> from funrl.env import constants
        >>> @dataclass
        ... class BallParams:
        ...     gravity: Any = constant(9.8)
        >>> constants(BallParams).gravity
        tensor(9.8000)
    """
    return dataclasses.field(metadata={"constant": value})


class Replaceable:
    """Base class that declares ``replace`` of a :func:`dataclass` for type checkers, which cannot see methods added by a decorator.

    Inheriting from it changes nothing else.

    Example:
        >>> @dataclass
        ... class Counter(Replaceable):
        ...     count: int
        >>> Counter(1).replace(count=2).count
        2
    """

    def replace(self, **changes: Any) -> Self:
        """Return a copy with the named fields changed."""
        check_decorated(type(self))
        return dataclasses.replace(self, **changes)  # pyright: ignore[reportArgumentType]


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static, constant, dataclasses.field))
def dataclass(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass that optree and torch treat as a pytree.

    It gets a method ``replace(**changes)`` that returns a changed copy. Fields made by :func:`static`
    are part of the structure; all others are subtrees. There is no ``__eq__``, as tensors have no single truth value. A long ``repr``
    is shortened to a line for each field.

    Args:
        cls: a class with annotated fields and no ``__post_init__`` (transforms rebuild it on objects that
            are not tensors). A class that inherits from one needs the decorator too.

    Raises:
        TypeError: if ``cls`` defines ``__post_init__`` or ``__init__``, or has a field with ``init=False``.

    Example:
        >>> import torch
        >>> from funrl import tree
        >>> @dataclass
        ... class Ball:
        ...     height: torch.Tensor
        ...     speed: torch.Tensor
        >>> ball = Ball(height=torch.tensor(1.0), speed=torch.tensor(0.5))
        >>> tree.map(lambda x: 2 * x, ball.replace(height=torch.tensor(3.0))).height
        tensor(6.)
    """
    check_class(cls)
    made: Any = shown_short(cls, leaves)
    fields = dataclasses.fields(made)
    data_names = tuple(f.name for f in fields if not f.metadata.get("static"))
    static_names = tuple(f.name for f in fields if f.metadata.get("static"))
    names = data_names + static_names

    children, statics = _fields(data_names), _fields(static_names)

    def context(node: Any) -> tuple[Any, ...]:
        return _Statics(statics(node)) if static_names else ()

    def with_keys(node: Any) -> tuple[list[tuple[Any, Any]], Any]:
        return [(torch_pytree.GetAttrKey(name), getattr(node, name)) for name in data_names], context(node)

    def rebuild(context: Any, children: Any) -> Any:  # the constructor of a frozen dataclass takes three times as long
        node = object.__new__(made)
        node.__dict__.update(zip(names, (*children, *context), strict=True))
        return node

    made._funrl_data, made._funrl_static = data_names, static_names

    made.replace = Replaceable.replace
    optree.register_pytree_node(
        made,
        lambda node: (children(node), context(node), data_names),
        rebuild,
        path_entry_type=GetAttrEntry,
        namespace=optree.registry.__GLOBAL_NAMESPACE,
    )
    torch_pytree.register_pytree_node(
        made,
        lambda node: (list(children(node)), context(node)),
        lambda children, context: rebuild(context, children),
        flatten_with_keys_fn=with_keys,
        serialized_type_name=f"{made.__module__}.{made.__qualname__}",
    )
    return made


def _fields(names: tuple[str, ...]) -> Any:
    """Return a function from a node to the tuple of some of its fields."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda node: tuple([getattr(node, name) for name in names])
