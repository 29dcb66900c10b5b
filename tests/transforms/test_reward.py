"""Rewards, against gymnasium and by hand."""

import math

import gymnasium
import numpy as np
import pytest
import torch

from funrl import random
from funrl.spaces import Box
from funrl.transforms import reward_clip, reward_scale, reward_sum, target_return
from tests.oracles import gymnasium_twin as twin
from tests.transforms import toys


def test_reward_clip_is_that_of_gymnasium():
    twin.assert_agree(toys.arcade("position"), reward_clip(-0.9, 0.1), lambda env: gymnasium.wrappers.ClipReward(env, -0.9, 0.1))
    twin.assert_agree(
        toys.arcade("position"), reward_clip(-math.inf, -0.5), lambda env: gymnasium.wrappers.ClipReward(env, max_reward=-0.5)
    )


def test_reward_scale_is_that_of_gymnasium():
    twin.assert_agree(
        toys.arcade("position"), reward_scale(-3, loc=0.5), lambda env: gymnasium.wrappers.TransformReward(env, lambda r: -3 * r + 0.5)
    )


def test_reward_sum_is_the_return_that_gymnasium_records():
    returns = 0
    for timestep, _, _, terminated, truncated, info in twin.play_both(
        toys.arcade("position"), reward_sum(), gymnasium.wrappers.RecordEpisodeStatistics
    ):
        if terminated or truncated:
            np.testing.assert_allclose(timestep.observation["episode_return"], info["episode"]["r"], rtol=1e-5)
            returns += 1
    assert returns > 5


def test_target_return_by_hand():
    for mode, expected in (("reduce", [10.0, 9.0, 8.0]), ("constant", [10.0, 10.0, 10.0])):
        env = target_return(10, mode=mode, out_key="goal")(toys.arcade("position"))
        env = target_return(4.0)(env)
        key = random.key(0)
        state, timestep = env.reset(key, env.default_params)
        goals, rewards = [timestep.observation["goal"]], []
        for _ in range(2):
            state, timestep = env.step(key, state, torch.tensor(0), env.default_params)  # pushes nothing: the reward is -1
            goals.append(timestep.observation["goal"])
            rewards.append(timestep.reward.item())
        assert rewards == [-1.0, -1.0]
        assert [goal.item() for goal in goals] == [20 - goal if mode == "reduce" else goal for goal in expected]
        assert timestep.observation["target_return"] == 6.0
        assert set(timestep.observation) == {"observation", "goal", "target_return"}
        assert env.observation_space.spaces["goal"] == Box(-math.inf, math.inf, ())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: reward_scale(math.nan), ValueError, "reward_scale: scale: expected a finite number, got nan"),
        (lambda: reward_scale(1.0, loc="0"), TypeError, "reward_scale: loc: expected a number, got a str"),
        (lambda: reward_clip(1, -1), ValueError, "reward_clip: expected low < high, got low=1, high=-1"),
        (lambda: reward_clip(math.nan, 1), ValueError, "reward_clip: low: expected a number, got nan"),
        (lambda: target_return(math.inf), ValueError, "target_return: target: expected a finite number"),
        (lambda: target_return(1.0, mode="grow"), ValueError, "mode: expected 'reduce' or 'constant', got 'grow'"),
        (lambda: reward_sum(out_key=3)(toys.arcade()), TypeError, "reward_sum: out_key: expected a string, got an int"),
        (lambda: reward_sum(out_key="level")(toys.arcade()), ValueError, "reward_sum: out_key: expected a new name, got 'level'"),
        (lambda: reward_sum(out_key="observation")(toys.arcade("level")), ValueError, "expected a new name, got 'observation'"),
    ],
)
def test_bad_settings_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
