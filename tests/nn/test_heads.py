import math

import chex
import pytest
import torch
from torch.func import grad, vmap

from funrl import compiler, nn, random, tree

KEY = random.key(0)


def test_dueling_is_the_equation_and_its_advantages_have_mean_zero():
    net = nn.dueling((8,), 4)
    x = random.normal(KEY, (7, 3), dtype=torch.float64)
    params = net.init(KEY, x)

    def head(layers, x):
        first, last = layers
        return torch.relu(x @ first["weight"].T + first["bias"]) @ last["weight"].T + last["bias"]

    value, advantage = head(params["value"], x), head(params["advantage"], x)
    expected = torch.stack([value[:, 0] + advantage[:, a] - advantage.mean(1) for a in range(4)], 1)
    q = net.apply(params, x)
    torch.testing.assert_close(q, expected)
    torch.testing.assert_close(q.mean(1), value[:, 0])
    assert not torch.equal(params["value"][0]["weight"], params["advantage"][0]["weight"])


def test_noisy_linear_is_the_equation():
    net = nn.noisy_linear(2)
    x = random.normal(KEY, (7, 3), dtype=torch.float64)
    params = net.init(KEY, x)
    torch.testing.assert_close(params["weight_sigma"], torch.full((2, 3), 0.5 / math.sqrt(3), dtype=torch.float64))
    assert (params["weight"].abs() <= 1 / math.sqrt(3)).all() and (params["bias_sigma"] == params["weight_sigma"][0, 0]).all()
    assert torch.equal(net.apply(params, x), torch.nn.functional.linear(x, params["weight"], params["bias"]))
    noise = [math.copysign(math.sqrt(abs(e)), e) for e in random.normal(random.key(1), (5,), dtype=torch.float64).tolist()]
    y = net.apply(params, x, key=random.key(1))
    for b in range(7):
        for i in range(2):
            total = params["bias"][i] + params["bias_sigma"][i] * noise[i]
            for j in range(3):
                total = total + (params["weight"][i, j] + params["weight_sigma"][i, j] * noise[i] * noise[2 + j]) * x[b, j]
            torch.testing.assert_close(y[b, i], total)


def test_noise_has_mean_zero_and_the_variance_of_its_factors():
    """E f(e) = 0 and E f(e)^2 = E |e| = sqrt(2 / pi)."""
    net = nn.noisy_linear(2, sigma=1.0)
    x = torch.tensor([[1.0, 0.0, 0.0]])
    params = tree.map(torch.zeros_like, net.init(KEY, x)) | {"weight_sigma": torch.ones(2, 3)}
    y = vmap(lambda key: net.apply(params, x, key=key))(random.split(KEY, 20000))[:, 0]
    torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=0.02, rtol=0)
    torch.testing.assert_close(y.var(0), torch.full((2,), 2 / math.pi), atol=0.02, rtol=0)


@pytest.mark.parametrize("net, noisy", [(nn.dueling((8,), 4), False), (nn.noisy_linear(4), True)])
def test_compiled_and_vmapped_agree_with_a_loop(net, noisy):

    def init_and_differentiate(key, x):
        init_key, noise_key = random.split(key)
        params = net.init(init_key, x)
        options = {"key": noise_key} if noisy else {}
        return net.apply(params, x, **options), grad(lambda p: net.apply(p, x, **options).square().sum())(params)

    keys, x = random.split(KEY, 3), random.normal(random.key(1), (3, 5, 3))
    expected = tree.stack([init_and_differentiate(*row) for row in zip(keys, x, strict=True)])
    batched = vmap(init_and_differentiate)(keys, x)
    compiled = compiler.compile(vmap(init_and_differentiate), backend="aot_eager")(keys, x)
    assert net.noisy == noisy
    for want, one, two in zip(tree.leaves(expected), tree.leaves(batched), tree.leaves(compiled), strict=True):
        chex.assert_equal_shape([want, one, two])
        torch.testing.assert_close(one, want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(two, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: nn.dueling((8,), 0), ValueError, "dueling: num_actions: expected an integer of at least 1, got 0"),
        (lambda: nn.noisy_linear(0), ValueError, "noisy_linear: out_features: expected an integer of at least 1, got 0"),
        (lambda: nn.noisy_linear(2, -0.1), ValueError, "sigma: expected a number of at least 0, got -0.1"),
        (
            lambda: nn.noisy_linear(2).apply(nn.noisy_linear(2).init(KEY, torch.zeros(3)), torch.zeros(4), key=KEY),
            ValueError,
            r"expected 3 features .*got the shape \[4\]",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
