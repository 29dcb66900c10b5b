"""Access to parts of a tree by paths.

A *path* is a key or a tuple of keys from the root on: keys of dicts, names of fields, indices of lists and tuples. For example,
``("outer", "first", 0)`` is the path of ``tree["outer"].first[0]``.
"""

from typing import Any

from funrl.tree._walks import describe_leaf, leaves


def _path(path: Any) -> tuple[Any, ...]:
    return path if type(path) is tuple else (path,)


def _entries(node: Any) -> Any:
    """Return the children of a node by their keys, or None for a leaf."""
    kind = type(node)
    if kind is dict:
        return node
    if hasattr(kind, "_funrl_data"):
        return {name: getattr(node, name) for name in kind._funrl_data}
    if isinstance(node, tuple) and hasattr(kind, "_fields"):
        return dict(zip(kind._fields, node, strict=True))
    if kind is tuple or kind is list:
        return dict(enumerate(node))
    return None


def _children(node: Any, keys: tuple[Any, ...], what: str) -> dict[Any, Any]:
    """Return the children of the node at ``keys``, or raise because it is a leaf."""
    entries = _entries(node)
    if entries is None:
        raise ValueError(f"{what}: there is nothing below {_written(keys)}, which is {describe_leaf(node)}")
    return entries


def _written(keys: tuple[Any, ...]) -> str:
    return repr(keys[0] if len(keys) == 1 else keys) if keys else "the root"


def _missing(keys: tuple[Any, ...], entries: dict[Any, Any], what: str) -> ValueError:
    return ValueError(f"{what}: there is no {_written(keys)}; the keys there are {', '.join(repr(key) for key in entries) or 'none'}")


def get(tree: Any, path: Any) -> Any:
    """Return the part of a tree at a path.

    Args:
        tree: any tree.
        path: a key, or a tuple of keys from the root on.

    Raises:
        ValueError: if there is no such part; the message lists the existing keys.

    Example:
        >>> get({"a": {"b": [1, 2]}}, ("a", "b", 1))
        2
    """
    keys, node = _path(path), tree
    for depth, key in enumerate(keys):
        entries = _children(node, keys[:depth], "tree.get")
        if key not in entries:
            raise _missing(keys[: depth + 1], entries, "tree.get")
        node = entries[key]
    return node


def update(tree: Any, path: Any, value: Any) -> Any:
    """Return a tree whose part at a path is ``value``; a new key may be added to a dict.

    Args:
        tree: any tree.
        path: a key, or a tuple of keys from the root on.
        value: the new part, any tree.

    Raises:
        ValueError: if there is no such part, and the parent node is not a dict.

    Example:
        >>> update({"a": {"b": 1}}, ("a", "c"), 2)
        {'a': {'b': 1, 'c': 2}}
    """
    keys = _path(path)
    return _update(tree, keys, 0, value) if keys else value


def _update(node: Any, keys: tuple[Any, ...], depth: int, value: Any) -> Any:
    entries = _children(node, keys[:depth], "tree.update")
    key, last = keys[depth], depth + 1 == len(keys)
    if key not in entries and not (last and type(node) is dict):
        raise _missing(keys[: depth + 1], entries, "tree.update")
    new = value if last else _update(entries[key], keys, depth + 1, value)
    kind = type(node)
    if isinstance(node, dict):
        return {**node, key: new}
    if hasattr(kind, "_funrl_data"):
        return node.replace(**{key: new})
    if kind is tuple or kind is list:
        return kind([new if i == key else child for i, child in enumerate(node)])
    return node._replace(**{key: new})


def select(tree: Any, *paths: Any) -> dict[Any, Any]:
    """Return only the parts at the given paths, in nested dicts.

    Args:
        tree: any tree; NamedTuples, dataclasses and lists become dicts, as they would lack parts.
        *paths: each a key, or a tuple of keys from the root on.

    Raises:
        ValueError: if there is no such part, or a path is a part of another one.

    Example:
        >>> select({"a": {"b": 1, "c": 2}, "d": 3}, "d", ("a", "c"))
        {'d': 3, 'a': {'c': 2}}
    """
    result = _Nested()
    for path in paths:
        _insert(result, _path(path), get(tree, path), "tree.select")
    return _plain(result)


def _insert(result: dict[Any, Any], keys: tuple[Any, ...], value: Any, what: str) -> None:
    """Insert ``value`` into nested dicts; a key leads either to another dict or to a value."""
    node: Any = result
    for depth, key in enumerate(keys[:-1]):
        node = node.setdefault(key, _Nested())
        if type(node) is not _Nested:
            raise ValueError(f"{what}: {_written(keys)} is a part of {_written(keys[: depth + 1])}, which is given too")
    if keys[-1] in node:
        raise ValueError(f"{what}: {_written(keys)} is given twice, or a part of it is")
    node[keys[-1]] = value


class _Nested(dict):
    """A dict under construction."""


def _plain(node: Any) -> Any:
    return {key: _plain(child) for key, child in node.items()} if type(node) is _Nested else node


