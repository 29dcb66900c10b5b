"""Offline learners: gradient steps a second of funrl and d3rlpy, memory, what they reach, and learning that goes on in the environment.

    python -m benchmarks.offline speed --peers PYTHON     # an interpreter that has d3rlpy
    python -m benchmarks.offline memory
    python -m benchmarks.offline learn --peers PYTHON     # Pendulum
    python -m benchmarks.offline hopper --peers PYTHON    # Hopper-v5: one that has mujoco, too
    python -m benchmarks.offline online                   # RLPD beside SAC
    python -m benchmarks.offline calibrated               # Cal-QL and CQL before and after the switch

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
kinds = {"td3_bc": d3rlpy.algos.TD3PlusBCConfig, "iql": d3rlpy.algos.IQLConfig, "bc": d3rlpy.algos.BCConfig}
nets = ("encoder_factory",) if told["name"] == "bc" else ("actor_encoder_factory", "critic_encoder_factory")
nets += ("value_encoder_factory",) if told["name"] == "iql" else ()
scalers, reach = {}, np.full(file["actions"].shape[1], told["reach"], np.float32)
if told["reach"] != 1.0:  # its policies act in [-1, 1]
    scalers["action_scaler"] = d3rlpy.preprocessing.MinMaxActionScaler(minimum=-reach, maximum=reach)
if told["name"] == "td3_bc" and told["episodes"]:
    scalers["observation_scaler"] = d3rlpy.preprocessing.StandardObservationScaler()
config = kinds[told["name"]](batch_size=told["batch"], **scalers, **{name: encoder for name in nets}, **told["options"])
algo = config.create(device="cpu:0")
algo.build_with_dataset(data)
update = lambda: algo.update(data.sample_transition_batch(told["batch"]))
for _ in range(20):
    update()
start = time.process_time()
for _ in range(told["updates"]):
    update()
rate = told["updates"] / (time.process_time() - start)
if told["episodes"]:
    import gymnasium
    env, total = gymnasium.make(told["env"]), []
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


PLAIN = {"seed": 0, "options": {}, "reach": 1.0, "episodes": 0, "env": "Pendulum-v1"}


def peer(python: str, arrays: dict, **told) -> dict:
    """Run d3rlpy, and return what it measured."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/data.npz", **arrays)
        told = json.dumps({**PLAIN, "batch": BATCH, "cells": list(WIDE), **told, "data": f"{folder}/data.npz"})
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


def trained(algo, updates: int, agents: int = 5):
    """Return the states of agents after gradient steps, as one program in one thread."""
    import torch

    import funrl
    from funrl import random

    keys = random.split(random.key(3), agents)
    step, states = funrl.compile(torch.func.vmap(algo.step), donate=1, threads=1), torch.func.vmap(algo.init)(keys)
    for i in range(updates // algo.config.num_updates):
        states, _ = step(torch.func.vmap(random.fold_in, (0, None))(keys, torch.tensor(i)), states)
    return states


def shown(scores) -> str:
    """Return the mean of scores, and the lowest and the highest one."""
    scores = [float(x) for x in scores]
    return f"{sum(scores) / len(scores):.0f} ({min(scores):.0f} to {max(scores):.0f})"


def table(args: argparse.Namespace, env, data, learners: dict, shared: dict, told: dict) -> list[str]:
    """Train learners and d3rlpy's on the same rows, and return a row for each: its options, its score, and the peer's."""
    import funrl
    from funrl import offline, random

    rows = ["| | options | funrl | d3rlpy |", "|---|---|---|---|"]
    theirs = {"temperature": "weight_temp"}
    for name in args.only or learners:
        algo = offline.make(name, env, data, **{**shared, **learners[name]})
        found = funrl.training.evaluate_agents(algo, trained(algo, args.updates), random.key(4), 20, num_agents=5)
        cell, rates = "", ("learning_rate",) if name == "bc" else ("actor_learning_rate", "critic_learning_rate")
        if args.peers and name in ("bc", "td3_bc", "iql"):
            options = {theirs.get(key, key): x for key, x in learners[name].items()} | {key: shared["learning_rate"] for key in rates}
            fixed = {"name": name, "batch": shared["batch_size"], "cells": list(shared["num_cells"]), "options": options}
            runs = [
                peer(args.peers, arrays_of(data), seed=i, updates=args.updates, episodes=20, **fixed, **told) for i in range(args.seeds)
            ]
            cell = shown(run["score"] for run in runs)
        options = ", ".join(f"{key} {x:g}" for key, x in learners[name].items())
        rows.append(f"| {name} | {options} | {shown(found.episode_return.mean(1))} | {cell} |")
        print(rows[-1], flush=True)
    return rows


def learn(args: argparse.Namespace) -> None:
    """Train learners on Pendulum's medium-replay data, five seeds each, d3rlpy's on the same rows."""
    import torch

    from funrl import offline

    torch.set_num_threads(1)
    env, data, expert, by_chance = pendulum_data(args.steps)
    behavior = data.episode_return[data.transition.truncated[data.end]].mean().item()
    scaled = offline.datasets.scale_rewards(data, how="standardize")
    shared = {"num_cells": (64, 64), "batch_size": 128, "num_updates": 100, "learning_rate": 1e-3}
    learners = {
        "bc": {},
        "filtered_bc": {},
        "td3_bc": {"alpha": 10.0, "gamma": 0.95, "tau": 0.02},
        "iql": {"temperature": 5.0, "gamma": 0.95},
        "rebrac": {"actor_beta": 0.05, "critic_beta": 0.05, "gamma": 0.95, "tau": 0.02},
        "awac": {"temperature": 5.0, "gamma": 0.95},
        "edac": {"num_critics": 4, "gamma": 0.95, "tau": 0.02},
        "cql": {"penalty_weight": 0.5, "num_actions": 4, "gamma": 0.95, "actor_learning_rate": 1e-3, "tau": 0.02},
    }
    rows = [
        f"{data.size:,} transitions of SAC as it learned; behaviour {behavior:.0f}, SAC at the end {expert:.0f}, random {by_chance:.0f}.",
        f"Five seeds (d3rlpy: {args.seeds}), {args.updates:,} gradient steps, 20 episodes each: mean (lowest to highest).",
        "",
        *table(args, env, scaled, learners, shared, {"reach": 2.0, "env": "Pendulum-v1"}),
    ]
    keep("Pendulum, medium-replay", rows)


def main() -> None:
    """Do what the command line asks for."""
    from benchmarks import offline_online

    parts = {"speed": speed, "memory": memory, "learn": learn, **offline_online.PARTS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=list(parts))
    parser.add_argument("--peers", help="an interpreter that has d3rlpy")
    parser.add_argument("--steps", type=int, default=6_400, help="environment steps of the data")
    parser.add_argument("--updates", type=int, default=4_000, help="gradient steps")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of d3rlpy")
    parser.add_argument("--only", action="append", help="a learner")
    args = parser.parse_args()
    parts[args.what](args)


if __name__ == "__main__":
    main()
