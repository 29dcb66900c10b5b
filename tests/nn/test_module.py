import warnings
from collections import OrderedDict

import chex
import pytest
import torch
from torch.func import functional_call, grad, vmap

from funrl import compiler, nn, random, tree

KEY = random.key(0)


class Residual(torch.nn.Module):
    """Two convolutions with BatchNorm, and a way around them."""

    def __init__(self, channels):
        super().__init__()
        self.first = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(channels)
        self.second = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.last = torch.nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.last(self.second(torch.relu(self.norm(self.first(x))))))


def resnet():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), Residual(8), torch.nn.MaxPool2d(2), Residual(8),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5),
    )  # fmt: skip


def transformer(dropout=0.0, num_layers=2):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it will not take nested tensors
        return torch.nn.TransformerEncoder(layer, num_layers)


MODULES = {"resnet": (resnet, (7, 3, 10, 10)), "transformer": (transformer, (7, 6, 8))}


def inputs(name, *leading, dtype=torch.float32):
    return random.normal(random.key(1), (*leading, *MODULES[name][1]), dtype=dtype)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_outputs_as_the_module_in_train_and_eval(name, dtype):
    module, x = MODULES[name][0]().to(dtype), inputs(name, dtype=dtype)
    net = nn.from_module(module)
    params, state = net.init(KEY, x), net.start(x)
    with torch.no_grad():
        torch.testing.assert_close(net.apply(params, x), module.eval()(x))
        for i in range(2):
            before = tree.map(torch.clone, state)
            new, y = net.train(params, state, x + i)
            torch.testing.assert_close(y, module.train()(x + i))
            torch.testing.assert_close(new, dict(module.named_buffers()))
            torch.testing.assert_close(state, before, rtol=0, atol=0)
            state = new
        torch.testing.assert_close(net.apply(params, x, state=state), module.eval()(x))
    assert params.keys() == dict(module.named_parameters()).keys()


