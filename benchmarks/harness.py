"""The form that all benchmarks share, and the measurement of libraries in turn.

A benchmark is a module of this folder with a constant ``BENCHMARK``. Most are of speed: :func:`speed` makes them from cases, and from
one function for each library. Every measurement is a process of its own, one after another, on a machine that should do nothing else;
libraries take turns, so that a slow minute hits all; what counts is the median of all samples. A benchmark imports torch, funrl and
other libraries only where it measures: funrl comes before torch, whose threads then wait as funrl wants, and the interpreter of the
others need not hold funrl.
"""

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Benchmark", "Case", "Figures", "Library", "Options", "last_line", "say", "speed", "versions"]

# What was measured: for each row, the number of each library (or, of a benchmark that is not of speed, whatever its table shows).
Figures = dict[str, dict[str, Any]]


class Options(NamedTuple):
    """Options from the command line.

    Attributes:
        quick: fewer rounds, shorter samples, and only the cases that are meant for it.
        peers: the interpreter that runs the other libraries.
        only: a case runs if one of these is part of its name; all run if there is none.
        rounds: how often libraries take turns; ``None`` leaves it to the benchmark.
        seconds: the least time of a sample; ``None`` leaves it to the benchmark.
    """

    quick: bool = False
    peers: str = sys.executable
    only: tuple[str, ...] = ()
    rounds: int | None = None
    seconds: float | None = None

    def wants(self, case: str, quick: bool = True) -> bool:
        """Return whether to run the case called ``case``, which is part of a quick run or not."""
        return (quick or not self.quick) and (not self.only or any(part in case for part in self.only))


class Benchmark(NamedTuple):
    """A benchmark, which ``python -m benchmarks NAME`` runs.

    Attributes:
        summary: one line.
        packages: distributions of other libraries that it needs.
        run: ``run(options)`` yields figures as they come; they are kept even if it is interrupted.
        notes: Markdown lines below the title, from the newest figures of each row.
        unit: of the numbers of all rows that do not end with another one in parentheses; empty: it is no benchmark of speed, and its
            notes show all.
        lower: whether a lower number is the faster one.
        targets: for a row and a library, how many times as fast as it funrl has to be.
        measure: the functions that a process measures with, see :func:`speed`.
    """

    summary: str
    packages: tuple[str, ...]
    run: Callable[[Options], Iterator[Figures]]
    notes: Callable[[Figures], list[str]]
    unit: str = ""
    lower: bool = False
    targets: Mapping[tuple[str, str], float] = {}
    measure: Callable[[str, int, float], Any] | None = None


class Library(NamedTuple):
    """A way to measure.

    Attributes:
        measure: ``measure(*case.arguments, seconds)`` returns samples, each over at least so many seconds, or those of several rows by
            name.
        package: the distribution whose version is reported; ``None`` for funrl, which runs in this interpreter.
    """

    measure: Callable[..., list[float] | dict[str, list[float]]]
    package: str | None = None


class Case(NamedTuple):
    """A measurement in a process of its own.

    Attributes:
        name: its row, unless what measures it returns several.
        arguments: of the function that measures.
        libraries: those that are measured, funrl first.
        quick: whether it is part of a quick run.
    """

    name: str
    arguments: tuple[Any, ...]
    libraries: Mapping[str, Library]
    quick: bool = True


def speed(
    name: str,
    summary: str,
    cases: Sequence[Case],
    *,
    unit: str,
    lower: bool = False,
    targets: Mapping[tuple[str, str], float],
    seconds: float,
    rounds: int,
    notes: Callable[[Figures], list[str]] = lambda figures: [],
) -> Benchmark:
    """Make a benchmark of speed.

    Args:
        name: the module.
        summary: one line.
        cases: what is measured; a row compares all libraries with the one called funrl.
        unit: of samples.
        lower: whether less is faster.
        targets: see :class:`Benchmark`.
        seconds: the least time of a sample in a full run; a quarter of it in a quick one.
        rounds: of a full run; a quick one has one.
        notes: see :class:`Benchmark`.
    """

    def run(options: Options) -> Iterator[Figures]:
        length = options.seconds or (seconds / 4 if options.quick else seconds)
        turns = options.rounds or (1 if options.quick else rounds)
        samples: dict[str, dict[str, list[float]]] = {}
        for turn in range(turns):
            for number, case in enumerate(cases):
                if not options.wants(case.name, case.quick):
                    continue
                for library, (_, package) in case.libraries.items():
                    say(f"{name}, round {turn + 1} of {turns}: {case.name}: {library}")
                    python = options.peers if package else sys.executable
                    arguments = ["--measure", library, "--case", str(number), "--seconds", str(length)]
                    found = last_line([python, "-W", "ignore", "-m", "benchmarks", name, *arguments])
                    for row, values in found.items():
                        samples.setdefault(row, {}).setdefault(library, []).extend(values)
                yield {row: {library: statistics.median(values) for library, values in found.items()} for row, found in samples.items()}

    def measure(library: str, number: int, seconds: float) -> dict[str, list[float]]:
        case = cases[number]
        result = case.libraries[library].measure(*case.arguments, seconds)
        return result if isinstance(result, dict) else {case.name: result}

    packages = tuple(dict.fromkeys(package for case in cases for _, package in case.libraries.values() if package))
    return Benchmark(summary, packages, run, notes, unit, lower, targets, measure)


def last_line(command: list[str], **environment: str) -> Any:
    """Run a command, with further variables of its environment, and return what the last line of its output has as JSON."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def versions(python: str, packages: Sequence[str]) -> dict[str, str | None]:
    """Return the versions of distributions in an interpreter; ``None`` for what it lacks."""
    if python == sys.executable:
        found: dict[str, str | None] = {}
        for package in packages:
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = None
        return found
    code = "import json, sys; from benchmarks.harness import versions; print(json.dumps(versions(sys.executable, sys.argv[1:])))"
    return last_line([python, "-c", code, *packages])


def say(text: str) -> None:
    """Print the name of the present measurement."""
    print(text, file=sys.stderr, flush=True)
