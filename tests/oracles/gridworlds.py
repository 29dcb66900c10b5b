"""Walking on grids as plain Python: positions are tuples, walls are a list of lists."""

import collections

STEPS = {0: (0, -1), 1: (1, 0), 2: (0, 1), 3: (-1, 0)}


def walk(walls, position, direction):
    """Return the position after a step: the same at the border or in front of a wall."""
    row, column = position[0] + STEPS[direction][0], position[1] + STEPS[direction][1]
    if row < 0 or column < 0 or row >= len(walls) or column >= len(walls[0]) or walls[row][column]:
        return tuple(position)
    return row, column


def maze_observation(walls, position, goal):
    """Three images: the walls, the walker, the goal."""
    planes = [[[0.0 for _ in row] for row in walls] for _ in range(3)]
    for i, row in enumerate(walls):
        for j, wall in enumerate(row):
            planes[0][i][j] = 1.0 if wall else 0.0
    planes[1][position[0]][position[1]] = 1.0
    planes[2][goal[0]][goal[1]] = 1.0
    return planes


def distances(walls, goal):
    """The number of steps to the goal from each tile that can reach it, by breadth-first search."""
    found, queue = {tuple(goal): 0}, collections.deque([tuple(goal)])
    while queue:
        position = queue.popleft()
        for direction in STEPS:
            new = walk(walls, position, direction)
            if new not in found:
                found[new] = found[position] + 1
                queue.append(new)
    return found
