"""The replay buffers of the TorchRL introduction: each example by its name."""

import torch

from funrl import buffers, random, tree


def test_add_and_sample_a_number():
    buffer = buffers.objects(100)
    state = buffer.add(buffer.init(), 1)
    assert buffer.sample(random.key(0), state, 1).batch == [1]


def test_extend_and_sample():
    buffer = buffers.objects(100)
    state = buffer.extend(buffer.add(buffer.init(), 1), [2, 3])
    batch = buffer.sample(random.key(0), state, 3).batch
    assert len(batch) == 3 and set(batch) <= {1, 2, 3}


def test_prioritized_without_structure():
    buffer = buffers.prioritized(100, alpha=0.7, beta=1.1)
    state = buffer.add(buffer.init(torch.tensor(0)), torch.tensor(1))
    sample = buffer.sample(random.key(0), state, 1)
    assert sample.batch.tolist() == [1] and sample.indices.tolist() == [0] and sample.weights.tolist() == [1]
    state = buffer.update_priority(state, 0, 0.5)
    torch.testing.assert_close(state.priorities.weights[:2], torch.tensor([0.5**0.7, 0.0]))


def test_add_and_len_of_structure():
    buffer = buffers.uniform(100)
    state = buffer.add(buffer.init({"a": torch.zeros(3)}), {"a": torch.randn(3)})
    assert buffer.size(state) == 1


def test_extend_len_and_sample_of_structure():
    x = torch.randn(3, 3)
    buffer = buffers.uniform(100)
    state = buffer.add(buffer.init({"a": torch.zeros(3)}), {"a": x[0]})
    state = buffer.extend(state, {"a": x[1:]})
    assert buffer.size(state) == 3
    for n in (10, 2):
        sample = buffer.sample(random.key(0), state, n)
        assert tree.batch_shape(sample.batch, 1) == (n,) and torch.equal(sample.batch["a"], x[sample.indices])


def test_prioritized_with_structure_index_and_priority_round_trip_and_the_sum_trees_values():
    torch.manual_seed(0)
    buffer = buffers.prioritized(100, alpha=0.7, beta=1.1, epsilon=1e-8)
    state = buffer.extend(buffer.init({"a": torch.zeros(3)}), {"a": torch.randn(2, 3)})
    sample = buffer.sample(random.key(0), state, 2)
    assert sorted(sample.indices.tolist()) == [0, 1] and sample.batch["a"].shape == (2, 3)
    # The introduction drew [1, 0].
    order = torch.tensor([1, 0])
    state = buffer.update_priority(state, order, torch.rand(2))
    printed = [0.28791671991348267, 0.06984968483448029, 0.0]
    torch.testing.assert_close(state.priorities.weights[:3], torch.tensor(printed), rtol=1e-6, atol=0)
    torch.testing.assert_close(state.priorities.sums[-1].sum().item(), sum(printed), rtol=1e-6, atol=0)
    # beta = 1.1, more than makes up: w = (N P)^-1.1 / max.
    sample = buffer.sample(random.key(1), state, 64)
    p = torch.tensor(printed[:2], dtype=torch.float64)
    p = p / p.sum()
    w = (2 * p) ** -1.1
    torch.testing.assert_close(sample.weights, (w / w.max())[sample.indices].float())
    torch.testing.assert_close(sample.probabilities, p[sample.indices].float())
