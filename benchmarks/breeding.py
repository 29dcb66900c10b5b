"""Population-based training, compared with as many fixed random configurations: PPO on Acrobot and Pendulum, five repetitions.

    python -m benchmarks.breeding        # the repetitions that are missing

``benchmarks/results/breeding.jsonl`` keeps a line for each repetition as it comes, and ``breeding.md`` is made of it. Both begin with the
same agents: those of one key have the same first hyperparameters.
"""

import json
import time
from typing import Any

from benchmarks.harness import say
from benchmarks.history import RESULTS

KEPT, PAGE = RESULTS / "breeding.jsonl", RESULTS / "breeding.md"
AGENTS, REPETITIONS, PERIOD = 10, 5, 10
# The steps of an agent, and the options that are fixed.
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "Acrobot-v1": (60_000, {}),
    "Pendulum-v1": (80_000, {"gamma": 0.9}),
}


def population(env: str, bred: bool) -> Any:
    """Return the population that breeds, or the one that does not."""
    import funrl
    from funrl import populations

    options = {
        "num_envs": 16,
        "num_steps": 32,
        "num_cells": (32, 32),
        "num_epochs": 4,
        "num_minibatches": 4,
        "entropy_weight": 0.0,
        **CASES[env][1],
    }
    algo = funrl.algos.ppo.make(funrl.envs.make(env), **options)
    space = {"learning_rate": populations.log_uniform(1e-5, 1e-1), "clip": populations.log_uniform(0.02, 0.5)}
    space["lambda_"] = populations.uniform(0.5, 1.0)
    return populations.pbt(algo, space, AGENTS, period=PERIOD) if bred else populations.sweep(algo, space, AGENTS)


def page(rows: list[dict[str, Any]]) -> str:
    """Return the table of all repetitions."""
    lines = [
        "# Population-based training beside fixed configurations",
        "",
        f"Made by `python -m benchmarks.breeding`: {AGENTS} agents of PPO, learning rate from 1e-5 to 1e-1, clip from 0.02 to 0.5 and",
        f"lambda from 0.5 to 1. Those that breed do so after every {PERIOD} updates, by truncation and perturbation. The others keep what",
        "they drew. Scores are means of the last tenth of an agent's returns.",
        "",
        "| | repetition | median of the bred | of the fixed | best of the bred | of the fixed | exchanges |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = " | ".join(f"{row[name]:.1f}" for name in ("bred_median", "fixed_median", "bred_best", "fixed_best"))
        lines.append(f"| {row['env']}, {row['steps']:,} steps | {row['repetition']} | {numbers} | {row['exchanges']} |")
    for env in dict.fromkeys(row["env"] for row in rows):
        mine = [row for row in rows if row["env"] == env]
        won = sum(row["bred_median"] > row["fixed_median"] for row in mine)
        lines += ["", f"{env}: the median of the bred agents is above that of the fixed ones in {won} of {len(mine)} repetitions."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do the repetitions that are missing, and keep each as it comes."""
    import funrl  # isort: skip  (before numpy loads torch's threads)
    import numpy as np

    rows = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    for env, (steps, _) in CASES.items():
        made = {bred: population(env, bred) for bred in (True, False)}
        for repetition in range(REPETITIONS):
            if any((row["env"], row["repetition"]) == (env, repetition) for row in rows):
                continue
            start = time.process_time()
            key = funrl.random.fold_in(funrl.random.key(0), repetition)
            tables = {bred: funrl.populations.run(one, key, steps) for bred, one in made.items()}
            scores = {bred: np.where(np.isnan(x.scores), -np.inf, x.scores) for bred, x in tables.items()}
            agents = np.arange(AGENTS)[:, None]
            row = {"env": env, "steps": steps, "repetition": repetition, "when": time.strftime("%Y-%m-%d")}
            row |= {f"{name}_median": float(np.median(scores[bred])) for bred, name in ((True, "bred"), (False, "fixed"))}
            row |= {f"{name}_best": float(scores[bred].max()) for bred, name in ((True, "bred"), (False, "fixed"))}
            row |= {
                "exchanges": int((tables[True].history["parent"] != agents).sum()),
                "cpu_seconds": round(time.process_time() - start, 1),
            }
            rows.append(row)
            KEPT.write_text("".join(json.dumps(x) + "\n" for x in rows))
            PAGE.write_text(page(rows))
            say(json.dumps(row))


if __name__ == "__main__":
    main()
