import numpy as np
import pytest
import torch

from funrl.envs import continuous_mountain_car
from funrl.envs._mountain_car import MountainCarState

N = 2000


@pytest.fixture(scope="module")
def cases():
    numbers = np.random.default_rng(0)
    states = numbers.uniform([-1.2, -0.07], [0.6, 0.07], (N, 2))
    near = numbers.random(N) < 0.5  # at the goal and at the wall
    states[near, 0] = numbers.choice([-1.2, 0.45], near.sum()) - states[near, 1] + numbers.normal(0, 2e-3, near.sum())
    states[:, 0] = np.clip(states[:, 0], -1.2, 0.6)
    actions = numbers.uniform(-2, 2, (N, 1))  # half of them beyond the pedal
    return states.astype(np.float32), actions.astype(np.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_gymnasium(oracle, cases, dtype):
    env = continuous_mountain_car()
    states, actions = cases
    times = oracle.times(np.random.default_rng(1), N, 999)
    theirs = oracle.play("MountainCarContinuous-v0", states.astype(np.float64), actions.astype(np.float64), times)
    exact = dtype == torch.float64
    params = oracle.shortest(env.default_params) if exact else env.default_params
    state = MountainCarState(*torch.as_tensor(states, dtype=dtype).unbind(1), torch.as_tensor(times))
    _, timestep = oracle.step(env, state, torch.as_tensor(actions, dtype=dtype), params)

    assert timestep.observation.dtype == timestep.reward.dtype == dtype
    position, velocity = theirs.state.T
    margin = np.minimum(abs(position - 0.45), np.where(position > np.float32(-1.2), abs(position + 1.2), 1.0))
    clear = margin > (1e-7 if exact else 1e-6)  # gymnasium keeps its state in float32
    assert clear.mean() > 0.98 and (margin < 1e-3).sum() > 100
    np.testing.assert_allclose(
        timestep.observation[clear], theirs.observation[clear], rtol=1e-7 if exact else 2e-5, atol=1e-8 if exact else 1e-6
    )
    np.testing.assert_array_equal(timestep.terminated.numpy()[clear], theirs.terminated[clear])
    np.testing.assert_allclose(timestep.reward.numpy()[clear], theirs.reward[clear], rtol=1e-12 if exact else 1e-6, atol=1e-7)
    np.testing.assert_array_equal(timestep.truncated, theirs.truncated)
    assert 0.02 < theirs.terminated.mean() < 0.8
    assert (theirs.terminated & theirs.truncated).any()
    assert ((position == np.float32(-1.2)) & (velocity == 0)).sum() > 10
    assert ((position >= 0.46) & ~theirs.terminated).any()
