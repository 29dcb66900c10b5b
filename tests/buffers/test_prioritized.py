import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch.func import vmap

import funrl
from funrl import buffers, random, tree
from funrl.buffers._buffer import FRESH, IN_PLACE
from funrl.buffers._sums import find, put, sum_tree, total

KEY = random.key(0)


def with_priorities(priority, alpha=0.7, beta=0.5, capacity=None):
    n = len(priority)
    buffer = buffers.prioritized(capacity or n, alpha, beta)
    state = buffer.extend(buffer.init(torch.tensor(0)), torch.arange(n))
    return buffer, buffer.update_priority(state, torch.arange(n), torch.as_tensor(priority, dtype=torch.float32))


def test_sampling_follows_the_power_of_the_priority():
    priority = torch.tensor([0.1, 3.0, 0.5, 0.0, 10.0, 1.0, 2.0])
    buffer, state = with_priorities(priority)
    p = (priority.double() + 1e-8) ** 0.7
    p = (p / p.sum()).numpy()
    # Rows of one batch are stratified, so one of each: independent batches of 1.
    keys = random.split(random.key(0), 20_000)
    index = torch.func.vmap(lambda key: buffer.sample(key, state, 1).indices)(keys).flatten()
    counts = np.bincount(index, minlength=7)
    kept = p > 1e-3
    assert counts[~kept].sum() <= 10
    assert stats.chisquare(counts[kept], p[kept] / p[kept].sum() * counts[kept].sum()).pvalue > 0.001
    # A batch has the expected number of each to within one at either end of its part of the sum.
    counts = np.bincount(buffer.sample(random.key(1), state, 1000).indices, minlength=7)
    assert np.abs(counts - 1000 * p).max() < 2


@pytest.mark.parametrize("in_place", [False, True])
def test_a_state_in_float64_takes_priorities_of_either_dtype(in_place):
    """That of a learner that was moved to float64 as a whole."""
    buffer, state = with_priorities([1.0, 2.0, 4.0])
    buffer = buffers.in_place(buffer) if in_place else buffer
    state = tree.map(lambda x: x.double() if x.is_floating_point() else x, state)
    for priority in (torch.tensor([3.0, 5.0]), torch.tensor([0.1, 8.0], dtype=torch.float64)):
        state = buffer.update_priority(state, torch.tensor([0, 1]), priority)
        expected = torch.cat([priority.double(), torch.tensor([4.0]).double()]).add(1e-8).pow(0.7)
        assert state.priorities.weights.dtype == torch.float64
        torch.testing.assert_close(state.priorities.weights[:3], expected, rtol=1e-6, atol=0)
    assert buffer.sample(KEY, state, 4).indices.max() < 3


def test_each_row_of_a_batch_is_uniform_in_its_part():
    buffer, state = with_priorities(torch.ones(64), alpha=1.0)
    keys = random.split(random.key(0), 4000)
    index = torch.func.vmap(lambda key: buffer.sample(key, state, 4).indices)(keys)
    for b in range(4):
        assert stats.chisquare(np.bincount(index[:, b] - 16 * b, minlength=16)).pvalue > 0.001


