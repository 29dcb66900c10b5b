"""funrl.distributed on two processes of this machine, one thread each, compared with one process.

    python -m benchmarks.distributed populations      # agents a second of two processes, in times of one
    python -m benchmarks.distributed parallel         # one PPO learner, 64 environments each
    python -m benchmarks.distributed allreduce        # seconds of an exchange by its bytes, for scaling_model --fit
    python -m benchmarks.distributed collectors       # Ray and worker processes on HalfCheetah
    python -m benchmarks.distributed curves           # returns of five seeds of one learner, in one process and in two
    python -m benchmarks.distributed profile          # one learner of two: seconds of its exchanges, and of waiting for the other

Each figure is a median of runs of both kinds in turns. ``--cpu`` counts the processors' time instead of the clock's, for a machine that is
shared: it shows what exchange and duplicated work cost, and not what waiting costs. ``benchmarks/results/distributed.jsonl`` keeps a line
for each run as it comes.
"""

import argparse
import datetime
import json
import resource
import statistics
import time
from pathlib import Path

import torch

import funrl
from funrl import algos, collectors, distributed, envs, optim, random

SECONDS = 5.0


def _seconds(cpu: bool) -> float:
    return time.process_time() if cpu else time.perf_counter()


def _speed(step, state, key, cpu: bool, group, updates: int = 30) -> float:
    """Return the updates a second of a compiled step, after its first call."""
    state, metrics = step(key(0), state)
    group.gather(None)
    start = _seconds(cpu)
    for i in range(updates):
        state, metrics = step(key(i + 1), state)
        metrics["steps"].tolist()
    return updates / (_seconds(cpu) - start)


def population(group, cpu: bool, num_agents: int = 8) -> float:
    """Return the agents' updates a second of this process."""
    torch.set_num_threads(1)
    algo = algos.ppo.make(envs.make("CartPole-v1"), num_envs=16, num_steps=128)
    step = funrl.compile(torch.func.vmap(algo.step), donate=1)
    keys = random.split(random.key(0), group.size * num_agents)[group.rank * num_agents :][:num_agents]

    def key(i: int) -> torch.Tensor:
        return torch.func.vmap(lambda k: random.fold_in(k, i))(keys)

    return num_agents * _speed(step, torch.func.vmap(algo.init)(keys), key, cpu, group)


def _learner(group, num_envs: int, rate: float = 3e-4, **options) -> algos.Algorithm:
    env, adam = envs.make("CartPole-v1"), optim.flatten(optim.chain(optim.clip_by_global_norm(0.5), optim.adam(rate, eps=1e-5)))

    def make(count: int) -> algos.Algorithm:
        return algos.ppo.make(env, num_envs=count, optimizer=distributed.averaged(adam), **options)

    return distributed.data_parallel(make, num_envs, group)


def parallel(group, cpu: bool, num_envs: int = 64) -> float:
    """Return the environment steps a second of one learner, over all processes."""
    torch.set_num_threads(1)
    algo = _learner(group, num_envs * group.size, num_steps=128)
    first = random.key(0)
    speed = _speed(funrl.compile(algo.step, donate=1), algo.init(first), lambda i: random.fold_in(first, i), cpu, group)
    return algo.steps_per_update * speed


def curves(group, num_seeds: int = 5, num_updates: int = 60) -> list[list[float]]:
    """Return the mean returns [U, S] of the episodes of each update, of agents with 16 environments in all."""
    torch.set_num_threads(1)
    algo = _learner(group, 16, rate=2e-3, num_steps=64)
    step, keys = funrl.compile(torch.func.vmap(algo.step), donate=1), random.split(random.key(0), num_seeds)
    states, returns = torch.func.vmap(algo.init)(keys), []
    for i in range(num_updates):
        states, metrics = step(torch.func.vmap(lambda key, i=i: random.fold_in(key, i))(keys), states)
        returns.append(metrics["episode_return"].tolist())
    return returns


