"""Any sequence of operations against plain lists."""

import collections

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from funrl import buffers, random, tree

quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

CAPACITY = 5
operations = st.lists(
    st.one_of(
        st.just(("add",)),
        st.tuples(st.just("extend"), st.integers(0, 13)),
        st.tuples(st.just("sample"), st.integers(1, 6), st.integers(0, 99)),
        st.tuples(st.just("update"), st.lists(st.tuples(st.integers(0, 99), st.floats(0, 100)), max_size=4)),
        st.tuples(st.just("take"), st.integers(1, 3)),
    ),
    max_size=12,
)


def rows(numbers):
    x = torch.tensor(numbers, dtype=torch.int64)
    return {"n": x, "pair": (x.float().unsqueeze(-1).expand(len(numbers), 2).contiguous(),)}


class Reference:
    """A deque of what is there, with slots counted by hand."""

    def __init__(self):
        self.items = collections.deque(maxlen=CAPACITY)
        self.count = self.greatest = 0
        self.slots = {}

    def extend(self, numbers):
        self.items.extend(numbers)
        for n in numbers:
            self.slots[self.count % CAPACITY] = n
            self.count += 1


@quick
@given(operations)
def test_uniform_and_without_replacement_and_queues(steps):
    kinds = [buffers.uniform(CAPACITY), buffers.without_replacement(CAPACITY), buffers.first_in_first_out(CAPACITY)]
    for buffer in kinds:
        state = buffer.init(tree.index(rows([0]), 0))
        held, made = collections.deque(maxlen=CAPACITY), 0
        for name, *arguments in steps:
            n = {"add": 1, "extend": (arguments or [0])[0]}.get(name, 0)
            new = list(range(made, made + n))
            if name == "add":
                state = buffer.add(state, tree.index(rows(new), 0))
            elif name == "extend":
                state = buffer.extend(state, rows(new))
            elif name == "sample" and len(held) >= (1 if buffer.sample_epoch is None and buffer.take is None else arguments[0]):
                sample = buffer.sample(random.key(arguments[1]), state, arguments[0])
                drawn = sample.batch["n"].tolist()
                assert set(drawn) <= set(held)
                assert sample.batch["pair"][0].tolist() == [[n, n] for n in drawn]
                assert state.data["n"][sample.indices].tolist() == drawn
                if buffer.sample_epoch is not None:
                    assert len(set(drawn)) == len(drawn)
                if buffer.take is not None:
                    assert drawn == list(held)[: arguments[0]]
            elif name == "take" and buffer.take is not None and len(held) >= arguments[0]:
                state, sample = buffer.take(state, arguments[0])
                assert sample.batch["n"].tolist() == [held.popleft() for _ in range(arguments[0])]
            held.extend(new)
            made += n
            assert buffer.size(state) == len(held)
            assert all(buffer.can_sample(state, k) == (k <= len(held)) for k in range(1, 7))


@quick
@given(operations, st.sampled_from([0.0, 0.7, 1.0]))
def test_prioritized(steps, alpha):
    buffer = buffers.prioritized(CAPACITY, alpha, 0.5, epsilon=1e-3)
    state = buffer.init(tree.index(rows([0]), 0))
    slots, weights, made, greatest = {}, np.zeros(CAPACITY, np.float32), 0, np.float32(1)
    for name, *arguments in steps:
        if name in ("add", "extend"):
            n = 1 if name == "add" else arguments[0]
            new = list(range(made, made + n))
            state = buffer.add(state, tree.index(rows(new), 0)) if name == "add" else buffer.extend(state, rows(new))
            for k in new:
                slots[k % CAPACITY] = k
                weights[k % CAPACITY] = (greatest + np.float32(1e-3)) ** np.float32(alpha)
            made += n
        elif name == "sample" and slots:
            sample = buffer.sample(random.key(arguments[1]), state, arguments[0])
            drawn = sample.batch["n"].tolist()
            assert drawn == [slots[i] for i in (sample.indices % CAPACITY).tolist()] and sample.indices.tolist() == drawn
            p = weights[sample.indices % CAPACITY] / weights.sum()
            np.testing.assert_allclose(sample.probabilities, p, rtol=1e-5)
            w = (len(slots) * p) ** -0.5
            np.testing.assert_allclose(sample.weights, w / w.max(), rtol=1e-5)
        elif name == "update" and slots and arguments[0]:
            index = [i % len(slots) for i, _ in arguments[0]]
            priority = np.array([p for _, p in arguments[0]], np.float32)
            state = buffer.update_priority(state, torch.tensor([slots[i] for i in index]), torch.from_numpy(priority))
            for i, p in zip(index, priority, strict=True):
                weights[i] = (p + np.float32(1e-3)) ** np.float32(alpha)
            greatest = max(greatest, priority.max())
        np.testing.assert_allclose(state.priorities.weights[:CAPACITY], weights, rtol=1e-5)
        np.testing.assert_allclose(state.priorities.sums[-1].sum(), weights.sum(), rtol=1e-5)
        assert not state.priorities.weights[CAPACITY:].any()


