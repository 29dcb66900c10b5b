"""SAC and DQN: gradient steps a second beside other libraries, of several agents at once, and with a larger buffer.

    python -m benchmarks.off_policy --peers /path/to/python     (an interpreter that has the ``bench`` extra; this one by default)

One gradient step on a batch of 256 to each step of one environment. Every measurement is a process of its own, one after another, on a
machine that should do nothing else; libraries take turns, so that a slow minute hits all. A rate is the median of all samples, over
all agents. Writes ``benchmarks/results/off_policy.json`` and ``off_policy.md``, and prints the table.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.off_policy_peers import ENVIRONMENTS, SETTINGS
from benchmarks.processes import last_line, say

RESULTS = Path(__file__).parent / "results"
GFLOP_OF_SAC_256 = 0.55  # of a gradient step with two hidden layers of 256


class Case(NamedTuple):
    """What is timed.

    Attributes:
        algorithm: a key of ENVIRONMENTS.
        width: units of each of two hidden layers.
        num_agents: agents in one program.
        capacity: of the buffer.
    """

    algorithm: str
    width: int
    num_agents: int = 1
    capacity: int = SETTINGS.buffer_size

    def __str__(self) -> str:
        return f"{self.algorithm} {self.width}x{self.width}, {self.num_agents} agents, {self.capacity:,} transitions"


# Each case, and the least ratio of our rate to that of a peer.
CASES: dict[Case, dict[str, float]] = {
    Case("sac", 256): {"sb3": 2.5},
    Case("sac", 64): {"sb3": 8.0, "rejax": 0.8},
    Case("sac", 64, num_agents=8): {"rejax": 1.0},
    Case("sac", 64, capacity=2 * SETTINGS.buffer_size): {},
    Case("dqn", 64): {"sb3": 8.0, "rejax": 0.8},
    Case("dqn", 64, num_agents=8): {"rejax": 1.0},
    Case("dqn", 64, capacity=2 * SETTINGS.buffer_size): {},
}
# Two threads gain where the work is one large batch: see funrl.compile.
THREADS: dict[tuple[str, int, int], int] = {("sac", 256, 1): 2}


def rate(case: Case, seconds: float) -> list[float]:
    """Return gradient steps a second of funrl, over at least ``seconds`` each."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    options = {name: getattr(SETTINGS, name) for name in ("batch_size", "learning_starts", "learning_rate", "gamma")}
    options["tau" if case.algorithm == "sac" else "target_period"] = SETTINGS.tau if case.algorithm == "sac" else SETTINGS.target_period
    env = funrl.envs.make(ENVIRONMENTS[case.algorithm])
    algo = funrl.algos.make(case.algorithm, env, buffer_size=case.capacity, num_cells=(case.width, case.width), **options)
    threads, key = THREADS.get(case[:3], 1), funrl.random.key(0)
    if case.num_agents == 1:
        step, state, key_of = funrl.compile(algo.step, donate=1, threads=threads), algo.init(key), lambda i: funrl.random.fold_in(key, i)
    else:
        keys = funrl.random.split(key, case.num_agents)
        step, state = funrl.compile(torch.func.vmap(algo.step), donate=1, threads=threads), torch.func.vmap(algo.init)(keys)
        key_of = lambda i: torch.func.vmap(lambda k: funrl.random.fold_in(k, i))(keys)  # noqa: E731
    update, samples = 0, []
    for sample in range(4):
        start, updates = time.perf_counter(), 0
        while updates < 3 or time.perf_counter() - start < seconds or update * algo.steps_per_update < SETTINGS.learning_starts:
            state, _ = step(key_of(update), state)
            update, updates = update + 1, updates + 1
        if sample:  # the first holds the compilation
            samples.append(updates * algo.config.num_updates * case.num_agents / (time.perf_counter() - start))
    return samples


def products(seconds: float) -> list[float]:
    """Return GFLOP a second of products [256, 256] x [256, 256], the heaviest of SAC's with 256 units."""
    import torch

    import funrl  # noqa: F401

    torch.set_num_threads(THREADS["sac", 256, 1])
    a, b, out = (torch.randn(256, 256) for _ in range(3))
    samples = []
    for _ in range(4):
        start, n = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            for _ in range(100):
                torch.mm(a, b, out=out)
            n += 100
        samples.append(n * 2 * 256**3 / 1e9 / (time.perf_counter() - start))
    return samples[1:]


