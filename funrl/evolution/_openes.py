"""OpenES: evolution strategies with mirrored candidates, ranks, and an optimizer of gradients."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, tree
from funrl.evolution._strategy import Number, Strategy, by_gradient, centered_ranks
from funrl.optim import Optimizer


@tree.dataclass
class OpenESState(tree.Replaceable):
    """State of :func:`openes`.

    Attributes:
        mean: the tree of parameters at the centre of the candidates.
        optimizer: the state of the optimizer of the mean.
    """

    mean: Any
    optimizer: Any


def openes(
    num_candidates: int,
    optimizer: Optimizer,
    *,
    sigma: Number = 0.1,
    shaping: Callable[[torch.Tensor], torch.Tensor] = centered_ranks,
) -> Strategy:
    r"""Make OpenES: follow an estimate of the gradient of the mean fitness of noisy parameters. Fitness is maximised.

    .. math:: x_i = \theta + \sigma \epsilon_i, \qquad g = \frac{1}{N \sigma} \sum_i u_i \epsilon_i, \qquad
        \epsilon_{i + N/2} = -\epsilon_i \sim \mathcal N(0, I)

    Args:
        num_candidates: N, even and at least 2; the candidates i and i + N/2 are mirrored.
        optimizer: any of :mod:`funrl.optim`; it is given -g. ``optim.adamw`` adds the weight decay of the paper.
        sigma: the standard deviation, above 0: a number, or a tensor [].
        shaping: ``shaping(fitness [N]) -> u [N]``.

    Returns:
        A :class:`Strategy` whose state is an :class:`OpenESState`; its ``best`` is the mean.

    Raises:
        ValueError: if a number is outside its range; from ``tell``, if the shape of an argument is not as above.
        TypeError: if an argument is of another type.

    Example:
        >>> import torch
        >>> from funrl import optim, random
        >>> strategy = openes(64, optim.adam(0.1))
        >>> state = strategy.init(random.key(0), {"x": torch.tensor([3.0, -2.0])})
        >>> for key in random.split(random.key(1), 100).unbind(0):
        ...     candidates, state = strategy.ask(key, state)
        ...     state = strategy.tell(state, candidates, -candidates["x"].square().sum(-1))
        >>> bool(strategy.best(state)["x"].norm() < 0.2)
        True

    Reference: T. Salimans, J. Ho, X. Chen, S. Sidor, I. Sutskever, "Evolution Strategies as a Scalable Alternative to Reinforcement
        Learning", 2017, arXiv:1703.03864. Deviation: candidates of equal fitness share their mean rank.
    """

    def gradient(noise: torch.Tensor, fitness: torch.Tensor) -> torch.Tensor:
        return shaping(fitness) @ noise / (num_candidates * sigma)

    _check.function("openes: shaping", shaping, "such as evolution.centered_ranks")
    return by_gradient("openes", OpenESState, num_candidates, optimizer, sigma, gradient)
