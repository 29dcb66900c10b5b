import math

import numpy as np
import pytest
import torch

from funrl import compiler, random, tree
from funrl.algos import episodes
from funrl.env import Transition


def batch(key, steps, copies, *, dtype=torch.float32, end=0.2):
    """Whole rewards, so that every sum is exact."""
    keys = random.split(key, 3).unbind(0)
    reward = random.randint(keys[0], (steps, copies), -5, 6).to(dtype)
    done = [random.uniform(k, (steps, copies)) < end / 2 for k in keys[1:]]
    return Transition((), (), reward, *done, (), {})


class Loop:
    """The oracle: sums one by one."""

    def __init__(self, copies):
        self.total, self.length = np.zeros(copies), np.zeros(copies, int)
        self.last = [math.nan] * 4

    def record(self, samples):
        finished = []
        for reward, done in zip(samples.reward.numpy(), samples.done.numpy(), strict=True):
            self.total += reward
            self.length += 1
            finished += [(self.total[b], self.length[b]) for b in np.flatnonzero(done)]
            self.total[done], self.length[done] = 0, 0
        if finished:
            returns, lengths = zip(*finished, strict=True)
            self.last = [np.mean(returns), min(returns), max(returns), np.mean(lengths)]
        return [*self.last, len(finished)]


NAMES = ("episode_return", "episode_return_min", "episode_return_max", "episode_length", "episodes")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps, copies, end", [(10, 3, 0.2), (1, 2, 0.5), (6, 1, 0.9), (4, 3, 0.03)])
def test_agrees_with_a_loop(steps, copies, end, dtype):
    loop = Loop(copies)
    state = episodes.start(torch.zeros(copies, dtype=dtype))
    for i in range(8):
        samples = batch(random.key(i), steps, copies, dtype=dtype, end=end)
        kept = tree.map(torch.clone, state)
        new, metrics = episodes.record(state, samples)
        assert all(torch.equal(x, y) or x.isnan().all() for x, y in zip(tree.leaves(state), tree.leaves(kept), strict=True))
        expected = loop.record(samples)
        np.testing.assert_allclose([metrics[name].item() for name in NAMES], expected, rtol=1e-6)
        np.testing.assert_array_equal(new.running_return.numpy(), loop.total)
        np.testing.assert_array_equal(new.running_length.numpy(), loop.length)
        tree.check_like(new, state, "new", "old")
        state = new
    assert state.running_return.dtype == state.mean_return.dtype == state.mean_length.dtype == dtype


def test_nothing_is_known_before_an_episode_ends():
    state = episodes.start(torch.zeros(2))
    state, metrics = episodes.record(state, batch(random.key(0), 5, 2, end=0.0))
    assert metrics["episodes"] == 0 and all(metrics[name].isnan() for name in NAMES[:4])
    assert torch.equal(state.running_length, torch.tensor([5, 5]))


def test_vmapped_and_compiled_agree_with_a_loop():
    samples = [batch(random.key(i), 6, 2) for i in range(3)]
    states = [episodes.record(episodes.start(torch.zeros(2)), batch(random.key(10 + i), 3, 2))[0] for i in range(3)]
    expected = tree.stack([episodes.record(*row) for row in zip(states, samples, strict=True)])
    f = torch.func.vmap(episodes.record)
    for run in (f, compiler.compile(f, backend="aot_eager")):
        for x, y in zip(tree.leaves(run(tree.stack(states), tree.stack(samples))), tree.leaves(expected), strict=True):
            torch.testing.assert_close(x, y, equal_nan=True)


def test_a_small_episode_after_a_large_one_keeps_its_return():
    reward, done = torch.tensor([[1e8], [0.25], [0.25], [0.25]]), torch.tensor([[True], [False], [False], [True]])
    samples = Transition((), (), reward, done, done & False, (), {})
    _, metrics = episodes.record(episodes.start(torch.zeros(1)), samples)
    assert metrics["episode_return_min"] == 0.75 and metrics["episode_return_max"] == 1e8
