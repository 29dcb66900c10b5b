"""Populations: agents of one algorithm, with keys and hyperparameters of their own, as pure functions."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from funrl import _check, random, tree
from funrl.algos import Algorithm, State
from funrl.populations import _spaces
from funrl.populations._hparams import begin, check_algo, check_names, check_values


@tree.dataclass
class PopulationState(tree.Replaceable):
    """The state of a population: one tree.

    Attributes:
        agents: :class:`funrl.algos.State` of all agents, leaves [K, ...].
        memory: the memory of its exchange between agents, such as their scores; () without one.
    """

    agents: State
    memory: Any = ()


class Exchange(NamedTuple):
    """The exchange of agents after an update, in population-based training.

    Attributes:
        init: ``init(agents) -> memory``.
        move: ``move(keys, agents, memory, metrics) -> (agents, memory, metrics)``: after each update, with a key for each agent [K].
    """

    init: Callable[[State], Any]
    move: Callable[[torch.Tensor, State, Any, dict[str, torch.Tensor]], tuple[State, Any, dict[str, torch.Tensor]]]


class Population(NamedTuple):
    """K agents of one algorithm, as pure functions. :func:`seeds`, :func:`sweep` and :func:`pbt` make one, :func:`run` trains it.

    Attributes:
        algo: the algorithm.
        num_agents: K.
        draw: ``draw(key) -> hparams``: the first hyperparameters, a dict of float64 [K] by name.
        num_seeds: the number of consecutive agents with the same hyperparameters.
        exchange: an :class:`Exchange` between agents after each update; None: the agents are independent.
        settings: the arguments with which the population was made, for ``config.json``.
    """

    algo: Algorithm
    num_agents: int
    draw: Callable[[torch.Tensor], dict[str, torch.Tensor]]
    num_seeds: int = 1
    exchange: Exchange | None = None
    settings: Mapping[str, Any] = MappingProxyType({})

    def init(self, key: torch.Tensor) -> PopulationState:
        """Return the first state: agent k has the key ``split(key, K)[k]``, and the k-th of the hyperparameters of the key.

        Args:
            key: int64 [].
        """
        agents = begin(self.algo, random.split(key, self.num_agents), first_hparams(self, key))
        return PopulationState(agents, () if self.exchange is None else self.exchange.init(agents))

    def step(self, key: torch.Tensor, state: PopulationState) -> tuple[PopulationState, dict[str, torch.Tensor]]:
        """Update all agents, then exchange parameters if there is an exchange: one program by ``funrl.compile(population.step)``.

        Args:
            key: int64 []; agent k steps with ``split(key, K)[k]``.
            state: the state.

        Returns:
            The new state, and the metrics, a dict of tensors [K].
        """
        _check.instance("Population.step: state", state, PopulationState, "population.init(key) returns the first one")
        return advance(self.algo, self.exchange, random.split(key, self.num_agents), state)


def advance(
    algo: Algorithm, exchange: Exchange | None, keys: torch.Tensor, state: PopulationState
) -> tuple[PopulationState, dict[str, torch.Tensor]]:
    """Update all agents, agent k with ``keys[k]``, then exchange their parameters if the population has an exchange."""
    agents, metrics = torch.func.vmap(check_algo("advance", algo).step)(keys, state.agents)
    memory = state.memory
    if exchange is not None:
        agents, memory, metrics = exchange.move(torch.func.vmap(lambda k: random.fold_in(k, -5))(keys), agents, memory, metrics)
    return PopulationState(agents, memory), metrics


def first_hparams(population: Population, key: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the first hyperparameters of a run with this key, float64 [K] by name."""
    return _check.instance("first_hparams: population", population, Population).draw(random.fold_in(key, -4))


def seeds(algo: Algorithm, n: int) -> Population:
    """Return a population of n agents that differ in their keys only.

    Args:
        algo: the algorithm.
        n: K >= 1.

    Returns:
        A :class:`Population`.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.a2c.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=4)
        >>> population = seeds(algo, 3)
        >>> state, metrics = population.step(random.key(1), population.init(random.key(0)))
        >>> metrics["steps"]
        tensor([8, 8, 8])
    """
    check_names("seeds", algo, ())
    _check_size("seeds", n, 1)
    return Population(algo, n, lambda key: {}, n, settings={"kind": "seeds"})


