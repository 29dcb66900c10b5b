from typing import NamedTuple

import pytest
import torch

from funrl import compiler, tree


@tree.dataclass
class Node:
    """A node with a static field."""

    x: object
    y: object
    kind: str = tree.static(default="plain")


class Pair(NamedTuple):
    """A named tuple."""

    left: object
    right: object


VALUE = {"node": Node({"deep": 1}, 2, "odd"), "pair": Pair(3, [4, (5, None)]), "n": 6}


def test_get():
    for path, expected in {"n": 6, ("node", "x", "deep"): 1, ("pair", "right", 1, 0): 5, ("pair", "left"): 3, (): VALUE}.items():
        assert tree.get(VALUE, path) == expected
    assert tree.get(VALUE, "node") is VALUE["node"]


def test_update_leaves_the_rest_alone():
    new = tree.update(VALUE, ("node", "x", "deep"), 10)
    assert new["node"].x == {"deep": 10} and new["node"].kind == "odd" and new["pair"] is VALUE["pair"] and VALUE["node"].x == {"deep": 1}
    assert tree.update(VALUE, ("pair", "right", 1, 0), 50)["pair"] == Pair(3, [4, (50, None)])
    assert tree.update(VALUE, ("pair", "left"), {"a": 1})["pair"].left == {"a": 1}
    assert list(tree.update(VALUE, "new", 7)) == ["node", "pair", "n", "new"] and tree.update(VALUE, (), 1) == 1


def test_select_and_exclude():
    assert tree.select(VALUE, "n", ("node", "y"), ("pair", "right", 1)) == {"n": 6, "node": {"y": 2}, "pair": {"right": {1: (5, None)}}}
    assert tree.select(VALUE, "node")["node"] is VALUE["node"] and tree.select(VALUE) == {}
    rest = tree.exclude(VALUE, "n", ("node", "x"), ("pair", "right", 0))
    assert rest == {"node": {"y": 2}, "pair": Pair(3, {1: (5, None)})} and len(VALUE) == 3
    assert tree.exclude(VALUE) is VALUE


def test_rename_keeps_places():
    new = tree.rename({"a": {"b": 1, "c": 2}, "d": 3}, {"a": "z", ("a", "b"): "y"})
    assert list(new) == ["z", "d"] and list(new["z"].items()) == [("y", 1), ("c", 2)]
    assert tree.rename({"a": 1, "b": 2}, {"a": "b", "b": "a"}) == {"b": 1, "a": 2}
    assert tree.rename(VALUE, {("pair", "left"): "other"})["pair"] == {"other": 3, "right": [4, (5, None)]}


def test_flat_keys():
    flat = tree.flatten_keys(VALUE)
    assert flat == {"n": 6, "node.x.deep": 1, "node.y": 2, "pair.left": 3, "pair.right.0": 4, "pair.right.1.0": 5}
    assert list(flat.values()) == tree.leaves(VALUE)
    nested = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert tree.unflatten_keys(tree.flatten_keys(nested)) == nested
    assert tree.unflatten_keys(tree.flatten_keys(nested, "/"), "/") == nested and tree.flatten_keys({}) == {}


class Alike(str):
    """A key that is written like all others of its kind."""

    def __str__(self):
        return "alike"


@pytest.mark.parametrize("separator", [".", "/", "->"])
def test_flat_keys_are_those_of_one_tree_only(separator):
    keys = ["a", ".", "a.b", "a\\", "\\.", "a\\.b", "->", "a->b", "/", "..", "\\\\", "x/"]
    value = {key: {other: {key: i} for i, other in enumerate(keys)} for key in keys}
    flat = tree.flatten_keys(value, separator)
    assert len(flat) == len(keys) ** 2 and tree.unflatten_keys(flat, separator) == value
    assert tree.flatten_keys({"": {"a": 1}, "b": {"": 2}}) == {".a": 1, "b.": 2}


def test_parts_by_name_compile():
    def f(value):
        value = tree.update(value, ("a", "b"), tree.get(value, ("a", "b")) + 1)
        return tree.exclude(tree.rename(value, {"c": "d"}), ("a", "e")), tree.select(value, ("a", "b")), tree.flatten_keys(value)

    value = {"a": {"b": torch.ones(2), "e": torch.zeros(1)}, "c": torch.zeros(3)}
    assert tree.equal(compiler.compile(f, backend="aot_eager")(value), f(value))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tree.get(VALUE, "m"), "tree.get: there is no 'm'; the keys there are 'node', 'pair', 'n'"),
        (lambda: tree.get(VALUE, ("node", "kind")), r"tree.get: there is no \('node', 'kind'\); the keys there are 'x', 'y'"),
        (lambda: tree.get(VALUE, ("n", "x")), "tree.get: there is nothing below 'n', which is an int"),
        (lambda: tree.update(VALUE, ("node", "z"), 1), r"tree.update: there is no \('node', 'z'\)"),
        (lambda: tree.update(VALUE, ("a", "b"), 1), "tree.update: there is no 'a'"),
        (lambda: tree.select(VALUE, "node", ("node", "x")), r"tree.select: \('node', 'x'\) is a part of 'node', which is given too"),
        (lambda: tree.select(VALUE, ("node", "x"), "node"), "tree.select: 'node' is given twice, or a part of it is"),
        (lambda: tree.exclude(VALUE, ("node", "z")), "tree.get: there is no"),
        (lambda: tree.rename({"a": 1, "b": 2}, {"a": "b"}), "tree.rename: two parts of the root would have one key"),
        (lambda: tree.flatten_keys({Alike("a"): 1, Alike("b"): 2}), "two leaves would be called 'alike'; give the keys of a dict one type"),
        (lambda: tree.flatten_keys({"a": 1}, ""), r"flatten_keys: separator: expected text that is not empty and has no backslash, got ''"),
        (lambda: tree.unflatten_keys({"a": 1}, "\\\\"), "unflatten_keys: separator: expected text"),
        (lambda: tree.flatten_keys(torch.zeros(2)), r"the tree is float32 \[2\], which has no key"),
        (lambda: tree.unflatten_keys({"a": 1, "a.b": 2}), r"\('a', 'b'\) is a part of 'a'"),
        (lambda: tree.unflatten_keys({"a.b": 1, "a": 2}), "'a' is given twice"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
