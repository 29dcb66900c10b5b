"""Functions as torch modules, and weights in both directions, against torch's own layers."""

import re

import pytest
import torch

from funrl import nn, random, tree

KEY = random.key(2)


def mlp(activation="tanh"):
    net = nn.mlp((8, 6), 2, activation=activation)
    return net, net.init(KEY, torch.zeros(3))


def twin():
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))


def test_weights_go_to_torch_and_back():
    (net, params), module, x = mlp(), twin(), random.normal(KEY, (7, 3))
    module.load_state_dict(nn.to_state_dict(params, module))
    torch.testing.assert_close(module(x), net.apply(params, x))
    back = nn.from_state_dict(module.state_dict(), tree.map(torch.zeros_like, params))
    assert tree.equal(back, params)
    tree.leaves(back)[0].add_(1.0)
    torch.testing.assert_close(module(x), net.apply(params, x))  # nothing is shared


def test_convolutions_and_norms():
    net = nn.sequential(nn.conv((4,), kernel_sizes=3, strides=1, aggregator=nn.squash_dims), nn.mlp((5,), 2, norm="layer"))
    params = net.init(KEY, torch.zeros(1, 6, 6))
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 2)
    )
    back = nn.from_state_dict(nn.to_state_dict(params, module), params)
    assert tree.equal(back, params)


def test_running_statistics_are_those_of_the_module():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    module[1].running_mean.add_(3.0)
    params = ({"weight": torch.ones(4, 3), "bias": torch.zeros(4)}, {"weight": torch.ones(4), "bias": torch.zeros(4)})
    values = nn.to_state_dict(params, module)
    assert values["1.running_mean"].tolist() == [3.0] * 4 and values["0.weight"].eq(1).all()
    assert tree.equal(nn.from_state_dict(values, params), params)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (torch.nn.Linear(3, 8), "expected as many layers in both, 3 as in params, got 1"),
        (torch.nn.Sequential(torch.nn.Linear(3, 8, bias=False), torch.nn.Linear(8, 6), torch.nn.Linear(6, 2)), "['bias', 'weight']"),
        (torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 7), torch.nn.Linear(7, 2)), "1.bias: expected the shape [6]"),
    ],
)
def test_layers_that_differ(module, message):
    for call in (lambda: nn.to_state_dict(mlp()[1], module), lambda: nn.from_state_dict(module.state_dict(), mlp()[1])):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


def test_a_module_computes_the_function_and_learns():
    net, params = mlp()
    module, x = nn.to_module(net.apply, params), random.normal(KEY, (7, 3))
    torch.testing.assert_close(module(x), net.apply(params, x))
    expected = torch.func.grad(lambda params: net.apply(params, x).square().sum())(params)
    module(x).square().sum().backward()
    found = [module.get_parameter(name).grad for name, _ in module.named_parameters()]
    assert len(found) == 6
    for a, b in zip(found, tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b)
    torch.optim.SGD(module.parameters(), 0.1).step()
    assert not torch.allclose(module(x), net.apply(params, x))  # the parameters are copies


def test_names_that_torch_uses_itself():
    params = {"half": {"forward": torch.ones(2), "a b": torch.ones(1)}, "count": torch.tensor(3), "training": torch.ones(1)}
    module = nn.to_module(lambda params, x: params["half"]["forward"] * x + params["count"], params)
    assert module(torch.tensor(2.0)).tolist() == [5.0, 5.0] and len(list(module.parameters())) == 3
    assert dict(module.named_buffers())["count"] == 3
    copied = nn.to_module(lambda params, x: params["half"]["forward"] * x + params["count"], tree.map(torch.zeros_like, params))
    copied.load_state_dict(module.state_dict())
    assert copied(torch.tensor(2.0)).tolist() == [5.0, 5.0]


def test_the_whole_tree_is_a_tensor():
    module = nn.to_module(lambda w, x: w * x, torch.tensor(2.0, dtype=torch.float64))
    assert module(torch.tensor(3.0, dtype=torch.float64)) == 6.0 and [name for name, _ in module.named_parameters()] == ["value"]


def test_what_is_no_function_or_no_tensor():
    with pytest.raises(TypeError, match="to_module: f: expected a function, got"):
        nn.to_module(3, {})
    with pytest.raises(ValueError, match=r"to_module: params: .* expected a tensor"):
        nn.to_module(lambda params, x: x, {"a": 1.0})
