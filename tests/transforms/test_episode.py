"""Begins and ends of episodes, compared with gymnasium and by hand."""

import gymnasium
import numpy as np
import pytest
import torch
from torch.func import vmap

import funrl
from funrl import envs, random, tree
from funrl.env import Timestep
from funrl.spaces import Binary, Box
from funrl.transforms import compose, end_of_life, frame_skip, init_tracker, noop_reset, step_counter, time_limit
from tests.oracles import gymnasium_twin as twin
from tests.transforms import toys

KEY = random.key(0)


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_time_limit_is_that_of_gymnasium(limit):
    twin.assert_agree(toys.arcade("position"), time_limit(limit), lambda env: gymnasium.wrappers.TimeLimit(env, limit))
    assert time_limit(limit)(toys.arcade()).max_episode_steps == min(limit, 5)


def test_step_counter_is_the_time_that_gymnasium_shows():
    def wrap(env):
        return gymnasium.wrappers.TimeAwareObservation(env, flatten=False, normalize_time=False)

    env = toys.arcade("position")
    ends = 0
    for timestep, observation, *_ in twin.play_both(env, compose_with_limit, lambda env: wrap(gymnasium.wrappers.TimeLimit(env, 4))):
        assert timestep.observation["step_count"].item() == observation["time"][0]
        np.testing.assert_allclose(timestep.observation["observation"], observation["obs"])
        ends += bool(timestep.done)
    assert ends > 3
    space = step_counter()(env).observation_space.spaces["step_count"]
    assert space.dtype == torch.int64 and space.shape == () and space.sample(KEY) >= 0


def compose_with_limit(env):
    return compose(env, time_limit(4), step_counter())


def test_init_tracker_marks_the_first_observation_only():
    env = init_tracker(out_key="first")(toys.arcade("level", max_steps=3))

    def act(params, key, observation):
        return env.action_space.sample(key), {}

    state = env.reset(KEY, env.default_params)
    _, batch = funrl.rollout(None, random.key(1), state, env.default_params, env=env, act=act, num_steps=20)
    started = torch.cat([torch.tensor([True]), batch.done[:-1]])
    assert torch.equal(batch.observation["first"], started) and not batch.next_observation["first"].any()
    assert env.observation_space.spaces["first"] == Binary()


def script(rewards, ends):
    """An environment that gives these rewards one after the other, and terminates where ``ends`` says; the observation is the time."""
    rewards, ends = torch.tensor(rewards), torch.tensor(ends)

    def show(time, reward, over):
        return time, Timestep(time, reward, over, torch.zeros_like(over), {})

    def reset(key, env_params):
        zero = torch.zeros_like(key)
        return show(zero, zero.float(), zero.bool())

    def step(key, time, action, env_params):
        place = torch.arange(len(rewards)) == time
        return show(time + 1, torch.where(place, rewards, 0.0).sum(), (place & ends).any())

    return toys.arcade()._replace(reset=reset, step=step, observation_space=Box(0, 99, (), torch.int64), max_episode_steps=10)


@pytest.mark.parametrize("kind", ["single", "batch", "host"])
def test_frame_skip_by_hand(kind):
    env = script([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], [False, False, False, False, True, False, False])
    env = {"single": lambda: env, "batch": lambda: envs.vectorize(env, 2), "host": lambda: toys.host(env, 2)}[kind]()
    skipped = frame_skip(3)(env)
    assert skipped.max_episode_steps == 4
    action = torch.tensor(1) if kind == "single" else torch.tensor([1, 1])
    state, timestep = skipped.reset(KEY, env.default_params)
    seen = []
    for _ in range(2):
        state, timestep = skipped.step(KEY, state, action, env.default_params)
        seen.append([x.reshape(-1)[0].item() for x in (timestep.reward, timestep.observation, timestep.terminated)])
    assert seen == [[7.0, 3, False], [24.0, 5, True]]


def test_frame_skip_of_one_is_the_environment_itself():
    env = envs.make("CartPole-v1")
    skipped = frame_skip(1)(env)
    state, _ = env.reset(KEY)
    assert torch.equal(skipped.step(KEY, state, torch.tensor(1))[1].observation, env.step(KEY, state, torch.tensor(1))[1].observation)


