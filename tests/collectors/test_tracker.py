"""The tracker of a collector, against a loop that counts."""

import pytest
import torch

from funrl import random, tree
from funrl.algos import episodes
from funrl.collectors._tracker import Collected, EpisodeTracker, split
from funrl.env import Transition

COPIES, STEPS, CAPACITY = [2, 1], [4, 8], 10


def batches(num, key):
    """Return batches of two workers: ends of episodes, and actions that are numbered."""
    for n in range(num):
        for worker, (copies, steps) in enumerate(zip(COPIES, STEPS, strict=True)):
            shape = (steps, copies)
            done = random.bernoulli(random.fold_in(random.fold_in(key, n), worker), 0.3, shape)
            reward = random.normal(random.fold_in(random.fold_in(key, n), 2 + worker), shape)
            action = {"a": (torch.arange(steps)[:, None] + n * steps).expand(shape).clone()}
            yield worker, reward, done, action, {"observation": action["a"][-1] + 0.5}


def make_tracker():
    scalar = torch.zeros((), dtype=torch.int64)
    return EpisodeTracker(COPIES, STEPS, {"a": scalar}, {"observation": torch.zeros(())}, CAPACITY)


def test_steps_and_episodes_are_counted():
    tracker, steps, ended, returns = make_tracker(), [0] * 3, [0] * 3, [0.0] * 3
    seen = set()
    for worker, reward, done, action, after in batches(5, random.key(0)):
        count, so_far, ids = tracker.record(worker, reward, done, action, after)
        assert so_far.dtype == reward.dtype
        for t in range(len(done)):
            for b, column in enumerate(range(3)[tracker.columns[worker]]):
                assert count[t, b] == steps[column] and ids[t, b] == ended[column] * 3 + column
                assert abs(float(so_far[t, b]) - returns[column]) < 1e-5
                returns[column] = 0.0 if done[t, b] else returns[column] + float(reward[t, b])
                seen.add(int(ids[t, b]))
                steps[column] = 0 if done[t, b] else steps[column] + 1
                ended[column] += int(done[t, b])
    assert tracker.state.steps.tolist() == steps and tracker.state.episodes.tolist() == ended
    assert len(seen) == sum(ended) + sum(s > 0 for s in steps)
    assert tracker.state.batches.tolist() == [5, 5]


def test_learners_agree_about_running_returns_to_the_last_bit():
    """A learner that goes on by its own sums, and one that takes those of the collector, are the same."""
    tracker = EpisodeTracker([3], [50], {"a": torch.zeros(())}, {"observation": torch.zeros(())}, CAPACITY)
    state = episodes.start(torch.zeros(3))
    for n in range(4):
        keys = random.split(random.key(n), 2)
        reward, done = random.normal(keys[0], (50, 3)) * 10, random.bernoulli(keys[1], 0.03, (50, 3))
        _, so_far, _ = tracker.record(0, reward, done, {"a": reward}, {"observation": reward[-1]})
        assert torch.equal(so_far[0], state.running_return)
        state, _ = episodes.record(state, Transition((), (), reward, done, done & False, (), {}))
    assert (tracker.state.returns == state.running_return).all()


def test_a_return_is_not_the_difference_of_larger_ones():
    tracker = EpisodeTracker([1], [4], {"a": torch.zeros(())}, {"observation": torch.zeros(())}, CAPACITY)
    reward, done = torch.tensor([[1e30], [0.25], [0.25], [0.25]]), torch.tensor([[True], [False], [False], [False]])
    _, so_far, _ = tracker.record(0, reward, done, {"a": reward}, {"observation": reward[-1]})
    assert so_far[:, 0].tolist() == [0.0, 0.0, 0.25, 0.5] and tracker.state.returns == 0.75


def test_a_part_has_the_actions_of_the_running_episodes():
    tracker = make_tracker()
    for worker, reward, done, action, after in batches(4, random.key(1)):
        tracker.record(worker, reward, done & False | (action["a"] == 9), action, after)
    for worker, steps in ((0, 16), (1, 32)):
        part = tracker.resume_point(worker)
        longest = steps - 10
        assert part.steps.tolist() == [longest] * COPIES[worker] and part.batches == 4
        if longest <= CAPACITY:
            assert part.actions["a"][:, 0].tolist() == list(range(10, steps))
        assert part.after["observation"].tolist() == [steps - 0.5] * COPIES[worker]
    assert tracker.overrun() == 22


