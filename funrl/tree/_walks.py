"""The walks over all leaves of a tree, which everything else stands on, and the check that one tree is like another."""

from collections.abc import Callable
from typing import Any

import optree
import torch

from funrl._check import describe as describe_leaf
from funrl.tree._checks import check_decorated, check_leaf


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """Return the leaves of ``tree`` and its structure, for :func:`unflatten`.

    The leaves of a dict are in the order of the sorted keys, as in optree. ``None`` is a tree without leaves.

    Raises:
        TypeError: if there is a container that is not a tree.

    Example:
        >>> values, form = flatten({"b": 2, "a": (0, 1)})
        >>> values
        [0, 1, 2]
        >>> unflatten(form, [10, 11, 12]) == {"b": 12, "a": (10, 11)}
        True
    """
    # leaves refuses optree's other containers. It and map are not by optree, as they take half the time, at each step on the host.
    values = leaves(tree)
    form = optree.tree_structure(tree, namespace="funrl")  # pyright: ignore[reportArgumentType]
    if form.num_leaves != len(values):
        kinds = ", ".join(sorted({type(x).__name__ for x in values if not optree.tree_is_leaf(x, namespace="funrl")}))
        known = "a class that is registered with optree for all namespaces"
        raise TypeError(f"tree: {kinds}: expected leaves, got {known}; make it a tree.dataclass")
    return values, form


def unflatten(structure: Any, leaves: Any) -> Any:
    """Return the tree with ``structure`` (from :func:`flatten`) and ``leaves``.

    Example:
        >>> values, form = flatten({"a": 1, "b": (2, 3)})
        >>> unflatten(form, [10 * x for x in values])
        {'a': 10, 'b': (20, 30)}
    """
    return structure.unflatten(leaves)


def leaves(tree: Any) -> list[Any]:
    """Return the leaves of ``tree`` in the order of :func:`flatten`.

    Raises:
        TypeError: if there is a container that is not a tree.

    Example:
        >>> leaves({"b": 2, "a": (0, 1)})
        [0, 1, 2]
    """
    values: list[Any] = []
    _leaves_into(values, tree)
    return values


def _leaves_into(values: list[Any], node: Any) -> None:
    kind = type(node)
    if kind is torch.Tensor:
        values.append(node)
    elif kind is dict:
        for key in sorted(node):
            _leaves_into(values, node[key])
    elif kind is tuple or kind is list:
        for child in node:
            _leaves_into(values, child)
    elif hasattr(kind, "_funrl_data"):
        check_decorated(kind)
        for name in kind._funrl_data:
            _leaves_into(values, getattr(node, name))
    elif isinstance(node, tuple) and hasattr(kind, "_fields"):
        for child in node:
            _leaves_into(values, child)
    elif node is not None:
        check_leaf(node)
        values.append(node)


def structure(tree: Any) -> Any:
    """Return the structure of ``tree``, equal for trees with equal nodes and static fields. The order of dict entries does not matter.

    Example:
        >>> structure({"a": 1}) == structure({"a": 2}), structure({"a": 1}) == structure([1])
        (True, False)
    """
    return flatten(tree)[1]


def paths(tree: Any) -> list[str]:
    """Return a readable path for each leaf, in the order of :func:`leaves`.

    Example:
        >>> paths({"b": 2, "a": (0, 1)})
        ["['a'][0]", "['a'][1]", "['b']"]
    """
    return [accessor.codify("") or "(the whole tree)" for accessor in structure(tree).accessors()]


