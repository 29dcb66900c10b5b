"""Measurements, with machine and date: ``results/history.jsonl``, a line for each run, and the table and plots that are made from it."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import Benchmark, Figures, versions

__all__ = ["TABLE", "Row", "append", "newest", "write"]

RESULTS = Path(__file__).parent / "results"
HISTORY, TABLE = RESULTS / "history.jsonl", RESULTS / "README.md"
README, BEGIN, END = Path(__file__).parents[1] / "README.md", "<!-- speed: written by python -m benchmarks -->\n", "<!-- end of speed -->\n"
# What the README shows.
HEADLINES = (
    *("PPO, 64 environments", "PPO, 4 environments", "PPO, 4 environments, 16 updates in a program"),
    *("PPO, 8 agents with 16 environments each", "PPO, 64 agents with 16 environments each, two threads"),
    *("SAC, 64 units", "DQN, 64 units", "SAC, 64 units, 8 agents"),
    *("CartPole-v1 with a policy, 2048 copies", "Breakout-MinAtar with a policy, 2048 copies", "gymnasium:CartPole-v1, 8 copies"),
    "buffer: sample, 100,000 transitions",
    "buffer: prioritized sample, 100,000 transitions",
    "buffer: extend in place, 100,000 transitions",
    *("100 networks, forward and backward", "GAE [2048, 128]"),
)
LABELS = {
    "stable-baselines3": "Stable-Baselines3",
    "sb3": "Stable-Baselines3",
    "torchrl": "TorchRL",
    "loop": "a loop over torch modules",
    "torchrl, serial": "TorchRL (SerialEnv)",
}


class Row(NamedTuple):
    """The newest figures of a row: those of a full run, if there is one, else of a quick one.

    Attributes:
        numbers: of each library, all from one run.
        run: the line of the history, without its figures.
        old: whether the code that it measures has a newer commit.
    """

    numbers: dict[str, Any]
    run: dict[str, Any]
    old: bool = False

    def when(self) -> str:
        """The day, whether the run was quick, and whether its code has changed since."""
        return self.run["date"] + (", quick" if self.run["quick"] else "") + (", older code" if self.old else "")


def append(
    name: str, figures: Figures, peers: Mapping[str, str | None], *, quick: bool, seconds: float, started: float | None = None
) -> None:
    """Add a run to the history, in the place of what it had before if its line is the last.

    Args:
        name: of the benchmark.
        figures: what it measured.
        peers: versions of the other libraries.
        quick: whether it was a quick run.
        seconds: how long it took.
        started: the time at which it began, which tells it from others; None: it is added once.
    """
    own = {"python": platform.python_version(), **versions(sys.executable, ("torch", "gymnasium"))}
    line = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores{_gpu()}",
        "versions": {**own, **peers},
        "quick": quick,
        "seconds": round(seconds, 1),
        **({} if started is None else {"started": started}),
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    lines = HISTORY.read_text().splitlines() if HISTORY.exists() else []
    if lines and started is not None and [json.loads(lines[-1]).get(x) for x in ("benchmark", "started")] == [name, started]:
        lines.pop()
    partial = HISTORY.with_suffix(".partial")
    partial.write_text("\n".join([*lines, json.dumps(line), ""]))
    partial.replace(HISTORY)  # at once: a run that is killed keeps what it had


def _gpu() -> str:
    """Name the GPU, if there is one."""
    if shutil.which("nvidia-smi") is None:
        return ""
    names = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return ", " + subprocess.run(names, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def changed(rooms: str) -> float:
    """Return the time of the newest commit to rooms of funrl, "algos compiler" for instance; 0 without git or a repository."""
    if shutil.which("git") is None:
        return 0.0
    command = ["git", "log", "-1", "--format=%ct", "--", *(f"funrl/{room}" for room in rooms.split())]
    done = subprocess.run(command, cwd=README.parent, capture_output=True, text=True, check=False)
    return float(done.stdout or 0)


def newest(name: str, since: float = 0.0) -> dict[str, Row]:
    """Return the newest figures of each row of a benchmark; those from before ``since`` are marked as old."""
    rows: dict[str, Row] = {}
    lines = [json.loads(line) for line in HISTORY.read_text().splitlines()] if HISTORY.exists() else []
    for run in lines:
        figures = run.pop("figures")
        for row, numbers in figures.items() if run["benchmark"] == name else ():
            if row not in rows or rows[row].run["quick"] or not run["quick"]:
                # Early lines have no time: their day begins before any commit of that day.
                started = run.get("started", datetime.fromisoformat(run["date"]).replace(tzinfo=UTC).timestamp())
                rows[row] = Row(numbers, run, started < since)
    return rows


def write(benchmarks: Mapping[str, Benchmark], rooms: Mapping[str, str]) -> None:
    """Make the table and its plots from the history, with marks at figures that are older than the code of their ``rooms``."""
    lines = [
        "# What was measured",
        "",
        "Made by `python -m benchmarks` from [history.jsonl](history.jsonl): the newest full figures of each row, or quick ones where",
        "there are no others. Medians; the libraries of a row took turns in one session. *Faster by* says how many times as fast funrl is.",
        "*Older code*: when this file was made, the rooms of funrl that the row measures had a commit that is newer than the figures.",
        "",
        "| | funrl | beside it | faster by | target | measured |",
        "|---|---|---|---|---|---|",
    ]
    sections = []
    for name, benchmark in benchmarks.items():
        rows = newest(name, changed(rooms[name]))
        if not rows:
            continue
        if benchmark.unit:
            lines += _lines(benchmark, rows)
        sections += [
            "",
            f"## {name}",
            "",
            benchmark.summary,
            "",
            *_origin(name, rows),
            *benchmark.notes({k: v.numbers for k, v in rows.items()}),
        ]
        if benchmark.unit and _plot(name, benchmark, rows):
            sections += ["", f"![how many times as fast funrl is]({name}.png)"]
    TABLE.write_text("\n".join([*lines, *sections, ""]))
    before, rest = README.read_text().split(BEGIN)
    README.write_text(before + BEGIN + _headlines(benchmarks, rooms) + END + rest.split(END)[1])


def _headlines(benchmarks: Mapping[str, Benchmark], rooms: Mapping[str, str]) -> str:
    """Return the table of the README: a line for each of its rows."""
    lines, shown = ["| | funrl | speed relative to other libraries |", "|---|---|---|"], []
    for benchmark, rows in ((benchmark, newest(name, changed(rooms[name]))) for name, benchmark in benchmarks.items()):
        for name in (name for name in HEADLINES if name in rows):
            row = rows[name]
            beside = [f"{faster(benchmark, row, x):.2g} x {LABELS.get(x, x)}" for x in row.numbers if not x.startswith("funrl")]
            lines.append(f"| {name} | {_number(row.numbers['funrl'])} {benchmark.unit} | {', '.join(beside)} |")
            shown.append(row)
    runs = [row.run for row in shown]
    machines = " and ".join(sorted({run["machine"] for run in runs}))
    found = {package: version for run in sorted(runs, key=lambda run: run["date"]) for package, version in run["versions"].items()}
    told = ", ".join(f"{package} {version}" for package, version in found.items())
    return "\n".join([*lines, "", f"Medians on {machines}, {_days(shown)}: {told}.", ""])


def _lines(benchmark: Benchmark, rows: Mapping[str, Row]) -> list[str]:
    lines = []
    for name, row in rows.items():
        what, unit = name.removesuffix(")").rsplit(" (", 1) if name.endswith(")") else (name, benchmark.unit)
        head = f"| {what} | {_number(row.numbers['funrl'])} {unit} "
        for library, number in row.numbers.items():
            if library != "funrl":
                target = benchmark.targets.get((name, library))
                goal = f"{target:.2g}" if target else ""
                ratio = faster(benchmark, row, library)
                lines.append(f"{head}| {LABELS.get(library, library)}: {_number(number)} | {ratio:.2f} x | {goal} | {row.when()} |")
                head = "| | "
        if len(row.numbers) == 1:
            lines.append(f"{head}| | | | {row.when()} |")
    return lines


def faster(benchmark: Benchmark, row: Row, library: str) -> float:
    """Return how many times as fast as a library funrl is."""
    ratio = row.numbers["funrl"] / row.numbers[library]
    return 1 / ratio if benchmark.lower else ratio


def _number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def _origin(name: str, rows: Mapping[str, Row]) -> list[str]:
    runs = {json.dumps(row.run, sort_keys=True): row.run for row in rows.values()}.values()
    found: dict[str, set[str]] = {}
    for run in runs:
        for package, version in run["versions"].items():
            found.setdefault(package, set()).add(str(version))
    machines = " and ".join(sorted({run["machine"] for run in runs}))
    libraries = ", ".join(f"{k} {' and '.join(sorted(v))}" for k, v in found.items())
    return [f"`python -m benchmarks {name}` on {machines}, {_days(list(rows.values()))}: {libraries}.", ""]


def _days(rows: list[Row]) -> str:
    """Say when rows were measured, and how many of them with code that has changed since."""
    days, old = sorted({row.run["date"] for row in rows}), sum(row.old for row in rows)
    marked = f"{', all' if old == len(rows) else f', {old} of {len(rows)}'} measured before the newest changes of the code" * bool(old)
    return " to ".join(dict.fromkeys((days[0], days[-1]))) + marked


def _plot(name: str, benchmark: Benchmark, rows: Mapping[str, Row]) -> bool:
    """Draw how many times as fast as each library funrl is; return whether there was anything to draw."""
    bars = [
        (row, library, faster(benchmark, found, library)) for row, found in rows.items() for library in found.numbers if library != "funrl"
    ]
    if not bars:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 0.9 + 0.28 * len(bars)), layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    libraries = list(dict.fromkeys(library for _, library, _ in bars))
    for place, (_, library, ratio) in enumerate(bars):
        color = f"C{libraries.index(library)}"
        axes.barh(place, ratio - 1, left=1, color=color)
        axes.text(ratio, place, f" {ratio:.2g} ", va="center", ha="left" if ratio >= 1 else "right", fontsize=7)
    axes.axvline(1, color="black", linewidth=1)
    labels = [f"{row}: {LABELS.get(library, library)}" for row, library, _ in bars]
    axes.set_yticks(range(len(bars)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="times as fast as the other library (logarithmic)")
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:g}")
    canvas.print_png(RESULTS / f"{name}.png")
    return True
