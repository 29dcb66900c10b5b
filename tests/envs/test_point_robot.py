import numpy as np
import pytest
import torch
from torch.func import vmap

from funrl import random
from funrl.envs import point_robot, sparse_point_robot
from funrl.envs._point_robot import PointRobotState
from tests.oracles import point_robot as plain

N = 1500


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_a_plain_one(oracle, dtype):
    env = point_robot()
    numbers = np.random.default_rng(0)
    position, action = numbers.uniform(-1, 1, (N, 2)), numbers.uniform(-0.2, 0.2, (N, 2))
    near = numbers.random(N) < 0.3
    position[near] = [0.4, 0.3] - action[near].clip(-0.1, 0.1) + numbers.normal(0, 0.008, (near.sum(), 2))
    times = oracle.times(numbers, N, 100)
    exact = dtype == torch.float64
    params = oracle.shortest(env.default_params.replace(goal=torch.tensor(0.0), start=torch.tensor(0.0))) if exact else env.default_params
    params = params.replace(goal=torch.tensor([0.4, 0.3], dtype=dtype), start=torch.zeros(2, dtype=dtype))
    state = PointRobotState(torch.as_tensor(position, dtype=dtype), torch.as_tensor(times))
    new, timestep = oracle.step(env, state, torch.as_tensor(action, dtype=dtype), params)

    reached, reward, terminated = zip(
        *(plain.step(x, a, [0.4, 0.3], 0.1, 0.01) for x, a in zip(position, action, strict=True)), strict=True
    )
    assert timestep.observation.dtype == timestep.reward.dtype == dtype
    tolerance = dict(rtol=1e-12, atol=1e-14) if exact else dict(rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(timestep.observation, reached, **tolerance)
    np.testing.assert_allclose(new.position, reached, **tolerance)
    np.testing.assert_allclose(timestep.reward, reward, **tolerance)
    clear = np.abs(np.sqrt(-np.array(reward)) - 0.01) > 1e-6
    np.testing.assert_array_equal(timestep.terminated.numpy()[clear], np.array(terminated)[clear])
    np.testing.assert_array_equal(timestep.truncated, times + 1 >= 100)
    assert clear.mean() > 0.99 and 0.05 < np.mean(terminated) < 0.5


def test_the_gradient_of_the_return_points_to_the_goal():
    """Gradient ascent on five actions, through five steps, walks towards each of four goals."""
    env = point_robot()
    goals = torch.tensor([[0.3, 0.2], [-0.3, 0.1], [0.2, -0.4], [-0.1, -0.2]])
    start, _ = env.reset(random.key(0))

    def reward(actions, goal):
        params, state, total = env.default_params.replace(goal=goal), start, 0.0
        for action in actions:
            state, timestep = env.step(random.key(0), state, action, params)
            total = total + timestep.reward
        return total

    actions = torch.zeros(4, 5, 2)
    before = vmap(reward)(actions, goals)
    for _ in range(50):
        actions = (actions + 0.02 * vmap(torch.func.grad(reward))(actions, goals)).clamp(-0.1, 0.1)
    assert torch.equal(actions[:, 0].sign(), goals.sign())
    assert (vmap(reward)(actions, goals) > 0.55 * before).all()


def test_there_is_a_gradient_at_the_goal_itself():
    env = point_robot()
    params = env.default_params
    state = PointRobotState(params.goal, torch.tensor(0))
    gradient = torch.func.grad(lambda action: env.step(random.key(0), state, action, params)[1].reward)(torch.zeros(2))
    assert torch.equal(gradient, torch.zeros(2))


def test_the_sparse_one_pays_at_the_goal_only():
    dense, sparse = point_robot(), sparse_point_robot()
    numbers = np.random.default_rng(0)
    position = torch.as_tensor(numbers.uniform(0, 0.8, (N, 2)), dtype=torch.float32)
    action = torch.as_tensor(numbers.uniform(-0.2, 0.2, (N, 2)), dtype=torch.float32)
    state, keys = PointRobotState(position, torch.zeros(N, dtype=torch.int64)), random.split(random.key(0), N)
    other, expected = vmap(dense.step, (0, 0, 0, None))(keys, state, action, sparse.default_params)
    new, timestep = vmap(sparse.step, (0, 0, 0, None))(keys, state, action, sparse.default_params)
    assert torch.equal(new.position, other.position) and torch.equal(timestep.terminated, expected.terminated)
    assert torch.equal(timestep.reward, expected.terminated.float()) and 0.01 < timestep.reward.mean() < 0.2
