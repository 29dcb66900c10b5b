"""The interface of strategies and their generations, and what all of them share: trees as rows of a matrix, ranks, and checks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _check, random, tree
from funrl.compiler import scan

Number = float | torch.Tensor


class Strategy(NamedTuple):
    """A strategy of evolution as pure functions over trees of parameters. Fitness is maximised.

    N is the number of candidates of a generation. A strategy vmaps over states, and a generation compiles, see :func:`evolve`.

    Attributes:
        init: ``init(key, params) -> state``; ``params`` is a tree of floating-point tensors of one dtype, where the search begins.
        ask: ``ask(key, state) -> (candidates, state)``; the candidates have the structure of ``params`` with leaves [N, ...].
        tell: ``tell(state, candidates, fitness) -> state``; ``fitness`` is floating point [N], and larger is better. A fitness that is
            NaN or infinite counts as the least finite one of the generation. The strategies with an archive take more after it:
            see :func:`map_elites` and :func:`pga_map_elites`.
        best: ``best(state) -> params``, the parameters to act with: the mean of the search, or the best ones found.
    """

    init: Callable[[torch.Tensor, Any], Any]
    ask: Callable[[torch.Tensor, Any], tuple[Any, Any]]
    tell: Callable[..., Any]
    best: Callable[[Any], Any]


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


def guarded(what: str, kind: type, init: Any, ask: Any, tell: Any, best: Any) -> Strategy:
    """Return a :class:`Strategy` whose functions raise a TypeError unless their state is of its class and the key of ``ask`` a key."""

    def known(state: Any) -> Any:
        return _check.instance(f"{what}: state", state, kind, "strategy.init(key, params) returns the first one")

    def checked_ask(key: torch.Tensor, state: Any) -> tuple[Any, Any]:
        return ask(_check.key(f"{what}: key", key), known(state))

    def checked_tell(state: Any, *found: Any, **named: Any) -> Any:
        return tell(known(state), *found, **named)

    return Strategy(init, checked_ask, checked_tell, lambda state: best(known(state)))


def rows(candidates: Any) -> torch.Tensor:
    """Return a tree with leaves [N, ...] as a matrix [N, D], one row a candidate."""
    for x in _check.some("rows: candidates", tree.leaves(candidates), "leaf"):
        _check.sized("rows: candidates", _check.tensor("rows: candidates", x), ("N", ...))
    return torch.func.vmap(lambda one: tree.ravel(one)[0])(candidates)


def like_rows(matrix: torch.Tensor, params: Any) -> Any:
    """Return a matrix [N, D] as a tree like ``params`` with leaves [N, ...], contiguous."""
    _, unravel = tree.ravel(params)
    return tree.contiguous(torch.func.vmap(unravel)(matrix))


def like_vector(vector: torch.Tensor, params: Any) -> Any:
    """Return a vector [D] as a tree like ``params``, whose leaves share no memory."""
    return tree.map(lambda x: x.clone(memory_format=torch.contiguous_format), tree.ravel(params)[1](vector))


def start(what: str, params: Any) -> Any:
    """Return a copy of the parameters where a search begins, checked."""
    leaves = tree.leaves(params)
    if not leaves:
        raise ValueError(f"{what}: params: expected a tree with at least one leaf, got none")
    for path, x in zip(tree.paths(params), leaves, strict=True):
        _check.tensor(f"{what}: params", x)
        if not x.is_floating_point() or x.dtype != leaves[0].dtype:
            got = f"{tree.describe_leaf(x)} at {path or 'its only leaf'} and {leaves[0].dtype} before it"
            _check.fail(TypeError, f"{what}: params", "floating-point leaves of one dtype", got, "cast with tree.to")
    return tree.map(lambda x: x.clone(memory_format=torch.contiguous_format), params)


def checked(what: str, params: Any, candidates: Any, fitness: Any, num_candidates: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Check the arguments of ``tell``, and return the candidates as a matrix [N, D] and the fitness [N], finite and of their dtype."""
    name, expected = f"{what}: fitness", f"one number for each candidate, [{num_candidates}]"
    _check.floating(name, fitness, expected=f"a floating-point tensor [{num_candidates}]")
    if fitness.shape != (num_candidates,):
        _check.fail(ValueError, name, expected, list(fitness.shape), "average the episodes of a candidate first")
    example = tree.map(lambda x: x.expand(num_candidates, *x.shape), params)
    tree.check_like(candidates, example, f"{what}: candidates", "those of ask")
    matrix = rows(candidates)
    return matrix, finite(fitness).to(matrix.dtype)