def profiled(group, cpu: bool, num_envs: int = 64) -> dict[str, float]:
    """Return the milliseconds of an update of one learner, and of its parts, by clocks around each exchange."""
    torch.set_num_threads(1)
    spent = {"calls": 0.0, "waiting": 0.0, "exchange": 0.0}

    class Clocked(type(group)):
        def mean(self, x: torch.Tensor) -> torch.Tensor:
            begun = time.perf_counter()
            super().mean(x[:1])  # until the other has come to this exchange too; the exchange itself follows
            met = time.perf_counter()
            x = super().mean(x)
            for name, seconds in (("waiting", met - begun), ("exchange", time.perf_counter() - met), ("calls", 1e-3)):
                spent[name] += seconds
            return x

    algo = _learner(Clocked(*group), num_envs * group.size, num_steps=128)
    step, key = funrl.compile(algo.step, donate=1), random.key(0)
    state, metrics = step(key, algo.init(key))
    group.gather(None)
    spent.update(dict.fromkeys(spent, 0.0))
    begun, updates = time.perf_counter(), 30
    for i in range(updates):
        state, metrics = step(random.fold_in(key, i), state)
        metrics["steps"].tolist()
    spent["update"] = time.perf_counter() - begun
    return {name: 1e3 * seconds / updates for name, seconds in spent.items()}


def all_reduces(group, cpu: bool) -> list[tuple[int, float]]:
    """Return bytes and seconds of exchanges."""
    found = []
    for size in (16, 1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 22):
        x = torch.zeros(size)
        group.mean(x)
        count = 300 if size < 1 << 17 else 20
        start = _seconds(cpu)
        for _ in range(count):
            group.mean(x)
        found.append((4 * size, (_seconds(cpu) - start) / count))
    return found


def _ratio(f, cpu: bool, together: bool, rounds: int) -> dict[str, float]:
    """Compare one process with two: ``together``: the figure is of both."""
    one, two = [], []
    for _ in range(rounds):
        one += distributed.launch(f, 1, cpu)
        both = distributed.launch(f, 2, cpu)
        two.append(min(both) if together else sum(both))
    figures = {"one process": statistics.median(one), "two processes": statistics.median(two)}
    return {**figures, "efficiency": figures["two processes"] / figures["one process"] / 2}


def collect(kind: str, cpu: bool) -> float:
    """Return the steps a second of a collector with two workers on HalfCheetah."""
    options = dict(num_workers=2, frames_per_batch=2_000, total_frames=-1)
    with getattr(collectors, kind)(lambda: envs.make("gymnasium:HalfCheetah-v5", num_envs=4), None, (), **options) as collector:
        next(collector)
        start, frames = _spent(cpu), 0
        begun = time.perf_counter()
        while time.perf_counter() - begun < SECONDS:
            frames += next(collector).mask.numel()
        return frames / (_spent(cpu) - start)


def _spent(cpu: bool) -> float:
    if not cpu:
        return time.perf_counter()
    return sum(x.ru_utime + x.ru_stime for x in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["populations", "parallel", "allreduce", "collectors", "curves", "profile"])
    parser.add_argument("--cpu", action="store_true", help="count the processors' time")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.what == "allreduce":
        found = distributed.launch(all_reduces, 2, args.cpu)[0]
        figures = {"bytes": [size for size, _ in found], "seconds": [seconds for _, seconds in found]}
    elif args.what == "collectors":
        rounds = [{kind: collect(kind, False) for kind in ("synchronous", "ray")} for _ in range(args.rounds)]
        figures = {kind: statistics.median(r[kind] for r in rounds) for kind in rounds[0]}
        figures["ratio"] = figures["ray"] / figures["synchronous"]
    elif args.what == "curves":
        figures = {f"{size} processes": distributed.launch(curves, size)[0] for size in (1, 2)}
    elif args.what == "profile":
        figures = {f"rank {rank}": parts for rank, parts in enumerate(distributed.launch(profiled, 2, args.cpu))}
    else:
        figures = _ratio(population if args.what == "populations" else parallel, args.cpu, args.what == "parallel", args.rounds)
    line = json.dumps({"what": args.what, "clock": "cpu" if args.cpu else "wall", "when": str(datetime.date.today()), **figures})
    with open(Path(__file__).parent / "results" / "distributed.jsonl", "a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
