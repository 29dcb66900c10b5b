"""Shared parts of the MinAtar games: six actions, a screen of 10 x 10 cells, and time limits.

Row 0 of the screen is on top. A table of N actors (fish, bullets, ...) has their columns, int64 [N]: 0 to 9, or -1 for an empty entry.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from funrl import tree
from funrl.env import Env
from funrl.envs import _draw as draw, _grid as grid
from funrl.envs._checks import checked
from funrl.spaces import Binary, Discrete

SIZE = 10
MAX_STEPS = 10_000
ACTIONS = Discrete(6)
LEFT, UP, RIGHT, DOWN, FIRE = range(1, 6)


def stick(u: torch.Tensor, action: torch.Tensor, last_action: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """Return the executed action, int64 []: the last one with a given probability; ``u`` is uniform in [0, 1)."""
    return torch.where(u < probability, last_action, action)


def right(action: torch.Tensor) -> torch.Tensor:
    """Return the number of cells that an action moves to the right, int64 []: -1, 0 or 1."""
    return (action == RIGHT).long() - (action == LEFT).long()


def down(action: torch.Tensor) -> torch.Tensor:
    """Return the number of cells that an action moves down, int64 []: -1, 0 or 1."""
    return (action == DOWN).long() - (action == UP).long()


def pick(u: torch.Tensor, n: torch.Tensor | int) -> torch.Tensor:
    """Return integers in [0, n), int64, from uniform numbers in [0, 1)."""
    return (u * n).floor().long()


def cell(row: torch.Tensor | int, column: torch.Tensor) -> torch.Tensor:
    """Return bool [10, 10], true at one cell."""
    index = torch.arange(SIZE, device=column.device)
    return (index == row)[:, None] & (index == column)


def lanes(column: torch.Tensor) -> torch.Tensor:
    """Return bool [8, 10], true at the column of each lane's actor [8]; lane i is row i + 1 of the screen."""
    return tree.one_hot(column, SIZE)


def pad(board: torch.Tensor) -> torch.Tensor:
    """Return lanes [8, ...] as the screen [10, ...], with nothing in its first and last row."""
    return functional.pad(board, (0, 0) * (board.ndim - 1) + (1, 1))


def drive(column: torch.Tensor, right: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return the columns [N] of actors after those of the mask ``where`` moved one cell, -1 for those that left the screen."""
    moved = column + torch.where(right, 1, -1)
    return torch.where(where & (column >= 0), torch.where(moved < SIZE, moved, -1), column)


def rank(mask: torch.Tensor) -> torch.Tensor:
    """Return the number of true elements of a mask [N] before each index, int64 [N]."""
    index = torch.arange(mask.shape[0], device=mask.device)
    return (mask & (index < index[:, None])).sum(1)


def shift(board: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Shift bool [10, 10] by some cells down and to the right; cells that leave the screen are dropped."""
    pads = (max(columns, 0), max(-columns, 0), max(rows, 0), max(-rows, 0))
    height, width = SIZE - abs(rows), SIZE - abs(columns)
    return functional.pad(board.narrow(0, max(-rows, 0), height).narrow(1, max(-columns, 0), width), pads)


def pace(state: Any, ramps: torch.Tensor, least: int) -> dict[str, torch.Tensor]:
    """Let actors come more often each time that the pace ``ramps``, and move faster every second time, down to 1 and ``least``."""
    ramps = ramps & ((state.spawn_interval > 1) | (state.move_interval > least))
    return {
        "spawn_interval": state.spawn_interval - (ramps & (state.spawn_interval > 1)).long(),
        "move_interval": state.move_interval - (ramps & (state.move_interval > least) & (state.ramps % 2 == 1)).long(),
        "ramps": state.ramps + ramps.long(),
    }


def game(
    name: str,
    state_kind: type,
    reset: Callable[..., Any],
    step: Callable[..., Any],
    observe: Callable[[Any, Any], torch.Tensor],
    params: Any,
    colours: Sequence[draw.Colour],
) -> Env:
    """Return a game with observations bool [10, 10, C], and pictures of them in one colour for each channel, later ones on top."""
    observations, render = Binary((SIZE, SIZE, len(colours)), layout="hwc"), functools.partial(_picture, observe, colours)
    render.__doc__ = _picture.__doc__
    return checked(Env(name, reset, step, observations, ACTIONS, params, MAX_STEPS, render), state_kind)


def _picture(observe: Callable[[Any, Any], torch.Tensor], colours: Sequence[draw.Colour], state: Any, p: Any) -> torch.Tensor:
    """Return a picture of the observation, uint8 [240, 240, 3]."""
    observation = observe(state, p)
    picture = grid.board((SIZE, SIZE), observation.device)
    for where, colour in zip(observation.unbind(-1), colours, strict=True):
        picture = draw.paint(picture, grid.tiles(picture, where), colour)
    return draw.to_uint8(picture)
