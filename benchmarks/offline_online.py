"""Parts of :mod:`benchmarks.offline`: learning that goes on in the environment, and data of Hopper."""

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

import torch

import funrl
from benchmarks.offline import keep, pendulum_data, shown, table, trained
from funrl import offline, random, tree


def scores(algo: Any, states: Any, agents: int = 5) -> torch.Tensor:
    """Return the mean return of 20 episodes of each agent."""
    return funrl.training.evaluate_agents(algo, states, random.key(4), 20, num_agents=agents).episode_return.mean(1)


def going_on(algo: Any, states: Any, at: set[int]) -> dict[int, torch.Tensor]:
    """Step five agents until the last of some numbers of environment steps, and return their scores at each."""
    keys = random.split(random.key(5), 5)
    step, found = funrl.compile(torch.func.vmap(algo.step), donate=1, threads=1), {}
    for i in range(1, max(at) // algo.steps_per_update + 1):
        states, _ = step(torch.func.vmap(random.fold_in, (0, None))(keys, torch.tensor(i)), states)
        if i * algo.steps_per_update in at:
            found[i * algo.steps_per_update] = scores(algo, states)
    return found


def online(args: argparse.Namespace) -> None:
    """Compare RLPD with SAC from nothing on Pendulum, each with one environment and updates after every 8 steps."""
    torch.set_num_threads(1)
    env, data, _, _ = pendulum_data(args.steps)
    shared: dict[str, Any] = {"num_envs": 1, "num_steps": 8, "batch_size": 128, "num_cells": (64, 64), "gamma": 0.95, "learning_rate": 1e-3}
    shared["learning_starts"] = 200
    rlpd: dict[str, Any] = {"num_updates": 80, "policy_delay": 10}  # and 10 critics: the paper has 20 gradient steps to an environment step
    runs = {
        "SAC": (funrl.algos.sac.make(env, num_updates=8, **shared), {1_000, 2_000, 4_000}),
        "RLPD": (offline.rlpd.make(env, data, **shared, **rlpd), {400, 600, 800, 1_000}),
    }
    rows = [
        f"RLPD has {data.size:,} transitions of SAC as it learned, and 10 gradient steps of 10 critics to an environment step.",
        "",
        "| | environment steps | return, mean of five seeds (lowest to highest) |",
        "|---|---|---|",
    ]
    for name, (algo, at) in runs.items():
        states = torch.func.vmap(algo.init)(random.split(random.key(3), 5))
        rows += [f"| {name} | {steps:,} | {shown(found)} |" for steps, found in going_on(algo, states, at).items()]
        print(rows[-1], flush=True)
    keep("RLPD beside SAC, Pendulum", rows)


def calibrated(args: argparse.Namespace) -> None:
    """Train Cal-QL and CQL on Pendulum's data, then let both go on in the environment."""
    torch.set_num_threads(1)
    env, data, _, _ = pendulum_data(args.steps)
    shared: dict[str, Any] = {"num_cells": (64, 64), "batch_size": 128, "num_actions": 4, "gamma": 0.95, "learning_rate": 1e-3, "tau": 0.02}
    shared |= {"actor_learning_rate": 1e-3, "penalty_weight": 0.5}
    at = {64, 128, 256, 512, 1_024}
    rows = [
        f"{data.size:,} transitions of SAC as it learned; {args.updates:,} gradient steps on them, then one to each environment step,",
        "half of each batch from the data. Means of five seeds (lowest to highest).",
        "",
        "| | offline | " + " | ".join(f"after {steps:,} steps" for steps in sorted(at)) + " |",
        "|---|---|" + "---|" * len(at),
    ]
    for name in ("Cal-QL", "CQL"):
        options = {**shared, "calibrated": name == "Cal-QL"}
        before = offline.cql.make(env, data, num_updates=100, **options)
        after = offline.cql.online(env, data, num_envs=1, num_steps=32, num_updates=32, **options)
        states = trained(before, args.updates)
        first = scores(before, states)
        fresh = torch.func.vmap(after.init)(random.split(random.key(6), 5))
        found = going_on(after, torch.func.vmap(offline.hand_over)(fresh, states), at)
        rows.append(f"| {name} | {shown(first)} | " + " | ".join(shown(x) for x in found.values()) + " |")
        print(rows[-1], flush=True)
    keep("Before and after the switch to the environment, Pendulum", rows)


def hopper(args: argparse.Namespace) -> None:
    """Record SAC on Hopper-v5 as it learns, write the data with Minari and read it back, and train learners on it."""
    torch.set_num_threads(1)
    env = funrl.envs.make("gymnasium:Hopper-v5", num_envs=4)
    sac = funrl.algos.sac.make(
        env, num_envs=4, num_steps=8, num_updates=32, batch_size=128, buffer_size=max(1_000, args.steps), learning_starts=2_000
    )
    state = sac.init(random.key(0))
    for i in range(args.steps // 32):
        state, _ = sac.step(random.fold_in(random.key(1), i), state)
    data = offline.datasets.from_replay(sac, state)
    others = {
        "random": offline.datasets.record(None, random.key(7), env=env, num_steps=10_000),
        "medium": offline.datasets.record(state.learner.params, random.key(8), env=env, act=sac.act, num_steps=10_000),
        "expert": offline.datasets.record(state.learner.params, random.key(9), env=env, act=sac.greedy, num_steps=10_000),
    }
    means = {name: x.episode_return[x.transition.done[x.end]].mean().item() for name, x in {**others, "medium-replay": data}.items()}
    same = all(bits_of(x, env) for x in [data, *others.values()])
    shared = {"num_cells": (64, 64), "batch_size": 128, "num_updates": 100, "learning_rate": 1e-3}
    learners = {"bc": {}, "td3_bc": {"alpha": 2.5}, "iql": {"temperature": 3.0}}
    scaled = offline.datasets.scale_rewards(data)
    rows = [
        f"SAC's {data.size:,} steps. Mean returns: " + ", ".join(f"{name} {x:.0f}" for name, x in means.items()) + ".",
        f"Written by Minari's writer and read back, the four data sets are {'equal bit for bit' if same else 'NOT equal'}.",
        f"Five seeds (d3rlpy: {args.seeds}), {args.updates:,} gradient steps, 20 episodes each: mean (lowest to highest).",
        "",
        *table(args, env, scaled, learners, shared, {"env": "Hopper-v5"}),
    ]
    keep("Hopper-v5, medium-replay", rows)


def bits_of(data: offline.Dataset, env: Any) -> bool:
    """Return whether Minari's writer and our reader give back every bit of a data set."""
    with tempfile.TemporaryDirectory() as folder:
        offline.datasets.to_minari(data, f"{folder}/own", env=env)
        back = offline.datasets.minari(f"{folder}/own")
        cut = data.end & ~data.transition.done  # Minari's episodes have no third end
        expected = data.transition.replace(truncated=data.transition.truncated | cut)
        return tree.equal(back.transition, expected) and torch.equal(back.end, data.end)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {"online": online, "calibrated": calibrated, "hopper": hopper}