def sweep(algo: Algorithm, space: Mapping[str, Any], n: int, *, method: str = "random", num_seeds: int = 1) -> Population:
    """Return a population of n agents whose hyperparameters are spread over a space.

    Args:
        algo: the algorithm.
        space: for each hyperparameter :func:`log_uniform`, :func:`uniform`, or a list of choices. Static fields, such as
            ``num_epochs``, need a program for each value: see :func:`by_value`.
        n: K >= 1, the number of agents in all.
        method: ``"random"`` draws each configuration independently. ``"sobol"`` spreads them evenly, as a Sobol sequence that is shifted by
            a random vector; its balance is best at powers of 2. ``"grid"`` takes all combinations, with the same number of points from each
            range, both ends included; it uses no random numbers.
        num_seeds: S >= 1, the number of agents of each configuration, with different keys; divides n. Configuration c is that of the agents
            c S to c S + S - 1.

    Returns:
        A :class:`Population`.

    Raises:
        ValueError: if a hyperparameter is unknown or static, its space empty or out of the algorithm's range, or another argument out of
            its range.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"))
        >>> population = sweep(algo, {"learning_rate": _spaces.log_uniform(1e-4, 1e-2), "gamma": [0.95, 0.99]}, 4, method="grid")
        >>> population.draw(random.key(0))
        {'learning_rate': tensor([0.0001, 0.0001, 0.0100, 0.0100], dtype=torch.float64),
         'gamma': tensor([0.9500, 0.9900, 0.9500, 0.9900], dtype=torch.float64)}
        >>> sweep(algo, {"num_epochs": [2, 4]}, 2)
        Traceback (most recent call last):
        ...
        ValueError: sweep: num_epochs is a static field of PPOConfig: it decides the shapes or the operators of the program, ...

    Reference: J. Bergstra, Y. Bengio, "Random search for hyper-parameter optimization", 2012; the shift of the sequence: R. Cranley,
        T. Patterson, "Randomization of number theoretic methods for multiple integration", 1976.
    """
    checked = checked_space("sweep", algo, space)
    _check_size("sweep", n, num_seeds)
    if method not in _spaces.METHODS:
        raise ValueError(f"sweep: method: expected one of {', '.join(map(repr, _spaces.METHODS))}, got {method!r}")
    count = n // num_seeds
    if method == "grid":
        _spaces.grid("sweep", checked, count)

    def draw(key: torch.Tensor) -> dict[str, torch.Tensor]:
        if method == "grid":
            points = {name: x.to(key.device) for name, x in _spaces.grid("sweep", checked, count).items()}
        else:
            points = (_spaces.sobol if method == "sobol" else _spaces.random_points)(key, checked, count)
        return {name: x.repeat_interleave(num_seeds) for name, x in points.items()}

    settings = {"kind": "sweep", "space": described(checked), "method": method, "num_seeds": num_seeds}
    return Population(algo, n, draw, num_seeds, settings=settings)


def checked_space(what: str, algo: Algorithm, space: Any) -> dict[str, _spaces.Space]:
    """Return a space whose names and values the algorithm takes."""
    checked = _spaces.check_space(what, space)
    check_names(what, algo, checked)
    ends = {name: (one.low, one.high) if isinstance(one, _spaces.Range) else tuple(one) for name, one in checked.items()}
    check_values(what, algo, ends)
    return checked


def described(space: Mapping[str, _spaces.Space]) -> dict[str, Any]:
    """Return a space as ``config.json`` shows it."""
    return {
        name: f"{'log_uniform' if one.log else 'uniform'}({one.low!r}, {one.high!r})"
        if isinstance(one, _spaces.Range)
        else [str(x) if x in (float("inf"), float("-inf")) else x for x in one]
        for name, one in space.items()
    }


def _check_size(what: str, n: Any, num_seeds: Any) -> None:
    for name, x in (("n", n), ("num_seeds", num_seeds)):
        _check.integer(f"{what}: {name}", x, 1)
    if n % num_seeds:
        raise ValueError(f"{what}: n: expected a multiple of num_seeds, {num_seeds}, as n counts all agents, got {n}")
