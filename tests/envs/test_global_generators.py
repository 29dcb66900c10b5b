"""Environments that draw from the global generators of numpy, torch and random."""

import random as python_random

import gymnasium as gym
import numpy as np
import pytest
import torch

import funrl
from funrl import collectors, random


class Noisy(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 1, (4,)), gym.spaces.Discrete(2)

    def __init__(self):
        self.made = np.random.rand()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.look(), {}

    def look(self):
        return np.array([np.random.rand(), torch.rand(()).item(), python_random.random(), self.made], np.float32)

    def step(self, action):
        return self.look(), 0.0, False, False, {}


@pytest.fixture(autouse=True)
def registered():
    gym.register("FunrlNoisy-v0", entry_point=Noisy)
    yield
    del gym.registry["FunrlNoisy-v0"]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_copies_differ_and_the_same_key_gives_the_same(vectorization):
    with funrl.envs.make("gymnasium:FunrlNoisy-v0", num_envs=3, vectorization=vectorization) as env:

        def play(key):
            state, timestep = env.reset(random.key(key))
            _, after = env.step(random.key(9), state, torch.zeros(3, dtype=torch.int64))
            return torch.cat([timestep.observation[:, :3], after.observation[:, :3]])

        first = play(0)
        assert len(first.unique(dim=0)) == 6 and all(len(column.unique()) == 6 for column in first.T)
        assert torch.equal(first, play(0)) and not (first == play(1)).any()


def test_workers_of_collectors_are_seeded_from_the_key():
    def create():
        return funrl.envs.gymnasium.wrap(Noisy())

    def collect(key):
        with collectors.synchronous(create, None, (), num_workers=2, frames_per_batch=6, total_frames=6, key=random.key(key)) as collector:
            return next(collector).transition.observation

    first = collect(7)
    assert torch.equal(first, collect(7)) and not (first[:, 0] == first[:, 1]).any() and not (first == collect(8)).any()
