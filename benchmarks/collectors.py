"""Collectors: frames a second of funrl, of TorchRL and of environments that are only stepped; and memory over a long time.

    python -m benchmarks.collectors 30      (minutes; prints the memory that all processes hold, and writes ``results/collectors_soak.md``)

A library's processes start workers of their own. The other libraries are in ``benchmarks/collectors_peers.py``.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import Case, Library, speed
from benchmarks.history import RESULTS

HIDDEN = (64, 64)


class Settings(NamedTuple):
    """Settings of all rows.

    Attributes:
        num_workers: processes.
        num_envs: copies in each.
        num_steps: of each copy in a batch; a synchronous one has those of all workers.
    """

    num_workers: int = 2
    num_envs: int = 8
    num_steps: int = 128


SETTINGS = Settings()


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
    made, params = collector("Pendulum-v1", "asynchronous", "policy")
    lines = [f"# Memory of asynchronous collection ({time.strftime('%Y-%m-%d')}, {'Pendulum-v1'}, {SETTINGS.num_workers} workers)", ""]
    lines += ["Proportional set size in MB, made by `python -m benchmarks.collectors MINUTES`.", ""]
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


def bare(name: str, kind: str, acts: str, seconds: float) -> list[float]:
    """Time environments that are only stepped."""
    from benchmarks import collectors_peers

    return collectors_peers.bare(name, seconds)


def torchrl(name: str, kind: str, acts: str, seconds: float) -> list[float]:
    """Time TorchRL's collectors."""
    from benchmarks import collectors_peers

    return collectors_peers.torchrl(name, seconds, asynchronous=kind == "asynchronous")


BARE, TORCHRL = {"gymnasium, only stepped": Library(bare, "gymnasium")}, {"torchrl": Library(torchrl, "torchrl")}
CASES = [
    Case(
        f"{name} by a{'n' if kind == 'asynchronous' else ''} {kind} collector, {acts}",
        (name, kind, "policy" if acts == "a policy" else "random"),
        {"funrl": Library(rate), **(TORCHRL if acts == "a policy" else BARE)},
        quick=name == "Pendulum-v1",
    )
    for name in ("Pendulum-v1", "HalfCheetah-v5")
    for kind in ("synchronous", "asynchronous")
    for acts in ("random actions", "a policy")
]
BENCHMARK = speed(
    "collectors",
    f"{SETTINGS.num_workers} workers with {SETTINGS.num_envs} copies each, {SETTINGS.num_steps} steps of each in a batch; a policy has "
    f"{' x '.join(map(str, HIDDEN))} tanh units.",
    CASES,
    unit="environment steps/s",
    targets={
        **{(case.name, "gymnasium, only stepped"): 1 / 1.25 for case in CASES if "torchrl" not in case.libraries},
        **{(case.name, "torchrl"): 1.5 for case in CASES if "torchrl" in case.libraries},
    },
    seconds=2.0,
    rounds=2,
)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collectors", description="Collect for long and print the memory held.")
    parser.add_argument("minutes", type=float)
    soak(parser.parse_args().minutes)
