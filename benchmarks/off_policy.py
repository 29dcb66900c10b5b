"""SAC and DQN: gradient steps a second of funrl and other libraries, of several agents at once, and with a larger buffer.

One gradient step on a batch of 256 to each step of one environment; rates are over all agents. A program takes one thread where its row
does not say otherwise: two gain where the work is one large batch.
"""

import time
from functools import partial

from benchmarks.harness import Case, Figures, Library, speed
from benchmarks.off_policy_peers import ENVIRONMENTS, SETTINGS, rejax, sb3

GFLOP_OF_SAC_256 = 0.55  # of a gradient step with two hidden layers of 256
# As Stable-Baselines3 has it: no double Q-learning. Steps and updates take turns in stretches of 128, still one to one.
DQN = {"double": False, "num_steps": 128, "num_updates": 128}


def rate(algorithm: str, width: int, num_agents: int, capacity: int, seconds: float, threads: int = 1) -> list[float]:
    """Return gradient steps a second of funrl, all agents counted, over at least ``seconds`` each."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    options = {name: getattr(SETTINGS, name) for name in ("batch_size", "learning_starts", "learning_rate", "gamma")}
    options |= {"tau": SETTINGS.tau} if algorithm == "sac" else {"target_period": SETTINGS.target_period, **DQN}
    env = funrl.envs.make(ENVIRONMENTS[algorithm])
    algo = funrl.algos.make(algorithm, env, buffer_size=capacity, num_cells=(width, width), **options)
    key = funrl.random.key(0)
    if num_agents == 1:
        step, state, key_of = funrl.compile(algo.step, donate=1, threads=threads), algo.init(key), lambda i: funrl.random.fold_in(key, i)
    else:
        keys = funrl.random.split(key, num_agents)
        step, state = funrl.compile(torch.func.vmap(algo.step), donate=1, threads=threads), torch.func.vmap(algo.init)(keys)
        key_of = lambda i: torch.func.vmap(lambda k: funrl.random.fold_in(k, i))(keys)  # noqa: E731
    update, samples = 0, []
    for sample in range(4):
        start, updates = time.perf_counter(), 0
        while updates < 3 or time.perf_counter() - start < seconds or update * algo.steps_per_update < SETTINGS.learning_starts:
            state, _ = step(key_of(update), state)
            update, updates = update + 1, updates + 1
        if sample:  # the first holds the compilation
            samples.append(updates * algo.config.num_updates * num_agents / (time.perf_counter() - start))
    return samples


def products(seconds: float) -> list[float]:
    """Return GFLOP a second of products [256, 256] x [256, 256], the heaviest of SAC's with 256 units, in two threads."""
    import torch

    import funrl  # noqa: F401

    torch.set_num_threads(2)
    a, b, out = (torch.randn(256, 256) for _ in range(3))
    samples = []
    for _ in range(4):
        start, n = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            for _ in range(100):
                torch.mm(a, b, out=out)
            n += 100
        samples.append(n * 2 * 256**3 / 1e9 / (time.perf_counter() - start))
    return samples[1:]


def notes(figures: Figures) -> list[str]:
    """Say what eight agents at once gain, what a larger buffer costs, and how near to the processor's limit wide networks are."""
    lines = []

    def ratio(above: str, below: str) -> float:
        return figures[above]["funrl"] / figures[below]["funrl"]

    if WIDE in figures and PRODUCTS in figures:
        share = ratio(WIDE, PRODUCTS) * GFLOP_OF_SAC_256
        lines.append(f"SAC with 256 units does {share:.2f} of the arithmetic that products of its size reach alone (target 0.5).")
    for name in ENVIRONMENTS:
        one = f"{name.upper()}, 64 units"
        for more in (f"{name.upper()}, 64 units, 8 agents", f"{name.upper()}, 64 units, 8 agents, two threads"):
            if one in figures and more in figures:
                lines.append(f"{more}: {ratio(more, one):.2f} x the rate of 8 one after another in one thread (target 1.5).")
        if one in figures and f"{one}, twice the buffer" in figures:
            time = ratio(one, f"{one}, twice the buffer")
            lines.append(f"{name.upper()}: a step with twice the buffer takes {time:.2f} x the time (target below 1.1).")
    return [f"- {line}" for line in lines]


ONE, TWO = Library(rate), Library(partial(rate, threads=2))
SB3, REJAX = Library(sb3, "stable-baselines3"), Library(rejax, "rejax")
WIDE, PRODUCTS = "SAC, 256 units, two threads", "products of matrices [256, 256] (GFLOP/s)"
BUFFER = SETTINGS.buffer_size
BENCHMARK = speed(
    "off_policy",
    f"SAC on Pendulum-v1 and DQN on CartPole-v1, two hidden layers, batches of {SETTINGS.batch_size}, a buffer of {BUFFER:,}.",
    [
        Case(WIDE, ("sac", 256, 1, BUFFER), {"funrl": TWO, "sb3": SB3}, quick=False),
        Case(PRODUCTS, (), {"funrl": Library(products)}, quick=False),
        *(
            case
            for name in ENVIRONMENTS
            for case in (
                Case(f"{name.upper()}, 64 units", (name, 64, 1, BUFFER), {"funrl": ONE, "sb3": SB3, "rejax": REJAX}),
                Case(f"{name.upper()}, 64 units, 8 agents", (name, 64, 8, BUFFER), {"funrl": ONE, "rejax": REJAX}, quick=False),
                Case(f"{name.upper()}, 64 units, 8 agents, two threads", (name, 64, 8, BUFFER), {"funrl": TWO}, quick=False),
                Case(f"{name.upper()}, 64 units, twice the buffer", (name, 64, 1, 2 * BUFFER), {"funrl": ONE}, quick=False),
            )
        ),
    ],
    unit="gradient steps/s",
    targets={
        (WIDE, "sb3"): 2.5,
        **{(f"{name.upper()}, 64 units", "sb3"): 8.0 for name in ENVIRONMENTS},
        **{(f"{name.upper()}, 64 units", "rejax"): 0.8 for name in ENVIRONMENTS},
        **{(f"{name.upper()}, 64 units, 8 agents", "rejax"): 1.0 for name in ENVIRONMENTS},
    },
    seconds=3.0,
    rounds=2,
    notes=notes,
)