def test_weights_and_probabilities_are_those_of_flashbax():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import flashbax
        import jax
        import jax.numpy as jnp
    n, alpha, beta = 50, 0.6, 0.7
    priority = np.random.default_rng(0).exponential(size=n).astype(np.float32)
    theirs = flashbax.make_prioritised_item_buffer(max_length=n, min_length=1, sample_batch_size=n, priority_exponent=alpha)
    state = theirs.init(jnp.zeros(()))
    add = jax.jit(theirs.add)
    for i in range(n):
        state = add(state, jnp.asarray(float(i)))
    state = theirs.set_priorities(state, jnp.arange(n), jnp.asarray(priority))
    sample = theirs.sample(state, jax.random.PRNGKey(0))
    buffer, own = with_priorities(priority, alpha, beta)
    index = np.array(sample.indices)
    p = own.priorities.weights[:n] / own.priorities.weights[:n].sum()
    np.testing.assert_allclose(p[index], sample.probabilities, rtol=1e-4)
    np.testing.assert_allclose(total(own.priorities), state.sum_tree_state.nodes[0], rtol=1e-5)
    drawn = buffer.sample(random.key(0), own, 64)
    nodes = np.asarray(state.sum_tree_state.nodes)
    probabilities = nodes[len(nodes) // 2 :][:n] / nodes[0]
    np.testing.assert_allclose(drawn.probabilities, probabilities[drawn.indices], rtol=1e-4)
    weights = (n * probabilities[drawn.indices]) ** -beta
    np.testing.assert_allclose(drawn.weights, weights / weights.max(), rtol=1e-4)


def test_new_items_get_the_greatest_priority_so_far():
    buffer = buffers.prioritized(4, 1.0, 0.4, epsilon=0.0)
    state = buffer.extend(buffer.init(torch.tensor(0)), torch.arange(2))
    assert state.priorities.weights[:4].tolist() == [1, 1, 0, 0]
    state = buffer.update_priority(state, torch.tensor([0]), torch.tensor([5.0]))
    state = buffer.update_priority(state, torch.tensor([0]), torch.tensor([2.0]))
    state = buffer.extend(state, torch.arange(3))
    assert state.priorities.weights[:4].tolist() == [5, 1, 5, 5] and state.exponents.greatest == 5


def test_alpha_and_beta_are_parts_of_the_state():
    buffer, state = with_priorities([1.0, 4.0, 9.0], 1.0, torch.tensor(0.0))
    for beta in (0.0, 0.5, 1.0, 2.0):
        annealed = state.replace(exponents=state.exponents.replace(beta=torch.tensor(beta)))
        sample = buffer.sample(random.key(0), annealed, 30)
        w = sample.probabilities.double() ** -beta
        torch.testing.assert_close(sample.weights, (w / w.max()).float())
    # One program for all, and a population with exponents of its own.
    states = tree.stack([state.replace(exponents=state.exponents.replace(beta=torch.tensor(b))) for b in (0.0, 1.0)])
    together = funrl.compile(torch.func.vmap(lambda key, state: buffer.sample(key, state, 8)), backend="aot_eager")
    keys = random.split(random.key(0), 2)
    result = together(keys, states)
    assert result.weights[0].tolist() == [1] * 8 and result.weights[1].min() < 0.2
    with torch.no_grad():
        assert tree.allclose(tree.index(result, 1), buffer.sample(keys[1], tree.index(states, 1), 8))


@pytest.mark.parametrize("n", [1, 31, 32, 33, 1000, 70_000])
def test_sum_tree_against_cumulative_sums(n):
    draw = np.random.default_rng(n)
    weight = draw.exponential(size=n).astype(np.float32) * (draw.random(n) < 0.5)
    weight[draw.integers(n)] = 1
    node = put(FRESH, sum_tree(n), torch.arange(n), torch.from_numpy(weight))
    u = np.concatenate([draw.random(500), [0.0, 1 - 2**-53]])
    index = find(node, torch.from_numpy(u)).numpy()
    cumulative = weight.astype(np.float64).cumsum()
    assert (weight[index] > 0).all()
    value = u * cumulative[-1]
    slack = 1e-9 * cumulative[-1]
    assert (cumulative[index] >= value - slack).all() and (cumulative[index] - weight[index] <= value + slack).all()
    np.testing.assert_allclose(total(node), cumulative[-1], rtol=1e-12)
    assert index[500] == weight.nonzero()[0][0] and index[501] == weight.nonzero()[0][-1]


def drift(updates, n=100_000, batch=1000):
    """Set random weights many times, in magnitudes far apart; return the relative errors of all sums."""
    generator = torch.Generator().manual_seed(0)
    node = put(FRESH, sum_tree(n), torch.arange(n), torch.rand(n, generator=generator))
    for _ in range(updates // batch):
        index = torch.randint(n, (batch,), generator=generator)
        node = put(IN_PLACE, node, index, 10 ** (12 * torch.rand(batch, generator=generator) - 6))
    errors, level = [], node.weights.double()
    for sums in node.sums:
        level = level[: len(level) // 32 * 32].view(-1, 32).sum(-1)
        errors.append(((sums[: len(level)] - level).abs() / level.clamp(min=1e-30)).max().item())
    return max(errors)


def test_sums_do_not_drift():
    assert drift(100_000) < 1e-13


@pytest.mark.slow
def test_sums_do_not_drift_in_ten_million_updates():
    assert drift(10_000_000) < 1e-13


@pytest.mark.parametrize("of", [lambda buffer: buffer, buffers.in_place], ids=["pure", "in place"])
@pytest.mark.parametrize(
    "index, priority, kind, message",
    [
        ([0, 1], [1.0, -0.5], ValueError, "priority: expected finite numbers of at least 0"),
        ([0, 1], [1.0, torch.nan], ValueError, "take the absolute value of an error"),
        ([0, 1], [1.0, torch.inf], ValueError, "priority: expected finite numbers"),
        ([0, 1], [[1.0], [1.0]], ValueError, r"priority: expected the shape \[2\] of indices, got \[2, 1\]; nothing is broadcast"),
        ([0, 1], [1, 2], TypeError, "priority: expected a floating-point tensor, got torch.int64"),
        ([0, 5], [1.0, 1.0], ValueError, r"indices: expected integers in \[0, 5\)"),
        ([0, -1], [1.0, 1.0], ValueError, r"indices: expected integers in \[0, 5\)"),
        ([0, 4], [1.0, 1.0], ValueError, r"indices: there is no item at \[4\]; give the indices of a sample"),
        ([0.0, 1.0], [1.0, 1.0], ValueError, r"indices: expected int64 \[B\], got float32 \[2\]"),
    ],
)
def test_bad_priorities_leave_the_buffer_alone(of, index, priority, kind, message):
    buffer, state = with_priorities([1.0, 2.0, 3.0], capacity=5)
    kept = tree.clone(state)
    with pytest.raises(kind, match=message):
        of(buffer).update_priority(state, torch.tensor(index), torch.tensor(priority))
    assert tree.equal(state, kept)


def test_bad_priorities_in_a_compiled_program_count_as_zero():
    buffer, state = with_priorities([1.0, 2.0, 3.0], capacity=5)
    program = funrl.compile(lambda state, i, p: buffer.update_priority(state, i, p), backend="aot_eager")
    result = program(state, torch.tensor([0, 1, 2, 4]), torch.tensor([-1.0, torch.nan, torch.inf, 1.0]))
    torch.testing.assert_close(result.priorities.weights[:5], torch.tensor([*[1e-8**0.7] * 3, 0, 0]))
    assert result.exponents.greatest == 3 and result.priorities.sums[0].isfinite().all()
    drawn = buffer.sample(random.key(0), result, 100)
    assert set(drawn.indices.tolist()) <= {0, 1, 2} and drawn.weights.isfinite().all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(alpha=-0.1), "alpha: expected a number of at least 0, got -0.1"),
        (dict(beta=float("nan")), "beta: expected a number of at least 0"),
        (dict(epsilon=-1.0), "epsilon: expected a number of at least 0"),
        (dict(alpha=torch.ones(2)), r"alpha: expected a number or a floating-point tensor \[\], got float32 \[2\]"),
        (dict(beta=torch.tensor(1)), r"beta: expected a number or a floating-point tensor \[\], got int64 \[\]"),
    ],
)
def test_arguments(arguments, message):
    for make in (lambda **a: buffers.prioritized(5, **a), lambda **a: buffers.prioritized_sequence(5, 2, **a)):
        with pytest.raises((TypeError, ValueError), match=message):
            make(**arguments)


