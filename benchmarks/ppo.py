"""PPO on CartPole-v1: updates a second of funrl and other libraries, the time of a first call, and a run while another process is busy."""

import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.harness import Case, Figures, Library, last_line, speed
from benchmarks.ppo_peers import SETTINGS, rejax, sb3, torchrl, torchrl_serial

# Two threads gain where the work is one large batch, and lose elsewhere: see funrl.compile.
THREADS = {(64, 128, 1): 2, (16, 128, 8): 2}


def learner(num_envs: int, num_steps: int) -> Any:
    """Return PPO with the settings of all libraries."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)

    options = {name: getattr(SETTINGS, name) for name in ("num_epochs", "num_minibatches", "learning_rate", "gamma", "lambda_", "clip")}
    options |= {name: getattr(SETTINGS, name) for name in ("entropy_weight", "value_weight", "max_grad_norm")}
    return funrl.algos.ppo.make(
        funrl.envs.make("CartPole-v1"), num_envs=num_envs, num_steps=num_steps, num_cells=SETTINGS.hidden, **options
    )


def program(num_envs: int, num_steps: int, num_agents: int, device: str = "cpu", threads: int | None = None) -> tuple[Any, Any, Any]:
    """Return the compiled update, the first state, and a function from the update's number to its key."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    algo = learner(num_envs, num_steps)
    key, threads = funrl.random.key(0, device=device), threads or THREADS.get((num_envs, num_steps, num_agents), 1)
    if num_agents == 1:
        return funrl.compile(algo.step, donate=1, threads=threads), algo.init(key), lambda i: funrl.random.fold_in(key, i)
    keys = funrl.random.split(key, num_agents)
    step = funrl.compile(torch.func.vmap(algo.step), donate=1, threads=threads)
    return step, torch.func.vmap(algo.init)(keys), lambda i: torch.func.vmap(lambda k: funrl.random.fold_in(k, i))(keys)


def throughput(num_envs: int, num_steps: int, num_agents: int, seconds: float, device: str = "cpu") -> list[float]:
    """Return samples of steps a second, each over at least ``seconds``."""
    return _samples(*program(num_envs, num_steps, num_agents, device), num_envs * num_steps * num_agents, seconds)


def several(num_envs: int, num_steps: int, num_updates: int, seconds: float) -> list[float]:
    """Return samples of steps a second of a program that makes several updates of one agent, as rejax's does."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    algo, numbers = learner(num_envs, num_steps), torch.arange(num_updates)

    def updates(key: Any, state: Any) -> Any:
        return funrl.scan(lambda state, i: algo.step(funrl.random.fold_in(key, i), state), state, numbers)

    program, key = funrl.compile(updates, donate=1), funrl.random.key(1)
    start = algo.init(funrl.random.key(0))
    return _samples(program, start, lambda i: funrl.random.fold_in(key, i), num_updates * num_envs * num_steps, seconds)


def _samples(step: Any, state: Any, key: Any, steps: int, seconds: float) -> list[float]:
    """Return samples of steps a second of a program whose calls make ``steps`` each."""
    call, samples = 0, []
    for sample in range(4):
        start, calls = time.perf_counter(), 0
        while calls < 3 or time.perf_counter() - start < seconds:
            state, metrics = step(key(call), state)
            call, calls = call + 1, calls + 1
            metrics["steps"].tolist()  # a GPU works behind the program
        if sample:  # the first holds the compilation
            samples.append(calls * steps / (time.perf_counter() - start))
    return samples


def one_agent(num_envs: int, num_steps: int, num_updates: int, seconds: float) -> list[float]:
    """Return samples of rejax's steps a second, many updates of one agent in a program."""
    return rejax(num_envs, num_steps, 1, seconds)


def first_call() -> float:
    """Return the seconds of a first call."""
    step, state, key = program(*SIZE)
    start = time.perf_counter()
    step(key(0), state)
    return time.perf_counter() - start


