import math

import chex
import numpy as np
import pytest
import torch
from torch.func import grad

from funrl import random
from funrl.returns import gae, n_step, q_lambda, reward_to_go, td0, td1, td_lambda
from tests.oracles import returns
from tests.oracles.deepmind import rlax
from tests.returns.experience import experience

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def steps(**options):
    """Return reward, next_value, terminated, truncated [T, B]."""
    reward, _, next_value, terminated, truncated = experience(**options)
    return reward, next_value, terminated, truncated


def close(got, expected, dtype=torch.float64):
    assert got.dtype == dtype
    chex.assert_trees_all_close(got.double().numpy(), np.asarray(expected, np.float64), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma, lambda_", [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5)])
def test_td_lambda_agrees_with_the_average_of_n_step_returns(gamma, lambda_, dtype):
    inputs = steps(dtype=dtype)
    got = td_lambda(*inputs, gamma=gamma, lambda_=lambda_)
    close(got, returns.td_lambda(*(x.numpy() for x in inputs), gamma, lambda_), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 9, 30])
def test_n_step_agrees_with_the_naive_sum(n, dtype):
    inputs = steps(dtype=dtype)
    close(n_step(*inputs, gamma=0.9, n=n), returns.n_step(*(x.numpy() for x in inputs), 0.9, n), dtype)


def test_reward_to_go_agrees_with_the_naive_sum():
    reward, _, *flags = steps()
    close(reward_to_go(reward, *flags, gamma=0.9), returns.reward_to_go(*(x.numpy() for x in (reward, *flags)), 0.9))


def test_td0_and_td1_agree_with_the_naive_sum():
    inputs = steps()
    arrays = [x.numpy() for x in inputs]
    close(td0(*inputs[:3], gamma=0.9), returns.n_step(*arrays, 0.9, 1))
    close(td1(*inputs, gamma=0.9), returns.n_step(*arrays, 0.9, len(arrays[0])))


def test_q_lambda_agrees_with_the_naive_sum():
    reward, _, *flags = steps()
    q = random.normal(random.key(5), (9, 4, 3), dtype=torch.float64)
    expected = returns.td_lambda(reward.numpy(), q.numpy().max(-1), *(x.numpy() for x in flags), 0.9, 0.6)
    close(q_lambda(reward, q, *flags, gamma=0.9, lambda_=0.6), expected)


def test_they_agree_with_rlax():
    """rlax has one discount for both flags, and lambda-returns that read no further than v_t: without truncation they are ours."""
    reward, next_value, terminated, _ = (x[:, 0] for x in steps(steps=20, dtype=torch.float32))
    never = torch.zeros_like(terminated)
    arrays = reward.numpy(), 0.9 * (~terminated).float().numpy(), next_value.numpy()
    close(td_lambda(reward, next_value, terminated, never, gamma=0.9, lambda_=0.7), rlax.lambda_returns(*arrays, 0.7), torch.float32)
    for n in (1, 3):
        got = n_step(reward, next_value, terminated, never, gamma=0.9, n=n)
        close(got, rlax.n_step_bootstrapped_returns(*arrays, n), torch.float32)
    got = reward_to_go(reward, terminated, never, gamma=0.9)
    close(got, rlax.discounted_returns(*arrays[:2], np.zeros_like(arrays[0])), torch.float32)
    q = random.normal(random.key(5), (20, 3))
    got = q_lambda(reward, q, terminated, never, gamma=0.9, lambda_=0.7)
    zeros = np.zeros((20, 3), np.float32)
    close(got, rlax.q_lambda(zeros, np.zeros(20, np.int32), *arrays[:2], q.numpy(), 0.7), torch.float32)


def test_the_ends_of_lambda_and_n():
    inputs = steps(steps=12)
    one_step, monte_carlo = td0(*inputs[:3], gamma=0.9), td1(*inputs, gamma=0.9)
    torch.testing.assert_close(td_lambda(*inputs, gamma=0.9, lambda_=0.0), one_step)
    torch.testing.assert_close(n_step(*inputs, gamma=0.9, n=1), one_step)
    torch.testing.assert_close(td_lambda(*inputs, gamma=0.9, lambda_=1.0), monte_carlo)
    torch.testing.assert_close(n_step(*inputs, gamma=0.9, n=12), monte_carlo)


def test_monte_carlo_of_whole_episodes_needs_no_value():
    reward, next_value, terminated, _ = steps(steps=12)
    terminated[-1] = True
    never = torch.zeros_like(terminated)
    torch.testing.assert_close(td1(reward, next_value, terminated, never, gamma=0.9), reward_to_go(reward, terminated, never, gamma=0.9))


def test_td_lambda_is_the_target_of_gae():
    reward, value, _, terminated, truncated = experience(steps=30)
    next_value = torch.cat([value[1:], value[:1]])
    _, target = gae(reward, value, next_value, terminated, truncated, gamma=0.9, lambda_=0.8)
    torch.testing.assert_close(td_lambda(reward, next_value, terminated, truncated, gamma=0.9, lambda_=0.8), target)


