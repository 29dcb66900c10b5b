from typing import NamedTuple

import pytest
import torch
from torch.func import vmap

from funrl import compiler, tree


@tree.dataclass
class Node:
    """A node with a static field."""

    x: torch.Tensor
    kind: str = tree.static(default="plain")


class Pair(NamedTuple):
    """A named tuple."""

    left: torch.Tensor
    right: torch.Tensor


def example(*batch):
    n = torch.Size(batch).numel()
    return {
        "a": torch.arange(float(n)).reshape(batch),
        "b": (torch.arange(n * 6).reshape(*batch, 2, 3), {"c": Node(torch.arange(n * 2.0).reshape(*batch, 2))}),
        "p": Pair(torch.zeros(*batch, 4), None),
    }


def leafwise(f, value):
    return tree.unflatten(tree.flatten(value)[1], [f(x) for x in tree.leaves(value)])


OPERATIONS = {
    "cat": (lambda t: tree.cat([t, t], 1), lambda x: torch.cat([x, x], 1)),
    "split": (lambda t: tree.split(t, [1, 3], 1)[1], lambda x: x.split([1, 3], 1)[1]),
    "split in parts": (lambda t: tree.split(t, 3, 1)[1], lambda x: x.split(3, 1)[1]),
    "unbind": (lambda t: tree.unbind(t, 1)[2], lambda x: x.unbind(1)[2]),
    "reshape": (lambda t: tree.reshape(t, (4, -1), batch_dims=2), lambda x: x.reshape(4, 3, *x.shape[2:])),
    "flatten_batch": (tree.flatten_batch, lambda x: x.flatten(0, 1)),
    "permute": (lambda t: tree.permute(t, (1, 0)), lambda x: x.movedim(1, 0)),
    "expand": (lambda t: tree.expand(t, (2, 3, 4), batch_dims=2), lambda x: x.expand(2, *x.shape)),
    "unsqueeze and expand": (
        lambda t: tree.expand(tree.unsqueeze(t, 1), (3, 7, 4), batch_dims=3),
        lambda x: x[:, None].expand(3, 7, *x.shape[1:]),
    ),
    "squeeze": (lambda t: tree.squeeze(tree.unsqueeze(t, 1), 1), lambda x: x),
    "index pair": (lambda t: tree.index(t, (slice(1, 3), 2)), lambda x: x[1:3, 2]),
    "index none": (lambda t: tree.index(t, (None, 1)), lambda x: x[None, 1]),
    "gather": (
        lambda t: tree.gather(t, torch.tensor([[3, 3], [0, 1], [2, 0]]), 1),
        lambda x: x[torch.arange(3)[:, None], torch.tensor([[3, 3], [0, 1], [2, 0]])],
    ),
    "gather rows": (lambda t: tree.gather(t, torch.tensor([2, 0])), lambda x: x[[2, 0]]),
    "set": (
        lambda t: tree.set(t, (1, slice(0, 2)), tree.map(lambda x: -x[0, :2], t)),
        lambda x: torch.cat([x[:1], torch.cat([-x[0, :2], x[1, 2:]])[None], x[2:]]),
    ),
    "contiguous": (lambda t: tree.contiguous(tree.permute(t, (1, 0))), lambda x: x.movedim(1, 0)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_eager_compiled_and_batched(name):
    f, expected = OPERATIONS[name]
    value = example(3, 4)
    kept = tree.clone(value)
    result = f(value)
    assert tree.equal(result, leafwise(expected, value))
    assert tree.equal(value, kept)
    assert tree.equal(compiler.compile(f, backend="aot_eager")(value), result)
    several = tree.stack([value, tree.map(lambda x: x + 1, value)])
    batched = vmap(lambda x: tree.leaves(f(tree.unflatten(tree.flatten(value)[1], x))))(tree.leaves(several))
    assert tree.equal([x[1] for x in batched], [expected(x[1]) for x in tree.leaves(several)])


def test_cat_and_split_and_unbind_and_stack_are_inverse():
    value = example(5, 2)
    assert tree.equal(tree.cat(tree.split(value, 2)), value)
    assert [tree.batch_shape(part)[0] for part in tree.split(value, 2)] == [2, 2, 1]
    assert tree.equal(tree.stack(tree.unbind(value)), value)


def test_masks():
    value = example(3)
    mask = torch.tensor([True, False, True])
    assert tree.equal(tree.index(value, mask), leafwise(lambda x: x[[0, 2]], value))
    changed = tree.set(value, mask, tree.map(torch.zeros_like, tree.index(value, mask)))
    assert not any(x[mask].any() for x in tree.leaves(changed)) and tree.equal(tree.index(changed, 1), tree.index(value, 1))


def test_batch_shape():
    assert tree.batch_shape(example(3, 4)) == (3, 4) and tree.batch_shape(example(3, 4), 1) == (3,)
    assert tree.batch_shape(example(2), 0) == ()
    assert tree.batch_shape({"a": torch.zeros(5, 3), "b": torch.zeros(5, 2)}) == (5,)
    assert tree.batch_shape({"a": torch.zeros(4), "b": torch.zeros(5)}) == () and tree.batch_shape(torch.zeros(2, 3)) == (2, 3)


NARROW = {"a": torch.zeros(3, 2), "b": [torch.zeros(3)]}
ODD = {"a": torch.zeros(3, 2), "b": [torch.zeros(4, 2)]}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tree.batch_shape(NARROW, 2), r"tree.batch_shape: leaf \['b'\]\[0\] is float32 \[3\]; expected at least 2 batch"),
        (
            lambda: tree.index(ODD, 1),
            r"tree.index: leaf \['b'\]\[0\] is float32 \[4, 2\]; expected a shape that begins with \[3\], as that of leaf \['a'\] does",
        ),
        (lambda: tree.index(NARROW, (0, 1)), r"tree.index: leaf \['b'\]\[0\] is float32 \[3\]"),
        (lambda: tree.index(NARROW, torch.zeros(3, 2, dtype=torch.bool)), r"leaf \['b'\]\[0\] is float32 \[3\]; expected at least 2"),
        (lambda: tree.set(ODD, 0, ODD), r"tree.set: leaf \['b'\]\[0\]"),
        (
            lambda: tree.set(NARROW, slice(0, 2), {"a": torch.zeros(2, 1), "b": [torch.zeros(2)]}),
            r"tree.set: values: leaf \['a'\] is float32 \[2, 1\], but in what they replace it is float32 \[2, 2\]",
        ),
        (lambda: tree.cat([NARROW, NARROW], 1), r"tree.cat: tree 0: leaf \['b'\]\[0\] is float32 \[3\]"),
        (
            lambda: tree.cat([{"a": torch.zeros(3, 2)}, {"a": torch.zeros(3, 4)}]),
            r"tree.cat: without dimension 0, tree 1: leaf \['a'\] is float32 \[0, 4\]",
        ),
        (lambda: tree.cat([]), "tree.cat: expected at least one tree"),
        (lambda: tree.cat([NARROW], -1), "tree.cat: dim is -1; expected a batch dimension, counted from the front"),
        (lambda: tree.split(NARROW, [1, 1]), r"tree.split: sizes are \[1, 1\]; expected sizes >= 0 that add up to 3"),
        (lambda: tree.split(NARROW, 0), "tree.split: size is 0"),
        (lambda: tree.unbind(NARROW, 1), r"tree.unbind: leaf \['b'\]\[0\]"),
        (lambda: tree.reshape(NARROW, (2, 2)), r"tree.reshape: cannot make \[2, 2\] of the batch dimensions \[3\]"),
        (lambda: tree.reshape(NARROW, (-1, -1)), r"tree.reshape: cannot make \[-1, -1\]"),
        (lambda: tree.reshape(NARROW, (6,), batch_dims=2), r"tree.reshape: leaf \['b'\]\[0\]"),
        (lambda: tree.flatten_batch(NARROW), r"tree.flatten_batch: leaf \['b'\]\[0\]"),
        (lambda: tree.permute(NARROW, (1, 0)), r"tree.permute: leaf \['b'\]\[0\]"),
        (lambda: tree.permute(NARROW, (1,)), r"tree.permute: dims is \(1,\); expected a permutation"),
        (lambda: tree.expand(NARROW, (2, 4)), r"tree.expand: the batch dimensions \[3\] do not expand to \[2, 4\]"),
        (lambda: tree.expand(ODD, (2, 3)), r"tree.expand: leaf \['b'\]\[0\]"),
        (lambda: tree.unsqueeze(NARROW, 2), r"tree.unsqueeze: leaf \['b'\]\[0\]"),
        (lambda: tree.squeeze(NARROW), "tree.squeeze: batch dimension 0 has size 3; expected 1"),
        (lambda: tree.gather(ODD, torch.tensor([0])), r"tree.gather: leaf \['b'\]\[0\]"),
        (lambda: tree.gather({"a": torch.zeros(2, 3)}, torch.tensor([0]), 1), r"indices: expected the shape \[2, 'M'\], got \[1\]"),
        (lambda: tree.batch_shape({}), "expected a tree with at least one leaf"),
    ],
)
def test_errors_name_the_leaf(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_type_errors():
    with pytest.raises(TypeError, match=r"tree.gather: indices: expected int64, got torch.int32"):
        tree.gather(NARROW, torch.tensor([0], dtype=torch.int32))
    with pytest.raises(TypeError, match=r"tree.index: i: expected an integer, slice or tensor, got the string 'a'; tree.get takes"):
        tree.index({"a": torch.zeros(2)}, "a")
    with pytest.raises(TypeError, match=r"tree.stack: trees: expected a list of trees, got a dict"):
        tree.stack({"a": torch.zeros(2)}, {"a": torch.zeros(2)})
    with pytest.raises(TypeError, match=r"tree.index: leaf \['a'\] is a float; expected a tensor"):
        tree.index({"a": 1.0}, 0)


@pytest.mark.parametrize("kind", ["tensor", "pair of tensors", "tensor and number", "slice", "number", "tensor and slice"])
def test_set_under_vmap_where_the_tree_is_shared(kind):
    i = torch.tensor([1, 3])
    at = {
        "tensor": lambda i: i,
        "pair of tensors": lambda i: (i, i - 1),
        "tensor and number": lambda i: (i, 2),
        "slice": lambda i: slice(1, 3),
        "number": lambda i: 2,
        "tensor and slice": lambda i: (i, slice(0, 2)),
    }[kind]
    shared = {"grid": torch.zeros(5, 4), "count": torch.zeros(5, 4, dtype=torch.int64)}

    def put(i, v):
        return tree.set(shared, at(i), tree.map(lambda x: torch.ones_like(x) * v.to(x.dtype), tree.index(shared, at(i))))

    v = torch.tensor([7.0, 8.0])
    expected = tree.stack([put(i[k], v[k]) for k in range(2)])
    assert tree.equal(vmap(put)(i, v), expected) and not shared["grid"].any()
    assert expected["grid"].sum(tuple(range(1, 3))).tolist() == [
        7.0 * expected["count"][0].count_nonzero(),
        8.0 * (expected["grid"][1] > 0).sum(),
    ]
