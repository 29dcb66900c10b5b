"""Generalized advantage estimation beside rlax under jit and TorchRL, and the two forms of the recurrence beside each other.

    python -m benchmarks.returns --peers /path/to/python        (an interpreter that has the ``bench`` extra; this one by default)

Every measurement is a process of its own; libraries take turns, so that a slow minute hits all. A time is the median over rounds of
the median of a process. Each library computes on arrays [T, B] of its own kind, with the threads that it takes by default (funrl's
programs: one). rlax returns advantages alone, and is compared with our advantages alone; TorchRL returns targets too, and the faster
of its two functions counts. Writes ``benchmarks/results/returns.json`` and ``returns.md``, and prints the table.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SHAPES = ((2048, 128), (128, 64), (128, 4))
GAMMA, LAMBDA = 0.99, 0.95
# (ours, theirs): the least ratio of their time to ours on [2048, 128].
TARGETS = {("compiled", "TorchRL"): 5.0, ("compiled, advantages", "rlax under jit, advantages"): 1.0}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="the interpreter that runs the other libraries")
    parser.add_argument("--seconds", type=float, default=0.5, help="the time of a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often the libraries take turns")
    parser.add_argument("--measure", choices=tuple(LIBRARIES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(LIBRARIES[arguments.measure](arguments.seconds)))
    else:
        report(arguments)


def funrl(seconds: float) -> dict[str, Any]:
    """Time funrl eagerly and compiled, in both forms."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    from funrl.returns import gae, parallel_recurrence, sequential_recurrence

    times = {}
    for shape in SHAPES:
        keys = funrl.random.split(funrl.random.key(0), 5)
        arrays = [funrl.random.normal(key, shape) for key in keys[:3]] + [funrl.random.bernoulli(key, 0.01, shape) for key in keys[3:]]

        def estimate(*arrays: Any, recurrence: Any = parallel_recurrence) -> Any:
            return gae(*arrays, gamma=GAMMA, lambda_=LAMBDA, recurrence=recurrence)

        def step_by_step(*arrays: Any, estimate: Any = estimate) -> Any:
            return estimate(*arrays, recurrence=sequential_recurrence)

        forms = {
            "compiled": funrl.compile(estimate),
            "compiled, two threads": funrl.compile(estimate, threads=2),
            "compiled, advantages": funrl.compile(lambda *arrays, estimate=estimate: estimate(*arrays)[0]),
            "compiled, sequential": funrl.compile(step_by_step),
            "eager": estimate,
            "eager, sequential": step_by_step,
        }
        for name, form in forms.items():
            times[f"{name} {shape}"] = _time(lambda form=form, arrays=arrays: form(*arrays), seconds)
    return {"times": times, "version": torch.__version__}


def rlax(seconds: float) -> dict[str, Any]:
    """Time rlax's function, batched by vmap, under jit."""
    warnings.simplefilter("ignore")
    import jax
    import numpy as np
    import rlax

    @jax.jit
    def advantages(reward: Any, values: Any, terminated: Any) -> Any:
        discount = GAMMA * (1.0 - terminated.astype(reward.dtype))
        return jax.vmap(rlax.truncated_generalized_advantage_estimation, (1, 1, None, 1), 1)(reward, discount, LAMBDA, values)

    @jax.jit
    def both(reward: Any, values: Any, terminated: Any) -> Any:
        advantage = advantages(reward, values, terminated)
        return advantage, advantage + values[:-1]

    times = {}
    for steps, copies in SHAPES:
        numbers = np.random.default_rng(0)
        arrays = [numbers.normal(size=(steps + extra, copies)).astype(np.float32) for extra in (0, 1)]
        arrays = [jax.numpy.asarray(x) for x in (*arrays, numbers.random((steps, copies)) < 0.01)]
        for name, f in {"rlax under jit, advantages": advantages, "rlax under jit": both}.items():
            times[f"{name} {(steps, copies)}"] = _time(lambda f=f, arrays=arrays: jax.block_until_ready(f(*arrays)), seconds)
    return {"times": times, "version": rlax.__version__, "jax": jax.__version__}


def torchrl(seconds: float) -> dict[str, Any]:
    """Time TorchRL's two functions, the loop and the vectorised one; the faster one is TorchRL."""
    warnings.simplefilter("ignore")
    import torch
    import torchrl
    from torchrl.objectives.value.functional import generalized_advantage_estimate, vec_generalized_advantage_estimate

    times = {}
    for steps, copies in SHAPES:
        torch.manual_seed(0)
        reward, value, next_value = torch.randn(3, copies, steps, 1).unbind(0)
        done, terminated = (torch.rand(2, copies, steps, 1) < 0.01).unbind(0)
        arguments = GAMMA, LAMBDA, value, next_value, reward, done | terminated, terminated
        both = {
            "TorchRL, loop": _time(lambda arguments=arguments: generalized_advantage_estimate(*arguments), seconds),
            "TorchRL, vectorised": _time(lambda arguments=arguments: vec_generalized_advantage_estimate(*arguments), seconds),
        }
        times |= {f"{name} {(steps, copies)}": x for name, x in both.items()} | {f"TorchRL {(steps, copies)}": min(both.values())}
    return {"times": times, "version": torchrl.__version__}


LIBRARIES = {"funrl": funrl, "rlax": rlax, "torchrl": torchrl}


def _time(f: Callable[[], Any], seconds: float) -> float:
    """Return the median time of a call in microseconds."""
    f(), f()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def report(arguments: argparse.Namespace) -> None:
    """Measure everything, write the results and print them."""
    rounds: dict[str, list[float]] = {}
    versions = {}
    for turn in range(arguments.rounds):
        for library in LIBRARIES:
            print(f"round {turn + 1}: {library}", file=sys.stderr, flush=True)
            python = sys.executable if library == "funrl" else arguments.peers
            command = [python, "-m", "benchmarks.returns", "--measure", library, "--seconds", str(arguments.seconds)]
            done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
            result = json.loads(done.stdout.strip().splitlines()[-1])
            versions |= {"torch" if library == "funrl" else library: result["version"]}
            for name, x in result["times"].items():
                rounds.setdefault(name, []).append(x)
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), **versions},
        "microseconds": {name: statistics.median(x) for name, x in rounds.items()},
        "rounds": rounds,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "returns.json").write_text(json.dumps(record, indent=1) + "\n")
    text = _table(record)
    (RESULTS / "returns.md").write_text(text)
    print(text)


def _table(record: dict[str, Any]) -> str:
    times = record["microseconds"]
    names = list(dict.fromkeys(name.rsplit(" (", 1)[0] for name in times))
    lines = [
        f"# Generalized advantage estimation ({record['date']}, {record['machine']})",
        "",
        "Microseconds of a call, medians; made by `python -m benchmarks.returns`.",
        ", ".join(f"{name} {number}" for name, number in record["versions"].items()) + ".",
        "",
        "| | " + " | ".join(f"{list(shape)}" for shape in SHAPES) + " |",
        "|---" * (len(SHAPES) + 1) + "|",
        *(f"| {name} | " + " | ".join(f"{times[f'{name} {shape}']:,.0f}" for shape in SHAPES) + " |" for name in names),
        "",
    ]
    for (ours, theirs), target in TARGETS.items():
        ratio = times[f"{theirs} {SHAPES[0]}"] / times[f"{ours} {SHAPES[0]}"]
        lines.append(f"On {list(SHAPES[0])} funrl ({ours}) is {ratio:.2f} times as fast as {theirs} (target {target}).")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
