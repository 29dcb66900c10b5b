"""The modules of the TorchRL introduction, one test for each example, in its order."""

import pytest
import torch
from torch.func import vmap

from funrl import distributions, nn, policies, random, spaces, tree

KEY = random.key(0)


def randn(seed, *shape):
    return random.normal(random.key(seed), shape)


def test_mlp():
    net = nn.mlp([32, 64], out_features=4, activation="elu")
    params = net.init(KEY, torch.zeros(3))
    assert net.apply(params, randn(1, 10, 3)).shape == (10, 4)
    assert [tuple(layer["weight"].shape) for layer in params] == [(32, 3), (64, 32), (4, 64)]


def test_conv_net():
    cnn = nn.conv(num_cells=[32, 64], kernel_sizes=[8, 4], strides=[2, 1], aggregator=nn.squash_dims)
    x = randn(1, 10, 3, 32, 32)
    params = cnn.init(KEY, x)
    assert cnn.apply(params, x).shape == (10, 6400)
    assert cnn.apply(params, x[0]).shape == (6400,)
    assert cnn.apply(params, x.reshape(2, 5, 3, 32, 32)).shape == (2, 5, 6400)


def test_module():
    """A module with keys: it reads "key 1" and writes "key 2"."""
    part = nn.keyed(nn.from_module(torch.nn.Linear(3, 4)), in_keys=["key 1"], out_keys=["key 2"])
    entries = {"key 1": randn(1, 10, 3)}
    new = part.apply(part.init(KEY, entries), entries)
    assert tree.map(lambda x: tuple(x.shape), new) == {"key 1": (10, 3), "key 2": (10, 4)}
    assert list(entries) == ["key 1"]


def sequence():
    """A backbone, an actor on it, and a value of both."""
    backbone = nn.keyed(nn.from_module(torch.nn.Linear(5, 3)), in_keys=["observation"], out_keys=["hidden"])
    actor = nn.keyed(nn.from_module(torch.nn.Linear(3, 4)), in_keys=["hidden"], out_keys=["action"])
    value = nn.keyed(nn.mlp(out_features=1, num_cells=[4, 5]), in_keys=["hidden", "action"], out_keys=["value"])
    return nn.chain(backbone, actor, value)


SHAPES = {"observation": (5,), "hidden": (3,), "action": (4,), "value": (1,)}


def shapes(entries, *leading):
    assert tree.map(lambda x: tuple(x.shape), entries) == {name: (*leading, *shape) for name, shape in SHAPES.items()}


def test_sequence_with_keys():
    net = sequence()
    assert list(net.in_keys) == ["observation"]
    assert list(net.out_keys) == ["hidden", "action", "value"]


def test_stepwise_equals_whole():
    net, entries = sequence(), {"observation": randn(1, 3, 5)}
    params = net.init(KEY, entries)
    step = entries
    for i in range(3):
        step = net[i].apply(params[i], step)
    whole = net.apply(params, entries)
    shapes(whole, 3)
    assert all(torch.equal(step[name], whole[name]) for name in SHAPES)
    part = net[1:3].apply(params[1:3], net[0].apply(params[0], entries))
    assert all(torch.equal(part[name], whole[name]) for name in SHAPES)


def test_functional_call_with_no_parameters_left():
    """All parameters are arguments: without them nothing is left that could be one, and the modules may change or go."""
    module = torch.nn.Linear(5, 3)
    net = nn.keyed(nn.from_module(module), "observation", "hidden")
    entries = {"observation": randn(1, 3, 5)}
    params = net.init(KEY, entries)
    expected = module(entries["observation"]).detach()
    module.weight.data.zero_()
    del module
    torch.testing.assert_close(net.apply(params, entries)["hidden"], expected)
    zeros = tree.map(torch.zeros_like, params)
    assert not net.apply(zeros, entries)["hidden"].any()
    whole = sequence()
    params = whole.init(KEY, entries)
    assert not whole.apply(tree.map(torch.zeros_like, params), entries)["value"].any()
    with pytest.raises(ValueError, match="params: expected the entries"):
        whole.apply(({}, {}, ()), entries)


def test_four_fold_expanded_parameters():
    net, entries = sequence(), {"observation": randn(1, 3, 5)}
    params = net.init(KEY, entries)
    expanded = tree.map(lambda p: p.expand(4, *p.shape), params)
    out = vmap(net.apply, (0, None))(expanded, entries)
    shapes(out, 4, 3)
    for i in range(4):
        torch.testing.assert_close(tree.index(out, i), net.apply(params, entries))