@pytest.mark.parametrize("name", MODULES)
def test_many_stacked_copies(name):
    """Eight modules that differ, shared inputs and inputs of their own."""
    net, x, xs = nn.from_module(MODULES[name][0]()), inputs(name), inputs(name, 8)
    params = tree.map(lambda p: p + 0.1 * random.normal(KEY, (8, *p.shape)), net.init(KEY, x))
    state = tree.map(lambda b: torch.stack([b + i for i in range(8)]), net.start())
    outputs = vmap(net.apply, (0, 0))(params, xs)
    shared = vmap(net.apply, (0, None))(params, x)
    states, trained = vmap(net.train, (0, 0, None))(params, state, x)
    for i in (0, 7):
        own = tree.index(params, i)
        torch.testing.assert_close(outputs[i], net.apply(own, xs[i]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(shared[i], net.apply(own, x), rtol=1e-4, atol=1e-4)
        new, y = net.train(own, tree.index(state, i), x)
        torch.testing.assert_close(trained[i], y, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tree.index(states, i), new, rtol=1e-4, atol=1e-4)


def test_it_never_shares_memory_with_the_module():
    module = resnet()
    net = nn.from_module(module)
    x = inputs("resnet")
    params, y = net.init(KEY), net.apply(net.init(KEY), x)
    with torch.no_grad():
        for p in (*module.parameters(), *module.buffers()):
            p.fill_(0)
    torch.testing.assert_close(net.apply(net.init(KEY), x), y)
    for p in params.values():
        p.zero_()
    assert not torch.equal(net.apply(net.init(KEY), x), net.apply(params, x))
    assert module.training and all(p.requires_grad for p in module.parameters())
    named = {id(p) for p in (*module.parameters(), *module.buffers())}
    assert not named & {id(p) for p in tree.leaves((net.init(KEY), net.start()))}


def test_gradients_are_those_of_the_module():
    module, x = resnet(), inputs("resnet")
    net = nn.from_module(module)
    module.train()(x).square().mean().backward()
    gradient = grad(lambda p: net.train(p, net.start(), x)[1].square().mean())(net.init(KEY))
    torch.testing.assert_close(gradient, {name: p.grad for name, p in module.named_parameters()}, rtol=1e-4, atol=1e-5)


def test_a_compiled_training_step_with_a_state():
    net = nn.from_module(Residual(2))
    x = random.normal(KEY, (3, 2, 4, 4))

    def loss(params, state, x):
        state, y = net.train(params, state, x)
        return y.square().mean(), state

    def learn(params, state, x):
        def step(carry, _):
            gradient, state = grad(loss, has_aux=True)(*carry, x)
            return (tree.map(lambda p, g: p - 0.1 * g, carry[0], gradient), state), ()

        return compiler.scan(step, (params, state), length=2)[0]

    expected = learn(net.init(KEY), net.start(), x)
    got = compiler.compile(learn, backend="aot_eager")(net.init(KEY), net.start(), x)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_an_initialiser_makes_ensembles_whose_members_differ():
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
    net = nn.from_module(module, init=nn.orthogonal(2.0))
    params = net.init(KEY)
    torch.testing.assert_close(torch.linalg.svdvals(params["0.weight"]), torch.full((3,), 2.0))
    assert torch.equal(params["1.weight"], module[1].weight) and torch.equal(params["2.bias"], module[2].bias)
    members = nn.ensemble(net, 4)
    y = members.apply(members.init(KEY, torch.ones(3)), torch.ones(5, 3))
    chex.assert_shape(y, (4, 5, 2))
    assert len({round(float(v), 6) for v in y[:, 0, 0]}) == 4
    alike = nn.ensemble(nn.from_module(module), 4)
    torch.testing.assert_close(*alike.apply(alike.init(KEY, torch.ones(3)), torch.ones(5, 3))[:2])


class Output(OrderedDict):
    """As Hugging Face's models return it: a mapping whose entries are attributes too."""

    def __init__(self, **entries):
        super().__init__(entries)
        self.__dict__.update(entries)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(11, 4)
        self.head = torch.nn.Linear(4, 11, bias=False)
        self.head.weight = self.embed.weight  # tied

    def forward(self, input_ids, attention_mask=None):
        hidden = self.embed(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask.unsqueeze(-1)
        return Output(logits=self.head(hidden), hidden_states=(hidden,), past=None)


def test_outputs_like_those_of_hugging_face_become_dicts():
    module = Model()
    net = nn.from_module(module)
    ids, mask = torch.tensor([[1, 2, 3]]), torch.tensor([[1.0, 1.0, 0.0]])
    params = net.init(KEY)
    assert list(params) == ["embed.weight"]
    output = net.apply(params, ids, attention_mask=mask)
    assert type(output) is dict and list(output) == ["logits", "hidden_states", "past"]
    torch.testing.assert_close(output["logits"], module(ids, mask).logits.detach())
    assert len(tree.leaves(output)) == 2
    part = nn.keyed(net, ["ids", "mask"], ["logits"])
    torch.testing.assert_close(part.apply(params, {"ids": ids, "mask": mask})["logits"], output["logits"])


@pytest.mark.parametrize(
    "layer, shape, whole",
    [
        (torch.nn.Dropout(0.25), (40, 50), 0),
        (torch.nn.Dropout1d(0.25), (100, 20, 5), 1),
        (torch.nn.Dropout2d(0.25), (100, 20, 3, 2), 2),
        (torch.nn.Dropout3d(0.25), (100, 20, 3, 2, 2), 3),
    ],
)
def test_dropout_takes_its_key(layer, shape, whole):
    net = nn.from_module(layer)
    x = torch.ones(shape)
    state, y = net.train({}, {}, x, key=KEY)
    assert state == {} and torch.equal(y.unique(), torch.tensor([0.0, 4 / 3]))
    assert abs((y == 0).float().mean() - 0.25) < 0.03
    assert torch.equal(y, net.train({}, {}, x, key=KEY)[1]) and not torch.equal(y, net.train({}, {}, x, key=random.key(1))[1])
    assert torch.equal(net.apply({}, x), x)
    if whole:
        flat = y.flatten(-whole)
        assert (flat == flat[..., :1]).all()


@pytest.mark.parametrize("layer", [torch.nn.AlphaDropout(0.3), torch.nn.FeatureAlphaDropout(0.3)])
def test_alpha_dropout_keeps_mean_and_variance(layer):
    x = random.normal(KEY, (20000, 2, 2))
    _, y = nn.from_module(layer).train({}, {}, x, key=KEY)
    assert abs(y.mean()) < 0.02 and abs(y.var() - 1) < 0.03
    torch.manual_seed(0)
    lowest = layer.train()(torch.zeros(1000, 1, 1)).min()
    torch.testing.assert_close(nn.from_module(layer).train({}, {}, torch.zeros(1000, 1, 1), key=KEY)[1].min(), lowest)


def test_a_shared_dropout_layer_draws_anew_at_each_call():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = self.two = torch.nn.Dropout(0.5)

        def forward(self, x):
            return self.one(x), self.two(x)

    one, two = nn.from_module(Twice()).train({}, {}, torch.ones(200), key=KEY)[1]
    assert not torch.equal(one, two)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("separate", [False, True])
def test_attention_dropout_is_torchs_with_another_mask(batch_first, separate):
    """With all weights kept (a rate of almost 0) it is torch's attention; with a half its mean over keys is."""
    sizes = {"kdim": 5, "vdim": 7} if separate else {}
    module = torch.nn.MultiheadAttention(8, 2, dropout=1e-12, batch_first=batch_first, **sizes)
    shape = (2, 6) if batch_first else (6, 2)
    query, keys, values = (random.normal(random.key(i), (*shape, n)) for i, n in enumerate((8, *(sizes.values() or (8, 8)))))
    mask = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)
    net = nn.from_module(module)
    params = net.init(KEY)
    for options in ({}, {"average_attn_weights": False}, {"need_weights": False}, {"attn_mask": mask}):
        expected = functional_call(module.eval(), params, (query, keys, values), options)
        got = net.train(params, {}, query, keys, values, key=KEY, **options)[1]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    if not separate and batch_first:
        torch.testing.assert_close(
            net.train(params, {}, query[0], keys[0], values[0], key=KEY)[1][0],
            net.apply(params, query, keys, values)[0][0], rtol=1e-4, atol=1e-5,
        )  # fmt: skip
        half = nn.from_module(torch.nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True))
        draws = vmap(lambda key: half.train(params, {}, query, keys, values, key=key)[1][0])(random.split(KEY, 4000))
        assert draws.std(0).min() > 0.01
        torch.testing.assert_close(draws.mean(0), net.apply(params, query, keys, values)[0], rtol=0, atol=0.05)


def test_a_transformer_with_dropout_is_driven_by_its_key_alone():
    net = nn.from_module(transformer(0.1))
    x, params = inputs("transformer"), nn.from_module(transformer()).init(KEY)
    torch.manual_seed(0)
    one = net.train(params, {}, x, key=KEY)[1]
    torch.manual_seed(1)
    assert torch.equal(one, net.train(params, {}, x, key=KEY)[1])
    ys = vmap(lambda key: net.train(params, {}, x, key=key)[1])(random.split(KEY, 3))
    torch.testing.assert_close(ys[1], net.train(params, {}, x, key=random.split(KEY, 3)[1])[1])
    assert not torch.equal(ys[0], ys[1])


NET = nn.from_module(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5)))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: nn.from_module(torch.tanh), TypeError, "module: expected a torch.nn.Module"),
        (lambda: nn.from_module(torch.nn.LazyLinear(3)), ValueError, "weight has none; run the module on an example first"),
        (lambda: NET.train(NET.init(KEY), {}, torch.zeros(3)), ValueError, "key: expected a key for the dropout in 1, got None"),
        (lambda: NET.apply({}, torch.zeros(3)), ValueError, r"params: expected the entries \['0.bias', '0.weight'\], got \[\]"),
        (
            lambda: NET.apply(NET.init(KEY), torch.zeros(3), state={"mean": KEY}),
            ValueError,
            r"state: expected the entries \[\].*with start",
        ),
        (
            lambda: nn.from_module(torch.nn.RReLU()).train({}, {}, torch.zeros(3)),
            ValueError,
            "RReLU .* draws from torch's global generator",
        ),
        (lambda: nn.from_module(torch.nn.GRU(3, 2, 2, dropout=0.1)).train(*[{}] * 2, 0), ValueError, "params: expected the entries"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_compiled_transformer_agrees_with_eager():
    net, x = nn.from_module(transformer(0.5, 1)), inputs("transformer", 2)
    params = tree.map(lambda p: torch.stack([p, 2 * p]), net.init(KEY))

    def learn(params, key, x):
        return grad(lambda p: net.train(p, {}, x, key=key)[1].square().mean() + net.apply(p, x).mean())(params)

    arguments = (params, random.split(KEY), x)
    compiled = compiler.compile(vmap(learn), backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), vmap(learn)(*arguments), rtol=1e-3, atol=1e-4)


def test_dropout_inside_recurrent_modules_is_refused():
    net = nn.from_module(torch.nn.GRU(3, 2, 2, dropout=0.1))
    with pytest.raises(ValueError, match=r"GRU \(the module itself\) draws from torch's global generator"):
        net.train(net.init(KEY), {}, torch.zeros(4, 3), key=KEY)
