"""The results of populations: one table with a row for each agent, and the check for divergence."""

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from funrl import _check
from funrl._files import write_atomic


class Table(NamedTuple):
    """Results of K agents as numpy arrays, with a row for each agent; ``pandas.DataFrame(table.columns())`` takes them.

    Attributes:
        hparams: [K] by name: the hyperparameters with which each agent began, and static fields in which their algorithms differ.
        keys: int64 [K], each agent's key: :func:`funrl.train` with it and these hyperparameters trains this agent alone.
        configuration: int64 [K], the same number for agents with the same hyperparameters.
        steps: int64 [U], environment steps of an agent after each update.
        curves: float64 [K, U], ``episode_return`` of each update; NaN where no episode ended, or the agent had been stopped.
        scores: float64 [K], the mean of the last tenth of a curve (without NaN); NaN if the agent diverged.
        diverged: int64 [K], the first update at which a loss was not finite; 0: none.
        history: further metrics [K, U] by name, such as ``parent`` and ``hparams.NAME`` of :func:`pbt`.
        notes: further columns [K] by name, such as ``num_updates`` of :func:`successive_halving`.
    """

    hparams: dict[str, np.ndarray]
    keys: np.ndarray
    configuration: np.ndarray
    steps: np.ndarray
    curves: np.ndarray
    scores: np.ndarray
    diverged: np.ndarray
    history: Mapping[str, np.ndarray] = MappingProxyType({})
    notes: Mapping[str, np.ndarray] = MappingProxyType({})

    def columns(self) -> dict[str, np.ndarray]:
        """Return all of it as columns [K]; the curve is ``return_at_STEPS`` of each update."""
        curve = {f"return_at_{steps}": self.curves[:, i] for i, steps in enumerate(self.steps.tolist())}
        agents = np.arange(len(self.keys))
        first = {"agent": agents, "configuration": self.configuration, **self.hparams, "key": self.keys}
        return {**first, "diverged": self.diverged, **self.notes, "score": self.scores, **curve}

    def best(self) -> dict[str, Any]:
        """Return the hyperparameters of the configuration with the best mean score over its agents; one that diverged counts as the worst.

        Raises:
            ValueError: if no agent has a score.
        """
        scores = np.where(np.isnan(self.scores), -np.inf, self.scores)
        if not np.isfinite(scores).any():
            raise ValueError(
                "best: no agent has a score, as all diverged or none finished an episode; train longer, or elsewhere in the space"
            )
        means = [scores[self.configuration == c].mean() for c in range(int(self.configuration.max()) + 1)]
        agent = int((self.configuration == int(np.argmax(means))).argmax())
        return {name: x[agent].item() for name, x in self.hparams.items()}

    def save(self, path: str | os.PathLike) -> None:
        """Write :meth:`columns` as a CSV file, atomically; :func:`read_table` reads it. The history is not in it."""
        _check.path("Table.save", path)
        columns = self.columns()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(x.tolist() for x in columns.values()), strict=True))
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(Path(path), lambda file: file.write(text.getvalue().encode()))


def read_table(path: str | os.PathLike) -> Table:
    """Read a CSV file that :meth:`Table.save` wrote.

    Args:
        path: the file.

    Returns:
        The :class:`Table`, with an empty ``history``.

    Raises:
        TypeError: if ``path`` is no path.
        ValueError: if it is no such file.
        OSError: if it cannot be read.

    Example:
        >>> import tempfile
        >>> table = join([({"gamma": [0.9, 0.99]}, [1, 2], [64, 128], np.array([[1.0, 2.0], [3.0, 4.0]]), [0, 0])])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table.save(f"{folder}/table.csv")
        ...     read_table(f"{folder}/table.csv").scores
        array([2., 4.])
    """
    _check.instance("read_table: path", path, (str, os.PathLike), "give the file that Table.save wrote", "a str or os.PathLike")
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    names = rows[0] if rows else []
    needed = ("agent", "configuration", "key", "diverged", "score")
    missing = [name for name in needed if name not in names]
    if missing or any(len(row) != len(names) for row in rows):
        what = f"a column {missing[0]!r}" if missing else "rows of one length"
        raise ValueError(f"{path}: expected {what}; give a file that Table.save wrote")
    columns = {name: _column([row[i] for row in rows[1:]]) for i, name in enumerate(names)}
    curve = [name for name in names if name.startswith("return_at_")]
    middle = names[names.index("diverged") + 1 : names.index("score")]
    return Table(
        {name: columns[name] for name in names[names.index("configuration") + 1 : names.index("key")]},
        columns["key"],
        columns["configuration"],
        np.array([int(name.removeprefix("return_at_")) for name in curve], dtype=np.int64),
        np.stack([columns[name].astype(np.float64) for name in curve], 1) if curve else np.zeros((len(rows) - 1, 0)),
        columns["score"].astype(np.float64),
        columns["diverged"],
        notes={name: columns[name] for name in middle},
    )


