"""Replay buffers beside TorchRL's and flashbax's: time of a call on the CPU, memory held, and a training program on a large buffer.

    python -m benchmarks.buffers --peers /path/to/python        (an interpreter that has the ``bench`` extra; this one by default)

Every measurement is a process of its own, one after another, on a machine that should do nothing else; libraries take turns. A time
is the median of all calls, in microseconds; a transition is 42 float32 numbers in five tensors, and the buffers are full. Writes
``benchmarks/results/buffers.json`` and ``buffers.md``, and prints the table.
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

from benchmarks.buffers_peers import ALPHA, BATCH, BETA, FIELDS, PEERS, ROWS, timed
from benchmarks.processes import last_line, say

RESULTS = Path(__file__).parent / "results"
CAPACITIES = (100_000, 1_000_000)
# (measure, peer): the greatest ratio of our time to theirs.
TARGETS = {
    ("sample", "torchrl"): 0.6,
    ("sample", "flashbax"): 1.0,
    ("extend", "torchrl"): 0.3,
    ("prioritized sample", "flashbax"): 1.0,
    ("update_priority", "flashbax"): 1.0,
}
MEASURES = (
    "sample",
    "extend",
    "extend_",
    "prioritized sample",
    "update_priority",
    "update_priority_",
    "prioritized extend",
    "prioritized extend_",
)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="the interpreter that runs the other libraries")
    parser.add_argument("--repeats", type=int, default=500, help="calls of each measure in a round")
    parser.add_argument("--rounds", type=int, default=3, help="how often the libraries take turns")
    parser.add_argument("--measure", choices=("calls", "program", "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--capacity", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure = {"calls": calls, "program": program, "memory": memory}[arguments.measure]
        print(json.dumps(measure(arguments.capacity, arguments.repeats)))
        return
    report(arguments)


def _rows(n: int) -> Any:
    import torch

    return {name: torch.rand(n, *shape) for name, shape in FIELDS.items()}


def _filled(buffer: Any, capacity: int) -> Any:
    from funrl import tree

    state = buffer.init(tree.index(_rows(1), 0))
    for start in range(0, capacity, 50_000):
        state = buffer.extend_(state, _rows(min(50_000, capacity - start)))
    return state


def calls(capacity: int, repeats: int) -> dict[str, Any]:
    """Return the microseconds of single calls: compiled, and of the twins ``extend_`` and ``update_priority_`` eagerly."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    from funrl import buffers, random

    keys = list(random.split(random.key(0), repeats + 20).unbind(0))
    rows, result = _rows(ROWS), {}
    torch.set_num_threads(1)

    def state_of(program: Any, state: Any, *arguments: Any) -> list[float]:
        box = [state]
        samples = timed(lambda i: box.__setitem__(0, program(box[0], *arguments)), repeats)
        state_of.last = box[0]
        return samples

    for prefix, buffer in (("", buffers.uniform(capacity)), ("prioritized ", buffers.prioritized(capacity, ALPHA, BETA))):
        state = _filled(buffer, capacity)
        if prefix:
            update = funrl.compile(lambda state, index, priority, b=buffer: b.update_priority(state, index, priority), donate=0)
            for start in range(0, capacity, 50_000):
                index = torch.arange(start, min(start + 50_000, capacity))
                state = buffer.update_priority_(state, index, torch.rand(len(index)))
            index, priority = torch.randint(capacity, (BATCH,)), torch.rand(BATCH)
            result["update_priority"] = state_of(update, state, index, priority)
            result["update_priority_"] = state_of(buffer.update_priority_, state_of.last, index, priority)
            state = state_of.last
        sample = funrl.compile(lambda key, state, b=buffer: b.sample(key, state, BATCH))
        result[f"{prefix}sample"] = timed(lambda i, s=sample, state=state: s(keys[i], state), repeats)
        extend = funrl.compile(lambda state, rows, b=buffer: b.extend(state, rows), donate=0)
        result[f"{prefix}extend"] = state_of(extend, state, rows)
        result[f"{prefix}extend_"] = state_of(buffer.extend_, state_of.last, rows)
    return {"samples": result}


def program(capacity: int, repeats: int) -> dict[str, Any]:
    """Return the microseconds of writing 64 rows and taking 8 gradient steps on samples of 256."""
    import funrl  # isort: skip
    import torch

    from funrl import buffers, random, tree

    buffer = buffers.uniform(capacity)
    state = _filled(buffer, capacity)

    def loss(params: Any, batch: Any) -> Any:
        hidden = torch.relu(batch["observation"] @ params["w"] + batch["action"] @ params["v"])
        return ((hidden @ params["u"]).squeeze(-1) - batch["reward"]).square().mean()

    def step(key: Any, state: Any, params: Any, rows: Any) -> Any:
        state = buffer.extend(state, rows)

        def one(params: Any, key: Any) -> Any:
            slope, value = torch.func.grad_and_value(loss)(params, buffer.sample(key, state, BATCH).batch)
            return tree.map(lambda p, s: p - 1e-3 * s, params, slope), value

        params, values = funrl.scan(one, params, random.split(key, 8))
        return state, params, values

    compiled = funrl.compile(step, donate=1)
    box = [state, {"w": torch.zeros(17, 64), "v": torch.zeros(6, 64), "u": torch.zeros(64, 1)}]
    keys, rows = list(random.split(random.key(0), repeats + 20).unbind(0)), _rows(ROWS)

    def call(i: int) -> None:
        box[0], box[1], _ = compiled(keys[i], box[0], box[1], rows)

    return {"samples": {"program": timed(call, repeats)}}


