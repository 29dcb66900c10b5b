"""Goals of hindsight, against naive walks through the episodes that a buffer holds."""

import collections

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import buffers, random, tree
from funrl.env import Transition


def reward(achieved, goal, action):
    """Tell achieved goal, goal and action apart in one number."""
    return achieved[0] + 1000 * goal[0] + 1e6 * action, achieved[0] == goal[0]


def steps(flags):
    """Steps of E environments: flags[t][e] says whether the step ended an episode. The goal achieved by step t of e is 10 t + e."""
    done = torch.tensor(flags, dtype=torch.bool)
    time, env = torch.meshgrid(torch.arange(len(flags)), torch.arange(done.shape[1]), indexing="ij")
    number = (10 * time + env).double()[..., None]

    def observed(x, goal):
        return {"observation": x, "achieved_goal": x, "desired_goal": goal}

    goal = torch.full_like(number, -1.0)
    return Transition(observed(number - 10, goal), number[..., 0] / 4, -torch.ones(done.shape, dtype=torch.float64), done & (time % 2 == 0),
                      done & (time % 2 == 1), observed(number, goal), {})  # fmt: skip


def written(buffer, transitions, sizes):
    state, start = buffer.init(tree.index(transitions, (0, 0))), 0
    for size in sizes:
        rows = tree.index(transitions, slice(start, start + size))
        state, start = buffer.extend(state, tree.reshape(rows, (-1,), batch_dims=2)), start + size
    return state


