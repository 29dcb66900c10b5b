import dataclasses
from collections import OrderedDict, defaultdict, deque
from typing import NamedTuple

import chex
import numpy as np
import optree
import pytest
import torch
from torch.func import grad, vmap
from torch.utils import _pytree as torch_pytree

from funrl import compiler, random, tree


@tree.dataclass
class Inner:
    """A node inside another."""

    x: torch.Tensor
    kind: str = tree.static(default="plain")


@tree.dataclass
class Outer:
    """A node with a static field between its data."""

    first: Inner
    size: int = tree.static()
    second: dict = dataclasses.field(default_factory=dict)


class Pair(NamedTuple):
    """A named tuple."""

    left: torch.Tensor
    right: torch.Tensor


def example():
    numbers = iter(range(1, 100))
    x = lambda *shape: torch.full(shape, float(next(numbers)))  # noqa: E731
    return {
        "outer": Outer(first=Inner(x(3), kind="round"), size=2, second={"b": x(3, 2), "a": x(3)}),
        "list": [x(3), (x(3, 1), None)],
        "pair": Pair(x(3), {"deep": x(3)}),
        "none": None,
        "empty": (),
    }


PATHS = [
    "['list'][0]",
    "['list'][1][0]",
    "['outer'].first.x",
    "['outer'].second['a']",
    "['outer'].second['b']",
    "['pair'].left",
    "['pair'].right['deep']",
]


def same(one, other):
    assert tree.structure(one) == tree.structure(other)
    chex.assert_trees_all_equal([x.numpy() for x in tree.leaves(one)], [x.numpy() for x in tree.leaves(other)])
    assert [x.dtype for x in tree.leaves(one)] == [x.dtype for x in tree.leaves(other)]


def compiled(f):
    return compiler.compile(f, backend="aot_eager")


def both(f, *args):
    """Call ``f`` eagerly and compiled, see that the two agree, and return the eager result."""
    expected = f(*args)
    same(compiled(f)(*args), expected)
    return expected


def test_leaves_come_in_the_order_of_optree_with_their_paths():
    value = example()
    assert tree.paths(value) == PATHS
    assert [x is y for x, y in zip(tree.leaves(value), optree.tree_leaves(value), strict=True)] == [True] * len(PATHS)
    torch_paths = [torch_pytree.keystr(path) for path, x in torch_pytree.tree_flatten_with_path(value)[0] if x is not None]
    assert sorted(torch_paths) == sorted(PATHS)
    assert optree.tree_paths(value)[2] == ("outer", "first", "x")


class Words(dict):
    """A dict of a class of its own."""


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda x: OrderedDict(a=x), "an OrderedDict"),
        (lambda x: defaultdict(list, a=x), "a defaultdict"),
        (lambda x: deque([x]), "a deque"),
        (lambda x: torch.max(x, 0), "a torch.return_types.max"),
        (lambda x: Words(a=x), f"a {__name__}.Words"),
        (lambda x: x.shape, "a torch.Size"),
    ],
)
def test_other_containers_are_no_trees(make, name):
    value = {"in": [make(torch.ones(2, 2))]}
    functions = (tree.leaves, tree.flatten, tree.structure, tree.paths, tree.describe, lambda t: tree.map(torch.neg, t))
    for f in (*functions, lambda t: tree.map(torch.add, t, t)):
        with pytest.raises(TypeError, match=f"tree: {name} is not a tree; use dict, list, tuple, NamedTuple or a funrl.tree.dataclass"):
            f(value)


def test_a_class_that_optree_takes_apart_everywhere_is_no_leaf():
    kind = type("Everywhere", (), {})
    optree.register_pytree_node(kind, lambda x: ((1, 2), None), lambda _, children: kind(), namespace=optree.registry.__GLOBAL_NAMESPACE)
    try:
        for f in (tree.flatten, tree.structure, tree.paths, lambda t: tree.map(torch.add, t, t)):
            with pytest.raises(TypeError, match="tree: Everywhere: expected leaves, got a class that is registered with optree"):
                f([kind(), torch.ones(2)])
    finally:
        optree.unregister_pytree_node(kind, namespace=optree.registry.__GLOBAL_NAMESPACE)


