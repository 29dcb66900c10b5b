"""The TensorDict part of the TorchRL introduction: each example by its name."""

import pytest
import torch

from funrl import tree


@pytest.fixture
def made():
    return {"key 1": torch.zeros(5, 3), "key 2": torch.zeros(5, 5, 6, dtype=torch.bool)}


@pytest.fixture
def stacked():
    one = {"key 1": torch.zeros(5, 1), "key 2": torch.zeros(5, 5, 6, dtype=torch.bool)}
    return tree.stack([one, {"key 1": torch.ones(5, 1), "key 2": torch.ones(5, 5, 6, dtype=torch.bool)}])


def test_make(made):
    assert tree.batch_shape(made) == (5,)
    assert tree.describe(made).splitlines() == [
        "['key 1']  float32 [5, 3]  cpu",
        "['key 2']  bool [5, 5, 6]  cpu",
        "2 leaves, 165 numbers, 210 bytes",
    ]


def test_index(made):
    row = tree.index(made, 2)
    assert row["key 1"].shape == (3,) and row["key 2"].shape == (5, 6)
    assert tree.get(made, "key 1") is made["key 1"]


def test_stack(stacked):
    assert tree.batch_shape(stacked, 2) == (2, 5)
    assert stacked["key 1"].tolist() == [[[0.0]] * 5, [[1.0]] * 5]


def test_view(stacked):
    flat = tree.reshape(stacked, (-1,), batch_dims=2)
    assert tree.batch_shape(flat) == (10,) and flat["key 1"].shape == (10, 1)
    assert tree.equal(flat, tree.flatten_batch(stacked))


def test_permute(stacked):
    turned = tree.permute(stacked, (1, 0))
    assert tree.batch_shape(turned, 2) == (5, 2) and turned["key 1"].shape == (5, 2, 1) and turned["key 2"].shape == (5, 2, 5, 6)


def test_expand(stacked):
    wide = tree.expand(stacked, (3, *tree.batch_shape(stacked, 2)), batch_dims=2)
    assert tree.batch_shape(wide, 3) == (3, 2, 5) and wide["key 1"].shape == (3, 2, 5, 1)
    assert wide["key 1"].data_ptr() == stacked["key 1"].data_ptr()


def test_to(stacked):
    assert {str(x.device) for x in tree.leaves(tree.to(stacked, "cpu"))} == {"cpu"}


def test_pin_memory(stacked):
    assert tree.equal(tree.pin_memory(stacked), stacked)


def test_share(stacked):
    shared = tree.share_memory(stacked)
    assert all(x.is_shared() for x in tree.leaves(shared)) and not any(x.is_shared() for x in tree.leaves(stacked))
    assert tree.equal(shared, stacked) and tree.share_memory(shared)["key 1"] is shared["key 1"]
    assert tree.describe(shared).splitlines()[0] == "['key 1']  float32 [2, 5, 1]  cpu, shared"


def test_nested():
    value = {"key 1": torch.zeros(5, 3), "key 2": {"sub-key 1": torch.zeros(5, 2, 1)}}
    assert tree.batch_shape(value) == (5,) and tree.batch_shape(value["key 2"], 2) == (5, 2)
    assert tree.get(value, ("key 2", "sub-key 1")) is value["key 2"]["sub-key 1"]
    assert tree.index(value, 0)["key 2"]["sub-key 1"].shape == (2, 1)
