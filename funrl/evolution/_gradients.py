"""OpenES, ARS and PGPE: strategies of mirrored candidates, whose mean an optimizer moves along a gradient of the fitness."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.evolution._strategy import Number, Strategy, around_mean, centered_ranks, like_vector
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


def by_gradient(
    what: str, kind: type, num_candidates: int, optimizer: Optimizer, sigma: Number, gradient: Callable[[torch.Tensor, torch.Tensor], Any]
) -> Strategy:
    """Make a strategy of mirrored candidates around a mean, which an optimizer moves along an estimate of the gradient of the fitness.

    Args:
        what: the name of the strategy, for messages.
        kind: the class of its state, of the mean and the optimizer's state.
        num_candidates: N, even and at least 2.
        optimizer: an :class:`funrl.optim.Optimizer`.
        sigma: the standard deviation, above 0.
        gradient: ``gradient(noise [N, D], fitness [N]) -> [D]``; the noise is in units of sigma.
    """
    check_mirrored(what, num_candidates, optimizer)

    def draw(key: torch.Tensor, state: Any, mean: torch.Tensor) -> torch.Tensor:
        return mirrored(key, mean, sigma, num_candidates)

    def move(state: Any, mean: torch.Tensor, candidates: torch.Tensor, fitness: torch.Tensor) -> Any:
        return kind(*ascend(optimizer, gradient((candidates - mean) / sigma, fitness), state.optimizer, state.mean))

    return around_mean(what, kind, num_candidates, sigma, lambda mean, _: kind(mean, optimizer.init(mean)), draw, move)


def mirrored(key: torch.Tensor, mean: torch.Tensor, std: Any, num_candidates: int) -> torch.Tensor:
    """Return N candidates [N, D] around a mean [D], the second half as far on the other side as the first."""
    noise = random.normal(key, (num_candidates // 2, mean.shape[0]), dtype=mean.dtype)
    return mean + std * torch.cat([noise, -noise])


def ascend(optimizer: Optimizer, gradient: torch.Tensor, state: Any, mean: Any) -> tuple[Any, Any]:
    """Let an optimizer, which minimises, move a mean along the gradient [D] of the fitness; return the mean and the optimizer's state."""
    updates, state = optimizer.update(like_vector(-gradient, mean), state, mean)
    return tree.map(lambda x, u: x + u, mean, updates), state


def check_mirrored(what: str, num_candidates: Any, optimizer: Any) -> None:
    """Raise unless the number of candidates is even, and the other an :class:`funrl.optim.Optimizer`."""
    _check.integer(f"{what}: num_candidates", num_candidates, 2)
    if num_candidates % 2:
        _check.fail(ValueError, f"{what}: num_candidates", "an even number, as candidates come in mirrored pairs", num_candidates)
    remedy = "call the factory, as in optim.adam(1e-2)"
    _check.instance(f"{what}: optimizer", optimizer, Optimizer, remedy, "a funrl.optim.Optimizer")
