"""Distributions over tasks: training and tests have none in common, and each is of the kind that the environment takes."""

import collections

import numpy as np
import pytest
import scipy.stats
import torch
from torch.func import vmap

import funrl
from funrl import envs, random, tree
from funrl.envs import tasks
from tests.support import same

N = 400


def made(name):
    return tasks.of(envs.make(name))


@pytest.mark.parametrize("name", tasks.names())
def test_training_and_tests_are_disjoint(name):
    kind = made(name)
    train, test, sample = kind.train(random.key(0), N), kind.test(random.key(1), N), kind.sample(random.key(2), N)
    assert not kind.is_held_out(train).any() and kind.is_held_out(test).all()
    assert abs(kind.is_held_out(sample).float().mean() - kind.test_share) < 0.08
    assert bool(kind.is_held_out(tree.index(train, 3))) is False and bool(kind.is_held_out(tree.index(test, 3))) is True
    default = tree.map(lambda x: x.expand(N, *x.shape), kind.env.default_params)
    for drawn in (train, test, sample):
        tree.check_like(drawn, default, "drawn", "the default params")
        rows = {tuple(row) for row in torch.cat([x.reshape(N, -1).double() for x in tree.leaves(drawn)], 1).tolist()}
        assert len(rows) > (0.4 if name == "GridRules-misc" else 0.8) * N
    for drawn in (kind.train(random.key(0), N), vmap(lambda key: tree.index(kind.train(key, 1), 0))(random.split(random.key(0), 3))):
        assert not kind.is_held_out(drawn).any()
    same(kind.train(random.key(0), N), train, rtol=0, atol=0)


@pytest.mark.parametrize("name", tasks.names())
def test_the_environment_takes_them(name):
    kind = made(name)
    params = tree.to(kind.train(random.key(0), 8), torch.float64)
    env, keys = kind.env, random.split(random.key(1), (3, 8))
    state, _ = vmap(env.reset)(keys[0], params)
    _, timestep = vmap(env.step)(keys[1], state, vmap(env.action_space.sample)(keys[2]), params)
    assert timestep.reward.dtype == torch.float64 and timestep.reward.isfinite().all()
    like = tree.to(kind.default_params, torch.float64)
    drawn = kind.draw(random.key(0), like, torch.tensor(True))
    tree.check_like(drawn, like, "drawn", "params")
    single = kind.draw(random.key(0), kind.default_params, torch.tensor(True))
    same(tree.to(drawn, torch.float32), single, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["Maze-misc", "FourRooms-misc", "Reacher-misc"])
def test_compiled_agrees_with_eager(name):
    kind = made(name)
    same(funrl.compile(lambda key: kind.sample(key, 16), backend="xla")(random.key(0)), kind.sample(random.key(0), 16))


def test_every_number_is_uniform_in_training_and_in_tests():
    kind = tasks.of(envs.bernoulli_bandit(5))
    for drawn in (kind.train(random.key(0), 5000), kind.test(random.key(1), 5000)):
        for arm in drawn.probability.unbind(1):
            assert scipy.stats.kstest(arm.numpy(), "uniform").pvalue > 1e-3
        correlation = np.corrcoef(drawn.probability.T.numpy())
        assert np.abs(correlation - np.eye(5)).max() < 0.06


def test_a_single_number_has_stripes():
    kind = tasks.uniform(envs.pendulum(), length=(0.5, 1.5))
    cells = (kind.test(random.key(0), 1000).length * 10 - 5).floor().long()
    assert cells.unique().tolist() == [0, 5]
    cells = (kind.train(random.key(0), 1000).length * 10 - 5).floor().long()
    assert cells.unique().tolist() == [1, 2, 3, 4, 6, 7, 8, 9]


def reachable(walls, start):
    """The tiles that can be reached, and how many passages there are between them."""
    seen, waiting = {start}, collections.deque([start])
    while waiting:
        row, column = waiting.popleft()
        for place in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if 0 <= place[0] < len(walls) and 0 <= place[1] < len(walls[0]) and not walls[place[0]][place[1]] and place not in seen:
                seen.add(place)
                waiting.append(place)
    return seen


