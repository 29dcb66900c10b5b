"""Catch: move a paddle under a falling ball."""

import torch

from funrl import _check, random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw, _grid as grid
from funrl.envs._checks import checked
from funrl.spaces import Box, Discrete

NAME = "Catch-bsuite"


@tree.dataclass
class CatchParams:
    """The rewards, each a floating-point [] of one dtype.

    Attributes:
        catch_reward: the reward for a ball that lands on the paddle.
        miss_reward: the reward for a ball that does not.
    """

    catch_reward: torch.Tensor = tree.constant(1.0)
    miss_reward: torch.Tensor = tree.constant(-1.0)


@tree.dataclass
class CatchState:
    """The state of one episode.

    Attributes:
        ball_row: int64 [], 0 on top, the number of steps that the ball has fallen.
        ball_column: int64 [].
        paddle_column: int64 []; the paddle is in the last row.
    """

    ball_row: torch.Tensor
    ball_column: torch.Tensor
    paddle_column: torch.Tensor


def catch(rows: int = 10, columns: int = 5) -> Env:
    """Return Catch-bsuite: a ball falls one row a step, and the paddle in the last row has to catch it.

    It agrees with bsuite's Catch step for step. The observation is floating-point [rows, columns]: 1 where the ball or the paddle is.
    Actions: 0 moves the paddle to the left, 1 not at all, 2 to the right. The reward is 0 until the ball lands, which terminates the
    episode after ``rows`` - 1 steps.

    Args:
        rows: at least 2.
        columns: at least 1.

    Raises:
        TypeError, ValueError: if a size is not an integer, or too small.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = catch()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(2))
        >>> timestep.observation.shape, state.ball_row, state.paddle_column
        (torch.Size([10, 5]), tensor(1), tensor(3))

    Reference: I. Osband et al., "Behaviour Suite for Reinforcement Learning", 2019, arXiv:1908.03568; the game is of V. Mnih et al.,
    "Recurrent Models of Visual Attention", 2014, arXiv:1406.6247.
    """
    _check.integer(f"{NAME}: rows", rows, 2, remedy="shapes have to be known while compiling")
    _check.integer(f"{NAME}: columns", columns, 1, remedy="shapes have to be known while compiling")
    default = constants(CatchParams)

    def ball(state: CatchState) -> torch.Tensor:
        return torch.stack([state.ball_row, state.ball_column])

    def paddle(state: CatchState) -> torch.Tensor:
        return torch.stack([torch.full_like(state.paddle_column, rows - 1), state.paddle_column])

    def observe(state: CatchState, dtype: torch.dtype) -> torch.Tensor:
        return (grid.mask(ball(state), (rows, columns)) | grid.mask(paddle(state), (rows, columns))).to(dtype)

    def reset(key: torch.Tensor, p: CatchParams) -> tuple[CatchState, Timestep]:
        """Return a state with the ball on top of a random column and the paddle in the middle, and its timestep."""
        ball_column = random.randint(key, (), 0, columns)
        state = CatchState(torch.zeros_like(ball_column), ball_column, torch.full_like(ball_column, columns // 2))
        return state, first_timestep(observe(state, p.catch_reward.dtype), p.catch_reward)

    def step(key: torch.Tensor, state: CatchState, action: torch.Tensor, p: CatchParams) -> tuple[CatchState, Timestep]:
        """Move the paddle, then drop the ball by one row; the key is not used."""
        new = CatchState(state.ball_row + 1, state.ball_column, (state.paddle_column + action - 1).clamp(0, columns - 1))
        landed = new.ball_row == rows - 1
        outcome = torch.where(new.ball_column == new.paddle_column, p.catch_reward, p.miss_reward)
        reward = torch.where(landed, outcome, 0.0)
        return new, Timestep(observe(new, reward.dtype), reward, landed, torch.zeros_like(landed), {})

    def render(state: CatchState, p: CatchParams) -> torch.Tensor:
        """Return a picture of the board, uint8 [H, W, 3]."""
        shape, device = (rows, columns), state.ball_row.device
        picture = grid.board(shape, device)
        picture = draw.paint(picture, grid.tiles(picture, torch.ones(shape, dtype=torch.bool, device=device)), draw.PALE, 0.45)
        picture = draw.paint(picture, grid.tiles(picture, grid.mask(paddle(state), shape)), draw.TEAL)
        return draw.to_uint8(grid.token(picture, ball(state), draw.AMBER))

    return checked(Env(NAME, reset, step, Box(0.0, 1.0, (rows, columns)), Discrete(3), default, rows - 1, render), CatchState)
