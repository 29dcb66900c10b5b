"""First calls: how long a program takes to start, part by part, with empty caches and in a second process; and rejax and inductor."""

import functools
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import Benchmark, Figures, Options, last_line, say

ENVS = {
    "CartPole-v1": ("ppo", "a2c", "reinforce", "impala", "pqn", "dqn", "sac_discrete"),
    "Pendulum-v1": ("ddpg", "td3", "sac", "redq", "crossq"),
}
NUM_AGENTS = (1, 5)
QUICK = {("ppo", 1), ("dqn", 1), ("sac", 1)}


def first_call(name: str, env: str, options: dict[str, Any], num_agents: int, backend: str) -> dict[str, float]:
    """Return the seconds of the parts of a first call of an algorithm's step, of all of it, and of the second call."""
    import time

    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    algo = funrl.algos.make(name, env, **options)
    step = funrl.compile(algo.step if num_agents == 1 else torch.func.vmap(algo.step), donate=1, backend=backend)
    key = funrl.random.key(0)
    keys = key if num_agents == 1 else funrl.random.split(key, num_agents)
    state = algo.init(key) if num_agents == 1 else torch.func.vmap(algo.init)(keys)
    return _timed(lambda: step(keys, state), time.perf_counter)


def learning(name: str, env: str, options: dict[str, Any], num_agents: int, backend: str) -> dict[str, float]:
    """Return the same of what an algorithm learns from experience of an environment on the host."""
    import time

    import funrl

    create = functools.partial(funrl.envs.make, env, num_envs=options.pop("num_envs", 1))
    with create() as host:
        algo = funrl.algos.make(name, host, **options)
        learner, size = algo.init(funrl.random.key(0)).learner, algo.steps_per_update
        with funrl.collectors.synchronous(
            create, algo.act, learner.params, num_workers=1, frames_per_batch=size, total_frames=size
        ) as batches:
            transition = next(batches).transition
        learn = funrl.compile(algo.learn, backend=backend)
        return _timed(lambda: learn(funrl.random.key(1), learner, transition), time.perf_counter)


def edits(backend: str) -> dict[str, float]:
    """Return the mean and the longest seconds of ten first calls in one process: of a PPO step of which a constant changes each time."""
    import time

    import funrl  # isort: skip
    import torch

    times = []
    for i in range(10):
        algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=16, value_weight=0.5)

        def step(key: Any, state: Any, weight: float = 0.5 + i / 100, algo: Any = algo) -> Any:
            state, metrics = algo.step(key, state)
            return state, {**metrics, "loss": metrics["policy_loss"] + weight * metrics["value_loss"] - 0.01 * metrics["entropy"]}

        keys = funrl.random.split(funrl.random.key(i), 8)
        states = torch.func.vmap(algo.init)(keys)
        start = time.perf_counter()
        funrl.compile(torch.func.vmap(step), backend=backend)(keys, states)
        times.append(time.perf_counter() - start)
    return {"all": sum(times) / len(times), "longest": max(times)}


def around(backend: str) -> dict[str, float]:
    """Return the milliseconds that a call costs around the executable, for a state of 60 small leaves."""
    import time

    import funrl  # isort: skip
    import torch

    step = funrl.compile(lambda state: {name: x + 1 for name, x in state.items()}, backend=backend)
    state = {f"leaf {i}": torch.zeros(8) for i in range(60)}
    whole, alone = [], []
    for _ in range(2000):
        start = time.perf_counter()
        state = step(state)
        whole.append(time.perf_counter() - start)
    (program,) = step.programs.values()
    arrays = program.executable._arrays(list(state.values()))
    for _ in range(2000):
        start = time.perf_counter()
        program.executable.compiled(*arrays)[0].block_until_ready()
        alone.append(time.perf_counter() - start)
    return {"all": 1e3 * (sorted(whole)[1000] - sorted(alone)[1000])}


def rejax(num_envs: int) -> dict[str, float]:
    """Return the seconds in which rejax traces, lowers and compiles one training iteration of PPO, by jit."""
    import time

    import jax
    from rejax import get_algo

    sizes = {"num_envs": num_envs, "num_steps": 128, "num_epochs": 4, "num_minibatches": 4}
    algo = get_algo("ppo").create(env="CartPole-v1", total_timesteps=num_envs * 128, **sizes)
    state = algo.init_state(jax.random.PRNGKey(0))
    start = time.perf_counter()
    jax.block_until_ready(jax.jit(algo.train_iteration)(state))
    return {"all": time.perf_counter() - start}


def _timed(call: Any, now: Any) -> dict[str, float]:
    import funrl

    parts: dict[str, float] = {}

    def note(name: str, ended: str, seconds: float, begins: str) -> None:
        if ended:
            parts[ended] = parts.get(ended, 0.0) + seconds

    start = now()
    with funrl.compiler.listening(note):
        call()
    return {**parts, "all": now() - start}


def run(options: Options) -> Iterator[Figures]:
    """Measure each first call in a process of its own, with a cache of its own."""

    def measured(row: str, call: str, python: str = sys.executable, quick: bool = True, again: bool = False) -> Iterator[Figures]:
        if not options.wants(row, quick):
            return
        for turn in range(options.rounds or 1):
            say(f"compile, round {turn + 1}: {row}")
            with tempfile.TemporaryDirectory() as cache:
                code = f"import json; from benchmarks import compile; print(json.dumps(compile.{call}))"
                places = {"FUNRL_CACHE": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
                yield {row: last_line([python, "-W", "ignore", "-c", code], **places)}
                if again:
                    yield {f"{row}, second process": last_line([python, "-W", "ignore", "-c", code], **places)}

    big = {"num_envs": 64}
    yield from measured("first call of PPO, 64 environments", f"first_call('ppo', 'CartPole-v1', {big}, 1, 'xla')", again=True)
    yield from measured("first call of PPO, 64 environments, rejax", "rejax(64)", options.peers)
    yield from measured(
        "first call of PPO, 64 environments, inductor", f"first_call('ppo', 'CartPole-v1', {big}, 1, 'inductor')", quick=False
    )
    for env, names in ENVS.items():
        for name in names:
            for n in NUM_AGENTS:
                yield from measured(
                    f"{name}, {n} agent{'s' * (n > 1)}", f"first_call('{name}', '{env}', {{}}, {n}, 'xla')", quick=(name, n) in QUICK
                )
    for steps in (32, 256):
        recurrent = {"recurrent": "gru", "num_steps": steps}
        yield from measured(f"recurrent PPO, {steps} steps", f"first_call('ppo', 'CartPole-v1', {recurrent}, 1, 'xla')", quick=False)
    for name, sizes in (("ppo", {"num_envs": 8}), ("sac", {"num_envs": 1})):
        yield from measured(
            f"{name} learning, HalfCheetah-v5", f"learning('{name}', 'gymnasium:HalfCheetah-v5', {sizes}, 1, 'xla')", quick=False
        )
    yield from measured("an edit of a PPO step, 8 seeds", "edits('xla')")
    yield from measured("a call around its executable, 60 leaves (ms)", "around('xla')")


def notes(figures: Figures) -> list[str]:
    """Show the parts of each first call, in seconds."""
    parts = ("tracing", "lowering", "compiling", "loading", "all")
    lines = ["| | tracing | lowering | compiling | loading | all |", "|---|---|---|---|---|---|"]
    for row, found in figures.items():
        lines.append(f"| {row} | " + " | ".join(f"{found[part]:.2f}" if part in found else "" for part in parts) + " |")
    return lines


BENCHMARK = Benchmark("First calls, part by part: all algorithms, beside rejax and inductor.", ("rejax",), run, notes)
