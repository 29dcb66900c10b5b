"""Evolutionary learners reach what CartPole-v1 calls solved, five seeds each; benchmarks/evolution.py says after how many steps."""

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import random

SEEDS, GENERATIONS = 5, 20


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["openes", "cma_es", *(pytest.param(name, marks=pytest.mark.weekly) for name in ("pgpe", "snes", "ars"))])
def test_cartpole(name):
    env = funrl.envs.make("CartPole-v1")
    algo = funrl.algos.make(name, env)

    def search(key):
        init_key, key, evaluation_key = random.split(key, 3)

        def generation(state, keys):
            state, _ = algo.step(keys[0], state)
            options = {"env": env, "act": algo.greedy, "num_episodes": 20}
            return state, funrl.evaluate(state.learner.params, keys[1], env.default_params, **options).episode_return.mean()

        keys = torch.stack([random.split(key, GENERATIONS), random.split(evaluation_key, GENERATIONS)], 1)
        return funrl.scan(generation, algo.init(init_key), keys)[1]

    returns = funrl.compile(vmap(search))(random.split(random.key(0), SEEDS))
    assert (returns.amax(1) >= 475).all(), returns.amax(1)
    assert (returns[:, 0] < 475).all(), "it was there before it learned"
