"""BitFlip: turn n bits into n other ones, with a reward only for all of them."""

import torch

from funrl import _check, random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw, _goals as goals, _grid as grid
from funrl.envs._checks import checked
from funrl.spaces import Discrete

NAME = "BitFlip-misc"


@tree.dataclass
class BitFlipParams:
    """Parameters of the game.

    Attributes:
        goal_radius: floating-point []; the episode terminates within this Euclidean distance of the goal. With 0.5 all bits have to agree.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    goal_radius: torch.Tensor
    max_steps: torch.Tensor


@tree.dataclass
class BitFlipState:
    """The state of one episode.

    Attributes:
        bits: floating-point [n], 0 or 1.
        goal: floating-point [n], 0 or 1.
        time: int64 [], steps since the reset.
    """

    bits: torch.Tensor
    goal: torch.Tensor
    time: torch.Tensor


def bit_flip(num_bits: int = 8) -> Env:
    """Return BitFlip-misc: n bits, each action flips one, and the goal is a random row of n bits.

    Start and goal are random and differ. The observation is a dict of ``observation`` and ``achieved_goal``, the bits, and
    ``desired_goal``, each floating-point [n]. The reward is 0 at the goal, where the episode terminates, and -1 elsewhere; truncated after
    ``max_steps``, n by default. Of the 2^n states a random policy visits n in an episode: with more than about 13 bits it hardly ever
    meets a reward other than -1.

    Args:
        num_bits: n, at least 1.

    Raises:
        TypeError, ValueError: if ``num_bits`` is not an integer, or too small.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = bit_flip(num_bits=4)
        >>> state, timestep = env.reset(random.key(0))
        >>> wrong = (state.bits != state.goal).nonzero()[:, 0]
        >>> for bit in wrong:
        ...     state, timestep = env.step(random.key(1), state, bit)
        >>> timestep.reward, timestep.terminated
        (tensor(0.), tensor(True))

    Reference: M. Andrychowicz et al., "Hindsight Experience Replay", 2017, arXiv:1707.01495, section 3.1. Deviation: the episode ends at
    the goal.
    """
    _check.integer(f"{NAME}: num_bits", num_bits, 1, remedy="shapes have to be known while compiling")
    default = constants(BitFlipParams, goal_radius=0.5, max_steps=num_bits)

    def flip(bits: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        return torch.where(tree.one_hot(number, num_bits), 1 - bits, bits)

    def reset(key: torch.Tensor, p: BitFlipParams) -> tuple[BitFlipState, Timestep]:
        """Return a state with random bits and another random goal, and its timestep."""
        bits_key, goal_key, place_key = random.split(key, 3).unbind(0)
        zero = torch.zeros_like(p.goal_radius)
        bits, goal = (random.bernoulli(k, 0.5, (num_bits,)).to(zero.dtype) for k in (bits_key, goal_key))
        other = flip(goal, random.randint(place_key, (), 0, num_bits))
        goal = torch.where((goal == bits).all(), other, goal)
        state = BitFlipState(bits, goal, torch.zeros_like(zero, dtype=torch.int64))
        return state, first_timestep(goals.observe(bits, goal), zero)

    def step(key: torch.Tensor, state: BitFlipState, action: torch.Tensor, p: BitFlipParams) -> tuple[BitFlipState, Timestep]:
        """Flip the bit with the number of the action; the key is not used."""
        new = BitFlipState(flip(state.bits, action), state.goal, state.time + 1)
        reward, reached = goals.reach(new.bits, new.goal, p.goal_radius)
        return new, Timestep(goals.observe(new.bits, new.goal), reward, reached, new.time >= p.max_steps, {})

    def render(state: BitFlipState, p: BitFlipParams) -> torch.Tensor:
        """Return a picture of the bits above those of the goal, uint8 [H, W, 3]."""
        bits, goal = (x > 0.5 for x in (state.bits, state.goal))
        none = torch.zeros_like(bits)
        picture = grid.board((3, num_bits), bits.device)
        picture = draw.paint(picture, grid.tiles(picture, torch.stack([~none, none, ~none])), draw.PALE, 0.45)
        picture = draw.paint(picture, grid.tiles(picture, torch.stack([bits, none, none])), draw.TEAL)
        return draw.to_uint8(draw.paint(picture, grid.tiles(picture, torch.stack([none, none, goal])), draw.LEAF))

    env = Env(NAME, reset, step, goals.spaces_of(num_bits, 0.0, 1.0), Discrete(num_bits), default, num_bits, render)
    return checked(env, BitFlipState)
