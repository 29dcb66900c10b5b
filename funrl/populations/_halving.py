"""Successive halving and Hyperband: the agents that do badly are stopped early, and the others train on."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from funrl import _check, random, tree
from funrl.algos import Algorithm
from funrl.populations._population import Population, sweep
from funrl.populations._run import Chunk, chunk_size, chunks_of, programs, train_chunk
from funrl.populations._table import Table, final_scores, join


def successive_halving(
    population: Population,
    key: torch.Tensor,
    total_steps: int,
    *,
    eta: int = 3,
    num_rungs: int | None = None,
    threads: int = 1,
    backend: str = "auto",
) -> Table:
    r"""Train all agents for a few steps, the best :math:`1/\eta` of the configurations for :math:`\eta` times as many, and so on.

    .. math:: n_i = \lfloor n \eta^{-i} \rfloor, \quad r_i = R \, \eta^{i - s}, \quad i = 0, \dots, s

    Configurations are ranked by the mean score of their agents (the last tenth of their returns so far; a diverged agent ranks last). The
    remaining agents continue from their states with the same keys, so a finished agent equals the one that :func:`run` trains, up to the
    rounding of programs of different sizes. Each rung is a program of its own size.

    Args:
        population: of :func:`sweep`; its agents do not exchange anything.
        key: int64 [].
        total_steps: R, environment steps of an agent that is never stopped.
        eta: at least 2.
        num_rungs: s + 1; None: as many as leave at least one configuration and one update.
        threads: as for :func:`funrl.compile`.
        backend: as for :func:`funrl.compile`.

    Returns:
        A :class:`Table` with ``num_updates`` in its notes, the updates of each agent; curves are NaN beyond them.

    Raises:
        ValueError: if an argument is out of its range, the first rung has no update, or not even one agent fits into the memory.

    Example:
        >>> import funrl
        >>> from funrl import populations
        >>> algo = funrl.algos.a2c.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> rates = populations.sweep(algo, {"learning_rate": populations.log_uniform(1e-4, 1e-2)}, 4)
        >>> successive_halving(rates, random.key(0), 64, eta=2, backend="eager").notes["num_updates"].tolist().count(4)
        1

    Reference: K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", 2015, arXiv:1502.07943.
    """
    if not isinstance(population, Population) or population.exchange is not None:
        raise ValueError("successive_halving: population: expected one whose agents do not exchange anything; sweep makes one")
    _check.integer("successive_halving: eta", eta, 2)
    _check.integer("successive_halving: total_steps", total_steps, 1)
    updates = total_steps // population.algo.steps_per_update
    configurations = population.num_agents // population.num_seeds
    most = next(n for n in itertools.count(1) if eta**n > min(configurations, max(updates, 1)))
    num_rungs = most if num_rungs is None else num_rungs
    if updates < 1 or not isinstance(num_rungs, int) or not 1 <= num_rungs <= most:
        raise ValueError(
            f"successive_halving: num_rungs: {configurations} configurations and {updates} updates allow 1 to {most} rungs of eta {eta}, "
            f"got {num_rungs!r}; take more agents or more steps"
        )
    size = chunk_size([population], population.num_agents, key.device)
    (piece,) = chunks_of([population], key, size)
    program = programs(threads, backend)(piece.algo, None)
    curves, diverged = np.full((population.num_agents, updates), np.nan), np.zeros(population.num_agents, dtype=np.int64)
    going, state, done = np.arange(population.num_agents), None, 0
    ran = np.zeros(population.num_agents, dtype=np.int64)
    for rung in range(num_rungs):
        end = updates if rung == num_rungs - 1 else max(1, updates // eta ** (num_rungs - 1 - rung))
        state, records = train_chunk(_some(piece, going), state, range(done + 1, end + 1), program)
        curves[going, done:end] = records.curves.T
        new = np.where(records.diverged > 0, records.diverged + done, 0)
        diverged[going] = np.where(diverged[going] > 0, diverged[going], new)
        ran[going], done = end, end
        if rung < num_rungs - 1:
            keep = _best(final_scores(curves[going], diverged[going]), population.num_seeds, max(1, configurations // eta ** (rung + 1)))
            going, state = going[keep], tree.index(state, torch.from_numpy(keep).to(key.device))
    hparams = {name: x.cpu().numpy() for name, x in piece.hparams.items()}
    steps = np.arange(1, updates + 1) * population.algo.steps_per_update
    return join([(hparams, piece.keys.cpu().numpy(), steps, curves, diverged)])._replace(notes={"num_updates": ran})


def hyperband(
    algo: Algorithm,
    space: Mapping[str, Any],
    key: torch.Tensor,
    total_steps: int,
    *,
    eta: int = 3,
    num_brackets: int = 3,
    num_seeds: int = 1,
    method: str = "random",
    threads: int = 1,
    backend: str = "auto",
) -> Table:
    r"""Search a space by several runs of successive halving, from many agents that are stopped early to few agents that are not.

    .. math:: n_s = \left\lceil \frac{s_{\max} + 1}{s + 1} \eta^s \right\rceil, \quad s = s_{\max}, \dots, 0

    Bracket s is :func:`successive_halving` of :math:`n_s` configurations with s + 1 rungs, and the key ``fold_in(key, s)``.

    Args:
        algo: the algorithm.
        space: as for :func:`sweep`.
        key: int64 [].
        total_steps: R, environment steps of an agent that is never stopped; at least eta^s_max updates.
        eta: at least 2.
        num_brackets: s_max + 1, at least 1.
        num_seeds: agents of each configuration.
        method: ``"random"`` or ``"sobol"``, as for :func:`sweep`.
        threads: as for :func:`funrl.compile`.
        backend: as for :func:`funrl.compile`.

    Returns:
        A :class:`Table` of all brackets, with ``num_updates`` and ``bracket`` in its notes.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import funrl
        >>> from funrl import populations
        >>> algo = funrl.algos.a2c.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> space = {"learning_rate": populations.log_uniform(1e-4, 1e-2)}
        >>> hyperband(algo, space, random.key(0), 32, eta=2, num_brackets=2, backend="eager").notes["bracket"]
        array([1, 1, 0, 0])

    Reference: L. Li, K. Jamieson, G. DeSalvo, A. Rostamizadeh, A. Talwalkar, "Hyperband: a novel bandit-based approach to hyperparameter
        optimization", 2016, arXiv:1603.06560.
    """
    for name, value, low in (("eta", eta, 2), ("num_brackets", num_brackets, 1), ("num_seeds", num_seeds, 1)):
        _check.integer(f"hyperband: {name}", value, low)
    if method == "grid":
        raise ValueError("hyperband: method: expected 'random' or 'sobol', as the brackets have other sizes, got 'grid'")
    tables = []
    for s in reversed(range(num_brackets)):
        count = -(-num_brackets * eta**s // (s + 1))
        population = sweep(algo, space, count * num_seeds, method=method, num_seeds=num_seeds)
        options = {"eta": eta, "num_rungs": s + 1, "threads": threads, "backend": backend}
        tables.append((s, successive_halving(population, random.fold_in(key, s), total_steps, **options)))
    table = join([(t.hparams, t.keys, t.steps, t.curves, t.diverged) for _, t in tables])
    ran = np.concatenate([t.notes["num_updates"] for _, t in tables])
    return table._replace(notes={"num_updates": ran, "bracket": np.concatenate([np.full(len(t.keys), s) for s, t in tables])})


def _best(scores: np.ndarray, num_seeds: int, count: int) -> np.ndarray:
    """Return the agents, in order, of the ``count`` configurations with the highest mean scores."""
    means = np.where(np.isnan(scores), -math.inf, scores).reshape(-1, num_seeds).mean(1)
    chosen = np.sort(np.argsort(-means, kind="stable")[:count])
    return (chosen[:, None] * num_seeds + np.arange(num_seeds)).flatten()


def _some(piece: Chunk, agents: np.ndarray) -> Chunk:
    index = torch.from_numpy(agents).to(piece.keys.device)
    return piece._replace(keys=piece.keys[index], hparams={name: x[index] for name, x in piece.hparams.items()})
