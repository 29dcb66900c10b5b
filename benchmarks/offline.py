"""Offline learners: gradient steps a second of funrl and d3rlpy, memory, returns on Pendulum, and RLPD compared with SAC.

    python -m benchmarks.offline speed --peers PYTHON     # an interpreter that has d3rlpy
    python -m benchmarks.offline memory
    python -m benchmarks.offline learn --peers PYTHON
    python -m benchmarks.offline online

Each appends its rows to ``benchmarks/results/offline.md``. Rates are of CPU time with one thread, so that other processes of the machine
count less; d3rlpy runs in a process of its own, on the same arrays.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "offline.md"
WIDE, BATCH = (256, 256), 256
# Run by the interpreter of the peers: what it is told comes as JSON, and the answer is the last line.
PEER = r"""
import json, sys, time
import numpy as np, torch
told = json.loads(sys.argv[1])
torch.set_num_threads(1)
import d3rlpy
d3rlpy.seed(told["seed"])
file = np.load(told["data"])
data = d3rlpy.dataset.MDPDataset(file["observations"], file["actions"], file["rewards"], file["terminals"], file["timeouts"])
encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=told["cells"])
kinds = {"td3_bc": d3rlpy.algos.TD3PlusBCConfig, "iql": d3rlpy.algos.IQLConfig, "bc": d3rlpy.algos.BCConfig, "cql": d3rlpy.algos.CQLConfig}
nets = ("encoder_factory",) if told["name"] == "bc" else ("actor_encoder_factory", "critic_encoder_factory")
nets += ("value_encoder_factory",) if told["name"] == "iql" else ()
algo = kinds[told["name"]](batch_size=told["batch"], **{name: encoder for name in nets}, **told["options"]).create(device="cpu:0")
algo.build_with_dataset(data)
buffer = data
update = lambda: algo.update(buffer.sample_transition_batch(told["batch"]))
for _ in range(20):
    update()
start = time.process_time()
for _ in range(told["updates"]):
    update()
rate = told["updates"] / (time.process_time() - start)
states = np.asarray(told.get("states", np.zeros((1, file["observations"].shape[1]))), np.float32)
if told.get("episodes"):
    import gymnasium
    env, total = gymnasium.make("Pendulum-v1"), []
    for i in range(told["episodes"]):
        x, _ = env.reset(seed=1000 * told["seed"] + i)
        done, score = False, 0.0
        while not done:
            x, r, a, b, _ = env.step(algo.predict(x[None].astype(np.float32))[0])
            done, score = a or b, score + r
        total.append(float(score))
    print(json.dumps({"rate": rate, "score": float(np.mean(total))}))
else:
    print(json.dumps({"rate": rate}))
