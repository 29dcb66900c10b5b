"""The contract of every return: batches, transforms and compiled programs give the same numbers."""

import pytest
import torch
from torch.func import grad, vmap

from funrl import compiler, returns, tree
from tests.returns.experience import experience, log_ratios


def inputs(steps=9, copies=4, dtype=torch.float64, seed=0):
    reward, value, next_value, terminated, truncated = experience(steps, copies, dtype, seed)
    return {
        "reward": reward,
        "value": value,
        "next_value": next_value,
        "terminated": terminated,
        "truncated": truncated,
        "log_ratio": log_ratios(reward, seed + 9),
    }


FLOW = ("reward", "next_value", "terminated", "truncated")
# Each as a function of named inputs and hyperparameters.
RETURNS = {
    "td0": lambda x, gamma, lambda_: returns.td0(x["reward"], x["next_value"], x["terminated"], gamma=gamma),
    "td1": lambda x, gamma, lambda_: returns.td1(*(x[n] for n in FLOW), gamma=gamma),
    "td_lambda": lambda x, gamma, lambda_: returns.td_lambda(*(x[n] for n in FLOW), gamma=gamma, lambda_=lambda_),
    "n_step": lambda x, gamma, lambda_: returns.n_step(*(x[n] for n in FLOW), gamma=gamma, n=3),
    "q_lambda": lambda x, gamma, lambda_: returns.q_lambda(
        *(x["reward"], torch.stack([x["next_value"], x["value"]], -1), x["terminated"], x["truncated"]),
        **{"gamma": gamma, "lambda_": lambda_},
    ),
    "reward_to_go": lambda x, gamma, lambda_: returns.reward_to_go(x["reward"], x["terminated"], x["truncated"], gamma=gamma),
    "gae": lambda x, gamma, lambda_: returns.gae(*(x[n] for n in ("reward", "value", *FLOW[1:])), gamma=gamma, lambda_=lambda_),
    "vtrace": lambda x, gamma, lambda_: returns.vtrace(
        *(x[n] for n in ("reward", "value", *FLOW[1:], "log_ratio")), gamma=gamma, lambda_=lambda_
    ),
    "retrace": lambda x, gamma, lambda_: returns.retrace(
        *(x[n] for n in ("reward", "value", *FLOW[1:], "log_ratio")), gamma=gamma, lambda_=lambda_
    ),
}
every = pytest.mark.parametrize("f", [pytest.param(f, id=name) for name, f in RETURNS.items()])


def test_every_return_is_here():
    assert RETURNS.keys() == set(returns.__all__)


def same(one, other, **tolerances):
    for x, y in zip(tree.leaves(one), tree.leaves(other), strict=True):
        torch.testing.assert_close(x, y, **tolerances)


@every
@pytest.mark.parametrize("shape", [(), (2, 2), (4, 1)])
def test_any_batch_dimensions(f, shape):
    flat = inputs() if shape else inputs(copies=1)
    shaped = tree.map(lambda x: x.reshape(9, *shape), flat)
    same(tree.map(lambda x: x.reshape(9, -1), f(shaped, 0.9, 0.8)), f(flat, 0.9, 0.8))


@every
def test_the_dtype_stays_and_hyperparameters_may_be_tensors(f):
    x = inputs(dtype=torch.float32)
    numbers, tensors = f(x, 0.9, 0.8), f(x, torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64))
    assert all(y.dtype == torch.float32 for y in tree.leaves((numbers, tensors)))
    same(numbers, tensors)
    for_each = f(x, torch.full((9, 4), 0.9), torch.full((4,), 0.8))
    same(numbers, for_each)


@every
def test_nothing_of_the_past_or_of_other_columns_is_used(f):
    """A step may depend on its own row and later ones of its episode alone."""
    x = inputs(steps=12)
    x["terminated"][5, 0], x["truncated"][8, 0] = True, True
    changed = tree.map(torch.clone, x)
    for name in ("reward", "value", "next_value", "log_ratio"):
        changed[name][6:9, 0] += 1.0
    moved = [(y != z).reshape(12, -1) for y, z in zip(tree.leaves(f(x, 0.9, 0.8)), tree.leaves(f(changed, 0.9, 0.8)), strict=True)]
    for y in moved:
        assert y[6:9, 0].any() and not y[:6, 0].any() and not y[9:, 0].any() and not y[:, 1:].any()


@every
def test_the_gradient(f):
    x = inputs(steps=5, copies=2)
    names = ("reward", "value", "next_value", "log_ratio")

    def outputs(*values):
        return tuple(tree.leaves(f({**x, **dict(zip(names, values, strict=True))}, 0.9, 0.8)))

    assert torch.autograd.gradcheck(outputs, tuple(x[name].clone().requires_grad_() for name in names))


def test_programs_agree_with_loops():
    """All of them vmapped over data and hyperparameters, and their gradients, in one compiled program."""
    agents = [inputs(seed=i, dtype=torch.float32) for i in range(3)]
    gammas, lambdas = torch.tensor([0.9, 0.99, 1.0]), torch.tensor([0.5, 0.95, 1.0])

    def total(reward, x, gamma, lambda_):
        return sum(y.square().sum() for f in RETURNS.values() for y in tree.leaves(f({**x, "reward": reward}, gamma, lambda_)))

    def one(x, gamma, lambda_):
        return {name: f(x, gamma, lambda_) for name, f in RETURNS.items()}, grad(total)(x["reward"], x, gamma, lambda_)

    expected = tree.stack([one(x, gammas[i], lambdas[i]) for i, x in enumerate(agents)])
    arguments = tree.stack(agents), gammas, lambdas
    same(vmap(one)(*arguments), expected, rtol=1e-4, atol=1e-5)
    same(compiler.compile(vmap(one), backend="aot_eager")(*arguments), expected, rtol=1e-4, atol=1e-5)
