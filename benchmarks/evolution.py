"""Measure funrl.evolution: test functions, compared with evosax and pycma, CartPole, an archive, and a loss that evolution finds.

    pip install evosax cma
    python -m benchmarks.evolution functions        # some minutes each
    python -m benchmarks.evolution cartpole archive drift
    python -m benchmarks.evolution arm --peers PYTHON    # an interpreter that has QDax

Each part replaces its section of ``benchmarks/results/evolution.md``.
"""

import argparse
import datetime
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
import numpy as np
import torch

from benchmarks.history import RESULTS
from funrl import evolution, optim, random

TABLE = RESULTS / "evolution.md"
TITLE = "# Evolution\n\nMade by `python -m benchmarks.evolution PART`; a part replaces its own section.\n"


def keep(part: str, text: str) -> None:
    """Put a section into the table, in the place of the one of that part."""
    old = TABLE.read_text(encoding="utf-8") if TABLE.exists() else TITLE
    head, *sections = old.split("\n## ")
    found = {section.split("\n", 1)[0].split(" ", 1)[0]: section for section in sections}
    found[part] = f"{part} ({datetime.date.today()})\n\n{text.strip()}\n"
    TABLE.write_text("\n## ".join([head.rstrip("\n") + "\n", *(found[name] for name in sorted(found))]), encoding="utf-8")


def rosenbrock(x: Any) -> Any:
    """Return the function to minimise, [...] of x [..., D]; 0 at 1."""
    return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)


def rastrigin(x: Any) -> Any:
    """Return the function to minimise, [...] of x [..., D]; 0 at 0."""
    if isinstance(x, np.ndarray):
        cosine = np.cos
    elif isinstance(x, torch.Tensor):
        cosine = torch.cos
    else:
        import jax.numpy as jnp

        cosine = jnp.cos
    return 10 * x.shape[-1] + (x**2 - 10 * cosine(2 * math.pi * x)).sum(-1)


def starts(num_seeds: int, dim: int) -> np.ndarray:
    """Return where the searches begin, the same for all libraries, [S, D]."""
    return np.random.default_rng(0).uniform(-2.0, 2.0, (num_seeds, dim)).astype(np.float32)


