"""GridRules, tile by tile."""

MOVES = [(0, -1), (1, 0), (0, 1), (-1, 0)]


def step(tiles, position, held, action, rules, goal):
    """Return the tiles (a dict of positions), the position, what is held, and whether the goal is reached; ``tiles`` is not changed."""
    tiles, (row, column) = dict(tiles), position
    if action < 4:
        moved = (row + MOVES[action][0], column + MOVES[action][1])
        position = moved if moved in tiles else position
    elif held == 0:
        held, tiles[position] = tiles[position], 0
    elif tiles[position] == 0:
        tiles[position], held = product(tiles, position, held, rules), 0
    return tiles, position, held, goal[1] == (held if goal[0] == 0 else tiles[position])


def product(tiles, position, held, rules):
    """Return what lies on the tile where ``held`` is put; the object that it reacted with is removed."""
    for row, column in MOVES:
        beside = (position[0] + row, position[1] + column)
        for a, b, c in rules:
            if a and beside in tiles and (held, tiles[beside]) in ((a, b), (b, a)):
                tiles[beside] = 0
                return c
    return held
