"""Offline learners: gradient steps a second of funrl and d3rlpy, memory, what they reach, and learning that goes on in the environment.

    python -m benchmarks.offline speed --peers PYTHON     # an interpreter that has d3rlpy
    python -m benchmarks.offline memory
    python -m benchmarks.offline data                     # records the data sets that the next ones use
    python -m benchmarks.offline learn --peers PYTHON [--env gymnasium:Hopper-v5]
    python -m benchmarks.offline table                    # of the scores in results/offline.jsonl
    python -m benchmarks.offline online                   # RLPD beside SAC; --env gymnasium:Hopper-v5 --online 20000
    python -m benchmarks.offline calibrated               # Cal-QL and CQL before and after the switch

Each appends its rows to ``benchmarks/results/offline.md``, and ``learn`` to ``offline.jsonl``. Rates are of CPU time with one thread, so
that other processes of the machine count less; d3rlpy runs in a process of its own, on the same arrays.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "offline.md"
WIDE, BATCH = (256, 256), 256
PEERS = str(Path(__file__).with_name("offline_peers.py").resolve())


def peer(python: str, arrays: dict, **task) -> dict:
    """Run :mod:`benchmarks.offline_peers` on arrays, and return what it measured, with the layers of its policies by seed."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/data.npz", **arrays)
        shared = {"seeds": 1, "options": {}, "batch": BATCH, "cells": list(WIDE), "rate": 3e-4}
        given = json.dumps({**shared, **task, "data": f"{folder}/data.npz", "out": f"{folder}/out.npz"})
        done = subprocess.run([python, PEERS, given], capture_output=True, text=True, cwd=folder)
        if done.returncode:
            raise SystemExit(f"benchmarks.offline: the peer: {done.stderr[-2000:]}")
        found, layers = json.loads(done.stdout.strip().splitlines()[-1]), {}
        if Path(f"{folder}/out.npz").exists():
            with np.load(f"{folder}/out.npz") as file:
                for name in sorted(file.files):
                    layers.setdefault(int(name.split("_")[0]), []).append(file[name])
    return {**found, "layers": layers}


def keep(title: str, rows: list[str]) -> None:
    """Print rows, and append them to the results."""
    text = "\n".join([f"## {title}", "", time.strftime("%Y-%m-%d", time.gmtime()), "", *rows, ""])
    print(text, flush=True)
    with open(RESULTS, "a") as file:
        file.write(text + "\n")


def random_data(n: int, width: int = 17, actions: int = 6):
    """Return random transitions [n] of HalfCheetah's sizes in episodes of 1,000 steps, and their spaces."""
    import torch

    from funrl.env import Transition
    from funrl.offline import datasets
    from funrl.spaces import Box

    no = torch.zeros(n, dtype=torch.bool)
    ends = no.clone()
    ends[999::1000] = True
    parts = torch.randn(n, width), torch.randn(n, actions).tanh(), torch.randn(n), no, ends, torch.randn(n, width), {}
    spaces = (Box(-float("inf"), float("inf"), (width,)), Box(-1.0, 1.0, (actions,)))
    return datasets.from_transitions(Transition(*parts), spaces=spaces), spaces


def arrays_of(data) -> dict:
    """Return the columns of a data set by D4RL's names."""
    rows = data.transition
    columns = {"observations": rows.observation, "actions": rows.action, "rewards": rows.reward, "terminals": rows.terminated}
    columns |= {"timeouts": data.end & ~rows.terminated, "next_observations": rows.next_observation}
    return {name: x.numpy() for name, x in columns.items()}


def speed(args: argparse.Namespace) -> None:
    """Measure gradient steps a second of CPU time: one agent, eight at once, and d3rlpy."""
    import torch

    import funrl
    from funrl import offline, random

    torch.set_num_threads(1)
    data, spaces = random_data(100_000)
    rows, floors = ["| | funrl | d3rlpy | ratio | first call | 8 agents | 8 / 1 |", "|---|---|---|---|---|---|---|"], []
    for name in ("td3_bc", "iql"):
        algo = offline.make(name, spaces, data, num_updates=50, num_cells=WIDE, batch_size=BATCH)
        found, first = {}, 0.0
        for agents in (1, 8):
            step = funrl.compile(algo.step if agents == 1 else torch.func.vmap(algo.step), donate=1, threads=1)
            keys = random.key(0) if agents == 1 else random.split(random.key(0), agents)
            state = algo.init(keys) if agents == 1 else torch.func.vmap(algo.init)(keys)
            start = time.process_time()
            state, metrics = step(keys, state)
            metrics["steps"].sum().item()
            first = first or time.process_time() - start
            start, times = time.process_time(), 4 if agents == 1 else 1
            for _ in range(times):
                state, metrics = step(keys, state)
            metrics["steps"].sum().item()
            found[agents] = 50 * times * agents / (time.process_time() - start)
        theirs = peer(args.peers, arrays_of(data), name=name, updates=120)["rate"] if args.peers else float("nan")
        cells = [
            f"{found[1]:.0f}",
            f"{theirs:.0f}",
            f"{found[1] / theirs:.1f}",
            f"{first:.1f} s",
            f"{found[8]:.0f}",
            f"{found[8] / found[1]:.2f}",
        ]
        rows.append(f"| {name}, {WIDE[0]} units, batch {BATCH} | " + " | ".join(cells) + " |")
        work = products(offline.make(name, spaces, data, num_updates=2, num_cells=WIDE, batch_size=BATCH)) / 1e9
        floors.append(
            f"{name}: {work * 1e3:.0f} MFLOP of products in a gradient step, so {work * found[1]:.0f} GFLOP/s with one agent and "
            f"{work * found[8]:.0f} with eight; five times d3rlpy would be {5 * work * theirs:.0f}."
        )
    rates = ", ".join(f"{shape} {rate:.0f}" for shape, rate in product_rates().items())
    keep("Gradient steps a second of CPU time, one thread", [*rows, "", *floors, f"Products alone, compiled, GFLOP/s: {rates}."])