def ours(strategy: evolution.Strategy, function: Callable[[Any], Any], first: np.ndarray, num_generations: int) -> np.ndarray:
    """Return the best value so far of each search after each generation, [S, G]."""

    def search(key: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        init_key, key = random.split(key).unbind(0)
        state = strategy.init(init_key, params)
        options = {"strategy": strategy, "fitness": lambda key, x: -function(x), "num_generations": num_generations}
        return -evolution.evolve(key, state, **options)[1].fitness_max.cummax(0).values

    keys = random.split(random.key(1), len(first))
    return funrl.compile(torch.func.vmap(search))(keys, torch.from_numpy(first)).numpy()


def with_evosax(
    kind: str, options: dict[str, Any], changes: dict[str, Any], n: int, function: Any, first: np.ndarray, g: int
) -> np.ndarray:
    """Return the same of a strategy of evosax."""
    import jax
    import jax.numpy as jnp
    from evosax import algorithms

    strategy = getattr(algorithms, kind)(population_size=n, solution=jnp.zeros(first.shape[1]), **options)
    params = strategy.default_params.replace(**changes)

    def search(key: Any, mean: Any) -> Any:
        def generation(carry: Any, key: Any) -> Any:
            state, best = carry
            ask_key, tell_key = jax.random.split(key)
            x, state = strategy.ask(ask_key, state, params)
            values = function(x)
            state, _ = strategy.tell(tell_key, x, values, state, params)
            best = jnp.minimum(best, values.min())
            return (state, best), best

        init_key, key = jax.random.split(key)
        return jax.lax.scan(generation, (strategy.init(init_key, mean, params), jnp.inf), jax.random.split(key, g))[1]

    return np.asarray(jax.jit(jax.vmap(search))(jax.random.split(jax.random.key(1), len(first)), jnp.asarray(first)))


def with_pycma(options: dict[str, Any], sigma: float, n: int, function: Any, first: np.ndarray, g: int) -> np.ndarray:
    """Return the same of pycma."""
    import cma

    quiet = {"popsize": n, "verbose": -9, "tolfun": 0, "tolfunhist": 0, "tolx": 0, "tolstagnation": 10**9, "tolflatfitness": 10**9}
    curves = []
    for seed, x in enumerate(first[:20]):  # a search takes as long as a hundred of the others
        search = cma.CMAEvolutionStrategy(x.astype(float), sigma, {**quiet, "maxiter": 10**9, "seed": seed + 1, **options})
        values = []
        for _ in range(g):
            candidates = search.ask()
            found = [float(function(np.asarray(c))) for c in candidates]
            search.tell(candidates, found)
            values.append(min(found))
        curves.append(np.minimum.accumulate(values))
    return np.stack(curves)


def cases(dim: int) -> Iterator[tuple[str, evolution.Strategy, Callable[..., dict[str, np.ndarray]]]]:
    """Yield a name, a strategy of ours, and a function that gives the curves of the peers."""
    import optax

    n = 4 + math.floor(3 * math.log(dim))

    def adapting(kind: str, options: dict[str, Any], *, evosax: bool) -> Callable[..., dict[str, np.ndarray]]:
        def peers(*problem: Any) -> dict[str, np.ndarray]:
            found = {"pycma": with_pycma(options, 0.5, n, *problem)}
            return found | ({"evosax": with_evosax(kind, {}, {"std_init": 0.5}, n, *problem)} if evosax else {})

        return peers

    def of_evosax(kind: str, n: int, options: dict[str, Any], **changes: Any) -> Callable[..., dict[str, np.ndarray]]:
        return lambda *problem: {"evosax": with_evosax(kind, options, changes, n, *problem)}

    yield "CMA-ES", evolution.cma_es(n, sigma=0.5), adapting("CMA_ES", {}, evosax=True)
    # That of evosax keeps the learning rates of the full matrix.
    yield "CMA-ES, separable", evolution.cma_es(n, sigma=0.5, separable=True), adapting("", {"CMA_diagonal": True}, evosax=False)
    yield "SNES", evolution.snes(2 * n, sigma=0.5), of_evosax("SNES", 2 * n, {}, std_init=0.5)
    schedule = {"std_schedule": optax.constant_schedule(0.1)}
    yield (
        "OpenES",
        evolution.openes(40, optim.adam(0.02), sigma=0.1),
        of_evosax("Open_ES", 40, {"optimizer": optax.adam(0.02), **schedule}),
    )
    yield (
        "PGPE",
        evolution.pgpe(40, optim.adam(0.02), sigma=0.1),
        of_evosax("PGPE", 40, {"optimizer": optax.adam(0.02)}, std_init=0.1),
    )
    yield (
        "ARS",
        evolution.ars(40, optim.sgd(0.005), sigma=0.1),
        of_evosax("ARS", 40, {"optimizer": optax.sgd(0.005), **schedule}),
    )


# The value that counts the generations of a search, or the number of generations after which its best value counts.
FUNCTIONS = {
    ("Rosenbrock", 10): (rosenbrock, {"CMA-ES": (1e-3, 900), "*": (None, 600)}),
    ("Rosenbrock", 40): (rosenbrock, {"CMA-ES": (30.0, 1500), "*": (None, 800)}),
    ("Rastrigin", 10): (rastrigin, {"*": (None, 300)}),
    ("Rastrigin", 40): (rastrigin, {"*": (None, 400)}),
}


def functions(num_seeds: int, only: str) -> None:
    """Measure progress on test functions; rows that are not measured again stay."""
    head = (
        "Medians over seeds, and of how many; in brackets the 95 % bootstrap interval of the peer's median. All searches begin at the same "
        "points of the cube from -2 to 2. A ratio below 1 is better than the peer.\n\n"
        "| function | D | strategy | measure | funrl | peer | ratio |\n|---|---|---|---|---|---|---|\n"
    )
    rows = before()
    for (title, dim), (function, measures) in FUNCTIONS.items():
        for name, strategy, peers in cases(dim):
            if only not in f"{title} {dim} {name}":
                continue
            target, num_generations = measures.get(name, measures["*"])
            seeds = 20 if target is not None and dim > 10 else num_seeds
            problem = (function, starts(seeds, dim), num_generations)
            one = progress(ours(strategy, *problem), target)
            measure = f"best value after {num_generations} generations" if target is None else f"generations until {target:g}"
            for peer, curves in peers(*problem).items():
                other, width = progress(curves, target), spread(curves, target)
                shown = f"{one:.4g} of {seeds} | {peer} {other:.4g} of {len(curves)} ({width[0]:.4g} to {width[1]:.4g})"
                rows[title, str(dim), name, peer] = f"| {title} | {dim} | {name} | {measure} | {shown} | {one / other:.3f} |"
                print(rows[title, str(dim), name, peer], flush=True)
            keep("functions", head + "\n".join(rows[key] for key in sorted(rows)))


def before() -> dict[tuple[str, ...], str]:
    """Return the rows that are there, by function, dimensions, strategy and peer."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    cells = {line: [cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith(("| Rosenbrock", "| Rastrigin"))}
    return {(*row[:3], row[5].split()[0]): line for line, row in cells.items()}


def progress(curves: np.ndarray, target: float | None) -> float:
    """Return the median over searches of the number of generations until a value, or of the last value."""
    return float(np.median(results(curves, target)))


def spread(curves: np.ndarray, target: float | None) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of :func:`progress`."""
    values = results(curves, target)
    drawn = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(np.median(values[drawn], 1), [0.025, 0.975])
    return float(low), float(high)


def results(curves: np.ndarray, target: float | None) -> np.ndarray:
    """Return the number of generations until a value, or the last value, of each search."""
    if target is None:
        return curves[:, -1]
    reached = curves <= target
    return np.where(reached.any(1), reached.argmax(1) + 1, curves.shape[1] + 1)


# Options of the algorithms by which they reach 475, and the most environment steps that they get.
CARTPOLE = {
    "openes": ({}, 2_500_000),
    "pgpe": ({}, 2_500_000),
    "snes": ({}, 2_500_000),
    "cma_es": ({}, 2_500_000),
    "cma_es, separable": ({"separable": True}, 2_500_000),
    "ars": ({}, 2_500_000),
}


def cartpole(num_seeds: int = 5) -> None:
    """Train five agents of each algorithm on CartPole, as one program each, and evaluate them."""
    env = funrl.envs.make("CartPole-v1")
    rows = ["| algorithm | options | environment steps until 475 of each of the seeds | seconds |", "|---|---|---|---|"]
    for name, (options, most) in CARTPOLE.items():
        algo = funrl.algos.make(name.split(",")[0], env, **options)
        init_key, key, evaluation_key = random.split(random.key(0), 3).unbind(0)
        states = torch.func.vmap(algo.init)(random.split(init_key, num_seeds))

        def check(key: torch.Tensor, params: Any, algo: Any = algo) -> torch.Tensor:
            result = funrl.evaluate(params, key, env.default_params, env=env, act=algo.greedy, num_episodes=50)
            return result.episode_return.mean()

        step, evaluate = funrl.compile(torch.func.vmap(algo.step)), funrl.compile(torch.func.vmap(check))
        begin, reached = time.perf_counter(), [math.inf] * num_seeds
        for i in range(math.ceil(most / algo.steps_per_update)):
            states, metrics = step(random.split(random.fold_in(key, i), num_seeds), states)
            returns = evaluate(random.split(random.fold_in(evaluation_key, i), num_seeds), states.learner.params)
            steps = int(metrics["steps"][0])
            reached = [min(r, steps) if value >= 475 else r for r, value in zip(reached, returns.tolist(), strict=True)]
            if max(reached) < math.inf:
                break
        seconds = time.perf_counter() - begin
        shown = ", ".join(f"{r:,}" if r < math.inf else f"not within {most:,}" for r in reached)
        rows.append(f"| {name} | {options or 'defaults'} | {shown} | {seconds:.0f} |")
        print(rows[-1], flush=True)
    text = "The mean of the search reaches a mean return of 475 over 50 episodes, after which generation. All seeds are one program.\n\n"
    keep("cartpole", text + "\n".join(rows))


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evolution", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=["functions", "cartpole", "archive", "drift", "arm"])
    parser.add_argument("--seeds", type=int, default=200, help="searches of each strategy on a function (default: 200)")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows of functions that hold this text; the others stay")
    parser.add_argument("--peers", default="", help="an interpreter that has QDax, for arm")
    given = parser.parse_args()
    for part in given.parts:
        if part == "functions":
            functions(given.seeds, given.only)
        elif part == "cartpole":
            cartpole()
        else:
            from benchmarks import evolution_learned

            getattr(evolution_learned, part)(*[given.peers] * (part == "arm"))


if __name__ == "__main__":
    main()
