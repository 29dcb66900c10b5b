"""PPO on CartPole-v1: throughput after compilation beside other libraries, time of a first call, and a busy machine.

    python -m benchmarks.ppo --peers /path/to/python        (an interpreter that has the ``bench`` extra; this one by default)

Every measurement is a process of its own, one after another, on a machine that should do nothing else; libraries take turns,
so that a slow minute hits all. A throughput is the median of all samples, in environment steps a second over all agents. Writes
``benchmarks/results/ppo.json`` and ``ppo.md``, and prints the table.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import last_line, say

RESULTS = Path(__file__).parent / "results"
SIZES = ((64, 128, 1), (4, 128, 1), (16, 128, 8))
# Two threads gain where the work is one large batch, and lose elsewhere: see funrl.compile.
THREADS = {(64, 128, 1): 2, (16, 128, 8): 2}
PEERS = {"sb3": ((64, 1), (4, 1)), "torchrl": ((64, 1), (4, 1)), "torchrl_serial": ((64, 1),), "rejax": ((64, 1), (4, 1), (16, 8))}
# (peer, environments, agents): the least ratio of our throughput to theirs.
TARGETS = {
    ("sb3", 64, 1): 5.0,
    ("torchrl", 64, 1): 25.0,
    ("torchrl_serial", 64, 1): 25.0,
    ("rejax", 64, 1): 1.0,
    ("sb3", 4, 1): 10.0,
    ("rejax", 4, 1): 0.6,
    ("rejax", 16, 8): 1.2,
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="the interpreter that runs the other libraries")
    parser.add_argument("--seconds", type=float, default=4.0, help="the least time of a sample")
    parser.add_argument("--rounds", type=int, default=3, help="how often the libraries take turns")
    parser.add_argument("--sizes", type=int, nargs="+", choices=range(len(SIZES)), default=range(len(SIZES)), help="which of SIZES")
    parser.add_argument("--measure", choices=("throughput", "first", "run"), help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, nargs=3, default=SIZES[0], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure = {"throughput": throughput, "first": first_call, "run": whole_run}[arguments.measure]
        print(json.dumps(measure(*arguments.size, seconds=arguments.seconds)))
        return
    report(arguments)


def program(num_envs: int, num_steps: int, num_agents: int) -> tuple[Any, Any, Any]:
    """Return the compiled update, the first state, and a function from the update's number to its key."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    from benchmarks.ppo_peers import SETTINGS

    options = {name: getattr(SETTINGS, name) for name in ("num_epochs", "num_minibatches", "learning_rate", "gamma", "lambda_", "clip")}
    options |= {name: getattr(SETTINGS, name) for name in ("entropy_weight", "value_weight", "max_grad_norm")}
    algo = funrl.algos.ppo.make(
        funrl.envs.make("CartPole-v1"), num_envs=num_envs, num_steps=num_steps, num_cells=SETTINGS.hidden, **options
    )
    key, threads = funrl.random.key(0), THREADS.get((num_envs, num_steps, num_agents), 1)
    if num_agents == 1:
        return funrl.compile(algo.step, donate=1, threads=threads), algo.init(key), lambda i: funrl.random.fold_in(key, i)
    keys = funrl.random.split(key, num_agents)
    step = funrl.compile(torch.func.vmap(algo.step), donate=1, threads=threads)
    return step, torch.func.vmap(algo.init)(keys), lambda i: torch.func.vmap(lambda k: funrl.random.fold_in(k, i))(keys)


def throughput(num_envs: int, num_steps: int, num_agents: int, *, seconds: float) -> dict[str, Any]:
    """Return samples of steps a second, each over at least ``seconds``."""
    step, state, key = program(num_envs, num_steps, num_agents)
    update, samples = 0, []
    for sample in range(4):
        start, updates = time.perf_counter(), 0
        while updates < 3 or time.perf_counter() - start < seconds:
            state, _ = step(key(update), state)
            update, updates = update + 1, updates + 1
        if sample:  # the first holds the compilation
            samples.append(updates * num_envs * num_steps * num_agents / (time.perf_counter() - start))
    return {"samples": samples}


def first_call(num_envs: int, num_steps: int, num_agents: int, *, seconds: float) -> dict[str, Any]:
    """Return the seconds of the first call, and of the second."""
    step, state, key = program(num_envs, num_steps, num_agents)
    times = []
    for update in range(2):
        start = time.perf_counter()
        state, _ = step(key(update), state)
        times.append(time.perf_counter() - start)
    return {"first": times[0], "second": times[1]}


