"""Tasks on grids: mazes, rooms, and rules for objects."""

import itertools
from typing import Any

import torch

from funrl import random, tree
from funrl.env import Env
from funrl.envs._grid_rules import NUM_KINDS
from funrl.envs.tasks._tasks import SHARES, Tasks, check_params_kind, residue


def maze(env: Env) -> Tasks:
    """Return mazes in which one way connects two cells; those with an odd number of vertical passages are held out.

    Raises:
        ValueError: if the maze has an even number of rows or columns, or fewer than three.
    """
    default = env.default_params
    height, width = default.walls.shape
    if min(height, width) < 3 or not height % 2 or not width % 2:
        raise ValueError(f"tasks.of: env: expected a maze with odd numbers of rows and columns, at least 3, got {[height, width]}")
    rows, columns = (height + 1) // 2, (width + 1) // 2
    free = (rows - 1) * (columns - 1)

    def draw(key: torch.Tensor, env_params: Any, held_out: torch.Tensor) -> Any:
        bit_key, flip_key, start_key, goal_key = random.split(key, 4).unbind(0)
        bits = random.bernoulli(bit_key, 0.5, (free,))
        # In the first column all passages are vertical. The last bit makes the number of them even or odd.
        others = bits[:-1].sum() + rows - 1
        last = ((others % 2 == 1) != held_out).reshape(1)
        up = torch.cat([bits[:-1], last]).reshape(rows - 1, columns - 1)
        up = torch.cat([torch.ones_like(up[:, :1]), up], 1)  # [rows - 1, columns], towards the row above
        left = torch.cat([torch.ones_like(up[:1, 1:]), ~up[:, 1:]])  # [rows, columns - 1], towards the column before
        cells = torch.ones_like(left[:, :1]).expand(rows, columns)
        even = _between(cells, torch.cat([left, left[:, :1]], 1), 1)[:, :width]
        odd = _between(up, torch.zeros_like(up), 1)[:, :width]
        walls = ~_between(even, torch.cat([odd, odd[:1]]), 0)[:height]
        for dim, flip in enumerate(random.bernoulli(flip_key, 0.5, (2,)).unbind(0)):
            walls = torch.where(flip, walls.flip(dim), walls)
        start = random.randint(start_key, (), 0, rows * columns)
        goal = (start + random.randint(goal_key, (), 1, rows * columns)) % (rows * columns)
        start, goal = (torch.stack([2 * (cell // columns), 2 * (cell % columns)]) for cell in (start, goal))
        return env_params.replace(walls=walls, start=start, goal=goal)

    def is_held_out(env_params: Any) -> torch.Tensor:
        check_params_kind(env.name, env_params, default)
        return (~env_params.walls[..., 1::2, ::2]).sum((-2, -1)) % 2 == 1

    return Tasks(env.name, env, default, draw, is_held_out, 0.5)


def _between(x: torch.Tensor, y: torch.Tensor, dim: int) -> torch.Tensor:
    """Return x and y, of one shape, by turns along a dimension."""
    return torch.stack([x, y], dim + 1).flatten(dim, dim + 1)


# The walls of FourRooms, each with the tiles that may be its door, and the tiles of the rooms.
_DOORS = (
    [(i, 6) for i in range(1, 6)],
    [(i, 6) for i in range(8, 12)],
    [(6, j) for j in range(1, 6)],
    [(7, j) for j in range(7, 12)],
)


def four_rooms(env: Env) -> Tasks:
    """Return rooms with other doors and another goal; a fifth of all combinations is held out."""
    default = env.default_params
    walls = default.walls.clone()
    for i, j in itertools.chain(*_DOORS):
        walls[i, j] = True
    rooms, doors = (~walls).nonzero(), [torch.tensor(wall, device="cpu") for wall in _DOORS]

    def draw(key: torch.Tensor, env_params: Any, held_out: torch.Tensor) -> Any:
        residue_key, goal_key, *door_keys = random.split(key, 6).unbind(0)
        device = env_params.walls.device
        chosen = [random.randint(key, (), 0, len(wall)) for key, wall in zip(door_keys, doors, strict=True)]
        wanted = (residue(residue_key, held_out) - sum(chosen)) % SHARES
        goal = SHARES * random.randint(goal_key, (), 0, len(rooms) // SHARES) + wanted
        places = [tree.rows(wall.to(device), number) for wall, number in zip(doors, chosen, strict=True)]
        starts = torch.cat([rooms.to(device), torch.stack(places)])
        number = torch.arange(walls.numel(), device=device).reshape(walls.shape)
        is_door = sum((number == row * walls.shape[1] + column) for row, column in (place.unbind(0) for place in places)) > 0
        return env_params.replace(walls=walls.to(device) & ~is_door, starts=starts, goal=tree.rows(rooms.to(device), goal))

    def is_held_out(env_params: Any) -> torch.Tensor:
        check_params_kind(env.name, env_params, default)
        device = env_params.goal.device
        total = (_number(rooms.to(device), env_params.goal)).clone()
        for i, wall in enumerate(doors):
            total = total + _number(wall.to(device), env_params.starts[..., len(rooms) + i, :])
        return total % SHARES == 0

    return Tasks(env.name, env, default, draw, is_held_out)


def _number(table: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """Return the numbers [...] of rows [..., D] in a table [N, D]."""
    return (row[..., None, :] == table).all(-1).long().argmax(-1)


def grid_rules(env: Env) -> Tasks:
    """Return all orders of the six kinds, up to that of the first two, with four goals each; every fifth order is held out."""
    default = env.default_params
    kinds = range(1, NUM_KINDS + 1)
    orders = torch.tensor([order for order in itertools.permutations(kinds) if order[0] < order[1]], device="cpu")

    def draw(key: torch.Tensor, env_params: Any, held_out: torch.Tensor) -> Any:
        residue_key, order_key, goal_key = random.split(key, 3).unbind(0)
        number = SHARES * random.randint(order_key, (), 0, len(orders) // SHARES) + residue(residue_key, held_out)
        a, b, c, d, e, f = tree.rows(orders.to(env_params.rules.device), number).unbind(0)
        deep, task = random.randint(goal_key, (2,), 0, 2).unbind(0)
        return env_params.replace(
            objects=torch.stack([a, b, d, f]),
            rules=torch.stack([torch.stack([a, b, c]), torch.stack([c, d, e])]),
            goal=torch.stack([task, torch.where(deep == 1, e, c)]),
        )

    def is_held_out(env_params: Any) -> torch.Tensor:
        check_params_kind(env.name, env_params, default)
        rules = env_params.rules
        order = torch.cat([rules[..., 0, :], rules[..., 1, 1:]], -1)
        return _number(orders[:, :5].to(rules.device), order) % SHARES == 0

    return Tasks(env.name, env, default, draw, is_held_out)


GRIDS = {"Maze-misc": maze, "FourRooms-misc": four_rooms, "GridRules-misc": grid_rules}
