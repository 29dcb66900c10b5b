"""Parts of :mod:`benchmarks.offline`: learning that goes on in the environment."""

import argparse
from collections.abc import Callable
from typing import Any

import torch

import funrl
from benchmarks.offline import keep
from benchmarks.offline_table import behavior, recordings, shown, trained
from funrl import offline, random
from funrl.transforms import compose, reward_scale


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
    """Compare RLPD with SAC from nothing: on Pendulum five agents at once, on Hopper three in turn."""
    torch.set_num_threads(1)
    env, found = recordings(args.env or "Pendulum-v1", args.steps, args.folder)
    data, host = found["medium-replay"], args.env is not None
    shared: dict[str, Any] = {"num_steps": 8, "batch_size": 128, "num_cells": (64, 64), "learning_rate": 1e-3}
    shared |= {"num_envs": 4, "learning_starts": 1_000} if host else {"num_envs": 1, "learning_starts": 200, "gamma": 0.95}
    each = 8 * shared["num_envs"]
    count = 5 if host else 10  # critics, and gradient steps to an environment step: the paper has 10 and 20
    rlpd: dict[str, Any] = {"num_updates": count * each, "policy_delay": count, "num_critics": count}
    end = args.online
    runs = {
        "SAC": (funrl.algos.sac.make(env, num_updates=each, **shared), [end // 4, end // 2, end]),
        "RLPD": (offline.rlpd.make(env, data, **shared, **rlpd), [end // 8, end // 4]),
    }
    rows = [
        f"RLPD has {data.size:,} transitions of SAC as it learned (mean return {behavior(data):.0f}), {count} critics, and {count}",
        f"gradient steps to an environment step; SAC one. Mean of {3 if host else 5} seeds with its 95% interval, 20 episodes each.",
        "",
        "| | environment steps | return |",
        "|---|---|---|",
    ]
    for name, (algo, at) in runs.items():
        at = {steps // each * each for steps in at}
        if host:
            found = in_turn(algo, at)
        else:
            found = going_on(algo, torch.func.vmap(algo.init)(random.split(random.key(3), 5)), at)
        rows += [f"| {name} | {steps:,} | {shown(x)} |" for steps, x in found.items()]
        print(*rows[-len(found) :], sep="\n", flush=True)
    keep(f"RLPD beside SAC, {(args.env or 'Pendulum-v1').removeprefix('gymnasium:')}", rows)


def in_turn(algo: Any, at: set[int]) -> dict[int, torch.Tensor]:
    """Return the scores of three agents, trained in turn on the host, after numbers of environment steps."""
    found: dict[int, list[float]] = {steps: [] for steps in sorted(at)}
    judge = algo._replace(env=funrl.envs.make(f"gymnasium:{algo.env.name.removeprefix('gymnasium:')}", num_envs=4))  # one line of play each
    for seed in range(3):
        key, state = random.key(seed), algo.init(random.key(10 + seed))
        for i in range(1, max(at) // algo.steps_per_update + 1):
            state, _ = algo.step(random.fold_in(key, i), state)
            if i * algo.steps_per_update in at:
                score = funrl.training.evaluate_agents(judge, state, random.key(4), 20).episode_return.mean()
                found[i * algo.steps_per_update].append(score.item())
    return {steps: torch.tensor(x) for steps, x in found.items()}


def calibrated(args: argparse.Namespace) -> None:
    """Train Cal-QL and CQL on Pendulum's data, then let both go on in the environment, and, as a control, on the data alone.

    Rewards are a tenth, in the data and in the environment.
    """
    torch.set_num_threads(1)
    plain, found = recordings("Pendulum-v1", args.steps, args.folder)
    env, rows = compose(plain, reward_scale(0.1)), found["medium-replay"].transition
    data = offline.datasets.from_transitions(rows.replace(reward=rows.reward * 0.1), end=found["medium-replay"].end, spaces=env)
    shared: dict[str, Any] = {"num_cells": (64, 64), "batch_size": 128, "num_actions": 4, "gamma": 0.95, "learning_rate": 1e-3, "tau": 0.02}
    shared |= {"actor_learning_rate": 1e-3, "penalty_weight": 0.5}
    at = [64, 128, 256, 512, 1_024]
    lines = [
        f"{data.size:,} transitions, medium-replay; {args.updates:,} gradient steps on them, then one to each environment step, with",
        "half of each batch from the data; or as many on the data alone. Mean return of five seeds with its 95% interval, and, after the",
        "switch, of the difference to the same agent's return before.",
        "",
        "| | offline | goes on | " + " | ".join(f"after {steps:,}" for steps in at) + " |",
        "|---|---|---|" + "---|" * len(at),
    ]
    for name in args.only or ("Cal-QL", "CQL"):
        options = {**shared, "calibrated": name == "Cal-QL"}
        before = offline.cql.make(env, data, num_updates=32, **options)
        states = trained(before, args.updates)
        first = 10 * scores(before, states)
        after = offline.cql.online(env, data, num_envs=1, num_steps=32, num_updates=32, **options)
        fresh = torch.func.vmap(after.init)(random.split(random.key(6), 5))
        begun = torch.func.vmap(offline.hand_over)(fresh, states)
        for place, algo, own in (("in the environment", after, begun), ("on the data", before, states)):
            found = {steps: 10 * x - first for steps, x in going_on(algo, own, set(at)).items()}
            lines.append(f"| {name} | {shown(first)} | {place} | " + " | ".join(shown(found[steps]) for steps in at) + " |")
            print(lines[-1], flush=True)
    keep("Before and after the switch to the environment, Pendulum", lines)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {"online": online, "calibrated": calibrated}
