import numpy as np
import pytest
import torch

from funrl import random
from funrl.envs._minatar import _seaquest as module


class Unordered(list):
    """A list of which minatar's order and repetitions do not matter: bullets that are alike do alike."""

    def __eq__(self, other):
        return set(map(tuple, self)) == set(map(tuple, other))

    __hash__ = None


def table(actors, *more):
    """Return the actors that are there, old ones first: column, row, right and more of each."""
    there = sorted((i for i, column in enumerate(actors.column) if column >= 0), key=lambda i: actors.born[i])
    return [[int(actors.column[i]), int(actors.row[i]), bool(actors.right[i]), *(int(values[i]) for values in more)] for i in there]


def attributes(state, params):
    intervals = params.enemy_shot_interval, params.diver_move_interval, params.diver_spawn_interval
    time, gun, swim, due = (int(x) for x in (state.time, *intervals))
    ages = time - state.enemies.born
    enemies = table(state.enemies, state.enemy_timer, gun - ages % (gun + 1), state.enemy_submarine)
    shots = [[x, y, bool(right)] for right, y, x in np.argwhere([state.shots_left, state.shots_right]).tolist()]
    return dict(
        sub_x=int(state.column),
        sub_y=int(state.row),
        sub_or=bool(state.right),
        surface=bool(state.surfaced),
        oxygen=int(state.oxygen),
        diver_count=int(state.divers_aboard),
        f_bullets=Unordered(table(state.bullets)),
        e_bullets=Unordered(shots),
        e_fish=[fish[:4] for fish in enemies if not fish[5]],
        e_subs=[submarine[:5] for submarine in enemies if submarine[5]],
        divers=table(state.divers, swim - (time - state.divers.born) % (swim + 1)),
        shot_timer=int(state.shot_timer),
        e_spawn_speed=int(state.spawn_interval),
        e_spawn_timer=int(state.spawn_timer),
        d_spawn_timer=-time % due if time else due,
        move_speed=int(state.move_interval),
        ramp_index=int(state.ramps),
    )


def script(u, game):
    return [*(u[1:4] if game.e_spawn_timer == 0 else []), *(u[4:6] if game.d_spawn_timer == 0 else [])]


def make(oracle):
    return oracle("seaquest", module, attributes, script)


def cruise(state, numbers):
    """Go about at random and fire, but mostly stay under water without a diver."""
    shape = state.row.shape
    action = torch.where(torch.rand(shape, generator=numbers) < 0.3, 5, torch.randint(6, shape, generator=numbers))
    keep = (action == 2) & (state.row <= 1) & (state.divers_aboard == 0) & (torch.rand(shape, generator=numbers) < 0.8)
    return torch.where(keep | ((state.row == 0) & (torch.rand(shape, generator=numbers) < 0.7)), 4, action)


def midst(game, n, seed):
    """Return n states from the midst of games, full of all that swims."""
    state, _ = game.starts(n)
    numbers = torch.Generator().manual_seed(seed)

    def integers(low, high, *size):
        return torch.randint(low, high, (n, *size), generator=numbers)

    def chance(*size):
        return torch.rand(n, *size, generator=numbers)

    def places(size, where, spread):
        """Return the actors that are there, of ages that differ."""
        return torch.where(where, integers(0, 10, size), -1), time[:, None] - 1 - spread * chance(size).argsort(1)

    time, column, row = integers(150, 300), integers(0, 10), integers(-2, 9).clamp(min=0)
    crowd = torch.linspace(0, 0.7, n)[:, None]
    there, born = places(module.ENEMIES, chance(module.ENEMIES) < crowd, 1)
    enemies = state.enemies.replace(row=integers(1, 9, 32), column=there, born=born)
    enemies = enemies.replace(right=(chance(10) < 0.5).gather(1, enemies.row))
    there, born = places(module.DIVERS, chance(module.DIVERS) < torch.tensor([0.6, 0.6, 0.6, 0.0]), 7)
    divers = state.divers.replace(row=integers(1, 9, 4), column=there, born=born, right=chance(4) < 0.5)
    # In every fourth game the divers are where the player is; in every fifth all is as fast as can be.
    close = (torch.arange(n) % 4 == 0)[:, None] & (there >= 0)
    divers = divers.replace(row=torch.where(close, row[:, None], divers.row), column=torch.where(close, column[:, None], there))
    fast = torch.arange(n) % 5 == 0
    # No two bullets meet in a game: they fly away from who fires them, and faster.
    there, born = places(module.BULLETS, chance(module.BULLETS) < 0.3, 1)
    there = torch.where(there == column[:, None], -1, there).index_fill(1, torch.tensor([9]), -1)
    bullets = state.bullets.replace(row=chance(10).argsort(1), column=there, born=born, right=there > column[:, None])
    cells = chance(2, 10, 10) < 0.02
    cells[:, :, [0, 9]] = False
    state = state.replace(
        row=row,
        column=column,
        right=torch.where(column == 9, True, torch.where(column == 0, False, chance() < 0.5)),
        surfaced=row == 0,
        oxygen=torch.where(chance() < 0.1, integers(0, 15), integers(20, 201)),
        divers_aboard=torch.where(chance() < 0.3, 6, integers(-1, 6)),
        bullets=bullets,
        enemies=enemies,
        enemy_submarine=chance(32) < 0.5,
        divers=divers,
        shots_left=cells[:, 0],
        shots_right=cells[:, 1],
        shot_timer=integers(0, 5),
        spawn_interval=torch.where(fast, 1, integers(1, 21)),
        move_interval=torch.where(fast, 2, integers(2, 6)),
        ramps=integers(0, 20),
        time=time,
    )
    return state.replace(
        enemy_timer=(chance(32) * (state.move_interval[:, None] + 1)).long(), spawn_timer=(chance() * state.spawn_interval).long()
    )