def expected(flags, total, capacity, strategy):
    """The goals that each stored step may get: a set of times, by (time, environment)."""
    envs, result = len(flags[0]), {}
    oldest = max(0, total - capacity // envs)
    for e in range(envs):
        for t in range(oldest, total):
            first = t
            while first > oldest and not flags[first - 1][e]:
                first -= 1
            last = t
            while last < total - 1 and not flags[last][e]:
                last += 1
            result[t, e] = {"final": {last}, "future": set(range(t, last + 1)), "episode": set(range(first, last + 1))}[strategy]
    return result


FLAGS = [[False, True], [False, True], [True, False], [False, False], [False, True], [False, False], [True, False], [True, False],
         [False, False], [False, True], [False, False]]  # fmt: skip


@pytest.mark.parametrize("strategy", ["final", "future", "episode"])
@pytest.mark.parametrize(("capacity", "sizes"), [(40, (4, 1, 6)), (12, (4, 3, 4)), (8, (11,)), (2, (1,) * 11)])
def test_goals_are_those_of_the_same_episode(strategy, capacity, sizes):
    total = sum(sizes)
    buffer = buffers.hindsight(capacity, reward, num_envs=2, strategy=strategy, ratio=float("inf"))
    state = written(buffer, steps(FLAGS), sizes)
    sample = buffer.sample(random.key(0), state, 4000)
    batch, seen = sample.batch, collections.defaultdict(collections.Counter)
    achieved, goal = (batch.next_observation[name][:, 0] for name in ("achieved_goal", "desired_goal"))
    for x, g in zip(achieved.long().tolist(), goal.long().tolist(), strict=True):
        assert g % 10 == x % 10
        seen[x // 10, x % 10][g // 10] += 1
    wanted = expected(FLAGS, total, capacity, strategy)
    assert {place: set(counts) for place, counts in seen.items()} == wanted
    for place, counts in seen.items():  # uniform, to five deviations
        n, k = counts.total(), len(wanted[place])
        assert abs(n - 4000 / len(wanted)) < 5 * (4000 / len(wanted)) ** 0.5
        assert all(abs(count - n / k) < 5 * (n / k) ** 0.5 for count in counts.values())
    torch.testing.assert_close(batch.observation["desired_goal"][:, 0], goal)
    torch.testing.assert_close(batch.reward, achieved + 1000 * goal + 1e6 * batch.action)
    assert torch.equal(batch.terminated, achieved == goal)
    assert batch.reward.dtype == torch.float64 and torch.equal(batch.observation["observation"][:, 0], achieved - 10)


def test_the_ratio_is_that_of_relabelled_to_real_transitions():
    for ratio, share in ((0.0, 0.0), (1.0, 0.5), (4.0, 0.8)):
        buffer = buffers.hindsight(40, reward, num_envs=2, ratio=ratio)
        state = written(buffer, steps(FLAGS), (11,))
        batch = buffer.sample(random.key(1), state, 5000).batch
        new = batch.observation["desired_goal"][:, 0] >= 0
        assert abs(new.double().mean() - share) < 0.03
        real = tree.index(batch, ~new)
        assert (real.reward == -1).all() and torch.equal(
            real.observation["desired_goal"], torch.full_like(real.observation["achieved_goal"], -1)
        )


def test_restored_from_its_rows_it_draws_the_same():
    for capacity, sizes in ((40, (4, 1, 6)), (12, (5, 6)), (2, (1,) * 11)):
        buffer = buffers.hindsight(capacity, reward, num_envs=2, strategy="episode")
        state = written(buffer, steps(FLAGS), sizes)
        again = buffer.restore(state.ring)
        for key in random.split(random.key(0), 3):
            assert tree.equal(buffer.sample(key, state, 50), buffer.sample(key, again, 50))
        more = tree.reshape(steps(FLAGS[:1]), (-1,), batch_dims=2)
        one, other = buffer.extend(state, more), buffer.extend(again, more)
        assert tree.equal(buffer.sample(random.key(9), one, 50), buffer.sample(random.key(9), other, 50))


def test_buffers_in_files_go_on_where_they_ended(tmp_path):
    buffer = buffers.in_place(buffers.hindsight(12, reward, num_envs=2, storage=buffers.files(tmp_path)))
    twin = buffers.hindsight(12, reward, num_envs=2)
    transitions = steps(FLAGS)
    written(buffer, transitions, (4, 4))
    state = buffers.reopen(buffer, tree.index(transitions, (0, 0)))
    rows = tree.reshape(tree.index(transitions, slice(8, 11)), (-1,), batch_dims=2)
    state = buffer.extend(state, rows)
    other = written(twin, transitions, (4, 4, 3))
    assert tree.equal(buffer.sample(random.key(2), state, 30).batch, twin.sample(random.key(2), other, 30).batch)


@pytest.mark.slow
def test_a_step_of_an_agent_with_it_compiles_under_vmap():
    env = funrl.envs.make("BitFlip-misc", num_bits=4)
    buffer = buffers.hindsight(64, funrl.envs.goal_reward(env), num_envs=2)
    algo = funrl.algos.dqn.make(env, buffer=buffer, num_envs=2, num_steps=4, num_updates=2, batch_size=8, num_cells=(8,), learning_starts=0)
    funrl.algos.check(algo, random.key(0))


@pytest.mark.parametrize("name", ["sac", "td3", "ddpg"])
def test_continuous_learners_take_it_and_its_dicts(name):
    env = funrl.envs.make("GoalPointRobot-misc")
    buffer = buffers.hindsight(64, funrl.envs.goal_reward(env), num_envs=2, ratio=float("inf"), strategy="final")
    options = dict(num_envs=2, num_steps=4, num_updates=2, batch_size=8, num_cells=(8,), learning_starts=0)
    algo = funrl.algos.make(name, env, buffer=buffer, **options)
    state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
    assert metrics["critic_loss"].isfinite() and metrics["updates"] == 2 and buffer.size(state.learner.buffer) == 8


def test_breaks_of_a_collector_end_episodes():
    env = funrl.envs.make("BitFlip-misc", num_bits=30)
    buffer = buffers.hindsight(64, funrl.envs.goal_reward(env), num_envs=2, strategy="episode", ratio=float("inf"))
    algo = funrl.algos.dqn.make(env, buffer=buffer, num_envs=2, num_steps=4, num_updates=1, batch_size=4, num_cells=(4,))
    state = algo.init(random.key(0))
    _, transitions = algo.collect(random.key(1), state)
    count = torch.arange(4)[:, None].expand(4, 2)
    place = funrl.env.Place(torch.zeros(4, 2, dtype=torch.int64), count, torch.zeros(4, 2))
    learner = state.learner
    for i in range(2):  # the same rollout twice: the second does not follow the first
        learner, _ = algo.learn(random.key(i), learner, transitions.replace(place=place))
    assert learner.buffer.ring.data[1][:16].tolist() == [0] * 8 + [1] * 8
    gap = (
        place.replace(step_count=count + (count > 1))
        if hasattr(place, "replace")
        else funrl.env.Place(place.number, count + (count > 1), place.return_so_far)
    )
    learner, _ = algo.learn(random.key(2), learner, transitions.replace(place=gap))
    assert learner.buffer.ring.data[1][16:24].tolist() == [2] * 4 + [3] * 4


def test_wrong_arguments():
    env = funrl.envs.make("BitFlip-misc", num_bits=4)
    good = funrl.envs.goal_reward(env)
    for options, message in (
        (dict(num_envs=3), "num_envs: expected a divisor of capacity = 64"),
        (dict(strategy="furure"), "strategy: expected .*future"),
        (dict(ratio=-1.0), "ratio: expected"),
        (dict(reward=3), "reward: expected a function"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            buffers.hindsight(64, **{"reward": good, **options})
    make = lambda buffer, **options: funrl.algos.dqn.make(env, buffer=buffer, num_envs=2, num_steps=4, **options)  # noqa: E731
    with pytest.raises(ValueError, match="made for num_envs = 1, but the algorithm has num_envs = 2"):
        make(buffers.hindsight(64, good))
    with pytest.raises(ValueError, match="buffer, n_step: expected n_step = 1"):
        make(buffers.hindsight(64, good, num_envs=2), n_step=2)
    with pytest.raises(ValueError, match="a dict with observation, achieved_goal, desired_goal"):
        funrl.algos.make("dqn", "CartPole-v1", buffer=buffers.hindsight(64, good)).init(random.key(0))
    with pytest.raises(ValueError, match=r"envs.goal_reward: env: expected one with goals, .*, got CartPole-v1"):
        funrl.envs.goal_reward(funrl.envs.make("CartPole-v1"))
    buffer, rows = buffers.hindsight(64, good, num_envs=2), tree.reshape(steps(FLAGS), (-1,), batch_dims=2)
    with pytest.raises(ValueError, match="extend: num_envs: expected a divisor of rows = 3, got 2"):
        buffer.extend(buffer.init(tree.index(rows, 0)), tree.index(rows, slice(0, 3)))
    with pytest.raises(TypeError, match="reward: terminated: expected a bool tensor"):
        wrong = buffers.hindsight(64, lambda achieved, goal, action: (achieved[0], achieved[0]), num_envs=2)
        wrong.sample(random.key(0), written(wrong, steps(FLAGS), (4,)), 4)
    with pytest.raises(TypeError, match=r"reward: expected it to return the pair \(reward, terminated\), got a Tensor"):
        wrong = buffers.hindsight(64, lambda achieved, goal, action: achieved[0], num_envs=2)
        wrong.sample(random.key(0), written(wrong, steps(FLAGS), (4,)), 4)


def test_each_agent_has_a_buffer_of_its_own():
    buffer = buffers.hindsight(12, reward, num_envs=2)
    states = [written(buffer, steps(FLAGS), sizes) for sizes in ((4, 2), (4, 4), (5, 6))]
    keys = random.split(random.key(0), 3)
    together = vmap(lambda key, state: buffer.sample(key, state, 20))(keys, tree.stack(states))
    assert tree.equal(together, tree.stack([buffer.sample(key, state, 20) for key, state in zip(keys, states, strict=True)]))