def test_an_item_of_priority_zero_and_no_epsilon_can_come_back():
    buffer = buffers.prioritized(3, 1.0, 0.4, epsilon=0.0)
    state = buffer.extend(buffer.init(torch.tensor(0)), torch.arange(2))
    state = buffer.update_priority(state, torch.tensor([0]), torch.tensor([0.0]))
    assert set(buffer.sample(random.key(0), state, 50).indices.tolist()) == {1}
    state = buffer.update_priority(state, torch.tensor([0]), torch.tensor([1.0]))
    assert set(buffer.sample(random.key(0), state, 50).indices.tolist()) == {0, 1}


def late(kind):
    """A full buffer, a sample of all its places, and the state after one more item has taken the first place."""
    if kind == "items":
        buffer = buffers.prioritized(4, alpha=1.0, epsilon=0.0)
        state = buffer.extend(buffer.init(torch.zeros(())), torch.arange(4.0))
        return buffer, state, buffer.add(state, torch.tensor(99.0)), lambda state: state.priorities.weights[:4]
    buffer = buffers.prioritized_sequence(4, length=1, alpha=1.0, epsilon=0.0)
    steps = {"x": torch.arange(4.0)[:, None], "done": torch.zeros(4, 1, dtype=torch.bool)}
    state = buffer.extend(buffer.init(tree.index(steps, 0)), steps)
    return (
        buffer,
        state,
        buffer.add(state, {"x": torch.tensor([99.0]), "done": torch.tensor([False])}),
        lambda s: s.starts.weights[:4],
    )


