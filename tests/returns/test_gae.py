import chex
import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from funrl import compiler
from funrl.returns import gae
from tests.oracles import advantages
from tests.oracles.deepmind import rlax
from tests.returns.experience import experience


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma, lambda_", [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5)])
def test_agrees_with_the_naive_loop(dtype, gamma, lambda_):
    inputs = experience(dtype=dtype)
    advantage, target = gae(*inputs, gamma=gamma, lambda_=lambda_)
    assert advantage.dtype == target.dtype == dtype
    expected = advantages.gae(*(x.numpy() for x in inputs), gamma, lambda_)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    chex.assert_trees_all_close(advantage.double().numpy(), expected, rtol=tolerance, atol=tolerance)
    chex.assert_trees_all_close(target.double().numpy(), expected + inputs[1].double().numpy(), rtol=tolerance, atol=tolerance)


def test_agrees_with_rlax():
    """rlax has one row of values and discounts, so there is no truncation, and V(s') is the value of the next step."""
    reward, value, last, terminated, _ = (x[:, 0] for x in experience(steps=12, dtype=torch.float32))
    values = torch.cat([value, last[-1:]])
    advantage, _ = gae(reward, value, values[1:], terminated, torch.zeros_like(terminated), gamma=0.97, lambda_=0.9)
    discount = 0.97 * (~terminated).float()
    expected = rlax.truncated_generalized_advantage_estimation(reward.numpy(), discount.numpy(), 0.9, values.numpy())
    chex.assert_trees_all_close(advantage.numpy(), np.asarray(expected), rtol=1e-4, atol=1e-5)


def test_lambda_0_is_the_td_error():
    reward, value, next_value, terminated, truncated = experience()
    advantage, target = gae(reward, value, next_value, terminated, truncated, gamma=0.9, lambda_=0.0)
    expected = reward + 0.9 * next_value * (~terminated)
    torch.testing.assert_close(target, expected)
    torch.testing.assert_close(advantage, expected - value)


def test_lambda_1_is_monte_carlo():
    """With V(s'_t) = V(s_{t+1}) the values between cancel: what remains are discounted rewards up to the end."""
    reward, value, _, terminated, truncated = experience(steps=30)
    next_value = torch.cat([value[1:], value[:1]])
    _, target = gae(reward, value, next_value, terminated, truncated, gamma=0.9, lambda_=1.0)
    total = next_value[-1]
    for t in reversed(range(30)):
        total = torch.where(truncated[t] | (t == 29), next_value[t], total)
        total = reward[t] + 0.9 * torch.where(terminated[t], 0.0, total)
        torch.testing.assert_close(target[t], total)


def test_by_hand():
    flags = torch.tensor([False, False, True]), torch.tensor([True, False, False])
    reward, value, next_value = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [4.0, 6.0, 9.0]])
    advantage, target = gae(reward, value, next_value, *flags, gamma=0.5, lambda_=0.5)
    assert torch.equal(advantage, torch.tensor([2.0, 4.5, 2.0]))
    assert torch.equal(target, torch.tensor([3.0, 5.5, 3.0]))


def test_a_value_that_is_not_used_may_be_anything():
    flags = torch.tensor([False, True]), torch.tensor([False, False])
    for odd in (torch.nan, torch.inf):
        advantage, _ = gae(torch.ones(2), torch.zeros(2), torch.tensor([0.0, odd]), *flags, gamma=1.0, lambda_=1.0)
        assert torch.equal(advantage, torch.tensor([2.0, 1.0]))


def test_discounts_may_be_tensors():
    inputs = experience()
    one = gae(*inputs, gamma=0.9, lambda_=0.8)
    for dtype in (torch.float32, torch.float64):
        two = gae(*inputs, gamma=torch.tensor(0.9, dtype=dtype), lambda_=torch.tensor(0.8, dtype=dtype))
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    gammas = torch.tensor([0.9, 0.5, 1.0, 0.0], dtype=torch.float64)
    single = experience(dtype=torch.float32)
    assert vmap(lambda g: gae(*single, gamma=g, lambda_=0.8)[0])(gammas).dtype == torch.float32
    for_each = torch.stack([gae(*(x[:, i] for x in inputs), gamma=gammas[i], lambda_=0.8)[0] for i in range(4)], 1)
    torch.testing.assert_close(gae(*inputs, gamma=gammas, lambda_=0.8)[0], for_each)


def test_differentiates_eagerly():
    inputs = experience(steps=4, copies=2)
    assert torch.autograd.gradcheck(
        lambda r, v, n: gae(r, v, n, *inputs[3:], gamma=0.9, lambda_=0.8), tuple(x.clone().requires_grad_() for x in inputs[:3])
    )
    assert grad(lambda r: gae(r, *inputs[1:], gamma=0.9, lambda_=0.8)[0].sum())(inputs[0]).isfinite().all()


def test_compiled_and_vmapped_agree_with_a_loop():
    inputs = tuple(torch.stack(column) for column in zip(*(experience(seed=i, dtype=torch.float32) for i in range(3)), strict=True))
    gammas, lambdas = torch.tensor([0.9, 0.99, 1.0]), torch.tensor([0.5, 0.95, 1.0])

    def estimate(gamma, lambda_, inputs):
        return gae(*inputs, gamma=gamma, lambda_=lambda_)

    loop = [estimate(gammas[i], lambdas[i], tuple(x[i] for x in inputs)) for i in range(3)]
    expected = [torch.stack(column) for column in zip(*loop, strict=True)]
    batched = vmap(estimate)(gammas, lambdas, inputs)
    compiled = compiler.compile(vmap(estimate), backend="aot_eager")(gammas, lambdas, inputs)
    for want, one, two in zip(expected, batched, compiled, strict=True):
        torch.testing.assert_close(one, want)
        torch.testing.assert_close(two, want)


def changed(i, x, **hyperparameters):
    inputs = list(experience(dtype=torch.float32))
    inputs[i] = x
    return lambda: gae(*inputs, **{"gamma": 0.9, "lambda_": 0.9} | hyperparameters)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (changed(1, torch.zeros(9, 4, 1)), ValueError, r"gae: value: expected the shape \[9, 4\] of reward, got \[9, 4, 1\]"),
        (changed(2, torch.zeros(10, 4)), ValueError, r"next_value.*got \[10, 4\]"),
        (changed(3, torch.zeros(9, 4)), TypeError, "terminated: expected a bool tensor, got torch.float32"),
        (changed(4, 0), TypeError, "truncated: expected a bool tensor, got an int"),
        (changed(0, torch.zeros(9, 4, dtype=torch.int64)), TypeError, "reward: expected a floating-point tensor, got torch.int64"),
        (changed(0, torch.zeros(9, 4), gamma=1.5), ValueError, r"gamma: expected a number in \[0, 1\], got 1.5"),
        (changed(0, torch.zeros(9, 4), lambda_=-0.1), ValueError, "lambda_"),
        (changed(0, torch.zeros(9, 4), gamma=torch.zeros(2, 9, 4)), ValueError, r"gamma.*got \[2, 9, 4\]"),
        (changed(0, torch.zeros(9, 4), gamma=torch.zeros(3)), ValueError, r"gamma.*got \[3\]"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_no_steps_are_an_error():
    no = torch.zeros(0, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="T at least 1"):
        gae(*[torch.zeros(0, 4)] * 3, no, no, gamma=0.9, lambda_=0.9)