def test_safe_projection():
    """Values beyond the box land on it; those inside stay."""
    box = spaces.Box(-torch.ones(3), torch.ones(3))
    actor = policies.safe(policies.deterministic(nn.from_module(torch.nn.Linear(5, 3))), box)
    x = randn(1, 5)
    params = actor.init(KEY, x)
    raw = nn.from_module(torch.nn.Linear(5, 3)).apply(params, 100 * x)
    action, _ = actor.act(params, KEY, 100 * x)
    assert (raw.abs() > 1).all() and torch.equal(action, raw.sign()) and box.contains(action)
    small = 0.01 * x
    weight, bias = params["weight"], params["bias"]
    inside, _ = actor.act({"weight": weight, "bias": 0.1 * bias}, KEY, small)
    torch.testing.assert_close(inside, small @ weight.T + 0.1 * bias)


def test_actor():
    """The action is written under its name."""
    actor = policies.keyed(policies.deterministic(nn.from_module(torch.nn.Linear(5, 3))), ["obs"])
    entries = {"obs": randn(1, 5)}
    new = actor.apply(actor.init(KEY, entries), entries)
    assert tree.map(lambda x: tuple(x.shape), new) == {"obs": (5,), "action": (3,)}


PARAMETERS = nn.keyed(distributions.normal_params(nn.from_module(torch.nn.Linear(5, 4))), ["input"], ["loc", "scale"])


def test_normal_parameters():
    entries = {"input": randn(1, 3, 5)}
    new = PARAMETERS.apply(PARAMETERS.init(KEY, entries), entries)
    assert tree.map(lambda x: tuple(x.shape), new) == {"input": (3, 5), "loc": (3, 2), "scale": (3, 2)}
    assert (new["scale"] > 0).all()


def tanh_normal(loc, scale):
    return distributions.Independent(distributions.TanhNormal(loc, scale), 1)


def test_tanh_normal_without_log_prob():
    part = policies.keyed(policies.stochastic(PARAMETERS, tanh_normal, return_log_prob=False))
    entries = {"input": randn(1, 3, 5)}
    new = part.apply(part.init(KEY, entries), entries, key=random.key(2))
    assert tree.map(lambda x: tuple(x.shape), new) == {"input": (3, 5), "loc": (3, 2), "scale": (3, 2), "action": (3, 2)}
    assert (new["action"].abs() < 1).all()


def test_tanh_normal_with_log_prob():
    part = policies.keyed(policies.stochastic(PARAMETERS, tanh_normal))
    entries = {"input": randn(1, 3, 5)}
    new = part.apply(part.init(KEY, entries), entries, key=random.key(2))
    assert set(new) == {"input", "loc", "scale", "action", "log_prob"} and new["log_prob"].shape == (3,)
    reference = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(new["loc"], new["scale"]), [torch.distributions.TanhTransform()]
    )
    torch.testing.assert_close(new["log_prob"], reference.log_prob(new["action"]).sum(-1), rtol=1e-4, atol=1e-4)


def test_random_mode_and_mean():
    policy = policies.stochastic(PARAMETERS, tanh_normal)
    entries = {"input": randn(1, 3, 5)}
    params = policy.init(KEY, entries)
    loc, scale = (PARAMETERS.apply(params, entries)[name] for name in ("loc", "scale"))
    one, other = (policy.act(params, random.key(seed), entries, mode="random")[0] for seed in (2, 3))
    assert not torch.equal(one, other)
    mode, _ = policy.act(params, random.key(2), entries, mode="mode")
    assert torch.equal(mode, policy.act(params, random.key(3), entries, mode="mode")[0])
    torch.testing.assert_close(mode, torch.tanh(loc))
    mean, _ = policy.act(params, random.key(2), entries, mode="mean")
    drawn = torch.tanh(loc + scale * randn(4, 20000, 3, 2)).mean(0)
    torch.testing.assert_close(mean, drawn, atol=0.2, rtol=0)
    assert mean.abs().mean() < mode.abs().mean()  # the noise pulls it inwards


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: sequence().init(KEY, {"obs": torch.zeros(5)}), "part 0 reads 'observation', which no part before it writes"),
        (lambda: PARAMETERS.apply(PARAMETERS.init(KEY, {"input": 0}), {"in": 0}), r"expected an entry 'input', got \['in'\]"),
        (lambda: nn.mlp().apply(nn.mlp().init(KEY, torch.zeros(3)), torch.zeros(4)), r"expected 3 features .*, got the shape \[4\]"),
        (lambda: nn.mlp(activation="rellu"), "activation: expected a function or one of .*relu.*, got 'rellu'"),
        (
            lambda: distributions.normal_params(nn.mlp(), "softpluss"),
            "mapping: expected a function or one of .*softplus.*, got 'softpluss'",
        ),
        (lambda: tanh_normal(torch.zeros(2), torch.zeros(2)).sample(KEY), "scale: expected numbers above 0, got 0.0"),
        (
            lambda: distributions.Categorical(torch.zeros(2), mask=torch.zeros(2).bool()).sample(KEY),
            "mask: expected at least one allowed class in each row, got none",
        ),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