def map(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Apply ``f`` to each leaf of ``tree`` (and the leaves of ``rest`` at the same place).

    Raises:
        TypeError: if there is a container that is not a tree.
        ValueError: if a tree of ``rest`` has another structure than ``tree``.

    Example:
        >>> map(lambda x, y: x + y, {"a": 1, "b": 2}, {"a": 10, "b": 20})
        {'a': 11, 'b': 22}
    """
    if not rest:
        return _map_one(f, tree)
    values, form = flatten(tree)
    columns = [values]
    for position, other in enumerate(rest):
        other_values, other_form = flatten(other)
        if other_form != form:
            raise ValueError(_difference(other, tree, f"tree.map: tree number {position + 2}", "the first"))
        columns.append(other_values)
    return unflatten(form, [f(*row) for row in zip(*columns, strict=True)])


def _map_one(f: Callable[[Any], Any], node: Any) -> Any:
    kind = type(node)
    if kind is torch.Tensor:
        return f(node)
    if kind is dict:
        entries = {key: _map_one(f, node[key]) for key in sorted(node)}
        return {key: entries[key] for key in node}
    if kind is tuple or kind is list:
        return kind([_map_one(f, child) for child in node])
    if hasattr(kind, "_funrl_data"):
        check_decorated(kind)
        fields = {name: _map_one(f, getattr(node, name)) for name in kind._funrl_data}
        fields.update({name: getattr(node, name) for name in kind._funrl_static})
        return kind(**fields)
    if isinstance(node, tuple) and hasattr(kind, "_fields"):
        return kind(*[_map_one(f, child) for child in node])
    if node is None:
        return None
    check_leaf(node)
    return f(node)


def check_like(tree: Any, reference: Any, what: str, reference_name: str, *, dtypes: bool = True) -> None:
    """Raise unless ``tree`` has the structure, shapes and (with ``dtypes``) dtypes of ``reference``.

    Fields that the class lists in ``_funrl_any_length`` may have a different number of rows.

    Args:
        tree: the tree to check.
        reference: the tree to compare with.
        what: the name of ``tree`` in the message.
        reference_name: the name of ``reference`` in the message.
        dtypes: whether to compare dtypes too.

    Raises:
        ValueError: if they differ; the message names the path of the first leaf that differs.

    Example:
        >>> import torch
        >>> check_like({"a": torch.zeros(2)}, {"a": torch.zeros(3)}, "new carry", "initial carry")
        Traceback (most recent call last):
        ...
        ValueError: new carry: leaf ['a'] is float32 [2], but in initial carry it is float32 [3]
    """
    values, form = flatten(tree)
    expected, expected_form = flatten(reference)
    if form != expected_form:
        raise ValueError(_difference(tree, reference, what, reference_name))
    for i, (x, y) in enumerate(zip(values, expected, strict=True)):
        if not (isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)):
            alike = type(x) is type(y)
        else:
            alike = (x.shape == y.shape or same_rows(reference, i, x.shape, y.shape)) and (not dtypes or x.dtype == y.dtype)
        if not alike:
            raise ValueError(f"{what}: leaf {paths(tree)[i]} is {describe_leaf(x)}, but in {reference_name} it is {describe_leaf(y)}")


def same_rows(tree: Any, i: int, shape: Any, expected: Any) -> bool:
    """Return whether leaf ``i`` of a tree may have ``shape`` instead of ``expected``, as its class allows any number of rows.

    Example:
        >>> import torch
        >>> from funrl.tree import dataclass
        >>> @dataclass
        ... class History:
        ...     rewards: torch.Tensor
        ...     _funrl_any_length = ("rewards",)
        >>> same_rows(History(torch.zeros(3, 2)), 0, (5, 2), (3, 2)), same_rows((torch.zeros(3, 2),), 0, (5, 2), (3, 2))
        (True, False)
    """
    if len(shape) == 0 or len(shape) != len(expected) or list(shape[1:]) != list(expected[1:]):
        return False
    return any(step.entry in getattr(step.type, "_funrl_any_length", ()) for step in structure(tree).accessors()[i])


def _difference(tree: Any, reference: Any, what: str, reference_name: str) -> str:
    mine, theirs = paths(tree), paths(reference)
    missing = [path for path in theirs if path not in mine]
    extra = [path for path in mine if path not in theirs]
    if not missing and not extra:
        detail = "the types of nodes, or static fields, differ"
    else:
        detail = "; ".join([f"it has no leaf {path}" for path in missing[:1]] + [f"its leaf {path} is new" for path in extra[:1]])
    return f"{what} has another structure than {reference_name}: {detail}"
