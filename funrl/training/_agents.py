"""Several agents trained at once: their keys, functions mapped over all of them, and their evaluation."""

import math
from collections.abc import Callable, Mapping, Sized
from typing import Any, NamedTuple

import torch

from funrl import random, tree
from funrl.acting import Evaluation, evaluate
from funrl.algos import Algorithm
from funrl.compiler import compile
from funrl.env import VectorEnv, on_host
from funrl.populations import Exchange, Population, begin, check_hparams, first_hparams, first_state
from funrl.runs import checking

# Evaluations of more steps than this are compiled.
_MANY_STEPS = 1_000


def agent_keys(key: torch.Tensor, num_agents: int) -> torch.Tensor:
    """Return the keys [K] of K agents, or the key [] of a single one, from one key, or from the agents' own keys [K].

    Example:
        >>> bool(agent_keys(random.key(0), 1) == agent_keys(random.key(0), 3)[0])
        True
    """
    keys = key if key.ndim else random.split(key, num_agents)
    return keys if num_agents > 1 else keys[0]


class Agents(NamedTuple):
    """The agents of a run, whose hyperparameters may differ.

    Attributes:
        num_agents: K.
        hparams: the first hyperparameters, float64 [K] by name.
        exchange: the :class:`~funrl.populations.Exchange` after an update; None: none.
        notes: entries for ``config.json``.
    """

    num_agents: int
    hparams: dict[str, torch.Tensor]
    exchange: Exchange | None
    notes: dict[str, Any]

    def columns(self) -> dict[str, list[float]]:
        """Return the columns of ``metrics.csv`` for the hyperparameters."""
        return {f"hparams.{name}": x.tolist() for name, x in self.hparams.items()}

    def begin(self, algo: Algorithm, keys: torch.Tensor) -> Any:
        """Return their first state, leaves [K, ...], or that of a single one."""
        if self.num_agents > 1:
            return begin(algo, keys, self.hparams)
        return tree.map(torch.clone, first_state(algo, keys, {name: x[0] for name, x in self.hparams.items()}))


def gathered(
    algo: Algorithm, key: torch.Tensor, num_agents: int | None, hparams: Any, population: Any, before: Mapping[str, Any] | None
) -> Agents:
    """Return the agents that the arguments of ``train`` describe; a resumed run has the hyperparameters of ``before``, its ``config.json``.

    Raises:
        RunError: if the arguments do not agree, or a hyperparameter is unknown, static or out of its range.
    """
    sizes = {"num_agents": num_agents, "key": key.shape[0] if key.ndim else None}
    exchange: Exchange | None = None
    settings: dict[str, Any] = {}
    with checking("train: "):
        if population is not None:
            if not isinstance(population, Population) or population.algo is not algo:
                got = f"one of {population.algo.name}" if isinstance(population, Population) else type(population).__name__
                raise ValueError(f"population: expected a Population of the same algorithm, got {got}; funrl.populations.pbt makes one")
            if hparams is not None or key.ndim:
                raise ValueError(
                    "population: it draws the hyperparameters and the agents' keys from one key; leave hparams and other keys out"
                )
            sizes["population"] = population.num_agents
            hparams, exchange, settings = first_hparams(population, key), population.exchange, {"population": dict(population.settings)}
        elif hparams is None and before is not None and "hparams" in before:
            if "population" in before:
                raise ValueError(f"population: the run has one, {before['population']}; resume it with the same")
            hparams = {name: torch.tensor([float(x) for x in values], dtype=torch.float64) for name, values in before["hparams"].items()}
        if hparams:
            sizes |= {f"hparams: {name}": len(x) for name, x in hparams.items() if isinstance(x, Sized)}
        given = {name: size for name, size in sizes.items() if size is not None}
        if len(set(given.values())) > 1:
            raise ValueError(f"expected one number of agents, got {', '.join(f'{size} by {name}' for name, size in given.items())}")
        count = next(iter(given.values()), 1)
        values = {} if hparams is None else check_hparams("hparams", algo, hparams, count)
    if values:
        listed = {name: [x if math.isfinite(x) else str(x) for x in some.tolist()] for name, some in values.items()}
        settings["hparams"] = listed
    if key.ndim:
        settings["keys"] = key.tolist()
    return Agents(count, {name: x.to(key.device) for name, x in values.items()}, exchange, settings)


