"""Evolution: search over trees of parameters by the fitness of candidates, which is maximised.

A :class:`Strategy` is four pure functions: ``init(key, params)``, ``ask(key, state)``, ``tell(state, candidates, fitness)`` and
``best(state)``. :func:`evolve` runs its generations as one loop, which compiles and vmaps:

    >>> import funrl, torch
    >>> from funrl import evolution, nn, optim, policies, random
    >>> env, net = funrl.envs.make("CartPole-v1"), nn.mlp((), 2)
    >>> fitness = evolution.episode_fitness(env, policies.q_value(net).act, max_steps=100)
    >>> strategy = evolution.openes(16, optim.adam(0.1))
    >>> state = strategy.init(random.key(0), net.init(random.key(1), torch.zeros(4)))
    >>> def search(key, state):
    ...     return evolution.evolve(key, state, strategy=strategy, fitness=fitness, num_generations=10)
    >>> state, generations = funrl.compile(search)(random.key(2), state)
    >>> generations.fitness_max.shape
    torch.Size([10])

Hyperparameters are Python numbers or tensors []; for one value a search, build the strategy inside the function that
:func:`torch.func.vmap` maps.
"""

from funrl.evolution._archive import Archive, coverage, cvt_cells, grid_cells, insert, qd_score
from funrl.evolution._cma_es import CMAESState, cma_es
from funrl.evolution._fitness import episode_fitness, first_episodes, training_fitness
from funrl.evolution._genetic import GeneticState, genetic
from funrl.evolution._gradients import ARSState, OpenESState, PGPEState, ars, openes, pgpe
from funrl.evolution._map_elites import MAPElitesState, map_elites
from funrl.evolution._pga_map_elites import PGAMAPElitesState, pga_map_elites
from funrl.evolution._snes import SNESState, snes
from funrl.evolution._strategy import Generations, Strategy, centered_ranks, evolve, rows as rows, standardized

__all__ = [
    "ARSState",
    "Archive",
    "CMAESState",
    "Generations",
    "GeneticState",
    "MAPElitesState",
    "OpenESState",
    "PGAMAPElitesState",
    "PGPEState",
    "SNESState",
    "Strategy",
    "ars",
    "centered_ranks",
    "cma_es",
    "coverage",
    "cvt_cells",
    "episode_fitness",
    "evolve",
    "first_episodes",
    "genetic",
    "grid_cells",
    "insert",
    "map_elites",
    "openes",
    "pga_map_elites",
    "pgpe",
    "qd_score",
    "snes",
    "standardized",
    "training_fitness",
]
