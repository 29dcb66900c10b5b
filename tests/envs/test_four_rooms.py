import numpy as np
import pytest
import torch
from torch.func import vmap

from funrl import random, tree
from funrl.envs import four_rooms
from funrl.envs._grid import GridState
from tests.oracles import gridworlds

N = 3000


def test_the_rooms_are_those_of_the_paper():
    params = four_rooms().default_params
    walls = params.walls.tolist()
    found = gridworlds.distances(walls, params.goal.tolist())
    assert len(found) == 104 == params.walls.numel() - params.walls.sum() == len(params.starts)
    for door in ((3, 6), (7, 9), (10, 6), (6, 2)):
        shut = [list(row) for row in walls]
        shut[door[0]][door[1]] = True
        assert not walls[door[0]][door[1]] and len(gridworlds.distances(shut, params.goal.tolist())) == 103  # two ways round
        others = [other for other in ((3, 6), (7, 9), (10, 6), (6, 2)) if other != door]
        for row, column in others:
            shut[row][column] = True
        assert len(gridworlds.distances(shut, params.goal.tolist())) in (20, 25, 30)


def test_agrees_with_a_plain_one():
    env = four_rooms()
    params = tree.to(env.default_params, torch.float64)
    walls, goal = params.walls.tolist(), tuple(params.goal.tolist())
    numbers = np.random.default_rng(0)
    place = torch.as_tensor(numbers.integers(0, 104, N))
    near = torch.as_tensor(numbers.random(N) < 0.2)
    position = torch.where(near[:, None], torch.tensor([8, 8]), params.starts[place])
    actions, times = torch.as_tensor(numbers.integers(0, 4, N)), torch.as_tensor(numbers.integers(490, 500, N))
    keys = random.split(random.key(0), N)
    failure_keys, turn_keys = vmap(random.split)(keys).unbind(1)
    uniform = vmap(lambda key: random.uniform(key, dtype=torch.float64))(failure_keys).tolist()
    turns = vmap(lambda key: random.randint(key, (), 1, 4))(turn_keys).tolist()
    new, timestep = vmap(env.step, (0, 0, 0, None))(keys, GridState(position, times), actions, params)

    for i in range(N):
        direction = actions[i].item()
        if uniform[i] < 1 / 3:
            direction = [other for other in (1, 2, 3, 0, 1, 2, 3)][direction + turns[i] - 1]
        reached = gridworlds.walk(walls, tuple(position[i].tolist()), direction)
        assert tuple(new.position[i].tolist()) == reached
        assert timestep.observation[i].tolist() == [*reached, *goal]
        assert (timestep.reward[i].item(), timestep.terminated[i].item()) == (float(reached == goal), reached == goal)
        assert timestep.truncated[i].item() == (times[i] + 1 >= 500)
    assert (timestep.terminated & timestep.truncated).any() and timestep.terminated.sum() > 50


@pytest.mark.parametrize("failure", [0.0, 1 / 3, 0.9])
def test_a_step_fails_as_often_as_it_should(failure):
    """From the middle of a room each direction leads elsewhere, so that it can be counted."""
    env = four_rooms()
    params = env.default_params.replace(failure_probability=torch.tensor(failure))
    state = GridState(torch.tensor([3, 3]), torch.tensor(0))
    new, _ = vmap(env.step, (0, None, None, None))(random.split(random.key(0), 6000), state, torch.tensor(2), params)
    places = {(3, 4): 1 - failure, (3, 2): failure / 3, (2, 3): failure / 3, (4, 3): failure / 3}
    for place, probability in places.items():
        count = (new.position == torch.tensor(place)).all(1).sum().item()
        assert abs(count - 6000 * probability) <= 5 * (6000 * probability * (1 - probability)) ** 0.5


def test_episodes_begin_everywhere_but_at_the_goal():
    env = four_rooms()
    for goal in ([8, 9], [1, 1], [11, 11], [0, 0]):
        params = env.default_params.replace(goal=torch.tensor(goal))
        state, timestep = vmap(env.reset, (0, None))(torch.arange(20000), params)
        places, counts = state.position.unique(dim=0, return_counts=True)
        assert len(places) == (104 if goal == [0, 0] else 103) and goal not in places.tolist()
        assert not params.walls[places[:, 0], places[:, 1]].any()
        assert (counts - 20000 / 103).abs().max() < 5 * (20000 / 103) ** 0.5
        assert torch.equal(timestep.observation, torch.cat([state.position, params.goal.expand(20000, 2)], 1).float())


def test_starts_and_goals_are_params():
    env = four_rooms()
    starts, goal = torch.tensor([[1, 1], [1, 2]]), torch.tensor([1, 2])
    params = env.default_params.replace(starts=starts, goal=goal, failure_probability=torch.tensor(0.0))
    state, _ = vmap(env.reset, (0, None))(torch.arange(50), params)
    assert (state.position == torch.tensor([1, 1])).all()
    _, timestep = env.step(random.key(0), tree.index(state, 0), torch.tensor(2), params)
    assert timestep.terminated and timestep.reward == 1
    with pytest.raises(ValueError, match=r"leaf \.walls is"):
        env.step(random.key(0), tree.index(state, 0), torch.tensor(2), params.replace(walls=params.walls[1:]))
