"""PGPE: policy gradients with parameter-based exploration, one standard deviation for each parameter."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, tree
from funrl.evolution._strategy import Number, Strategy, around_mean, ascend, centered_ranks, check_mirrored, mirrored
from funrl.optim import Optimizer


@tree.dataclass
class PGPEState(tree.Replaceable):
    """State of :func:`pgpe`.

    Attributes:
        mean: the tree of parameters at the centre of the candidates.
        sigma: floating point [D], the standard deviation of each of the D parameters, in the order of :func:`funrl.tree.ravel`.
        optimizer: the state of the optimizer of the mean.
    """

    mean: Any
    sigma: torch.Tensor
    optimizer: Any


def pgpe(
    num_candidates: int,
    optimizer: Optimizer,
    *,
    sigma: Number = 0.1,
    sigma_learning_rate: Number = 0.1,
    max_change: Number = 0.2,
    shaping: Callable[[torch.Tensor], torch.Tensor] = centered_ranks,
) -> Strategy:
    r"""Make PGPE with symmetric sampling: follow the gradient of the mean fitness by mean and standard deviations. Fitness is maximised.

    .. math:: x_i^\pm = \mu \pm \epsilon_i, \quad \epsilon_i \sim \mathcal N(0, \mathrm{diag}(\sigma^2)), \qquad
        g_\mu = \frac{1}{N} \sum_i (u_i^+ - u_i^-)\, \epsilon_i, \qquad
        g_\sigma = \frac{1}{N} \sum_i (u_i^+ + u_i^- - 2 \bar u) \frac{\epsilon_i^2 - \sigma^2}{\sigma}

    The sums are over the N/2 pairs. A standard deviation changes by :math:`\alpha_\sigma g_\sigma`, but not by more than
    ``max_change`` of itself.

    Args:
        num_candidates: N, even and at least 2; the candidates i and i + N/2 are mirrored.
        optimizer: of the mean, any of :mod:`funrl.optim`, such as ``optim.clip_up(0.05)`` or ``optim.adam(0.05)``; it is given
            -g_mu.
        sigma: the first standard deviation of every parameter, above 0: a number, or a tensor [].
        sigma_learning_rate: alpha_sigma, at least 0: a number, or a tensor [].
        max_change: at least 0 and below 1: a number, or a tensor [].
        shaping: ``shaping(fitness [N]) -> u [N]``.

    Returns:
        A :class:`Strategy` whose state is a :class:`PGPEState`; its ``best`` is the mean.

    Raises:
        ValueError: if a number is outside its range; from ``tell``, if the shape of an argument is not as above.
        TypeError: if an argument is of another type.

    Example:
        >>> import torch
        >>> from funrl import optim, random
        >>> strategy = pgpe(64, optim.clip_up(0.1), sigma=0.5)
        >>> state = strategy.init(random.key(0), {"x": torch.tensor([3.0, -2.0])})
        >>> for key in random.split(random.key(1), 100).unbind(0):
        ...     candidates, state = strategy.ask(key, state)
        ...     state = strategy.tell(state, candidates, -candidates["x"].square().sum(-1))
        >>> bool(strategy.best(state)["x"].norm() < 0.2)
        True

    Reference: F. Sehnke, C. Osendorfer, T. Rückstieß, A. Graves, J. Peters, J. Schmidhuber, "Parameter-exploring policy gradients",
        Neural Networks 23, 2010, doi:10.1016/j.neunet.2009.12.004 (no arXiv id); ranks, the limit of the change and ClipUp as in
        N. E. Toklu, P. Liskowski, R. K. Srivastava, "ClipUp: A Simple and Powerful Optimizer for Distribution-based Policy
        Evolution", 2020, arXiv:2008.02387.
    """
    check_mirrored("pgpe", num_candidates, optimizer)
    _check.function("pgpe: shaping", shaping, "such as evolution.centered_ranks")
    _check.number("pgpe: sigma_learning_rate", sigma_learning_rate, "[0, inf)", tensor=True)
    _check.number("pgpe: max_change", max_change, "[0, inf)", tensor=True)
    if not isinstance(max_change, torch.Tensor) and not max_change < 1:
        raise ValueError(f"pgpe: max_change: expected a number in [0, 1), got {max_change}; at 1 a standard deviation could become 0")

    def first(mean: Any, vector: torch.Tensor) -> PGPEState:
        return PGPEState(mean, torch.zeros_like(vector) + sigma, optimizer.init(mean))

    def draw(key: torch.Tensor, state: PGPEState, mean: torch.Tensor) -> torch.Tensor:
        return mirrored(key, mean, state.sigma, num_candidates)

    def move(state: PGPEState, mean: torch.Tensor, candidates: torch.Tensor, fitness: torch.Tensor) -> PGPEState:
        noise = candidates[: num_candidates // 2] - mean
        utility = shaping(fitness)
        plus, minus = utility.split(num_candidates // 2)
        mean_gradient = (plus - minus) @ noise / num_candidates
        spread = (noise.square() - state.sigma.square()) / state.sigma
        sigma_gradient = (plus + minus - 2 * utility.mean()) @ spread / num_candidates
        limit = max_change * state.sigma
        change = torch.minimum(torch.maximum(sigma_learning_rate * sigma_gradient, -limit), limit)
        new, optimizer_state = ascend(optimizer, mean_gradient, state.optimizer, state.mean)
        return PGPEState(new, state.sigma + change, optimizer_state)

    return around_mean("pgpe", PGPEState, num_candidates, sigma, first, draw, move)