def whole_run(threads: int) -> float:
    """Return the seconds of 500,000 steps after compilation."""
    step, state, key = program(*SIZE, threads=threads)
    state, _ = step(key(0), state)
    start = time.perf_counter()
    for update in range(500_000 // (SIZE[0] * SIZE[1])):
        state, metrics = step(key(update + 1), state)
    metrics["episode_return"].item()
    return time.perf_counter() - start


def first_calls(seconds: float) -> dict[str, list[float]]:
    """Return the seconds of a first call where nothing is cached, and in the next process."""
    with tempfile.TemporaryDirectory() as cache:
        return {row: [_alone("first_call()", TORCHINDUCTOR_CACHE_DIR=cache)] for row in (COLD, WARM)}


def runs(seconds: float) -> dict[str, list[float]]:
    """Return the seconds of a run on a quiet machine, and while another process keeps one core busy."""
    found = {row: [_alone(f"whole_run({threads})")] for threads, row in QUIET.items()}
    spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return found | {row: [_alone(f"whole_run({threads})")] for threads, row in BUSY.items()}
    finally:
        spinner.kill()
        spinner.wait()


def _alone(call: str, **environment: str) -> float:
    code = f"import json; from benchmarks import ppo; print(json.dumps(ppo.{call}))"
    return last_line([sys.executable, "-c", code], **environment)


def notes(figures: Figures) -> list[str]:
    """Explain the times of a first call, and of a run while another process is busy."""
    lines = []
    if COLD in figures:
        cold, warm = figures[COLD]["funrl"], figures[WARM]["funrl"]
        lines.append(f"A first call takes {cold:.1f} s with nothing cached (target 45), {warm:.1f} s in a second process (target 12).")
    for threads, row in QUIET.items():
        if row in figures:
            times = figures[BUSY[threads]]["funrl"] / figures[row]["funrl"]
            lines.append(f"A run beside a process that keeps one core busy takes {times:.2f} x as long (target 3), {THREADED[threads]}.")
    return lines


FUNRL = Library(throughput)
SB3, REJAX = Library(sb3, "stable-baselines3"), Library(rejax, "rejax")
TORCHRL, SERIAL = Library(torchrl, "torchrl"), Library(torchrl_serial, "torchrl")
SIZE = (64, 128, 1)
SEVERAL = "PPO, 4 environments, 16 updates in a program"
COLD, WARM = "PPO, 64 environments: first call, nothing cached (s)", "PPO, 64 environments: first call in a second process (s)"
THREADED = {1: "in one thread", 2: "in two threads"}  # a program takes one where nothing else is said
QUIET = {n: f"PPO, 64 environments: a run of 500,000 steps {text} (s)" for n, text in THREADED.items()}
BUSY = {n: f"PPO, 64 environments: a run of 500,000 steps {text} beside a busy process (s)" for n, text in THREADED.items()}
BENCHMARK = speed(
    "ppo",
    "PPO on CartPole-v1: whole updates after compilation, a first call, and a busy machine.",
    [
        Case("PPO, 64 environments", SIZE, {"funrl": FUNRL, "sb3": SB3, "torchrl": TORCHRL, "torchrl, serial": SERIAL, "rejax": REJAX}),
        Case("PPO, 4 environments", (4, 128, 1), {"funrl": FUNRL, "sb3": SB3, "torchrl": TORCHRL, "rejax": REJAX}, quick=False),
        Case(SEVERAL, (4, 128, 16), {"funrl": Library(several), "rejax": Library(one_agent, "rejax")}, quick=False),
        Case("PPO, 8 agents with 16 environments each", (16, 128, 8), {"funrl": FUNRL, "rejax": REJAX}),
        Case("PPO, first call", (), {"funrl": Library(first_calls)}, quick=False),
        Case("PPO, a run", (), {"funrl": Library(runs)}, quick=False),
    ],
    unit="environment steps/s",
    targets={
        ("PPO, 64 environments", "sb3"): 5.0,
        ("PPO, 64 environments", "torchrl"): 25.0,
        ("PPO, 64 environments", "torchrl, serial"): 25.0,
        ("PPO, 64 environments", "rejax"): 1.0,
        ("PPO, 4 environments", "sb3"): 10.0,
        ("PPO, 4 environments", "rejax"): 1.0,
        (SEVERAL, "rejax"): 1.0,
        ("PPO, 8 agents with 16 environments each", "rejax"): 1.2,
    },
    seconds=4.0,
    rounds=3,
    notes=notes,
)
