"""Pictures of populations: returns over hyperparameters, curves of configurations, and comparisons in the way of rliable."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from funrl import random
from funrl.populations import Table
from funrl.record._aggregate import (
    bootstrap_interval,
    interquartile_mean,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)
from funrl.record._plots import draw_curve, figure_of, in_windows, name_axes, picture_path, save_figure


def score_matrix(tables: Mapping[str, Table], *, diverged: float | None = None) -> np.ndarray:
    """Return the scores [runs, tasks] of an algorithm from a table for each task, in the form that rliable and :func:`comparison` take.

    Args:
        tables: the table of each task, all with the same number of agents.
        diverged: the score of an agent that diverged or has none; None: an error if there is one.

    Raises:
        ValueError: if there are no tables, their numbers of agents differ, or an agent has no score.

    Example:
        >>> table = Table({}, *(np.zeros(2, int),) * 2, np.ones(1, int), np.ones((2, 1)), np.array([0.5, np.nan]), np.array([0, 1]))
        >>> score_matrix({"CartPole-v1": table}, diverged=0.0)
        array([[0.5],
               [0. ]])
    """
    counts = {name: len(table.scores) for name, table in tables.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"score_matrix: tables: expected as many agents in each, got {counts or 'none'}")
    scores = np.stack([table.scores for table in tables.values()], 1)
    lacking = np.isnan(scores)
    if lacking.any() and diverged is None:
        agent, task = np.argwhere(lacking)[0]
        raise ValueError(
            f"score_matrix: agent {agent} of {list(tables)[task]} has no score; say what it counts as, diverged=0.0, or leave it out"
        )
    return np.where(lacking, np.nan if diverged is None else diverged, scores)


def hyperparameters(table: Table, path: str | os.PathLike, *, title: str = "") -> None:
    """Draw the score of each agent over each hyperparameter, and all curves in the colours of the first one.

    An agent that diverged is a cross at the bottom. A hyperparameter whose values spread over more than a factor of 20 has a logarithmic
    axis.

    Args:
        table: a :class:`funrl.populations.Table`.
        path: the file, which ends in ``.png``, ``.svg`` or ``.pdf``.
        title: the title of the picture.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if the suffix is none of these.

    Example:
        >>> import tempfile
        >>> curves = np.array([[20.0, 30.0], [20.0, 90.0]])
        >>> agents, ends = np.arange(2), curves[:, 1]
        >>> table = Table({"gamma": np.array([0.9, 0.99])}, agents, agents, np.array([64, 128]), curves, ends, 0 * agents)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     hyperparameters(table, f"{folder}/sweep.png")
    """
    path = picture_path("hyperparameters", path)
    names = list(table.hparams)
    figure, axes = figure_of(1 + len(names), (4.2 * (1 + len(names)), 3.6))
    first = table.hparams[names[0]] if names else np.arange(len(table.keys))
    colours = _colours(first)
    for curve, colour in zip(table.curves, colours, strict=True):
        there = ~np.isnan(curve)
        axes[0].plot(table.steps[there], curve[there], color=colour, linewidth=0.8, alpha=0.7)
    axes[0].set(xlabel="environment steps of an agent", ylabel="episode return", title=title or "all agents")
    known = table.scores[~np.isnan(table.scores)]
    bottom = known.min() if len(known) else 0.0
    for ax, name in zip(axes[1:], names, strict=True):
        values, lost = table.hparams[name], np.isnan(table.scores)
        if not np.issubdtype(values.dtype, np.number):
            values = np.searchsorted(np.unique(values), values)
            ax.set_xticks(np.unique(values), np.unique(table.hparams[name]))
        ax.scatter(values[~lost], table.scores[~lost], c=[c for c, out in zip(colours, lost, strict=True) if not out], s=14)
        ax.scatter(values[lost], np.full(lost.sum(), bottom), color="red", marker="x", s=20, label="diverged" if lost.any() else None)
        if _is_log(values):
            ax.set_xscale("log")
        ax.set(xlabel=name, ylabel="score")
        if lost.any():
            ax.legend(frameon=False)
    save_figure(figure, path)


def configurations(
    key: torch.Tensor, table: Table, path: str | os.PathLike, *, most: int = 8, confidence: float = 0.95, title: str = ""
) -> None:
    """Draw the curve of each configuration: the interquartile mean over its agents, with a bootstrap interval.

    Args:
        key: a key []; the same key gives the same intervals.
        table: a :class:`funrl.populations.Table`.
        path: the file, which ends in ``.png``, ``.svg`` or ``.pdf``.
        most: the maximum number of configurations; those with the best mean scores are drawn.
        confidence: of the interval, in (0, 1).
        title: the title of the picture.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if the suffix is none of these.

    Example:
        >>> import tempfile
        >>> curves = np.array([[20.0, 30.0], [20.0, 90.0]])
        >>> agents, ends = np.arange(2), curves[:, 1]
        >>> table = Table({"gamma": np.array([0.9, 0.99])}, agents, agents, np.array([64, 128]), curves, ends, 0 * agents)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     configurations(random.key(0), table, f"{folder}/curves.png")
    """
    path = picture_path("configurations", path)
    scores = np.where(np.isnan(table.scores), -np.inf, table.scores)
    numbers = np.unique(table.configuration)
    order = sorted(numbers.tolist(), key=lambda c: -scores[table.configuration == c].mean())
    figure, (ax,) = figure_of(1, (7.0, 4.2))
    for rank, number in enumerate(order[:most]):
        mine = table.configuration == number
        steps, returns = in_windows(table.steps.astype(float), table.curves[mine].T)
        if not len(steps):
            continue
        agent = int(mine.argmax())
        label = ", ".join(f"{name} {_shown(x[agent].item())}" for name, x in table.hparams.items()) or "all agents"
        draw_curve(ax, random.fold_in(key, rank), steps, returns, f"C{rank}", label, confidence=confidence, num_resamples=500)
    name_axes(ax, title, confidence)
    if ax.lines:
        ax.legend(loc="best", frameon=False, fontsize=8)
    save_figure(figure, path)


def comparison(
    key: torch.Tensor, scores: Mapping[str, np.ndarray], path: str | os.PathLike, *, target: float = 1.0, confidence: float = 0.95
) -> None:
    """Draw how algorithms compare over tasks: interquartile mean, optimality gap, probability of improvement, and performance profiles.

    Points have bootstrap intervals over the runs of each task. The probability of improvement is that of each algorithm over the first.

    Args:
        key: a key []; the same key gives the same intervals.
        scores: of each algorithm [runs, tasks], as :func:`score_matrix` returns them and rliable takes them.
        path: the file, which ends in ``.png``, ``.svg`` or ``.pdf``.
        target: the score that counts as optimal.
        confidence: of the intervals, in (0, 1).

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if there is no algorithm, the numbers of tasks differ, a score is NaN, or the suffix is none of these.

    Example:
        >>> import tempfile
        >>> scores = {"ppo": np.array([[0.5], [0.7]]), "a2c": np.array([[0.4], [0.6]])}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     comparison(random.key(0), scores, f"{folder}/comparison.png")
    """
    path = picture_path("comparison", path)
    tables = {name: torch.from_numpy(np.asarray(x, dtype=np.float64)) for name, x in scores.items()}
    shapes = {name: list(x.shape) for name, x in tables.items()}
    if len({tuple(x.shape[1:]) for x in tables.values()}) != 1 or any(x.ndim != 2 for x in tables.values()):
        raise ValueError(f"comparison: scores: expected [runs, tasks] of each algorithm, with the same tasks, got {shapes or 'none'}")
    figure, axes = figure_of(4, (14.0, 1.4 + 0.5 * len(tables) if len(tables) > 4 else 3.4))
    first = next(iter(tables))
    statistics: dict[str, Any] = {"interquartile mean": interquartile_mean, "optimality gap": lambda x: optimality_gap(x, target=target)}
    for row, (name, x) in enumerate(tables.items()):
        keys = random.split(random.fold_in(key, row), 3)
        for column, (title, statistic) in enumerate(statistics.items()):
            ends = bootstrap_interval(keys[column], x, statistic=statistic, confidence=confidence)
            _point(axes[column], row, statistic(x.flatten()), ends)
            axes[column].set(title=title)
        if name != first:
            value, ends = probability_of_improvement(x, tables[first]), _improvement(keys[2], x, tables[first], confidence)
            _point(axes[2], row, value, ends)
        everything = torch.cat([one.flatten() for one in tables.values()])
        thresholds = torch.linspace(everything.min().item(), everything.max().item(), 101, dtype=x.dtype)
        axes[3].plot(thresholds, performance_profile(x, thresholds), color=f"C{row}", label=name)
    for ax in axes[:3]:
        ax.set_yticks(range(len(tables)), list(tables))
        ax.set_ylim(len(tables) - 0.5, -0.5)
    axes[2].set(title=f"probability of improvement over {first}", xlim=(0.0, 1.0))
    axes[2].axvline(0.5, color="grey", linewidth=0.8)
    axes[3].set(title="performance profile", xlabel="score", ylabel="share of runs above")
    axes[3].legend(frameon=False)
    save_figure(figure, path)


def _improvement(key: torch.Tensor, x: torch.Tensor, y: torch.Tensor, confidence: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bootstrap interval of a probability of improvement; the runs of each task and algorithm are resampled separately."""
    resamples = 500
    keys, tasks = random.split(key), torch.arange(x.shape[1])
    rows = [random.randint(k, (resamples, *one.shape), 0, one.shape[0]) for k, one in zip(keys, (x, y), strict=True)]
    values = [probability_of_improvement(x[rows[0][i], tasks], y[rows[1][i], tasks]) for i in range(resamples)]
    low, high = torch.stack(values).quantile(torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=x.dtype))
    return low, high


def _point(ax: Any, row: int, value: torch.Tensor, ends: tuple[torch.Tensor, torch.Tensor]) -> None:
    ax.plot([float(ends[0]), float(ends[1])], [row, row], color=f"C{row}", linewidth=6, alpha=0.35, solid_capstyle="butt")
    ax.plot([float(value)], [row], "|", color=f"C{row}", markersize=14, markeredgewidth=2)


def _colours(values: np.ndarray) -> list[Any]:
    from matplotlib import colormaps

    if not np.issubdtype(values.dtype, np.number):
        values = np.searchsorted(np.unique(values), values)
    x = np.log(values) if _is_log(values) else np.nan_to_num(values.astype(float), posinf=0.0, neginf=0.0)
    spread = x.max() - x.min()
    return [colormaps["viridis"](float(v)) for v in (x - x.min()) / (spread if spread > 0 else 1.0)]


def _is_log(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and values.min() > 0 and values.max() > 20 * values.min())


def _shown(x: Any) -> str:
    return f"{x:.3g}" if isinstance(x, float) else str(x)