def test_gradients_flow_through_skipped_frames():
    env = frame_skip(2)(envs.make("Pendulum-v1"))
    state, _ = env.reset(KEY)

    def total(action):
        return env.step(KEY, state, action)[1].reward

    action, eps = torch.tensor([0.3]), 1e-3
    slope = (total(action + eps) - total(action - eps)) / (2 * eps)
    compiled = funrl.compile(torch.func.grad(total), backend="aot_eager")
    torch.testing.assert_close(torch.func.grad(total)(action), slope[None], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(compiled(action), torch.func.grad(total)(action))


def test_noop_reset_takes_each_number_of_steps_equally_often():
    env = noop_reset(4)(envs.make("Pendulum-v1"))
    state, timestep = vmap(env.reset, (0, None))(random.split(KEY, 4000), env.default_params)
    share = state.time.bincount(minlength=6).double() / 4000
    assert share.tolist() == pytest.approx([0, 0.25, 0.25, 0.25, 0.25, 0], abs=0.03)
    assert not timestep.reward.any() and not timestep.done.any()


def test_noop_reset_does_nothing_meanwhile():
    """The state is that of the environment's own reset and so many steps with torque 0, or with the action given."""
    base = envs.make("Pendulum-v1")
    for action in (None, torch.tensor([1.5])):
        env = noop_reset(3, action=action)(base)
        state, timestep = env.reset(KEY)
        expected, after = base.reset(random.split(KEY).unbind(0)[0])
        for _ in range(state.time):
            expected, after = base.step(KEY, expected, torch.zeros(1) if action is None else action)
        assert torch.equal(state.angle, expected.angle) and torch.equal(timestep.observation, after.observation)


@pytest.mark.parametrize("kind", ["single", "batch", "host"])
def test_noop_reset_begins_anew_where_the_episode_ends_meanwhile(kind):
    """The second step ends it: one no-op leaves the time at 1, more end in a reset and the time 0."""
    env = script([5.0, 5.0, 5.0, 5.0], [False, True, False, False])
    env = {
        "single": lambda: env,
        "batch": lambda: envs.vectorize(env, 8),
        "host": lambda: toys.host(env, 8),
    }[kind]()
    env, times = noop_reset(4)(env), []
    for seed in range(20 if kind == "single" else 3):
        _, timestep = env.reset(random.key(seed), env.default_params)
        assert not timestep.done.any() and not timestep.reward.any()
        times += timestep.observation.reshape(-1).tolist()
    assert set(times) == {0, 1} and 0.4 < times.count(0) / len(times) < 0.97


def test_noop_reset_of_a_batch_leaves_the_others_alone():
    env = noop_reset(3)(toys.host(envs.make("Pendulum-v1"), 3))
    state, _ = env.reset(KEY)
    for _ in range(4):
        state, _ = env.step(KEY, state, torch.zeros(3, 1))
    where = torch.tensor([False, True, False])
    new, _ = env.reset(random.key(1), env.default_params, state, where)
    assert torch.equal(new.number[~where], state.number[~where]) and 1 <= new.number[1] <= 3
    env.step(KEY, new, torch.zeros(3, 1))


@pytest.mark.parametrize("names", [("lives",), "position"])
def test_a_lost_life_ends_the_episode(names):
    base = toys.arcade(names, max_steps=100)
    env = end_of_life()(base)
    number = 64
    keys = random.split(KEY, (12, number))
    state, _ = vmap(env.reset, (0, None))(keys[0], env.default_params)
    below = state.below
    step, plain = (vmap(e.step, (0, 0, None, None)) for e in (env, base))
    lost = 0
    for t in range(1, 12):
        lives = below.lives
        below, before = plain(keys[t], below, torch.tensor(1), env.default_params)
        state, timestep = step(keys[t], state, torch.tensor(1), env.default_params)
        assert torch.equal(timestep.terminated, before.terminated | (below.lives < lives))
        assert torch.equal(timestep.truncated, before.truncated) and torch.equal(state.own, below.lives)
        lost += int((timestep.terminated & ~before.terminated).sum())
    assert lost > 20


def test_each_episode_of_a_rollout_is_one_life():
    env = end_of_life()(toys.arcade(("lives",), max_steps=100))

    def act(params, key, observation):
        return env.action_space.sample(key), {}

    state = env.reset(KEY, env.default_params)
    _, batch = funrl.rollout(None, random.key(1), state, env.default_params, env=env, act=act, num_steps=40)
    assert (batch.observation["lives"] == 3).all() and torch.equal(batch.terminated, batch.next_observation["lives"] == 2)
    assert batch.terminated.sum() > 5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: time_limit(0), ValueError, "time_limit: max_steps: expected an integer of at least 1, got 0"),
        (lambda: time_limit(1.5), TypeError, "time_limit: max_steps: expected an integer of at least 1, got 1.5"),
        (lambda: frame_skip(0), ValueError, "frame_skip: num: expected an integer of at least 1"),
        (lambda: frame_skip(True), TypeError, "frame_skip: num: expected an integer of at least 1, got True"),
        (lambda: noop_reset(0), ValueError, "noop_reset: noops: expected an integer of at least 1"),
        (lambda: noop_reset(action=torch.tensor(3))(toys.arcade()), ValueError, r"noop_reset: action: expected an element of Discrete"),
        (lambda: noop_reset(action=0)(toys.arcade()), ValueError, r"noop_reset: action: expected an element .*, got 0; give a tensor"),
        (lambda: step_counter(out_key="level")(toys.arcade()), ValueError, "step_counter: out_key: expected a new name, got 'level'"),
        (lambda: init_tracker(out_key=None)(toys.arcade()), TypeError, "init_tracker: out_key: expected a string, got None"),
        (
            lambda: end_of_life("keys")(toys.arcade()),
            ValueError,
            r"end_of_life: observation\['keys'\]: expected a single number, got Multi",
        ),
        (
            lambda: end_of_life("mask")(toys.arcade("level")).reset(KEY),
            ValueError,
            r"info\['mask'\]: expected a single number \[\], got \[3\]",
        ),
        (
            lambda: end_of_life("hearts")(toys.arcade("level")).reset(KEY),
            ValueError,
            "expected an entry 'hearts' in the observation or in info",
        ),
    ],
)
def test_bad_settings_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_order_of_limit_and_skip_counts():
    env = envs.make("Pendulum-v1")
    inner, outer = compose(env, time_limit(6), frame_skip(3)), compose(env, frame_skip(3), time_limit(6))
    assert (inner.max_episode_steps, outer.max_episode_steps) == (2, 6)
    lengths = []
    for chain in (inner, outer):
        state, timestep = chain.reset(KEY)
        length = 0
        while not timestep.truncated:
            state, timestep = chain.step(KEY, state, torch.zeros(1))
            length += 1
        lengths.append(length)
    assert lengths == [2, 6] and tree.leaves(state)