def test_leaves_and_map_walk_as_flatten_does():
    value = example()
    assert all(x is y for x, y in zip(tree.leaves(value), tree.flatten(value)[0], strict=True))
    parameter = torch.nn.Parameter(torch.ones(2))
    assert tree.leaves([parameter, "word", 3, torch.float32]) == tree.flatten([parameter, "word", 3, torch.float32])[0]
    for f in (lambda x: x, torch.neg):
        same(tree.map(f, value), tree.unflatten(tree.flatten(value)[1], [f(x) for x in tree.leaves(value)]))
    seen = []
    again = tree.map(lambda x: seen.append(x) or x, value)
    assert all(x is y for x, y in zip(seen, tree.leaves(value), strict=True))
    assert list(again) == list(value) and list(again["outer"].second) == ["b", "a"]


def test_unflatten_inverts_flatten():
    value = example()
    values, form = tree.flatten(value)
    again = tree.unflatten(form, values)
    same(again, value)
    assert list(again) == list(value) and list(again["outer"].second) == ["b", "a"]  # dicts keep their order
    assert type(again["pair"]) is Pair and type(again["list"]) is list and type(again["list"][1]) is tuple
    assert again["none"] is None and again["list"][1][1] is None and again["empty"] == ()
    assert again["outer"].size == 2 and again["outer"].first.kind == "round"
    assert tree.flatten(None) == ([], tree.flatten(None)[1]) and tree.unflatten(tree.flatten(None)[1], []) is None
    leaf = torch.zeros(2)
    assert tree.unflatten(tree.flatten(leaf)[1], [leaf]) is leaf and tree.paths(leaf) == ["(the whole tree)"]


def test_structures():
    a, b = torch.zeros(()), torch.ones(())
    assert tree.structure({"x": a, "y": b}) == tree.structure({"y": a, "x": b})
    different = [
        {"x": a},
        {"x": a, "y": b},
        [a],
        (a,),
        Pair(a, b),
        (a, b),
        [a, b],
        Inner(a),
        Inner(a, "other"),
        {"x": None},
        {"x": ()},
        a,
        None,
    ]
    for i, one in enumerate(different):
        for j, other in enumerate(different):
            assert (tree.structure(one) == tree.structure(other)) == (i == j)
    assert hash(tree.structure(example())) == hash(tree.structure(example()))


