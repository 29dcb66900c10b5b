"""frame_stack and time_max_pool, against gymnasium and by hand."""

import gymnasium
import numpy as np
import pytest
import torch
from torch.func import vmap

import funrl
from funrl import envs, random
from funrl.spaces import Binary, Box
from funrl.transforms import compose, frame_skip, frame_stack, time_max_pool
from tests.oracles import gymnasium_twin as twin
from tests.transforms import toys


@pytest.mark.parametrize("padding", ["reset", "zero"])
@pytest.mark.parametrize("num", [1, 4])
@pytest.mark.parametrize("make", [lambda: toys.arcade("pixels"), lambda: toys.arcade(("position", "flags"))])
def test_frame_stack_is_that_of_gymnasium(make, num, padding):
    env = make()
    keys = None if isinstance(env.observation_space, Box) else ["position", "flags"]

    def wrap(env):
        return gymnasium.wrappers.FrameStackObservation(env, num, padding_type=padding)

    twin.assert_agree(env, frame_stack(num, padding=padding, in_keys=keys), wrap)


def test_max_and_skip_is_that_of_gymnasium():
    env = envs.make("Pendulum-v1")

    def wrap(env):
        return gymnasium.wrappers.MaxAndSkipObservation(env, 4)

    def transform(env):
        return compose(env, time_max_pool(2), frame_skip(4))

    for timestep, observation, reward, *_ in list(twin.play_both(env, transform, wrap, num_steps=9))[1:]:
        np.testing.assert_allclose(timestep.observation, observation, rtol=1e-6)
        np.testing.assert_allclose(timestep.reward, reward, rtol=1e-5)


def test_time_max_pool_by_hand():
    env = time_max_pool(3)(toys.arcade("position", max_steps=9))
    state, timestep = env.reset(random.key(0), env.default_params)
    seen, older = [timestep.observation], 0
    for i in range(6):
        state, timestep = env.step(random.key(i), state, torch.tensor(0), env.default_params)
        seen.append(state.below.position)
        assert torch.equal(timestep.observation, torch.stack(seen[-3:]).amax(0))
        older += not torch.equal(timestep.observation, seen[-1])
    assert older


def test_spaces_follow():
    space = frame_stack(2, padding="zero")(envs.make("Pendulum-v1")._replace(observation_space=Box(1.0, 3.0, (2,)))).observation_space
    assert torch.equal(space.low, torch.tensor([[0.0, 0.0], [1.0, 1.0]])) and torch.equal(space.high, torch.full((2, 2), 3.0))
    env = toys.arcade()
    spaces = frame_stack(2, in_keys=["level", "flags", "keys"], out_keys=["a", "b", "c"])(env).observation_space.spaces
    assert spaces["a"] == Box(1, 4, (2,), torch.int64) and spaces["b"] == Binary((2, 2))
    assert (
        spaces["c"] == Box(0, torch.tensor([[2, 1], [2, 1]]), dtype=torch.int64)
        and spaces["level"] == env.observation_space.spaces["level"]
    )
    assert time_max_pool(2, in_keys=["level"])(env).observation_space == env.observation_space


def test_the_next_observation_of_a_rollout_is_the_true_successor():
    """Row by row: what was seen next begins with what was seen, also where the episode ends, and a new one begins with itself."""
    env = frame_stack(3)(toys.arcade("position", max_steps=3))

    def act(params, key, observation):
        return env.action_space.sample(key), {}

    state = vmap(env.reset, (0, None))(random.split(random.key(0), 4), env.default_params)
    _, batch = funrl.rollout(None, random.key(1), state, env.default_params, env=env, act=act, num_steps=12)
    assert torch.equal(batch.next_observation[:, :, :2], batch.observation[:, :, 1:])
    assert (batch.next_observation[:, :, 2] != batch.observation[:, :, 2]).any(-1).all()
    done, first = batch.done[:-1], batch.observation[1:]
    assert done.any() and torch.equal(first[~done], batch.next_observation[:-1][~done])
    assert torch.equal(first[done], first[done][:, -1:].expand(-1, 3, -1))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: frame_stack(0), ValueError, "frame_stack: num: expected an integer of at least 1, got 0"),
        (lambda: frame_stack(2.0), TypeError, "frame_stack: num: expected an integer of at least 1, got 2.0"),
        (lambda: frame_stack(2, padding="same"), ValueError, "padding: expected 'reset' or 'zero', got 'same'"),
        (lambda: time_max_pool(0), ValueError, "time_max_pool: num: expected an integer of at least 1"),
        (lambda: frame_stack(2)(toys.arcade()), ValueError, r"frame_stack: observation: expected a tensor, got a dict with the entries"),
        (lambda: frame_stack(2, in_keys="pixels"), TypeError, None),
    ],
)
def test_bad_settings_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()(toys.arcade()) if message is None else call()
