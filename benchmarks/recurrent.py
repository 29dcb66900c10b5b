"""What a memory is good for, and what its compilation costs: PPO with a recurrent policy in MemoryChain.

    python -m benchmarks.recurrent [--only recall | compile]

A bit has to be recalled 20 steps after it was shown. The agents of a row, which differ by their seeds, are one vmapped program, and
are evaluated over 100 episodes each without exploration. The learning step of one agent is compiled for rollouts of 32 and of 256 steps,
each in a process of its own that finds nothing compiled; they take turns, and the fastest of each counts. Writes
``benchmarks/results/recurrent.json`` and ``recurrent.md``.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
import torch

from funrl import random, training

RESULTS = Path(__file__).parent / "results"
NUM_AGENTS = 5
LENGTH = 20
STEPS = (32, 256)
PRESET = training.preset("ppo", "MemoryChain-bsuite")
POLICIES = ("gru", "none")
CHANCE = 0.5


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("recall", "compile"), help="one of the two parts; both by default")
    parser.add_argument("--rounds", type=int, default=1, help="how often the compilations take turns")
    parser.add_argument("--measure", type=int, metavar="T", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(compile_seconds(arguments.measure)))
        return
    path = RESULTS / "recurrent.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    machine = {"date": time.strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, {os.cpu_count()} cores", "torch": torch.__version__}
    parts = {"recall": lambda: [recall(policy) for policy in POLICIES], "compile": lambda: compilations(arguments.rounds)}
    RESULTS.mkdir(exist_ok=True)
    for part in [arguments.only] if arguments.only else parts:
        record[part] = {**machine, "rows": parts[part]()}
        path.write_text(json.dumps(record, indent=1) + "\n")
    text = table(record)
    (RESULTS / "recurrent.md").write_text(text)
    print(text)


def recall(policy: str) -> dict[str, Any]:
    """Train the agents with one kind of memory and return how often each of them is right."""
    env = funrl.envs.memory_chain(LENGTH)
    algo = funrl.algos.make("ppo", env, **{**PRESET.options, "recurrent": policy})
    result = funrl.train(algo, random.key(0), PRESET.total_steps, num_agents=NUM_AGENTS, evaluate_episodes=100)
    return {
        "recurrent": policy,
        "steps": result.steps,
        "seconds": result.seconds,
        "compile_seconds": result.compile_seconds,
        "right": (result.evaluation.episode_return > 0).double().mean(-1).tolist(),
    }


def compilations(rounds: int) -> list[dict[str, Any]]:
    """Compile in fresh processes with an empty cache each; return the seconds of each number of steps."""
    seconds: dict[int, list[float]] = {number: [] for number in STEPS}
    for turn in range(rounds):
        for number in STEPS if turn % 2 == 0 else reversed(STEPS):
            print(f"round {turn + 1}: {number} steps", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as cache:
                environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
                command = [sys.executable, "-W", "ignore", "-m", "benchmarks.recurrent", "--measure", str(number)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
            seconds[number].append(json.loads(done.stdout.strip().splitlines()[-1]))
    return [{"num_steps": number, "seconds": min(found), "rounds": found} for number, found in seconds.items()]


def compile_seconds(num_steps: int) -> float:
    """Return how long the first step of one agent takes beyond the second, which finds the program made."""
    algo = funrl.algos.make("ppo", funrl.envs.memory_chain(LENGTH), **{**PRESET.options, "num_steps": num_steps})
    step, state = funrl.compile(algo.step), algo.init(random.key(0))
    times = []
    for i in range(2):
        start = time.perf_counter()
        step(random.key(i), state)
        times.append(time.perf_counter() - start)
    return times[0] - times[1]


def table(record: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = ["# PPO with a memory", "", "Made by `python -m benchmarks.recurrent`.", ""]
    if "recall" in record:
        part = record["recall"]
        lines += [
            f"## Recalling a bit after {LENGTH} steps ({part['date']}, {part['machine']}, torch {part['torch']})",
            "",
            f"MemoryChain: {NUM_AGENTS} agents as one program, 100 episodes each; by chance {CHANCE:.0%} of the answers are right.",
            "",
            "| recurrent | steps of each | seconds (compiling) | right, each agent |",
            "|---|---|---|---|",
        ]
        rows = {row["recurrent"]: row for row in part["rows"]}
        for row in rows.values():
            right = ", ".join(f"{x:.0%}" for x in row["right"])
            lines.append(f"| {row['recurrent']} | {row['steps']:,} | {row['seconds']:.0f} ({row['compile_seconds']:.0f}) | {right} |")
        best, blind = min(rows["gru"]["right"]), max(rows["none"]["right"])
        lines += [
            "",
            f"With a GRU the worst agent is right in {best:.0%} of the episodes (target 95%: {'yes' if best >= 0.95 else 'NO'}); "
            f"without memory the best is in {blind:.0%} (chance, less than 65%: {'yes' if blind < 0.65 else 'NO'}).",
            "",
        ]
    if "compile" in record:
        part = record["compile"]
        seconds = {row["num_steps"]: row["seconds"] for row in part["rows"]}
        few, many = (seconds[number] for number in STEPS)
        lines += [
            f"## Compiling the learning step ({part['date']}, {part['machine']}, torch {part['torch']})",
            "",
            "Rollout, backpropagation through all its steps, and 16 steps of Adam, in a process that finds nothing compiled.",
            "",
            "| steps of a rollout | seconds |",
            "|---|---|",
            *(f"| {number} | {x:.1f} |" for number, x in seconds.items()),
            "",
            f"{STEPS[1]} steps take {many / few - 1:+.0%} of the time of {STEPS[0]} (target: less than 20% apart: "
            f"{'yes' if abs(many / few - 1) < 0.2 else 'NO'}).",
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
