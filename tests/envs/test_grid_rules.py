import numpy as np
import torch
from torch.func import vmap

from funrl import random, tree
from funrl.envs import grid_rules, tasks
from tests.oracles import grid_rules as plain

SIZE, EPISODES, STEPS = 3, 60, 60


def numbers(x):
    return tuple(x.tolist())


def test_agrees_with_a_plain_one():
    """On a small grid, where rules apply often, with a policy that handles objects often."""
    env = grid_rules(SIZE)
    params = tasks.of(env).sample(random.key(0), EPISODES)
    state, timestep = vmap(env.reset)(random.split(random.key(1), EPISODES), params)
    drawn = np.random.default_rng(0)
    reached, made = 0, 0
    step = vmap(env.step)
    actions = torch.as_tensor(drawn.choice(5, (STEPS, EPISODES), p=[0.15, 0.15, 0.15, 0.15, 0.4]))
    for action in actions:
        new, timestep = step(random.split(random.key(2), EPISODES), state, action, params)
        for i in range(EPISODES):
            one, after, task = (tree.index(x, i) for x in (state, new, params))
            tiles = {(r, c): one.tiles[r, c].item() for r in range(SIZE) for c in range(SIZE)}
            expected = plain.step(tiles, numbers(one.position), one.held.item(), action[i].item(), task.rules.tolist(), numbers(task.goal))
            found = {(r, c): after.tiles[r, c].item() for r in range(SIZE) for c in range(SIZE)}
            assert (found, numbers(after.position), after.held.item(), timestep.terminated[i].item()) == expected
            reached += expected[3]
            made += sum(map(bool, found.values())) + bool(after.held) < sum(map(bool, tiles.values())) + bool(one.held)
        torch.testing.assert_close(timestep.reward, timestep.terminated.float() - 0.01)
        state = new
    assert reached > 20 and made > 20


def test_it_shows_objects_and_agent_but_neither_rules_nor_goal():
    env = grid_rules()
    state, timestep = env.reset(random.key(0))
    shown = timestep.observation
    assert torch.equal((shown[:6] * torch.arange(1, 7)[:, None, None]).sum(0).long(), state.tiles)
    assert shown[6].sum() == 1 and shown[6][tuple(state.position)] == 1 and not shown[7:].any()
    other = env.default_params.replace(rules=torch.zeros(2, 3, dtype=torch.int64), goal=torch.tensor([1, 2]))
    assert torch.equal(env.reset(random.key(0), other)[1].observation, shown)
    held = state.replace(held=torch.tensor(3))
    _, timestep = env.step(random.key(0), held, torch.tensor(0))
    assert [i for i in range(6) if timestep.observation[7 + i].all()] == [2]


def test_agent_and_objects_begin_on_different_tiles():
    env = grid_rules(3)
    state, _ = vmap(env.reset, (0, None))(random.split(random.key(0), 500), env.default_params)
    kinds = state.tiles.reshape(500, 9).sort(1, descending=True).values
    assert (kinds[:, :4] == torch.tensor([6, 4, 2, 1])).all() and not kinds[:, 4:].any()
    place = state.position[:, 0] * 3 + state.position[:, 1]
    assert not state.tiles.reshape(500, 9).gather(1, place[:, None]).any()
    assert (place.bincount(minlength=9) > 30).all()
