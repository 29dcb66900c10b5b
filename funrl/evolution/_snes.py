"""SNES: separable natural evolution strategies."""

import math
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.evolution._strategy import Number, Strategy, around_mean, by_rank, like_vector


@tree.dataclass
class SNESState(tree.Replaceable):
    """State of :func:`snes`.

    Attributes:
        mean: the tree of parameters at the centre of the candidates.
        sigma: floating point [D], the standard deviation of each of the D parameters, in the order of :func:`funrl.tree.ravel`.
    """

    mean: Any
    sigma: torch.Tensor


def snes(num_candidates: int, *, sigma: Number = 1.0, learning_rate: Number = 1.0, sigma_learning_rate: Number | None = None) -> Strategy:
    r"""Make SNES: follow the natural gradient by mean and standard deviations, each parameter by itself. Fitness is maximised.

    .. math:: x_i = \mu + \sigma s_i, \quad s_i \sim \mathcal N(0, I), \qquad
        \mu \leftarrow \mu + \eta_\mu\, \sigma \sum_i u_i s_i, \qquad
        \sigma \leftarrow \sigma \exp\left(\tfrac12 \eta_\sigma \sum_i u_i (s_i^2 - 1)\right)

    .. math:: u_i = \frac{\max(0, \ln(\tfrac N2 + 1) - \ln r_i)}{\sum_{j=1}^N \max(0, \ln(\tfrac N2 + 1) - \ln j)} - \frac1N

    where r = 1 is the rank of the best.

    Args:
        num_candidates: N, at least 2.
        sigma: the first standard deviation of every parameter, above 0: a number, or a tensor [].
        learning_rate: eta_mu, at least 0: a number, or a tensor [].
        sigma_learning_rate: eta_sigma, at least 0: a number, or a tensor []; None: (3 + ln D) / (5 sqrt(D)) of D parameters.

    Returns:
        A :class:`Strategy` whose state is a :class:`SNESState`; its ``best`` is the mean.

    Raises:
        ValueError: if a number is outside its range; from ``tell``, if the shape of an argument is not as above.
        TypeError: if an argument is of another type.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> strategy = snes(16)
        >>> state = strategy.init(random.key(0), {"x": torch.tensor([3.0, -2.0])})
        >>> for key in random.split(random.key(1), 60).unbind(0):
        ...     candidates, state = strategy.ask(key, state)
        ...     state = strategy.tell(state, candidates, -candidates["x"].square().sum(-1))
        >>> bool(strategy.best(state)["x"].norm() < 1e-3)
        True

    Reference: T. Schaul, T. Glasmachers, J. Schmidhuber, "High Dimensions and Heavy Tails for Natural Evolution Strategies", GECCO
        2011, doi:10.1145/2001576.2001692 (no arXiv id); also in D. Wierstra, T. Schaul, T. Glasmachers, Y. Sun, J. Schmidhuber,
        "Natural Evolution Strategies", 2011, arXiv:1106.4487. Deviation: candidates of equal fitness share the mean of their u.
    """
    _check.integer("snes: num_candidates", num_candidates, 2)
    _check.number("snes: learning_rate", learning_rate, "[0, inf)", tensor=True)
    if sigma_learning_rate is not None:
        _check.number("snes: sigma_learning_rate", sigma_learning_rate, "[0, inf)", tensor=True)
    raw = [max(0.0, math.log(num_candidates / 2 + 1) - math.log(rank)) for rank in range(1, num_candidates + 1)]
    total = sum(raw)
    utilities = [x / total - 1 / num_candidates for x in raw]

    def first(mean: Any, vector: torch.Tensor) -> SNESState:
        return SNESState(mean, torch.zeros_like(vector) + sigma)

    def draw(key: torch.Tensor, state: SNESState, mean: torch.Tensor) -> torch.Tensor:
        return mean + state.sigma * random.normal(key, (num_candidates, mean.shape[0]), dtype=mean.dtype)

    def move(state: SNESState, mean: torch.Tensor, candidates: torch.Tensor, fitness: torch.Tensor) -> SNESState:
        noise = (candidates - mean) / state.sigma
        utility = by_rank(fitness, torch.tensor(utilities, dtype=mean.dtype, device=mean.device))
        dim = mean.shape[0]
        rate = (3 + math.log(dim)) / (5 * math.sqrt(dim)) if sigma_learning_rate is None else sigma_learning_rate
        after = state.sigma * torch.exp(0.5 * rate * (utility @ (noise.square() - 1)))
        return SNESState(like_vector(mean + learning_rate * state.sigma * (utility @ noise), state.mean), after)

    return around_mean("snes", SNESState, num_candidates, sigma, first, draw, move)
