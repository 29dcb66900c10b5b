"""GridRules: objects on a grid, and rules, which are not shown, by which two of them become a third."""

import torch

from funrl import _check, random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw, _grid as grid
from funrl.envs._checks import checked
from funrl.spaces import Box, Discrete

NAME = "GridRules-misc"
NUM_KINDS = 6
MAX_STEPS = 80
_COLOURS = (draw.CORAL, draw.AMBER, draw.LEAF, draw.TEAL, draw.STEEL, draw.INK)


@tree.dataclass
class GridRulesParams:
    """Objects, rules and goal. A kind of object is a number from 1 to 6; 0 is none.

    Attributes:
        objects: int64 [4], the kinds of the objects that ``reset`` places; 0 for fewer.
        rules: int64 [2, 3], rows (a, b, c): if an object of kind a is put on a tile next to one of kind b, or b next to a, one of kind c
            takes the place of the object that was put, and the other one disappears. Rows with a = 0 are no rules.
        goal: int64 [2], (task, kind). Task 0: hold an object of that kind. Task 1: stand on a tile with one.
        goal_reward: floating-point [], the reward at the goal, where the episode terminates.
        step_cost: floating-point [], subtracted from the reward of each step.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    objects: torch.Tensor = tree.constant([1, 2, 4, 6])
    rules: torch.Tensor = tree.constant([[1, 2, 3], [3, 4, 5]])
    goal: torch.Tensor = tree.constant([0, 5])
    goal_reward: torch.Tensor = tree.constant(1.0)
    step_cost: torch.Tensor = tree.constant(0.01)
    max_steps: torch.Tensor = tree.constant(MAX_STEPS)


@tree.dataclass
class GridRulesState:
    """The state of one episode.

    Attributes:
        tiles: int64 [N, N], the kind of the object on each tile; 0 for none.
        position: int64 [2], row and column of the agent.
        held: int64 [], the kind of the object that it holds; 0 for none.
        time: int64 [], steps since the reset.
    """

    tiles: torch.Tensor
    position: torch.Tensor
    held: torch.Tensor
    time: torch.Tensor


def grid_rules(size: int = 5) -> Env:
    """Return GridRules-misc: make the right object of others, by rules that have to be found out.

    The observation is floating-point [13, N, N], like an image: six channels with 1 where an object of that kind lies, one with 1 at the
    agent, and six that are 1 everywhere if the agent holds an object of that kind. Neither rules nor goal are shown. Actions: 0 left,
    1 down, 2 right, 3 up; 4 takes the object on the agent's tile if it holds none, and puts the one that it holds on an empty tile. Rules
    apply to the object that was put: the first that fits, for neighbours in the order left, down, right, up. The reward is
    -``step_cost`` (0.01), and ``goal_reward`` (1) more at the goal, where the episode terminates; it is truncated after ``max_steps``,
    80 by
    default (both may hold). Agent and objects begin on different random tiles.

    By default the rules are (1, 2, 3) and (3, 4, 5), objects 1, 2, 4 and 6 lie on the grid, and the goal is to hold object 5.
    :func:`funrl.envs.tasks.of` draws other objects, rules and goals.

    Args:
        size: N, at least 3.

    Raises:
        TypeError, ValueError: if ``size`` is not an integer, or too small.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = grid_rules()
        >>> state, timestep = env.reset(random.key(0))
        >>> timestep.observation[:6].sum((1, 2))
        tensor([1., 1., 0., 1., 0., 1.])

    Reference: in the spirit of A. Nikulin et al., "XLand-MiniGrid: Scalable Meta-Reinforcement Learning Environments in JAX", 2023,
    arXiv:2312.12044; the rules, goals and their encoding are this library's own, and far fewer.
    """
    _check.integer(f"{NAME}: size", size, 3)
    default = constants(GridRulesParams)
    shape, num_objects = (size, size), 4
    observations = Box(0.0, 1.0, (2 * NUM_KINDS + 1, size, size), layout="chw")

    def observe(state: GridRulesState, p: GridRulesParams) -> torch.Tensor:
        kinds = torch.arange(1, NUM_KINDS + 1, device=state.tiles.device)[:, None, None]
        parts = [state.tiles == kinds, grid.mask(state.position, shape)[None], (state.held == kinds).expand(-1, size, size)]
        return torch.cat(parts).to(p.goal_reward.dtype)

    def reset(key: torch.Tensor, p: GridRulesParams) -> tuple[GridRulesState, Timestep]:
        """Return a state with objects and agent on random tiles, and its timestep; ``key`` is int64 []."""
        places = random.permutation(key, size * size)[: num_objects + 1]
        here = tree.one_hot(places[:num_objects], size * size)
        tiles = (here * p.objects[:, None]).sum(0).reshape(size, size)
        position = torch.stack([places[num_objects] // size, places[num_objects] % size])
        nothing = torch.zeros_like(p.goal_reward, dtype=torch.int64)
        state = GridRulesState(tiles, position, nothing, nothing.clone())
        return state, first_timestep(observe(state, p), p.goal_reward)

    def step(key: torch.Tensor, state: GridRulesState, action: torch.Tensor, p: GridRulesParams) -> tuple[GridRulesState, Timestep]:
        """Walk, take or put; the key is not used."""
        walks = action < 4
        position = torch.where(walks, grid.move(state.position, action, shape), state.position)
        tiles, held = _handled(state.tiles, position, state.held, ~walks, p.rules)
        new = GridRulesState(tiles, position, held, state.time + 1)
        task, kind = p.goal.unbind(0)
        terminated = torch.where(task == 0, held, grid.at(tiles, position)) == kind
        reward = torch.where(terminated, p.goal_reward, 0.0) - p.step_cost
        return new, Timestep(observe(new, p), reward, terminated, new.time >= p.max_steps, {})

    def render(state: GridRulesState, p: GridRulesParams) -> torch.Tensor:
        """Return a picture of the objects, and of the agent with what it holds, uint8 [H, W, 3]."""
        return _picture(state)

    return checked(Env(NAME, reset, step, observations, Discrete(5), default, MAX_STEPS, render), GridRulesState, shapes=True)


def _picture(state: GridRulesState) -> torch.Tensor:
    picture = grid.board(state.tiles.shape, state.tiles.device)
    for kind, colour in enumerate(_COLOURS, 1):
        picture = draw.paint(picture, grid.tiles(picture, state.tiles == kind, half=0.42), colour)
    picture = grid.token(picture, state.position, draw.PALE)
    row, column = state.position.unbind(0)
    dot = draw.circle(picture, column, -row, 0.15)
    for kind, colour in enumerate(_COLOURS, 1):
        picture = draw.paint(picture, torch.where(state.held == kind, dot, 1.0), colour)
    return draw.to_uint8(picture)


def _handled(
    tiles: torch.Tensor, position: torch.Tensor, held: torch.Tensor, hand: torch.Tensor, rules: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take or put an object where ``hand`` [] is true, and apply the rules to one that was put; return the tiles and what is held."""
    rows, columns = (torch.arange(n, device=tiles.device) for n in tiles.shape)
    here, below = grid.mask(position, tiles.shape), grid.at(tiles, position)
    takes, puts = hand & (held == 0) & (below > 0), hand & (held > 0) & (below == 0)
    row, column = position.unbind(0)
    neighbours = [(row, column - 1), (row + 1, column), (row, column + 1), (row - 1, column)]
    places = torch.stack([(rows[:, None] == i) & (columns == j) for i, j in neighbours])  # [4, N, N], empty beyond the border
    neighbour = (places * tiles).sum((1, 2))[:, None]
    first, second, product = rules.unbind(1)
    fits = ((held == first) & (neighbour == second)) | ((held == second) & (neighbour == first))  # [4, R]
    fits = (puts & fits & (first > 0)).reshape(-1)
    chosen = (fits & (fits.long().cumsum(0) == 1)).reshape(4, -1)
    made = (chosen * product).sum()
    gone = (chosen.any(1)[:, None, None] & places).any(0)
    put = torch.where(chosen.any(), made, held)
    tiles = torch.where(here & takes, 0, torch.where(here & puts, put, torch.where(gone, 0, tiles)))
    return tiles, torch.where(takes, below, torch.where(puts, 0, held))
