"""Functions recorded as operations: what they compute, and when they stay as they are."""

import pytest
import torch

from funrl import distributions, nn, policies, random, tree
from funrl.collectors._traced import Traced

OBSERVATION = torch.linspace(-1, 1, 12).reshape(3, 4)


def categorical():
    return policies.stochastic(nn.mlp((8,), 2), distributions.Categorical)


def tanh_normal():
    net = distributions.normal_params(nn.mlp((8,), 4))
    return policies.stochastic(net, lambda loc, scale: distributions.Independent(distributions.TanhNormal(loc, scale), 1))


@pytest.mark.parametrize("make", [categorical, tanh_normal])
def test_it_computes_what_the_function_does(make):
    policy = make()
    params = policy.init(random.key(0), OBSERVATION[0])
    traced, mapped = Traced(policy.act), torch.func.vmap(policy.act, (None, 0, 0))
    assert traced.vmapped((None, 0, 0)) is traced.vmapped((None, 0, 0))
    for n in range(4):
        keys, seen = random.split(random.key(n), 3), OBSERVATION + n
        scaled = tree.map(lambda x, n=n: x * (n + 1), params)
        assert tree.allclose(traced.vmapped((None, 0, 0))(scaled, keys, seen), mapped(scaled, keys, seen), atol=1e-6)
        assert tree.allclose(traced(scaled, keys[0], seen[0]), policy.act(scaled, keys[0], seen[0]), atol=1e-6)
    assert traced.program is not None and traced.vmapped((None, 0, 0)).program is not None


def test_it_runs_without_the_function():
    calls = []

    def act(params, key, observation):
        calls.append(None)
        return observation * params, {}

    traced = Traced(act)
    for _ in range(3):
        traced(torch.tensor(2.0), random.key(0), OBSERVATION[0])
    recorded = len(calls)
    assert traced(torch.tensor(3.0), random.key(0), OBSERVATION[1])[0].tolist() == (OBSERVATION[1] * 3).tolist() and len(calls) == recorded


def test_what_depends_on_numbers_stays_a_function():
    def act(params, key, observation):
        return (torch.zeros(()) if observation[0] > 0 else torch.ones(())), {}

    traced = Traced(act)
    for first, action in ((1.0, 0.0), (-1.0, 1.0), (1.0, 0.0)):
        assert traced((), random.key(0), torch.tensor([first]))[0] == action
