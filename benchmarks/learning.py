"""What the algorithms learn with the presets of ``python -m funrl train``: the agents of a row as one vmapped program.

    python -m benchmarks.learning [ppo/CartPole-v1 sac/Pendulum-v1 ...]

Each agent is evaluated over 100 episodes without exploration. Writes ``benchmarks/results/learning.json``, ``learning.md`` and
a curve for each row.
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


def _mean(least: float, num_agents: int = 5) -> tuple[int, str, Any]:
    return num_agents, f"the mean is at least {least:g}", lambda scores: sum(scores) / len(scores) >= least


# Algorithm/environment: how many agents, and what is asked of their evaluations.
CLAIMS = {
    "ppo/CartPole-v1": (10, "at least 9 of 10 agents reach 475", lambda scores: sum(x >= 475 for x in scores) >= 9),
    "ppo/Acrobot-v1": _mean(-100),
    "ppo/Pendulum-v1": _mean(-300),
    "ppo/Breakout-MinAtar": _mean(10, num_agents=2),
    "dqn/CartPole-v1": _mean(475),
    "ddpg/Pendulum-v1": _mean(-200),
    "td3/Pendulum-v1": _mean(-200),
    "sac/Pendulum-v1": _mean(-200),
    "redq/Pendulum-v1": _mean(-200),
    "crossq/Pendulum-v1": _mean(-200),
    "sac_discrete/CartPole-v1": _mean(400),
    "a2c/CartPole-v1": _mean(475),
    "reinforce/CartPole-v1": _mean(475),
    "impala/CartPole-v1": _mean(475),
    "pqn/Breakout-MinAtar": _mean(10),
}


def learn(row: str) -> dict[str, Any]:
    """Train the agents of a row and return what was measured."""
    num_agents, claim, holds = CLAIMS[row]
    name, env = row.split("/")
    preset = training.preset(name, env)
    algo = funrl.algos.make(name, funrl.envs.make(env), **preset.options)
    with tempfile.TemporaryDirectory() as out:
        folder = Path(out) / "run"
        result = funrl.train(algo, funrl.random.key(0), preset.total_steps, num_agents=num_agents, out=folder)
        (RESULTS / f"learning_{name}_{env}.png").write_bytes((folder / "learning_curve.png").read_bytes())
    scores = result.evaluation.episode_return.mean(-1).tolist()
    return {
        "row": row,
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
    parser.add_argument("rows", nargs="*", help=f"some of {', '.join(CLAIMS)}; all by default")
    names = parser.parse_args().rows or list(CLAIMS)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "learning.json"
    rows = {row["row"]: row for row in (json.loads(path.read_text()) if path.exists() else [])}
    for name in names:
        rows[name] = {"date": time.strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, {os.cpu_count()} cores", **learn(name)}
        path.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    lines = [
        "# What the algorithms learn",
        "",
        "Made by `python -m benchmarks.learning`: the presets of the command line, all agents of a row as one vmapped program,",
        "each evaluated over 100 episodes without exploration.",
        "",
        "| algorithm/environment | agents | steps of each | seconds (compiling) | mean | worst agent | claim | holds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in (rows[name] for name in CLAIMS if name in rows):
        scores = row["scores"]
        lines.append(
            f"| {row['row']} | {len(scores)} | {row['steps']:,} | {row['seconds']:.0f} ({row['compile_seconds']:.0f}) "
            f"| {sum(scores) / len(scores):.1f} | {min(scores):.1f} | {row['claim']} | {'yes' if row['holds'] else 'NO'} |"
        )
    (RESULTS / "learning.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
