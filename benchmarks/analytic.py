"""What gradients through the environment are worth: the environment steps of APG, SHAC and PPO until their returns are good.

The agents of a row, which differ by their seeds, are one vmapped program. They are evaluated without exploration, along the training.
"""

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import Benchmark, Figures, Options, say

NUM_AGENTS = 5
NUM_EPISODES = 20  # of each agent in an evaluation
GOALS = {"Pendulum-v1": -200.0, "Reacher-misc": -15.0}
# Algorithm, environment, environment steps, and those between two evaluations. Options are those of the presets.
ROWS = {
    "APG, Pendulum-v1": ("apg", "Pendulum-v1", 200_000, 5_000),
    "SHAC, Pendulum-v1": ("shac", "Pendulum-v1", 150_000, 5_000),
    "PPO, Pendulum-v1": ("ppo", "Pendulum-v1", 600_000, 20_000),
    "SHAC, Reacher-misc": ("shac", "Reacher-misc", 150_000, 5_000),
    "PPO, Reacher-misc": ("ppo", "Reacher-misc", 400_000, 10_000),
}
PPO_REACHER = {"num_envs": 16, "num_epochs": 10, "num_minibatches": 8, "entropy_weight": 0.0, "anneal_steps": 4e5}


def learn(row: str, seed: int = 100) -> dict[str, Any]:
    """Train the agents of a row, and return their returns along the training."""
    import torch
    from torch.func import vmap

    import funrl
    from funrl import random

    name, env_name, most, between = ROWS[row]
    env = funrl.envs.make(env_name)
    options = PPO_REACHER if (name, env_name) == ("ppo", "Reacher-misc") else funrl.training.preset(name, env_name).options
    algo = funrl.algos.make(name, env, **options)

    def test(params: Any, key: Any) -> torch.Tensor:
        return funrl.evaluate(params, key, env.default_params, env=env, act=algo.greedy, num_episodes=NUM_EPISODES).episode_return.mean()

    step, play = funrl.compile(vmap(algo.step), donate=1), funrl.compile(vmap(test, (0, None)))
    states, curve, steps = vmap(algo.init)(random.split(random.key(seed), NUM_AGENTS)), [], []
    for i in range(most // algo.steps_per_update):
        done, key = (i + 1) * algo.steps_per_update, random.fold_in(random.key(seed + 1), i)
        states, _ = step(random.split(key, NUM_AGENTS), states)
        if done // between > (done - algo.steps_per_update) // between:
            steps.append(done)
            curve.append([round(x, 2) for x in play(states.learner.params, random.key(seed + 2)).tolist()])
            say(f"analytic: {row}, {done:,} steps: {curve[-1]}")
    return {"steps": steps, "returns": curve}


def _first(row: dict[str, Any], goal: float) -> list[int | None]:
    """Return the steps after which the return of each agent first reaches the goal."""
    agents = zip(*row["returns"], strict=True)
    return [next((steps for steps, x in zip(row["steps"], agent, strict=True) if x >= goal), None) for agent in agents]


def run(options: Options) -> Iterator[Figures]:
    """Yield what the agents of each row learned."""
    for row in ROWS:
        if options.wants(row, row == "APG, Pendulum-v1"):
            yield {row: learn(row)}


def notes(figures: Figures) -> list[str]:
    """Return a line for each row."""
    lines = []
    for name, row in figures.items():
        goal = GOALS[ROWS[name][1]]
        steps, last = _first(row, goal), row["returns"][-1]
        shown = ", ".join("not" if x is None else f"{x:,}" for x in steps)
        lines.append(
            f"* {name}: steps until the mean return of {NUM_EPISODES} episodes is at least {goal:g}, of each agent: {shown}; returns after "
            f"{row['steps'][-1]:,} steps: {statistics.mean(last):.1f} ({min(last):.1f} to {max(last):.1f})."
        )
    return lines


BENCHMARK = Benchmark(
    f"Gradients through the environment beside PPO: steps until returns are good, {NUM_AGENTS} agents as one program.",
    (),
    run,
    notes,
)
