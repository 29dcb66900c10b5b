"""Metrics and progress of a run, and the detection of divergence."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from tqdm import tqdm

from funrl import record, tree
from funrl._files import say
from funrl.algos import Algorithm
from funrl.populations import checked_metrics, not_finite
from funrl.runs import Folder, checking

_FLUSH_SECONDS = 0.5
# The first columns of metrics.csv, if the algorithm has them; others follow in alphabetical order.
_COLUMNS = (
    "episode_return", "episode_return_min", "episode_return_max", "episode_length", "episodes", "policy_loss", "value_loss",
    "actor_loss", "critic_loss", "temperature_loss", "entropy", "temperature", "q_mean", "td_error", "approximate_kl", "clip_fraction",
    "explained_variance", "learning_rate", "gradient_norm",
)  # fmt: skip


class Diverged(FloatingPointError):
    """Error: a loss or a parameter is no longer finite. The message names update, metric, agent, and the last good checkpoint."""


def sparkline(values: Sequence[float], encoding: str = "utf-8", width: int = 16) -> str:
    """Draw numbers as a line of at most ``width`` characters, from the least to the greatest; means if there are more numbers.

    Args:
        values: at least one number; infinities are drawn as the greatest or least.
        encoding: of the terminal; one that has no blocks gets digits from 0 to 7.
        width: at least 1.

    Example:
        >>> sparkline([1.0, 2.0, 4.0, 8.0]), sparkline([1.0, 8.0], "ascii"), len(sparkline(range(1000)))
        ('▁▂▄█', '07', 16)
    """
    count = min(len(values), width)
    parts = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    means = [sum(part) / len(part) for part in parts]
    known = [x for x in means if math.isfinite(x)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    try:
        "▁".encode(encoding)
        marks = "▁▂▃▄▅▆▇█"
    except (UnicodeEncodeError, LookupError):
        marks = "01234567"
    heights = [(min(max(x, low), high) - low) / (high - low or 1.0) for x in means]
    return "".join(marks[0 if math.isnan(x) else round(7 * x)] for x in heights)


def bad_parameters(params: Any, num_agents: int) -> list[str]:
    """Return the path of each agent's first parameter that is not finite, "" if all are.

    Example:
        >>> bad_parameters({"w": torch.zeros(2, 3), "b": torch.tensor([0.0, math.nan])}, 2)
        ['', "['b']"]
    """
    found = [""] * num_agents
    for path, x in zip(tree.paths(params), tree.leaves(params), strict=True):
        if x.is_floating_point():
            for agent in (~x.isfinite()).reshape(num_agents, -1).any(1).nonzero().flatten().tolist():
                found[agent] = found[agent] or path
    return found


class Log:
    """Log of a run: writes metrics to their file and to the progress bar, and checks that they are finite."""

    def __init__(
        self,
        algo: Algorithm,
        folder: Folder | None,
        num_agents: int,
        done: int,
        progress: bool,
        *,
        columns: Mapping[str, list[float]] = MappingProxyType({}),
        diverged: list[int] | None = None,
    ) -> None:
        self.saved = done or None
        self.diverged = diverged  # the update at which each agent diverged, 0 if it did not; None: the first one stops the run
        self._constant = columns  # further columns, a number for each agent
        self._algo, self._folder, self.num_agents, self._done, self._progress = algo, folder, num_agents, done, progress
        self._waiting: list[tuple[int, float, dict[str, torch.Tensor]]] = []
        self._flushed = -math.inf
        self._file: record.MetricsFile | None = None
        self._bar: Any = None
        self._returns: list[float] = []  # at each flush at which an episode has ended

    def say(self, text: str) -> None:
        """Print a line, if progress is shown."""
        if self._progress:
            say(text, sys.stderr)

    def part(self, name: str, ended: str, seconds: float, begins: str) -> None:
        """Print which part of a first call begins, and how long the last one took; a callback for :func:`funrl.compiler.listening`."""
        if self._bar is None and self._progress:
            text = f"{ended} {seconds:.1f} s" + (f", {begins} ..." if begins else "") if ended else f"{self._algo.name}: {begins} ..."
            say(text, sys.stderr)

    def start_bar(self, num_updates: int, compiling: float) -> None:
        """Show the progress bar from the first update on."""
        if not self._progress:
            return
        say(f"first update after {compiling:.1f} s", sys.stderr)
        each = self._algo.steps_per_update * self.num_agents
        pause = 0.2 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=num_updates * each,
            initial=(self._done + 1) * each,
            unit=" steps",
            unit_scale=True,
            mininterval=pause,
            dynamic_ncols=True,
            file=sys.stderr,
        )
        self._bar.set_postfix_str(self._shown(), refresh=True)

    def add(self, number: int, seconds: float, metrics: dict[str, torch.Tensor]) -> None:
        """Queue the metrics of an update, and write the queue from time to time (each copy from a device has to wait for the device)."""
        self._waiting.append((number, seconds, metrics))
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS and number > self._done + 1:
            self.flush()
        if self._bar is not None:
            self._bar.update(self._algo.steps_per_update * self.num_agents)

    def flush(self) -> None:
        """Write the queued metrics up to the first update that is not finite; raise if there is one."""
        self._flushed = time.monotonic()
        if not self._waiting:
            return
        numbers, seconds, metrics = zip(*self._waiting, strict=True)
        self._waiting = []
        table = {name: torch.stack([m[name] for m in metrics]).cpu().reshape(len(numbers), self.num_agents) for name in metrics[0]}
        bad = self._first_bad(table) if self.diverged is None else self._note_diverged(numbers, table)
        last = len(numbers) if bad is None else bad[0] + 1
        if self._folder is not None:
            self._write(numbers[:last], seconds[:last], table)
        if bad is not None:
            row, agent, name = bad
            raise self._diverged(numbers[row], f"{name} of agent {agent} is {table[name][row, agent].item()}")
        if "episode_return" in table:
            latest = table["episode_return"][-1].double().nanmean().item()
            self._returns += [] if math.isnan(latest) else [latest]
        if self._bar is not None:
            self._bar.set_postfix_str(self._shown(), refresh=False)

    def check_parameters(self, number: int, bad: list[str], last: bool) -> None:
        """Raise if the agents have parameters that are not finite; if that does not stop the run, note it after the ``last`` update.

        ``bad`` is the result of :func:`bad_parameters`.
        """
        if self.diverged is not None:
            if last:
                self._note(number, [bool(path) for path in bad])
            return
        for agent, path in enumerate(bad):
            if path:
                raise self._diverged(number, f"the parameter {path} of agent {agent} is not finite")

    def sync(self) -> None:
        """Wait until the metrics are on the disk, so that a checkpoint is never ahead of the metrics file."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Close the file and the progress bar."""
        if self._file is not None:
            self._file.close()
        if self._bar is not None:
            self._bar.close()

    def _shown(self) -> str:
        if not self._returns:
            return "no episode has ended yet"
        encoding = getattr(sys.stderr, "encoding", None) or "ascii"
        return f"return {sparkline(self._returns, encoding)} {self._returns[-1]:.1f}"

    def _first_bad(self, table: dict[str, torch.Tensor]) -> tuple[int, int, str] | None:
        found = []
        for name in checked_metrics(table):
            found += [(row, agent, name) for row, agent in (~table[name].isfinite()).nonzero()[:1].tolist()]
        return min(found, key=lambda place: place[0], default=None)

    def _note_diverged(self, numbers: Sequence[int], table: dict[str, torch.Tensor]) -> None:
        for number, bad in zip(numbers, not_finite(table).tolist(), strict=True):
            self._note(number, bad)

    def _note(self, number: int, bad: list[bool]) -> None:
        assert self.diverged is not None  # those that call it have asked
        self.diverged = [number if new and not before else before for before, new in zip(self.diverged, bad, strict=True)]

    def _diverged(self, number: int, what: str) -> Diverged:
        if self._folder is None:
            kept = "there is no checkpoint without a folder (out)"
        elif self.saved is None:
            kept = f"there was no checkpoint yet in {self._folder}"
        else:
            kept = f"the checkpoint of update {self.saved} is kept in {self._folder}"
        return Diverged(f"update {number}: {what}, so the run was stopped; {kept}; try a lower learning_rate")

    def _write(self, numbers: Any, seconds: Any, table: dict[str, torch.Tensor]) -> None:
        names = [name for name in _COLUMNS if name in table] + sorted(name for name in table if name not in (*_COLUMNS, "steps"))
        constant = [name for name in self._constant if name not in table]
        if self._file is None:
            assert self._folder is not None  # without a folder nothing is written
            columns = ["update", "agent", "steps", "seconds", *names, *constant]
            with checking():
                self._file = record.MetricsFile(self._folder.metrics, columns, keep=self._done)
        columns = [table[name].tolist() for name in names]
        self._file.append(
            [
                number,
                agent,
                number * self._algo.steps_per_update,
                seconds[row],
                *(column[row][agent] for column in columns),
                *(self._constant[name][agent] for name in constant),
            ]
            for row, number in enumerate(numbers)
            for agent in range(self.num_agents)
        )
