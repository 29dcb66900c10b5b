"""Parts of :mod:`benchmarks.offline`: data sets of funrl's own agents, and each learner beside d3rlpy's on the same rows."""

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import funrl
from benchmarks.offline import RESULTS, arrays_of, keep, peer
from funrl import offline, random, tree
from funrl.offline import datasets

LINES = RESULTS.with_suffix(".jsonl")
_HOST = {"num_envs": 4, "num_steps": 25, "num_updates": 50, "batch_size": 128, "num_cells": (64, 64), "learning_starts": 2_000}
# A medium-replay data set is the replay of a run that learns over all of its steps, so there are fewer gradient steps than usual.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "Pendulum-v1": (
        "sac",
        {"num_envs": 20, "num_steps": 10, "num_updates": 10, "batch_size": 128, "num_cells": (64, 64), "gamma": 0.95, "learning_rate": 1e-3}
        | {"learning_starts": 2_000},
    ),
    "CartPole-v1": (
        "dqn",
        {"num_envs": 20, "num_steps": 10, "num_updates": 20, "num_cells": (64, 64), "learning_starts": 2_000}
        | {"target_period": 1, "tau": 0.005, "huber_delta": math.inf, "anneal_steps": 1e5},
    ),
    "gymnasium:Hopper-v5": ("sac", {**_HOST, "learning_rate": 1e-3}),
    "gymnasium:HalfCheetah-v5": ("sac", {**_HOST, "learning_rate": 1e-3}),
}
DELAYED = {"gamma": 0.95, "tau": 0.02}
SHARED = {"num_cells": (64, 64), "batch_size": 128, "num_updates": 100, "learning_rate": 1e-3}
# Options of funrl's learner, and the same of the peer's. d3rlpy's errors have no factor 1/2, so its penalty has twice the weight.
PENDULUM: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bc": ({}, {}),
    "filtered_bc": ({}, {}),
    "td3_bc": ({"alpha": 10.0, **DELAYED}, {"alpha": 10.0, **DELAYED}),
    "iql": ({"temperature": 5.0, **DELAYED}, {"weight_temp": 5.0, **DELAYED}),
    "awac": ({"temperature": 5.0, **DELAYED}, {"lam": 0.2, **DELAYED}),
    "cql": (
        {"penalty_weight": 0.5, "num_actions": 4, "actor_learning_rate": 1e-3, **DELAYED},
        {"conservative_weight": 1.0, "n_action_samples": 4, "alpha_learning_rate": 0.0, "alpha_threshold": 0.0, **DELAYED},
    ),
    "rebrac": ({"actor_beta": 0.05, "critic_beta": 0.05, **DELAYED}, {"actor_beta": 0.05, "critic_beta": 0.05, **DELAYED}),
    "sac_n": ({"num_critics": 4, **DELAYED}, {"n_critics": 4, **DELAYED}),
    "edac": ({"num_critics": 4, **DELAYED}, {"n_critics": 4, "eta": 1.0, **DELAYED}),
}
PENDULUM["decision_transformer"] = (
    {"context_length": 10, "hidden_size": 32, "num_layers": 2, "warmup_updates": 1.0, "target_return": -150.0},
    {"context_size": 10, "num_layers": 2, "max_timestep": 1000},
)
CARTPOLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bc": ({}, {}),
    "cql": ({"penalty_weight": 1.0, "tau": 0.01}, {"alpha": 1.0, "target_update_interval": 100}),
}
MUJOCO: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bc": ({}, {}),
    "td3_bc": ({"alpha": 2.5}, {"alpha": 2.5}),
    "iql": ({"temperature": 3.0}, {"weight_temp": 3.0}),
    "rebrac": ({"actor_beta": 0.01, "critic_beta": 0.01}, {"actor_beta": 0.01, "critic_beta": 0.01}),
    "edac": ({"num_critics": 4}, {"n_critics": 4, "eta": 1.0, "gamma": 0.99, "tau": 0.005}),
}
LEARNERS = {"Pendulum-v1": PENDULUM, "CartPole-v1": CARTPOLE}


