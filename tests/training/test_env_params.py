"""Evaluation in what the agents learn in: the ``env_params`` of their states, and not the environment's defaults."""

import torch

import funrl
from funrl import random, training, tree

ENV = funrl.envs.make("Pendulum-v1")
ENV = ENV._replace(max_episode_steps=20)


def test_evaluation_uses_the_env_params_of_the_state():
    algo = funrl.algos.ppo.make(ENV, num_envs=2, num_steps=4, num_minibatches=1)
    state, key = algo.init(random.key(0)), random.key(1)
    heavy = tree.update(state, ("learner", "env_params"), state.learner.env_params.replace(gravity=state.learner.env_params.gravity * 3))
    play_key = random.fold_in(random.split(key, 1)[0], -1)
    right = funrl.evaluate(heavy.learner.params, play_key, heavy.learner.env_params, env=ENV, act=algo.greedy, num_episodes=3)
    result = training.evaluate_agents(algo, heavy, key, 3)
    assert torch.equal(result.episode_return, right.episode_return)
    assert not torch.equal(result.episode_return, training.evaluate_agents(algo, state, key, 3).episode_return)
    metrics = {"steps": torch.tensor(1)}
    training.hooks.evaluation(algo, key, 3)(0, heavy, metrics)
    again = training.evaluate_agents(algo, heavy, random.fold_in(key, 0), 3)
    assert torch.equal(metrics["evaluation_return"], again.episode_return.mean())


def test_each_agent_plays_with_its_own():
    algo = funrl.algos.ppo.make(ENV, num_envs=2, num_steps=4, num_minibatches=1)
    states = torch.func.vmap(algo.init)(random.split(random.key(0), 2))
    gravity = torch.tensor([10.0, 30.0])
    states = tree.update(states, ("learner", "env_params"), states.learner.env_params.replace(gravity=gravity))
    key = random.key(1)
    both = training.evaluate_agents(algo, states, key, 3, num_agents=2).episode_return
    keys = random.split(key, 2)
    for i in range(2):
        one = tree.index(states, i)
        alone = funrl.evaluate(
            one.learner.params, random.fold_in(keys[i], -1), one.learner.env_params, env=ENV, act=algo.greedy, num_episodes=3
        )
        torch.testing.assert_close(both[i], alone.episode_return)


def test_another_environment_is_played_in_with_its_own():
    algo = funrl.algos.ppo.make(ENV, num_envs=2, num_steps=4, num_minibatches=1)
    wrapped = funrl.transforms.compose(ENV, funrl.transforms.vec_norm())
    metrics = {"steps": torch.tensor(1)}
    training.hooks.evaluation(algo, random.key(1), 3, env=wrapped)(0, algo.init(random.key(0)), metrics)
    assert metrics["evaluation_return"].isfinite()