def over_agents(f: Any, num_agents: int, in_dims: Any = 0) -> Any:
    """Return a function of one agent as a function of all agents.

    Example:
        >>> over_agents(lambda x: x.sum(), 2)(torch.ones(2, 3)), over_agents(lambda x: x.sum(), 1)(torch.ones(3))
        (tensor([3., 3.]), tensor(3.))
    """
    return torch.func.vmap(f, in_dims) if num_agents > 1 else f


def player(algo: Algorithm, num_episodes: int, num_agents: int) -> Callable[[Any, torch.Tensor], Evaluation]:
    """Return a function ``play(state, key)`` that evaluates as :func:`evaluate_agents` does, and compiles at most once over all calls.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> player(algo, 5, 1)(algo.init(random.key(0)), random.key(1)).finished
        tensor([True, True, True, True, True])
    """

    def play(params: Any, k: torch.Tensor, env_params: Any) -> Evaluation:
        return evaluate(params, random.fold_in(k, -1), env_params, env=algo.env, act=algo.greedy, num_episodes=num_episodes)

    play_all = _one_by_one(play, num_agents) if on_host(algo.env) else over_agents(play, num_agents)
    rounds = math.ceil(num_episodes / algo.env.num_envs) if isinstance(algo.env, VectorEnv) else 1
    if rounds * algo.env.max_episode_steps > _MANY_STEPS and not on_host(algo.env):
        play_all = compile(play_all)
    return lambda state, key: play_all(state.learner.params, agent_keys(key, num_agents), _params_of(algo, state, key, num_agents))


def _one_by_one(play: Any, num_agents: int) -> Any:
    """Return a function over agents that calls ``play`` for one after another, as an environment on the host cannot be vmapped."""
    if num_agents == 1:
        return play

    def play_all(params: Any, keys: torch.Tensor, env_params: Any) -> Evaluation:
        return tree.stack([play(*(tree.index(x, k) for x in (params, keys, env_params))) for k in range(num_agents)])

    return play_all


def evaluate_agents(algo: Algorithm, state: Any, key: torch.Tensor, num_episodes: int, *, num_agents: int = 1) -> Evaluation:
    """Evaluate each agent on whole episodes without exploration.

    The ``env_params`` are those that the agent learns with, from the state, not the environment's defaults.

    A few steps run eagerly, as a second or two of Python costs less than a compilation. More than a thousand steps, of one episode or of
    several one after another in the copies of a :class:`~funrl.env.VectorEnv`, are compiled.

    Args:
        algo: the algorithm.
        state: its state, leaves [K, ...] with K > 1 agents.
        key: a key [], or the agents' own keys [K]; agent k plays with a key that does not depend on K.
        num_episodes: N >= 1, the number of episodes of each agent.
        num_agents: K >= 1.

    Returns:
        An :class:`funrl.acting.Evaluation` with leaves [N] or [K, N].

    Raises:
        ValueError: if ``num_episodes`` is less than 1.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("Pendulum-v1"), num_envs=2, num_steps=8)
        >>> algo = algo._replace(env=algo.env._replace(max_episode_steps=10))
        >>> key = funrl.random.key(0)
        >>> evaluate_agents(algo, algo.init(key), key, 5).episode_return.shape
        torch.Size([5])
    """
    return player(algo, num_episodes, num_agents)(state, key)


def _params_of(algo: Algorithm, state: Any, key: torch.Tensor, num_agents: int) -> Any:
    """Return the ``env_params`` of the agents, or the defaults of ``env`` if it takes others, such as a separate one to evaluate in."""
    own = tree.to(algo.env.default_params, key.device)
    theirs = getattr(state.learner, "env_params", None)
    if tree.flatten(own)[1] == tree.flatten(theirs)[1]:
        return theirs
    return tree.map(lambda x: x.expand(num_agents, *x.shape), own) if num_agents > 1 else own
