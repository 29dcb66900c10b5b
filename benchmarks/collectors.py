"""Collectors: frames a second beside TorchRL's, and beside environments that are only stepped; and memory over a long time.

    python -m benchmarks.collectors --peers /path/to/python     (an interpreter that has the ``bench`` extra; this one by default)
    python -m benchmarks.collectors --soak 30                   (minutes; prints the memory that all processes hold)

Every measurement is a process of its own, which starts workers, one after another, on a machine that should do nothing else; libraries
take turns. A rate is the median of all samples, in environment steps a second. Writes ``benchmarks/results/collectors.json`` and
``collectors.md``, and prints the table; the memory goes to ``collectors_soak.md``.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.collectors_peers import HIDDEN, SETTINGS
from benchmarks.processes import last_line, say

RESULTS = Path(__file__).parent / "results"
ENVIRONMENTS = ("Pendulum-v1", "HalfCheetah-v5")
# For each of our collectors: what acts, whom it is held against, and the least ratio of our rate to theirs.
TARGETS = {
    "synchronous": ("random", "bare", 1 / 1.25),
    "asynchronous": ("random", "bare", 1 / 1.25),
    "synchronous, policy": ("policy", "torchrl-sync", 1.5),
    "asynchronous, policy": ("policy", "torchrl-async", 1.5),
}


def collector(name: str, kind: str, acts: str) -> Any:
    """Return a collector that goes on for ever, and its parameters."""
    import torch

    import funrl
    from funrl import collectors, distributions, nn, policies, random

    num_envs = SETTINGS.num_envs
    with funrl.envs.gymnasium.make(name) as env:
        outputs, (inputs,) = env.action_space.shape[0], env.observation_space.shape
    policy = policies.stochastic(
        nn.sequential(lambda x: x.to(torch.float32), nn.mlp(HIDDEN, outputs)),
        lambda loc: distributions.Independent(distributions.Normal(loc, torch.ones_like(loc)), 1),
    )
    params = policy.init(random.key(1), torch.zeros(inputs)) if acts == "policy" else ()
    frames = num_envs * SETTINGS.num_steps * (SETTINGS.num_workers if kind == "synchronous" else 1)
    make = getattr(collectors, kind)
    return make(
        lambda: funrl.envs.gymnasium.make(name, num_envs=num_envs),
        policy.act if acts == "policy" else None,
        params,
        num_workers=SETTINGS.num_workers,
        frames_per_batch=frames,
        total_frames=-1,
    ), params


def rate(name: str, kind: str, acts: str, seconds: float) -> list[float]:
    """Return frames a second of a collector whose learner does nothing but publish its parameters again."""
    import torch

    torch.set_num_threads(1)
    made, params = collector(name, kind, acts)
    samples = []
    with made as batches:
        for _ in range(2):
            next(batches)
        for _ in range(3):
            start, steps = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                steps += next(batches).mask.numel()
                batches.update_params(params)
            samples.append(steps / (time.perf_counter() - start))
    return samples


def soak(minutes: float) -> None:
    """Collect asynchronously for so long; print and write what memory the learner and the workers hold."""
    import torch

    torch.set_num_threads(1)
    made, params = collector(ENVIRONMENTS[0], "asynchronous", "policy")
    lines = [f"# Memory of asynchronous collection ({time.strftime('%Y-%m-%d')}, {ENVIRONMENTS[0]}, {SETTINGS.num_workers} workers)", ""]
    lines += ["Proportional set size in MB, made by `python -m benchmarks.collectors --soak MINUTES`.", ""]
    lines += ["| minutes | frames | learner | workers |", "|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    curve = []
    with made as batches:
        start, number = time.monotonic(), 0
        while number <= 30:
            next(batches)
            batches.update_params(params)
            elapsed = (time.monotonic() - start) / 60
            if elapsed >= number * minutes / 30:
                curve.append((memory(os.getpid()), sum(map(memory, batches.processes))))
                lines.append(f"| {elapsed:.2f} | {batches.frames:,} | {curve[-1][0]:.1f} | {curve[-1][1]:.1f} |")
                print(lines[-1], flush=True)
                number += 1
    # The first sixth warms up.
    growth = [column[-1] / column[len(column) // 6] - 1 for column in zip(*curve, strict=True)]
    lines += ["", f"From the sixth row on the learner's grows by {growth[0]:.1%}, that of the workers by {growth[1]:.1%}."]
    print(lines[-1])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "collectors_soak.md").write_text("\n".join([*lines, ""]))


def memory(process: int) -> float:
    """Return what a process holds in MB; of what several share, its part."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"there is no Pss in /proc/{process}/smaps_rollup")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="the interpreter that runs the other libraries")
    parser.add_argument("--seconds", type=float, default=2.0, help="the least time of a sample")
    parser.add_argument("--rounds", type=int, default=2, help="how often the libraries take turns")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="collect for so long and print the memory")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.soak is not None:
        soak(arguments.soak)
    elif arguments.measure:
        print(json.dumps({"samples": rate(*arguments.measure, arguments.seconds)}))
    else:
        report(arguments)


def report(arguments: argparse.Namespace) -> None:
    """Measure everything, write the results and print them."""
    samples: dict[str, list[float]] = {}
    versions: dict[str, str] = {}
    seconds = ["--seconds", str(arguments.seconds)]
    for turn in range(arguments.rounds):
        for name in ENVIRONMENTS:
            for what, (acts, *_) in TARGETS.items():
                say(f"round {turn + 1}: {name}: funrl, {what}")
                kind = what.removesuffix(", policy")
                command = [sys.executable, "-m", "benchmarks.collectors", *seconds, "--measure", name, kind, acts]
                samples.setdefault(f"funrl, {what}/{name}", []).extend(last_line(command)["samples"])
            for peer in dict.fromkeys(peer for _, peer, _ in TARGETS.values()):
                say(f"round {turn + 1}: {name}: {peer}")
                result = last_line([arguments.peers, "-m", "benchmarks.collectors_peers", peer, "--env", name, *seconds])
                samples.setdefault(f"{peer}/{name}", []).extend(result["samples"])
                versions[result["peer"]] = result["version"]
    import torch

    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **versions},
        "medians": {name: statistics.median(values) for name, values in samples.items()},
        "samples": samples,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "collectors.json").write_text(json.dumps(record, indent=1) + "\n")
    text = _table(record)
    (RESULTS / "collectors.md").write_text(text)
    print(text)


def _table(record: dict[str, Any]) -> str:
    medians = record["medians"]
    lines = [
        f"# Collectors ({record['date']}, {record['machine']})",
        "",
        f"Environment steps a second, medians; made by `python -m benchmarks.collectors`. {SETTINGS.num_workers} workers with "
        f"{SETTINGS.num_envs} copies each, {SETTINGS.num_steps} steps of each in a batch. A policy has {' x '.join(map(str, HIDDEN))} tanh "
        "units. `bare` are as many processes that step gymnasium's SyncVectorEnv, and do and keep nothing else.",
        ", ".join(f"{name} {number}" for name, number in record["versions"].items()) + ".",
        "",
        "| environment | collector | steps/s | beside | steps/s | funrl is faster by | target |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ENVIRONMENTS:
        for what, (_, peer, target) in TARGETS.items():
            own, there = medians[f"funrl, {what}/{name}"], medians[f"{peer}/{name}"]
            lines.append(f"| {name} | {what} | {own:,.0f} | {peer} | {there:,.0f} | {own / there:.2f} x | {target:.2g} x |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
