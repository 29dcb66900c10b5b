import math

import numpy as np
import pytest
import torch

from funrl.envs import cartpole
from funrl.envs._cartpole import CartPoleState

N = 2000


@pytest.fixture(scope="module")
def cases():
    numbers = np.random.default_rng(0)
    states = numbers.uniform([-2.6, -4, -0.25, -4], [2.6, 4, 0.25, 4], (N, 4))
    near = numbers.random(N) < 0.5
    states[near, 0] = numbers.choice([-2.4, 2.4], near.sum()) + numbers.normal(0, 1e-3, near.sum()) - 0.02 * states[near, 1]
    near = numbers.random(N) < 0.5
    states[near, 2] = numbers.choice([-1, 1], near.sum()) * math.radians(12) + numbers.normal(0, 1e-4, near.sum()) - 0.02 * states[near, 3]
    return states.astype(np.float32), numbers.integers(0, 2, N)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_gymnasium(oracle, cases, dtype):
    env = cartpole()
    states, actions = cases
    times = oracle.times(np.random.default_rng(1), N, 500)
    theirs = oracle.play("CartPole-v1", states.astype(np.float64), actions, times)
    exact = dtype == torch.float64
    params = oracle.shortest(env.default_params, angle_limit=math.radians(12)) if exact else env.default_params
    state = CartPoleState(*torch.as_tensor(states, dtype=dtype).unbind(1), torch.as_tensor(times))
    new, timestep = oracle.step(env, state, torch.as_tensor(actions), params)

    assert timestep.observation.dtype == timestep.reward.dtype == dtype
    np.testing.assert_allclose(timestep.observation, theirs.state, rtol=1e-12 if exact else 2e-5, atol=1e-12 if exact else 2e-6)
    np.testing.assert_allclose(timestep.observation, theirs.observation, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(timestep.reward, theirs.reward)
    np.testing.assert_array_equal(timestep.truncated, theirs.truncated)
    margin = np.minimum(abs(abs(theirs.state[:, 0]) - 2.4), abs(abs(theirs.state[:, 2]) - math.radians(12)))
    clear = margin > (0 if exact else 2e-6)
    assert clear.mean() > 0.98 and (margin < 1e-4).sum() > 100
    np.testing.assert_array_equal(timestep.terminated.numpy()[clear], theirs.terminated[clear])
    assert 0.2 < theirs.terminated.mean() < 0.8
    assert (theirs.terminated & theirs.truncated).any() and (theirs.truncated & ~theirs.terminated).any()
    assert torch.equal(new.time, state.time + 1)


def test_the_pole_falls_more_slowly_with_less_gravity():
    env = cartpole()
    state, _ = env.reset(torch.tensor(5))
    state = state.replace(angle=torch.tensor(0.1))
    moon = env.default_params.replace(gravity=torch.tensor(1.6))
    fast, slow = (env.step(torch.tensor(0), state, torch.tensor(1), p)[0].angular_velocity for p in (env.default_params, moon))
    assert fast > slow
