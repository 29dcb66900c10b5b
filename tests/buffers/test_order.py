import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from funrl import buffers, random
from funrl.buffers._order import ordered


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 13, 21, 100, 101, 4097])
def test_it_is_a_permutation(n):
    for seed in range(5):
        assert ordered(random.key(seed), torch.arange(n), torch.tensor(n)).sort().values.tolist() == list(range(n))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_all_orders_are_equally_likely(n):
    keys = random.split(random.key(n), 20_000)
    result = torch.func.vmap(lambda key: ordered(key, torch.arange(n), torch.tensor(n)))(keys)
    number = {order: i for i, order in enumerate(itertools.permutations(range(n)))}
    counts = np.bincount([number[tuple(row)] for row in result.tolist()], minlength=len(number))
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.slow
def test_neighbours_are_independent_in_large_orders():
    n = 1000
    keys = random.split(random.key(0), 500)
    result = torch.func.vmap(lambda key: ordered(key, torch.arange(n), torch.tensor(n)))(keys).numpy()
    assert stats.chisquare(np.bincount(result[:, 7], minlength=n)).pvalue > 0.001
    pairs = (result[:, :-1] // 250) * 4 + result[:, 1:] // 250
    counts = np.bincount(pairs.reshape(-1), minlength=16)
    assert np.abs(counts / counts.mean() - 1).max() < 0.02
    steps = (result[:, 1:] - result[:, :-1]) % n  # a linear rule would make some differences common
    assert np.bincount(steps.reshape(-1), minlength=n)[1:].max() < 2 * 500


def test_an_epoch_visits_each_item_once_in_another_order_for_each_key():
    buffer = buffers.without_replacement(50)
    state = buffer.extend(buffer.init(torch.tensor(0)), torch.arange(70))
    orders = []
    for seed in range(2):
        samples = [buffer.sample_epoch(random.key(seed), state, 8, torch.tensor(i)) for i in range(7)]
        weights = torch.cat([sample.weights for sample in samples])
        assert weights.tolist() == [1.0] * 50 + [0.0] * 6
        orders.append(torch.cat([sample.batch for sample in samples])[:50].tolist())
        assert sorted(orders[-1]) == list(range(20, 70))
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])
    with pytest.raises(ValueError, match="batch_size is 51, but the buffer holds 50 items; ask can_sample first"):
        buffer.sample(random.key(0), state, 51)
