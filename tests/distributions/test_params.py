import math

import chex
import pytest
import torch
from torch.func import grad, vmap

from funrl import nn, random
from funrl.distributions import normal_params

KEY = random.key(0)
IDENTITY = nn.sequential(lambda x: x)
MAPPINGS = {
    "biased_softplus": lambda x: math.log1p(math.exp(x + math.log(math.expm1(1 - 1e-4)))),
    "softplus": lambda x: math.log1p(math.exp(x)),
    "exp": math.exp,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "relu": lambda x: max(x, 0.0),
}


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_mappings(mapping):
    x = torch.tensor([[1.0, 2.0, -3.0, 0.5], [0.0, -1.0, 0.0, 20.0]], dtype=torch.float64)
    loc, scale = normal_params(IDENTITY, mapping).apply(((),), x)
    assert torch.equal(loc, x[:, :2])
    expected = [[1e-4 + MAPPINGS[mapping](float(v)) for v in row] for row in x[:, 2:]]
    torch.testing.assert_close(scale, torch.tensor(expected, dtype=torch.float64))


def test_the_biased_softplus_is_one_at_zero_and_the_scale_is_never_less_than_the_least():
    x = torch.tensor([0.0, 0.0, 0.0, 0.0, -1e4, -50.0])
    _, scale = normal_params(IDENTITY).apply(((),), x)
    torch.testing.assert_close(scale, torch.tensor([1.0, 1e-4, 1e-4]))
    for mapping in MAPPINGS:
        _, scale = normal_params(IDENTITY, mapping, min_scale=0.05).apply(((),), x)
        assert (scale >= 0.05).all() and scale.isfinite().all()
    _, scale = normal_params(IDENTITY, lambda x: x.square()).apply(((),), x)
    torch.testing.assert_close(scale[1:], torch.tensor([1e8, 2500.0]) + 1e-4)
    assert grad(lambda x: normal_params(IDENTITY).apply(((),), x)[1].sum())(torch.tensor([0.0, -20.0]))[1] > 0


def test_it_is_a_net_as_before():
    net = normal_params(nn.mlp((8,), 6))
    params = net.init(KEY, torch.zeros(5))
    loc, scale = net.apply(params, torch.zeros(7, 5))
    chex.assert_shape([loc, scale], (7, 3))
    part = nn.keyed(net, "input", ["loc", "scale"])
    assert list(part.apply(params, {"input": torch.zeros(7, 5)})) == ["input", "loc", "scale"]
    members = nn.ensemble(net, 4)
    chex.assert_shape(members.apply(members.init(KEY, torch.zeros(5)), torch.zeros(7, 5)), (4, 7, 3))
    chex.assert_shape(vmap(net.apply, (None, 0))(params, torch.zeros(7, 5)), (7, 3))
    noisy = normal_params(nn.noisy_linear(4))
    params = noisy.init(KEY, torch.zeros(5))
    assert not torch.equal(noisy.apply(params, torch.ones(5), key=KEY)[0], noisy.apply(params, torch.ones(5))[0])
    module = normal_params(nn.from_module(torch.nn.Linear(5, 4)))
    chex.assert_shape(module.apply(module.init(KEY), torch.zeros(7, 5)), (7, 2))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: normal_params(torch.nn.Linear(2, 2)), TypeError, "net: expected a net, got a Linear; nn.mlp and nn.from_module make one"),
        (lambda: normal_params(IDENTITY, "biased"), ValueError, "mapping: expected a function or one of biased_softplus, .*got 'biased'"),
        (lambda: normal_params(IDENTITY, min_scale=0.0), ValueError, r"min_scale: expected a number in \(0, 1\), got 0.0"),
        (lambda: normal_params(IDENTITY, min_scale=1.0), ValueError, r"min_scale: expected a number in \(0, 1\), got 1.0"),
        (lambda: normal_params(IDENTITY).apply(((),), torch.zeros(3)), ValueError, r"expected an output \[..., 2A\].*got the shape \[3\]"),
        (lambda: normal_params(nn.sequential(lambda x: (x, x))).apply(((),), torch.zeros(4)), ValueError, "got a tuple"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
