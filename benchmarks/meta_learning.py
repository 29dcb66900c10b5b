"""The gain by learning to learn: MAML, RL² and meta-gradients on tasks that were held out.

The agents of a row, which differ by their seeds, are one vmapped program. Intervals are of 95 %, over agents and tasks.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks import meta_sinusoids
from benchmarks.harness import Benchmark, Figures, Options, say
from benchmarks.history import RESULTS

NUM_AGENTS = 5
NUM_TASKS = 200
ARMS, PULLS = 5, 100
WINDOW = 20  # updates that a point of a curve is the mean of
# The errors after one step on sinusoids: of MAML as Li et al., 2017, arXiv:1707.09835, table 1, measured it.
PAPER = {5: 1.13, 10: 0.77}


def _train(algo: Any, updates: int, seed: int = 0, num_agents: int = NUM_AGENTS) -> tuple[Any, Any]:
    """Train agents, and return their states and the returns of episodes after each update, [updates, agents]."""
    import torch

    import funrl
    from funrl import random

    step = funrl.compile(torch.func.vmap(algo.step))
    states = torch.func.vmap(algo.init)(random.split(random.key(seed), num_agents))
    returns = []
    for i in range(updates):
        states, metrics = step(random.split(random.fold_in(random.key(seed + 1), i), num_agents), states)
        returns.append(metrics["episode_return"])
        if (i + 1) % 20 == 0:
            say(f"meta_learning: {algo.name}, {i + 1} updates: {[round(x, 2) for x in returns[-1].tolist()]}")
    return states, torch.stack(returns)


def _told(found: Any) -> dict[str, list[float]]:
    return {name: getattr(found, name).tolist() for name in ("mean", "low", "high")}


def goals(updates: int = 200) -> dict[str, Any]:
    """PointRobot: MAML before and after inner steps, and one policy that was trained on all goals."""
    import funrl
    from funrl import meta, random
    from funrl.envs import tasks

    env = funrl.envs.point_robot()
    kind = tasks.of(env)
    drawn = kind.test(random.key(7), NUM_TASKS)
    maml = meta.maml.make(env, num_tasks=20, num_envs=400, learning_rate=5e-3)
    states, _ = _train(maml, updates)
    found = meta.evaluate_adaptation(meta.maml.returns(maml, num_steps=3), states.learner.params, random.key(8), drawn)
    one = funrl.algos.ppo.make(meta.trials(kind, 1)(env), num_envs=64, num_steps=100, anneal_steps=64e2 * updates)
    states, _ = _train(one, updates)
    joint = meta.evaluate_adaptation(meta.trial_returns(one.env, one.greedy, 1), states.learner.params, random.key(8), drawn)
    return {"updates": updates, "maml": _told(found), "one policy": _told(joint)}


def baseline_regrets(probability: Any, key: Any) -> dict[str, Any]:
    """Return the regrets [N] of UCB1 and Thompson sampling over 100 pulls of each of N bandits [N, K]."""
    import torch

    generator = torch.Generator().manual_seed(int(key))
    n, arms = probability.shape
    best, result = probability.max(1).values, {}
    for name in ("UCB1", "Thompson sampling"):
        wins, losses, regret = torch.zeros(n, arms), torch.zeros(n, arms), torch.zeros(n)
        for t in range(PULLS):
            count = wins + losses
            if name == "UCB1":
                bonus = (2 * torch.log(torch.tensor(float(max(t, 1)))) / count.clamp(min=1)).sqrt()
                score = torch.where(count == 0, torch.inf, wins / count.clamp(min=1) + bonus)
            else:
                a, b = (torch._standard_gamma(x + 1, generator=generator) for x in (wins, losses))
                score = a / (a + b)
            arm = score.argmax(1, keepdim=True)
            chance = probability.gather(1, arm)
            won = (torch.rand(n, 1, generator=generator) < chance).float()
            wins, losses = wins.scatter_add(1, arm, won), losses.scatter_add(1, arm, 1 - won)
            regret += best - chance[:, 0]
        result[name] = regret
    return result


def bandits(updates: int = 120) -> dict[str, Any]:
    """Bandits with five arms and 100 pulls: the regret of RL², of UCB1 and of Thompson sampling, on the same bandits.

    Options are those of the preset. With a lambda of 0.3, a discount of 0.99 and more updates the regret was 13 to 16: the entropy fell
    before anything was learned. With a lambda of 0.8 or 0.9, a learning rate of 3e-3 and half the entropy weight it was 9 to 11, one agent
    each.
    """
    import torch

    import funrl
    from funrl import meta, random
    from funrl.envs import tasks

    env = funrl.envs.bernoulli_bandit(ARMS)
    options = {**funrl.training.preset("rl2", "BernoulliBandit-misc").options, "num_steps": PULLS}
    algo = meta.rl2.make(env, **{**options, "anneal_steps": float(options["num_envs"] * PULLS * updates)})
    states, _ = _train(algo, updates)
    drawn = tasks.of(env).test(random.key(7), 1000)
    found = meta.evaluate_adaptation(meta.trial_returns(algo.env, algo.act, 1), states.learner.params, random.key(8), drawn)
    best = PULLS * drawn.probability.max(1).values.mean()
    regrets = {"RL²": (best - found.returns[..., 0].mean(1)).tolist()}
    for name, regret in baseline_regrets(drawn.probability, 0).items():
        regrets[name] = [regret.mean().item()]
    assert isinstance(best, torch.Tensor)
    return {"updates": updates, "regret": regrets}


def hidden_maze(size: int = 5, most: int = 30) -> tuple[Any, Any]:
    """Return a maze that is seen only around the agent, 3 x 3 tiles with their walls and the goal, beside its own place; and its tasks.

    Otherwise nothing would be left to remember: the observation of ``Maze-misc`` shows all of it.
    """
    import torch

    import funrl
    from funrl.envs import tasks

    env = funrl.envs.maze(["." * size] * (size - 1) + ["S" + "." * (size - 2) + "G"])
    env_params = env.default_params.replace(max_steps=torch.tensor(most), step_cost=torch.tensor(0.04))
    env = env._replace(default_params=env_params, max_episode_steps=most)

    def around(place: Any) -> Any:  # [size] -> [3, size + 2], one-hot rows: the tiles before, at and after a place of the padded maze
        return torch.stack([torch.nn.functional.pad(place, (i, 2 - i)) for i in range(3)])

    def seen(timestep: Any) -> Any:
        walls, agent, goal = timestep.observation
        padded = torch.nn.functional.pad(torch.stack([1 - walls, goal]), (1, 1, 1, 1))
        view = torch.einsum("ai,cij,bj->cab", around(agent.sum(1)), padded, around(agent.sum(0)))
        return timestep.replace(observation=torch.cat([view.flatten(), agent.flatten()]))

    space = funrl.spaces.Box(0.0, 1.0, (18 + size * size,))
    return funrl.transforms.stateless(env, "hidden_maze()", start=seen, finish=seen, observation_space=space), tasks.of(env)


def mazes(updates: int = 300) -> dict[str, Any]:
    """Mazes that are seen only around the agent: the returns of RL² in the episodes of held-out mazes."""
    from funrl import meta, random

    env, kind = hidden_maze()
    options: dict[str, Any] = dict(num_envs=64, num_steps=60, num_epochs=4, num_minibatches=4, num_cells=(64,), recurrent_size=64)
    algo = meta.rl2.make(env, tasks=kind, learning_rate=2e-3, anneal_steps=float(64 * 60 * updates), **options)
    states, _ = _train(algo, updates)
    found = meta.evaluate_adaptation(
        meta.trial_returns(algo.env, algo.act, 2), states.learner.params, random.key(8), kind.test(random.key(7), NUM_TASKS)
    )
    return {"updates": updates, "agents": found.returns.mean(1).tolist(), "returns": _told(found)}


def meta_gradients(updates: int = 400, gamma: float = 0.3) -> dict[str, Any]:
    """Catch, where the reward comes after nine steps: a discount that is learned from a bad start, and fixed ones, as one program.

    All solve it in the end; the mean return over all updates tells how soon.
    """
    import torch
    from torch.func import vmap

    import funrl
    from funrl import meta, random

    env = funrl.transforms.flatten_observation()(funrl.envs.catch())
    algo = meta.meta_a2c.make(env, learned="gamma", num_envs=16, num_steps=9, learning_rate=2e-3, lambda_=0.95, num_cells=(32,))
    kinds = {"learned": (gamma, 0.05), f"fixed at {gamma}": (gamma, 0.0), "fixed at 0.99": (0.99, 0.0)}
    start, rate = torch.tensor(list(kinds.values())).repeat_interleave(NUM_AGENTS, 0).unbind(1)
    keys = random.split(random.key(0), NUM_AGENTS).repeat(len(kinds))
    states = vmap(lambda key, x, y: algo.init(key, {"gamma": x, "meta_learning_rate": y}))(keys, start, rate)
    step, found = funrl.compile(vmap(algo.step)), []
    for i in range(updates):
        states, metrics = step(random.split(random.fold_in(random.key(1), i), NUM_AGENTS).repeat(len(kinds)), states)
        found.append((metrics["episode_return"], metrics["gamma"]))
    returns, gammas = (torch.stack(x).reshape(updates, len(kinds), NUM_AGENTS) for x in zip(*found, strict=True))
    smooth = returns.unfold(0, WINDOW, WINDOW).mean(-1)  # [updates / WINDOW, kinds, agents]
    result: dict[str, Any] = {"updates": updates}
    for k, name in enumerate(kinds):
        result[name] = {
            "gamma": gammas[-1, k].tolist(),
            "mean": returns[:, k].mean(0).tolist(),
            "last": returns[-50:, k].mean(0).tolist(),
            "curve": [[round(x, 3) for x in row] for row in smooth[:, k].tolist()],
            "gammas": [[round(x, 3) for x in row] for row in gammas[WINDOW - 1 :: WINDOW, k].tolist()],
        }
    _draw(result)
    return result


def _draw(found: dict[str, Any]) -> None:
    """Draw the returns with a learned and with fixed discounts, and the discount that is learned: means and ranges of the agents."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    canvas, (left, right) = FigureCanvasAgg(figure), figure.subplots(1, 2)
    for name, row in found.items():
        for axes, part in ((left, "curve"), (right, "gammas")) if isinstance(row, dict) else ():
            updates = [WINDOW * (i + 1) for i in range(len(row[part]))]
            (line,) = axes.plot(updates, [sum(x) / len(x) for x in row[part]], label=name)
            axes.fill_between(updates, [min(x) for x in row[part]], [max(x) for x in row[part]], color=line.get_color(), alpha=0.2)
    left.set(xlabel="updates", ylabel=f"return, over {WINDOW} updates", title="Catch")
    right.set(xlabel="updates", ylabel="discount")
    left.legend(title="discount", fontsize=8)
    canvas.print_png(RESULTS / "meta_gradients.png")


