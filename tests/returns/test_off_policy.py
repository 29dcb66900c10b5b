"""V-trace and Retrace, each in a file of its own, share their reductions and their oracles."""

import math

import chex
import numpy as np
import pytest
import torch
from torch.func import grad

from funrl import random
from funrl.returns import gae, q_lambda, retrace, td0, td_lambda, vtrace
from tests.oracles import returns
from tests.oracles.deepmind import rlax
from tests.returns.experience import experience, log_ratios


def consistent(**options):
    """Experience whose V(s') is the V(s) of the next step."""
    reward, value, _, terminated, truncated = experience(**options)
    return reward, value, torch.cat([value[1:], value[:1]]), terminated, truncated


def close(got, expected, tolerance):
    chex.assert_trees_all_close(got.double().numpy(), np.asarray(expected, np.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    "gamma, lambda_, clips", [(0.99, 1.0, (1.0, 1.0, 1.0)), (0.9, 0.6, (1.5, 0.8, 1.2)), (0.9, 1.0, (math.inf, math.inf, 1.0))]
)
def test_vtrace_agrees_with_the_naive_sum(gamma, lambda_, clips, dtype, tolerance):
    inputs = experience(dtype=dtype)
    log_ratio = log_ratios(inputs[0])
    names = ("rho_clip", "c_clip", "advantage_clip")
    got = vtrace(*inputs, log_ratio, gamma=gamma, lambda_=lambda_, **dict(zip(names, clips, strict=True)))
    tensors = vtrace(*inputs, log_ratio, gamma=gamma, lambda_=lambda_, **{n: torch.tensor(c) for n, c in zip(names, clips, strict=True)})
    expected = returns.vtrace(*(x.numpy() for x in inputs), log_ratio.exp().numpy(), gamma, lambda_, *clips)
    for x, y, want in zip(got, tensors, expected, strict=True):
        assert x.dtype == y.dtype == dtype
        close(x, want, tolerance)
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
def test_retrace_agrees_with_the_naive_sum(lambda_, dtype, tolerance):
    inputs = experience(dtype=dtype)
    log_ratio = log_ratios(inputs[0])
    got = retrace(*inputs, log_ratio, gamma=0.9, lambda_=lambda_)
    expected = returns.retrace(*(x.numpy() for x in inputs), log_ratio.exp().numpy(), 0.9, lambda_)
    assert got.dtype == dtype
    close(got, expected, tolerance)


def test_vtrace_agrees_with_rlax():
    reward, value, next_value, terminated, _ = (x[:, 0] for x in consistent(steps=20, dtype=torch.float32))
    log_ratio, discount = log_ratios(reward), 0.9 * (~terminated).float()
    got = vtrace(reward, value, next_value, terminated, torch.zeros_like(terminated), log_ratio, gamma=0.9, lambda_=0.8, rho_clip=1.2)
    arrays = (x.numpy() for x in (value, next_value, reward, discount, log_ratio.exp()))
    expected = rlax.vtrace_td_error_and_advantage(*arrays, lambda_=0.8, clip_rho_threshold=1.2)
    close(got[0], expected.pg_advantage, 1e-5)
    close(got[1] - value, expected.errors, 1e-5)


def test_retrace_agrees_with_rlax():
    """rlax shifts by one: it gives errors for all steps but the last, whose c and Q stand at the end of its arrays."""
    steps, actions = 20, 3
    keys = random.split(random.key(3), 4)
    q, logits = (random.normal(key, (steps, actions)) for key in keys[:2])
    action, behaviour = random.randint(keys[2], (steps,), 0, actions), random.uniform(keys[3], (steps,), 0.1, 1.0)
    reward, _, _, terminated, _ = (x[:, 0] for x in experience(steps=steps, dtype=torch.float32))
    policy = logits.softmax(-1)
    q_taken, taken = (x.gather(-1, action[:, None])[:, 0] for x in (q, policy))
    errors = rlax.retrace(
        *(x.numpy() for x in (q[:-1], q[1:], action[:-1], action[1:], reward[:-1], 0.9 * (~terminated).float()[:-1], policy[1:])),
        behaviour[1:].numpy(),
        0.8,
    )
    got = retrace(
        *(reward[:-1], q_taken[:-1], (policy * q).sum(-1)[1:], terminated[:-1], torch.zeros_like(terminated[:-1])),
        (taken / behaviour).log()[:-1],
        gamma=0.9,
        lambda_=0.8,
    )
    close(got - q_taken[:-1], errors, 1e-5)


def test_vtrace_on_policy_is_td_lambda_and_gae():
    inputs = consistent(steps=30)
    no_ratio = torch.zeros_like(inputs[0])
    advantage, target = vtrace(*inputs, no_ratio, gamma=0.9, lambda_=0.8)
    expected, _ = gae(*inputs, gamma=0.9, lambda_=0.8)
    torch.testing.assert_close(advantage, expected)
    reward, _, *rest = inputs
    torch.testing.assert_close(target, td_lambda(reward, *rest, gamma=0.9, lambda_=0.8))


def test_retrace_with_lambda_0_is_td0_and_on_policy_is_q_lambda():
    inputs = consistent(steps=30)
    reward, _, next_value, terminated, truncated = inputs
    got = retrace(*inputs, log_ratios(reward), gamma=0.9, lambda_=0.0)
    torch.testing.assert_close(got, td0(reward, next_value, terminated, gamma=0.9))
    # Where actions are greedy Q(s, a) is the maximum, and nothing is cut.
    got = retrace(*inputs, torch.full_like(reward, 3.0), gamma=0.9, lambda_=0.8)
    torch.testing.assert_close(got, q_lambda(reward, next_value[..., None], terminated, truncated, gamma=0.9, lambda_=0.8))


def test_extreme_ratios_give_finite_gradients():
    inputs = experience(dtype=torch.float32)
    log_ratio = torch.where(random.bernoulli(random.key(1), 0.5, (9, 4)), 500.0, -500.0)
    for f in (
        lambda x: sum(y.sum() for y in vtrace(*inputs, x, gamma=0.9)),
        lambda x: retrace(*inputs, x, gamma=0.9, lambda_=0.9).sum(),
    ):
        assert f(log_ratio).isfinite() and grad(f)(log_ratio).isfinite().all()


def test_a_value_that_is_not_used_may_be_anything():
    reward, value, next_value, terminated, truncated = experience()
    odd, log_ratio = torch.where(terminated, torch.nan, next_value), log_ratios(reward)
    for f in (
        lambda v: torch.stack(vtrace(reward, value, v, terminated, truncated, log_ratio, gamma=0.9)),
        lambda v: retrace(reward, value, v, terminated, truncated, log_ratio, gamma=0.9, lambda_=0.9),
    ):
        assert torch.equal(f(odd), f(next_value))


R, NO = torch.zeros(9, 4), torch.zeros(9, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: vtrace(R, R, R, NO, NO, R[:, :1], gamma=0.9), ValueError, r"vtrace: log_ratio: .* \[9, 4\] of reward, got \[9, 1\]"),
        (lambda: vtrace(R, R, R, NO, NO, R, gamma=0.9, rho_clip=0.0), ValueError, "vtrace: rho_clip: .* above 0, got 0.0; .*math.inf"),
        (lambda: vtrace(R, R, R, NO, NO, R, gamma=0.9, lambda_=2.0), ValueError, r"lambda_: .*\[0, 1\], got 2.0"),
        (lambda: vtrace(R, R, R, R, NO, R, gamma=0.9), TypeError, "terminated: expected a bool tensor"),
        (lambda: retrace(R, R[..., None], R, NO, NO, R, gamma=0.9, lambda_=1.0), ValueError, r"retrace: q_value: .* got \[9, 4, 1\]"),
        (lambda: retrace(R, R, R, NO, NO, R.long(), gamma=0.9, lambda_=1.0), TypeError, "retrace: log_ratio: .* got torch.int64"),
        (lambda: retrace(R, R, R, NO, NO, R, gamma=-0.1, lambda_=1.0), ValueError, "retrace: gamma: .* got -0.1"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
