"""Bandits: arms with random rewards of unknown distributions."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.env import Env, Timestep, constants, first_timestep
from funrl.envs import _draw as draw
from funrl.envs._checks import checked
from funrl.spaces import Box, Discrete

MAX_STEPS = 100


@tree.dataclass
class BernoulliBanditParams:
    """Parameters of a Bernoulli bandit.

    Attributes:
        probability: floating-point [K], in [0, 1]; the probability that an arm pays 1 and not 0.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    probability: torch.Tensor
    max_steps: torch.Tensor


@tree.dataclass
class GaussianBanditParams:
    """Parameters of a Gaussian bandit; floating-point numbers have the same dtype.

    Attributes:
        mean: [K], of the rewards of each arm.
        scale: [K], their standard deviations.
        max_steps: int64 []; the number of steps after which the episode is truncated.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    max_steps: torch.Tensor


@tree.dataclass
class BanditState:
    """The state of one episode.

    Attributes:
        pulled: floating-point [K], one-hot: the arm that was pulled last; zeros after a reset.
        reward: floating-point [], the reward of that action.
        time: int64 [], steps since the reset.
    """

    pulled: torch.Tensor
    reward: torch.Tensor
    time: torch.Tensor


def bernoulli_bandit(num_arms: int = 2) -> Env:
    """Return BernoulliBandit-misc: each of K arms pays 1 with its own probability, else 0.

    The probabilities are in ``env_params``, by default evenly spaced from 0.1 to 0.9, and the same in each episode; for meta-learning,
    give each copy or each episode different ones. The observation, floating-point [K + 2], is that of a recurrent policy: the last reward,
    the last action one-hot (initially zeros), and the elapsed fraction of the episode. An action is an arm. Never terminated; truncated
    after ``max_steps``, 100 by default.

    Args:
        num_arms: K, at least 1.

    Raises:
        TypeError, ValueError: if ``num_arms`` is not an integer, or too small.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = bernoulli_bandit(num_arms=3)
        >>> env_params = env.default_params.replace(probability=torch.tensor([0.0, 1.0, 0.0]))
        >>> state, timestep = env.reset(random.key(0), env_params)
        >>> state, timestep = env.step(random.key(1), state, torch.tensor(1), env_params)
        >>> timestep.observation
        tensor([1.0000, 0.0000, 1.0000, 0.0000, 0.0100])

    Reference: J. Wang et al., "Learning to reinforcement learn", 2016, arXiv:1611.05763.
    """
    _check.integer("BernoulliBandit-misc: num_arms", num_arms, 1, remedy="shapes have to be known while compiling")
    default = constants(BernoulliBanditParams, probability=torch.linspace(0.1, 0.9, num_arms), max_steps=MAX_STEPS)

    def pay(key: torch.Tensor, pulled: torch.Tensor, p: BernoulliBanditParams) -> torch.Tensor:
        return random.bernoulli(key, (pulled * p.probability).sum()).to(pulled.dtype)

    def bars(p: BernoulliBanditParams) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros_like(p.probability), p.probability

    return _bandit("BernoulliBandit-misc", default, pay, bars, low=0.0, high=1.0)


def gaussian_bandit(num_arms: int = 2) -> Env:
    """Return GaussianBandit-misc: each of K arms pays a normal number with its own mean and scale.

    Means and scales are in ``env_params``, by default means evenly spaced from -1 to 1 and scales 0.1; the reward is mean + scale · ε with
    a standard normal ε, so it is differentiable in both. The rest is as in :func:`bernoulli_bandit`.

    Args:
        num_arms: K, at least 1.

    Raises:
        TypeError, ValueError: if ``num_arms`` is not an integer, or too small.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> env = gaussian_bandit()
        >>> env_params = env.default_params.replace(mean=torch.tensor([0.0, 5.0]), scale=torch.zeros(2))
        >>> state, timestep = env.reset(random.key(0), env_params)
        >>> env.step(random.key(1), state, torch.tensor(1), env_params)[1].reward
        tensor(5.)

    Reference: R. Lange, H. Sprekeler, "Learning not to Learn: Nature versus Nurture in Silico", 2020, arXiv:2010.04466, where one of two
    arms pays 0.
    """
    _check.integer("GaussianBandit-misc: num_arms", num_arms, 1, remedy="shapes have to be known while compiling")
    means = torch.linspace(-1.0, 1.0, num_arms)
    default = constants(GaussianBanditParams, mean=means, scale=torch.full_like(means, 0.1), max_steps=MAX_STEPS)

    def pay(key: torch.Tensor, pulled: torch.Tensor, p: GaussianBanditParams) -> torch.Tensor:
        return (pulled * p.mean).sum() + (pulled * p.scale).sum() * random.normal(key, dtype=p.mean.dtype)

    def bars(p: GaussianBanditParams) -> tuple[torch.Tensor, torch.Tensor]:
        top = (p.mean.abs() + 2 * p.scale).max() + 1e-6
        middle = 0.5 + 0.5 * p.mean / top
        return middle - p.scale / top, middle + p.scale / top

    return _bandit("GaussianBandit-misc", default, pay, bars, low=-float("inf"), high=float("inf"))


def _bandit(name: str, default: Any, pay: Callable, bars: Callable, *, low: float, high: float) -> Env:
    """Return a bandit.

    Args:
        name: of the environment.
        default: its params; the first leaf is [K], and the last is ``max_steps``.
        pay: ``pay(key, pulled one-hot [K], env_params) -> reward []``.
        bars: ``bars(env_params) -> (bottom [K], top [K])`` of the arms' bars in the picture, between 0 and 1.
        low: the smallest reward.
        high: the greatest reward.
    """
    num_arms = len(tree.leaves(default)[0])
    observations = Box([low, *[0.0] * (num_arms + 1)], [high, *[1.0] * (num_arms + 1)])

    def observe(state: BanditState, p: Any) -> torch.Tensor:
        dtype = state.reward.dtype
        over = state.time.to(dtype) / p.max_steps.to(dtype)
        return torch.cat([state.reward.reshape(1), state.pulled, over.clamp(max=1.0).reshape(1)])

    def reset(key: torch.Tensor, p: Any) -> tuple[BanditState, Timestep]:
        """Return the state before the first pull, and its timestep; the key is not used."""
        pulled = torch.zeros_like(tree.leaves(p)[0])
        zero = pulled.sum()
        state = BanditState(pulled, zero, torch.zeros_like(zero, dtype=torch.int64))
        return state, first_timestep(observe(state, p), zero)

    def step(key: torch.Tensor, state: BanditState, action: torch.Tensor, p: Any) -> tuple[BanditState, Timestep]:
        """Pull an arm."""
        pulled = tree.one_hot(action, num_arms, state.pulled)
        reward = pay(key, pulled, p)
        new = BanditState(pulled, reward, state.time + 1)
        truncated = new.time >= p.max_steps
        return new, Timestep(observe(new, p), reward.clone(), torch.zeros_like(truncated), truncated, {})

    def render(state: BanditState, p: Any) -> torch.Tensor:
        """Return a picture of the arms with the last one coloured, and the part of the episode that is over: uint8 [300, 480, 3]."""
        width = 2.0 / num_arms
        bottom, top = (x.float() for x in bars(p))
        over = (state.time / p.max_steps).float().clamp(0.0, 1.0)
        picture = draw.canvas((300, 480), (0.0, 0.45), 2.4, device=state.time.device)
        picture = draw.paint(picture, draw.box(picture, (0.0, -0.02), (1.05, 0.012)), draw.STEEL)
        for arm in range(num_arms):
            x, half = width * (arm + 0.5) - 1.0, (top[arm] - bottom[arm]) / 2
            bar = draw.box(picture, (x, bottom[arm] + half), (0.3 * width, half.clamp(min=0.004)))
            picture = draw.paint(picture, bar, draw.STEEL)
            picture = draw.paint(picture, torch.where(state.pulled[arm] > 0, bar, 1.0), draw.AMBER)
        picture = draw.paint(picture, draw.capsule(picture, (-1.0, -0.16), (1.0, -0.16), 0.03), draw.PALE)
        return draw.to_uint8(draw.paint(picture, draw.capsule(picture, (-1.0, -0.16), (2.0 * over - 1.0, -0.16), 0.03), draw.TEAL))

    return checked(Env(name, reset, step, observations, Discrete(num_arms), default, MAX_STEPS, render), BanditState, shapes=True)