def _column(texts: list[str]) -> np.ndarray:
    for kind in (np.int64, np.float64):
        try:
            return np.array([kind(x) for x in texts], dtype=kind)
        except ValueError:
            pass
    return np.array(texts)


def join(parts: Iterable[tuple[Mapping[str, Any], Any, Any, np.ndarray, Any]]) -> Table:
    """Return the table of parts ``(hparams, keys, steps, curves [k, U], diverged)``, at the steps of the longest.

    Agents have the same configuration if their hyperparameters are the same.

    Raises:
        TypeError: if ``parts`` are not such tuples.
        ValueError: if there is none.

    Example:
        >>> parts = [({"gamma": [g]}, [0], [64, 128], np.array([[g, 2 * g]]), [0]) for g in (0.5, 1.0, 0.5)]
        >>> join(parts).configuration, join(parts).scores
        (array([0, 1, 0]), array([1., 2., 1.]))
    """
    given: Any = [parts] if isinstance(parts, torch.Tensor) else parts
    parts = list(_check.instance("join: parts", given, Iterable, "give a list of tuples (hparams, keys, steps, curves, diverged)"))
    _check.some("join: parts", parts, "part")
    for part in parts:
        _check.count("join: a part", _check.instance("join: a part", part, tuple), 5, "entries", "hparams, keys, steps, curves, diverged")
    steps = np.asarray(max((p[2] for p in parts), key=len), dtype=np.int64)
    names = list(dict.fromkeys(name for p in parts for name in p[0]))
    hparams = {name: np.concatenate([np.asarray(p[0][name]) for p in parts]) for name in names}
    curves = np.concatenate([_at(steps, np.asarray(p[2]), np.asarray(p[3], dtype=np.float64)) for p in parts])
    diverged = np.concatenate([np.asarray(p[4], dtype=np.int64) for p in parts])
    keys = np.concatenate([np.asarray(p[1], dtype=np.int64) for p in parts])
    seen: dict[Any, int] = {}
    number = [seen.setdefault(tuple(x[k].item() for x in hparams.values()), len(seen)) for k in range(len(keys))]
    scores = final_scores(curves, diverged)
    return Table(hparams, keys, np.array(number, dtype=np.int64), steps, curves, scores, diverged)


def _at(steps: np.ndarray, own: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Return curves [k, U] at other steps: each return is assigned to the first of ``steps`` that is not before its own; several returns at
    one step are averaged."""
    if len(own) == len(steps) and (own == steps).all():
        return curves
    place = np.minimum(np.searchsorted(steps, own), len(steps) - 1)
    out = np.full((len(curves), len(steps)), np.nan)
    for i in np.unique(place):
        some = curves[:, place == i]
        count = (~np.isnan(some)).sum(1)
        out[:, i] = np.where(count > 0, np.nansum(some, 1) / np.maximum(count, 1), np.nan)
    return out


def final_scores(curves: np.ndarray, diverged: np.ndarray) -> np.ndarray:
    """Return the mean of the last tenth of each curve [K, U], up to its last return; NaN if there is none, or the agent diverged."""
    scores = np.full(len(curves), np.nan)
    for k, curve in enumerate(curves):
        there = np.flatnonzero(~np.isnan(curve))
        if diverged[k] or not len(there):
            continue
        end = there[-1] + 1
        scores[k] = np.nanmean(curve[end - max(1, math.ceil(end / 10)) : end])
    return scores


def checked_metrics(names: Iterable[str]) -> list[str]:
    """Return the names of the metrics that are finite unless an agent has diverged.

    Example:
        >>> checked_metrics(["steps", "policy_loss", "entropy", "episode_return"])
        ['policy_loss', 'entropy']
    """
    others = ("entropy", "approximate_kl", "gradient_norm")
    given: Any = [names] if isinstance(names, torch.Tensor) else names
    known = list(_check.instance("checked_metrics: names", given, Iterable, "give the names of metrics", "a list of names"))
    return [name for name in (_check.strings("checked_metrics: names", known) if known else ()) if name.endswith("_loss") or name in others]


def not_finite(metrics: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return whether a loss is not finite [...], from metrics [...].

    The metrics are those called ``..._loss``, ``entropy``, ``approximate_kl`` and ``gradient_norm``.

    Args:
        metrics: tensors [...] by name.

    Raises:
        ValueError: if there are no metrics.

    Example:
        >>> not_finite({"policy_loss": torch.tensor([0.5, float("nan")]), "steps": torch.tensor([8, 8])})
        tensor([False,  True])
    """
    _check.some("not_finite: metrics", _check.instance("not_finite: metrics", metrics, Mapping, "give tensors by name", "a dict"), "metric")
    bad = torch.zeros_like(next(iter(metrics.values())), dtype=torch.bool)
    for name in checked_metrics(metrics):
        bad = bad | ~metrics[name].isfinite()
    return bad


def first_true(flags: Any) -> np.ndarray:
    """Return the number, from 1, of the first of [U, K] flags that is true for each of K agents; 0 if none."""
    table = np.asarray(flags, dtype=bool)
    return np.where(table.any(0), table.argmax(0) + 1, 0).astype(np.int64)
