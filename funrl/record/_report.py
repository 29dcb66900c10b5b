"""The report of runs: one HTML page with curves, results, options, versions and films, which needs no other file."""

import base64
import html
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from funrl import random
from funrl._files import write_atomic
from funrl.acting import Evaluation
from funrl.record._aggregate import bootstrap_interval
from funrl.record._plots import by_update, check_columns, draw_curves, draw_quartiles, drawable, figure_of, in_windows

_KINDS = {".mp4": "video/mp4", ".gif": "image/gif", ".png": "image/png"}
# The columns of metrics.csv that have a place of their own in a report, or say which row it is.
_OTHERS = {"update", "agent", "steps", "seconds", "episode_return"}
_COLUMNS = 3
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; margin: 0.6rem 0 } td, th { padding: 0.2rem 0.9rem 0.2rem 0; text-align: left; vertical-align: top }
td { font-variant-numeric: tabular-nums } tr + tr td, tr + tr th { border-top: 1px solid #eee } th { font-weight: 600 }
tr.differs td { background: #fff7d6 } img, video { max-width: 100%; height: auto } figure { margin: 0.8rem 0 } code { font-size: 0.92em }
.wide { overflow-x: auto }
"""


class RunRecord(NamedTuple):
    """Contents of a run's folder that a report shows.

    Attributes:
        config: the contents of ``config.json``, as :func:`funrl.runs.read_config` returns them.
        metrics: the columns [rows] of ``metrics.csv``, as :func:`funrl.record.read_metrics` returns them.
        evaluation: the final evaluation, leaves [N], or [K, N] of K agents; None if there is none.
        films: files, ``.mp4``, ``.gif`` or ``.png``, which become part of the page.
    """

    config: Mapping[str, Any]
    metrics: Mapping[str, np.ndarray]
    evaluation: Evaluation | None = None
    films: Sequence[str | os.PathLike] = ()


def report(key: torch.Tensor, runs: Mapping[str, RunRecord], path: str | os.PathLike, *, title: str = "") -> None:
    """Write a page about runs: one HTML file that contains its pictures and films, and loads nothing.

    It has the results with 95 % bootstrap intervals (over the agents of a run, or over the episodes of a single agent), the learning
    curves as :func:`learning_curves` draws them, the other metrics, the steps per second, the hyperparameters and versions (a row in
    which runs differ is marked), and the films.

    Args:
        key: a key []; the same key gives the same intervals.
        runs: a dict from the label of a run to its :class:`RunRecord`.
        path: the file, which ends in ``.html``; its folder is created.
        title: the title of the page; the labels by default.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if there are no runs, one has no rows, lacks a column or has rows whose ``update``, ``agent``, ``steps`` or ``seconds``
            is not finite, or a suffix is none of these.
        OSError: if a film cannot be read, or the file cannot be written.

    Example:
        >>> import tempfile, numpy as np
        >>> rows = {"update": [1, 2], "agent": [0, 0], "steps": [64, 128], "seconds": [2.0, 3.0], "episode_return": [20.0, 50.0]}
        >>> run = RunRecord({"algorithm": "ppo", "options": {"gamma": 0.9}}, {name: np.array(x) for name, x in rows.items()})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report(random.key(0), {"first": run}, f"{folder}/report.html")
        ...     "steps per second" in Path(folder, "report.html").read_text()
        True
    """
    path = Path(path)
    if path.suffix.lower() != ".html":
        raise ValueError(f"report: path: expected a name that ends in .html, got {str(path)!r}")
    if not runs:
        raise ValueError("report: runs: expected at least one, got none")
    for name, run in runs.items():
        check_columns(f"report: runs: {name}", run.metrics, ("update", "agent", "steps", "seconds"))
        if not len(run.metrics["update"]):
            raise ValueError(f"report: runs: {name}: expected at least one row, got none; wait for the first update")
    curves_key, results_key = random.split(key).unbind(0)
    title = title or ", ".join(runs)
    parts = [f"<h1>{_escaped(title)}</h1>", "<h2>Results</h2>", _table(list(runs), _results(results_key, runs))]
    with_returns = {name: run.metrics for name, run in runs.items() if "episode_return" in run.metrics}
    if with_returns:
        figure, axes = figure_of(1, (9.0, 4.6))
        draw_curves(axes[0], curves_key, "report: runs", with_returns)
        parts += ["<h2>Learning curves</h2>", _picture(figure, "episode returns over environment steps")]
    parts += ["<h2>Steps per second</h2>", _picture(_speed(runs), "environment steps per second")]
    further = list(dict.fromkeys(name for run in runs.values() for name in run.metrics if name not in _OTHERS and "hparams." not in name))
    if further:
        parts += ["<h2>Metrics</h2>", "<p>Means over the agents of a run, and the bands between their quartiles.</p>"]
        parts.append(_picture(_metrics(runs, further), ", ".join(further)))
    options = [{**run.config.get("options", {}), **_own(run.config)} for run in runs.values()]
    parts += ["<h2>Hyperparameters</h2>", _table(list(runs), _rows(options))]
    parts += ["<h2>Versions</h2>", _table(list(runs), _rows([run.config.get("versions", {}) for run in runs.values()]))]
    films = [(name, Path(film)) for name, run in runs.items() for film in run.films]
    if films:
        parts += ["<h2>Films</h2>", *(_film(name, film) for name, film in films)]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_escaped(title)}</title>'
    page = "\n".join(["<!doctype html>", f'<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>', *parts, "</body></html>\n"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda file: file.write(page.encode("utf-8", "replace")))


def _results(key: torch.Tensor, runs: Mapping[str, RunRecord]) -> list[tuple[str, list[str]]]:
    """Return the rows of the first table, a cell for each run."""
    cells = [_result(random.fold_in(key, i), run) for i, run in enumerate(runs.values())]
    return [(name, [cell[name] for cell in cells]) for name in cells[0]]


def _result(key: torch.Tensor, run: RunRecord) -> dict[str, str]:
    config, metrics = run.config, run.metrics
    agents, steps, seconds = config.get("num_agents", 1), metrics["steps"].max(), metrics["seconds"].max()
    first = metrics["update"] == metrics["update"].min()
    later = (steps - metrics["steps"][first].max(), seconds - metrics["seconds"][first].max())
    returns = _last_returns(metrics)
    return {
        "algorithm": str(config.get("algorithm", "")),
        "environment": str(config.get("environment", config.get("env", ""))),
        "agents": f"{agents:,}",
        "seed": str(config.get("seed", f"key {config.get('key', '')}")),
        "steps of each agent": f"{steps:,.0f}",
        "seconds": f"{seconds:,.1f}, of which {metrics['seconds'][first].max():,.1f} until the end of the first update",
        "steps per second": f"{later[0] * agents / later[1]:,.0f} after the first update" if later[1] > 0 else "",
        "return in training": "no episode has ended" if returns is None else _with_interval(key, returns, "last episodes"),
        "final evaluation": "none" if run.evaluation is None else _evaluated(key, run.evaluation),
    }


def _last_returns(metrics: Mapping[str, np.ndarray]) -> torch.Tensor | None:
    """Return the last return of each agent [K] that has one."""
    if "episode_return" not in metrics:
        return None
    _, returns = by_update("report: runs", metrics)
    last = [column[~np.isnan(column)][-1] for column in returns.T if not np.isnan(column).all()]
    return torch.tensor(last, dtype=torch.float64) if last else None


def _evaluated(key: torch.Tensor, evaluation: Evaluation) -> str:
    returns = evaluation.episode_return.double()
    what = f"{returns.shape[-1]} episodes" + (" of each agent" if returns.ndim > 1 else "")
    unfinished = int((~evaluation.finished).sum())
    return _with_interval(key, returns.mean(-1) if returns.ndim > 1 else returns, what) + (f"; {unfinished} unfinished" * bool(unfinished))


def _with_interval(key: torch.Tensor, scores: torch.Tensor, what: str) -> str:
    """Return a mean, and its interval if there are several scores [N]."""
    text = f"{scores.mean():,.1f} ({what})"
    if len(scores) < 2 or not bool(scores.isfinite().all()):
        return text
    low, high = bootstrap_interval(key, scores[:, None], statistic=lambda x: x.mean(0))
    return f"{scores.mean():,.1f} [{low:,.1f}, {high:,.1f}] ({what}, n = {len(scores)})"


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what else decides a run: the parts that the user gave, and the hyperparameters that differ between agents."""
    parts, hparams = config.get("given", {}), config.get("hparams", {})
    numbers = isinstance(hparams, Mapping) and all(isinstance(x, int | float) for values in hparams.values() for x in values)
    if not isinstance(parts, Mapping) or not numbers:
        raise ValueError("config.json: given, hparams: expected names of parts, and lists of numbers by name; restore a copy")
    given = {f"{name} (given)": value for name, value in parts.items()}
    for name, values in hparams.items():
        given[f"{name} (of agents)"] = f"{min(values):g} to {max(values):g}" if values else ""
    return given


def _rows(columns: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    names = list(dict.fromkeys(name for column in columns for name in column))
    return [(name, [str(column.get(name, "")) for column in columns]) for name in names]


def _table(labels: list[str], rows: Iterable[tuple[str, list[str]]]) -> str:
    """Return a table with a column for each run; rows in which the runs differ are marked."""
    lines = ["<tr><th></th>" + "".join(f"<th>{_escaped(label)}</th>" for label in labels) + "</tr>"] if len(labels) > 1 else []
    for name, cells in rows:
        kind = ' class="differs"' if len(set(cells)) > 1 else ""
        lines.append(f"<tr{kind}><th>{_escaped(name)}</th>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in cells) + "</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _speed(runs: Mapping[str, RunRecord]) -> Any:
    """Return the figure of the steps per second, of all agents together, from update to update."""
    figure, axes = figure_of(1, (9.0, 2.8))
    for name, run in runs.items():
        steps, seconds = by_update("report: runs", run.metrics, "seconds")
        steps, seconds = in_windows(steps, seconds[:, :1])
        spent = np.diff(seconds[:, 0])
        rate = np.diff(steps) * run.config.get("num_agents", 1) / np.where(spent > 0, spent, np.nan)
        axes[0].plot(steps[1:], rate, label=drawable(name), linewidth=1.2)
    axes[0].set(xlabel="environment steps of an agent", ylabel="steps per second")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(loc="best", frameon=False)
    return figure


def _metrics(runs: Mapping[str, RunRecord], names: list[str]) -> Any:
    """Return the figure with a small picture of each metric."""
    figure, axes = figure_of(_COLUMNS, (10.0, 2.3 * -(-len(names) // _COLUMNS)), count=len(names))
    for ax, name in zip(axes, names, strict=True):
        for number, run in enumerate(runs.values()):
            if name not in run.metrics:
                continue
            steps, values = by_update("report: runs", run.metrics, name)
            steps, values = in_windows(steps, np.where(np.isfinite(values), values, np.nan))
            ax.plot(steps, values.mean(1), color=f"C{number}", linewidth=1.2)
            if values.shape[1] > 1:
                draw_quartiles(ax, steps, values, f"C{number}")
        ax.set_title(drawable(name), fontsize=9)
        ax.tick_params(labelsize=7)
    return figure


def _picture(figure: Any, what: str) -> str:
    """Return a figure as a picture within the page."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "funrl"}):  # which names the parts of an SVG file in the same way each time
        figure.canvas.print_figure(file, format="svg", metadata={"Date": None})
    return f'<figure><img alt="{_escaped(what)}" src="data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"></figure>'


def _film(name: str, path: Path) -> str:
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"report: runs: {name}: films: expected names that end in {', '.join(_KINDS)}, got {str(path)!r}")
    source = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    shown = f'<video controls loop muted src="{source}"></video>' if kind == "video/mp4" else f'<img alt="a film" src="{source}">'
    return f"<figure>{shown}<figcaption>{_escaped(name)}: {_escaped(path.name)}</figcaption></figure>"


def _escaped(text: str) -> str:
    return html.escape(drawable(str(text)))
