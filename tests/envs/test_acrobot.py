import math

import numpy as np
import pytest
import torch

from funrl.envs import acrobot
from funrl.envs._acrobot import AcrobotState

N = 1500


@pytest.fixture(scope="module")
def cases():
    numbers = np.random.default_rng(0)
    high = np.array([math.pi, math.pi, 4 * math.pi, 9 * math.pi])
    states = numbers.uniform(-high, high, (N, 4))
    calm = numbers.random(N) < 0.5  # the speeds of real play
    states[calm, 2:] *= 0.2
    near = numbers.random(N) < 0.5  # at rest with the tip about at the line
    a1 = numbers.uniform(0.6 * math.pi, 0.9 * math.pi, near.sum())
    states[near] = np.stack([a1, np.arccos(np.clip(-1 - np.cos(a1), -1, 1)) - a1, 0 * a1, 0 * a1], 1) + numbers.normal(
        0, 0.03, (near.sum(), 4)
    )
    return states.astype(np.float32), numbers.integers(0, 3, N)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_gymnasium(oracle, cases, dtype):
    env = acrobot()
    states, actions = cases
    times = oracle.times(np.random.default_rng(1), N, 500)
    theirs = oracle.play("Acrobot-v1", states.astype(np.float64), actions, times)
    exact = dtype == torch.float64
    params = env.default_params
    if exact:
        params = oracle.shortest(params, max_speed_1=4 * math.pi, max_speed_2=9 * math.pi)
    state = AcrobotState(*torch.as_tensor(states, dtype=dtype).unbind(1), torch.as_tensor(times))
    new, timestep = oracle.step(env, state, torch.as_tensor(actions), params)

    assert timestep.observation.dtype == timestep.reward.dtype == dtype
    angles, speeds = (
        torch.stack([new.angle_1, new.angle_2], 1).numpy(),
        torch.stack([new.angular_velocity_1, new.angular_velocity_2], 1).numpy(),
    )
    assert abs(angles).max() <= math.pi + 1e-6
    turn = angles - theirs.state[:, :2]
    tolerance = 1e-10 if exact else 2e-4
    np.testing.assert_allclose(turn - 2 * math.pi * np.round(turn / (2 * math.pi)), 0, atol=tolerance)
    np.testing.assert_allclose(speeds, theirs.state[:, 2:], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(timestep.observation, theirs.observation, rtol=2e-4, atol=2e-4)
    np.testing.assert_array_equal(timestep.truncated, theirs.truncated)
    margin = abs(-np.cos(theirs.state[:, 0]) - np.cos(theirs.state[:, 0] + theirs.state[:, 1]) - 1)
    clear = margin > (0 if exact else 1e-4)
    assert clear.mean() > 0.98 and (margin < 1e-2).sum() > 20
    np.testing.assert_array_equal(timestep.terminated.numpy()[clear], theirs.terminated[clear])
    np.testing.assert_array_equal(timestep.reward.numpy()[clear], theirs.reward[clear])
    assert 0.05 < theirs.terminated.mean() < 0.9
    assert (theirs.terminated & theirs.truncated).any()
    assert (abs(theirs.state[:, 3]) == 9 * math.pi).sum() > 10


def test_without_torque_and_gravity_the_energy_is_kept():
    env = acrobot()
    params = env.default_params.replace(gravity=torch.tensor(0.0), dt=torch.tensor(0.01))
    state, _ = env.reset(torch.tensor(1), params)
    state = state.replace(angle_2=torch.tensor(0.7), angular_velocity_1=torch.tensor(0.9))

    def energy(s):
        c = torch.cos(s.angle_2)
        d11, d12, d22 = 1 + 1 + 0.25 + 0.25 + 1 + c, 0.25 + 1 + 0.5 * c, 0.25 + 1
        v1, v2 = s.angular_velocity_1, s.angular_velocity_2
        return 0.5 * (d11 * v1 * v1 + 2 * d12 * v1 * v2 + d22 * v2 * v2)

    before = energy(state)
    for _ in range(50):
        state, _ = env.step(torch.tensor(0), state, torch.tensor(1), params)
    torch.testing.assert_close(energy(state), before, rtol=1e-4, atol=1e-4)