def products(algo) -> float:
    """Return the floating-point operations of the matrix products in a gradient step, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    from funrl import random

    state = algo.init(random.key(0))
    with FlopCounterMode(display=False) as counter:
        algo.step(random.key(1), state)
    return counter.get_total_flops() / algo.config.num_updates


def product_rates() -> dict[str, float]:
    """Return operations a second of products of the sizes of the learners, of many of them as a batch, and of a large one, in 1e9."""
    import torch

    import funrl

    rates, chain = {}, 20
    for shape, times in (((BATCH, WIDE[0]), 20), ((16, BATCH, WIDE[0]), 3), ((2048, 2048), 1)):
        x, y = torch.randn(shape), torch.randn((*shape[:-2], shape[-1], shape[-1])) / shape[-1] ** 0.5

        def multiply(x, y):
            for _ in range(chain):  # a call takes a part of a millisecond by itself
                x = x @ y
            return x

        program = funrl.compile(multiply, threads=1)
        program(x, y)
        start = time.process_time()
        for _ in range(times):
            z = program(x, y)
        z.sum().item()
        done = 2e-9 * x.numel() * shape[-1] * times * chain
        rates["x".join(map(str, (*shape, shape[-1])))] = done / (time.process_time() - start)
    return rates


LOADED = """
import sys, torch, funrl
from funrl import offline, random, tree
agents, data = int(sys.argv[2]), tree.map(torch.clone, offline.datasets.load(sys.argv[1]))
spaces = (data.observation_space, data.action_space)
algo = offline.td3_bc.make(spaces, data, num_updates=10, batch_size=64, num_cells=(32, 32))
keys = random.split(random.key(0), agents)
step, states = funrl.compile(torch.func.vmap(algo.step), donate=1, threads=1), torch.func.vmap(algo.init)(keys)
for _ in range(20):
    states, metrics = step(keys, states)
print(metrics["updates"].min().item(), int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024)
"""
STREAMED = """
import sys, funrl
from funrl import offline, random
stream = offline.datasets.stream(sys.argv[1])
spaces = (stream.dataset.observation_space, stream.dataset.action_space)
algo = offline.td3_bc.make(spaces, stream, num_updates=50, batch_size=256, num_cells=(32, 32))
state = algo.init(random.key(0))
for i in range(80):
    state, metrics = algo.step(random.key(i), state)
print(metrics["updates"].item(), int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024)
"""


def memory(args: argparse.Namespace) -> None:
    """Measure the peak of resident memory of processes: one agent and 16 on a million transitions, and one that streams larger ones.

    A process's ``ru_maxrss`` begins with that of the process that started it; VmHWM is its own.
    """
    from funrl import offline

    def peak(program: str, *words: str) -> float:
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])

    def size(folder: str) -> float:
        return sum(x.stat().st_size for x in Path(folder).iterdir()) / 2**20

    with tempfile.TemporaryDirectory() as folder:
        offline.datasets.save(random_data(1_000_000)[0], f"{folder}/half_cheetah")
        one, many = (peak(LOADED, f"{folder}/half_cheetah", str(agents)) for agents in (1, 16))
        rows = [
            f"A million transitions of HalfCheetah's sizes are {size(f'{folder}/half_cheetah'):.0f} MiB. A process that trains on them in",
            f"memory has a peak of {one:.0f} MiB with one agent and of {many:.0f} MiB with 16, torch, XLA and the compiler included.",
        ]
        print(*rows, sep="\n", flush=True)
        offline.datasets.save((random_data(100_000, 376, 17)[0] for _ in range(10)), f"{folder}/humanoid")
        streamed = peak(STREAMED, f"{folder}/humanoid")
        rows += [
            f"A million transitions with the 376 observations of Humanoid are {size(f'{folder}/humanoid'):,.0f} MiB in files. A process",
            f"that streams 4,000 batches of 256 of them has a peak of {streamed:.0f} MiB.",
        ]
    keep("Memory, peak of resident memory (VmHWM)", rows)


def main() -> None:
    """Do what the command line asks for."""
    from benchmarks import offline_online, offline_table

    parts = {"speed": speed, "memory": memory, **offline_table.PARTS, **offline_online.PARTS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=list(parts))
    parser.add_argument("--peers", help="an interpreter that has d3rlpy")
    parser.add_argument("--env", help="an environment of offline_table.RUNS; learn takes Pendulum-v1 unless given, and data all of them")
    parser.add_argument("--folder", default=f"{tempfile.gettempdir()}/funrl_offline", help="where recorded data is kept for later calls")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps of each data set")
    parser.add_argument("--online", type=int, default=4_000, help="environment steps of SAC in online; RLPD has a quarter of them")
    parser.add_argument("--cells", type=int, default=64, help="units of each of two layers")
    parser.add_argument("--updates", type=int, default=4_000, help="gradient steps")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of d3rlpy")
    parser.add_argument("--only", action="append", help="a learner")
    parser.add_argument("--same-weights", action="store_true", help="learn: the peer's first weights are drawn as funrl's")
    args = parser.parse_args()
    parts[args.what](args)


if __name__ == "__main__":
    main()
