"""Populations of PPO on CartPole-v1: time and memory of 1 to 256 agents as one program, and of rejax's vmapped training.

python -m benchmarks populations --peers PYTHON
python -m benchmarks.populations funrl 64       # steps a second of the processor's time, where other processes take theirs
"""

import os
import resource
import sys
import time

from benchmarks.harness import Case, Figures, Library, speed
from benchmarks.ppo import learner, program
from benchmarks.ppo_peers import rejax

NUM_ENVS, NUM_STEPS = 16, 128
AGENTS = (1, 4, 16, 64, 256)


def row(num_agents: int) -> str:
    """Return the name of a row."""
    return f"PPO, {num_agents} agent{'s' if num_agents > 1 else ''} with {NUM_ENVS} environments each"


def threaded(num_agents: int) -> str:
    """Return the name of a row where every library has two cores."""
    return f"{row(num_agents)}, two threads"


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


def on_threads(num_agents: int, seconds: float) -> list[float]:
    """Return samples of steps a second of :func:`funrl.train`, the agents as two programs on two threads."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    torch.set_num_threads(2)
    algo = learner(NUM_ENVS, NUM_STEPS)
    updates, samples = 2, []
    while len(samples) < 3:
        result = funrl.train(
            algo,
            funrl.random.key(0),
            updates * algo.steps_per_update,
            num_agents=num_agents,
            chunk=num_agents // 2,
            evaluate_episodes=0,
            progress=False,
        )
        spent = result.seconds - result.compile_seconds  # which is that of the first update
        if spent < seconds:
            updates *= 2
            continue
        samples.append((updates - 1) * algo.steps_per_update * num_agents / spent)
    return samples


def peer(num_agents: int, seconds: float) -> list[float]:
    """Return samples of rejax's steps a second, with the threads that XLA takes by itself: as many as there are cores."""
    return rejax(NUM_ENVS, NUM_STEPS, num_agents, seconds, steps_per_call=2**17)


def one_core(num_agents: int, seconds: float) -> list[float]:
    """Return samples of rejax's steps a second in one thread."""
    os.environ["PJRT_NPROC"] = "1"
    return peer(num_agents, seconds)


def notes(figures: Figures) -> list[str]:
    """Compare a population with runs one after another, and say what each size takes."""
    lines = []
    if row(1) in figures and row(256) in figures:
        times = figures[row(1)]["funrl"] / figures[row(256)]["funrl"]
        lines.append(f"256 agents as one program take {times:.2f} x the time of 256 runs one after another, on one core (target 0.5).")
    if row(1) in figures and threaded(256) in figures:
        times = figures[row(1)]["funrl"] / figures[threaded(256)]["funrl"]
        lines.append(f"256 agents as two programs on two threads take {times:.2f} x the time of 256 runs one after another on one core.")
    for n in AGENTS:
        if f"{row(n)}: memory (MiB)" in figures:
            first, memory = (figures[f"{row(n)}: {name}"]["funrl"] for name in ("first call (s)", "memory (MiB)"))
            lines.append(f"{n} agents: a first call takes {first:.1f} s, and the process {memory:,.0f} MiB.")
    return lines


BENCHMARK = speed(
    "populations",
    "Populations of PPO on CartPole-v1: steps a second of 1 to 256 agents as one program, its first call, and its memory.",
    [
        *(Case(row(n), (n,), {"funrl": Library(measure), "rejax": Library(one_core, "rejax")}, quick=n in (1, 64)) for n in AGENTS),
        *(Case(threaded(n), (n,), {"funrl": Library(on_threads), "rejax": Library(peer, "rejax")}, quick=False) for n in (8, 64, 256)),
    ],
    unit="environment steps/s",
    targets={(row(64), "rejax"): 1.5, (threaded(64), "rejax"): 1.5},
    seconds=2.0,
    rounds=2,
    notes=notes,
)


if __name__ == "__main__":
    time.perf_counter = time.process_time
    count = int(sys.argv[2])
    print(measure(count, 1.5) if sys.argv[1] == "funrl" else peer(count, 1.5))
