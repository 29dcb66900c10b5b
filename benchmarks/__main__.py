"""Measure funrl, and other libraries in the same session.

    python -m benchmarks                       # what there is
    python -m benchmarks all --quick           # a part of most, with one round and short samples; long learning runs have none
    python -m benchmarks ppo off_policy        # full figures
    python -m benchmarks off_policy --only dqn # the cases whose name holds that

The other libraries come from the ``bench`` extra, whose versions are pinned: ``pip install -e ".[bench]"``, here or in another
environment, whose interpreter is then given as ``--peers PYTHON``. A run appends a line to ``benchmarks/results/history.jsonl``, and makes
``benchmarks/results/README.md`` and its plots from all of them (``table`` does only that).
"""

import argparse
import importlib
import json
import sys
import time

from benchmarks import history
from benchmarks.harness import Benchmark, Figures, Options, say, versions

NAMES = (
    "compile",
    "ppo",
    "off_policy",
    "environments",
    "collectors",
    "buffers",
    "returns",
    "modules",
    "recurrent",
    "meta",
    "meta_learning",
    "analytic",
    "hierarchy",
    "multi_task",
    "curves",
    "learning",
    "populations",
    "gpu",
)
SPECIAL = {"gpu"}  # not among all: not every machine has what they need
# The rooms of funrl that a benchmark measures, where they are not OTHERS: figures from before their newest commit are marked in the table.
OTHERS = "acting algos compiler"
ROOMS = {
    "compile": "algos compiler",
    "off_policy": "acting algos buffers compiler losses",
    "environments": "acting compiler envs",
    "collectors": "collectors envs",
    "buffers": "buffers compiler",
    "returns": "compiler returns",
    "modules": "compiler nn",
    "recurrent": "acting algos compiler nn",
    "meta": "compiler meta",
    "meta_learning": "acting algos compiler meta",
    "analytic": "acting algos compiler envs",
    "hierarchy": "acting algos buffers compiler meta",
    "multi_task": "acting algos compiler meta",
    "learning": "acting algos buffers envs losses training",
    "populations": "acting algos compiler populations",
}


def load(name: str) -> Benchmark:
    """Return the benchmark of a name."""
    return importlib.import_module(f"benchmarks.{name}").BENCHMARK


def run(name: str, options: Options) -> None:
    """Run a benchmark, and keep each figure as it comes."""
    benchmark, start, started = load(name), time.perf_counter(), time.time()
    peers = versions(options.peers, benchmark.packages)
    found: Figures = {}
    for figures in benchmark.run(options):
        found |= figures
        history.append(name, found, peers, quick=options.quick, seconds=time.perf_counter() - start, started=started)


def check_peers(names: list[str], peers: str) -> None:
    """End with a remedy if the interpreter of the peers lacks what the benchmarks need."""
    needed = tuple(dict.fromkeys(package for name in names for package in load(name).packages))
    missing = [package for package, version in versions(peers, needed).items() if version is None]
    if missing:
        raise SystemExit(
            f'benchmarks: {peers} lacks {", ".join(missing)}, with which funrl is compared: pip install -e ".[bench]", or give '
            "the interpreter of an environment that has it, as --peers PYTHON"
        )


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, table, or some of {', '.join(NAMES)}; none lists them")
    parser.add_argument(
        "--quick", action="store_true", help="one round, short samples and fewer cases; the table says which rows are quick"
    )
    parser.add_argument(
        "--peers", metavar="PYTHON", default=sys.executable, help="the interpreter of the other libraries (default: this one)"
    )
    parser.add_argument("--only", nargs="+", default=(), metavar="TEXT", help="the cases whose names hold one of these")
    parser.add_argument("--rounds", type=int, help="how often the libraries take turns")
    parser.add_argument("--seconds", type=float, help="the least time of a sample")
    parser.add_argument("--measure", metavar="LIBRARY", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = [name for name in NAMES if name not in SPECIAL] if given.names == ["all"] else given.names
    unknown = [name for name in names if name not in (*NAMES, "table")]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; choose from all, table, {', '.join(NAMES)}")
    if given.measure:
        measure = load(names[0]).measure
        assert measure is not None
        print(json.dumps(measure(given.measure, given.case, given.seconds)))
        return
    if not names:
        width = max(map(len, NAMES))
        print("\n".join(f"{name:{width}}  {load(name).summary}" for name in NAMES))
        return
    start = time.perf_counter()
    names = [name for name in names if name != "table"]
    check_peers(names, given.peers)
    try:
        for name in names:
            run(name, Options(given.quick, given.peers, tuple(given.only), given.rounds, given.seconds))
    finally:
        history.write({name: load(name) for name in NAMES}, {name: ROOMS.get(name, OTHERS) for name in NAMES})
    say(f"{time.perf_counter() - start:.0f} s; see {history.TABLE}")


if __name__ == "__main__":
    main()