def test_dataclass_is_frozen_and_compares_by_identity():
    inner = Inner(torch.zeros(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        inner.x = torch.ones(2)
    assert inner == inner and inner != Inner(inner.x) and hash(inner) != hash(Inner(inner.x))
    changed = inner.replace(x=torch.ones(2))
    assert torch.equal(changed.x, torch.ones(2)) and changed.kind == "plain" and torch.equal(inner.x, torch.zeros(2))
    assert inner.replace(kind="odd").kind == "odd"
    with pytest.raises(TypeError, match="y"):
        inner.replace(y=1)


def test_dataclass_refuses_post_init():
    with pytest.raises(TypeError, match=r"Bad has a __post_init__.*move it to a function"):

        @tree.dataclass
        class Bad:
            x: torch.Tensor

            def __post_init__(self):
                pass


def test_dataclass_in_optree_and_in_torch():
    value = Outer(Inner(torch.arange(3.0), kind="round"), 2, {"b": torch.ones(3, 2), "a": torch.zeros(3)})
    doubled = optree.tree_map(lambda x: 2 * x, value)
    assert isinstance(doubled, Outer) and doubled.size == 2 and doubled.first.kind == "round"
    same(doubled, tree.map(lambda x: 2 * x, value))
    same(torch_pytree.tree_map(lambda x: 2 * x, value), doubled)
    same(vmap(lambda node: tree.map(lambda x: 2 * x, node))(value), doubled)
    same(vmap(lambda node: node.replace(size=2), in_dims=(Outer(0, 2, {"b": None, "a": 0}),))(value).second["a"], value.second["a"])
    slope = grad(lambda node: (node.first.x.square()).sum() + node.second["b"].sum())(value)
    assert isinstance(slope, Outer) and slope.first.kind == "round"
    same((slope.first.x, slope.second["b"]), (2 * value.first.x, torch.ones(3, 2)))


def test_dataclass_is_built_in_compiled_programs():
    def f(node):
        return node.replace(first=Inner(node.first.x + 1, kind="square"), second={"c": node.second["a"]})

    result = both(f, Outer(Inner(torch.arange(3.0)), 5, {"a": torch.ones(3)}))
    assert result.first.kind == "square" and result.size == 5 and list(result.second) == ["c"]


def test_map():
    value = example()
    kept = tree.map(torch.clone, value)
    same(both(lambda t: tree.map(lambda x: x + 1, t), value), tree.unflatten(tree.flatten(value)[1], [x + 1 for x in tree.leaves(value)]))
    same(both(lambda t: tree.map(lambda x, y, z: x + y * z, t, t, t), value), tree.map(lambda x: x + x * x, value))
    same(value, kept)
    assert tree.map(lambda x: x, None) is None
    # Entries are matched by key and not by place; the first tree's order is kept.
    assert list(tree.map(lambda x, y: x - y, {"b": 2, "a": 1}, {"a": 1, "b": 2}).items()) == [("b", 0), ("a", 0)]


@pytest.mark.parametrize(
    "other, message",
    [
        ({"a": 1}, r"tree.map: tree number 3 has another structure than the first: it has no leaf \['b'\]\.x"),
        ({"a": 1, "b": Inner(1), "c": [2, 3]}, r"its leaf \['c'\]\[0\] is new"),
        ({"a": 1, "b": {"x": 1}}, r"it has no leaf \['b'\]\.x; its leaf \['b'\]\['x'\] is new"),
        ({"a": 1, "b": Inner(1, "odd")}, "the types of nodes, or static fields, differ"),
        (1, r"it has no leaf \['a'\]; its leaf \(the whole tree\) is new"),
    ],
)
def test_map_refuses_other_structures(other, message):
    value = {"a": 1, "b": Inner(1)}
    with pytest.raises(ValueError, match=message):
        tree.map(lambda x, y, z: x, value, value, other)


def test_stack_and_index_are_inverse():
    trees = [tree.map(lambda x, i=i: x + i, example()) for i in range(4)]
    for dim in (0, 1, -1):
        stacked = both(lambda *ts, dim=dim: tree.stack(ts, dim), *trees)
        for x, y in zip(tree.leaves(stacked), zip(*[tree.leaves(t) for t in trees], strict=True), strict=True):
            assert torch.equal(x, torch.stack(y, dim))
    stacked = tree.stack(trees)
    for i, value in enumerate(trees):
        same(tree.index(stacked, i), value)
    same(both(lambda t: tree.index(t, torch.tensor([2, 0])), stacked), tree.stack([trees[2], trees[0]]))
    some = vmap(lambda i: tree.leaves(tree.index(stacked, i)))(torch.tensor([1, 3]))  # vmap refuses to return None
    same(some, tree.leaves(tree.stack([trees[1], trees[3]])))
    same(tree.index(stacked, slice(1, 3)), tree.stack(trees[1:3]))
    same(tree.stack(iter(trees)), stacked)


@pytest.mark.parametrize(
    "trees, message",
    [
        ([], "at least one tree"),
        (
            [{"a": torch.zeros(2)}, {"a": torch.zeros(2)}, {"a": torch.zeros(3)}],
            r"tree 2: leaf \['a'\] is float32 \[3\], but in tree 0 it is float32 \[2\]",
        ),
        (
            [{"a": torch.zeros(2)}, {"b": torch.zeros(2)}],
            r"tree 1 has another structure than tree 0: it has no leaf \['a'\]; its leaf \['b'\] is new",
        ),
    ],
)
def test_stack_errors(trees, message):
    with pytest.raises(ValueError, match=message):
        tree.stack(trees)


def test_set():
    value = example()
    stacked = tree.stack([value] * 3)
    kept = tree.map(torch.clone, stacked)
    changed = both(lambda t, v: tree.set(t, 1, v), stacked, tree.map(lambda x: -x, value))
    same(stacked, kept)
    same(tree.index(changed, 1), tree.map(lambda x: -x, value))
    same(tree.index(changed, torch.tensor([0, 2])), tree.stack([value] * 2))
    rows = torch.tensor([2, 0])
    changed = both(lambda t, i, v: tree.set(t, i, v), stacked, rows, tree.stack([tree.map(torch.zeros_like, value)] * 2))
    same(tree.index(changed, 1), value)
    assert not any(x[rows].any() for x in tree.leaves(changed))
    batched = vmap(lambda t, v: tree.set(t, 0, v))({"a": torch.zeros(2, 3)}, {"a": torch.tensor([1.0, 2.0])})
    same(batched, {"a": torch.tensor([[1.0, 0, 0], [2, 0, 0]])})
    with pytest.raises(ValueError, match=r"tree.set: values has another structure than what they replace: it has no leaf \['list'\]"):
        tree.set(stacked, 0, {"a": torch.zeros(3)})


def test_reshape():
    value = {"a": torch.arange(24.0).reshape(6, 4), "b": torch.arange(6)}
    result = both(lambda t: tree.reshape(t, (2, -1)), value)
    same(result, {"a": value["a"].reshape(2, 3, 4), "b": value["b"].reshape(2, 3)})
    same(both(lambda t: tree.reshape(t, (6,), batch_dims=2), result), value)
    same(vmap(lambda t: tree.reshape(t, (3, 1)))(result), {"a": value["a"].reshape(2, 3, 1, 4), "b": value["b"].reshape(2, 3, 1)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where(dtype):
    yes = {"row": torch.ones(3, 2, dtype=dtype), "one": torch.ones(3, dtype=dtype)}
    no = tree.map(torch.zeros_like, yes)
    condition = torch.tensor([True, False, True])
    expected = {"row": torch.tensor([[1, 1], [0, 0], [1, 1]], dtype=dtype), "one": torch.tensor([1, 0, 1], dtype=dtype)}
    same(both(tree.where, condition, yes, no), expected)
    same(both(vmap(tree.where), condition, yes, no), expected)
    same(tree.where(torch.tensor(True), yes, no), yes)
    # What is not chosen does not spoil the gradient.
    slope = grad(lambda x: tree.where(x > 0, {"a": x * 2}, {"a": x * 3})["a"].sum())
    assert torch.equal(slope(torch.tensor([1.0, -1.0])), torch.tensor([2.0, 3.0]))


def test_where_errors_name_the_leaf():
    yes = {"a": torch.ones(2), "b": [torch.ones(3, 2)]}
    with pytest.raises(ValueError, match=r"leaf \['b'\]\[0\] is float32 .*\[3, 2\].*begins with that of the condition, \[2\]"):
        tree.where(torch.tensor([True, False]), yes, yes)
    with pytest.raises(ValueError, match=r"no: leaf \['a'\] is float32 \[1\], but in yes it is float32 \[2\]"):
        tree.where(torch.tensor(True), yes, {"a": torch.ones(1), "b": yes["b"]})
    with pytest.raises(ValueError, match=r"no leaf \['a'\]"):
        tree.where(torch.tensor(True), yes, {"b": yes["b"]})


def test_to():
    value = {"x": torch.ones(2), "n": torch.tensor([1, 2]), "flag": torch.tensor(True), "key": random.key(0)}
    cast = both(lambda t: tree.to(t, torch.float64), value)
    assert {name: x.dtype for name, x in cast.items()} == {"x": torch.float64, "n": torch.int64, "flag": torch.bool, "key": torch.int64}
    same(tree.to(cast, torch.float32), value)
    same(tree.to(value, "cpu"), value)
    assert all(x.device.type == "meta" for x in tree.leaves(tree.to(value, torch.device("meta"))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ravel(dtype):
    value = tree.to({"w": random.normal(random.key(0), (3, 2)), "b": (random.normal(random.key(1), (2,)), torch.tensor(1.0))}, dtype)
    vector, unravel = tree.ravel(value)
    assert vector.dtype == dtype and torch.equal(vector, torch.cat([value["b"][0], value["b"][1][None], value["w"].reshape(-1)]))
    same(unravel(vector), value)

    def round_trip(t):
        vector, unravel = tree.ravel(t)
        return unravel(2 * vector)

    same(both(round_trip, value), tree.map(lambda x: 2 * x, value))

    def loss(vector, x):
        p = unravel(vector)
        return ((x @ p["w"] + p["b"][0]) * p["b"][1]).square().sum()

    x = random.normal(random.key(2), (3,), dtype=dtype)
    slope = both(grad(loss), vector, x)
    direct = grad(lambda p: ((x @ p["w"] + p["b"][0]) * p["b"][1]).square().sum())(value)
    torch.testing.assert_close(slope, tree.ravel(direct)[0])
    stacked = tree.stack([value, tree.map(torch.neg, value)])
    assert torch.equal(both(vmap(lambda t: tree.ravel(t)[0]), stacked), torch.stack([vector, -vector]))
    same(vmap(unravel)(torch.stack([vector, -vector])), stacked)
    same(tree.ravel(vector)[1](vector), vector)


def test_ravel_errors():
    with pytest.raises(ValueError, match="at least one leaf"):
        tree.ravel({"a": None})
    with pytest.raises(ValueError, match=r"torch.float32, torch.int64; cast with tree.to"):
        tree.ravel([torch.zeros(1), torch.tensor(1)])
    with pytest.raises(ValueError, match=r"expected a vector of shape \[3\], got \[4\]"):
        tree.ravel(torch.zeros(3))[1](torch.zeros(4))


def test_describe():
    text = tree.describe({"net": [Inner(torch.zeros(3, 2, dtype=torch.float64))], "n": torch.tensor(1), "name": "x"})
    rows = text.splitlines()
    assert [row.split() for row in rows[:3]] == [
        ["['n']", "int64", "[]", "cpu"],
        ["['name']", "str", "-"],
        ["['net'][0].x", "float64", "[3,", "2]", "cpu"],
    ]
    assert rows[3] == "3 leaves, 7 numbers, 56 bytes"
    assert tree.describe(()) == "0 leaves, 0 numbers, 0 bytes"


def test_check_like():
    value = {"a": torch.zeros(2), "b": Inner(torch.zeros(3))}
    tree.check_like(tree.map(torch.ones_like, value), value, "new", "old")
    tree.check_like(tree.to(value, torch.float64), value, "new", "old", dtypes=False)
    with pytest.raises(ValueError, match=r"new: leaf \['a'\] is float64 \[2\], but in old it is float32 \[2\]"):
        tree.check_like(tree.to(value, torch.float64), value, "new", "old")
    with pytest.raises(ValueError, match=r"new: leaf \['b'\]\.x is float32 \[4\], but in old it is float32 \[3\]"):
        tree.check_like({**value, "b": Inner(torch.zeros(4))}, value, "new", "old")
    with pytest.raises(ValueError, match=r"new: leaf \['a'\] is a float, but in old it is float32 \[2\]"):
        tree.check_like({**value, "a": 1.0}, value, "new", "old")
    with pytest.raises(ValueError, match="new has another structure than old: the types of nodes, or static fields, differ"):
        tree.check_like({**value, "b": Inner(torch.zeros(3), "odd")}, value, "new", "old")


def test_a_class_of_the_same_name_is_another_class():
    def make():
        @tree.dataclass
        class Local:
            x: torch.Tensor

        return Local

    one, other = make(), make()
    assert tree.structure(one(torch.zeros(1))) != tree.structure(other(torch.zeros(1)))
    result = both(lambda a, b: (tree.map(torch.neg, a), tree.map(torch.neg, b)), one(torch.ones(1)), other(torch.ones(1)))
    assert type(result[0]) is one and type(result[1]) is other
    assert np.array_equal(result[0].x, [-1])


def test_a_class_that_only_inherits_from_a_dataclass_is_refused():
    """Its fields, or its type, were lost in silence."""

    @dataclasses.dataclass(frozen=True, eq=False)
    class Child(Inner):
        more: int = 0

    class Named(Inner):
        pass

    for kind in (Child, Named):
        node = kind(torch.ones(2))
        for f in (tree.leaves, tree.flatten, lambda x: tree.map(lambda y: y, x), lambda x: x.replace(x=torch.zeros(2))):
            with pytest.raises(TypeError, match=rf"{kind.__name__} inherits from Inner.*put @tree.dataclass above class {kind.__name__}"):
                f(node)
    whole = tree.dataclass(Named)(torch.ones(2))
    assert type(tree.map(lambda x: x, whole)) is type(whole)


def test_dataclass_refuses_what_it_could_not_copy():
    with pytest.raises(TypeError, match=r"Own defines __init__.*move it to a function"):

        @tree.dataclass
        class Own:
            x: torch.Tensor

            def __init__(self, n):
                pass

    with pytest.raises(TypeError, match=r"Lazy: field 't': .*got init=False"):

        @tree.dataclass
        class Lazy:
            x: torch.Tensor
            t: object = dataclasses.field(init=False, default=0)


def test_a_long_repr_is_shortened_to_a_line_for_each_field():
    import funrl

    algo = funrl.algos.dqn.make(funrl.envs.make("CartPole-v1"), num_envs=8)
    state = algo.init(funrl.random.key(0))
    lines = repr(state).splitlines()
    assert lines[0] == "State(" and lines[1].startswith("  actor=ActorState of ") and lines[-1] == ")" and len(lines) == 4
    lines = repr(state.learner).splitlines()
    assert len(lines) <= 20 and max(map(len, lines)) < 120 and lines[0] == "LearnerState(" and lines[-1] == ")"
    assert all(any(line.startswith(f"  {name}=") for line in lines) for name in ("params", "optimizer", "buffer"))

    @tree.dataclass
    class Own:
        x: torch.Tensor

        def __repr__(self):
            return "own"

    assert repr(Own(torch.zeros(1000, 3))) == "own"
