import gymnasium
import numpy as np
import pytest
import torch
from torch.func import vmap

from funrl import envs, random, tree
from funrl.envs._frozen_lake import frozen_lake
from funrl.envs._grid import GridState

REPEATS = 1000


def every_case(n):
    """All pairs of a tile and an action, each REPEATS times."""
    tile, action = (x.reshape(-1) for x in torch.meshgrid(torch.arange(n * n), torch.arange(4), indexing="ij"))
    tile, action = tile.repeat_interleave(REPEATS), action.repeat_interleave(REPEATS)
    return GridState(torch.stack([tile // n, tile % n], 1), torch.zeros_like(tile)), action


@pytest.mark.parametrize(("name", "n"), [("FrozenLake-v1", 4), ("FrozenLake8x8-v1", 8)])
@pytest.mark.parametrize("slip", [0.0, 0.25, 2 / 3, 1.0])
def test_all_transition_probabilities_are_those_of_gymnasium(name, n, slip):
    table = gymnasium.make(name, success_rate=1 - slip).unwrapped.P
    env = envs.make(name)
    params = env.default_params.replace(slip_probability=torch.tensor(slip))
    state, action = every_case(n)
    keys = random.split(random.key(n), len(action))
    new, timestep = vmap(env.step, (0, 0, 0, None))(keys, state, action, params)
    assert torch.equal(timestep.observation, new.position[:, 0] * n + new.position[:, 1]) and not timestep.truncated.any()
    outcome = (2 * timestep.observation + timestep.reward.long()) * 2 + timestep.terminated.long()
    counts = vmap(lambda row: torch.zeros(4 * n * n).scatter_add(0, row, torch.ones(REPEATS)))(outcome.reshape(-1, REPEATS))

    probability = np.zeros((n * n, 4, 4 * n * n))
    for tile in range(n * n):
        for a in range(4):
            for p, tile_after, reward, over in table[tile][a]:
                probability[tile, a, (2 * tile_after + int(reward)) * 2 + int(over)] += p
    expected = probability.reshape(-1, 4 * n * n)
    np.testing.assert_array_equal(counts.sum(1), REPEATS)
    assert not counts.numpy()[expected == 0].any()
    error = abs(counts.numpy() - REPEATS * expected) / np.sqrt(REPEATS * expected * (1 - expected)).clip(min=1e-6)
    assert error.max() < 5.5


def test_the_default_is_that_of_gymnasium():
    table = gymnasium.make("FrozenLake-v1").unwrapped.P
    assert table[0][0][1][0] == pytest.approx(1 - frozen_lake().default_params.slip_probability.item())


@pytest.mark.parametrize("name", ["FrozenLake-v1", "FrozenLake8x8-v1"])
def test_episodes_are_those_of_gymnasium(name):
    """Whole episodes on ice that does not slip: each step, and the time limit."""
    theirs = gymnasium.make(name, is_slippery=False)
    env = envs.make(name)
    params = env.default_params.replace(slip_probability=torch.tensor(0.0))
    numbers = np.random.default_rng(0)
    steps, limits = 0, 0
    for episode in range(30):
        observation, _ = theirs.reset(seed=episode)
        state, timestep = env.reset(random.key(episode), params)
        assert timestep.observation == observation
        moves = (0, 3) if episode % 10 == 0 else (0, 1, 2, 3)  # to the left and up is nowhere
        done = False
        while not done:
            action = int(numbers.choice(moves))
            observation, reward, terminated, truncated, _ = theirs.step(action)
            state, timestep = env.step(random.key(steps), state, torch.tensor(action), params)
            seen = (timestep.observation.item(), timestep.reward.item(), timestep.terminated.item(), timestep.truncated.item())
            assert seen == (observation, reward, terminated, truncated)
            done, steps, limits = terminated or truncated, steps + 1, limits + truncated
    assert steps > (1000 if "8x8" in name else 400) and limits >= 3


def test_lakes_are_params():
    env = frozen_lake("SF FG")
    p = env.default_params
    lakes = [p, p.replace(holes=torch.tensor([[False, True], [False, False]])), p.replace(goal=torch.tensor([0, 1]))]
    params = tree.stack([lake.replace(slip_probability=torch.tensor(0.0)) for lake in lakes])
    state, _ = vmap(env.reset)(torch.arange(3), params)
    _, timestep = vmap(env.step)(torch.arange(3), state, torch.full((3,), 2), params)
    assert timestep.terminated.tolist() == [False, True, True] and timestep.reward.tolist() == [0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match=r"FrozenLake-v1: env_params: leaf \.holes is bool \[4, 4\], but in default_params"):
        env.step(random.key(0), tree.index(state, 0), torch.tensor(0), frozen_lake().default_params)
