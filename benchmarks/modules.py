"""An ensemble of 100 networks by ``funrl.nn.ensemble``, forward and backward, beside a loop over torch modules and tensordict's vmap.

    python -m benchmarks.modules --peers /path/to/python        (an interpreter that has the ``bench`` extra; this one by default)

Every measurement is a process of its own, one after another, on a machine that should do nothing else; libraries take turns. A time is
the median of all samples. Writes ``benchmarks/results/modules.json`` and ``modules.md``, and prints the table.
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

from benchmarks.modules_peers import PEERS, SETTINGS, timed
from benchmarks.processes import last_line, say

RESULTS = Path(__file__).parent / "results"
# The least ratio of a peer's time to that of the compiled ensemble.
TARGETS = {"loop": 5.0, "tensordict": 1.0}
THREADS = 2
TOGETHER = 10  # members at once: what they remember for the way back then stays in the cache


def ours(seconds: float, compiled: bool) -> list[float]:
    """Return the seconds of the gradient of all members' losses."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    from funrl import nn, random, tree

    net = nn.ensemble(nn.mlp(SETTINGS.hidden, SETTINGS.outputs), SETTINGS.members)
    group = nn.ensemble(nn.mlp(SETTINGS.hidden, SETTINGS.outputs), TOGETHER)
    x = torch.randn(SETTINGS.batch_size, SETTINGS.inputs)
    params = net.init(random.key(0), x)

    def losses(params: Any, x: Any, net: Any = net) -> Any:
        return net.apply(params, x).square().mean((-2, -1)).sum()

    def in_groups(params: Any, x: Any) -> Any:
        def one(total: Any, params: Any) -> Any:
            gradient, loss = torch.func.grad_and_value(losses)(params, x, group)
            return total + loss, gradient

        total, gradient = funrl.scan(one, x.new_zeros(()), tree.reshape(params, (SETTINGS.members // TOGETHER, TOGETHER), batch_dims=1))
        return tree.reshape(gradient, (SETTINGS.members,), batch_dims=2), total

    torch.set_num_threads(THREADS)
    gradient = funrl.compile(in_groups, threads=THREADS) if compiled else torch.func.grad_and_value(losses)
    return timed(lambda: gradient(params, x), seconds)


def _measured(command: list[str]) -> Any:
    say(" ".join(command[2:]))
    return last_line(command)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="the interpreter that runs the other libraries")
    parser.add_argument("--seconds", type=float, default=3.0, help="the least time of a sample")
    parser.add_argument("--rounds", type=int, default=2, help="how often the libraries take turns")
    parser.add_argument("--measure", choices=("funrl", "funrl eager"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(ours(arguments.seconds, compiled=arguments.measure == "funrl")))
    else:
        report(arguments)


def report(arguments: argparse.Namespace) -> None:
    """Measure everything, write the results and print them."""
    samples: dict[str, list[float]] = {}
    versions: dict[str, str] = {}
    seconds = ["--seconds", str(arguments.seconds)]
    for _ in range(arguments.rounds):
        for name in ("funrl", "funrl eager"):
            samples.setdefault(name, []).extend(_measured([sys.executable, "-m", "benchmarks.modules", "--measure", name, *seconds]))
        for peer in PEERS:
            result = _measured([arguments.peers, "-m", "benchmarks.modules_peers", peer, *seconds])
            samples.setdefault(peer, []).extend(result["samples"])
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
    (RESULTS / "modules.json").write_text(json.dumps(record, indent=1) + "\n")
    medians = record["medians"]
    lines = [
        f"# {SETTINGS.members} networks {SETTINGS.inputs}-{'-'.join(map(str, SETTINGS.hidden))}-{SETTINGS.outputs}, "
        f"a batch of {SETTINGS.batch_size} ({record['date']}, {record['machine']})",
        "",
        "Milliseconds of one forward and backward pass of all, medians; made by `python -m benchmarks.modules`.",
        ", ".join(f"{name} {number}" for name, number in record["versions"].items()) + ".",
        "",
        "| | ms | the compiled ensemble is faster by | target |",
        "|---|---|---|---|",
    ]
    for name, median in medians.items():
        ratio = "" if name == "funrl" else f"{median / medians['funrl']:.2f} x"
        target = f"{TARGETS[name]} x" if name in TARGETS else ""
        lines.append(f"| {name} | {1e3 * median:.1f} | {ratio} | {target} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "modules.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
