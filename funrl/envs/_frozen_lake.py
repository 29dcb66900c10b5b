"""FrozenLake: cross slippery ice without falling into a hole."""

from collections.abc import Sequence

import torch

from funrl import random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw, _grid as grid
from funrl.envs._checks import checked
from funrl.envs._grid import GridState
from funrl.spaces import Discrete

SMALL = "SFFF FHFH FFFH HFFG"
LARGE = "SFFFFFFF FFFFFFFF FFFHFFFF FFFFFHFF FFFHFFFF FHHFFFHF FHFFHFHF FFFHFFFG"


@tree.dataclass
class FrozenLakeParams:
    """A lake; positions are (row, column) from the upper left corner.

    Attributes:
        holes: bool [H, W]; the episode terminates there, at reward 0.
        start: int64 [2], where episodes begin.
        goal: int64 [2]; the episode terminates there, at reward 1.
        slip_probability: floating-point []; the probability that a step goes in a perpendicular direction, half of it for each of the two.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    holes: torch.Tensor
    start: torch.Tensor
    goal: torch.Tensor
    slip_probability: torch.Tensor
    max_steps: torch.Tensor


def frozen_lake(layout: str | Sequence[str] = SMALL) -> Env:
    """Return FrozenLake-v1: four by four tiles of ice, of which four are holes.

    It agrees with gymnasium's FrozenLake-v1 in all transition probabilities, whose ``success_rate`` is 1 - ``slip_probability`` (2/3 by
    default; with 0 steps never slip). The observation is the tile's number, int64 [], row by row. Actions: 0 left, 1 down, 2 right,
    3 up. A step over the border, or from a hole or the goal, does not change the position. Reward 1 for reaching the goal, else 0;
    terminated in a hole and at the goal; truncated after ``max_steps``, 100 by default (both may hold).

    The layout determines the default ``env_params`` and the size; other holes, starts and goals of the same size may be passed to
    ``reset`` and ``step``, and vmapped.

    Args:
        layout: rows of the same length, ``F`` for ice, ``H`` for a hole, ``S`` the start and ``G`` the goal; or a text with one row a line.

    Raises:
        TypeError, ValueError: if the layout is not such a text.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = frozen_lake()
        >>> env_params = env.default_params.replace(slip_probability=torch.tensor(0.0))
        >>> state, timestep = env.reset(random.key(0), env_params)
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(1), env_params)
        >>> timestep.observation, timestep.done
        (tensor(4), tensor(False))

    Reference: M. Towers et al., "Gymnasium: A Standard Interface for Reinforcement Learning Environments", 2024, arXiv:2407.17032.
    """
    return _lake("FrozenLake-v1", layout, 100)


def frozen_lake_8x8() -> Env:
    """Return FrozenLake8x8-v1: as :func:`frozen_lake`, but eight by eight tiles with ten holes, and 200 steps.

    Example:
        >>> frozen_lake_8x8().observation_space
        Discrete(n=64, start=0)
    """
    return _lake("FrozenLake8x8-v1", LARGE, 200)


def _lake(name: str, layout: str | Sequence[str], max_steps: int) -> Env:
    numbers, places = grid.parse(name, layout, "FHSG", once="SG")
    default = constants(
        FrozenLakeParams, holes=numbers == 1, start=places["S"], goal=places["G"], slip_probability=2 / 3, max_steps=max_steps
    )
    rows, columns = numbers.shape

    def observe(state: GridState) -> torch.Tensor:
        row, column = state.position.unbind(0)
        return row * columns + column

    def over(position: torch.Tensor, p: FrozenLakeParams) -> tuple[torch.Tensor, torch.Tensor]:
        """Return whether a position is a hole, and whether it is the goal."""
        return grid.at(p.holes, position), (position == p.goal).all()

    def reset(key: torch.Tensor, p: FrozenLakeParams) -> tuple[GridState, Timestep]:
        """Return the state at the start, and its timestep; the key is not used."""
        state = GridState(p.start.clone(), torch.zeros_like(p.slip_probability, dtype=torch.int64))
        return state, first_timestep(observe(state), p.slip_probability)

    def step(key: torch.Tensor, state: GridState, action: torch.Tensor, p: FrozenLakeParams) -> tuple[GridState, Timestep]:
        """Walk or slide one tile."""
        slip_key, side_key = random.split(key).unbind(0)
        side = 2 * random.bernoulli(side_key).long() - 1
        direction = torch.where(random.bernoulli(slip_key, p.slip_probability), (action + side) % 4, action)
        was_hole, was_goal = over(state.position, p)
        position = torch.where(was_hole | was_goal, state.position, grid.move(state.position, direction, (rows, columns)))
        new = GridState(position, state.time + 1)
        in_hole, at_goal = over(position, p)
        reward = (at_goal & ~was_goal).to(p.slip_probability.dtype)
        return new, Timestep(observe(new), reward, in_hole | at_goal, new.time >= p.max_steps, {})

    def render(state: GridState, p: FrozenLakeParams) -> torch.Tensor:
        """Return a picture of the lake, uint8 [H, W, 3]."""
        picture = grid.board((rows, columns), state.time.device)
        picture = draw.paint(picture, grid.tiles(picture, ~p.holes), (0.79, 0.89, 0.95))
        picture = draw.paint(picture, grid.tiles(picture, p.holes, corner=0.3), draw.INK)
        picture = draw.paint(picture, grid.tiles(picture, grid.mask(p.goal, (rows, columns)), half=0.3), draw.LEAF)
        return draw.to_uint8(grid.token(picture, state.position, draw.AMBER))

    return checked(Env(name, reset, step, Discrete(rows * columns), Discrete(4), default, max_steps, render), GridState, shapes=True)
