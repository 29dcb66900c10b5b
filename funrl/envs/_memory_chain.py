"""MemoryChain: remember bits from the first observation until one of them is queried at the end."""

import torch

from funrl import _check, random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._checks import checked
from funrl.spaces import Box, Discrete

NAME = "MemoryChain-bsuite"


@tree.dataclass
class MemoryChainParams:
    """Length of the chain and rewards of the answers; floating-point numbers have the same dtype.

    Attributes:
        memory_length: int64 []; L, at least 1: the answer is given on the observation L steps after the reset.
        right_reward: [], the reward for the right answer.
        wrong_reward: [], the reward for the wrong answer.
    """

    memory_length: torch.Tensor
    right_reward: torch.Tensor
    wrong_reward: torch.Tensor


@tree.dataclass
class MemoryChainState:
    """The state of one episode.

    Attributes:
        context: int64 [K], the bits to remember, 0 or 1.
        query: int64 [], the index of the queried bit.
        time: int64 [], steps since the reset.
    """

    context: torch.Tensor
    query: torch.Tensor
    time: torch.Tensor


def memory_chain(memory_length: int = 20, num_bits: int = 1) -> Env:
    """Return MemoryChain-bsuite: the first observation shows K random bits, and one of them is queried L steps later.

    It agrees with bsuite's MemoryChain step for step. The observation is floating-point [K + 2]: the remaining time (from 1 to
    0), the index of the queried bit, and the bits as -1 or 1. As in bsuite both ``reset`` and the first step show time 1 and the bits
    (0 later on), and the L-th step, the last but one, shows the query (0 at other times). The action that follows, 0 or 1, is the
    answer: it earns 1 if it is the queried bit, else -1. Actions before it do nothing, at reward 0. Terminated after L + 1 steps.

    If L is at least 2, no policy without memory is better than chance, a mean return of 0; with memory the best return is 1. The length
    is also in ``env_params``, so that it can be vmapped; ``max_episode_steps`` is that of the default.

    Args:
        memory_length: L, at least 1.
        num_bits: K, at least 1.

    Raises:
        TypeError, ValueError: if a size is not an integer, or too small.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = memory_chain(memory_length=20)
        >>> state, timestep = env.reset(random.key(0))
        >>> bit = timestep.observation[2] > 0
        >>> for _ in range(20):
        ...     state, timestep = env.step(random.key(1), state, torch.tensor(0))
        >>> timestep.observation
        tensor([0.0500, 0.0000, 0.0000])
        >>> env.step(random.key(1), state, bit.long())[1].reward
        tensor(1.)

    Reference: I. Osband et al., "Behaviour Suite for Reinforcement Learning", 2019, arXiv:1908.03568. bsuite's observation is [1, K + 2].
    """
    _check.integer(f"{NAME}: memory_length", memory_length, 1, remedy="shapes have to be known while compiling")
    _check.integer(f"{NAME}: num_bits", num_bits, 1, remedy="shapes have to be known while compiling")
    default = constants(MemoryChainParams, memory_length=memory_length, right_reward=1.0, wrong_reward=-1.0)
    observations = Box([0.0, 0.0, *[-1.0] * num_bits], [1.0, float(max(num_bits - 1, 1)), *[1.0] * num_bits])

    def observe(state: MemoryChainState, time: torch.Tensor, p: MemoryChainParams) -> torch.Tensor:
        """Return the observation at a time, which after the first step is one less than the number of steps."""
        dtype = p.right_reward.dtype
        left = 1 - time.to(dtype) / p.memory_length.to(dtype)
        query = torch.where(time == p.memory_length - 1, state.query, 0).to(dtype)
        bits = torch.where(time == 0, 2 * state.context - 1, 0).to(dtype)
        return torch.cat([torch.stack([left, query]), bits])

    def reset(key: torch.Tensor, p: MemoryChainParams) -> tuple[MemoryChainState, Timestep]:
        """Return a state with random bits and a random query, and its timestep."""
        context_key, query_key = random.split(key).unbind(0)
        query = random.randint(query_key, (), 0, num_bits)
        state = MemoryChainState(random.randint(context_key, (num_bits,), 0, 2), query, torch.zeros_like(query))
        return state, first_timestep(observe(state, state.time, p), p.right_reward)

    def step(key: torch.Tensor, state: MemoryChainState, action: torch.Tensor, p: MemoryChainParams) -> tuple[MemoryChainState, Timestep]:
        """Let one step pass, or answer if it is the last one; the key is not used."""
        new = MemoryChainState(state.context, state.query, state.time + 1)
        terminated = new.time > p.memory_length
        right = action == state.context.gather(0, state.query.reshape(1)).reshape(())
        reward = torch.where(terminated, torch.where(right, p.right_reward, p.wrong_reward), 0.0)
        return new, Timestep(observe(state, state.time, p), reward, terminated, torch.zeros_like(terminated), {})

    def render(state: MemoryChainState, p: MemoryChainParams) -> torch.Tensor:
        """Return a picture of the bits (red 0, green 1), the queried one underlined, and the time that has passed: uint8 [240, 480, 3]."""
        gone = (state.time.float() / (p.memory_length.float() + 1)).clamp(0.0, 1.0)
        picture = draw.canvas((240, 480), (0.0, 0.0), 2.0, device=state.time.device)
        gap = 1.7 / num_bits
        size = min(0.18, 0.45 * gap)
        for i, bit in enumerate(state.context.unbind(0)):
            x = gap * (i - (num_bits - 1) / 2)
            lamp = draw.circle(picture, x, 0.1, size)
            picture = draw.paint(picture, lamp - 0.02, draw.INK)
            picture = draw.paint(picture, torch.where(bit == 0, lamp, 1.0), draw.CORAL)
            picture = draw.paint(picture, torch.where(bit == 1, lamp, 1.0), draw.LEAF)
            picture = draw.paint(picture, torch.where(state.query == i, draw.box(picture, (x, -0.17), (size, 0.015)), 1.0), draw.INK)
        picture = draw.paint(picture, draw.capsule(picture, (-0.85, -0.35), (0.85, -0.35), 0.04), draw.PALE)
        return draw.to_uint8(draw.paint(picture, draw.capsule(picture, (-0.85, -0.35), (1.7 * gone - 0.85, -0.35), 0.04), draw.TEAL))

    return checked(Env(NAME, reset, step, observations, Discrete(2), default, memory_length + 1, render), MemoryChainState)
