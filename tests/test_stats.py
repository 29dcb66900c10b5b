import math

import chex
import numpy as np
import pytest
import torch
from torch.func import vmap

from funrl import compiler, random, stats, tree


def run(batches, example):
    state = stats.moments(example)
    for batch in batches:
        state = stats.update(state, batch)
    return state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_all_samples_at_once(dtype):
    parts = [3 + 2 * random.normal(random.key(i), shape, dtype=dtype) for i, shape in enumerate([(7, 3), (1, 3), (4, 5, 3), (3,)])]
    state = run(parts, torch.zeros(3, dtype=dtype))
    everything = np.concatenate([x.reshape(-1, 3).double().numpy() for x in parts])
    assert state.count == 29 and state.count.dtype == torch.int64
    assert state.mean.dtype == state.var.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    chex.assert_trees_all_close(state.mean.double().numpy(), everything.mean(0), rtol=tolerance)
    chex.assert_trees_all_close(state.var.double().numpy(), everything.var(0), rtol=tolerance)


def test_large_means_keep_their_digits_in_float32():
    x = 1e6 + random.normal(random.key(0), (50, 64))
    state = run(x, torch.zeros(()))
    exact = x.double()
    assert abs(state.mean.double() - exact.mean()) < 0.2  # a float32 near 1e6 is a multiple of 1/16
    torch.testing.assert_close(state.var.double(), exact.var(correction=0), rtol=0.03, atol=0)
    one = stats.update(stats.moments(torch.zeros(())), x.reshape(-1))
    torch.testing.assert_close(one.var.double(), exact.var(correction=0), rtol=1e-4, atol=0)


def test_counts_beyond_2_to_the_24():
    state = stats.Moments(torch.tensor(2**25), torch.tensor(1.0), torch.tensor(4.0))
    after = stats.update(state, torch.ones(1))
    assert after.count == 2**25 + 1
    torch.testing.assert_close((after.mean, after.var), (torch.tensor(1.0), torch.tensor(4.0)))
    total = stats.update(state, torch.full((1000,), 101.0))
    weight = 1000 / (2**25 + 1000)
    torch.testing.assert_close(total.mean, torch.tensor(1.0 + 100 * weight))
    torch.testing.assert_close(total.var, torch.tensor(4.0 * (1 - weight) + 1e4 * weight * (1 - weight)))


def test_no_samples_normalise_to_the_same():
    x = random.normal(random.key(0), (5, 3))
    torch.testing.assert_close(stats.normalize(stats.moments(torch.zeros(3)), x), x)


