"""A Markov decision process given by tables, so that one program works for many of them."""

import math

import torch

from funrl import _check, random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._checks import checked
from funrl.spaces import Box, Discrete

NAME = "TabularMDP-misc"
MAX_STEPS = 10


@tree.dataclass
class TabularMDPParams:
    """The tables; floating-point numbers have the same dtype.

    Attributes:
        transition: [S, A, S], at least 0; the last dimension is proportional to the probabilities of the next state.
        reward: [S, A], the mean reward of an action in a state.
        scale: [], the standard deviation of rewards.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    transition: torch.Tensor
    reward: torch.Tensor
    scale: torch.Tensor
    max_steps: torch.Tensor


@tree.dataclass
class TabularMDPState:
    """The state of one episode.

    Attributes:
        number: int64 [], the state of the process, from 0 to S - 1.
        time: int64 [], steps since the reset.
    """

    number: torch.Tensor
    time: torch.Tensor


def tabular_mdp(num_states: int = 10, num_actions: int = 5) -> Env:
    """Return TabularMDP-misc: states, actions, transition probabilities and mean rewards as tables in ``env_params``.

    Episodes begin in state 0. The observation, floating-point [S], is the state, one-hot. The reward is mean + scale · ε with a standard
    normal ε. Never terminated; truncated after ``max_steps``, 10 by default. By default the states are a chain: action 0 goes back to the
    first state and pays 0.1; every other action goes one state to the right with probability 0.8, else stays, and pays 1 in the last state
    only. For meta-learning, give other tables of the same size: :func:`funrl.envs.tasks.of` draws random ones.

    Args:
        num_states: S, at least 2.
        num_actions: A, at least 2.

    Raises:
        TypeError, ValueError: if a size is not an integer, or too small.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = tabular_mdp(num_states=3, num_actions=2)
        >>> state, timestep = env.reset(random.key(0))
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(0))
        >>> timestep.observation, env.default_params.transition[0, 1]
        (tensor([1., 0., 0.]), tensor([0.2000, 0.8000, 0.0000]))

    Reference: random tables of 10 states and 5 actions with episodes of 10 steps are a benchmark of Y. Duan et al., "RL²: Fast
    Reinforcement Learning via Slow Reinforcement Learning", 2016, arXiv:1611.02779, section 3.2.
    """
    _check.integer(f"{NAME}: num_states", num_states, 2)
    _check.integer(f"{NAME}: num_actions", num_actions, 2)
    stay = torch.eye(num_states, device="cpu")
    right = 0.2 * stay + 0.8 * torch.cat([stay[1:], stay[-1:]])
    back = stay[:1].expand(num_states, -1)
    transition = torch.stack([back, *[right] * (num_actions - 1)], 1)
    reward = torch.zeros(num_states, num_actions, device="cpu")
    reward[:, 0], reward[-1, 1:] = 0.1, 1.0
    default = constants(TabularMDPParams, transition=transition, reward=reward, scale=0.1, max_steps=MAX_STEPS)

    def observe(state: TabularMDPState, p: TabularMDPParams) -> torch.Tensor:
        return tree.one_hot(state.number, num_states, p.reward)

    def reset(key: torch.Tensor, p: TabularMDPParams) -> tuple[TabularMDPState, Timestep]:
        """Return the first state, and its timestep; the key is not used."""
        state = TabularMDPState(torch.zeros_like(p.scale, dtype=torch.int64), torch.zeros_like(p.scale, dtype=torch.int64))
        return state, first_timestep(observe(state, p), p.scale)

    def step(key: torch.Tensor, state: TabularMDPState, action: torch.Tensor, p: TabularMDPParams) -> tuple[TabularMDPState, Timestep]:
        """Draw the next state and the reward."""
        state_key, reward_key = random.split(key).unbind(0)
        row = state.number * num_actions + action
        weights, mean = tree.rows((p.transition.reshape(-1, num_states), p.reward.reshape(-1)), row)
        new = TabularMDPState(random.categorical(state_key, weights.log()), state.time + 1)
        reward = mean + p.scale * random.normal(reward_key, dtype=mean.dtype)
        return new, Timestep(observe(new, p), reward, torch.zeros_like(new.time, dtype=torch.bool), new.time >= p.max_steps, {})

    def render(state: TabularMDPState, p: TabularMDPParams) -> torch.Tensor:
        """Return a picture of the states as discs on a circle, the present one coloured, uint8 [300, 300, 3]."""
        picture = draw.canvas((300, 300), (0.0, 0.0), 2.8, device=state.number.device)
        radius = min(0.3, 2.4 / num_states)
        for number in range(num_states):
            angle = 2 * math.pi * number / num_states
            disc = draw.circle(picture, math.sin(angle), math.cos(angle), radius)
            picture = draw.paint(picture, disc, draw.STEEL)
            picture = draw.paint(picture, torch.where(state.number == number, disc + 0.2 * radius, 1.0), draw.AMBER)
        return draw.to_uint8(picture)

    env = Env(NAME, reset, step, Box(0.0, 1.0, (num_states,)), Discrete(num_actions), default, MAX_STEPS, render)
    return checked(env, TabularMDPState, shapes=True)
