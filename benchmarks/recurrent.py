"""The gain by a memory, and the time of its compilation: PPO with a recurrent policy in MemoryChain.

A bit has to be recalled 20 steps after it was shown. The agents of a row, which differ by their seeds, are one vmapped program, and
are evaluated over 100 episodes each without exploration. The learning step of one agent is compiled for rollouts of 32 and of 256 steps,
each in a process of its own that finds nothing compiled; they take turns, and the fastest of each counts.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import Benchmark, Figures, Options, last_line, say

NUM_AGENTS = 5
LENGTH = 20
STEPS = (32, 256)
POLICIES = ("gru", "none")


def run(options: Options) -> Iterator[Figures]:
    """Yield how often the agents with each memory are right, and how long compilations take."""
    for policy in POLICIES:
        if options.wants(f"recall, {policy}", policy == "gru"):
            say(f"recurrent: recall, {policy}")
            yield {f"recall, {policy}": recall(policy)}
    if options.wants("compile", quick=False):
        yield compilations(options.rounds or 1)


def recall(policy: str) -> dict[str, Any]:
    """Train the agents with one kind of memory and return how often each of them is right."""
    import funrl

    preset = funrl.training.preset("ppo", "MemoryChain-bsuite")
    algo = funrl.algos.make("ppo", funrl.envs.memory_chain(LENGTH), **{**preset.options, "recurrent": policy})
    result = funrl.train(algo, funrl.random.key(0), preset.total_steps, num_agents=NUM_AGENTS, evaluate_episodes=100)
    return {
        "steps": result.steps,
        "seconds": result.seconds,
        "compile_seconds": result.compile_seconds,
        "right": (result.evaluation.episode_return > 0).double().mean(-1).tolist(),
    }


def compilations(rounds: int) -> Figures:
    """Compile in fresh processes with an empty cache each; return the seconds of each number of steps."""
    seconds: dict[int, list[float]] = {number: [] for number in STEPS}
    for turn in range(rounds):
        for number in STEPS if turn % 2 == 0 else reversed(STEPS):
            say(f"recurrent: compile, {number} steps")
            with tempfile.TemporaryDirectory() as cache:
                code = f"from benchmarks import recurrent; print(recurrent.compile_seconds({number}))"
                caches = {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
                seconds[number].append(last_line([sys.executable, "-W", "ignore", "-c", code], **caches))
    return {f"compile, {number} steps": {"seconds": min(found)} for number, found in seconds.items()}


def compile_seconds(num_steps: int) -> float:
    """Return how long the first step of one agent takes beyond the second, which finds the program made."""
    import funrl

    options = funrl.training.preset("ppo", "MemoryChain-bsuite").options
    algo = funrl.algos.make("ppo", funrl.envs.memory_chain(LENGTH), **{**options, "num_steps": num_steps})
    step, state = funrl.compile(algo.step), algo.init(funrl.random.key(0))
    times = []
    for i in range(2):
        start = time.perf_counter()
        step(funrl.random.key(i), state)
        times.append(time.perf_counter() - start)
    return times[0] - times[1]


def notes(figures: Figures) -> list[str]:
    """Return the tables."""
    lines = ["| recurrent | steps of each | seconds (compiling) | right, each agent |", "|---|---|---|---|"]
    for policy in POLICIES:
        row = figures.get(f"recall, {policy}")
        if row:
            right = ", ".join(f"{x:.0%}" for x in row["right"])
            lines.append(f"| {policy} | {row['steps']:,} | {row['seconds']:.0f} ({row['compile_seconds']:.0f}) | {right} |")
    lines += ["", "By chance half of the answers are right. Targets: 95% for each agent with a GRU, less than 65% without memory."]
    few, many = (figures.get(f"compile, {number} steps") for number in STEPS)
    if few and many:
        lines += [
            "",
            f"The learning step compiles in {few['seconds']:.1f} s for rollouts of {STEPS[0]} steps, in {many['seconds']:.1f} s for "
            f"{STEPS[1]} (target: less than 20% apart), where nothing was compiled before.",
        ]
    return lines


BENCHMARK = Benchmark(
    f"PPO with a memory: a bit recalled after {LENGTH} steps, {NUM_AGENTS} agents as one program; compiling the learning step.",
    (),
    run,
    notes,
)
