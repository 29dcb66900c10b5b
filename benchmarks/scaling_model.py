"""A cost model of funrl.distributed: what averaging gradients costs on 8, 64 and 1,000 devices, by simulation.

    python -m benchmarks.scaling_model                             # with the assumed links below
    python -m benchmarks.scaling_model --fit benchmarks/results/distributed.jsonl        # links as benchmarks.distributed measured

The rates of the links and the times of computing are assumptions that stand in this file, except those of ``--fit``.
"""

import argparse
import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Job", "Link", "all_reduce", "efficiency", "fit", "main", "step_seconds"]


class Link(NamedTuple):
    """A link between neighbours of a ring: the seconds of a message, and bytes a second."""

    latency: float
    bandwidth: float


class Job(NamedTuple):
    """An update of a learner on one device.

    Attributes:
        params: the number of parameters, float32.
        gradient_steps: of an update.
        compute: the seconds of an update without any exchange, collection included.
        jitter: the standard deviation of the logarithm of that time, from device to device and update to update.
        small: further exchanges of an update: the moments of the advantages, and metrics.
    """

    params: int
    gradient_steps: int
    compute: float
    jitter: float = 0.05
    small: int = 2


# Assumed: what vendors state for links of such kinds, halved, and usual latencies of their libraries.
INSIDE, BETWEEN = Link(5e-6, 150e9), Link(15e-6, 20e9)
JOBS = {
    "PPO, 2 x 64 units": Job(9_000, 16, 0.010),
    "PPO, Atari network": Job(1_700_000, 16, 0.150),
    "PPO, 100 M parameters": Job(100_000_000, 16, 2.0),
}
DEVICES, PER_NODE = (8, 64, 1_000), 8


def all_reduce(num_bytes: float, devices: int, inside: Link = INSIDE, between: Link = BETWEEN, per_node: int = PER_NODE) -> float:
    """Return the seconds of an all-reduce: a ring in each node, and a ring of the nodes, each with its share of the bytes."""

    def ring(size: float, count: int, link: Link) -> float:
        return 2 * (count - 1) * (link.latency + size / count / link.bandwidth) if count > 1 else 0.0

    def tree(size: float, count: int, link: Link) -> float:
        return 2 * math.ceil(math.log2(count)) * (link.latency + size / link.bandwidth) if count > 1 else 0.0

    local, nodes = min(devices, per_node), math.ceil(devices / per_node)
    best = (min(ring(size, count, link), tree(size, count, link)) for size, count, link in (
        (num_bytes, local, inside), (num_bytes / local, nodes, between),
    ))  # fmt: skip
    return sum(best)


def step_seconds(job: Job, devices: int, updates: int = 400, seed: int = 0, **links: Link) -> float:
    """Return the mean seconds of an update on so many devices, each with as many environments as one has alone.

    Each gradient step waits for the slowest device: the times of computing are drawn for each of them.
    """
    generator = np.random.default_rng(seed)
    each = job.compute / job.gradient_steps
    shape = (updates, devices)
    slowest = np.exp(job.jitter * generator.standard_normal(shape) - job.jitter**2 / 2).max(1).mean()
    return job.gradient_steps * each * float(slowest) + exchange_seconds(job, devices, **links)


def exchange_seconds(job: Job, devices: int, **links: Link) -> float:
    """Return the seconds of all exchanges of an update."""
    return job.gradient_steps * all_reduce(4 * job.params, devices, **links) + job.small * all_reduce(64, devices, **links)


def efficiency(job: Job, devices: int, **links: Link) -> float:
    """Return the part of ``devices`` times the speed of one that is reached."""
    return step_seconds(job, 1, **links) / step_seconds(job, devices, **links)


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Link:
    """Return the link of two processes whose all-reduces of so many bytes took these seconds: two messages of half the bytes each."""
    rows = np.stack([np.full(len(sizes), 2.0), np.asarray(sizes, dtype=float)], 1)
    weights = 1 / np.asarray(seconds)  # relative errors count
    (latency, per_byte), *_ = np.linalg.lstsq(rows * weights[:, None], np.ones(len(sizes)), rcond=None)
    return Link(float(latency), 1 / float(per_byte))


def measured(path: str) -> dict[str, dict]:
    """Return the last line of each kind that ``benchmarks.distributed`` has written."""
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.strip()]
    return {line.get("what", "allreduce"): line for line in lines}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", metavar="FILE", help="lines of benchmarks.distributed")
    args = parser.parse_args(argv)
    links: dict[str, Link] = {}
    if args.fit:
        lines = measured(args.fit)
        link = fit(lines["allreduce"]["bytes"], lines["allreduce"]["seconds"])
        print(f"fitted: latency {link.latency * 1e6:.0f} us, {link.bandwidth / 1e9:.2f} GB/s")
        links = {"inside": link, "between": link}
        if "parallel" in lines:
            found = lines["parallel"]
            job = Job(9_155, 16, 64 * 128 / found["one process"])
            print(f"PPO, 64 environments each, 2 devices: {efficiency(job, 2, **links):.2f}, and {found['efficiency']:.2f} as measured")
    print(
        "| learner | devices | bytes of a gradient step | exchange (ms an update) | update (ms) | efficiency |\n|---|---|---|---|---|---|"
    )
    for name, job in JOBS.items():
        for devices in DEVICES:
            exchange, seconds = exchange_seconds(job, devices, **links), step_seconds(job, devices, **links)
            row = (4 * job.params, f"{1e3 * exchange:.3g}", f"{1e3 * seconds:.3g}")
            print(f"| {name} | {devices:,} | {row[0]:,} | {row[1]} | {row[2]} | {efficiency(job, devices, **links):.2f} |")


if __name__ == "__main__":
    main()
