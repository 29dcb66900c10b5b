import torch

from funrl import random
from funrl.envs._minatar import _freeway as module


def attributes(state, params):
    cars = zip(state.column.tolist(), range(1, 9), state.timer.tolist(), state.speed.tolist(), strict=True)
    return dict(
        pos=int(state.row),
        move_timer=int(state.move_timer),
        terminate_timer=int(params.time_limit) - int(state.time),
        cars=[list(car) for car in cars],
    )


def speeds(u):
    """Draw them as minatar does: first the speeds, then the directions."""
    return [(2 * u) % 1, u]


def make(oracle):
    return oracle("freeway", module, attributes, lambda u, game: speeds(u[1:]))


def upward(state, numbers):
    shape = state.row.shape
    return torch.where(torch.rand(shape, generator=numbers) < 0.6, 2, torch.randint(6, shape, generator=numbers))


def test_every_transition_is_that_of_minatar(oracle):
    game = make(oracle)
    state, _ = game.starts(250)
    numbers = torch.Generator().manual_seed(3)
    state = state.replace(
        row=torch.randint(1, 10, (250,), generator=numbers),
        column=torch.randint(10, (250, 8), generator=numbers),
        timer=(torch.rand(250, 8, generator=numbers) * (state.speed.abs() + 1)).long(),
        move_timer=torch.randint(4, (250,), generator=numbers),
        time=torch.where(torch.arange(250) % 5 == 0, 2490, torch.arange(250)),
    )
    walk = game.walk(state, upward, 24)
    before, after = walk.before, walk.after
    events = dict(
        crossings=walk.reward == 1,
        new_speeds=(walk.reward == 1) & (after.speed != before.speed).any(-1),
        hits=(walk.reward == 0) & (after.row == 9) & (before.row < 8),
        times_up=walk.terminated,
        wraps=((after.column - before.column).abs() == 9).any(-1),
        steps_down=after.row == before.row + 1,
    )
    counts = {name: int(happened.sum()) for name, happened in events.items()}
    assert len(walk.reward) == 6000 and min(counts.values()) >= 10, counts


def test_the_constants_are_params(oracle, monkeypatch):
    monkeypatch.setattr("minatar.environments.freeway.player_speed", 1)
    monkeypatch.setattr("minatar.environments.freeway.time_limit", 12)
    game = make(oracle)
    params = game.env.default_params.replace(player_speed=torch.tensor(1), time_limit=torch.tensor(12))
    walk = game.walk(game.starts(10, params)[0], upward, 30, params)
    assert int(walk.terminated.sum()) == 20 and (walk.after.move_timer == 0).all()


def test_an_episode_begins_as_in_minatar(oracle):
    make(oracle).begins(lambda key: speeds(random.uniform(key, (8,)).numpy()))
