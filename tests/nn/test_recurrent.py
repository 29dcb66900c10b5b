import chex
import pytest
import torch
from torch.func import functional_call, grad, grad_and_value, vmap

from funrl import compiler, nn, random, tree
from funrl.nn import LSTMCarry

KEY = random.key(0)
D, H, T, B = 3, 5, 9, 4
CELLS = {"gru": nn.gru(H), "lstm": nn.lstm(H), "min_gru": nn.min_gru(H)}


def problem(cell, dtype=torch.float32, seed=0):
    """Random parameters (biases too), a first carry, inputs, and episodes that begin now and then."""
    keys = random.split(random.key(seed), 4)
    xs = random.normal(keys[0], (T, B, D), dtype=dtype)
    params = cell.init(keys[1], xs)
    params = tree.map(lambda p: p + 0.1 * random.normal(keys[2], tuple(p.shape), dtype=dtype), params)
    carry = tree.map(lambda h: 0.5 + h, cell.start(xs[0]))
    return params, carry, xs, random.bernoulli(keys[3], 0.3, (T, B))


@pytest.mark.parametrize("name, module", [("gru", torch.nn.GRU), ("lstm", torch.nn.LSTM)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_torch_modules(name, module, dtype):
    cell = CELLS[name]
    params, carry, xs, _ = problem(cell, dtype)
    names = {"weight_input": "weight_ih_l0", "weight_hidden": "weight_hh_l0", "bias_input": "bias_ih_l0", "bias_hidden": "bias_hh_l0"}
    named = {names[key]: x for key, x in params.items()}
    first = (carry.hidden[None], carry.cell[None]) if name == "lstm" else carry[None]
    expected, last = functional_call(module(D, H).to(dtype), named, (xs, first))
    new, ys = cell.unroll(params, carry, xs, torch.zeros(T, B, dtype=torch.bool))
    torch.testing.assert_close(ys, expected)
    torch.testing.assert_close(tree.leaves(new), [x[0] for x in (last if name == "lstm" else (last,))])
    torch.testing.assert_close(cell.unroll(params, carry, xs)[1], ys)


def test_min_gru_is_the_equation():
    params, carry, xs, _ = problem(CELLS["min_gru"], torch.float64)
    h, ys = carry, []
    for x in xs:
        z, n = (x @ params["weight"].T + params["bias"]).split(H, -1)
        z = 1 / (1 + torch.exp(-z))
        h = (1 - z) * h + z * n
        ys.append(h)
    new, got = CELLS["min_gru"].unroll(params, carry, xs)
    torch.testing.assert_close(got, torch.stack(ys))
    torch.testing.assert_close(new, h)


@pytest.mark.parametrize("name", CELLS)
def test_a_sequence_is_its_steps_and_resets_come_before_the_input(name):
    cell = CELLS[name]
    params, carry, xs, reset = problem(cell)
    last, ys = cell.unroll(params, carry, xs, reset)
    for t in range(T):
        for b in range(B):  # a copy by itself, from scratch where its episode begins
            one = tree.index(carry, b)
            one = cell.start(xs[t, b]) if reset[t, b] else one
            _, y = cell.apply(params, one, xs[t, b])
            torch.testing.assert_close(ys[t, b], y)
        carry, y = cell.apply(params, carry, xs[t], reset[t])
        torch.testing.assert_close(ys[t], y)
    torch.testing.assert_close(tree.leaves(last), tree.leaves(carry))
    assert reset[1:].any()


@pytest.mark.parametrize("name", CELLS)
def test_nothing_of_the_last_episode_is_left(name):
    cell = CELLS[name]
    params, carry, xs, _ = problem(cell)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[4] = True

    def late(carry, early):
        return cell.unroll(params, carry, torch.cat([early, xs[4:]]), reset)[1][4:].sum()

    for gradient in grad(late, argnums=(0, 1))(carry, xs[:4]):
        assert all((x == 0).all() for x in tree.leaves(gradient))
    fresh = cell.unroll(params, cell.start(xs[0]), xs[4:])[1]
    torch.testing.assert_close(cell.unroll(params, carry, xs, reset)[1][4:], fresh)


@pytest.mark.parametrize("name", CELLS)
def test_compiled_and_vmapped_gradients_agree_with_a_loop(name):
    cell = CELLS[name]

    def learn(params, carry, xs, reset):
        def loss(params, carry):
            last, ys = cell.unroll(params, carry, xs, reset)
            return ys.square().mean() + sum(x.sum() for x in tree.leaves(last))

        return grad_and_value(loss, argnums=(0, 1))(params, carry)

    rows = [problem(cell, torch.float64, seed) for seed in range(2)]
    expected = tree.stack([learn(*row) for row in rows])
    batch = tree.stack(rows)
    batched = vmap(learn)(*batch)
    compiled = compiler.compile(vmap(learn), backend="aot_eager")(*batch)
    for want, one, two in zip(tree.leaves(expected), tree.leaves(batched), tree.leaves(compiled), strict=True):
        torch.testing.assert_close(one, want)
        torch.testing.assert_close(two, want)


def test_parameters():
    xs = torch.zeros(D, dtype=torch.float64)
    gru, lstm, minimal = (CELLS[name].init(KEY, xs) for name in CELLS)
    assert {name: tuple(x.shape) for name, x in gru.items()} == {
        "weight_input": (3 * H, D), "weight_hidden": (3 * H, H), "bias_input": (3 * H,), "bias_hidden": (3 * H,),
    }  # fmt: skip
    assert all(x.dtype == torch.float64 for x in tree.leaves((gru, lstm, minimal)))
    for gate in gru["weight_hidden"].split(H):
        torch.testing.assert_close(gate @ gate.T, torch.eye(H, dtype=torch.float64))
    assert torch.equal(lstm["bias_input"], torch.cat([torch.zeros(H), torch.ones(H), torch.zeros(2 * H)]).double())
    chex.assert_shape(minimal["weight"], (2 * H, D))
    carry = CELLS["lstm"].start(torch.zeros(7, D))
    assert isinstance(carry, LSTMCarry) and all((x == 0).all() and x.shape == (7, H) for x in tree.leaves(carry))


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_linear_recurrence_is_its_loop(length):
    decay = random.uniform(KEY, (length, B), -1.0, 1.0, dtype=torch.float64)
    x, h = random.normal(random.key(1), (length, B), dtype=torch.float64), torch.ones(B, dtype=torch.float64)
    expected = []
    for t in range(length):
        expected.append(decay[t] * (expected[-1] if t else h) + x[t])
    torch.testing.assert_close(nn.linear_recurrence(decay, x, h), torch.stack(expected))


def called(name, **changes):
    cell = CELLS["gru"]
    arguments = {"params": cell.init(KEY, torch.zeros(D)), "carry": torch.zeros(B, H), "x": torch.zeros(B, D), "reset": None} | changes
    return getattr(cell, name)(*arguments.values())


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: nn.gru(0), ValueError, "gru: size: expected an integer of at least 1, got 0"),
        (lambda: nn.lstm(2.0), TypeError, "lstm: size: expected an integer of at least 1, got 2.0"),
        (lambda: called("apply", x=torch.zeros(B, D + 1)), ValueError, "gru.apply: x: expected 3 features"),
        (lambda: called("apply", x=torch.zeros(B, D, dtype=torch.float64)), TypeError, "gru.apply: x: expected torch.float32"),
        (
            lambda: called("apply", carry=torch.zeros(B, 1)),
            ValueError,
            r"carry: expected torch.float32 \[4, 5\], got torch.float32 \[4, 1\]",
        ),
        (lambda: called("apply", carry=torch.zeros(H)), ValueError, r"carry: expected .*\[4, 5\], got .*\[5\].*make it with start"),
        (lambda: called("apply", reset=torch.zeros(B)), TypeError, "reset: expected a bool tensor, got torch.float32"),
        (lambda: called("apply", reset=torch.zeros(B, 1).bool()), ValueError, r"reset: expected the shape \[4\].*got \[4, 1\]"),
        (lambda: called("unroll", x=torch.zeros(D)), ValueError, r"xs: expected the shape \[T, ..., D\], got \[3\]; use apply"),
        (lambda: called("unroll", x=torch.zeros(T, B, D), reset=torch.zeros(B).bool()), ValueError, r"reset: expected the shape \[9, 4\]"),
        (lambda: nn.linear_recurrence(torch.ones(3, 2), torch.ones(3), torch.ones(())), ValueError, r"got \[3, 2\], \[3\] and \[\]"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