def memory(capacity: int, repeats: int) -> dict[str, Any]:
    """Return the bytes that a full buffer holds, for each byte of data."""
    from funrl import buffers, tree

    kinds = {"uniform": buffers.uniform(capacity), "prioritized": buffers.prioritized(capacity, ALPHA, BETA)}
    data = capacity * tree.nbytes(_rows(1))
    return {name: tree.nbytes(_filled(buffer, capacity)) / data for name, buffer in kinds.items()}


def ours(measure: str, capacity: int, repeats: int) -> dict[str, Any]:
    """Measure funrl in a process of its own."""
    sizes = ["--capacity", str(capacity), "--repeats", str(repeats)]
    return last_line([sys.executable, "-m", "benchmarks.buffers", "--measure", measure, *sizes])


def theirs(python: str, peer: str, capacity: int, repeats: int) -> dict[str, Any]:
    """Measure another library in a process of its own."""
    return last_line([python, "-m", "benchmarks.buffers_peers", peer, "--capacity", str(capacity), "--repeats", str(repeats)])


def report(arguments: argparse.Namespace) -> None:
    """Measure everything, write the results and print them."""
    samples: dict[str, list[float]] = {}
    versions: dict[str, str] = {}

    def keep(name: str, capacity: int, result: dict[str, Any]) -> None:
        for measure, values in result["samples"].items():
            samples.setdefault(f"{name}/{measure}/{capacity}", []).extend(values)

    for turn in range(arguments.rounds):
        for capacity in CAPACITIES:
            say(f"round {turn + 1}: {capacity} transitions: funrl")
            keep("funrl", capacity, ours("calls", capacity, arguments.repeats))
            for peer in PEERS:
                say(f"round {turn + 1}: {capacity} transitions: {peer}")
                result = theirs(arguments.peers, peer, capacity, arguments.repeats)
                keep(peer, capacity, result)
                versions[peer] = result["version"]
        for capacity in (10_000, 1_000_000):
            say(f"round {turn + 1}: {capacity} transitions: a program of 8 gradient steps")
            keep("funrl", capacity, ours("program", capacity, arguments.repeats))
    import torch

    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **versions},
        "medians": {name: statistics.median(values) for name, values in samples.items()},
        "calls": {name: len(values) for name, values in samples.items()},
        "memory": ours("memory", CAPACITIES[-1], 0),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "buffers.json").write_text(json.dumps(record, indent=1) + "\n")
    text = _table(record)
    (RESULTS / "buffers.md").write_text(text)
    print(text)


def _table(record: dict[str, Any]) -> str:
    medians = record["medians"]
    lines = [
        f"# Replay buffers ({record['date']}, {record['machine']})",
        "",
        f"Microseconds of a call on full buffers, medians; samples and priorities are {BATCH} rows, extensions {ROWS}. "
        "Made by `python -m benchmarks.buffers`.",
        ", ".join(f"{name} {number}" for name, number in record["versions"].items()) + ".",
        "",
        "| transitions | call | funrl | " + " | ".join(f"{peer} | ratio | target" for peer in PEERS) + " |",
        "|---|---|---|" + "---|---|---|" * len(PEERS),
    ]
    for capacity in CAPACITIES:
        for measure in MEASURES:
            own = medians[f"funrl/{measure}/{capacity}"]
            cells = [f"{capacity:,}", measure, f"{own:.0f}"]
            for peer in PEERS:
                there = medians.get(f"{peer}/{measure.rstrip('_')}/{capacity}")
                target = TARGETS.get((measure.rstrip("_"), peer))
                cells += [f"{there:.0f}", f"{own / there:.2f}", f"{target or ''}"] if there else ["", "", ""]
            lines.append("| " + " | ".join(cells) + " |")
    small, large = CAPACITIES
    growth = {m: medians[f"funrl/{m}/{large}"] / medians[f"funrl/{m}/{small}"] for m in ("extend", "extend_")}
    few, many = medians["funrl/program/10000"], medians["funrl/program/1000000"]
    lines += [
        "",
        "`extend` is compiled with the state donated, `extend_` writes in place eagerly. From the small to the large buffer: "
        + ", ".join(f"`{m}` {ratio:.2f} x" for m, ratio in growth.items())
        + " (target 1.2).",
        f"A program that writes {ROWS} rows and takes 8 gradient steps on samples of {BATCH}: {few:.0f} us with 10,000 rows, {many:.0f} us "
        f"with a million: {many / few:.2f} x (target 3).",
        "Memory held: " + ", ".join(f"{name} {ratio:.3f} x the data" for name, ratio in record["memory"].items()) + " (target 1.05).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