def recordings(name: str, steps: int, folder: str) -> tuple[Any, dict[str, offline.Dataset]]:
    """Return the environment, and its data sets of a number of steps each, recorded once into a folder.

    ``medium`` is the agent with its exploration after half of its steps; ``expert`` the best of ten of its states, without.
    """
    host = name.startswith("gymnasium:")
    env = funrl.envs.make(name, num_envs=4) if host else funrl.envs.make(name)
    place = Path(folder) / f"{name.removeprefix('gymnasium:')}-{steps}"
    kinds = ("random", "medium", "medium-replay", "expert")
    if not (place / kinds[-1] / "dataset.json").exists():
        algorithm, options = RUNS[name]
        algo = funrl.algos.make(algorithm, env, buffer_size=steps, **options)
        step, state = algo.step if host else funrl.compile(algo.step, threads=1), algo.init(random.key(0))
        other = funrl.envs.make(name, num_envs=4) if host else env  # a host environment has one line of play
        count, params, scores = steps // (options["num_envs"] * options["num_steps"]), [], []
        for i in range(1, count + 1):
            state, _ = step(random.fold_in(random.key(1), i), state)
            if i % (count // 10) == 0:
                params.append(tree.map(torch.clone, state.learner.params))
                played = funrl.evaluate(params[-1], random.key(2), env.default_params, env=other, act=algo.greedy, num_episodes=12)
                scores.append(played.episode_return.mean().item())
        best = params[max(range(len(scores)), key=scores.__getitem__)]
        actors = {"random": ((), None), "medium": (params[4], algo.act), "expert": (best, algo.greedy)}
        found = {"medium-replay": datasets.from_replay(algo, state)}
        for i, (kind, (params, act)) in enumerate(actors.items()):
            found[kind] = datasets.record(params, random.key(7 + i), env=env, act=act, num_steps=steps)
        for kind in kinds:
            datasets.save(found[kind], place / kind)
    return env, {kind: tree.map(torch.clone, datasets.load(place / kind)) for kind in kinds}


def behavior(data: offline.Dataset) -> float:
    """Return the mean return of the episodes that ended."""
    return data.episode_return[data.transition.done[data.end]].mean().item()


def bits_of(data: offline.Dataset, env: Any) -> bool:
    """Return whether Minari's writer and our reader give back every bit of a data set."""
    with tempfile.TemporaryDirectory() as folder:
        datasets.to_minari(data, f"{folder}/own", env=env)
        back = datasets.minari(f"{folder}/own")
        cut = data.end & ~data.transition.done  # Minari's episodes have no third end
        expected = data.transition.replace(truncated=data.transition.truncated | cut)
        return tree.equal(back.transition, expected) and torch.equal(back.end, data.end)


def data(args: argparse.Namespace) -> None:
    """Record the four kinds of data of four environments, and write them with Minari and read them back."""
    torch.set_num_threads(1)
    rows = ["| environment | data | transitions | episodes | mean return | through Minari |", "|---|---|---|---|---|---|"]
    for name in [args.env] if args.env else RUNS:
        env, found = recordings(name, args.steps, args.folder)
        for kind, each in found.items():
            bits = "equal bit for bit" if bits_of(each, env) else "NOT equal"
            rows.append(f"| {name} | {kind} | {each.size:,} | {len(each.episode_return)} | {behavior(each):.0f} | {bits} |")
            print(rows[-1], flush=True)
    keep("Data sets of funrl's SAC and DQN, through Minari's writer and back", rows)


def trained(algo: Any, updates: int, agents: int = 5) -> Any:
    """Return the states of agents after gradient steps, as one program in one thread."""
    keys = random.split(random.key(3), agents)
    step, states = funrl.compile(torch.func.vmap(algo.step), donate=1, threads=1), torch.func.vmap(algo.init)(keys)
    for i in range(updates // algo.config.num_updates):
        states, _ = step(torch.func.vmap(random.fold_in, (0, None))(keys, torch.tensor(i)), states)
    return states


def interval(scores: Any) -> tuple[float, float]:
    """Return the mean of the scores of seeds, and the half-width of its 95% interval by Student's t for five."""
    scores = torch.as_tensor(scores, dtype=torch.float64)
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 8: 2.36, 10: 2.26}[len(scores)]
    return scores.mean().item(), t * scores.std().item() / math.sqrt(len(scores))


def shown(scores: Any) -> str:
    """Return the mean of the scores of seeds with its 95% interval."""
    return "{:.0f} ± {:.0f}".format(*interval(scores))


def episodes_in(env: Any) -> int:
    """Return the episodes of each agent's evaluation: those of pure environments run side by side and cost little."""
    return 100 if isinstance(env, funrl.env.Env) else 20


def played(env: Any, layers: dict[int, list], shift: Any, scale: Any) -> list[float]:
    """Return the mean return for each seed of a peer, whose policy is a perceptron."""

    def act(params: list, key: torch.Tensor, observation: torch.Tensor) -> tuple[torch.Tensor, dict]:
        x = (observation.to(shift) - shift) / scale
        for i in range(0, len(params), 2):
            x = torch.nn.functional.linear(x if not i else x.relu(), params[i], params[i + 1])
        if isinstance(env.action_space, funrl.spaces.Discrete):
            return x.argmax(-1), {}
        return (x.tanh() * env.action_space.high).to(env.action_space.dtype), {}

    found = []
    for seed, arrays in layers.items():
        params = [torch.from_numpy(x) for x in arrays]
        key = random.fold_in(random.key(4), seed)
        played = funrl.evaluate(params, key, env.default_params, env=env, act=act, num_episodes=episodes_in(env))
        found.append(played.episode_return.mean().item())
    return found


def beside(args: argparse.Namespace, name: str, env: Any, rows: offline.Dataset, ours: dict, theirs: dict) -> tuple[list, list, Any]:
    """Return the scores of five agents of a learner, and of the peer's, on the same rows after as many gradient steps."""
    transformer = name == "decision_transformer"
    shared = {**SHARED, "num_cells": (args.cells, args.cells)} if not transformer else {**SHARED, "num_cells": (), "batch_size": 32}
    algo = offline.make(name, env, rows, **{**shared, **ours})
    states = trained(algo, args.updates)
    mine = funrl.training.evaluate_agents(algo, states, random.key(4), episodes_in(env), num_agents=5).episode_return.mean(1).tolist()
    if not args.peers:
        return mine, [], None
    used = datasets.top(rows, 0.1) if name == "filtered_bc" else rows
    arrays, shift, scale = arrays_of(used), torch.zeros(rows.transition.observation.shape[1]), torch.ones(())
    if name in ("td3_bc", "decision_transformer"):
        shift, scale = rows.transition.observation.mean(0), rows.transition.observation.std(0, correction=0) + 1e-3
        for column in ("observations", "next_observations"):
            arrays[column] = ((torch.from_numpy(arrays[column]) - shift) / scale).numpy()
    discrete = isinstance(env.action_space, funrl.spaces.Discrete)
    if not discrete:
        arrays["actions"] = arrays["actions"] / env.action_space.high.to(torch.float32).numpy()
    task: dict[str, Any] = {
        "name": f"discrete_{name}" if discrete else name,
        "batch": shared["batch_size"],
        "rate": shared["learning_rate"],
    }
    if args.same_weights and name not in ("bc", "filtered_bc", "edac"):
        raise SystemExit(f"--same-weights: {name}: only bc, filtered_bc and edac have peers whose first weights are drawn as funrl's")
    task |= {"same_weights": args.same_weights, "reach": 1.0 if discrete else env.action_space.high.max().item()}
    if transformer:
        task |= {"hidden": ours["hidden_size"], "scale": 1000.0, "target": ours["target_return"], "episodes": 20}
        task |= {"mean": shift.tolist(), "std": scale.tolist()}
    found = peer(args.peers, arrays, **task, cells=[args.cells] * 2, options=theirs, seeds=args.seeds, updates=args.updates)
    if transformer:
        return mine, found["scores"], found["rate"]
    return mine, played(env, found["layers"], shift, scale), found["rate"]


def learn(args: argparse.Namespace) -> None:
    """Train learners and their peers on medium-replay data, five seeds each, and append their scores to ``results/offline.jsonl``."""
    torch.set_num_threads(1)
    name = args.env or "Pendulum-v1"
    env, found = recordings(name, args.steps, args.folder)
    replay = found["medium-replay"]
    how = "standardize" if name == "Pendulum-v1" else "return_range"
    scaled = replay if name == "CartPole-v1" else datasets.scale_rewards(replay, how=how)
    setting = {"env": name, "transitions": replay.size, "updates": args.updates, "batch": SHARED["batch_size"], "cells": args.cells}
    setting |= {
        "episodes": episodes_in(env),
        "behavior": behavior(replay),
        **{kind: behavior(found[kind]) for kind in ("random", "expert")},
    }
    learners = LEARNERS.get(name, MUJOCO)
    for learner in args.only or learners:
        used = replay if learner == "decision_transformer" else scaled
        mine, theirs, rate = beside(args, learner, env, used, *learners[learner])
        line = {**setting, "learner": learner, "options": learners[learner][0], "funrl": mine, "peer": theirs, "peer_rate": rate}
        line |= {"same_weights": True} if args.same_weights else {}
        with open(LINES, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(row_of(line), flush=True)


def row_of(line: dict[str, Any]) -> str:
    """Return the row of a learner in the table."""
    (mean, half), low = interval(line["funrl"]), line["behavior"]
    above = "yes" if mean - half > low else "no, below" if mean + half < low else "no, as good"
    cell, where = "", ""
    if line["peer"]:
        their_mean, their_half = interval(line["peer"])
        cell, where = shown(line["peer"]), "above" if mean > their_mean + their_half else "within"
        where = "below" if mean < their_mean - their_half else where
    peer = ("plain torch" if line["learner"] == "edac" else "d3rlpy") if cell else ""
    peer += ", weights drawn as ours" if line.get("same_weights") else ""
    numbers = f"{line['updates']:,} | {line.get('episodes', 20)}"
    options = ", ".join(f"{name} {x:g}" for name, x in line["options"].items() if name not in (*DELAYED, "actor_learning_rate"))
    return f"| {line['learner']} | {options} | {numbers} | {shown(line['funrl'])} | {cell} | {peer} | {above} | {where} |"


def table(args: argparse.Namespace) -> None:
    """Write the tables of the last scores of each learner with each choice of options and gradient steps."""
    lines = {
        (x["env"], x["learner"], str([x["options"], x["updates"], x.get("same_weights")])): x
        for x in map(json.loads, LINES.read_text().splitlines())
    }
    for name in dict.fromkeys(name for name, _, _ in lines):
        found = [x for (env, _, _), x in lines.items() if env == name]
        first = found[0]
        rows = [
            f"{first['transitions']:,} transitions, batches of {first['batch']} (of 32 windows of 10 steps for the transformer), two",
            f"layers of {first['cells']} units. Mean return: behaviour {first['behavior']:.0f}, expert {first['expert']:.0f},",
            f"random {first['random']:.0f}.",
            "",
            "| | options | gradient steps | episodes | funrl | peer | peer is | above behaviour | in the peer's interval |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        keep(f"{name.removeprefix('gymnasium:')}, medium-replay, five seeds, mean and 95% interval", [*rows, *map(row_of, found)])


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {"data": data, "learn": learn, "table": table}
