"""Offline reinforcement learning: learners from data sets, each ``make(env, dataset, **config)``, and their evaluation.

A step of such an :class:`funrl.algos.Algorithm` draws batches from the data and takes gradient steps on them; it compiles, and vmaps over
agents, which share one copy of the data. :mod:`funrl.offline.datasets` reads, records and writes data.
"""

import dataclasses
from typing import Any

from funrl import _check
from funrl.algos import Algorithm, environment
from funrl.env import AnyEnv, VectorEnv
from funrl.offline import awac, bc, cql, datasets, decision_transformer, edac, filtered_bc, iql, rebrac, rlpd, sac_n, td3_bc
from funrl.offline._evaluation import REFERENCE_SCORES, fitted_q_evaluation, normalized_score, tuning_curve
from funrl.offline._online import OnlineConfig, hand_over, mixed_buffer
from funrl.offline._skeleton import OfflineConfig
from funrl.offline.datasets import Dataset

__all__ = [
    "REFERENCE_SCORES",
    "Dataset",
    "OfflineConfig",
    "OnlineConfig",
    "awac",
    "bc",
    "cql",
    "datasets",
    "decision_transformer",
    "defaults",
    "edac",
    "filtered_bc",
    "fitted_q_evaluation",
    "hand_over",
    "iql",
    "make",
    "mixed_buffer",
    "names",
    "normalized_score",
    "rebrac",
    "rlpd",
    "sac_n",
    "td3_bc",
    "tuning_curve",
]

_ALGORITHMS = {
    "awac": (awac.make, awac.AWACConfig),
    "awac_online": (awac.online, awac.AWACOnlineConfig),
    "bc": (bc.make, bc.BCConfig),
    "cql": (cql.make, cql.CQLConfig),
    "cql_online": (cql.online, cql.CQLOnlineConfig),
    "decision_transformer": (decision_transformer.make, decision_transformer.DTConfig),
    "edac": (edac.make, edac.EDACConfig),
    "filtered_bc": (filtered_bc.make, filtered_bc.FilteredBCConfig),
    "iql": (iql.make, iql.IQLConfig),
    "iql_online": (iql.online, iql.IQLOnlineConfig),
    "rebrac": (rebrac.make, rebrac.ReBRACConfig),
    "rlpd": (rlpd.make, rlpd.RLPDConfig),
    "sac_n": (sac_n.make, sac_n.SACNConfig),
    "td3_bc": (td3_bc.make, td3_bc.TD3BCConfig),
}


def names() -> list[str]:
    """Return the names that :func:`make` knows. Only ``rlpd`` and ``..._online`` act in an environment.

    Example:
        >>> names()[:4]
        ['awac', 'awac_online', 'bc', 'cql']
    """
    return list(_ALGORITHMS)


def defaults(name: str) -> dict[str, Any]:
    """Return the options of a learner with their default values.

    Args:
        name: one of :func:`names`.

    Raises:
        ValueError: if there is no learner of that name; the nearest names are offered.

    Example:
        >>> defaults("iql")["expectile"]
        0.7
    """
    return {field.name: field.default for field in dataclasses.fields(_find(name)[1])}


def make(name: str, env: AnyEnv | str | tuple[Any, Any], dataset: Any, **options: Any) -> Algorithm:
    """Make the learner called ``name`` for a data set.

    Args:
        name: one of :func:`names`.
        env: the environment of the data, its name for :func:`funrl.envs.make`, or the pair of its spaces. A host environment that is named
            gets ``num_envs`` copies, or 8 for evaluation.
        dataset: a :class:`Dataset` or :class:`funrl.offline.datasets.Stream`; None: the learner only acts.
        **options: fields of its configuration, which :func:`defaults` lists; and parts of your own, as for the ``make`` of each learner.

    Raises:
        ValueError: if there is no learner of that name (the nearest names are offered), or an option is unknown, out of its range, or does
            not fit the data.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> make("iql", funrl.envs.make("Pendulum-v1"), None, expectile=0.9).config.expectile
        0.9
        >>> make("iq", funrl.envs.make("Pendulum-v1"), None)
        Traceback (most recent call last):
        ...
        ValueError: offline.make: name: no learner is called 'iq'; did you mean iql?
    """
    learner, _ = _find(name)
    env = environment(env, options.get("num_envs", defaults(name).get("num_envs", 8)))
    if isinstance(env, VectorEnv) and "num_envs" in defaults(name):
        options = {"num_envs": env.num_envs, **options}
    return learner(env, dataset, **options)


def _find(name: str) -> tuple[Any, Any]:
    _check.instance("offline.make: name", name, str, f"the learners are {', '.join(_ALGORITHMS)}", "a name")
    if name not in _ALGORITHMS:
        raise ValueError(f"offline.make: name: no learner is called {name!r}; {_check.nearest(name, _ALGORITHMS)}")
    return _ALGORITHMS[name]
