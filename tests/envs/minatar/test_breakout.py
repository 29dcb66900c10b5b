import numpy as np
import torch

from funrl import envs, random
from funrl.envs._minatar import _breakout as module


def attributes(state, params):
    direction = {(False, False): 0, (True, False): 1, (True, True): 2, (False, True): 3}[bool(state.ball_right), bool(state.ball_down)]
    return dict(
        pos=int(state.paddle),
        ball_y=int(state.ball_row),
        ball_x=int(state.ball_column),
        last_y=int(state.trail_row),
        last_x=int(state.trail_column),
        ball_dir=direction,
        brick_map=state.bricks.astype(float),
        strike=bool(state.strike),
    )


def follow(state, numbers):
    """Mostly go where the ball is."""
    towards = torch.where(state.ball_column > state.paddle, 3, torch.where(state.ball_column < state.paddle, 1, 0))
    return torch.where(torch.rand(len(towards), generator=numbers) < 0.7, towards, torch.randint(6, towards.shape, generator=numbers))


def make(oracle):
    return oracle("breakout", module, attributes, lambda u, game: [])


def test_every_transition_is_that_of_minatar(oracle):
    game = make(oracle)
    state, _ = game.starts(300)
    numbers = torch.Generator().manual_seed(3)
    share = torch.linspace(0, 1, 300)[:, None, None]
    state = state.replace(
        bricks=state.bricks & (torch.rand(300, 10, 10, generator=numbers) < share.where(share > 0.2, 0.0)),
        ball_row=torch.randint(9, (300,), generator=numbers),
        ball_column=torch.randint(10, (300,), generator=numbers),
        ball_down=torch.rand(300, generator=numbers) < 0.5,
        ball_right=torch.rand(300, generator=numbers) < 0.5,
        strike=torch.rand(300, generator=numbers) < 0.5,
    )
    walk = game.walk(state, follow, 17)
    before, after = walk.before, walk.after
    events = dict(
        bricks=walk.reward == 1,
        deaths=walk.terminated,
        walls_again=after.bricks.flatten(1).sum(1) > before.bricks.flatten(1).sum(1),
        passes_through_a_brick=after.strike & before.strike,
        sides=(after.ball_right != before.ball_right) & (after.ball_row != before.ball_row),
        ceilings=after.ball_down & ~before.ball_down & (walk.reward == 0),
        paddle_hits=~after.ball_down & before.ball_down & (before.ball_row == 8),
        corner_hits=~after.ball_down & before.ball_down & (before.ball_row == 8) & (after.ball_right != before.ball_right),
    )
    counts = {name: int(happened.sum()) for name, happened in events.items()}
    assert len(walk.reward) == 5100 and min(counts.values()) >= 5, counts


def test_an_episode_begins_as_in_minatar(oracle):
    make(oracle).begins(lambda key: [random.uniform(key).numpy()])


def test_the_last_action_sticks():
    env = envs.make("Breakout-MinAtar")
    params = env.default_params.replace(sticky_action_prob=torch.tensor(1.0))
    state, _ = env.reset(random.key(0), params)
    state = state.replace(last_action=torch.tensor(1))
    for column in (3, 2):
        state, _ = env.step(random.key(1), state, torch.tensor(3), params)
        assert state.paddle == column and state.last_action == 1
    keys = random.split(random.key(2), 5000)
    stuck = torch.func.vmap(lambda key: env.step(key, state, torch.tensor(3), env.default_params)[0].last_action == 1)(keys)
    np.testing.assert_allclose(stuck.float().mean(), 0.1, atol=0.02)
