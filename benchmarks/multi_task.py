"""One policy for several tasks, compared with a policy for each of them.

The agents of a row, which differ by their seeds or their tasks, are one vmapped program. The share of a task is
(multi - random) / (single - random), of the mean returns of one policy for all tasks, of policies of that task only, and of random actions.
"""

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import Benchmark, Figures, Options, say

NUM_AGENTS = 5
NUM_SINGLE = 2  # of each task alone
NUM_TASKS = 10
NUM_EPISODES = 20
# Environment steps of a policy of one task (a policy of all ten has as many for each), agents with one policy for all tasks, and options.
KINDS = {
    "CartPole-v1": (
        300_000,
        NUM_AGENTS,
        {"num_envs": 32, "num_steps": 32, "num_epochs": 8, "gamma": 0.98, "lambda_": 0.8, "entropy_weight": 0.0},
    ),
    "Pendulum-v1": (
        300_000,
        3,
        {"num_envs": 16, "num_epochs": 10, "num_minibatches": 8, "gamma": 0.9, "entropy_weight": 0.0},
    ),
    "Acrobot-v1": (150_000, NUM_AGENTS, {"num_envs": 16}),
}


def _train(algo: Any, updates: int, states: Any) -> Any:
    """Train agents with states [R, ...], and return their states."""
    import torch

    import funrl
    from funrl import random

    step = funrl.compile(torch.func.vmap(algo.step))
    agents = len(states.learner.num_steps)
    for i in range(updates):
        states, _ = step(random.split(random.fold_in(random.key(1), i), agents), states)
    return states


def _drawn(name: str) -> tuple[Any, Any]:
    """Return an environment, and the params of its ten variants."""
    import funrl
    from funrl import random
    from funrl.envs import tasks

    env = funrl.envs.make(name)
    return env, tasks.of(env).train(random.key(0), NUM_TASKS)