def _ours(what: str, case: Case, seconds: float) -> list[float]:
    arguments = ["--measure", what, "--case", *map(str, case), "--seconds", str(seconds)]
    return _measured([sys.executable, "-m", "benchmarks.off_policy", *arguments])


def _theirs(python: str, peer: str, case: Case, seconds: float) -> dict[str, Any]:
    case_arguments = ["--algorithm", case.algorithm, "--width", str(case.width), "--num-agents", str(case.num_agents)]
    return _measured([python, "-m", "benchmarks.off_policy_peers", peer, *case_arguments, "--seconds", str(seconds)])


def _measured(command: list[str]) -> Any:
    say(" ".join(command[2:]))
    return last_line(command)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="the interpreter that runs the other libraries")
    parser.add_argument("--seconds", type=float, default=3.0, help="the least time of a sample")
    parser.add_argument("--rounds", type=int, default=2, help="how often the libraries take turns")
    parser.add_argument("--measure", choices=("rate", "products"), help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure == "rate":
        algorithm, *numbers = arguments.case
        print(json.dumps(rate(Case(algorithm, *map(int, numbers)), arguments.seconds)))
    elif arguments.measure == "products":
        print(json.dumps(products(arguments.seconds)))
    else:
        report(arguments)


def report(arguments: argparse.Namespace) -> None:
    """Measure everything, write the results and print them."""
    samples: dict[str, list[float]] = {}
    versions: dict[str, str] = {}
    for _ in range(arguments.rounds):
        samples.setdefault("products", []).extend(_ours("products", Case("sac", 256), arguments.seconds))
        for case, targets in CASES.items():
            samples.setdefault(f"funrl: {case}", []).extend(_ours("rate", case, arguments.seconds))
            for peer in targets:
                result = _theirs(arguments.peers, peer, case, arguments.seconds)
                samples.setdefault(f"{peer}: {case}", []).extend(result["samples"])
                versions[peer] = result["version"]
    import torch

    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **versions},
        "medians": {name: statistics.median(values) for name, values in samples.items()},
        "samples": samples,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "off_policy.json").write_text(json.dumps(record, indent=1) + "\n")
    text = _table(record)
    (RESULTS / "off_policy.md").write_text(text)
    print(text)


def _table(record: dict[str, Any]) -> str:
    medians = record["medians"]
    lines = [
        f"# SAC on Pendulum-v1, DQN on CartPole-v1 ({record['date']}, {record['machine']})",
        "",
        f"Gradient steps a second on batches of {SETTINGS.batch_size}, one to each environment step, medians over all agents; made by "
        "`python -m benchmarks.off_policy`.",
        ", ".join(f"{name} {number}" for name, number in record["versions"].items()) + ".",
        "",
        "| | library | steps/s | funrl is faster by | target |",
        "|---|---|---|---|---|",
    ]
    for case, targets in CASES.items():
        own = medians[f"funrl: {case}"]
        lines.append(f"| {case} | funrl | {own:,.0f} | | |")
        for peer, target in targets.items():
            theirs = medians[f"{peer}: {case}"]
            lines.append(f"| | {peer} | {theirs:,.0f} | {own / theirs:.2f} x | {target} x |")
    wide = medians[f"funrl: {Case('sac', 256)}"] * GFLOP_OF_SAC_256
    lines += ["", f"Products of matrices [256, 256] run at {medians['products']:,.0f} GFLOP/s; SAC with 256 units does {wide:,.0f}, "]
    lines[-1] += f"{wide / medians['products']:.2f} of it (target 0.5)."
    for name in ENVIRONMENTS:
        one, eight, twice = (
            medians[f"funrl: {case}"] for case in (Case(name, 64), Case(name, 64, 8), Case(name, 64, 1, 2 * SETTINGS.buffer_size))
        )
        lines.append(
            f"{name}: 8 agents at once run at {eight / one:.2f} x the rate of 8 one after another (target 1.5); a step with twice the "
            f"buffer takes {one / twice:.2f} x the time (target below 1.1)."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
