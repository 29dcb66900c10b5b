"""MinAtar's Breakout: keep the ball in play with a paddle, and break bricks with it."""

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._minatar import _screen as screen

NAME = "Breakout-MinAtar"


@tree.dataclass
class BreakoutParams:
    """The constants of the game.

    Attributes:
        sticky_action_prob: floating-point []; the probability that the last action is repeated instead of the given one.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    sticky_action_prob: torch.Tensor = tree.constant(0.1)
    max_steps: torch.Tensor = tree.constant(screen.MAX_STEPS)


@tree.dataclass
class BreakoutState:
    """The state of one episode.

    Attributes:
        paddle: int64 [], its column; it is in the last row.
        ball_row: int64 [].
        ball_column: int64 [].
        trail_row: int64 [], the row of the ball one step ago.
        trail_column: int64 [].
        ball_right: bool []; the ball goes to the right, else to the left.
        ball_down: bool []; it goes down, else up.
        bricks: bool [10, 10].
        strike: bool []; the ball was in a brick's cell in the last step, so it breaks none in this one.
        last_action: int64 [], the last executed action.
        time: int64 [], steps since the reset.
    """

    paddle: torch.Tensor
    ball_row: torch.Tensor
    ball_column: torch.Tensor
    trail_row: torch.Tensor
    trail_column: torch.Tensor
    ball_right: torch.Tensor
    ball_down: torch.Tensor
    bricks: torch.Tensor
    strike: torch.Tensor
    last_action: torch.Tensor
    time: torch.Tensor


PARAMS = constants(BreakoutParams)
COLOURS = (draw.TEAL, draw.AMBER, draw.PALE, draw.CORAL)


def reset(key: torch.Tensor, p: BreakoutParams) -> tuple[BreakoutState, Timestep]:
    """Return a state with all bricks and the ball at a random side, and its timestep; ``key`` is int64 []."""
    right = random.uniform(key) >= 0.5
    zero = torch.zeros_like(right, dtype=torch.int64)
    row, column = zero + 3, 9 * right.long()
    state = BreakoutState(
        paddle=zero + 4,
        ball_row=row,
        ball_column=column,
        trail_row=row.clone(),
        trail_column=column.clone(),
        ball_right=~right,
        ball_down=torch.ones_like(right),
        bricks=_wall(key.device),
        strike=torch.zeros_like(right),
        last_action=zero,
        time=zero.clone(),
    )
    return state, first_timestep(_observe(state, p), p.sticky_action_prob)


def step(key: torch.Tensor, state: BreakoutState, action: torch.Tensor, p: BreakoutParams) -> tuple[BreakoutState, Timestep]:
    """Move the paddle, then the ball.

    Args:
        key: int64 []; for the random repetition of the action.
        state: the state of the episode.
        action: int64 []; 1 left, 3 right; 0, 2, 4 and 5 do nothing.
        p: ``env_params``, the constants.

    Returns:
        The next state and its timestep: observation bool [10, 10, 4]; reward 1 for a brick, else 0; terminated when the ball passes the
        paddle; truncated after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    action = screen.stick(_draws(key), action, state.last_action, p.sticky_action_prob)
    paddle = (state.paddle + screen.right(action)).clamp(0, 9)

    row = state.ball_row + 2 * state.ball_down.long() - 1
    column = state.ball_column + 2 * state.ball_right.long() - 1
    side, ceiling = (column < 0) | (column > 9), row < 0
    row, column = row.clamp(min=0), column.clamp(0, 9)
    target = screen.cell(row, column)
    brick = (state.bricks & target).any() & ~ceiling
    broken = brick & ~state.strike
    bottom = (row == 9) & ~brick
    flat = bottom & (state.ball_column == paddle)
    corner = bottom & ~flat & (column == paddle)
    turned = broken | flat | corner
    new = BreakoutState(
        paddle=paddle,
        ball_row=torch.where(turned, state.ball_row, row),
        ball_column=column,
        trail_row=state.ball_row,
        trail_column=state.ball_column,
        ball_right=state.ball_right ^ side ^ corner,
        ball_down=state.ball_down ^ ceiling ^ turned,
        bricks=(state.bricks & ~(target & broken)) | (_wall(key.device) & bottom & ~state.bricks.any()),
        strike=brick,
        last_action=action,
        time=state.time + 1,
    )
    lost = bottom & ~flat & ~corner
    return new, Timestep(_observe(new, p), broken.to(p.sticky_action_prob.dtype), lost, new.time >= p.max_steps, {})


def _draws(key: torch.Tensor) -> torch.Tensor:
    """Return the random number of a step: whether the action is repeated."""
    return random.uniform(key)


def _wall(device: torch.device) -> torch.Tensor:
    row = torch.arange(screen.SIZE, device=device)[:, None]
    return ((row >= 1) & (row <= 3)).repeat(1, screen.SIZE)


def _observe(state: BreakoutState, p: BreakoutParams) -> torch.Tensor:
    paddle = screen.cell(9, state.paddle)
    ball = screen.cell(state.ball_row, state.ball_column)
    trail = screen.cell(state.trail_row, state.trail_column)
    return torch.stack([paddle, ball, trail, state.bricks], -1)


def breakout() -> Env:
    """Return Breakout-MinAtar: a ball breaks three rows of bricks and must not pass the paddle.

    The ball moves one cell along a diagonal in each step. Walls, bricks and the middle of the paddle reflect it; if the paddle is one
    cell away, it returns in its old direction. A broken brick earns 1. When all bricks are broken, new ones appear when the ball comes
    to the bottom. The episode terminates when the ball passes the paddle, and is truncated after ``env_params.max_steps``, 10,000 by
    default.

    The observation is bool [10, 10, 4]: paddle, ball, trail (where the ball was), bricks. The actions are MinAtar's six: 0 nothing, 1 left,
    2 up, 3 right, 4 down, 5 fire, of which 1 and 3 matter here. With a probability of ``env_params.sticky_action_prob`` the last action is
    taken again instead. It agrees with the minatar package step for step, which has no time limit, and where the last action of
    an episode can be repeated in the next one.

    Pictures show the paddle green, the ball yellow and its trail grey, bricks red.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = breakout()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(3))
        >>> timestep.observation.shape, timestep.reward, state.paddle
        (torch.Size([10, 10, 4]), tensor(0.), tensor(5))

    Reference: K. Young, T. Tian, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement Learning Experiments",
    2019, arXiv:1903.03176.
    """
    return screen.game(NAME, BreakoutState, reset, step, _observe, PARAMS, COLOURS)
