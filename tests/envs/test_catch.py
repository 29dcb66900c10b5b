import itertools

import numpy as np
import pytest
import torch
from bsuite.environments import catch as bsuite
from torch.func import vmap

from funrl.envs import catch
from funrl.envs._catch import CatchState


@pytest.mark.parametrize(("rows", "columns"), [(10, 5), (6, 8), (2, 1)])
def test_every_transition_is_that_of_bsuite(oracle, rows, columns):
    theirs = bsuite.Catch(rows=rows, columns=columns)
    cases = np.array(list(itertools.product(range(rows - 1), range(columns), range(columns), range(3))))
    expected = []
    for ball_row, ball_column, paddle, action in cases:
        theirs._ball_y, theirs._ball_x, theirs._paddle_x, theirs._paddle_y = ball_row, ball_column, paddle, rows - 1
        theirs._reset_next_step = False
        timestep = theirs.step(action)
        expected.append((timestep.observation, timestep.reward, timestep.last(), theirs._ball_y, theirs._paddle_x))
    observation, reward, last, ball_row, paddle = (np.array(column) for column in zip(*expected, strict=True))

    env = catch(rows=rows, columns=columns)
    *state, action = torch.as_tensor(cases).unbind(1)
    new, timestep = oracle.step(env, CatchState(*state), action, env.default_params)
    np.testing.assert_array_equal(timestep.observation, observation)
    np.testing.assert_array_equal(timestep.reward, reward)
    np.testing.assert_array_equal(timestep.terminated, last)
    assert not timestep.truncated.any()
    np.testing.assert_array_equal(new.ball_row, ball_row)
    np.testing.assert_array_equal(new.paddle_column, paddle)
    assert len(cases) > 300 or rows == 2


def test_an_episode_begins_as_in_bsuite():
    env = catch()
    state, timestep = vmap(env.reset, (0, None))(torch.arange(5000), env.default_params)
    theirs = bsuite.Catch()
    for i in range(20):
        first = theirs.reset()
        mine = (state.ball_column == theirs._ball_x).nonzero()[i]
        np.testing.assert_array_equal(timestep.observation[mine][0], first.observation)
    counts = state.ball_column.bincount(minlength=5)
    assert (counts - 1000).abs().max() < 5 * (5000 * 0.2 * 0.8) ** 0.5


def test_rewards_are_params(oracle):
    env = catch(rows=2, columns=3)
    params = env.default_params.replace(catch_reward=torch.tensor(5.0), miss_reward=torch.tensor(-2.0))
    state = CatchState(torch.zeros(2, dtype=torch.int64), torch.tensor([1, 2]), torch.tensor([1, 1]))
    _, timestep = oracle.step(env, state, torch.tensor([1, 1]), params)
    assert timestep.reward.tolist() == [5.0, -2.0]