@pytest.mark.parametrize("kind", ["items", "sequences"])
def test_a_late_priority_does_not_reach_the_item_that_took_the_place(kind):
    """Eagerly, in place, vmapped and compiled alike."""
    buffer, before, after, weights = late(kind)
    old = buffer.sample(KEY, before, 4).indices
    assert old.tolist() == [0, 1, 2, 3]
    new = buffer.sample(KEY, after, 4).indices
    assert new.tolist() == [4, 1, 2, 3]
    compiled = funrl.compile(buffer.update_priority, backend="aot_eager")
    ways = {
        "eager": buffer.update_priority,
        "compiled": compiled,
        "vmapped": lambda s, i, p: tree.index(vmap(buffer.update_priority, (None, 0, 0))(s, i[None], p[None]), 0),
        "in place": lambda s, i, p: buffers.in_place(buffer).update_priority(tree.map(torch.clone, s), i, p),
    }
    for way, update in ways.items():
        changed = update(after, old, torch.tensor([0.5, 5.0, 6.0, 7.0]))
        assert weights(changed).tolist() == [1.0, 5.0, 6.0, 7.0], way
        both = update(after, torch.tensor([4, 0, 2, 0]), torch.tensor([3.0, 9.0, 2.0, 8.0]))  # the new item, and the old one
        assert weights(both).tolist() == [3.0, 1.0, 2.0, 1.0] and both.exponents.greatest == 3.0, way
        assert weights(update(after, torch.tensor([0, 0]), torch.tensor([7.0, 8.0]))).tolist() == [1.0] * 4, way
    with pytest.raises(ValueError, match=r"there is no item at \[5\]"):
        buffer.update_priority(after, torch.tensor([5]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match=r"expected integers in \[0, 8\)"):
        buffer.update_priority(after, torch.tensor([8]), torch.tensor([1.0]))


def test_sequences_that_are_overwritten_while_their_errors_are_computed():
    def steps(n):
        return {"x": torch.zeros(n, 2), "done": torch.zeros(n, 2, dtype=torch.bool)}

    buffer = buffers.prioritized_sequence(50, length=5, burn_in=2)
    state = buffers.in_place(buffer).extend(buffer.init(tree.index(steps(1), 0)), steps(70))
    for i in range(100):
        drawn = buffer.sample(random.fold_in(KEY, i), state, 16).indices
        state = buffers.in_place(buffer).extend(state, steps(3))
        state = buffers.in_place(buffer).update_priority(state, drawn, torch.rand(16))
    assert state.laps == (70 + 300) // 50 and buffer.size(state) == (50 - 6) * 2