def test_actions_take_room_as_episodes_take_steps():
    """Two workers whose batches have other lengths, without a limit that is known: each keeps the actions of all running episodes."""
    scalar = torch.zeros((), dtype=torch.int64)
    tracker = EpisodeTracker(COPIES, STEPS, {"a": scalar}, {"observation": torch.zeros(())}, 100_000)
    assert tree.nbytes(tracker.state.actions) == 0 and tracker.resume_point(1).actions["a"].shape == (0, 1)
    record, room = [[], []], []
    for worker, reward, done, action, after in batches(40, random.key(3)):
        n = len(record[worker]) // STEPS[worker]
        ends = torch.zeros_like(done)
        ends[0, 0] = n % 9 == 8  # the episode of the first copy; other copies end only in the 25th batch
        ends |= n == 25
        tracker.record(worker, reward, ends, action, after)
        record[worker] += action["a"][:, 0].tolist()
        part = tracker.resume_point(worker)
        longest = int(part.steps.max())
        assert part.actions["a"][:, 0].tolist() == record[worker][len(record[worker]) - longest :]
        room.append(tracker.capacity)
    assert tracker.state.steps.max() == 56 and room == sorted(room) and 100 <= room[-1] <= 200 and tracker.overrun() == 0
    again = EpisodeTracker(COPIES, STEPS, {"a": scalar}, {"observation": torch.zeros(())}, 100_000)
    again.restore(tree.clone(tracker.state))
    assert tree.equal(again.resume_point(0), tracker.resume_point(0)) and tree.equal(again.resume_point(1), tracker.resume_point(1))


def test_a_state_without_the_actions_of_its_episodes_is_refused():
    tracker = make_tracker()
    for item in batches(1, random.key(4)):
        tracker.record(*item[:2], item[2] & False, *item[3:])
    fewer = tracker.state.replace(actions={"a": tracker.state.actions["a"][:3]})
    more = tracker.state.replace(actions={"a": torch.zeros(CAPACITY + 1, 3, dtype=torch.int64)})
    for state in (fewer, more):
        with pytest.raises(
            ValueError,
            match=rf"up to 8 steps, and the limit here is 10, but the state stores the actions of {len(state.actions['a'])} steps;",
        ):
            make_tracker().restore(state)


def test_a_copied_state_does_not_change_with_the_tracker():
    tracker = make_tracker()
    items = list(batches(2, random.key(2)))
    for item in items[:2]:
        tracker.record(*item)
    kept = tree.clone(tracker.state)
    for item in items[2:]:
        tracker.record(*item)
    again = make_tracker()
    again.state = kept
    for item in items[2:]:
        again.record(*item)
    assert tree.equal(again.state, tracker.state)


def test_split_lays_one_trajectory_to_a_row():
    done = torch.tensor([[False, True], [True, False], [False, False]])
    number = torch.arange(6).reshape(3, 2)
    none = torch.zeros_like(done)
    step = Transition(number, number, number.float(), done, none, number, {"x": number})
    batch = Collected(step, number, number / 2, number + 10, ~none, torch.full_like(number, 7))
    rows = split(batch)
    assert rows.transition.observation.tolist() == [[0, 2], [4, 0], [1, 0], [3, 5]]
    assert rows.return_so_far.tolist() == [[0, 1], [2, 0], [0.5, 0], [1.5, 2.5]]
    assert rows.mask.tolist() == [[True, True], [True, False], [True, False], [True, True]]
    assert rows.traj_ids.tolist() == [[10, 12], [14, -1], [11, -1], [13, 15]]
    assert rows.version.tolist() == [[7, 7], [7, -1], [7, -1], [7, 7]]
    assert tree.batch_shape(rows, 2) == (4, 2) and rows.transition.terminated.dtype == torch.bool
