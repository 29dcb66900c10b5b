"""Optuna's samplers over populations: it proposes a batch of configurations, which one program trains."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from funrl import _check, random
from funrl.algos import Algorithm
from funrl.populations._population import Population, checked_space, described
from funrl.populations._run import chunks_of, programs, table_of, train_chunk
from funrl.populations._spaces import Range
from funrl.populations._table import Table, join


def optuna_search(
    study: Any,
    algo: Algorithm,
    space: Mapping[str, Any],
    key: torch.Tensor,
    total_steps: int,
    *,
    num_trials: int = 64,
    batch: int = 16,
    num_seeds: int = 1,
    threads: int = 1,
    backend: str = "auto",
) -> Table:
    """Search a space with an Optuna study: ask for a batch of trials, train them as one program, report their scores, and repeat.

    A trial's value is the mean score of its agents (the last tenth of their returns), which the study maximises; a trial with an agent that
    diverged, or that has no score, is reported as failed. Round i has the key ``fold_in(key, i)``.

    Args:
        study: an ``optuna.Study`` of one objective, with ``direction="maximize"``. Its sampler has a seed of its own.
        algo: the algorithm.
        space: as for :func:`sweep`.
        key: int64 [].
        total_steps: environment steps of each agent.
        num_trials: trials in all; a multiple of ``batch``, so that one program trains each round.
        batch: the number of trials that are asked for at once.
        num_seeds: agents of each trial.
        threads: as for :func:`funrl.compile`.
        backend: as for :func:`funrl.compile`.

    Returns:
        A :class:`Table` of all agents, with ``trial`` in its notes, the number of the study's trial.

    Raises:
        ImportError: if optuna is missing (the extra ``optuna``).
        ValueError: if the study minimises or has several objectives, or another argument is out of its range.

    Example:
        >>> import optuna, funrl
        >>> from funrl import populations
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
        >>> algo = funrl.algos.a2c.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=64)
        >>> space = {"learning_rate": populations.log_uniform(1e-4, 1e-2)}
        >>> table = optuna_search(study, algo, space, random.key(0), 256, num_trials=4, batch=2, backend="eager")
        >>> table.notes["trial"], len(study.trials)
        (array([0, 1, 2, 3]), 4)

    Reference: T. Akiba, S. Sano, T. Yanase, T. Ohta, M. Koyama, "Optuna: a next-generation hyperparameter optimization framework", 2019,
        arXiv:1907.10902.
    """
    try:
        import optuna
    except ImportError:
        raise ImportError('optuna_search needs optuna; install it with: pip install "funrl[optuna]"') from None
    checked = checked_space("optuna_search", algo, space)
    _check.instance("optuna_search: study", study, optuna.Study, "optuna.create_study makes one", "an optuna.Study")
    if [x.name for x in study.directions] != ["MAXIMIZE"]:
        got = ", ".join(x.name for x in study.directions)
        raise ValueError(f'optuna_search: study: expected one objective to maximize, got {got}; create_study(direction="maximize")')
    for name, value in (("num_trials", num_trials), ("batch", batch), ("num_seeds", num_seeds)):
        _check.integer(f"optuna_search: {name}", value, 1)
    if num_trials % batch:
        raise ValueError(f"optuna_search: num_trials: expected a multiple of batch, {batch}, got {num_trials}")
    program, tables, numbers = programs(threads, backend), [], []
    for turn in range(num_trials // batch):
        trials = [study.ask() for _ in range(batch)]
        asked = [{name: _suggest(trial, name, one) for name, one in checked.items()} for trial in trials]
        points = {name: torch.tensor([one[name] for one in asked], dtype=torch.float64) for name in checked}

        def draw(key: torch.Tensor, points: dict[str, torch.Tensor] = points) -> dict[str, torch.Tensor]:
            return {name: x.to(key.device).repeat_interleave(num_seeds) for name, x in points.items()}

        settings = {"kind": "optuna", "space": described(checked)}
        population = Population(algo, batch * num_seeds, draw, num_seeds, settings=settings)
        (piece,) = chunks_of([population], random.fold_in(key, turn), batch * num_seeds)
        _, records = train_chunk(piece, None, range(1, total_steps // algo.steps_per_update + 1), program(algo, None))
        table = table_of([piece], [records])
        for trial, score in zip(trials, table.scores.reshape(batch, num_seeds).mean(1).tolist(), strict=True):
            if np.isnan(score):
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, score)
        tables.append(table)
        numbers += [trial.number for trial in trials for _ in range(num_seeds)]
    table = join([(t.hparams, t.keys, t.steps, t.curves, t.diverged) for t in tables])
    return table._replace(notes={"trial": np.array(numbers)})


def _suggest(trial: Any, name: str, space: Any) -> float:
    if isinstance(space, Range):
        return trial.suggest_float(name, space.low, space.high, log=space.log)
    return trial.suggest_categorical(name, list(space))
