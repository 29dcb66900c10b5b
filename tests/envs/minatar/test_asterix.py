import torch

from funrl import random
from funrl.envs._minatar import _asterix as module


def attributes(state, params):
    lanes = zip(state.lane_column.tolist(), range(1, 9), state.lane_right.tolist(), state.lane_gold.tolist(), strict=True)
    return dict(
        player_x=int(state.column),
        player_y=int(state.row),
        entities=[list(lane) if lane[0] >= 0 else None for lane in lanes],
        spawn_speed=int(state.spawn_interval),
        spawn_timer=int(state.spawn_timer),
        move_speed=int(state.move_interval),
        move_timer=int(state.move_timer),
        ramp_timer=int(state.ramp_timer),
        ramp_index=int(state.ramps),
    )


def make(oracle):
    return oracle("asterix", module, attributes, lambda u, game: u[1:])


def wander(state, numbers):
    """Walk at random, but mostly stay in the middle rows."""
    home = torch.where(state.row > 5, 2, 4)
    return torch.where(torch.rand(len(home), generator=numbers) < 0.1, home, torch.randint(6, home.shape, generator=numbers))


def test_every_transition_is_that_of_minatar(oracle):
    game = make(oracle)
    n = 300
    state, _ = game.starts(n)
    numbers = torch.Generator().manual_seed(3)

    def integers(low, high, *size):
        return torch.randint(low, high, (n, *size), generator=numbers)

    busy = torch.linspace(-0.3, 1.2, n)[:, None]
    state = state.replace(
        row=integers(1, 9),
        column=integers(0, 10),
        lane_column=torch.where(torch.rand(n, 8, generator=numbers) < busy, integers(0, 10, 8), -1),
        lane_right=integers(0, 2, 8) == 1,
        lane_gold=integers(0, 2, 8) == 1,
        spawn_interval=integers(1, 11),
        move_interval=integers(1, 6),
        ramps=integers(0, 10),
        ramp_timer=integers(-1, 30),
    )
    state = state.replace(
        spawn_timer=(torch.rand(n, generator=numbers) * state.spawn_interval).long(),
        move_timer=(torch.rand(n, generator=numbers) * state.move_interval).long(),
    )
    walk = game.walk(state, wander, 20)
    before, after = walk.before, walk.after
    there, stays = before.lane_column >= 0, after.lane_column >= 0
    spawns = before.spawn_timer == 0
    events = dict(
        treasures=walk.reward == 1,
        deaths=walk.terminated,
        newcomers=(stays & ~there).any(1),
        no_room=spawns & there.all(1),
        leaves_left=(there & ~stays & (before.lane_column == 0) & ~before.lane_right).any(1),
        leaves_right=(there & ~stays & (before.lane_column == 9) & before.lane_right).any(1),
        more_spawns=after.spawn_interval < before.spawn_interval,
        faster=after.move_interval < before.move_interval,
        fastest=(before.spawn_interval == 1) & (before.move_interval == 1),
        walls=(before.row == after.row) & (before.column == after.column) & (after.last_action > 0) & (after.last_action < 5),
    )
    counts = {name: int(happened.sum()) for name, happened in events.items()}
    assert len(walk.reward) == 6000 and min(counts.values()) >= 10, counts


def test_the_constants_are_params(oracle, monkeypatch):
    changed = dict(ramp_interval=7, init_spawn_speed=4, init_move_interval=3)
    for name, value in changed.items():
        monkeypatch.setattr(f"minatar.environments.asterix.{name}", value)
    game = make(oracle)
    params = game.env.default_params.replace(
        ramp_interval=torch.tensor(7), spawn_interval=torch.tensor(4), move_interval=torch.tensor(3), sticky_action_prob=torch.tensor(0.5)
    )
    game.begins(lambda key: [], params=params)
    walk = game.walk(game.starts(10, params)[0], wander, 40, params)
    assert (walk.after.spawn_interval < 3).any() and (walk.after.move_interval < 3).any()
    calm = params.replace(ramping=torch.tensor(False))
    walk = game.walk(game.starts(10, calm)[0], wander, 40, calm)
    assert (walk.after.spawn_interval == 4).all() and (walk.after.ramp_timer == 7).all()


def test_an_episode_begins_as_in_minatar(oracle):
    make(oracle).begins(lambda key: [], n=2)


def test_newcomers_are_shared_out_evenly():
    keys = random.split(random.key(0), 4000)
    state, _ = module.asterix().reset(random.key(1))
    state = state.replace(spawn_timer=torch.tensor(0), lane_column=torch.where(torch.arange(8) % 3 == 1, 2, -1))
    after, _ = torch.func.vmap(module.step, (0, None, None, None))(keys, state, torch.tensor(0), module.PARAMS)
    came = (after.lane_column >= 0) & (state.lane_column < 0)
    assert (came.sum(1) == 1).all()
    torch.testing.assert_close(came.float().mean(0), torch.tensor([0.2, 0, 0.2, 0.2, 0, 0.2, 0.2, 0]), atol=0.03, rtol=0)
    gold, right = ((came & x).any(1).float().mean() for x in (after.lane_gold, after.lane_right))
    torch.testing.assert_close(torch.stack([gold, right]), torch.tensor([1 / 3, 0.5]), atol=0.03, rtol=0)
