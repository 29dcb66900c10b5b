"""What PPO learns with the presets of ``python -m funrl train``: every environment's agents as one vmapped program.

    python -m benchmarks.learning [CartPole-v1 ...]

Each agent is evaluated over 100 episodes without exploration. Writes ``benchmarks/results/learning.json``, ``learning.md`` and
a curve for each environment.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import funrl
from funrl import training

RESULTS = Path(__file__).parent / "results"
# Environment: how many agents, and what is asked of their evaluations.
CLAIMS = {
    "CartPole-v1": (10, "at least 9 of 10 agents reach 475", lambda scores: sum(x >= 475 for x in scores) >= 9),
    "Acrobot-v1": (5, "the mean is at least -100", lambda scores: sum(scores) / len(scores) >= -100),
    "Pendulum-v1": (5, "the mean is at least -300", lambda scores: sum(scores) / len(scores) >= -300),
}


def learn(name: str) -> dict[str, Any]:
    """Train the agents of one environment and return what was measured."""
    num_agents, claim, holds = CLAIMS[name]
    preset = training.preset("ppo", name)
    algo = funrl.algos.make("ppo", funrl.envs.make(name), **preset.options)
    with tempfile.TemporaryDirectory() as out:
        folder = Path(out) / "run"
        result = funrl.train(algo, funrl.random.key(0), preset.total_steps, num_agents=num_agents, out=folder)
        (RESULTS / f"learning_{name}.png").write_bytes((folder / "learning_curve.png").read_bytes())
    scores = result.evaluation.episode_return.mean(-1).tolist()
    return {
        "env": name,
        "options": dict(preset.options),
        "steps": result.steps,
        "seconds": result.seconds,
        "compile_seconds": result.compile_seconds,
        "scores": scores,
        "claim": claim,
        "holds": holds(scores),
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("envs", nargs="*", help=f"some of {', '.join(CLAIMS)}; all by default")
    names = parser.parse_args().envs or list(CLAIMS)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "learning.json"
    rows = {row["env"]: row for row in (json.loads(path.read_text()) if path.exists() else [])}
    for name in names:
        rows[name] = {"date": time.strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, {os.cpu_count()} cores", **learn(name)}
        path.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    lines = [
        "# What PPO learns",
        "",
        "Made by `python -m benchmarks.learning`: the presets of the command line, all agents of a row as one vmapped program,",
        "each evaluated over 100 episodes without exploration.",
        "",
        "| environment | agents | steps of each | seconds (compiling) | mean | worst agent | claim | holds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows.values():
        scores = row["scores"]
        lines.append(
            f"| {row['env']} | {len(scores)} | {row['steps']:,} | {row['seconds']:.0f} ({row['compile_seconds']:.0f}) "
            f"| {sum(scores) / len(scores):.1f} | {min(scores):.1f} | {row['claim']} | {'yes' if row['holds'] else 'NO'} |"
        )
    (RESULTS / "learning.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
