"""DeepSea: a treasure that only one sequence of actions reaches, with a small cost for each of its steps."""

import torch

from funrl import _check, random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw, _grid as grid
from funrl.envs._checks import checked
from funrl.spaces import Box, Discrete

NAME = "DeepSea-bsuite"


@tree.dataclass
class DeepSeaParams:
    """Parameters of DeepSea; floating-point numbers have the same dtype.

    Attributes:
        action_mapping: int64 [N, N]; the action, 0 or 1, that goes right in each cell.
        move_cost: []; a move to the right costs ``move_cost`` / N.
        slip_probability: []; the probability that a move to the right fails and changes no column. It is 1 / N in bsuite's windy sea.
        noise_scale: []; the standard deviation of the noise on the reward in the two corners of the last row; 1 in bsuite's windy sea.
    """

    action_mapping: torch.Tensor
    move_cost: torch.Tensor
    slip_probability: torch.Tensor
    noise_scale: torch.Tensor


@tree.dataclass
class DeepSeaState:
    """The state of one episode.

    Attributes:
        row: int64 [], the row of the diver, which equals the steps since the reset; N when the episode is over.
        column: int64 [].
    """

    row: torch.Tensor
    column: torch.Tensor


def deep_sea(size: int = 10) -> Env:
    """Return DeepSea-bsuite: a diver sinks one row a step on a grid N x N, and moves right or left.

    It agrees with bsuite's DeepSea step for step. The observation is floating-point [N, N]: 1 at the diver, and 0 everywhere at the end
    of the episode. Which of the actions 0 and 1 goes right differs from cell to cell; the default mapping is random, but always the same.
    A move to the right costs ``move_cost`` / N, and one in the last column pays 1. Only N consecutive moves to the right reach it: the
    best return is 1 - ``move_cost``, and random actions find it in one of 2^N episodes. Terminated after N steps.

    Args:
        size: N, at least 2.

    Raises:
        TypeError, ValueError: if ``size`` is not an integer, or too small.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = deep_sea(size=4)
        >>> mapping = random.randint(random.key(7), (4, 4), 0, 2)
        >>> env_params = env.default_params.replace(action_mapping=mapping)
        >>> state, _ = env.reset(random.key(0), env_params)
        >>> for i in range(4):
        ...     state, timestep = env.step(random.key(1), state, mapping[i, i], env_params)
        >>> timestep.reward, timestep.terminated
        (tensor(0.9975), tensor(True))

    Reference: I. Osband et al., "Behaviour Suite for Reinforcement Learning", 2019, arXiv:1908.03568; I. Osband, B. Van Roy,
    D. Russo, Z. Wen, "Deep Exploration via Randomized Value Functions", 2017, arXiv:1703.07608.
    """
    _check.integer(f"{NAME}: size", size, 2, remedy="shapes have to be known while compiling")
    mapping = random.randint(random.key(0, "cpu"), (size, size), 0, 2)
    default = constants(DeepSeaParams, action_mapping=mapping, move_cost=0.01, slip_probability=0.0, noise_scale=0.0)

    def place(state: DeepSeaState) -> torch.Tensor:
        return torch.stack([state.row, state.column])

    def observe(state: DeepSeaState, dtype: torch.dtype) -> torch.Tensor:
        return grid.mask(place(state), (size, size)).to(dtype)

    def reset(key: torch.Tensor, p: DeepSeaParams) -> tuple[DeepSeaState, Timestep]:
        """Return the state in the upper left corner, and its timestep; the key is not used."""
        corner = torch.zeros_like(p.move_cost, dtype=torch.int64)
        state = DeepSeaState(corner, corner.clone())
        return state, first_timestep(observe(state, p.move_cost.dtype), p.move_cost)

    def step(key: torch.Tensor, state: DeepSeaState, action: torch.Tensor, p: DeepSeaParams) -> tuple[DeepSeaState, Timestep]:
        """Sink by one row, and move to the right or to the left."""
        slip_key, noise_key = random.split(key).unbind(0)
        last = size - 1
        right = action == grid.at(p.action_mapping, place(state).clamp(max=last))  # after the end of an episode the diver is below the grid
        slips = random.bernoulli(slip_key, p.slip_probability)
        column = (state.column + torch.where(right, (~slips).long(), -1)).clamp(0, last)
        noisy = (state.row == last) & ((state.column == 0) | (state.column == last))
        noise = p.noise_scale * random.normal(noise_key, dtype=p.noise_scale.dtype)
        reward = torch.where(noisy, noise, 0.0) + torch.where(right, (state.column == last).to(noise.dtype) - p.move_cost / size, 0.0)
        new = DeepSeaState(state.row + 1, column)
        terminated = new.row >= size
        return new, Timestep(observe(new, reward.dtype), reward, terminated, torch.zeros_like(terminated), {})

    def render(state: DeepSeaState, p: DeepSeaParams) -> torch.Tensor:
        """Return a picture of the sea, uint8 [H, W, 3]; cells where action 1 goes right are darker."""
        picture = grid.board((size, size), state.row.device)
        picture = draw.paint(picture, grid.tiles(picture, p.action_mapping == 0), (0.62, 0.80, 0.90))
        picture = draw.paint(picture, grid.tiles(picture, p.action_mapping == 1), (0.45, 0.68, 0.84))
        picture = draw.paint(picture, draw.box(picture, (size - 1, 1 - size), (0.30, 0.20), corner=0.08), draw.LEAF)
        return draw.to_uint8(grid.token(picture, place(state), draw.AMBER))

    return checked(Env(NAME, reset, step, Box(0.0, 1.0, (size, size)), Discrete(2), default, size, render), DeepSeaState, shapes=True)
