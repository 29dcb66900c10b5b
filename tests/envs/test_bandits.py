import numpy as np
import pytest
import torch
from torch.func import vmap

from funrl import random, tree
from funrl.envs import bernoulli_bandit, gaussian_bandit
from funrl.envs._bandits import BanditState
from tests.oracles import bandits as plain

N = 1500


def cases(num_arms):
    keys = random.split(random.key(0), N)
    arms, times = (torch.as_tensor(np.random.default_rng(0).integers(0, high, N)) for high in (num_arms, 100))
    state = BanditState(torch.zeros(N, num_arms).double(), torch.zeros(N).double(), times)
    return keys, state, arms


def check(timestep, arms, times, rewards, num_arms):
    np.testing.assert_allclose(timestep.reward, rewards, rtol=1e-12)
    for i in range(N):
        seen = plain.observation(num_arms, arms[i].item(), rewards[i], times[i].item() + 1, 100)
        np.testing.assert_allclose(timestep.observation[i], seen, rtol=1e-12)
        assert timestep.truncated[i] == (times[i] + 1 >= 100)
    assert not timestep.terminated.any() and timestep.truncated.any()


def test_bernoulli_agrees_with_a_plain_one():
    env = bernoulli_bandit(num_arms=3)
    probability = [0.2, 0.7, 0.45]
    params = env.default_params.replace(probability=torch.tensor(probability, dtype=torch.float64))
    keys, state, arms = cases(3)
    new, timestep = vmap(env.step, (0, 0, 0, None))(keys, state, arms, params)
    uniform = vmap(lambda key: random.uniform(key, dtype=torch.float64))(keys).tolist()
    rewards = [plain.bernoulli(probability, arm, u) for arm, u in zip(arms.tolist(), uniform, strict=True)]
    check(timestep, arms, state.time, rewards, 3)
    assert torch.equal(new.reward, timestep.reward) and torch.equal(new.time, state.time + 1)
    means = [timestep.reward[arms == arm].mean().item() for arm in range(3)]
    np.testing.assert_allclose(means, probability, atol=0.1)


def test_gaussian_agrees_with_a_plain_one():
    env = gaussian_bandit(num_arms=4)
    means, scales = [0.5, -2.0, 0.0, 3.0], [0.1, 1.0, 0.0, 2.0]
    params = env.default_params.replace(mean=torch.tensor(means, dtype=torch.float64), scale=torch.tensor(scales, dtype=torch.float64))
    keys, state, arms = cases(4)
    _, timestep = vmap(env.step, (0, 0, 0, None))(keys, state, arms, params)
    noise = vmap(lambda key: random.normal(key, dtype=torch.float64))(keys).tolist()
    rewards = [plain.gaussian(means, scales, arm, e) for arm, e in zip(arms.tolist(), noise, strict=True)]
    check(timestep, arms, state.time, rewards, 4)
    np.testing.assert_allclose([timestep.reward[arms == arm].std().item() for arm in range(4)], scales, rtol=0.15)


def test_a_gaussian_reward_is_differentiable_in_the_arms():
    env = gaussian_bandit(num_arms=2)
    params = tree.to(env.default_params, torch.float64)
    state, _ = env.reset(random.key(0), params)

    def reward(mean, scale):
        return env.step(random.key(5), state, torch.tensor(1), params.replace(mean=mean, scale=scale))[1].reward

    mean, scale = torch.func.grad(reward, (0, 1))(params.mean, params.scale)
    noise = random.normal(random.key(5), dtype=torch.float64).item()
    assert mean.tolist() == [0.0, 1.0] and scale.tolist() == pytest.approx([0.0, noise])


def test_each_copy_has_its_own_arms():
    env = bernoulli_bandit(num_arms=2)
    params = env.default_params.replace(probability=torch.tensor([[0.0, 1.0], [1.0, 0.0]]), max_steps=torch.tensor([100, 100]))
    state, timestep = vmap(env.reset)(torch.arange(2), params)
    assert not timestep.observation.any()
    _, timestep = vmap(env.step)(torch.arange(2), state, torch.tensor([1, 1]), params)
    assert timestep.reward.tolist() == [1.0, 0.0]


def test_wrong_arms_are_refused():
    env = bernoulli_bandit(num_arms=2)
    state, _ = env.reset(random.key(0))
    with pytest.raises(ValueError, match=r"env_params: leaf \.probability is float32 \[3\], but in default_params"):
        env.step(random.key(0), state, torch.tensor(0), env.default_params.replace(probability=torch.rand(3)))
    with pytest.raises(ValueError, match=r"expected p in \[0, 1\]"):
        env.step(random.key(0), state, torch.tensor(0), env.default_params.replace(probability=torch.tensor([1.5, 0.0])))
