"""Rollouts beside other libraries: pure environments with a small policy beside gymnax, the bridge beside gymnasium and TorchRL.

    python -m benchmarks.environments --peers /path/to/python        (an interpreter that has the ``bench`` extra; this one by default)

Every measurement is a process of its own, one after another, on a machine that should do nothing else; libraries take turns.
A throughput is the median of all samples, in environment steps a second. Writes ``benchmarks/results/environments.json`` and
``environments.md``, and prints the table; what ``--only`` leaves out keeps what was measured before.
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

from benchmarks.environments_peers import HIDDEN, throughput
from benchmarks.processes import last_line, say

RESULTS = Path(__file__).parent / "results"
BRIDGES = ("gymnasium:CartPole-v1", "gymnasium:Pendulum-v1", "gymnasium:Acrobot-v1")
# (environment, copies, steps of a rollout): for each peer, the least ratio of our throughput to its.
TARGETS = {
    **{(name, 2048, 64): {"gymnax": 1.0} for name in ("CartPole-v1", "Pendulum-v1", "Breakout-MinAtar")},
    **{(name, 64, 512): {"gymnax": 0.7} for name in ("CartPole-v1", "Pendulum-v1", "Breakout-MinAtar")},
    **{(name, 8, 512): {"gymnasium": 1 / 1.3, "torchrl": 3.0} for name in BRIDGES},
}
# Two threads gain where the work of a step is large, and lose elsewhere: see funrl.compile.
MANY = 2048


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="the interpreter that runs the other libraries")
    parser.add_argument("--seconds", type=float, default=2.0, help="the least time of a sample")
    parser.add_argument("--rounds", type=int, default=3, help="how often the libraries take turns")
    parser.add_argument("--only", nargs="+", default=[], metavar="ENV", choices=dict.fromkeys(name for name, *_ in TARGETS))
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, num_envs, num_steps = arguments.measure
        measure = bridge if name in BRIDGES else pure
        print(json.dumps({"samples": measure(name, int(num_envs), int(num_steps), arguments.seconds)}))
        return
    report(arguments)


def pure(name: str, num_envs: int, num_steps: int, seconds: float) -> list[float]:
    """Return steps a second of compiled rollouts with a policy of two layers."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    from funrl import distributions, nn, policies, random
    from funrl.spaces import Discrete

    env = funrl.envs.make(name)
    discrete = isinstance(env.action_space, Discrete)
    outputs = env.action_space.n if discrete else env.action_space.shape[0]
    net = nn.sequential(lambda x: x.to(torch.float32).flatten(-len(env.observation_space.shape)), nn.mlp(HIDDEN, outputs))

    def normal(loc: torch.Tensor) -> Any:
        return distributions.Independent(distributions.Normal(loc, torch.ones_like(loc)), 1)

    policy = policies.stochastic(net, distributions.Categorical if discrete else normal, return_log_prob=False)

    def step(params: Any, key: torch.Tensor, state: Any) -> Any:
        return funrl.rollout(params, key, state, env.default_params, env=env, act=policy.act, num_steps=num_steps)

    keys = random.split(random.key(0), num_envs)
    box = [torch.func.vmap(env.reset, (0, None))(keys, env.default_params)]
    params = policy.init(random.key(1), box[0][1].observation[0])
    program, key = funrl.compile(step, threads=2 if num_envs >= MANY else 1), random.key(2)

    def call(i: int) -> None:
        box[0], _ = program(params, random.fold_in(key, i), box[0])

    return throughput(call, num_envs * num_steps, seconds, 3)


def bridge(name: str, num_envs: int, num_steps: int, seconds: float) -> list[float]:
    """Return steps a second of ``funrl.rollout`` with random actions in copies of a gymnasium environment."""
    import funrl  # isort: skip
    import torch

    torch.set_num_threads(1)
    with funrl.envs.make(name, num_envs=num_envs) as env:
        box = [env.reset(funrl.random.key(0))]
        key = funrl.random.key(1)

        def call(i: int) -> None:
            box[0], _ = funrl.rollout(None, funrl.random.fold_in(key, i), box[0], (), env=env, num_steps=num_steps)

        return throughput(call, num_envs * num_steps, seconds, 3)


def ours(case: tuple[str, int, int], seconds: float) -> dict[str, Any]:
    """Measure funrl in a process of its own."""
    return last_line([sys.executable, "-m", "benchmarks.environments", "--seconds", str(seconds), "--measure", *map(str, case)])


def theirs(python: str, peer: str, case: tuple[str, int, int], seconds: float) -> dict[str, Any]:
    """Measure another library in a process of its own."""
    name, num_envs, num_steps = case
    sizes = ["--env", name.removeprefix("gymnasium:"), "--num-envs", str(num_envs), "--num-steps", str(num_steps)]
    return last_line([python, "-m", "benchmarks.environments_peers", peer, *sizes, "--seconds", str(seconds)])


def report(arguments: argparse.Namespace) -> None:
    """Measure what was asked for, write the results and print them."""
    path = RESULTS / "environments.json"
    before = json.loads(path.read_text()) if path.exists() else {"samples": {}, "versions": {}}
    samples: dict[str, list[float]] = {}
    versions: dict[str, str] = {}
    for turn in range(arguments.rounds):
        for case, peers in TARGETS.items():
            if arguments.only and case[0] not in arguments.only:
                continue
            say(f"round {turn + 1}: {case[0]}, {case[1]} environments: funrl")
            samples.setdefault(_place("funrl", case), []).extend(ours(case, arguments.seconds)["samples"])
            for peer in peers:
                say(f"round {turn + 1}: {case[0]}, {case[1]} environments: {peer}")
                result = theirs(arguments.peers, peer, case, arguments.seconds)
                samples.setdefault(_place(peer, case), []).extend(result["samples"])
                versions[peer] = result["version"]
    samples = {**before["samples"], **samples}
    import torch

    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {**before["versions"], "python": platform.python_version(), "torch": torch.__version__, **versions},
        "medians": {name: statistics.median(values) for name, values in samples.items()},
        "samples": samples,
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    text = _table(record)
    (RESULTS / "environments.md").write_text(text)
    print(text)


def _place(library: str, case: tuple[str, int, int]) -> str:
    return f"{library}/{case[0]}/{case[1]}"


def _table(record: dict[str, Any]) -> str:
    medians = record["medians"]
    lines = [
        f"# Rollouts ({record['date']}, {record['machine']})",
        "",
        "Environment steps a second, medians; made by `python -m benchmarks.environments`. Pure environments are compiled together with a "
        f"policy of {' x '.join(map(str, HIDDEN))} tanh units; those of gymnasium take random actions.",
        ", ".join(f"{name} {number}" for name, number in record["versions"].items()) + ".",
        "",
        "| environment | copies | library | steps/s | funrl is faster by | target |",
        "|---|---|---|---|---|---|",
    ]
    for case, peers in TARGETS.items():
        own = medians.get(_place("funrl", case))
        if own is None:
            continue
        lines.append(f"| {case[0]} | {case[1]} | funrl | {own:,.0f} | | |")
        for peer, target in peers.items():
            there = medians[_place(peer, case)]
            lines.append(f"| | | {peer} | {there:,.0f} | {own / there:.2f} x | {target:.2g} x |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
