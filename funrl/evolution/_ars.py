"""ARS: augmented random search."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.evolution._strategy import Number, Strategy, by_gradient
from funrl.optim import Optimizer


@tree.dataclass
class ARSState(tree.Replaceable):
    """State of :func:`ars`.

    Attributes:
        mean: the tree of parameters at the centre of the candidates.
        optimizer: the state of the optimizer of the mean.
    """

    mean: Any
    optimizer: Any


def ars(num_candidates: int, optimizer: Optimizer, *, num_elites: int | None = None, sigma: Number = 0.05) -> Strategy:
    r"""Make ARS: step along the best directions, scaled by the deviation of their fitness. Fitness is maximised.

    .. math:: x_i^\pm = \theta \pm \nu \delta_i, \quad \delta_i \sim \mathcal N(0, I), \qquad
        g = \frac{1}{b\, \sigma_R} \sum_{i \in \mathrm{top}\, b} \left(R(x_i^+) - R(x_i^-)\right) \delta_i

    The b directions are those of the largest :math:`\max(R(x_i^+), R(x_i^-))`, and sigma_R is the standard deviation of their 2b
    values of fitness.

    Args:
        num_candidates: N, even and at least 2: both sides of N/2 directions; the candidates i and i + N/2 are mirrored.
        optimizer: any of :mod:`funrl.optim`; it is given -g, so that ``optim.sgd(0.02)`` is the step of the paper.
        num_elites: b, from 1 to N/2; None: half of the directions, at least 1.
        sigma: nu, above 0: a number, or a tensor [].

    Returns:
        A :class:`Strategy` whose state is an :class:`ARSState`; its ``best`` is the mean.

    Raises:
        ValueError: if a number is outside its range; from ``tell``, if the shape of an argument is not as above.
        TypeError: if an argument is of another type.

    Example:
        >>> import torch
        >>> from funrl import optim, random
        >>> strategy = ars(16, optim.sgd(0.05))
        >>> state = strategy.init(random.key(0), {"x": torch.tensor([3.0, -2.0])})
        >>> for key in random.split(random.key(1), 100).unbind(0):
        ...     candidates, state = strategy.ask(key, state)
        ...     state = strategy.tell(state, candidates, -candidates["x"].square().sum(-1))
        >>> bool(strategy.best(state)["x"].norm() < 0.2)
        True

    Reference: H. Mania, A. Guy, B. Recht, "Simple random search provides a competitive approach to reinforcement learning", 2018,
        arXiv:1803.07055, algorithm 2, version V1-t; ``normalize_observation`` of :func:`funrl.algos.ars.make` gives V2-t.
    """

    def gradient(noise: torch.Tensor, fitness: torch.Tensor) -> torch.Tensor:
        pairs = fitness.reshape(2, directions)
        best = pairs.amax(0).sort(descending=True, stable=True).indices[:chosen]
        pairs = pairs[:, best]
        deviation = (pairs - pairs.mean()).square().mean().sqrt().clamp(min=1e-8)
        return (pairs[0] - pairs[1]) @ noise[best] / (chosen * deviation)

    strategy = by_gradient("ars", ARSState, num_candidates, optimizer, sigma, gradient)
    directions = num_candidates // 2
    chosen = max(directions // 2, 1) if num_elites is None else num_elites
    _check.integer("ars: num_elites", chosen, 1)
    if chosen > directions:
        raise ValueError(f"ars: num_elites: expected at most {directions}, the number of directions, got {chosen}")
    return strategy