def test_normalize_and_denormalize():
    x = random.normal(random.key(0), (100, 3)) * torch.tensor([1.0, 10.0, 0.0]) + 5
    state = stats.update(stats.moments(x[0]), x)
    z = stats.normalize(state, x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.var(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(stats.denormalize(state, z), x)
    far = torch.full((3,), 1e6)
    assert torch.equal(stats.normalize(state, far), torch.full((3,), 10.0))
    assert torch.equal(stats.normalize(state, -far, clip=2.0), torch.full((3,), -2.0))
    assert torch.equal(stats.normalize(state, far, clip=torch.tensor(3.0)), torch.full((3,), 3.0))
    for clip in (math.inf, torch.tensor(math.inf)):
        torch.testing.assert_close(stats.normalize(state, far, clip=clip), (far - state.mean) / (state.var + 1e-8).sqrt())


def test_trees():
    sample = {"position": torch.zeros(2), "speed": torch.zeros(())}
    batch = {"position": random.normal(random.key(0), (4, 5, 2)), "speed": random.normal(random.key(1), (4, 5))}
    state = stats.update(stats.moments(sample), batch)
    assert state.count == 20
    for name in batch:
        alone = stats.update(stats.moments(sample[name]), batch[name])
        assert torch.equal(state.mean[name], alone.mean) and torch.equal(state.var[name], alone.var)
        assert torch.equal(stats.normalize(state, batch)[name], stats.normalize(alone, batch[name]))
        assert torch.equal(stats.denormalize(state, batch)[name], stats.denormalize(alone, batch[name]))


def test_the_order_of_dict_entries_does_not_count():
    batch = {"a": random.normal(random.key(0), (4, 2)), "b": random.normal(random.key(1), (4,))}
    state = stats.moments({"b": torch.zeros(()), "a": torch.zeros(2)})
    after, expected = stats.update(state, batch), stats.update(stats.moments(tree.index(batch, 0)), batch)
    for name in batch:
        assert torch.equal(after.mean[name], expected.mean[name]) and torch.equal(after.var[name], expected.var[name])
        assert torch.equal(stats.normalize(after, batch)[name], stats.normalize(expected, batch)[name])
        torch.testing.assert_close(stats.denormalize(after, stats.normalize(after, batch))[name], batch[name])


def step(state, batch):
    state = stats.update(state, batch)
    return state, stats.normalize(state, batch)


def test_compiled_and_vmapped_agree_with_a_loop():
    states = [stats.update(stats.moments(torch.zeros(2)), random.normal(random.key(i), (4, 2))) for i in range(3)]
    batch = 2 + random.normal(random.key(9), (3, 5, 2))
    kept = tree.map(torch.clone, states)
    expected = tree.stack([step(*row) for row in zip(states, batch, strict=True)])
    batched = vmap(step)(tree.stack(states), batch)
    compiled = compiler.compile(vmap(step), backend="aot_eager")(tree.stack(states), batch)
    for want, one, two in zip(tree.leaves(expected), tree.leaves(batched), tree.leaves(compiled), strict=True):
        torch.testing.assert_close(one, want)
        torch.testing.assert_close(two, want)
    assert all(torch.equal(x, y) for x, y in zip(tree.leaves(states), tree.leaves(kept), strict=True))


def sample(*leading, width=3, other=()):
    return {"a": torch.zeros(*leading, width), "b": torch.zeros(other or leading)}


STATE = stats.moments({"a": torch.zeros(3), "b": torch.zeros(())})


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: stats.moments(torch.zeros(3, dtype=torch.uint8)),
            TypeError,
            "leaf .the whole tree.: expected a floating-point tensor, got torch.uint8",
        ),
        (lambda: stats.moments({}), ValueError, "at least one leaf"),
        (
            lambda: stats.update(STATE, {"a": torch.zeros(3)}),
            ValueError,
            r"update: batch: expected the structure of the state, with the leaves \['a'\], \['b'\]; got \['a'\]; give a tree like",
        ),
        (lambda: stats.update(STATE, {}), ValueError, r"got none; give"),
        (
            lambda: stats.normalize(stats.moments([torch.zeros(3)]), (torch.zeros(3),)),
            ValueError,
            r"leaves \[0\]; got \[0\], in nodes of other types or with other static fields; give",
        ),
        (
            lambda: stats.update(STATE, sample(5, width=4)),
            ValueError,
            r"float32 \[N..., 3\], got .* \[5, 4\] at \['a'\]",
        ),
        (
            lambda: stats.update(STATE, sample(5, other=(4,))),
            ValueError,
            r"leading dimensions \[5\] .* got \[4\] at \['b'\]",
        ),
        (lambda: stats.update(STATE, sample(0)), ValueError, "at least one sample"),
        (lambda: stats.update(STATE, tree.to(sample(), torch.float64)), ValueError, "got torch.float64"),
        (lambda: stats.normalize(STATE, sample(), clip=0.0), ValueError, "use math.inf"),
        (lambda: stats.denormalize(STATE, torch.zeros(3)), ValueError, "structure"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_holds_no_eps_and_no_long_count(dtype):
    state = stats.moments(torch.zeros((), dtype=dtype))
    for _ in range(3):
        state = stats.update(state, torch.ones(40_000, dtype=dtype))
    assert state.mean == 1 and state.var == 0 and state.mean.dtype == dtype
    one = torch.ones((), dtype=dtype)
    assert stats.normalize(state, one) == 0 and stats.denormalize(state, 0 * one) == 1
