"""Grids of tiles: layouts as text, steps from tile to tile, and pictures of them.

A position is int64 [2], (row, column), and row 0 is on top.
"""

from collections.abc import Sequence

import torch

from funrl import tree
from funrl.envs import _draw as draw

ACTION_NAMES = ("left", "down", "right", "up")


@tree.dataclass
class GridState:
    """The state of one episode of a walk on a grid.

    Attributes:
        position: int64 [2], row and column.
        time: int64 [], steps since the reset.
    """

    position: torch.Tensor
    time: torch.Tensor


def parse(name: str, layout: str | Sequence[str], symbols: str, once: str) -> tuple[torch.Tensor, dict[str, list[int]]]:
    """Read a layout: rows of the same length, a character for each tile.

    Args:
        name: the name of the environment, for the message.
        layout: the rows, or a text with one row a line.
        symbols: the valid characters.
        once: those of them that must occur exactly once.

    Returns:
        int64 [H, W], the index of each tile's character in ``symbols``; and the positions of the characters in ``once``.

    Raises:
        TypeError: if it is not a text.
        ValueError: if rows differ in length, or a character is unknown, missing, or occurs too often.
    """
    rows = layout.split() if isinstance(layout, str) else layout
    if not isinstance(rows, Sequence) or not all(isinstance(row, str) for row in rows):
        raise TypeError(f"{name}: layout: expected a text, a row a line, got {layout!r}")
    if not rows or len({len(row) for row in rows}) != 1:
        raise ValueError(f"{name}: layout: expected rows of the same length, got lengths {[len(row) for row in rows]}")
    unknown = sorted({character for row in rows for character in row} - set(symbols))
    if unknown:
        raise ValueError(f"{name}: layout: expected the characters {' '.join(symbols)}, got {' '.join(unknown)}")
    places = {symbol: [[i, j] for i, row in enumerate(rows) for j, character in enumerate(row) if character == symbol] for symbol in once}
    for symbol, found in places.items():
        if len(found) != 1:
            raise ValueError(f"{name}: layout: expected one {symbol}, got {len(found)}")
    numbers = torch.tensor([[symbols.index(character) for character in row] for row in rows], device="cpu")
    return numbers, {symbol: found[0] for symbol, found in places.items()}


def move(position: torch.Tensor, action: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return the position after a step of one tile, or the same one at the border.

    Args:
        position: int64 [2].
        action: int64 [], an index in ``ACTION_NAMES``.
        shape: the numbers of rows and columns.
    """
    row, column = position.unbind(0)
    row = row + (action == 1).long() - (action == 3).long()
    column = column + (action == 2).long() - (action == 0).long()
    return torch.stack([row.clamp(0, shape[0] - 1), column.clamp(0, shape[1] - 1)])


def walk(position: torch.Tensor, action: torch.Tensor, walls: torch.Tensor) -> torch.Tensor:
    """Return the position after a step of one tile, or the same one at the border and before a wall; ``walls`` is bool [H, W]."""
    goal = move(position, action, walls.shape)
    return torch.where(at(walls, goal), position, goal)


def mask(position: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return bool [H, W], true at a position."""
    row, column = position.unbind(0)
    rows, columns = (torch.arange(n, device=position.device) for n in shape)
    return (rows[:, None] == row) & (columns == column)


def at(table: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Return the entry [] of a table [H, W] at a position."""
    row, column = position.unbind(0)
    return table.reshape(-1).gather(0, (row * table.shape[1] + column).reshape(1)).reshape(())


def board(shape: Sequence[int], device: torch.device) -> draw.Canvas:
    """Return an empty picture of a grid, at least 240 pixels high and wide; tile (i, j) has its middle at x = j, y = -i."""
    rows, columns = shape
    pixels = max(16, -(-240 // min(rows, columns)))
    return draw.canvas((rows * pixels, columns * pixels), ((columns - 1) / 2, (1 - rows) / 2), float(columns), device=device)


def tiles(picture: draw.Canvas, where: torch.Tensor, *, half: float = 0.46, corner: float = 0.08) -> torch.Tensor:
    """Return the signed distance to the tiles of a mask, within each tile.

    Args:
        picture: a picture of :func:`board` with the same numbers of rows and columns.
        where: bool [H, W], the tiles to draw.
        half: half the width of a tile's square; 0.5 leaves no gap.
        corner: the radius of its corners.
    """
    rows, columns = where.shape
    height, width = picture.y.shape[0] // rows, picture.x.shape[1] // columns
    x, y = picture.x - picture.x.round(), picture.y - picture.y.round()
    square = draw.box(draw.Canvas(picture.image, x, y, picture.pixel), (0.0, 0.0), (half, half), corner=corner)
    mask = where[:, None, :, None].expand(rows, height, columns, width).reshape(rows * height, columns * width)
    return torch.where(mask, square, 1.0)


def maze(walls: torch.Tensor, goal: torch.Tensor) -> draw.Canvas:
    """Return a picture of walls, bool [H, W], and of a goal."""
    picture = board(walls.shape, walls.device)
    picture = draw.paint(picture, tiles(picture, walls, half=0.5, corner=0.0), draw.STEEL)
    return draw.paint(picture, tiles(picture, mask(goal, walls.shape), half=0.36), draw.LEAF)


def token(picture: draw.Canvas, position: torch.Tensor, colour: draw.Colour) -> draw.Canvas:
    """Paint a disc with a dark rim on the tile at a position."""
    row, column = position.unbind(0)
    picture = draw.paint(picture, draw.circle(picture, column, -row, 0.36), draw.INK)
    return draw.paint(picture, draw.circle(picture, column, -row, 0.30), colour)