def whole_run(num_envs: int, num_steps: int, num_agents: int, *, seconds: float) -> dict[str, Any]:
    """Return the seconds of 500,000 steps after compilation."""
    step, state, key = program(num_envs, num_steps, num_agents)
    state, _ = step(key(0), state)
    start = time.perf_counter()
    for update in range(500_000 // (num_envs * num_steps)):
        state, metrics = step(key(update + 1), state)
    return {"seconds": time.perf_counter() - start, "return": float(metrics["episode_return"])}


def ours(measure: str, size: tuple[int, int, int], seconds: float, **environment: str) -> dict[str, Any]:
    """Measure funrl in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.ppo", "--measure", measure, "--seconds", str(seconds), "--size", *map(str, size)]
    return last_line(command, **environment)


def theirs(python: str, peer: str, size: tuple[int, int, int], seconds: float) -> dict[str, Any]:
    """Measure another library in a process of its own."""
    num_envs, num_steps, num_agents = size
    sizes = ["--num-envs", str(num_envs), "--num-steps", str(num_steps), "--num-agents", str(num_agents)]
    return last_line([python, "-m", "benchmarks.ppo_peers", peer, *sizes, "--seconds", str(seconds), "--repeats", "3"])


def busy_run(size: tuple[int, int, int], seconds: float) -> dict[str, Any]:
    """Time a whole run while another process keeps one core busy."""
    spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return ours("run", size, seconds)
    finally:
        spinner.kill()
        spinner.wait()


def report(arguments: argparse.Namespace) -> None:
    """Measure everything, write the results and print them."""
    samples: dict[str, list[float]] = {}
    versions: dict[str, str] = {}
    for turn in range(arguments.rounds):
        for size in (SIZES[i] for i in arguments.sizes):
            place = f"{size[0]}x{size[2]}"
            say(f"round {turn + 1}: {size[0]} environments, {size[2]} agents: funrl")
            samples.setdefault(f"funrl/{place}", []).extend(ours("throughput", size, arguments.seconds)["samples"])
            for peer, sizes in PEERS.items():
                if (size[0], size[2]) in sizes:
                    say(f"round {turn + 1}: {size[0]} environments, {size[2]} agents: {peer}")
                    result = theirs(arguments.peers, peer, size, arguments.seconds)
                    samples.setdefault(f"{peer}/{place}", []).extend(result["samples"])
                    versions[peer] = result["version"]
    path = RESULTS / "ppo.json"
    if path.exists():  # sizes that were not measured now keep what was measured before
        before = json.loads(path.read_text())
        samples = {**before["samples"], **samples}
        versions = {**{name: before["versions"][name] for name in PEERS if name in before["versions"]}, **versions}
    medians = {name: statistics.median(values) for name, values in samples.items()}
    with tempfile.TemporaryDirectory() as cache:
        say("first call, nothing cached")
        cold = ours("first", SIZES[0], 0, TORCHINDUCTOR_CACHE_DIR=cache)
        say("first call in a second process")
        warm = ours("first", SIZES[0], 0, TORCHINDUCTOR_CACHE_DIR=cache)
    say("a run of 500,000 steps, quiet and beside a busy process")
    quiet, busy = ours("run", SIZES[0], 0), busy_run(SIZES[0], 0)
    import torch

    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **versions},
        "medians": medians,
        "samples": samples,
        "first_call": {"cold": cold, "second_process": warm},
        "run_of_500000_steps": {"quiet": quiet, "busy": busy},
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    text = _table(record)
    (RESULTS / "ppo.md").write_text(text)
    print(text)


def _table(record: dict[str, Any]) -> str:
    medians = record["medians"]
    lines = [
        f"# PPO on CartPole-v1 ({record['date']}, {record['machine']})",
        "",
        "Environment steps a second after compilation, medians; made by `python -m benchmarks.ppo`.",
        ", ".join(f"{name} {number}" for name, number in record["versions"].items()) + ".",
        "",
        "| environments x agents | library | steps/s | funrl is faster by | target |",
        "|---|---|---|---|---|",
    ]
    for num_envs, _, num_agents in SIZES:
        place = f"{num_envs}x{num_agents}"
        own = medians[f"funrl/{place}"]
        lines.append(f"| {num_envs} x {num_agents} | funrl | {own:,.0f} | | |")
        for peer in PEERS:
            if f"{peer}/{place}" in medians:
                target = TARGETS.get((peer, num_envs, num_agents))
                goal = f"{target} x" if target else ""
                lines.append(f"| | {peer} | {medians[f'{peer}/{place}']:,.0f} | {own / medians[f'{peer}/{place}']:.2f} x | {goal} |")
    first, run = record["first_call"], record["run_of_500000_steps"]
    ratio = run["busy"]["seconds"] / run["quiet"]["seconds"]
    lines += [
        "",
        f"First call of one update (64 environments): {first['cold']['first']:.1f} s with nothing cached (target 45), "
        f"{first['second_process']['first']:.1f} s in a second process (target 12).",
        f"A run of 500,000 steps: {run['quiet']['seconds']:.2f} s quiet, {run['busy']['seconds']:.2f} s "
        f"beside a process that keeps one core busy: {ratio:.2f} x (target 3).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
