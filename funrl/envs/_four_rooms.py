"""FourRooms: find the goal in four rooms with narrow doors and unreliable steps."""

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw, _grid as grid
from funrl.envs._checks import checked
from funrl.envs._grid import GridState
from funrl.spaces import Box, Discrete

NAME = "FourRooms-misc"
LAYOUT = """
#############
#.....#.....#
#.....#.....#
#...........#
#.....#.....#
#.....#.....#
##.####.....#
#.....###.###
#.....#..G..#
#.....#.....#
#...........#
#.....#.....#
#############
"""


@tree.dataclass
class FourRoomsParams(tree.Replaceable):
    """Parameters of FourRooms; positions are (row, column) from the upper left corner.

    Attributes:
        walls: bool [13, 13].
        starts: int64 [K, 2], different positions; ``reset`` draws one of them that is not the goal.
        goal: int64 [2]; the episode terminates there.
        failure_probability: floating-point []; the probability that a step goes in one of the three other directions, equally likely.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    walls: torch.Tensor
    starts: torch.Tensor
    goal: torch.Tensor
    failure_probability: torch.Tensor
    max_steps: torch.Tensor


MAX_STEPS = 500
TILES, PLACES = grid.parse(NAME, LAYOUT, "#.G", once="G")
PARAMS = constants(
    FourRoomsParams,
    walls=TILES == 0,
    starts=(TILES > 0).nonzero(),
    goal=PLACES["G"],
    failure_probability=1 / 3,
    max_steps=MAX_STEPS,
)
OBSERVATIONS = Box(0.0, 12.0, (4,))
ACTIONS = Discrete(4)


def reset(key: torch.Tensor, p: FourRoomsParams) -> tuple[GridState, Timestep]:
    """Return a state at a random start that is not the goal, and its timestep; ``key`` is int64 []."""
    number = torch.arange(len(p.starts), device=p.starts.device)
    is_goal = (p.starts == p.goal).all(-1)
    goal = torch.where(is_goal, number, len(p.starts)).min()
    drawn = random.randint(key, (), 0, len(p.starts) - is_goal.sum())
    position = tree.rows(p.starts, drawn + (drawn >= goal))
    state = GridState(position, torch.zeros_like(drawn))
    return state, first_timestep(_observe(state, p), p.failure_probability)


def step(key: torch.Tensor, state: GridState, action: torch.Tensor, p: FourRoomsParams) -> tuple[GridState, Timestep]:
    """Move one tile, or stay if a wall is in the way.

    Args:
        key: int64 [].
        state: the state of the episode.
        action: int64 []; 0 left, 1 down, 2 right, 3 up.
        p: ``env_params``, the params.

    Returns:
        The next state and its timestep: observation [4] (row, column, the goal's row and column); reward 1 at the goal, else 0;
        terminated at the goal; truncated after ``max_steps`` (both may hold).

    Raises:
        TypeError, ValueError: if an argument has the wrong type, dtype or shape.
    """
    # There may be any number of starts.
    tree.check_like(p.replace(starts=PARAMS.starts), PARAMS, f"{NAME}: env_params", "default_params", dtypes=False)
    failure_key, turn_key = random.split(key).unbind(0)
    turn = random.randint(turn_key, (), 1, 4)
    direction = torch.where(random.bernoulli(failure_key, p.failure_probability), (action + turn) % 4, action)
    new = GridState(grid.walk(state.position, direction, p.walls), state.time + 1)
    terminated = (new.position == p.goal).all()
    reward = terminated.to(p.failure_probability.dtype)
    return new, Timestep(_observe(new, p), reward, terminated, new.time >= p.max_steps, {})


def render(state: GridState, p: FourRoomsParams) -> torch.Tensor:
    """Return a picture of the rooms, the goal and the walker, uint8 [247, 247, 3]."""
    return draw.to_uint8(grid.token(grid.maze(p.walls, p.goal), state.position, draw.AMBER))


def _observe(state: GridState, p: FourRoomsParams) -> torch.Tensor:
    return torch.cat([state.position, p.goal]).to(p.failure_probability.dtype)


def four_rooms() -> Env:
    """Return FourRooms-misc: 104 tiles in four rooms with four doors between them.

    Episodes begin on a random tile. The goal, the walls and the possible starts are in ``env_params``.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = four_rooms()
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(2))
        >>> timestep.observation[2:], timestep.reward
        (tensor([8., 9.]), tensor(0.))

    Reference: R. Sutton, D. Precup, S. Singh, "Between MDPs and semi-MDPs: A framework for temporal abstraction in reinforcement learning",
    1999; walls, doors and the failing steps are theirs, the goal is that of gymnax.
    """
    return checked(Env(NAME, reset, step, OBSERVATIONS, ACTIONS, PARAMS, MAX_STEPS, render), GridState)
