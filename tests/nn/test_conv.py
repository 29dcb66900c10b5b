import chex
import pytest
import torch
from torch.func import functional_call, grad, vmap

from funrl import compiler, nn, random, tree

KEY = random.key(0)


def images(*shape, dtype=torch.float32):
    return random.normal(random.key(1), shape, dtype=dtype)


def reference(params, strides, paddings, x):
    layers = []
    for layer, stride, padding in zip(params, strides, paddings, strict=True):
        out, channels, kernel, _ = layer["weight"].shape
        layers += [torch.nn.Conv2d(channels, out, kernel, stride, padding), torch.nn.ELU()]
    named = {f"{2 * i}.{name}": y for i, layer in enumerate(params) for name, y in layer.items()}
    return functional_call(torch.nn.Sequential(*layers).to(x.dtype), named, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_torch_modules(dtype):
    net = nn.conv((6, 5), (4, 3), (2, 1), (1, 0), aggregator=None)
    x = images(7, 2, 12, 10, dtype=dtype)
    params = tree.map(lambda p: p + 0.1, net.init(KEY, x[0]))
    assert all(p.dtype == dtype for p in tree.leaves(params))
    expected = reference(params, (2, 1), (1, 0), x)
    torch.testing.assert_close(net.apply(params, x), expected)
    torch.testing.assert_close(nn.conv((6, 5), (4, 3), (2, 1), (1, 0)).apply(params, x), expected.flatten(1))


def test_any_leading_dimensions():
    net = nn.conv((4,), 3)
    x = images(2, 5, 3, 6, 7)
    params = net.init(KEY, x)
    y = net.apply(params, x)
    chex.assert_shape(y, (2, 5, 4 * 4 * 5))
    torch.testing.assert_close(net.apply(params, x[1, 3]), y[1, 3])
    torch.testing.assert_close(vmap(net.apply, (None, 0))(params, x), y)


def test_weights_are_orthogonal_and_biases_zero():
    params = nn.conv((4,), 3, init=nn.orthogonal(2.0)).init(KEY, images(3, 6, 6))
    torch.testing.assert_close(torch.linalg.svdvals(params[0]["weight"].flatten(1)), torch.full((4,), 2.0))
    assert (params[0]["bias"] == 0).all()


def test_squash_dims():
    x = images(2, 3, 4, 5)
    assert torch.equal(nn.squash_dims(x), x.reshape(2, 60)) and torch.equal(nn.squash_dims(x, 2), x.reshape(2, 3, 20))
    with pytest.raises(ValueError, match="num_dims = 3"):
        nn.squash_dims(torch.zeros(2, 3))


def test_compiled_and_vmapped_agree_with_a_loop():
    net = nn.conv((4, 3), 3, (2, 1))

    def init_and_differentiate(key, x):
        params = net.init(key, x)
        return net.apply(params, x), grad(lambda p: net.apply(p, x).square().sum())(params)

    keys, x = random.split(KEY, 3), images(3, 2, 3, 9, 9)
    expected = tree.stack([init_and_differentiate(*row) for row in zip(keys, x, strict=True)])
    batched = vmap(init_and_differentiate)(keys, x)
    compiled = compiler.compile(vmap(init_and_differentiate), backend="aot_eager")(keys, x)
    for want, one, two in zip(tree.leaves(expected), tree.leaves(batched), tree.leaves(compiled), strict=True):
        torch.testing.assert_close(one, want, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(two, want, rtol=1e-4, atol=1e-4)


NET = nn.conv((4, 3), 3)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: nn.conv(()), ValueError, "num_cells: expected at least one layer"),
        (lambda: nn.conv((4, 0)), ValueError, "num_cells: expected integers of at least 1, got .4, 0."),
        (
            lambda: nn.conv((4, 4), (3, 3, 3)),
            ValueError,
            "kernel_sizes: expected 2 integers of at least 1, .*give one for each layer of num_cells",
        ),
        (lambda: nn.conv((4,), strides=0), ValueError, "strides: expected 1 integer of at least 1, got .0,."),
        (lambda: nn.conv((4,), paddings=-1), ValueError, "paddings: expected 1 integer of at least 0, got .-1,."),
        (lambda: nn.conv((4,), activation="elou"), ValueError, "activation: expected a function or one of elu, .*got 'elou'"),
        (lambda: nn.conv((4,), aggregator="squash"), TypeError, "aggregator: expected a function or None"),
        (lambda: NET.init(KEY, images(3, 4, 9)), ValueError, "layer 1 with a kernel of 3 leaves nothing"),
        (lambda: NET.init(KEY, images(9, 9)), ValueError, r"expected the shape \[..., C, H, W\] with C, H and W at least 1, got \[9, 9\]"),
        (lambda: NET.init(KEY, torch.zeros(3, 9, 9, dtype=torch.uint8)), TypeError, r"cast pixels with x.to\(torch.float32\) / 255"),
        (lambda: NET.apply(NET.init(KEY, images(3, 9, 9)), images(9, 9, 3)), ValueError, r"expected 3 channels.*got the shape \[9, 9, 3\]"),
        (lambda: NET.apply(NET.init(KEY, images(3, 9, 9)), images(3, 9, 9).double()), TypeError, "expected torch.float32"),
        (lambda: NET.apply(NET.init(KEY, images(3, 9, 9))[:1], images(3, 9, 9)), ValueError, "expected 2 layers, got 1"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
