"""Generations: ask, evaluate and tell, as one loop."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.compiler import scan
from funrl.evolution._strategy import Strategy


@tree.dataclass
class Generations:
    """The fitness of the candidates of G generations.

    Attributes:
        fitness_mean: floating point [G].
        fitness_max: floating point [G]; a NaN does not count.
        fitness_min: floating point [G]; a NaN does not count.
    """

    fitness_mean: torch.Tensor
    fitness_max: torch.Tensor
    fitness_min: torch.Tensor


def evolve(
    key: torch.Tensor,
    state: Any,
    *,
    strategy: Strategy,
    fitness: Callable[[torch.Tensor, Any], Any],
    num_generations: int,
) -> tuple[Any, Generations]:
    """Run generations of a strategy: ask for candidates, evaluate them, and tell their fitness.

    It is one scan: ``funrl.compile`` makes one program of all generations, and :func:`torch.func.vmap` runs many searches in it.

    Args:
        key: a key []; generation g asks with ``split(key, (G, 2))[g, 0]`` and evaluates with ``[g, 1]``.
        state: the state of the strategy.
        strategy: a :class:`Strategy`.
        fitness: ``fitness(key, candidates) -> [N]``, such as :func:`episode_fitness` makes. Where ``tell`` takes more, a tuple of all
            that it takes after the candidates: the fitness first.
        num_generations: G, at least 1.

    Returns:
        The state after G generations, and :class:`Generations`.

    Raises:
        ValueError: if ``num_generations`` is below 1.

    Example:
        >>> import torch, funrl
        >>> from funrl import evolution, random
        >>> strategy = evolution.snes(16)
        >>> state = strategy.init(random.key(0), {"x": torch.tensor([3.0, -2.0])})
        >>> def fitness(key, candidates):
        ...     return -candidates["x"].square().sum(-1)
        >>> state, generations = evolution.evolve(random.key(1), state, strategy=strategy, fitness=fitness, num_generations=60)
        >>> bool(generations.fitness_max[-1] > -1e-6), generations.fitness_mean.shape
        (True, torch.Size([60]))
    """
    _check.integer("evolve: num_generations", num_generations, 1)
    _check.instance("evolve: strategy", strategy, Strategy, "call the factory, as in evolution.snes(16)")
    _check.function("evolve: fitness", fitness, "give fitness(key, candidates) -> [N]")

    def generation(state: Any, keys: torch.Tensor) -> tuple[Any, Generations]:
        ask_key, fitness_key = keys.unbind(0)
        candidates, state = strategy.ask(ask_key, state)
        found = fitness(fitness_key, candidates)
        results = (found,) if isinstance(found, torch.Tensor) else tuple(found)
        values, nan = results[0], results[0].isnan()
        summary = Generations(
            fitness_mean=values.mean(),
            fitness_max=torch.where(nan, -torch.inf, values).amax(),
            fitness_min=torch.where(nan, torch.inf, values).amin(),
        )
        return strategy.tell(state, candidates, *results), summary

    return scan(generation, state, random.split(key, (num_generations, 2)))
