"""A genetic algorithm with truncation selection, mutation and elites."""

from typing import Any

import torch

from funrl import _check, random, tree
from funrl.evolution._strategy import Number, Strategy, checked, guarded, like_rows, rows, start


@tree.dataclass
class GeneticState(tree.Replaceable):
    """State of :func:`genetic`; T is the number of parents.

    Attributes:
        parents: the tree of the parents' parameters with leaves [T, ...], the best first.
        fitness: floating point [T], the fitness of the parents; -infinity before the first generation.
    """

    parents: Any
    fitness: torch.Tensor


def genetic(num_candidates: int, *, num_parents: int = 20, num_elites: int = 1, sigma: Number = 0.02) -> Strategy:
    r"""Make a genetic algorithm: mutate parents that are drawn from the best of the last generation. Fitness is maximised.

    .. math:: x_i = \theta_{p_i} + \sigma \epsilon_i, \qquad p_i \sim \mathcal U\{1, \dots, T\}, \qquad \epsilon_i \sim \mathcal N(0, I)

    The first ``num_elites`` candidates are the best parents as they are. There is no crossover. The first parents are all ``params``;
    for others, replace ``state.parents``.

    Args:
        num_candidates: N, at least 2.
        num_parents: T, from 1 to N.
        num_elites: from 0 to T.
        sigma: the standard deviation of mutations, above 0: a number, or a tensor [].

    Returns:
        A :class:`Strategy` whose state is a :class:`GeneticState`; its ``best`` is the first parent.

    Raises:
        ValueError: if a number is outside its range; from ``tell``, if the shape of an argument is not as above.
        TypeError: if an argument is of another type.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> strategy = genetic(64, num_parents=8, sigma=0.2)
        >>> state = strategy.init(random.key(0), {"x": torch.tensor([3.0, -2.0])})
        >>> for key in random.split(random.key(1), 60).unbind(0):
        ...     candidates, state = strategy.ask(key, state)
        ...     state = strategy.tell(state, candidates, -candidates["x"].square().sum(-1))
        >>> bool(strategy.best(state)["x"].norm() < 0.2)
        True

    Reference: F. P. Such, V. Madhavan, E. Conti, J. Lehman, K. O. Stanley, J. Clune, "Deep Neuroevolution: Genetic Algorithms Are a
        Competitive Alternative for Training Deep Neural Networks for Reinforcement Learning", 2017, arXiv:1712.06567, algorithm 1.
        Deviations: the elite is the best by the same fitness as all others, which further episodes do not confirm, and the first
        parents are equal.
    """
    for name, value, low in (("num_candidates", num_candidates, 2), ("num_parents", num_parents, 1), ("num_elites", num_elites, 0)):
        _check.integer(f"genetic: {name}", value, low)
    if num_parents > num_candidates:
        raise ValueError(f"genetic: num_parents: expected at most num_candidates = {num_candidates}, got {num_parents}")
    if num_elites > num_parents:
        raise ValueError(f"genetic: num_elites: expected at most num_parents = {num_parents}, got {num_elites}")
    _check.number("genetic: sigma", sigma, "(0, inf)", tensor=True)

    def init(key: torch.Tensor, params: Any) -> GeneticState:
        first = start("genetic", params)
        parents = tree.map(lambda x: x.expand(num_parents, *x.shape).clone(), first)
        return GeneticState(parents, torch.full_like(tree.ravel(first)[0][:1].expand(num_parents), -torch.inf))

    def ask(key: torch.Tensor, state: GeneticState) -> tuple[Any, GeneticState]:
        parent_key, noise_key = random.split(key).unbind(0)
        parents = rows(state.parents)
        chosen = random.randint(parent_key, (num_candidates - num_elites,), 0, num_parents)
        noise = random.normal(noise_key, (num_candidates - num_elites, parents.shape[1]), dtype=parents.dtype)
        matrix = torch.cat([parents[:num_elites], parents[chosen] + sigma * noise])
        return like_rows(matrix, tree.index(state.parents, 0)), state

    def tell(state: GeneticState, candidates: Any, fitness: torch.Tensor) -> GeneticState:
        example = tree.index(state.parents, 0)
        matrix, fitness = checked("genetic", example, candidates, fitness, num_candidates)
        order = fitness.sort(descending=True, stable=True).indices[:num_parents]
        return GeneticState(like_rows(matrix[order], example), fitness[order])

    return guarded("genetic", GeneticState, init, ask, tell, lambda state: tree.index(state.parents, 0))