@pytest.mark.parametrize("shape", [(9, 9), (5, 9), (3, 3)])
def test_mazes_are_trees(shape):
    layout = ["." * shape[1] for _ in range(shape[0] - 1)] + ["." * (shape[1] - 2) + "SG"]
    kind = tasks.of(envs.maze(layout))
    drawn = kind.sample(random.key(0), 60)
    assert (drawn.start != drawn.goal).any(1).all() and len(drawn.walls.flatten(1).unique(dim=0)) > min(50, 1.5 ** (shape[0] - 1))
    for i in range(60):
        walls, start, goal = (x[i].tolist() for x in (drawn.walls, drawn.start, drawn.goal))
        assert not any(walls[i][j] for i in range(0, shape[0], 2) for j in range(0, shape[1], 2))
        assert all(walls[i][j] for i in range(1, shape[0], 2) for j in range(1, shape[1], 2))
        seen = reachable(walls, tuple(start))
        cells = (shape[0] + 1) * (shape[1] + 1) // 4
        assert tuple(goal) in seen and len(seen) == 2 * cells - 1  # connected, with one passage less than cells: a tree
    for x in (drawn.start, drawn.goal):
        assert (x % 2 == 0).all() and (x.amax(0) == torch.tensor(shape) - 1).all() and (x.amin(0) == 0).all()


def test_rooms_are_connected():
    kind = tasks.of(envs.four_rooms())
    drawn = kind.sample(random.key(0), 60)
    assert len(drawn.walls.flatten(1).unique(dim=0)) > 30 and len(drawn.goal.unique(dim=0)) > 30
    for i in range(60):
        walls, goal = drawn.walls[i].tolist(), tuple(drawn.goal[i].tolist())
        starts = {tuple(place) for place in drawn.starts[i].tolist()}
        assert reachable(walls, goal) == starts and len(starts) == 104


def test_rules_lead_to_the_goal():
    drawn = made("GridRules-misc").sample(random.key(0), 200)
    for objects, rules, (task, kind) in zip(drawn.objects.tolist(), drawn.rules.tolist(), drawn.goal.tolist(), strict=True):
        (a, b, c), (c_again, d, e) = rules
        assert c == c_again and set(objects) | {c, e} == {1, 2, 3, 4, 5, 6} and {a, b, d} <= set(objects)
        assert kind in (c, e) and task in (0, 1)
    assert len(torch.cat([drawn.rules.flatten(1), drawn.goal], 1).unique(dim=0)) > 150


def test_sinusoids():
    kind = tasks.sinusoids()
    train, test = kind.train(random.key(0), N), kind.test(random.key(1), N)
    assert not kind.is_held_out(train).any() and kind.is_held_out(test).all() and kind.env is None
    for drawn in (train, test):
        assert 0.1 < drawn.amplitude.min() < 0.3 and 4.8 < drawn.amplitude.max() < 5
        assert 0 < drawn.phase.min() < 0.1 and 3 < drawn.phase.max() < np.pi
    x, y = vmap(tasks.sinusoid_batch, (0, 0, None))(random.split(random.key(2), N), train, 20)
    assert -5 <= x.min() < -4.99 and 4.99 < x.max() < 5
    np.testing.assert_allclose(
        y[:, :, 0].numpy(), train.amplitude[:, None].numpy() * np.sin((x[:, :, 0] - train.phase[:, None]).numpy()), rtol=1e-4, atol=1e-5
    )


def test_errors():
    with pytest.raises(TypeError, match=r"tasks\.of: env: expected an Env, got str; funrl\.envs\.make returns one"):
        tasks.of("Pendulum-v1")
    with pytest.raises(ValueError, match=r"tasks\.of: env: there are no tasks for Catch-bsuite"):
        tasks.of(envs.catch())
    with pytest.raises(ValueError, match=r"expected a maze with odd numbers of rows and columns, at least 3, got \[2, 3\]"):
        tasks.of(envs.maze(["S..", "..G"]))
    for ranges, message in (
        (dict(lenght=(0.0, 1.0)), "lenght: expected a floating-point field of the params of Pendulum-v1, got None"),
        (dict(max_steps=(1, 2)), "max_steps: expected a floating-point field"),
        (dict(length=(1.0, 1.0)), r"length: expected a range \(lowest, highest\), got \(1.0, 1.0\)"),
        ({}, "ranges: expected at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            tasks.uniform(envs.pendulum(), **ranges)
    with pytest.raises(TypeError, match="tasks of Pendulum-v1: env_params: expected PendulumParams, got CartPoleParams"):
        made("Pendulum-v1").is_held_out(envs.cartpole().default_params)