@quick
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(0, 2**32),
    st.sampled_from(["whole", "masked"]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
)
def test_sequences(chunks, seed, slices, length, period, burn_in):
    """Every slice that may be drawn is drawn, and no other: found by hand in the list of all steps."""
    capacity, envs, span = 7, 2, burn_in + length
    over = np.random.default_rng(seed).random((sum(chunks), envs)) < 0.3
    buffer = buffers.sequence(capacity, length, period, burn_in, slices=slices)
    state = buffer.init({"t": torch.zeros(envs, dtype=torch.int64), "done": torch.zeros(envs, dtype=torch.bool)})
    t = 0
    for chunk in chunks:
        times = torch.arange(t, t + chunk)[:, None].expand(chunk, envs) * envs + torch.arange(envs)
        state = buffer.extend(state, {"t": times, "done": torch.from_numpy(over[t : t + chunk])})
        t += chunk
        expected = {}
        for e in range(envs):
            position = 0
            for s in range(t):
                inside = not over[s : s + span - 1, e].any() or slices == "masked"
                if s >= t - capacity and s + span <= t and position % period == 0 and inside:
                    expected[s % capacity * envs + e] = s * envs + e
                position = 0 if over[s, e] else position + 1
        weights = state.starts.weights.nonzero().squeeze(1).tolist()
        assert weights == sorted(expected)
        assert buffer.size(state) == len(expected)
        restored = buffer.restore(state.ring)
        if period == 1 and slices == "whole":
            assert restored.starts.weights.nonzero().squeeze(1).tolist() == weights
        if expected:
            sample = buffer.sample(random.key(seed), state, 5)
            for b, index in enumerate(sample.indices.tolist()):
                first = expected[index % (capacity * envs)]  # it counts the laps of the cursor too
                assert sample.batch["t"][:, b].tolist() == [first + k * envs for k in range(span)]
                ends = over[first // envs : first // envs + span, first % envs]
                before = [ends[:k].any() for k in range(span)]
                assert sample.mask[:, b].tolist() == [k >= burn_in and not before[k] for k in range(span)]


@quick
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**32), st.integers(1, 4))
def test_frame_stacks_come_back_as_they_went_in(chunks, seed, k):
    capacity, envs = 8, 2
    over = np.random.default_rng(seed).random((sum(chunks), envs)) < 0.3
    stack = [[0] * k for _ in range(envs)]
    made, number = [], 0
    for t in range(len(over)):
        row = {"observation": [], "next_observation": [], "done": over[t].tolist()}
        for e in range(envs):
            if t == 0 or over[t - 1, e]:
                number += 1
                stack[e] = [number] * k
            row["observation"].append(stack[e])
            number += 1
            stack[e] = (stack[e] + [number])[1:]
            row["next_observation"].append(stack[e])
        made.append({name: torch.tensor(x, dtype=torch.bool if name == "done" else torch.int64) for name, x in row.items()})
    buffer = buffers.frame_stacks(capacity, k)
    state, t = buffer.init(made[0]), 0
    for chunk in chunks:
        state = buffer.extend(state, tree.stack(made[t : t + chunk]))
        t += chunk
        usable = max(min(t, capacity) - k + 1, 0)
        assert buffer.size(state) == usable * envs
        if usable:
            sample = buffer.sample(random.key(seed), state, 20)
            allowed = {made[s]["next_observation"][e, -1].item(): (s, e) for s in range(t - usable, t) for e in range(envs)}
            for b in range(20):
                s, e = allowed[sample.batch["next_observation"][b, -1].item()]
                assert tree.equal(tree.index(sample.batch, b), tree.index(made[s], e))


@quick
@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**32), st.integers(1, 8), st.sampled_from([0.0, 0.5, 1.0]))
def test_n_step_and_reward_to_go_and_split_by_hand(steps, envs, seed, n, gamma):
    draw = np.random.default_rng(seed)
    reward = draw.normal(size=(steps, envs))
    terminated, truncated = draw.random((steps, envs)) < 0.25, draw.random((steps, envs)) < 0.25
    over = terminated | truncated
    batch = {
        "reward": torch.from_numpy(reward),
        "terminated": torch.from_numpy(terminated),
        "truncated": torch.from_numpy(truncated),
        "next_observation": {"x": torch.arange(steps * envs * 2).reshape(steps, envs, 2)},
        "action": torch.arange(steps * envs).reshape(steps, envs),
    }
    result = buffers.n_step(batch, n=n, gamma=gamma)
    for t in range(steps):
        for e in range(envs):
            m, total = 0, 0.0
            while True:
                total += gamma**m * reward[t + m, e]
                m += 1
                if m == n or over[t + m - 1, e] or t + m == steps:
                    break
            last = t + m - 1
            np.testing.assert_allclose(result.transition["reward"][t, e], total, atol=1e-12)
            np.testing.assert_allclose(result.discount[t, e], gamma**m, atol=1e-12)
            assert result.steps[t, e] == m and result.reward[t, e] == reward[t, e] and result.transition["action"][t, e] == t * envs + e
            assert (
                result.transition["terminated"][t, e] == terminated[last, e] and result.transition["truncated"][t, e] == truncated[last, e]
            )
            assert torch.equal(result.transition["next_observation"]["x"][t, e], batch["next_observation"]["x"][last, e])
    pieces, piece = [], []
    for e in range(envs):
        for t in range(steps):
            piece.append(t * envs + e)
            if over[t, e] or t == steps - 1:
                pieces.append(piece)
                piece = []
    split = buffers.split_trajectories(batch)
    assert split.mask.shape == (max(map(len, pieces)), len(pieces))
    assert [split.batch["action"][split.mask[:, k], k].tolist() for k in range(len(pieces))] == pieces
    assert [split.traj_ids[split.mask[:, k], k].tolist() for k in range(len(pieces))] == [[k] * len(x) for k, x in enumerate(pieces)]
    assert not split.batch["action"][~split.mask].any() and (split.traj_ids[~split.mask] == -1).all()
    padded = buffers.split_trajectories(batch, num_trajectories=2)
    assert padded.mask.shape == (steps, 2)
    assert [padded.batch["action"][padded.mask[:, k], k].tolist() for k in range(2)] == [*pieces, []][:2]
