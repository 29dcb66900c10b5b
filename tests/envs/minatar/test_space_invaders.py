import torch

from funrl import random
from funrl.envs._minatar import _space_invaders as module


def attributes(state, params):
    return dict(
        pos=int(state.cannon),
        f_bullet_map=state.bullets.astype(float),
        e_bullet_map=state.alien_bullets.astype(float),
        alien_map=state.aliens.astype(float),
        alien_dir=1 if state.aliens_right else -1,
        enemy_move_interval=int(state.alien_move_interval),
        alien_move_timer=int(state.alien_move_timer),
        alien_shot_timer=int(state.alien_shot_timer),
        shot_timer=int(state.shot_timer),
    )


def make(oracle):
    return oracle("space_invaders", module, attributes, lambda u, game: [])


def shoot(state, numbers):
    shape = state.cannon.shape
    return torch.where(torch.rand(shape, generator=numbers) < 0.4, 5, torch.randint(6, shape, generator=numbers))


def test_every_transition_is_that_of_minatar(oracle):
    game = make(oracle)
    n = 300
    state, _ = game.starts(n)
    numbers = torch.Generator().manual_seed(3)

    def integers(low, high):
        return torch.randint(low, high, (n,), generator=numbers)

    def cells(share):
        return torch.rand(n, 10, 10, generator=numbers) < torch.as_tensor(share).reshape(-1, 1, 1)

    down = torch.arange(10)[:, None] - torch.randint(0, 8, (n, 1, 1), generator=numbers)
    block = (down >= 0) & (down < 4) & cells(torch.linspace(0.05, 1.0, n))
    block = block & ((torch.arange(10) - torch.randint(0, 6, (n, 1, 1), generator=numbers)) % 10 < 6)
    aliens, bullets = torch.where(block.any((1, 2), keepdim=True), block, state.aliens), cells(0.03)
    # In every fifth game one alien is left, over a column of bullets.
    last = (torch.arange(n) % 5 == 0)[:, None, None] & (torch.arange(10) == torch.randint(0, 10, (n, 1, 1), generator=numbers))
    aliens = torch.where(last.any((1, 2), keepdim=True), last & (torch.arange(10)[:, None] == 4), aliens)
    state = state.replace(
        cannon=integers(0, 10),
        bullets=bullets | (last & (torch.arange(10)[:, None] > 4)),
        alien_bullets=cells(0.03),
        aliens=aliens,
        aliens_right=integers(0, 2) == 1,
        alien_move_interval=integers(5, 13),
        alien_shot_timer=integers(0, 10),
        shot_timer=integers(0, 5),
    )
    state = state.replace(alien_move_timer=(torch.rand(n, generator=numbers) * 4).long())
    walk = game.walk(state, shoot, 20)
    before, after = walk.before, walk.after
    row = torch.arange(10)
    lowest = torch.where(before.aliens.any(2), row, -1).amax(1)
    cleared = after.aliens.flatten(1).sum(1) > before.aliens.flatten(1).sum(1)
    turned = after.aliens_right != before.aliens_right
    cannon = torch.arange(10) == after.cannon[:, None]
    shot = (before.alien_bullets[:, 8] & cannon).any(1)
    events = dict(
        kills=walk.reward == 1,
        two_kills=walk.reward >= 2,
        shot=walk.terminated & shot,
        rammed=walk.terminated & (after.aliens[:, 9] & cannon).any(1) & ~shot,
        landed=walk.terminated & turned & (lowest == 9) & ~shot,
        turns_left=turned & before.aliens_right,
        turns_right=turned & ~before.aliens_right,
        fires=after.bullets[:, 8].any(1),
        alien_fires=before.alien_shot_timer == 0,
        waves=cleared,
        faster_waves=cleared & (after.alien_move_interval < before.alien_move_interval),
        fastest_waves=cleared & (before.alien_move_interval <= 6),
        few_are_fast=(before.alien_move_timer == 0) & (before.aliens.flatten(1).sum(1) < before.alien_move_interval),
    )
    counts = {name: int(happened.sum()) for name, happened in events.items()}
    assert len(walk.reward) == 6000 and min(counts.values()) >= 5, counts


def test_games_from_the_start_are_those_of_minatar(oracle):
    game = make(oracle)
    walk = game.walk(game.starts(10)[0], shoot, 120)
    assert walk.terminated.sum() > 5 and walk.reward.sum() > 20


def test_the_constants_are_params(oracle, monkeypatch):
    changed = dict(shot_cool_down=2, enemy_move_interval=4, enemy_shot_interval=3)
    for name, value in changed.items():
        monkeypatch.setattr(f"minatar.environments.space_invaders.{name}", value)
    game = make(oracle)
    params = game.env.default_params.replace(
        shot_interval=torch.tensor(2), alien_move_interval=torch.tensor(4), alien_shot_interval=torch.tensor(3)
    )
    game.begins(lambda key: [], n=2, params=params)
    game.walk(game.starts(10, params)[0], shoot, 40, params)


def test_waves_get_faster_down_to_a_limit():
    state, _ = module.space_invaders().reset(random.key(0))
    last = torch.zeros_like(state.aliens)
    last[5, 5] = True
    for ramping, least, expected in ((True, 6, 11), (True, 12, 12), (False, 6, 12)):
        params = module.PARAMS.replace(ramping=torch.tensor(ramping), least_move_interval=torch.tensor(least))
        cleared, timestep = module.step(random.key(0), state.replace(aliens=last, bullets=last.roll(1, 0)), torch.tensor(0), params)
        assert timestep.reward == 1 and cleared.aliens.sum() == 24 and cleared.alien_move_interval == expected


def test_an_episode_begins_as_in_minatar(oracle):
    make(oracle).begins(lambda key: [], n=2)