def test_watkins_is_a_lambda_for_each_step():
    """Cut before an action that was not greedy: two stretches that know nothing of each other."""
    reward, _, terminated, _ = steps()
    never = torch.zeros_like(terminated)
    q = random.normal(random.key(5), (9, 4, 3), dtype=torch.float64)
    lambda_ = torch.full_like(reward, 0.7)
    lambda_[3] = 0.0
    got = q_lambda(reward, q, terminated, never, gamma=0.9, lambda_=lambda_)
    parts = [q_lambda(reward[i], q[i], terminated[i], never[i], gamma=0.9, lambda_=0.7) for i in (slice(0, 4), slice(4, 9))]
    torch.testing.assert_close(got, torch.cat(parts))


def test_by_hand():
    reward, next_value = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    terminated, truncated = torch.tensor([False, True, False, False]), torch.tensor([False, False, True, False])
    inputs = reward, next_value, terminated, truncated
    assert torch.equal(td0(*inputs[:3], gamma=0.5), torch.tensor([6.0, 2.0, 18.0, 24.0]))
    assert torch.equal(td1(*inputs, gamma=0.5), torch.tensor([2.0, 2.0, 18.0, 24.0]))
    assert torch.equal(td_lambda(*inputs, gamma=0.5, lambda_=0.5), torch.tensor([4.0, 2.0, 18.0, 24.0]))
    assert torch.equal(reward_to_go(reward, terminated, truncated, gamma=0.5), torch.tensor([2.0, 2.0, 3.0, 4.0]))


def test_a_value_that_is_not_used_may_be_anything():
    reward, next_value, terminated, truncated = steps()
    odd = torch.where(terminated, torch.nan, next_value)
    for f in (
        lambda v: td0(reward, v, terminated, gamma=0.9),
        lambda v: td1(reward, v, terminated, truncated, gamma=0.9),
        lambda v: td_lambda(reward, v, terminated, truncated, gamma=0.9, lambda_=0.8),
        lambda v: n_step(reward, v, terminated, truncated, gamma=0.9, n=3),
        lambda v: q_lambda(reward, v[..., None], terminated, truncated, gamma=0.9, lambda_=0.8),
    ):
        assert torch.equal(f(odd), f(next_value))


R, Q, NO = torch.zeros(9, 4), torch.zeros(9, 4, 3), torch.zeros(9, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: td0(R, R[..., None], NO, gamma=0.9), ValueError, r"td0: next_value: .* \[9, 4\] of reward, got \[9, 4, 1\]; .*squeeze"),
        (lambda: td0(R, R, NO.float(), gamma=0.9), TypeError, "td0: terminated: expected a bool tensor, got torch.float32"),
        (lambda: td1(R, R, NO, NO[:, :1], gamma=0.9), ValueError, r"td1: truncated: .* got \[9, 1\]"),
        (lambda: td_lambda(R, R, NO, NO, gamma=1.1, lambda_=0.5), ValueError, r"td_lambda: gamma: .* got 1.1"),
        (lambda: td_lambda(R, R, NO, NO, gamma=0.9, lambda_=torch.zeros(3)), ValueError, r"lambda_: .* got \[3\]"),
        (lambda: n_step(R, R, NO, NO, gamma=0.9, n=0), ValueError, "n_step: n: expected at least 1, got 0"),
        (lambda: n_step(R, R, NO, NO, gamma=0.9, n=2.0), TypeError, "n_step: n: expected an integer, got 2.0"),
        (lambda: q_lambda(R, R, NO, NO, gamma=0.9, lambda_=0.5), ValueError, r"next_q_value: .*\[9, 4, 'A'\].* got \[9, 4\]; .*td_lambda"),
        (lambda: q_lambda(R, Q.int(), NO, NO, gamma=0.9, lambda_=0.5), TypeError, "next_q_value: .* got torch.int32"),
        (lambda: reward_to_go(R[0, 0], NO[0, 0], NO[0, 0], gamma=0.9), ValueError, "T at least 1"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_stands_for_the_successor_of_a_terminated_step_reaches_no_gradient():
    reward, terminated = torch.ones(2), torch.tensor([False, True])
    no, q = torch.zeros(2, dtype=torch.bool), torch.tensor([[1.0, 2.0], [math.nan, math.inf]])
    target = lambda q, lambda_: q_lambda(reward, q, terminated, no, gamma=0.9, lambda_=lambda_)  # noqa: E731
    torch.testing.assert_close(target(q, 0.5), torch.tensor([2.35, 1.0]))
    by_q, by_lambda = grad(lambda q, lambda_: target(q, lambda_).sum(), (0, 1))(q, torch.tensor(0.5))
    torch.testing.assert_close(by_q, torch.tensor([[0.0, 0.45], [0.0, 0.0]]))
    torch.testing.assert_close(by_lambda, torch.tensor(0.9 * (1.0 - 2.0)))
    slope = grad(lambda x: td_lambda(reward, q[:, 0], terminated, no, gamma=0.9, lambda_=x).sum())(torch.tensor(0.5))
    torch.testing.assert_close(slope, torch.tensor(0.0))
