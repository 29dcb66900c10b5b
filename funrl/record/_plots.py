"""Learning curves. Matplotlib is imported when one is drawn, and its global state is not changed."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from funrl import random
from funrl._files import write_atomic
from funrl.record._aggregate import bootstrap_interval, interquartile_mean

SUFFIXES = (".png", ".svg", ".pdf")
_SIZE = (7.0, 4.2)

# The maximum number of points of a curve of several runs. An interval for each of ten thousand updates would take minutes.
_POINTS = 200


def learning_curve(metrics: Mapping[str, np.ndarray], path: str | os.PathLike, *, title: str = "") -> None:
    """Draw the mean episode return over the environment steps to a PNG file.

    With several agents it draws a thin line for each, a thick one for the mean, and the band between the quartiles.

    Args:
        metrics: columns [rows], as :func:`funrl.record.read_metrics` returns them: ``update``, ``agent``, ``steps`` and
            ``episode_return``. Every update has a row for each agent. A return that is NaN (no episode has ended yet) is left out.
        path: the file.
        title: the title of the picture.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if a column is missing, or ``update``, ``agent`` or ``steps`` has values that are not finite.

    Example:
        >>> import tempfile, numpy as np
        >>> rows = {"update": [1, 1, 2, 2], "agent": [0, 1, 0, 1], "steps": [64, 64, 128, 128], "episode_return": [20, 22, 30, 50]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     learning_curve({name: np.array(x) for name, x in rows.items()}, f"{folder}/curve.png")
    """
    steps, returns = by_update("learning_curve: metrics", metrics)
    ended = ~np.isnan(returns).all(1)
    steps, returns = steps[ended], returns[ended]
    num_agents = returns.shape[1]

    figure, (axes,) = figure_of(1, _SIZE)
    if num_agents > 1:
        axes.plot(steps, returns, color="tab:blue", linewidth=0.6, alpha=0.4)
        draw_quartiles(axes, steps, returns, "tab:blue", label="quartiles")
    label = f"mean of {num_agents} agents" if num_agents > 1 else "episode return"
    axes.plot(steps, np.nanmean(returns, 1) if len(steps) else steps, color="tab:blue", linewidth=2.0, label=label)
    axes.set(xlabel="environment steps of an agent", ylabel="mean return of finished episodes", title=title)
    if num_agents > 1:
        axes.legend(loc="best", frameon=False)
    save_figure(figure, Path(path), "png")


def learning_curves(
    key: torch.Tensor,
    runs: Mapping[str, Mapping[str, np.ndarray]],
    path: str | os.PathLike,
    *,
    title: str = "",
    confidence: float = 0.95,
) -> None:
    """Draw the episode returns of several runs over the environment steps in one picture.

    For each run it draws the interquartile mean over its agents, and its bootstrap interval over resampled agents. A single agent has no
    interval.

    A run of many updates is divided into 200 windows of about equal numbers of updates, and the returns of an agent are averaged in each
    window. If no episode of an agent ended in a window, its last return is used. A curve begins where all agents have a return.

    Args:
        key: a key []; the same key gives the same intervals.
        runs: a dict from the label of a run to its columns [rows], as for :func:`learning_curve`.
        path: the file, which ends in ``.png``, ``.svg`` or ``.pdf``; its folder is created.
        title: the title of the picture.
        confidence: the probability that an interval contains the true value, in (0, 1).

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if there are no runs, one has no rows, lacks a column or numbers its rows by values that are not finite, or the suffix
            is none of these.

    Example:
        >>> import tempfile, numpy as np
        >>> rows = {"update": [1, 1, 2, 2], "agent": [0, 1, 0, 1], "steps": [64, 64, 128, 128], "episode_return": [20, 22, 30, 50]}
        >>> slow = {name: np.array(x) for name, x in rows.items()}
        >>> fast = slow | {"episode_return": 2 * slow["episode_return"]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     learning_curves(random.key(0), {"slow": slow, "fast": fast}, f"{folder}/curves.png")
    """
    path = picture_path("learning_curves", path)
    if not runs:
        raise ValueError("learning_curves: runs: expected at least one, got none")
    figure, (axes,) = figure_of(1, _SIZE)
    draw_curves(axes, key, "learning_curves: runs", runs, title=title, confidence=confidence)
    save_figure(figure, path)


def draw_curves(
    axes: Any, key: torch.Tensor, what: str, runs: Mapping[str, Mapping[str, np.ndarray]], *, title: str = "", confidence: float = 0.95
) -> None:
    """Draw what :func:`learning_curves` writes to a file; errors begin with ``what``.

    Example:
        >>> columns = {name: np.ones(1) for name in ("update", "agent", "steps", "episode_return")}
        >>> draw_curves(axes := figure_of(1, (7.0, 4.2))[1][0], random.key(0), "runs", {"one": columns})
        >>> axes.get_legend().get_texts()[0].get_text()
        'one'
    """
    for number, (name, metrics) in enumerate(runs.items()):
        steps, returns = by_update(f"{what}: {name}", metrics)
        if not len(steps):
            raise ValueError(f"{what}: {name}: expected at least one row, got none; wait for the first update")
        steps, returns = in_windows(steps, returns)
        shown, num_agents = drawable(name), returns.shape[1]
        label = f"{shown} ({num_agents} agents)" if num_agents > 1 else shown
        draw_curve(axes, random.fold_in(key, number), steps, returns, f"C{number}", label, confidence=confidence)
    name_axes(axes, title, confidence)
    axes.legend(loc="best", frameon=False)


def draw_curve(axes: Any, key: torch.Tensor, steps: np.ndarray, returns: np.ndarray, colour: str, label: str, **options: Any) -> None:
    """Draw the interquartile mean of returns [points, agents]; of several agents also its interval, with options of bootstrap_interval.

    Example:
        >>> axes = figure_of(1, (7.0, 4.2))[1][0]
        >>> draw_curve(axes, random.key(0), np.array([8.0, 16.0]), np.array([[1.0], [2.0]]), "C0", "one agent")
        >>> axes.lines[0].get_ydata()
        array([1., 2.])
    """
    scores = torch.from_numpy(returns.T[:, None].copy())  # [agents, one task, points]
    axes.plot(steps, interquartile_mean(scores[:, 0]).numpy(), color=colour, linewidth=2.0, label=label)
    if len(scores) > 1:
        low, high = bootstrap_interval(key, scores, **options)
        axes.fill_between(steps, low.numpy(), high.numpy(), color=colour, alpha=0.2, linewidth=0)


def draw_quartiles(axes: Any, steps: np.ndarray, values: np.ndarray, colour: str, **options: Any) -> None:
    """Draw the band between the quartiles of values [points, agents], of those that are not NaN."""
    low, high = np.nanquantile(values, (0.25, 0.75), axis=1) if len(steps) else (steps, steps)
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0, **options)


def name_axes(axes: Any, title: str, confidence: float) -> None:
    """Write what the axes of such curves are.

    Example:
        >>> name_axes(axes := figure_of(1, (7.0, 4.2))[1][0], "runs", 0.95)
        >>> axes.get_ylabel()
        'return: interquartile mean, 95 % interval'
    """
    label = f"return: interquartile mean, {100 * confidence:g} % interval"
    axes.set(xlabel="environment steps of an agent", ylabel=label, title=title)


def drawable(text: str) -> str:
    """Return a text as it can be drawn: a path that the locale cannot decode contains surrogates, which cannot."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def by_update(what: str, metrics: Mapping[str, np.ndarray], column: str = "episode_return") -> tuple[np.ndarray, np.ndarray]:
    """Return the steps [updates] and a column [updates, agents], such as the returns: NaN if no episode has ended.

    Example:
        >>> columns = {"update": np.array([1, 2]), "agent": np.zeros(2), "steps": np.array([8, 16]), "loss": np.array([0.5, 0.25])}
        >>> by_update("metrics", columns, "loss")
        (array([ 8., 16.]), array([[0.5 ],
               [0.25]]))
    """
    check_columns(what, metrics, ("update", "agent", "steps"), (column,))
    updates, row = np.unique(metrics["update"], return_inverse=True)
    agents, place = np.unique(metrics["agent"], return_inverse=True)
    values = np.full((len(updates), len(agents)), np.nan)
    steps = np.zeros(len(updates))
    values[row, place] = metrics[column]
    steps[row] = metrics["steps"]
    return steps, values


def check_columns(what: str, metrics: Mapping[str, np.ndarray], numbers: Sequence[str], others: Sequence[str] = ()) -> None:
    """Raise a ValueError that begins with ``what`` if a column is missing, or one of ``numbers`` has a value that is not finite.

    Example:
        >>> check_columns("metrics", {"update": np.array([1.0, 2.0]), "loss": np.array([0.5, np.nan])}, ["update"], ["loss"])
    """
    for name in (*numbers, *others):
        if name not in metrics:
            raise ValueError(f"{what}: expected a column {name!r}, got {', '.join(metrics)}")
    for name in numbers:
        if (wrong := metrics[name][~np.isfinite(metrics[name])]).size:
            raise ValueError(f"{what}: {name}: expected finite numbers, got {wrong[0]}; restore a copy of metrics.csv")


def in_windows(steps: np.ndarray, returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the last step and the agents' returns of each window, from the first window in which all agents have a return.

    Example:
        >>> in_windows(np.array([8.0, 16.0]), np.array([[np.nan, 1.0], [2.0, 3.0]]))
        (array([16.]), array([[2., 3.]]))
    """
    points, last = [], np.full(returns.shape[1], np.nan)
    ends = np.linspace(0, len(steps), min(len(steps), _POINTS) + 1).round().astype(int)[1:]
    for window in np.split(returns, ends[:-1]):
        count = (~np.isnan(window)).sum(0)
        last = np.where(count > 0, np.nansum(window, 0) / np.maximum(count, 1), last)
        points.append(last)
    table = np.stack(points)
    begun = ~np.isnan(table).any(1)
    return steps[ends - 1][begun], table[begun]


def figure_of(columns: int, size: tuple[float, float], count: int | None = None) -> tuple[Any, list[Any]]:
    """Return a new figure that needs no display, and its axes side by side, ``count`` of them in rows if given.

    Example:
        >>> len(figure_of(2, (4.0, 2.0))[1])
        2
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError('a learning curve needs matplotlib; install it with: pip install "funrl[plot]"') from None
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    count = columns if count is None else count
    axes = [figure.add_subplot(-(-count // columns), columns, i + 1) for i in range(count)]
    for one in axes:
        one.grid(alpha=0.3)
    return figure, axes


def picture_path(what: str, path: str | os.PathLike) -> Path:
    """Return the path of a picture; raise a ValueError if its suffix is none of those that can be written.

    Example:
        >>> picture_path("comparison", "curves.png").suffix
        '.png'
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{what}: path: expected a name that ends in {' or '.join(SUFFIXES)}, got {str(path)!r}")
    return path


def save_figure(figure: Any, path: Path, kind: str = "") -> None:
    """Write the figure atomically, in the format of its suffix unless another is given.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_figure(figure_of(1, (2.0, 2.0))[0], Path(folder, "empty.png"))
        ...     Path(folder, "empty.png").stat().st_size > 0
        True
    """
    kind = kind or path.suffix[1:].lower()
    write_atomic(path, lambda file: figure.canvas.print_figure(file, format=kind, dpi=figure.dpi))
