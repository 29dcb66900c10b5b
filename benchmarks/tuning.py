"""The sweeps that chose presets: 16 configurations of a Sobol sequence with two agents each, as one program, and the best one again.

    python -m benchmarks.tuning                      # all pairs that have no result yet
    python -m benchmarks.tuning ppo/Catch-bsuite     # these again

The three configurations with the best mean scores, rounded to two digits, are trained again with eight agents of other keys, whose mean
is what counts. ``benchmarks/results/tuning.jsonl`` keeps a line for each sweep, and ``tuning.md`` is made of it.
"""

import json
import math
import sys
import time
from typing import Any

from benchmarks.harness import say
from benchmarks.history import RESULTS

KEPT, PAGE = RESULTS / "tuning.jsonl", RESULTS / "tuning.md"
THREADS = 2
CONFIGURATIONS, SEEDS, BEST, CONFIRMING = 16, 2, 3, 8
# Algorithm/environment: the steps of an agent, and options that are not swept.
PAIRS: dict[str, tuple[int, dict[str, Any]]] = {
    "ppo/PointRobot-misc": (100_000, {"num_envs": 16, "num_steps": 32}),
    "pqn/CartPole-v1": (200_000, {"num_envs": 16, "num_steps": 32}),
    "ppo/MountainCarContinuous-v0": (150_000, {"num_envs": 8, "num_steps": 128, "normalize_observation": True}),
    "a2c/Acrobot-v1": (200_000, {"num_envs": 16, "num_steps": 16}),
    "impala/Acrobot-v1": (200_000, {"num_envs": 16, "num_steps": 16}),
    "pqn/Acrobot-v1": (200_000, {"num_envs": 16, "num_steps": 32}),
    "a2c/PointRobot-misc": (100_000, {"num_envs": 16, "num_steps": 16}),
    "reinforce/Acrobot-v1": (200_000, {"num_envs": 16, "num_steps": 128}),
    "a2c/Pendulum-v1": (400_000, {"num_envs": 16, "num_steps": 16}),
}


def space_of(algo: Any) -> dict[str, Any]:
    """Return what is swept: the learning rate, and of the others those that the algorithm has."""
    from funrl import populations

    space: dict[str, Any] = {"learning_rate": populations.log_uniform(3e-4, 3e-2), "gamma": [0.9, 0.95, 0.98, 0.99]}
    space |= {"entropy_weight": [0.0, 0.003, 0.01, 0.03], "lambda_": [0.7, 0.8, 0.9, 0.95]}
    return {name: one for name, one in space.items() if name in populations.hparam_names(algo)}


def tune(pair: str) -> dict[str, Any]:
    """Sweep a pair, train the best configuration again, and return what was found."""
    import funrl
    from funrl import populations

    steps, options = PAIRS[pair]
    name, env = pair.split("/")
    options = {**options, "anneal_steps": float(steps)}
    if name == "pqn":
        options["epsilon_steps"] = 0.2 * steps
    algo = funrl.algos.make(name, env, **options)
    start = time.process_time()
    sweep = populations.sweep(algo, space_of(algo), CONFIGURATIONS * SEEDS, method="sobol", num_seeds=SEEDS)
    table = populations.run(sweep, funrl.random.key(0), steps, chunk=CONFIGURATIONS * SEEDS // THREADS, threads=THREADS)
    scores = table.scores.reshape(-1, SEEDS).mean(1)
    order = sorted(range(CONFIGURATIONS), key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i], reverse=True)
    some = [{k: float(f"{x[SEEDS * i]:.2g}") for k, x in table.hparams.items()} for i in order[:BEST]]

    def confirmed(config: dict[str, float]) -> list[float]:
        several = populations.seeds(funrl.algos.make(name, env, **options, **config), CONFIRMING)
        scores = populations.run(several, funrl.random.key(1), steps, chunk=CONFIRMING // THREADS, threads=THREADS).scores
        return [round(float(x), 2) for x in scores]

    found = [confirmed(config) for config in some]
    again, best = max(zip(found, some, strict=True), key=lambda one: sum(one[0]))
    return {
        "pair": pair,
        "when": time.strftime("%Y-%m-%d"),
        "steps": steps,
        "options": {**options, **best},
        "sweep": sorted((None if x != x else round(float(x), 2) for x in scores), key=lambda x: (x is None, x)),
        "confirmed": again,
        "default": confirmed({}),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def page(rows: list[dict[str, Any]]) -> str:
    """Return the table of all results."""
    lines = [
        "# The sweeps that chose presets",
        "",
        f"Made by `python -m benchmarks.tuning`: {CONFIGURATIONS} configurations with {SEEDS} agents each as one sweep; the best {BEST}",
        f"trained again with {CONFIRMING} agents of other keys, beside as many with the algorithm's defaults. Scores are means of the last",
        "tenth of an agent's returns, which it has while it explores.",
        "",
        "| | steps | best | mean of the best, again | of the defaults | of the median configuration | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        chosen = ", ".join(f"{k}={v:g}" for k, v in row["options"].items() if k in ("learning_rate", "gamma", "entropy_weight", "lambda_"))
        known = [x for x in row["sweep"] if x is not None]
        means = [sum(row[k]) / len(row[k]) for k in ("confirmed", "default")]
        cells = [row["pair"], f"{row['steps']:,}", chosen, f"{means[0]:.2f}", f"{means[1]:.2f}", f"{known[len(known) // 2]:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {row['cpu_seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def main(pairs: list[str]) -> None:
    """Tune the pairs, or all that have no result yet, and keep each as it comes."""
    rows = {row["pair"]: row for row in map(json.loads, KEPT.read_text().splitlines())} if KEPT.exists() else {}
    for pair in pairs or [pair for pair in PAIRS if pair not in rows]:
        row = tune(pair)
        rows[pair] = row
        KEPT.write_text("".join(json.dumps(x) + "\n" for x in rows.values()))
        PAGE.write_text(page(list(rows.values())))
        say(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1:])
