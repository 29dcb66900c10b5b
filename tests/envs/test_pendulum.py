import math

import numpy as np
import pytest
import torch

from funrl.envs import pendulum
from funrl.envs._pendulum import PendulumState

N = 2000


@pytest.fixture(scope="module")
def cases():
    numbers = np.random.default_rng(0)
    states = numbers.uniform([-12, -8], [12, 8], (N, 2))
    near = numbers.random(N) < 0.3  # where the angle wraps
    states[near, 0] = numbers.choice([-3, -1, 1, 3], near.sum()) * math.pi + numbers.normal(0, 1e-3, near.sum())
    near = numbers.random(N) < 0.3  # where the speed is clipped
    states[near, 1] = numbers.choice([-8, 8], near.sum()) + numbers.normal(0, 0.1, near.sum())
    actions = numbers.uniform(-4, 4, (N, 1))  # half of them beyond what the motor gives
    return states.astype(np.float32), actions.astype(np.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_gymnasium(oracle, cases, dtype):
    env = pendulum()
    states, actions = cases
    times = oracle.times(np.random.default_rng(1), N, 200)
    theirs = oracle.play("Pendulum-v1", states.astype(np.float64), actions.astype(np.float64), times)
    exact = dtype == torch.float64
    params = oracle.shortest(env.default_params) if exact else env.default_params
    state = PendulumState(*torch.as_tensor(states, dtype=dtype).unbind(1), torch.as_tensor(times))
    new, timestep = oracle.step(env, state, torch.as_tensor(actions, dtype=dtype), params)

    tolerance = {"rtol": 1e-12, "atol": 1e-12} if exact else {"rtol": 1e-5, "atol": 1e-5}
    assert timestep.observation.dtype == timestep.reward.dtype == dtype
    np.testing.assert_allclose(torch.stack([new.angle, new.angular_velocity], 1), theirs.state, **tolerance)
    np.testing.assert_allclose(timestep.observation, theirs.observation, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(timestep.reward, theirs.reward, **tolerance)
    np.testing.assert_array_equal(timestep.terminated, theirs.terminated)
    np.testing.assert_array_equal(timestep.truncated, theirs.truncated)
    assert theirs.truncated.any() and not theirs.truncated.all()
    assert (abs(theirs.state[:, 1]) == 8).sum() > 100


def test_resets_all_around():
    env = pendulum()
    state, timestep = torch.func.vmap(env.reset, (0, None))(torch.arange(4000), env.default_params)
    assert state.angle.min() < -3.1 and state.angle.max() > 3.1
    assert state.angular_velocity.min() < -0.99 and state.angular_velocity.max() > 0.99
    torch.testing.assert_close(timestep.observation[:, 0], torch.cos(state.angle))
