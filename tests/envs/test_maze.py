import numpy as np
import pytest
import torch
from torch.func import vmap

from funrl import random
from funrl.envs import maze
from funrl.envs._grid import GridState
from tests.oracles import gridworlds

N, H, W = 1200, 6, 8


def test_agrees_with_a_plain_one_in_a_thousand_mazes():
    """Each transition in another maze: walls, start and goal are data."""
    numbers = np.random.default_rng(0)
    env = maze(["S" + "." * (W - 1)] + ["." * W] * (H - 2) + ["." * (W - 1) + "G"])
    walls = torch.as_tensor(numbers.random((N, H, W)) < 0.4)
    position, goal, start = (torch.as_tensor(numbers.integers(0, (H, W), (N, 2))) for _ in range(3))
    near = torch.as_tensor(numbers.random(N) < 0.3)
    goal = torch.where(near[:, None], (position + torch.tensor([0, 1])).clamp(max=torch.tensor([H - 1, W - 1])), goal)
    actions, times = torch.as_tensor(numbers.integers(0, 4, N)), torch.as_tensor(numbers.integers(190, 200, N))
    p = env.default_params
    params = p.replace(
        walls=walls,
        start=start,
        goal=goal,
        goal_reward=p.goal_reward.double().expand(N),
        step_cost=torch.full((N,), 0.25).double(),
        max_steps=p.max_steps.expand(N),
    )
    keys = random.split(random.key(0), N)
    first, beginning = vmap(env.reset)(keys, params)
    new, timestep = vmap(env.step)(keys, GridState(position, times), actions, params)
    assert torch.equal(first.position, start)

    for i in range(N):
        plain, target = walls[i].tolist(), tuple(goal[i].tolist())
        reached = gridworlds.walk(plain, tuple(position[i].tolist()), actions[i].item())
        assert tuple(new.position[i].tolist()) == reached
        assert beginning.observation[i].tolist() == gridworlds.maze_observation(plain, start[i].tolist(), target)
        assert timestep.observation[i].tolist() == gridworlds.maze_observation(plain, reached, target)
        assert timestep.reward[i].item() == (1.0 if reached == target else 0.0) - 0.25
        assert timestep.terminated[i].item() == (reached == target)
        assert timestep.truncated[i].item() == (times[i] + 1 >= 200)
    assert (timestep.terminated & timestep.truncated).any() and timestep.terminated.sum() > 30
    assert timestep.observation.dtype == torch.float64


def test_the_default_maze_has_a_way():
    env = maze()
    params = env.default_params
    far = gridworlds.distances(params.walls.tolist(), params.goal.tolist())
    state, _ = env.reset(random.key(0))
    assert 20 <= far[tuple(state.position.tolist())] < params.max_steps
    total = 0.0
    while True:
        here = tuple(state.position.tolist())
        action = next(a for a in range(4) if far[gridworlds.walk(params.walls.tolist(), here, a)] < far[here])
        state, timestep = env.step(random.key(0), state, torch.tensor(action))
        total += timestep.reward.item()
        if timestep.done:
            break
    assert timestep.terminated and total == pytest.approx(1 - 0.01 * far[0, 0])


@pytest.mark.parametrize(
    ("layout", "complaint"),
    [
        ("S.G ..", r"expected rows of the same length, got lengths \[3, 2\]"),
        ("S.x ..G", "expected the characters # . S G, got x"),
        ("S.. ...", "expected one G, got 0"),
        ("S.G ..S", "expected one S, got 2"),
    ],
)
def test_a_wrong_layout_is_a_clear_error(layout, complaint):
    with pytest.raises(ValueError, match=f"Maze-misc: layout: {complaint}"):
        maze(layout)


def test_walls_of_another_size_are_refused():
    env, other = maze("S. .G"), maze("S.. ..G")
    with pytest.raises(ValueError, match=r"Maze-misc: env_params: leaf \.walls is bool \[2, 3\], but in default_params"):
        env.reset(random.key(0), other.default_params)