def one_each(name: str, steps: int) -> dict[str, Any]:
    """Train policies for each of ten variants of an environment; return their returns, [tasks, seeds], and those of random actions."""
    from torch.func import vmap

    import funrl
    from funrl import random, tree

    env, drawn = _drawn(name)
    algo = funrl.algos.ppo.make(env, anneal_steps=float(steps), **KINDS[name][2])
    states = vmap(algo.init)(random.split(random.key(0), NUM_TASKS * NUM_SINGLE))
    each = tree.map(lambda x: x.repeat_interleave(NUM_SINGLE, 0), drawn)
    states = states.replace(learner=states.learner.replace(env_params=each))
    states = _train(algo, steps // algo.steps_per_update, states)

    def play(params: Any, key: Any, env_params: Any, act: Any = algo.greedy) -> Any:
        return funrl.evaluate(params, key, env_params, env=env, act=act, num_episodes=NUM_EPISODES).episode_return.mean()

    found = funrl.compile(vmap(play))(states.learner.params, random.split(random.key(2), len(states.learner.num_steps)), each)
    low = funrl.compile(vmap(lambda key, env_params: play(None, key, env_params, None)))(random.split(random.key(3), NUM_TASKS), drawn)
    return {"single": found.reshape(NUM_TASKS, NUM_SINGLE).tolist(), "random": low.tolist()}


def one_for_all(name: str, steps: int) -> dict[str, Any]:
    """Train policies for all variants, with as many steps for each of them; return their returns, [agents, tasks]."""
    from torch.func import vmap

    import funrl
    from funrl import meta, random

    env, drawn = _drawn(name)
    _, num_agents, options = KINDS[name]
    wider = {**options, "num_envs": 4 * options["num_envs"], "anneal_steps": float(NUM_TASKS * steps)}
    algo = meta.multi_task.make(env, tasks=drawn, **wider)
    states = _train(algo, NUM_TASKS * steps // algo.steps_per_update, vmap(algo.init)(random.split(random.key(0), num_agents)))
    returns = funrl.compile(vmap(meta.multi_task.returns(algo.env, algo.greedy, NUM_EPISODES)))
    found = returns(states.learner.params, random.split(random.key(4), num_agents), states.learner.env_params)
    return {"multi": found.mean(-1).tolist()}


def variants(name: str) -> dict[str, Any]:
    """Train one policy for ten variants of an environment, and one for each of them."""
    steps = KINDS[name][0]
    return {"steps": steps, **one_each(name, steps), **one_for_all(name, steps)}


def _interval(x: list[float], less: list[float] | None = None) -> str:
    """Return the mean, or the difference of two means, with its interval of 95 %, by the normal distribution."""
    parts = [x] if less is None else [x, less]
    mean = statistics.mean(x) - (0.0 if less is None else statistics.mean(less))
    half = 1.96 * sum(statistics.variance(part) / len(part) for part in parts) ** 0.5
    return f"{mean:.1f} ({mean - half:.1f} to {mean + half:.1f})"


def _shares(row: dict[str, Any]) -> list[list[float]]:
    """Return the share of each agent in each task."""
    single = [sum(x) / len(x) for x in row["single"]]
    return [[(x - low) / (high - low) for x, low, high in zip(agent, row["random"], single, strict=True)] for agent in row["multi"]]


def scales(updates: int = 120) -> dict[str, Any]:
    """Pendulum with rewards times 1 and 1,000, one policy for both: with PopArt and without."""
    import torch
    from torch.func import vmap

    import funrl
    from funrl import meta, random

    pendulum = funrl.envs.make("Pendulum-v1")
    both = [pendulum, funrl.transforms.reward_scale(1000.0)(pendulum)]
    options = KINDS["Pendulum-v1"][2]
    result: dict[str, Any] = {"updates": updates}
    for name, rate in (("PopArt", 0.1), ("without", 0.0)):
        algo = meta.multi_task.make(both, popart_rate=rate, anneal_steps=float(updates * 32 * 128), **{**options, "num_envs": 32})
        states = _train(algo, updates, vmap(algo.init)(random.split(random.key(0), NUM_AGENTS)))
        returns = funrl.compile(vmap(meta.multi_task.returns(algo.env, algo.greedy, NUM_EPISODES)))
        found = returns(states.learner.params, random.split(random.key(4), NUM_AGENTS), states.learner.env_params).mean(-1)
        result[name] = (found / torch.tensor([1.0, 1000.0])).tolist()  # [agents, tasks], in the first scale
    return result


def levels(updates: int = 200, num_agents: int = 10) -> dict[str, Any]:
    """Mazes: PPO with prioritised level replay, and with new mazes only, on the same held-out mazes; all agents are one program."""
    import torch
    from torch.func import vmap

    import funrl
    from funrl import meta, random, transforms
    from funrl.envs import tasks

    size, most = 7, 50
    single = funrl.envs.maze(["S" + "." * (size - 1), *["." * size] * (size - 2), "." * (size - 1) + "G"])
    single = single._replace(max_episode_steps=most, default_params=single.default_params.replace(max_steps=torch.tensor(most)))
    env = transforms.flatten_observation()(single)
    steps = 32 * most
    algo = meta.plr.make(
        env, num_envs=32, num_steps=most, num_levels=500, learning_rate=2e-3, anneal_steps=float(updates * steps), score_temperature=0.1
    )
    replay = torch.tensor([0.5, 0.0]).repeat_interleave(num_agents)
    keys = random.split(random.key(0), num_agents).repeat(2)
    states = vmap(lambda key, x: algo.init(key, {"replay_probability": x}))(keys, replay)
    held_out = tasks.of(single).test(random.key(7), 500)

    def play(params: Any, key: Any, env_params: Any) -> Any:
        return funrl.evaluate(params, key, env_params, env=env, act=algo.greedy, num_episodes=1)

    score = funrl.compile(vmap(vmap(play, (None, 0, 0)), (0, None, None)))
    step, play_keys = funrl.compile(vmap(algo.step)), random.split(random.key(8), 500)
    result: dict[str, Any] = {"updates": updates, "steps": steps * updates, "after": [], "solved": [], "returns": []}
    for i in range(updates):
        states, _ = step(random.split(random.fold_in(random.key(1), i), 2 * num_agents), states)
        if (i + 1) % (updates // 5) == 0:
            found = score(states.learner.params, play_keys, held_out)
            result["after"].append(i + 1)
            result["solved"].append((found.episode_return > 0.01 - 0.01 * most).to(torch.float32).mean((1, 2)).tolist())
            result["returns"].append(found.episode_return.mean((1, 2)).tolist())
    return result  # of each time [agents with replay, agents without]


ROWS = {f"ten variants, {name}": lambda name=name: variants(name) for name in KINDS} | {
    "rewards times 1 and 1,000": scales,
    "prioritised level replay": levels,
}


def run(options: Options) -> Iterator[Figures]:
    """Yield what the agents of each row learned."""
    for row, learn in ROWS.items():
        if options.wants(row, quick=False):
            say(f"multi_task: {row}")
            yield {row: learn()}


def notes(figures: Figures) -> list[str]:
    """Return the tables."""
    lines = []
    for name, row in figures.items():
        if name.startswith("ten variants"):
            shares = _shares(row)
            agents, tasks = ([sum(x) / len(x) for x in rows] for rows in (shares, zip(*shares, strict=True)))
            lines.append(
                f"* T{name[1:]}, {row['steps']:,} steps for each task: one policy for all has {100 * sum(agents) / len(agents):.0f} % of "
                f"the returns of policies for one (agents from {100 * min(agents):.0f} to {100 * max(agents):.0f} %, tasks from "
                f"{100 * min(tasks):.0f} to {100 * max(tasks):.0f} %; 0 % is random)."
            )
        if name == "rewards times 1 and 1,000":
            told = []
            for kind in ("PopArt", "without"):
                small, large = (list(x) for x in zip(*row[kind], strict=True))
                ends = [f"{sum(x) / len(x):.0f} ({min(x):.0f} to {max(x):.0f})" for x in (small, large)]
                told.append(f"{'with PopArt' if kind == 'PopArt' else kind} {ends[0]} and {ends[1]}")
            lines.append(f"* Pendulum with rewards times 1 and 1,000, both in the first scale: {'; '.join(told)}.")
        if name == "prioritised level replay":
            half, told = len(row["solved"][0]) // 2, []
            along = [statistics.mean(x) for x in zip(*row["solved"], strict=True)]
            for after, agents in zip([*row["after"], "all"], [*row["solved"], along], strict=True):
                with_, without = ([100 * x for x in part] for part in (agents[:half], agents[half:]))
                told.append(f"after {after} {_interval(with_)} with it, {_interval(without)} without: {_interval(with_, without)} more")
            lines.append(
                f"* Held-out mazes that are solved, in %, with prioritised level replay and with new mazes only, {half} agents each, after "
                f"so many updates (all: the mean along the training): {'; '.join(told)}."
            )
    return lines


BENCHMARK = Benchmark(
    f"One policy for {NUM_TASKS} tasks beside a policy for each, {NUM_AGENTS} agents as one program.",
    (),
    run,
    notes,
)