def finite(fitness: torch.Tensor) -> torch.Tensor:
    """Return the fitness [N] with the least finite one in the place of NaN and infinities; 0 if none is finite."""
    good = fitness.isfinite()
    least = torch.where(good, fitness, torch.inf).amin()
    return torch.where(good, fitness, torch.where(good.any(), least, 0.0))


def by_rank(fitness: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return for each of N candidates the entry of a table [N] at its rank, where rank 0 is the best; equals share the mean of theirs."""
    cost = -fitness
    ordered = cost.sort().values.contiguous()
    first, last = (torch.searchsorted(ordered, cost.contiguous(), right=right) for right in (False, True))
    total = torch.cat([torch.zeros_like(table[:1]), table.cumsum(0)])
    return (total[last] - total[first]) / (last - first)


def centered_ranks(fitness: torch.Tensor) -> torch.Tensor:
    r"""Shape fitness by ranks: evenly spaced from -1/2 for the worst to 1/2 for the best; equal candidates share their mean.

    .. math:: u_i = \frac{\mathrm{rank}_i}{N - 1} - \frac12

    Args:
        fitness: floating point [N], N >= 2.

    Returns:
        Floating point [N] of mean 0.

    Example:
        >>> import torch
        >>> centered_ranks(torch.tensor([3.0, -100.0, 5.0, 3.0]))
        tensor([ 0.0000, -0.5000,  0.5000,  0.0000])

    Reference: T. Salimans, J. Ho, X. Chen, S. Sidor, I. Sutskever, "Evolution Strategies as a Scalable Alternative to Reinforcement
        Learning", 2017, arXiv:1703.03864. Deviation: candidates of equal fitness do not get different ranks.
    """
    _check.floating("centered_ranks: fitness", fitness, shape=("N",))
    return by_rank(fitness, torch.linspace(0.5, -0.5, fitness.shape[0], dtype=fitness.dtype, device=fitness.device))


def standardized(fitness: torch.Tensor) -> torch.Tensor:
    """Shape fitness to mean 0 and standard deviation 1; equal fitness gives 0.

    Args:
        fitness: floating point [N].

    Returns:
        Floating point [N].

    Example:
        >>> import torch
        >>> standardized(torch.tensor([1.0, 3.0]))
        tensor([-1.,  1.])
    """
    _check.floating("standardized: fitness", fitness, shape=("N",))
    centred = fitness - fitness.mean()
    return centred / (centred.square().mean().sqrt() + 1e-8)


def around_mean(
    what: str, kind: type, num_candidates: int, sigma: Number, first: Callable[..., Any], draw: Callable[..., Any], move: Callable[..., Any]
) -> Strategy:
    """Make a strategy of candidates around a mean, ``state.mean``, with which it acts.

    Args:
        what: the name of the strategy, for messages.
        kind: the class of its state.
        num_candidates: N, already checked.
        sigma: the standard deviation, above 0.
        first: ``first(mean, vector) -> state``, from the parameters where the search begins, also as a vector [D].
        draw: ``draw(key, state, vector) -> [N, D]``, candidates.
        move: ``move(state, vector, candidates [N, D], fitness [N]) -> state``.
    """
    _check.number(f"{what}: sigma", sigma, "(0, inf)", tensor=True)

    def init(key: torch.Tensor, params: Any) -> Any:
        mean = start(what, params)
        return first(mean, tree.ravel(mean)[0])

    def ask(key: torch.Tensor, state: Any) -> tuple[Any, Any]:
        return like_rows(draw(key, state, tree.ravel(state.mean)[0]), state.mean), state

    def tell(state: Any, candidates: Any, fitness: torch.Tensor) -> Any:
        matrix, fitness = checked(what, state.mean, candidates, fitness, num_candidates)
        return move(state, tree.ravel(state.mean)[0], matrix, fitness)

    return guarded(what, kind, init, ask, tell, lambda state: state.mean)
