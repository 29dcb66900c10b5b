import math

import chex
import pytest
import torch
from torch.func import functional_call, grad, vmap

from funrl import nn, program, random, tree

KEY = random.key(0)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (6, 2, 3), (1, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonal_has_equal_singular_values(shape, dtype):
    weight = nn.orthogonal(1.5)(KEY, shape, dtype, torch.device("cpu"))
    chex.assert_shape(weight, shape)
    assert weight.dtype == dtype
    values = torch.linalg.svdvals(weight.reshape(shape[0], -1))
    torch.testing.assert_close(values, torch.full_like(values, 1.5))


def test_orthogonal_is_uniform():
    """Each entry of a Haar matrix has mean 0 and variance 1 / n; without the sign of R's diagonal the first would not."""
    weights = vmap(lambda key: nn.orthogonal()(key, (3, 3)))(random.split(KEY, 4000))
    torch.testing.assert_close(weights.mean(0), torch.zeros(3, 3), atol=0.04, rtol=0)
    torch.testing.assert_close(weights.var(0), torch.full((3, 3), 1 / 3), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    "activation, module", [("tanh", torch.nn.Tanh), ("relu", torch.nn.ReLU), ("silu", torch.nn.SiLU), ("elu", torch.nn.ELU)]
)
def test_agrees_with_torch_modules(activation, module):
    net = nn.mlp((5, 6), 2, activation=activation)
    params = net.init(KEY, torch.zeros(3))
    reference = torch.nn.Sequential(torch.nn.Linear(3, 5), module(), torch.nn.Linear(5, 6), module(), torch.nn.Linear(6, 2))
    named = {f"{2 * i}.{name}": x for i, layer in enumerate(params) for name, x in layer.items()}
    x = random.normal(random.key(1), (4, 7, 3))
    torch.testing.assert_close(net.apply(params, x), functional_call(reference, named, (x,)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameters(dtype):
    net = nn.mlp((8, 4), 2, out_init=nn.orthogonal(0.01))
    params = net.init(KEY, torch.zeros(7, 3, dtype=dtype))
    assert tree.describe(params).count("\n") == 6
    chex.assert_shape([layer["weight"] for layer in params], [(8, 3), (4, 8), (2, 4)])
    chex.assert_shape([layer["bias"] for layer in params], [(8,), (4,), (2,)])
    assert all(x.dtype == dtype for x in tree.leaves(params))
    assert all((layer["bias"] == 0).all() for layer in params)
    values = [torch.linalg.svdvals(layer["weight"]).max() for layer in params]
    torch.testing.assert_close(torch.stack(values).float(), torch.tensor([math.sqrt(2), math.sqrt(2), 0.01]))
    again, other = net.init(KEY, torch.ones(3, dtype=dtype)), net.init(random.key(1), torch.zeros(3, dtype=dtype))
    assert all(torch.equal(x, y) for x, y in zip(tree.leaves(params), tree.leaves(again), strict=True))
    assert not torch.equal(params[0]["weight"], other[0]["weight"])
    assert not torch.equal(params[1]["weight"][:, :4], params[0]["weight"].T[:4, :4])


def test_a_trunk_ends_in_its_activation():
    net = nn.mlp((8, 4), activation="relu")
    params = net.init(KEY, torch.zeros(3))
    y = net.apply(params, random.normal(KEY, (16, 3)))
    chex.assert_shape(y, (16, 4))
    assert (y >= 0).all() and (y == 0).any()


def test_a_function_as_activation_and_no_hidden_layer():
    net = nn.mlp((4,), 2, activation=torch.sin)
    params = net.init(KEY, torch.zeros(3))
    x = random.normal(KEY, (3,))
    expected = params[1]["weight"] @ torch.sin(params[0]["weight"] @ x)
    torch.testing.assert_close(net.apply(params, x), expected)
    linear = nn.mlp((), 2)
    params = linear.init(KEY, x)
    torch.testing.assert_close(linear.apply(params, x), params[0]["weight"] @ x)


def test_compiled_and_vmapped_agree_with_a_loop():
    torch._dynamo.reset()
    net = nn.mlp((6, 5), 2)

    def init_and_differentiate(key, x):
        params = net.init(key, x)
        return params, net.apply(params, x), grad(lambda p: net.apply(p, x).square().sum())(params)

    keys, x = random.split(KEY, 3), random.normal(random.key(1), (3, 4, 7))
    expected = tree.stack([init_and_differentiate(*row) for row in zip(keys, x, strict=True)])
    batched = vmap(init_and_differentiate)(keys, x)
    compiled = program.compile(vmap(init_and_differentiate), backend="aot_eager")(keys, x)
    for want, one, two in zip(tree.leaves(expected), tree.leaves(batched), tree.leaves(compiled), strict=True):
        torch.testing.assert_close(one, want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(two, want, rtol=1e-4, atol=1e-5)


def applied(net, x, example=None):
    return net.apply(net.init(KEY, torch.zeros(3) if example is None else example), x)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: nn.mlp((4,), 2, activation="tanhh"), ValueError, "activation: expected a function or one of elu, .*tanh, got 'tanhh'"),
        (lambda: nn.mlp((4, 0), 2), ValueError, "at least 1, got 0"),
        (lambda: nn.mlp((4,), 2.0), ValueError, "at least 1, got 2.0"),
        (lambda: nn.mlp(()), ValueError, "at least one layer"),
        (lambda: applied(nn.mlp((4,), 2), torch.zeros(7, 4)), ValueError, r"x: expected 3 features .* got the shape \[7, 4\]"),
        (lambda: applied(nn.mlp((4,), 2), torch.tensor(0.0)), ValueError, r"expected the shape \[..., D\]"),
        (lambda: applied(nn.mlp((4,), 2), torch.zeros(3, dtype=torch.uint8)), TypeError, "floating-point tensor .* got torch.uint8"),
        (lambda: applied(nn.mlp((4,), 2), torch.zeros(3, dtype=torch.float64)), TypeError, "expected torch.float32 .* got torch.float64"),
        (lambda: nn.mlp((4,), 2).init(KEY, torch.zeros(3, dtype=torch.int64)), TypeError, "example: expected a floating-point"),
        (
            lambda: nn.mlp((4,), 2).apply(nn.mlp((4, 4), 2).init(KEY, torch.zeros(3)), torch.zeros(3)),
            ValueError,
            "expected 2 layers, got 3",
        ),
        (lambda: nn.orthogonal()(KEY, (3,)), ValueError, r"at least two dimensions, got \[3\]"),
        (lambda: nn.orthogonal(torch.tensor(1.0)), TypeError, "scale: expected a number, got Tensor"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
