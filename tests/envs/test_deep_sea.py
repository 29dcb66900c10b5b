import numpy as np
import pytest
import torch
from bsuite.environments import deep_sea as bsuite

from funrl import random
from funrl.envs import deep_sea
from funrl.envs._deep_sea import DeepSeaState


class Draws:
    """Stands in for bsuite's generator, and gives the numbers that funrl drew."""

    def __init__(self, uniform, noise):
        self.uniform, self.noise = uniform, noise

    def rand(self):
        return self.uniform

    def randn(self):
        return self.noise


def exactly(number):
    return torch.tensor(number, dtype=torch.float64)


@pytest.mark.parametrize("windy", [False, True])
def test_every_transition_is_that_of_bsuite(windy):
    size, repeats = 10, 5
    theirs = bsuite.DeepSea(size, deterministic=not windy, mapping_seed=3)
    cells = [(row, column) for row in range(size) for column in range(size) if column <= row]
    cases = torch.tensor([(*cell, action) for cell in cells for action in range(2)] * repeats)
    keys = random.split(random.key(1), len(cases))
    slip_keys, noise_keys = torch.func.vmap(random.split)(keys).unbind(1)
    uniform = torch.func.vmap(lambda key: random.uniform(key, dtype=torch.float64))(slip_keys)
    noise = torch.func.vmap(lambda key: random.normal(key, dtype=torch.float64))(noise_keys)

    expected = []
    for (row, column, action), u, e in zip(cases.tolist(), uniform.tolist(), noise.tolist(), strict=True):
        theirs._row, theirs._column, theirs._reset_next_step = row, column, False
        theirs._rng = Draws(u, e)
        timestep = theirs.step(action)
        expected.append((timestep.observation, timestep.reward, timestep.last(), theirs._row, theirs._column))
    observation, reward, last, row, column = (np.array(column) for column in zip(*expected, strict=True))

    env = deep_sea(size=size)
    wind = dict(slip_probability=exactly(1 / size), noise_scale=exactly(1.0)) if windy else {}
    params = env.default_params.replace(action_mapping=torch.as_tensor(theirs._action_mapping), move_cost=exactly(0.01), **wind)
    state = DeepSeaState(*cases[:, :2].unbind(1))
    new, timestep = torch.func.vmap(env.step, (0, 0, 0, None))(keys, state, cases[:, 2], params)
    np.testing.assert_array_equal(timestep.observation, observation)
    np.testing.assert_allclose(timestep.reward, reward, rtol=1e-12 if windy else 1e-7)
    np.testing.assert_array_equal(timestep.terminated, last)
    assert not timestep.truncated.any()
    np.testing.assert_array_equal(new.row, row)
    np.testing.assert_array_equal(new.column, column)
    assert len(cases) * 2 > 1000 and (reward > 0.9).any()
    if windy:
        right = cases[:, 2].numpy() == theirs._action_mapping[cases[:, 0], cases[:, 1]]
        slipped = right & (column == cases[:, 1].numpy()) & (column < size - 1)
        assert 10 < slipped.sum() < 80


def test_only_the_right_actions_find_the_treasure():
    env = deep_sea(size=6)
    mapping = env.default_params.action_mapping
    assert 0 < mapping.sum() < 36
    for mistake in (None, 0, 3, 5):
        state, timestep = env.reset(random.key(0))
        total = 0.0
        for i in range(6):
            assert not timestep.done
            right = mapping[state.row, state.column]
            state, timestep = env.step(random.key(i), state, 1 - right if i == mistake else right)
            total += timestep.reward.item()
        assert timestep.terminated and not timestep.observation.any()
        assert total == pytest.approx(0.99 if mistake is None else -0.01 * 5 / 6)


def test_a_sea_of_another_size_is_refused():
    env, other = deep_sea(size=4), deep_sea(size=5)
    state, _ = env.reset(random.key(0))
    with pytest.raises(ValueError, match=r"DeepSea-bsuite: env_params: leaf \.action_mapping is int64 \[5, 5\], but in default_params"):
        env.step(random.key(0), state, torch.tensor(0), other.default_params)