def test_every_transition_is_that_of_minatar(oracle):
    game = make(oracle)
    walk = game.walk(midst(game, 300, 3), cruise, 20)
    before, after, reward = walk.before, walk.after, walk.reward
    deep, aboard = after.row > 0, after.divers_aboard
    up = ~deep & ~before.surfaced
    came = (after.divers.column >= 0) & (after.divers.born == before.time[:, None])
    spawns = before.spawn_timer == 0
    joined = ((after.enemies.column >= 0) & (after.enemies.born == before.time[:, None])).any(1)
    met = (after.divers.row == after.row[:, None]) & (after.divers.column == after.column[:, None])
    shots_before, shots = ((x.shots_left | x.shots_right).flatten(1).sum(1) for x in (before, after))
    events = dict(
        kills=reward == 1,
        two_kills=(reward == 2) & ~up,
        deaths=walk.terminated & (before.oxygen > 0) & deep,
        no_oxygen=walk.terminated & (before.oxygen <= 0) & deep,
        no_diver=walk.terminated & up & (aboard == 0),
        saved=up & (after.oxygen == 200) & ~walk.terminated,
        crews=up & (aboard == -1) & (before.divers_aboard == 6),
        earned=up & (reward > 2),
        owed=up & (aboard == -2),
        rescues=(aboard > before.divers_aboard) & deep,
        two_rescues=(aboard > before.divers_aboard + 1) & deep,
        full=met.any(1) & (aboard == 6) & deep,
        newcomers=joined,
        blocked=spawns & ~joined,
        new_divers=came.any(1),
        more_spawns=after.spawn_interval < before.spawn_interval,
        faster=after.move_interval < before.move_interval,
        fastest=up & (before.spawn_interval == 1) & (before.move_interval == 2),
        fires=(after.bullets.born == before.time[:, None]).any(1),
        enemy_fires=shots > shots_before,
    )
    counts = {name: int(happened.sum()) for name, happened in events.items()}
    assert len(reward) == 6000 and min(counts.values()) >= 5, counts


def test_games_from_the_start_are_those_of_minatar(oracle):
    game = make(oracle)
    walk = game.walk(game.starts(10)[0], cruise, 200)
    assert walk.terminated.sum() > 5 and walk.reward.sum() > 5 and (walk.after.divers_aboard > 0).any()


def test_the_constants_are_params(oracle, monkeypatch):
    changed = dict(
        max_oxygen=50,
        init_spawn_speed=4,
        diver_spawn_speed=8,
        init_move_interval=3,
        shot_cool_down=2,
        enemy_shot_interval=3,
        diver_move_interval=2,
    )
    for name, value in changed.items():
        monkeypatch.setattr(f"minatar.environments.seaquest.{name}", value)
    game = make(oracle)
    params = game.env.default_params.replace(
        oxygen=torch.tensor(50),
        spawn_interval=torch.tensor(4),
        diver_spawn_interval=torch.tensor(8),
        move_interval=torch.tensor(3),
        shot_interval=torch.tensor(2),
        enemy_shot_interval=torch.tensor(3),
        diver_move_interval=torch.tensor(2),
        sticky_action_prob=torch.tensor(0.5),
    )
    game.begins(lambda key: [], n=2, params=params)
    walk = game.walk(game.starts(10, params)[0], cruise, 60, params)
    assert (walk.after.spawn_interval < 4).any()
    calm = params.replace(ramping=torch.tensor(False))
    walk = game.walk(game.starts(10, calm)[0], cruise, 60, calm)
    assert (walk.after.spawn_interval == 4).all() and (walk.after.ramps == 0).all()


def test_an_episode_begins_as_in_minatar(oracle):
    make(oracle).begins(lambda key: [], n=2)


def test_newcomers_are_shared_out_evenly():
    keys = random.split(random.key(0), 4000)
    state = module.seaquest().reset(random.key(1))[0].replace(spawn_timer=torch.tensor(0), time=torch.tensor(30))
    after, _ = torch.func.vmap(module.step, (0, None, None, None))(keys, state, torch.tensor(0), module.PARAMS)
    for actors in (after.enemies, after.divers):
        assert (actors.column[:, 0] >= 0).all() and (actors.column[:, 1:] < 0).all()
        shares = torch.bincount(actors.row[:, 0], minlength=10) / 4000
        torch.testing.assert_close(shares, torch.tensor([0.0, *[1 / 8] * 8, 0.0]), atol=0.02, rtol=0)
        assert actors.right[:, 0].float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert after.enemy_submarine[:, 0].float().mean().item() == pytest.approx(1 / 3, abs=0.03)


def test_who_finds_no_room_does_not_come():
    state, _ = module.seaquest().reset(random.key(0))
    full = state.enemies.replace(column=torch.full((module.ENEMIES,), 5), row=torch.full((module.ENEMIES,), 9))
    state = state.replace(enemies=full, spawn_timer=torch.tensor(0), enemy_timer=torch.full((module.ENEMIES,), 3))
    after, timestep = module.step(random.key(1), state, torch.tensor(0), module.PARAMS)
    assert torch.equal(after.enemies.born, full.born) and torch.equal(after.enemies.row, full.row) and after.spawn_timer == 19
    assert timestep.observation[9, 5, 5] and timestep.observation[..., 5].sum() == 1
