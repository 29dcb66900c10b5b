"""Populations of PPO on CartPole-v1: time and memory of 1 to 256 agents as one program, and of rejax's vmapped training.

python -m benchmarks populations --peers PYTHON
python -m benchmarks.populations funrl 64       # steps a second of the processor's time, where other processes take theirs
"""

import resource
import sys
import time

from benchmarks.harness import Case, Figures, Library, speed
from benchmarks.ppo import program
from benchmarks.ppo_peers import rejax

NUM_ENVS, NUM_STEPS = 16, 128
AGENTS = (1, 4, 16, 64, 256)


def row(num_agents: int) -> str:
    """Return the name of a row."""
    return f"PPO, {num_agents} agent{'s' if num_agents > 1 else ''} with {NUM_ENVS} environments each"


def measure(num_agents: int, seconds: float) -> dict[str, list[float]]:
    """Return samples of steps a second, the seconds of the first call, and the most memory that the process took."""
    begun = time.perf_counter()
    step, state, key = program(NUM_ENVS, NUM_STEPS, num_agents, threads=1)
    state, _ = step(key(0), state)
    first, update, samples = time.perf_counter() - begun, 0, []
    for _ in range(3):
        start, updates = time.perf_counter(), 0
        while updates < 2 or time.perf_counter() - start < seconds:
            update, updates = update + 1, updates + 1
            state, metrics = step(key(update), state)
            metrics["steps"].tolist()
        samples.append(updates * NUM_ENVS * NUM_STEPS * num_agents / (time.perf_counter() - start))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {row(num_agents): samples, f"{row(num_agents)}: first call (s)": [first], f"{row(num_agents)}: memory (MiB)": [memory]}


def peer(num_agents: int, seconds: float) -> dict[str, list[float]]:
    """Return samples of rejax's steps a second."""
    return {row(num_agents): rejax(NUM_ENVS, NUM_STEPS, num_agents, seconds, steps_per_call=2**17)}


def notes(figures: Figures) -> list[str]:
    """Compare a population with runs one after another, and say what each size takes."""
    lines = []
    if row(1) in figures and row(256) in figures:
        times = figures[row(1)]["funrl"] / figures[row(256)]["funrl"]
        lines.append(f"256 agents as one program take {times:.2f} x the time of 256 runs one after another, on one core (target 0.5).")
    for n in AGENTS:
        if f"{row(n)}: memory (MiB)" in figures:
            first, memory = (figures[f"{row(n)}: {name}"]["funrl"] for name in ("first call (s)", "memory (MiB)"))
            lines.append(f"{n} agents: a first call takes {first:.1f} s, and the process {memory:,.0f} MiB.")
    return lines


BENCHMARK = speed(
    "populations",
    "Populations of PPO on CartPole-v1: steps a second of 1 to 256 agents as one program, its first call, and its memory.",
    [Case(row(n), (n,), {"funrl": Library(measure), "rejax": Library(peer, "rejax")}, quick=n in (1, 64)) for n in AGENTS],
    unit="environment steps/s",
    targets={(row(64), "rejax"): 1.5},
    seconds=2.0,
    rounds=2,
    notes=notes,
)


if __name__ == "__main__":
    time.perf_counter = time.process_time
    count = int(sys.argv[2])
    print(measure(count, 1.5) if sys.argv[1] == "funrl" else peer(count, 1.5))
