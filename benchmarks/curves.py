"""The picture of the README: many agents of PPO, each with a learning rate of its own, trained as one program."""

import time
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import Benchmark, Figures, Options, say
from benchmarks.history import RESULTS

NUM_AGENTS, NUM_UPDATES = 64, 100
LOWEST, HIGHEST = 1e-5, 1e-1
WINDOW = 10  # updates that a point of the picture is the mean of


def train() -> dict[str, Any]:
    """Draw the curves of all agents; return what they took."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=16)
    rates = torch.logspace(*(torch.tensor(x).log10().item() for x in (LOWEST, HIGHEST)), NUM_AGENTS)
    init_key, key = funrl.random.split(funrl.random.key(0))
    states = torch.func.vmap(algo.init)(funrl.random.split(init_key, NUM_AGENTS))
    states = funrl.tree.update(states, ("learner", "hparams", "learning_rate"), rates)
    step = funrl.compile(torch.func.vmap(algo.step), donate=1, threads=2)
    returns, times = [], [time.perf_counter()]
    for i in range(NUM_UPDATES):
        states, metrics = step(funrl.random.split(funrl.random.fold_in(key, i), NUM_AGENTS), states)
        returns.append(metrics["episode_return"])
        times.append(time.perf_counter())
    steps = torch.arange(1, NUM_UPDATES + 1) * algo.steps_per_update
    draw(rates, steps, torch.stack(returns))
    taken = {"compile_seconds": times[1] - times[0], "seconds": times[-1] - times[1]}
    return {"agents": NUM_AGENTS, "steps": int(steps[-1]), **taken, "last": returns[-1].tolist()}


def draw(rates: Any, steps: Any, returns: Any) -> None:
    """Draw each agent's curve in the colour of its learning rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    colors = ScalarMappable(LogNorm(LOWEST, HIGHEST), "viridis")
    returns = returns.unfold(0, WINDOW, 1).mean(-1)
    for agent, rate in enumerate(rates.tolist()):
        axes.plot(steps[WINDOW - 1 :], returns[:, agent], color=colors.to_rgba(rate), linewidth=0.9, alpha=0.85)
    axes.set(xlabel="environment steps of an agent", ylabel=f"return, over {WINDOW} updates")
    axes.set_title(f"PPO on CartPole-v1: {len(rates)} agents, {len(rates)} learning rates, one program", fontsize=10)
    axes.grid(alpha=0.3)
    figure.colorbar(colors, ax=axes, label="learning rate")
    canvas.print_png(RESULTS / "curves.png")


def run(options: Options) -> Iterator[Figures]:
    """Yield how long the agents took, and draw their curves."""
    if options.wants("curves", quick=False):
        say(f"curves: {NUM_AGENTS} agents")
        yield {"curves": train()}


def notes(figures: Figures) -> list[str]:
    """Return the picture, and how long it took."""
    row = figures["curves"]
    return [
        f"{row['agents']} agents take {row['steps']:,} steps each in {row['seconds']:.0f} s, "
        f"{row['agents'] * row['steps'] / row['seconds']:,.0f} steps/s of all; the first call took {row['compile_seconds']:.0f} s.",
        "",
        "![learning curves of all agents](curves.png)",
    ]


BENCHMARK = Benchmark("The picture of the README: many agents of PPO, each with its own learning rate, as one program.", (), run, notes)
