"""A maze with its walls in ``env_params``, so that one program works for many mazes."""

from collections.abc import Sequence

import torch

from funrl import tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw, _grid as grid
from funrl.envs._checks import checked
from funrl.envs._grid import GridState
from funrl.spaces import Box, Discrete

NAME = "Maze-misc"
LAYOUT = """
S....#...
.###.#.#.
...#...#.
##.#####.
...#.....
.###.###.
.#...#.#.
.#.###.#.
...#....G
"""
MAX_STEPS = 200


@tree.dataclass
class MazeParams:
    """A maze; positions are (row, column) from the upper left corner, floating-point numbers have the same dtype.

    Attributes:
        walls: bool [H, W].
        start: int64 [2], where episodes begin.
        goal: int64 [2]; the episode terminates there. It is not checked that it can be reached.
        goal_reward: [], the reward at the goal.
        step_cost: [], subtracted from the reward of each step.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    walls: torch.Tensor
    start: torch.Tensor
    goal: torch.Tensor
    goal_reward: torch.Tensor
    step_cost: torch.Tensor
    max_steps: torch.Tensor


def maze(layout: str | Sequence[str] = LAYOUT) -> Env:
    """Return Maze-misc: walk from the start to the goal of a maze that the observation shows completely.

    The observation is floating-point [3, H, W], like an image: 1 at the walls, at the agent, and at the goal. Actions: 0 left, 1 down,
    2 right, 3 up; a step into a wall or over the border does not change the position. The reward is -``step_cost`` (0.01), and
    ``goal_reward`` (1) more at the goal, where the episode terminates; it is truncated after ``max_steps``, 200 by default (both may hold).

    The layout determines the default ``env_params`` and the size; any walls, start and goal of the same size may be passed to ``reset``
    and ``step``, and vmapped.

    Args:
        layout: rows of the same length, ``#`` for a wall, ``.`` for none, ``S`` the start and ``G`` the goal; or a text with one row a
            line.

    Raises:
        TypeError, ValueError: if the layout is not such a text.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = maze("S.# ..# #.G".split())
        >>> state, timestep = env.reset(random.key(0))
        >>> for action in (2, 1, 1, 2):
        ...     state, timestep = env.step(random.key(1), state, torch.tensor(action))
        >>> state.position, timestep.reward, timestep.terminated
        (tensor([2, 2]), tensor(0.9900), tensor(True))

    Reference: mazes as data that a curriculum generates: M. Dennis et al., "Emergent Complexity and Zero-shot Transfer via Unsupervised
    Environment Design", 2020, arXiv:2012.02096.
    """
    numbers, places = grid.parse(NAME, layout, "#.SG", once="SG")
    default = constants(
        MazeParams, walls=numbers == 0, start=places["S"], goal=places["G"], goal_reward=1.0, step_cost=0.01, max_steps=MAX_STEPS
    )
    rows, columns = numbers.shape

    def observe(state: GridState, p: MazeParams) -> torch.Tensor:
        places = [grid.mask(position, (rows, columns)) for position in (state.position, p.goal)]
        return torch.stack([p.walls, *places]).to(p.goal_reward.dtype)

    def reset(key: torch.Tensor, p: MazeParams) -> tuple[GridState, Timestep]:
        """Return the state at the start, and its timestep; the key is not used."""
        state = GridState(p.start.clone(), torch.zeros_like(p.goal_reward, dtype=torch.int64))
        return state, first_timestep(observe(state, p), p.goal_reward)

    def step(key: torch.Tensor, state: GridState, action: torch.Tensor, p: MazeParams) -> tuple[GridState, Timestep]:
        """Walk one tile; the key is not used."""
        new = GridState(grid.walk(state.position, action, p.walls), state.time + 1)
        terminated = (new.position == p.goal).all()
        reward = torch.where(terminated, p.goal_reward, 0.0) - p.step_cost
        return new, Timestep(observe(new, p), reward, terminated, new.time >= p.max_steps, {})

    def render(state: GridState, p: MazeParams) -> torch.Tensor:
        """Return a picture of the maze, the goal and the walker, uint8 [H, W, 3]."""
        return draw.to_uint8(grid.token(grid.maze(p.walls, p.goal), state.position, draw.AMBER))

    observations = Box(0.0, 1.0, (3, rows, columns), layout="chw")
    return checked(Env(NAME, reset, step, observations, Discrete(4), default, MAX_STEPS, render), GridState, shapes=True)
