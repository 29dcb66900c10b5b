import math

import chex
import pytest
import torch
from torch.func import functional_call, grad, vmap

from funrl import compiler, nn, random, tree

KEY = random.key(0)


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


def test_the_output_may_have_a_shape():
    net, flat = nn.mlp((5,), (4, 3)), nn.mlp((5,), 12)
    params, x = net.init(KEY, torch.zeros(3)), random.normal(KEY, (7, 3))
    chex.assert_shape(net.apply(params, x), (7, 4, 3))
    torch.testing.assert_close(net.apply(params, x).reshape(7, 12), flat.apply(params, x))
    chex.assert_shape(vmap(net.apply, (None, 0))(params, x), (7, 4, 3))


def test_layer_norm_stands_before_the_activation():
    net = nn.mlp((5, 6), 2, activation="relu", norm="layer")
    params = net.init(KEY, torch.zeros(3))
    reference = torch.nn.Sequential(
        torch.nn.Linear(3, 5), torch.nn.LayerNorm(5), torch.nn.ReLU(), torch.nn.Linear(5, 6), torch.nn.LayerNorm(6), torch.nn.ReLU(),
        torch.nn.Linear(6, 2),
    )  # fmt: skip
    params = tree.map(lambda x: x + 0.1 * random.normal(KEY, tuple(x.shape)), params)
    named = {}
    for i, layer in enumerate(params):
        named |= {f"{3 * i}.weight": layer["weight"], f"{3 * i}.bias": layer["bias"]}
        if i < 2:
            named |= {f"{3 * i + 1}.weight": layer["norm"]["scale"], f"{3 * i + 1}.bias": layer["norm"]["bias"]}
    x = random.normal(random.key(1), (4, 3))
    torch.testing.assert_close(net.apply(params, x), functional_call(reference, named, (x,)))
    same = nn.mlp((5, 6), 2, activation="relu", norm=nn.layer_norm(1e-5))
    assert torch.equal(same.apply(params, x), net.apply(params, x))


def test_several_inputs_are_joined():
    net = nn.mlp((5,), 1)
    observation, action = random.normal(KEY, (7, 3)), random.normal(random.key(1), (7, 2))
    params = net.init(KEY, observation, action)
    chex.assert_shape(params[0]["weight"], (5, 5))
    joined = net.apply(params, torch.cat([observation, action], -1))
    torch.testing.assert_close(net.apply(params, observation, action), joined)


def test_the_program_of_the_default_is_a_linear_layer_and_an_activation():
    """PPO's throughput stands on it."""
    net = nn.mlp((4, 4), 2)
    x = torch.zeros(7, 3)
    traced = torch.fx.experimental.proxy_tensor.make_fx(lambda params: net.apply(params, x))(net.init(KEY, x))
    operators = [str(node.target) for node in traced.graph.nodes if node.op == "call_function"]
    assert operators == ["aten.t.default", "aten.addmm.default", "aten.tanh.default"] * 2 + ["aten.t.default", "aten.addmm.default"]


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (nn.mlp((4,), 2), (3,)),
        (nn.conv((4,), 3), (2, 5, 5)),
        (nn.dueling((4,), 2), (3,)),
        (nn.layer_norm(), (3,)),
        (nn.sequential(nn.mlp((4,)), torch.relu), (3,)),
        (nn.ensemble(nn.mlp((4,), 2), 2), (3,)),
    ],
)
def test_a_net_without_noise_ignores_its_key(net, shape):
    x = torch.ones(2, *shape)
    params = net.init(random.key(0), x[0])
    assert not net.noisy
    torch.testing.assert_close(net.apply(params, x, key=random.key(1)), net.apply(params, x), rtol=0, atol=0)


def test_compiled_and_vmapped_agree_with_a_loop():
    net = nn.mlp((6, 5), 2)

    def init_and_differentiate(key, x):
        params = net.init(key, x)
        return params, net.apply(params, x), grad(lambda p: net.apply(p, x).square().sum())(params)

    keys, x = random.split(KEY, 3), random.normal(random.key(1), (3, 4, 7))
    expected = tree.stack([init_and_differentiate(*row) for row in zip(keys, x, strict=True)])
    batched = vmap(init_and_differentiate)(keys, x)
    compiled = compiler.compile(vmap(init_and_differentiate), backend="aot_eager")(keys, x)
    for want, one, two in zip(tree.leaves(expected), tree.leaves(batched), tree.leaves(compiled), strict=True):
        torch.testing.assert_close(one, want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(two, want, rtol=1e-4, atol=1e-5)


def applied(net, x, example=None):
    return net.apply(net.init(KEY, torch.zeros(3) if example is None else example), x)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: nn.mlp((4,), 2, activation="tanhh"), ValueError, "activation: expected a function or one of elu, .*tanh, got 'tanhh'"),
        (lambda: nn.mlp((4, 0), 2), ValueError, "at least 1, got .4, 0."),
        (lambda: nn.mlp((4,), 2.0), TypeError, "at least 1, got 2.0"),
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
        (lambda: nn.mlp((4,), (2, 0)), ValueError, "out_features.*at least 1, got .2, 0."),
        (lambda: nn.mlp(4, 2), TypeError, "num_cells: expected integers of at least 1, got 4"),
        (lambda: nn.mlp((4,), norm="batch"), ValueError, "norm: expected None, 'layer' or a Net.*got 'batch'"),
        (lambda: nn.mlp((4,), norm=nn.batch_norm()), ValueError, "norm: .*got a BatchNorm; call batch_norm, which has a state"),
        (lambda: nn.mlp((4,), norm=nn.dropout(0.1)), ValueError, "a Net without noise"),
        (lambda: nn.mlp((4,)).init(KEY), ValueError, "at least one input"),
        (lambda: nn.mlp((4,)).init(KEY, torch.zeros(2, 3), torch.zeros(3)), ValueError, r"input 1: expected the leading dimensions \[2\]"),
        (lambda: nn.mlp((4,)).init(KEY, torch.zeros(3), torch.tensor([1])), TypeError, "input 1: expected a floating-point"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
