"""Returns of the algorithms with the presets of ``python -m funrl train``: the agents of a row as one vmapped program."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Benchmark, Figures, Options, say
from benchmarks.history import RESULTS

QUICK = "ppo/CartPole-v1"


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
    "apg/Pendulum-v1": _mean(-200),
    "shac/Pendulum-v1": _mean(-300),
    "shac/Reacher-misc": _mean(-15),
    "option_critic/FourRooms-misc": _mean(0.9, num_agents=2),
    "feudal/FourRooms-misc": _mean(0.9, num_agents=2),
    "multi_task/CartPole-v1": _mean(400, num_agents=2),
    "plr/Maze-misc": (2, "the share of held-out mazes that are solved is at least 0.1", _mean(0.1)[2]),
    "rl2/BernoulliBandit-misc": _mean(60, num_agents=2),
    "maml/PointRobot-misc": (2, "the mean after one inner step, on held-out goals, is at least -5", _mean(-5)[2]),
    "ppo/gymnasium:HalfCheetah-v5": _mean(1500, num_agents=1),
    "sac/gymnasium:Hopper-v5": _mean(1000, num_agents=1),
}


def _picture(row: str) -> str:
    return f"learning_{row.replace('/', '_').replace(':', '_')}.png"


def adapted(algo: Any, params: Any, num_tasks: int = 100) -> list[float]:
    """Return the mean return of each agent of MAML in held-out tasks, after one inner step."""
    from funrl import meta, random
    from funrl.envs import tasks

    drawn = tasks.of(algo.env).test(random.key(7), num_tasks)
    found = meta.evaluate_adaptation(meta.maml.returns(algo, num_steps=1), params, random.key(8), drawn)
    return found.returns[..., 1].mean(1).tolist()


def solved(algo: Any, params: Any, num_tasks: int = 200) -> list[float]:
    """Return the share of held-out mazes that each agent of PLR solves."""
    from torch.func import vmap

    import funrl
    from funrl import random

    env = algo.env.below
    drawn = funrl.envs.tasks.of(env).test(random.key(7), num_tasks)

    def play(params: Any, key: Any, env_params: Any) -> Any:
        return funrl.evaluate(params, key, env_params, env=env, act=algo.greedy, num_episodes=1).episode_length < env.max_episode_steps

    found = funrl.compile(vmap(vmap(play, (None, 0, 0)), (0, None, None)))(params, random.split(random.key(8), num_tasks), drawn)
    return found.double().mean((1, 2)).tolist()


OWN_SCORES = {"maml": adapted, "plr": solved}  # instead of the returns of the command line's evaluation


def learn(row: str) -> dict[str, Any]:
    """Train the agents of a row and return what was measured."""
    num_agents, claim, holds = CLAIMS[row]
    name, env = row.split("/")
    import funrl

    preset = funrl.training.preset(name, env)
    algo = funrl.algos.make(name, env, **preset.options)
    with tempfile.TemporaryDirectory() as out, algo.env:
        folder = Path(out) / "run"
        result = funrl.train(algo, funrl.random.key(0), preset.total_steps, num_agents=num_agents, out=folder)
        (RESULTS / _picture(row)).write_bytes((folder / "learning_curve.png").read_bytes())
    scores = result.evaluation.episode_return.mean(-1).reshape(-1).tolist()
    if name in OWN_SCORES:
        scores = OWN_SCORES[name](algo, result.state.learner.params)
    return {
        "options": {name: str(value) if value == math.inf else value for name, value in preset.options.items()},  # JSON has no infinity
        "steps": result.steps,
        "seconds": result.seconds,
        "compile_seconds": result.compile_seconds,
        "scores": scores,
        "claim": claim,
        "holds": holds(scores),
    }


def run(options: Options) -> Iterator[Figures]:
    """Yield what the agents of each row learned."""
    for row in CLAIMS:
        if options.wants(row, row == QUICK):
            say(f"learning: {row}")
            yield {row: learn(row)}


def notes(figures: Figures) -> list[str]:
    """Return the table."""
    lines = [
        "| algorithm/environment | agents | steps of each | seconds (compiling) | mean | worst agent | claim | holds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in ((name, figures[name]) for name in CLAIMS if name in figures):
        scores, picture = row["scores"], _picture(name)
        lines.append(
            f"| [{name}]({picture}) | {len(scores)} | {row['steps']:,} | {row['seconds']:.0f} ({row['compile_seconds']:.0f}) "
            f"| {sum(scores) / len(scores):.1f} | {min(scores):.1f} | {row['claim']} | {'yes' if row['holds'] else 'NO'} |"
        )
    return lines


BENCHMARK = Benchmark(
    "What the algorithms learn with the presets of the command line; each agent is evaluated over 100 episodes without exploration.",
    (),
    run,
    notes,
)