ROWS = {
    "sinusoids, 5 shots": lambda: meta_sinusoids.learn(5),
    "sinusoids, 10 shots": lambda: meta_sinusoids.learn(10),
    "sinusoids, 10 shots, learned step sizes": lambda: meta_sinusoids.learn(10, learned=True),
    "PointRobot": goals,
    "bandits": bandits,
    "mazes": mazes,
    "meta-gradients": meta_gradients,
}


def run(options: Options) -> Iterator[Figures]:
    """Yield what the agents of each row learned."""
    for row, learn in ROWS.items():
        if options.wants(row, quick=False):
            say(f"meta_learning: {row}")
            yield {row: learn()}


def _line(found: dict[str, list[float]]) -> str:
    return ", ".join(f"{m:.2f} ({a:.2f} to {b:.2f})" for m, a, b in zip(found["mean"], found["low"], found["high"], strict=True))


def notes(figures: Figures) -> list[str]:
    """Return the tables."""
    lines = []
    for name, row in figures.items():
        if name.startswith("sinusoids"):
            shots = row["shots"]
            errors = {steps: sum(x) / len(x) for steps, x in row["errors"].items()}
            lines.append(
                f"* S{name[1:]}, {row['iterations']:,} iterations: mean squared errors after "
                f"{', '.join(f'{steps} steps {x:.3f}' for steps, x in errors.items())} (MAML in arXiv:1707.09835, table 1, after one step: "
                f"{PAPER[shots]})."
            )
    if "PointRobot" in figures:
        row = figures["PointRobot"]
        lines += [
            f"* PointRobot, held-out goals: returns of MAML before and after each of three inner steps {_line(row['maml'])}; "
            f"one policy for all goals {_line(row['one policy'])}."
        ]
    if "bandits" in figures:
        regrets = {name: sum(x) / len(x) for name, x in figures["bandits"]["regret"].items()}
        lines.append(f"* Bandits, {ARMS} arms, {PULLS} pulls, regret: {', '.join(f'{name} {x:.2f}' for name, x in regrets.items())}.")
    if "mazes" in figures:
        lines.append(f"* Mazes, held out: returns in the first and the second episode {_line(figures['mazes']['returns'])}.")
    if "meta-gradients" in figures:
        row = figures["meta-gradients"]
        told = []
        for name, x in row.items():
            if isinstance(x, dict):
                discount, mean, last = (sum(x[part]) / len(x[part]) for part in ("gamma", "mean", "last"))
                ends = f"{min(x['mean']):.2f} to {max(x['mean']):.2f}"
                told.append(f"{name}: discount {discount:.2f}, mean return of all updates {mean:.2f} ({ends}), of the last 50 {last:.2f}")
        lines += [f"* Catch, {row['updates']:,} updates: {'; '.join(told)}.", "", "![a discount that is learned](meta_gradients.png)"]
    return lines


BENCHMARK = Benchmark(
    f"MAML, RL² and meta-gradients on held-out tasks, {NUM_AGENTS} agents as one program.",
    (),
    run,
    notes,
)
