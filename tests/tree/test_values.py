import chex
import numpy as np
import pytest
import torch

from funrl import tree

VALUE = {"x": torch.tensor([3.0, 4.0]), "n": [torch.tensor([1, 2]), torch.tensor(True)]}


def test_clone_contiguous_zeros_and_bytes():
    copy = tree.clone(VALUE)
    assert tree.equal(copy, VALUE) and not {x.data_ptr() for x in tree.leaves(copy)} & {x.data_ptr() for x in tree.leaves(VALUE)}
    zeros = tree.zeros_like({"a": torch.ones(3, 2, dtype=torch.float64).T})
    assert zeros["a"].is_contiguous() and zeros["a"].dtype == torch.float64 and not zeros["a"].any()
    assert tree.nbytes(VALUE) == 8 + 16 + 1 and tree.nbytes(()) == 0
    assert tree.contiguous(VALUE)["x"] is VALUE["x"]


def test_equal_and_allclose():
    near = tree.map(lambda x: x + 1e-6 if x.is_floating_point() else x, VALUE)
    assert tree.allclose(near, VALUE) and not tree.equal(near, VALUE)
    chex.assert_trees_all_close(*[[x.numpy() for x in tree.leaves(t)] for t in (near, VALUE)], atol=1e-5)
    others = [
        {**VALUE, "x": torch.tensor([3.0, 5.0])},
        {**VALUE, "x": torch.tensor([3.0, 4.0], dtype=torch.float64)},
        {**VALUE, "x": torch.tensor([3.0])},
        {"x": VALUE["x"]},
        {**VALUE, "n": tuple(VALUE["n"])},
        {**VALUE, "n": [torch.tensor([1, 3]), torch.tensor(True)]},
    ]
    for other in others:
        assert not tree.equal(other, VALUE) and not tree.allclose(other, VALUE, atol=1e-3)
    nan = torch.tensor([torch.nan])
    assert not tree.equal(nan, nan) and not tree.allclose(nan, nan)


def test_global_norm_is_that_of_the_ravelled_tree():
    value = {"a": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), "b": torch.tensor(2.0)}
    expected = np.linalg.norm(tree.ravel(value)[0].numpy())
    np.testing.assert_allclose(tree.global_norm(value), expected, rtol=1e-6)
    assert torch.func.grad(tree.global_norm)({"a": torch.zeros(2), "b": torch.zeros(3)})["a"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="at least one leaf"):
        tree.global_norm({})
