"""Scores, fitted Q evaluation, and the returns that tuning reaches."""

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import offline, random
from tests.offline.data import bandit


def test_scores():
    assert float(offline.normalized_score(torch.tensor(-20.272305), "gymnasium:Hopper-v5")) == 0.0
    assert float(offline.normalized_score(torch.tensor(12135.0), "HalfCheetah-v4")) == pytest.approx(100.0)
    with pytest.raises(ValueError, match="expected one of HalfCheetah, Hopper"):
        offline.normalized_score(torch.tensor(1.0), "CartPole-v1")
    with pytest.raises(ValueError, match="expected env, or low and high that differ"):
        offline.normalized_score(torch.tensor(1.0), low=3.0)


def test_fitted_q_evaluation_of_a_policy_without_extras():
    with pytest.raises(TypeError, match=r"fitted_q_evaluation: act: expected it to return the pair \(action, extras\), got a Tensor"):
        offline.fitted_q_evaluation(None, random.key(0), dataset=bandit(), act=lambda *_: torch.zeros(1), num_updates=10, num_cells=(2,))


def test_fitted_q_evaluation_finds_the_values_of_two_policies():
    """Of one-step episodes with rewards 1 - (a - 0.5)^2: those of a = 0.5 and a = -0.25 are 1 and 0.4375."""
    data = bandit()
    act = lambda params, key, observation: (params.expand(1), {})  # noqa: E731

    def estimate(params, key):
        return offline.fitted_q_evaluation(
            params, key, dataset=data, act=act, num_updates=600, batch_size=64, num_cells=(32,), learning_rate=3e-3
        ).value

    found = funrl.compile(vmap(estimate))(torch.tensor([0.5, -0.25]), random.split(random.key(0), 2))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.4375]), atol=0.06, rtol=0.0)


def test_a_chain_of_two_steps_is_discounted():
    """The value of the first state is that of the second one, discounted: rewards come at the end only."""
    data = bandit(500)
    rows = data.transition
    first = rows.replace(reward=torch.zeros(500), terminated=~rows.terminated, observation=rows.observation + 10.0)
    pairs = funrl.tree.map(lambda x, y: torch.stack([x, y], 1).flatten(0, 1), first, rows)
    data = offline.datasets.from_transitions(pairs, spaces=(data.observation_space, data.action_space))
    act = lambda params, key, observation: (torch.full((1,), 0.5), {})  # noqa: E731
    options = {"num_updates": 800, "batch_size": 64, "num_cells": (32,), "learning_rate": 3e-3, "tau": 0.05, "gamma": 0.5}
    result = funrl.compile(lambda key: offline.fitted_q_evaluation(None, key, dataset=data, act=act, **options).value)(random.key(0))
    torch.testing.assert_close(result, torch.tensor(0.5), atol=0.06, rtol=0.0)


def test_tuning_curves():
    """After one evaluation the choice is any policy; after many the best; of one policy there is no choice."""
    returns = torch.tensor([[0.0, 2.0], [5.0, 5.0], [9.0, 11.0], [3.0, 3.0]])
    curve = offline.tuning_curve(random.key(0), returns, num_policies=4, num_evaluations=40, num_trials=400)
    assert abs(float(curve.mean[0]) - 4.75) < 0.5 and float(curve.mean[-1]) == pytest.approx(10.0, abs=0.1)
    assert bool((curve.low <= curve.mean + 1e-6).all()) and bool((curve.mean <= curve.high + 1e-6).all())
    alone = offline.tuning_curve(random.key(0), returns[2:3], num_policies=1, num_evaluations=3, num_trials=10)
    assert alone.mean.tolist() == [10.0] * 3
    with pytest.raises(ValueError, match="num_policies: expected an integer from 1 to 4, got 5"):
        offline.tuning_curve(random.key(0), returns, num_policies=5)
