"""A pure environment as a gymnasium one, so that gymnasium's own wrappers can be put on it, and a step-for-step comparison."""

import gymnasium
import numpy as np
import torch

from funrl import random, spaces, tree

PARTS = {
    spaces.Box: lambda s: gymnasium.spaces.Box(s.low.numpy(), s.high.numpy(), dtype=s.low.numpy().dtype),
    spaces.Discrete: lambda s: gymnasium.spaces.Discrete(s.n, start=s.start),
    spaces.MultiDiscrete: lambda s: gymnasium.spaces.MultiDiscrete(s.nvec, start=s.start),
    spaces.Binary: lambda s: gymnasium.spaces.MultiBinary(s.shape),
    spaces.Dict: lambda s: gymnasium.spaces.Dict({name: convert(entry) for name, entry in s.spaces.items()}),
}


def convert(space):
    return PARTS[type(space)](space)


def numpy(value):
    return tree.map(lambda x: x.numpy(), value)


class Twin(gymnasium.Env):
    """``env`` with the keys of its resets and steps given in advance."""

    def __init__(self, env, reset_keys, step_keys):
        self.pure, self.reset_keys, self.step_keys = env, iter(reset_keys), iter(step_keys)
        self.observation_space, self.action_space = convert(env.observation_space), convert(env.action_space)

    def reset(self, *, seed=None, options=None):
        self.state, timestep = self.pure.reset(next(self.reset_keys), self.pure.default_params)
        return numpy(timestep.observation), numpy(timestep.info)

    def step(self, action):
        action = torch.as_tensor(np.asarray(action))
        self.state, timestep = self.pure.step(next(self.step_keys), self.state, action, self.pure.default_params)
        flags = bool(timestep.terminated), bool(timestep.truncated)
        return numpy(timestep.observation), timestep.reward.item(), *flags, numpy(timestep.info)


def play_both(env, transform, wrap, *, seed=0, num_steps=40):
    """Yield (timestep, observation, reward, terminated, truncated, info) of ``transform(env)`` and of ``wrap`` on its twin.

    Both get the same keys and random actions, and are reset together when either is done. The transform has to leave keys whole.
    """
    key, action_key = random.split(random.key(seed)).unbind(0)
    reset_keys, step_keys = (list(random.split(k, 8 * num_steps).unbind(0)) for k in random.split(key).unbind(0))
    actions = random.split(action_key, num_steps)
    ours, theirs = transform(env), wrap(Twin(env, reset_keys, step_keys))
    resets = 0
    state, timestep = ours.reset(reset_keys[resets], ours.default_params)
    observation, info = theirs.reset()
    yield timestep, observation, 0.0, False, False, info
    for t in range(num_steps):
        action = ours.action_space.sample(actions[t])
        state, timestep = ours.step(step_keys[t], state, action, ours.default_params)
        result = theirs.step(action.numpy() if action.ndim else action.item())
        yield timestep, *result
        if bool(timestep.done) or result[2] or result[3]:
            resets += 1
            state, timestep = ours.reset(reset_keys[resets], ours.default_params)
            observation, info = theirs.reset()
            yield timestep, observation, 0.0, False, False, info


def assert_agree(env, transform, wrap, *, tolerance=1e-6, **settings):
    """Raise unless both agree in observation, reward and flags at each step, and episodes end meanwhile."""
    ends = 0
    for timestep, observation, reward, terminated, truncated, _ in play_both(env, transform, wrap, **settings):
        assert_same(timestep.observation, observation, tolerance)
        np.testing.assert_allclose(timestep.reward.item(), reward, rtol=1e-5, atol=1e-6)
        assert (timestep.terminated.item(), timestep.truncated.item()) == (bool(terminated), bool(truncated))
        ends += terminated or truncated
    assert ends


def assert_same(ours, theirs, tolerance):
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert_same(ours[name], theirs[name], tolerance)
        return
    assert tuple(ours.shape) == np.shape(theirs)
    np.testing.assert_allclose(ours.numpy().astype(np.float64), np.asarray(theirs).astype(np.float64), rtol=tolerance, atol=tolerance)