"""


def peer(python: str, arrays: dict, **told) -> dict:
    """Run d3rlpy, and return what it measured."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/data.npz", **arrays)
        told = json.dumps({"seed": 0, "options": {}, "batch": BATCH, "cells": list(WIDE), **told, "data": f"{folder}/data.npz"})
        done = subprocess.run([python, "-c", PEER, told], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise SystemExit(f"benchmarks.offline: d3rlpy: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


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
    return {name: x.numpy() for name, x in columns.items()} | {"timeouts": (data.end & ~rows.terminated).numpy()}


def speed(args: argparse.Namespace) -> None:
    """Measure gradient steps a second of CPU time: one agent, eight at once, and d3rlpy."""
    import torch

    import funrl
    from funrl import offline, random

    torch.set_num_threads(1)
    data, spaces = random_data(100_000)
    rows = ["| | funrl | d3rlpy | ratio | first call | 8 agents | 8 / 1 |", "|---|---|---|---|---|---|---|"]
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
        theirs = peer(args.peers, arrays_of(data), name=name, updates=100)["rate"] if args.peers else float("nan")
        cells = [
            f"{found[1]:.0f}",
            f"{theirs:.0f}",
            f"{found[1] / theirs:.1f}",
            f"{first:.1f} s",
            f"{found[8]:.0f}",
            f"{found[8] / found[1]:.2f}",
        ]
        rows.append(f"| {name}, {WIDE[0]} units, batch {BATCH} | " + " | ".join(cells) + " |")
    keep("Gradient steps a second of CPU time, one thread", rows)


def memory(args: argparse.Namespace) -> None:
    """Measure resident memory with a million transitions: 16 agents on one copy, and a stream."""
    import torch

    import funrl
    from funrl import offline, random, tree

    def now() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    data, spaces = random_data(1_000_000)
    size, before = tree.nbytes(data) / 2**20, now()
    algo = offline.td3_bc.make(spaces, data, num_updates=10, batch_size=64, num_cells=(32, 32))
    keys = random.split(random.key(0), 16)
    step, states = funrl.compile(torch.func.vmap(algo.step), donate=1), torch.func.vmap(algo.init)(keys)
    for _ in range(3):
        states, _ = step(keys, states)
    rows = [f"A million transitions are {size:.0f} MiB; 16 agents on them, program and compiler take {now() - before:.0f} MiB more."]
    with tempfile.TemporaryDirectory() as folder:
        offline.datasets.save(data, f"{folder}/rows")
        program = (
            "import sys, resource, funrl\nfrom funrl import offline, random\n"
            "stream = offline.datasets.stream(sys.argv[1])\nspaces = (stream.dataset.observation_space, stream.dataset.action_space)\n"
            "algo = offline.bc.make(spaces, stream, num_updates=50, batch_size=256, num_cells=(32, 32))\n"
            "state = algo.init(random.key(0))\n"
            "for i in range(10):\n    state, _ = algo.step(random.key(i), state)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
        )
        done = subprocess.run([sys.executable, "-c", program, f"{folder}/rows"], capture_output=True, text=True, check=True)
    rows.append(f"Streamed from files, 500 steps on 128,000 rows: at most {float(done.stdout):.0f} MiB resident, torch and XLA included.")
    keep("Memory", rows)


def pendulum_data(steps: int):
    """Return a SAC agent's replay on Pendulum, and its score and that of random actions."""
    import funrl
    from funrl import offline, random

    env = funrl.envs.make("Pendulum-v1")
    sac = funrl.algos.sac.make(env, num_envs=4, num_steps=16, num_updates=64, buffer_size=max(6_400, steps))
    step, state = funrl.compile(sac.step, donate=1), sac.init(random.key(0))
    for i in range(steps // 64):
        state, _ = step(random.fold_in(random.key(1), i), state)

    def score(act):
        return (
            funrl.evaluate(state.learner.params, random.key(2), env.default_params, env=env, act=act, num_episodes=50)
            .episode_return.mean()
            .item()
        )

    return env, offline.datasets.from_replay(sac, state), score(sac.greedy), score(None)


def learn(args: argparse.Namespace) -> None:
    """Train learners on Pendulum's medium-replay data, five seeds each, d3rlpy's on the same rows."""
    import torch

    import funrl
    from funrl import offline, random

    torch.set_num_threads(1)
    env, data, expert, by_chance = pendulum_data(args.steps)
    ends = data.transition.truncated[data.end]
    behavior = data.episode_return[ends].mean().item()
    scaled = offline.datasets.scale_rewards(data, how="standardize")
    shared = {"num_cells": (64, 64), "batch_size": 128, "num_updates": 100, "learning_rate": 1e-3}
    options = {
        "bc": {},
        "td3_bc": {"alpha": 10.0, "gamma": 0.95, "tau": 0.02},
        "iql": {"temperature": 5.0, "gamma": 0.95},
        "rebrac": {"actor_beta": 0.05, "critic_beta": 0.05, "gamma": 0.95, "tau": 0.02},
        "awac": {"temperature": 5.0, "gamma": 0.95},
        "edac": {"num_critics": 4, "gamma": 0.95, "tau": 0.02},
        "cql": {"penalty_weight": 0.5, "num_actions": 4, "gamma": 0.95, "actor_learning_rate": 1e-3, "tau": 0.02},
    }
    theirs = {
        "bc": {"learning_rate": 1e-3},
        "td3_bc": {"alpha": 10.0, "gamma": 0.95, "tau": 0.02, "actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3},
        "iql": {"weight_temp": 5.0, "gamma": 0.95, "actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3},
    }
    rows = [
        f"{data.size:,} transitions of SAC as it learned; behaviour {behavior:.0f}, SAC at the end {expert:.0f}, random {by_chance:.0f}.",
        f"Five seeds, {args.updates:,} gradient steps, 20 episodes each: mean (lowest to highest).",
        "",
        "| | funrl | d3rlpy |",
        "|---|---|---|",
    ]
    for name in args.only or options:
        algo = offline.make(name, env, scaled, **{**shared, **options[name]})
        seeds = random.split(random.key(3), 5)
        step, states = funrl.compile(torch.func.vmap(algo.step), donate=1, threads=1), torch.func.vmap(algo.init)(seeds)
        for i in range(args.updates // 100):
            states, _ = step(torch.func.vmap(random.fold_in, (0, None))(seeds, torch.tensor(i)), states)
        found = funrl.training.evaluate_agents(algo, states, random.key(4), 20, num_agents=5).episode_return.mean(1)
        cell = ""
        if args.peers and name in theirs:
            told = {"name": name, "batch": 128, "cells": [64, 64], "options": theirs[name], "updates": args.updates, "episodes": 20}
            scores = [peer(args.peers, arrays_of(scaled), seed=seed, **told)["score"] for seed in range(5)]
            cell = f"{sum(scores) / 5:.0f} ({min(scores):.0f} to {max(scores):.0f})"
        rows.append(f"| {name} | {found.mean():.0f} ({found.min():.0f} to {found.max():.0f}) | {cell} |")
        print(rows[-1], flush=True)
    keep("Pendulum, medium-replay", rows)


def online(args: argparse.Namespace) -> None:
    """Compare RLPD with SAC from nothing on Pendulum, and Cal-QL before and after it goes on in the environment."""
    import torch

    import funrl
    from funrl import offline, random

    torch.set_num_threads(1)
    env, data, _, _ = pendulum_data(args.steps)
    options = {"num_envs": 1, "num_steps": 32, "batch_size": 128, "num_cells": (64, 64), "gamma": 0.95, "learning_rate": 1e-3}
    rlpd = {"num_critics": 4, "num_updates": 96, "policy_delay": 3, "learning_starts": 200}
    runs = {
        "SAC": (funrl.algos.sac.make(env, num_updates=32, learning_starts=200, **options), 4_000),
        "RLPD": (offline.rlpd.make(env, data, **{**options, **rlpd}), 1_000),
    }
    rows = ["| | environment steps | return, mean of five seeds (lowest to highest) |", "|---|---|---|"]
    for name, (algo, steps) in runs.items():
        seeds = random.split(random.key(3), 5)
        step, states = funrl.compile(torch.func.vmap(algo.step), donate=1, threads=1), torch.func.vmap(algo.init)(seeds)
        for i in range(1, steps // 32 + 1):
            states, _ = step(torch.func.vmap(random.fold_in, (0, None))(seeds, torch.tensor(i)), states)
            if i * 32 in (992, 1_984, 4_000):
                found = funrl.training.evaluate_agents(algo, states, random.key(4), 20, num_agents=5).episode_return.mean(1)
                rows.append(f"| {name} | {i * 32:,} | {found.mean():.0f} ({found.min():.0f} to {found.max():.0f}) |")
                print(rows[-1], flush=True)
    keep("RLPD beside SAC, Pendulum", rows)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "memory", "learn", "online"])
    parser.add_argument("--peers", help="an interpreter that has d3rlpy")
    parser.add_argument("--steps", type=int, default=6_400, help="environment steps of the data")
    parser.add_argument("--updates", type=int, default=4_000, help="gradient steps")
    parser.add_argument("--only", action="append", help="a learner")
    args = parser.parse_args()
    {"speed": speed, "memory": memory, "learn": learn, "online": online}[args.what](args)


if __name__ == "__main__":
    main()
