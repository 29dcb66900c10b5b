import chex
import pytest
import torch
from torch.func import functional_call, grad, vmap

from funrl import compiler, nn, random, tree

KEY = random.key(0)


def affine(size, dtype):
    keys = random.split(random.key(5))
    return {"scale": random.uniform(keys[0], (size,), 0.5, 2.0, dtype=dtype), "bias": random.normal(keys[1], (size,), dtype=dtype)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layer_norm_agrees_with_torch(dtype):
    x, params = random.normal(KEY, (7, 2, 4), dtype=dtype), affine(4, dtype)
    module = torch.nn.LayerNorm(4, eps=1e-3).to(dtype)
    expected = functional_call(module, {"weight": params["scale"], "bias": params["bias"]}, (x,))
    torch.testing.assert_close(nn.layer_norm(1e-3).apply(params, x), expected)
    first = nn.layer_norm().init(KEY, x)
    assert (first["scale"] == 1).all() and (first["bias"] == 0).all() and first["bias"].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_norm_agrees_with_torch(dtype):
    net, params = nn.batch_norm(0.3), affine(4, dtype)
    module = torch.nn.BatchNorm1d(4, momentum=0.3).to(dtype)
    module.weight.data, module.bias.data = params["scale"].clone(), params["bias"].clone()
    state = net.start(torch.zeros(4, dtype=dtype))
    for i in range(3):
        x = 3 + 2 * random.normal(random.key(i), (7, 4), dtype=dtype)
        before = tree.map(torch.clone, state)
        new, y = net.train(params, state, x)
        torch.testing.assert_close(y, module.train()(x))
        torch.testing.assert_close((new.mean, new.var), (module.running_mean, module.running_var))
        assert all(torch.equal(a, b) for a, b in zip(tree.leaves(before), tree.leaves(state), strict=True))
        state = new
        torch.testing.assert_close(net.apply(params, state, x), module.eval()(x))
    several = x.reshape(7, 2, 2).expand(7, 2, 2)
    chex.assert_shape(net.train(affine(2, dtype), net.start(several), several)[1], (7, 2, 2))


def test_gradients_of_batch_norm_agree_with_torch():
    net, x = nn.batch_norm(), random.normal(KEY, (5, 3), dtype=torch.float64)
    weight = random.normal(random.key(1), (5, 3), dtype=torch.float64)
    params, state = affine(3, torch.float64), net.start(x)
    ours = grad(lambda x: (weight * net.train(params, state, x)[1]).sum())(x)
    theirs = grad(lambda x: (weight * torch.nn.functional.batch_norm(x, None, None, params["scale"], params["bias"], training=True)).sum())(
        x
    )
    torch.testing.assert_close(ours, theirs)
    assert (grad(lambda x: net.train(params, state, x)[0].mean.sum())(x) == 0).all()


def test_dropout_keeps_the_mean():
    net = nn.dropout(0.2)
    x = torch.ones(20000)
    y = net.apply((), x, key=KEY)
    assert torch.equal(y.unique(), torch.tensor([0.0, 1.25]))
    assert abs((y == 0).float().mean() - 0.2) < 0.01 and abs(y.mean() - 1) < 0.01
    assert torch.equal(y, net.apply((), x, key=KEY)) and not torch.equal(y, net.apply((), x, key=random.key(1)))
    assert net.apply((), x) is x and nn.dropout(0.0).apply((), x, key=KEY) is x
    assert net.noisy and net.init(KEY, x) == ()


def everything(key, x):
    layer, batch, drop = nn.layer_norm(), nn.batch_norm(), nn.dropout(0.5)
    params, state = affine(3, x.dtype), batch.start(x)
    state, y = batch.train(params, state, x)
    return layer.apply(params, x), state, y, batch.apply(params, state, x), drop.apply((), x, key=key)


def test_compiled_and_vmapped_agree_with_a_loop():
    keys, x = random.split(KEY, 3), random.normal(random.key(1), (3, 5, 3))
    expected = tree.stack([everything(*row) for row in zip(keys, x, strict=True)])
    batched = vmap(everything)(keys, x)
    compiled = compiler.compile(vmap(everything), backend="aot_eager")(keys, x)
    for want, one, two in zip(tree.leaves(expected), tree.leaves(batched), tree.leaves(compiled), strict=True):
        torch.testing.assert_close(one, want)
        torch.testing.assert_close(two, want)


BATCH, ONE = nn.batch_norm(), torch.zeros(3)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: nn.layer_norm(0.0), ValueError, "layer_norm: eps: expected a number above 0, got 0.0"),
        (lambda: nn.layer_norm().apply(nn.layer_norm().init(KEY, ONE), torch.zeros(4)), ValueError, "expected 3 features"),
        (lambda: nn.layer_norm().apply(nn.layer_norm().init(KEY, ONE), ONE.double()), TypeError, "expected torch.float32"),
        (lambda: nn.batch_norm(1.5), ValueError, r"momentum: expected a number in \[0, 1\], got 1.5"),
        (lambda: nn.batch_norm(eps=-1), ValueError, "batch_norm: eps: expected a number above 0, got -1"),
        (lambda: BATCH.train(BATCH.init(KEY, ONE), BATCH.start(ONE), ONE), ValueError, r"at least two samples, got \[3\]; use apply"),
        (lambda: BATCH.apply(BATCH.init(KEY, ONE), BATCH.start(ONE), torch.zeros(2, 4)), ValueError, "expected 3 features"),
        (lambda: nn.dropout(1.0), ValueError, r"rate: expected a number in \[0, 1\), got 1.0"),
        (lambda: nn.dropout(0.5).apply((), torch.tensor([1]), key=KEY), TypeError, "expected a floating-point tensor, got torch.int64"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
