import math

import chex
import numpy as np
import pytest
import torch
from torch.func import grad

from funrl import random
from funrl.distributions import Delta, Normal, TanhDelta
from tests.oracles.deepmind import distrax

X = torch.tensor([0.5, -2.0, 0.0])


@pytest.mark.parametrize("atol, rtol", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.2)])
def test_agrees_with_distrax(atol, rtol):
    mine, theirs = Delta(X, atol, rtol), distrax.Deterministic(X.numpy(), atol=atol, rtol=rtol)
    for shift in (0.0, 0.05, 0.3):
        expected = np.asarray(theirs.log_prob((X + shift).numpy()))
        chex.assert_trees_all_close(mine.log_prob(X + shift).numpy(), expected)
    for got, expected in ((mine.entropy(), theirs.entropy()), (mine.mean(), theirs.mean()), (mine.stddev(), theirs.stddev())):
        chex.assert_trees_all_close(got.numpy(), np.asarray(expected))
    assert torch.equal(mine.mode(), X) and torch.equal(mine.sample(random.key(0)), X)
    assert torch.equal(mine.kl(Delta(X + torch.tensor([0.0, 1.0, 0.0]))), torch.tensor([0.0, math.inf, 0.0]))


def test_tanh_delta_is_squashed():
    mine = TanhDelta(X, (-1.0, 0.0, 2.0), 3.0)
    low, high = torch.tensor([-1.0, 0.0, 2.0]), torch.full((3,), 3.0)
    y = (high + low) / 2 + (high - low) / 2 * torch.tanh(X)
    torch.testing.assert_close(mine.sample(random.key(0)), y)
    assert (
        torch.equal(mine.mode(), mine.mean()) and torch.equal(mine.stddev(), torch.zeros(3)) and torch.equal(mine.entropy(), torch.zeros(3))
    )
    assert torch.equal(mine.log_prob(mine.mode()), torch.zeros(3)) and (mine.log_prob(y + 0.1) == -math.inf).all()
    assert torch.equal(mine.replace(atol=0.2).log_prob(y + 0.1), torch.zeros(3))
    extreme = TanhDelta(torch.tensor([20.0, -20.0, 1e30]), -0.1, 0.3)
    torch.testing.assert_close(extreme.mode(), torch.tensor([0.3, -0.1, 0.3]), rtol=0, atol=0)
    torch.testing.assert_close(grad(lambda u: TanhDelta(u, -2.0, 2.0).sample(random.key(0)).sum())(X), 2 / torch.cosh(X).square())
    assert torch.autograd.gradcheck(lambda u: TanhDelta(u).sample(random.key(0)), X.double().requires_grad_())


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Delta(torch.tensor([1])).mode(), TypeError, "Delta: loc: expected a floating-point tensor, got torch.int64"),
        (lambda: Delta(X).log_prob(torch.zeros(3, 1)), ValueError, r"x and loc.*got \[3, 1\] and \[3\]"),
        (lambda: Delta(X).kl(Normal(X, X.exp())), TypeError, "expected a Delta, got a Normal"),
        (lambda: TanhDelta(X).kl(Delta(X)), TypeError, "expected a TanhDelta, got a Delta"),
        (lambda: TanhDelta(X, 1.0, 1.0).mode(), ValueError, "TanhDelta: low and high: expected finite ends with low < high"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