def exclude(tree: Any, *paths: Any) -> Any:
    """Return a tree without the parts at the given paths.

    Args:
        tree: any tree; a NamedTuple, dataclass or list that loses a part becomes a dict.
        *paths: each a key, or a tuple of keys from the root on.

    Raises:
        ValueError: if there is no such part.

    Example:
        >>> exclude({"a": {"b": 1, "c": 2}, "d": 3}, "d", ("a", "b"))
        {'a': {'c': 2}}
    """
    for path in paths:
        keys = _path(path)
        get(tree, keys)
        parent = {key: child for key, child in _entries(get(tree, keys[:-1])).items() if key != keys[-1]}
        tree = update(tree, keys[:-1], parent)
    return tree


def rename(tree: Any, names: dict[Any, Any]) -> Any:
    """Return a tree with renamed keys, in the old order.

    Args:
        tree: any tree; a NamedTuple, dataclass or list one of whose parts is renamed becomes a dict.
        names: a dict from a path in ``tree`` (a key, or a tuple of keys from the root on) to the new last key.

    Raises:
        ValueError: if there is no such part, or two parts of a node would have the same key.

    Example:
        >>> rename({"a": {"b": 1, "c": 2}}, {("a", "b"): "x", "a": "y"})
        {'y': {'x': 1, 'c': 2}}
    """
    by_parent: dict[tuple[Any, ...], dict[Any, Any]] = {}
    for path, new in names.items():
        keys = _path(path)
        get(tree, keys)
        by_parent.setdefault(keys[:-1], {})[keys[-1]] = new
    for parent in sorted(by_parent, key=len, reverse=True):  # the deepest first, so that the paths of the argument remain valid
        entries = _entries(get(tree, parent))
        renamed = {by_parent[parent].get(key, key): child for key, child in entries.items()}
        if len(renamed) < len(entries):
            raise ValueError(f"tree.rename: two parts of {_written(parent)} would have one key; got {by_parent[parent]}")
        tree = update(tree, parent, renamed)
    return tree


def flatten_keys(tree: Any, separator: str = ".") -> dict[str, Any]:
    """Return a dict of the leaves, in the order of :func:`leaves`, whose names are the keys of their paths joined with a separator.

    A separator or backslash within a key is preceded by a backslash, so that different paths have different names.

    Args:
        tree: any tree but a single leaf.
        separator: the text between keys; not empty, and without a backslash.

    Raises:
        ValueError: if two leaves would have the same name (because of keys such as 1 and "1"), the tree is a leaf, or the
            separator is empty or has a backslash.

    Example:
        >>> flatten_keys({"a": {"b": 1, "c": [2, 3]}})
        {'a.b': 1, 'a.c.0': 2, 'a.c.1': 3}
        >>> list(flatten_keys({"layer.0": {"weight": 1}}))
        ['layer\\\\.0.weight']
    """
    leaves(tree)  # raises if it is not a tree
    _check_separator("tree.flatten_keys", separator)
    if _entries(tree) is None and tree is not None:
        raise ValueError(f"tree.flatten_keys: the tree is {describe_leaf(tree)}, which has no key")
    result: dict[str, Any] = {}
    _flatten_keys(result, tree, [], separator)
    return result


def _flatten_keys(result: dict[str, Any], node: Any, keys: list[str], separator: str) -> None:
    entries = _entries(node)
    if entries is None:
        if node is not None:
            name = separator.join(keys)
            if name in result:
                raise ValueError(f"tree.flatten_keys: two leaves would be called {name!r}; give the keys of a dict one type")
            result[name] = node
        return
    for key in sorted(entries) if type(node) is dict else entries:
        escaped = str(key).replace("\\", "\\\\").replace(separator, f"\\{separator}")
        _flatten_keys(result, entries[key], [*keys, escaped], separator)


def unflatten_keys(flat: dict[str, Any], separator: str = ".") -> dict[str, Any]:
    """Return nested dicts from one whose keys are joined with a separator.

    It is the inverse of :func:`flatten_keys` for nested, non-empty dicts whose keys are strings.

    Args:
        flat: a dict with strings as keys; a separator or backslash after a backslash is part of a key.
        separator: the text between keys; not empty, and without a backslash.

    Raises:
        ValueError: if one key is the beginning of the path of another, or the separator is empty or has a backslash.

    Example:
        >>> unflatten_keys({"a.b": 1, "a.c": 2, "d": 3})
        {'a': {'b': 1, 'c': 2}, 'd': 3}
    """
    _check_separator("tree.unflatten_keys", separator)
    result = _Nested()
    for name, value in flat.items():
        _insert(result, tuple(_split(name, separator)), value, "tree.unflatten_keys")
    return _plain(result)


def _check_separator(what: str, separator: Any) -> None:
    if not isinstance(separator, str) or not separator or "\\" in separator:
        raise ValueError(f"{what}: separator: expected text that is not empty and has no backslash, got {separator!r}; take '.' or '/'")


def _split(name: str, separator: str) -> list[str]:
    """Return the keys of a name; a separator or backslash after a backslash is part of a key."""
    if "\\" not in name:
        return name.split(separator)
    keys, key, i = [], "", 0
    while i < len(name):
        escaped = next((part for part in (separator, "\\") if name.startswith(part, i + 1)), "") if name[i] == "\\" else ""
        if escaped:
            key, i = key + escaped, i + 1 + len(escaped)
        elif name.startswith(separator, i):
            keys, key, i = [*keys, key], "", i + len(separator)
        else:
            key, i = key + name[i], i + 1
    return [*keys, key]
