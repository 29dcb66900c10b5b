"""The gain by hindsight and hierarchies: sparse goals with and without hindsight, and FourRooms after its goal moves.

"Table" rows have the setting of arXiv:1609.05140: one environment, tables that begin at 0, and a step of gradient descent along one-step
errors after each of its steps.

The agents of a row, which differ by their seeds, are one vmapped program.
"""

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import Benchmark, Figures, Options, say

NUM_AGENTS = 5
NUM_EPISODES = 100  # of each agent in an evaluation
DQN = dict(
    num_envs=8, num_steps=8, num_updates=8, batch_size=128, num_cells=(256,), buffer_size=200_000, gamma=0.98, target_period=1, tau=0.02,
    huber_delta=float("inf"), epsilon_end=0.1, epsilon_steps=5e4,
)  # fmt: skip
SAC = dict(num_envs=8, num_steps=8, num_updates=32, batch_size=128, num_cells=(64, 64), buffer_size=200_000, gamma=0.98)
SPARSE = {  # learner, its options, environment, its settings, radius of the goals (0: the usual one), updates
    "BitFlip, 20 bits": ("dqn", DQN, "BitFlip-misc", {"num_bits": 20}, 0.0, 5_000),
    "GoalPointRobot": ("sac", SAC, "GoalPointRobot-misc", {}, 0.0, 600),
    "GoalPointRobot, radius 0.02": ("sac", SAC, "GoalPointRobot-misc", {}, 0.02, 600),
}
# FourRooms: updates before and after the goal moves from the eastern door to a random tile of the room below it, a window of updates over
# which lengths of episodes are averaged, and the mean length of a solution.
BEFORE, AFTER, WINDOW, SOLVED = 300, 300, 25, 40
# The best of 23 settings of A2C (learning rate, entropy weight, lambda) and of 30 of the option-critic (deliberation cost, too), with three
# other seeds each, by these steps.
ON_POLICY = dict(num_envs=8, num_steps=16, num_cells=(), learning_rate=0.1, lambda_=0.8, entropy_weight=0.01)
REPLAY = dict(
    num_envs=8, num_steps=16, num_updates=16, batch_size=128, buffer_size=16_384, num_cells=(64, 64), tau=0.01, epsilon_end=0.1,
)  # fmt: skip
ROOMS = {
    "flat, A2C": ("a2c", ON_POLICY),
    "option-critic, 4 options": ("option_critic", dict(ON_POLICY, entropy_weight=0.003, num_options=4, deliberation_cost=0.1)),
    "flat, DQN": ("dqn", dict(REPLAY, target_period=1, huber_delta=float("inf"))),
    "two levels, k = 16": ("feudal", dict(REPLAY, goal_steps=16)),
}

# Rates of gradient descent and options of the table rows. Of each learner 44 settings were tried, 20 with 8 agents and 24 with 20 others;
# these took the fewest steps for the first 100 episodes after the move.
TABLES = {
    "flat, A2C, table": ("a2c", {"entropy_weight": 0.001}, {"policy": 2.0, "value": 0.35}),
    "option-critic, 2 options, table": (
        "option_critic",
        {"num_options": 2, "epsilon": 0.1, "deliberation_cost": 0.0, "entropy_weight": 0.001},
        {"policy": 2.0, "value": 0.25, "termination": 0.5},
    ),
}
# The goal moves after so many episodes of an agent, or after so many steps if that is earlier; it then learns on for MORE steps.
MOVE, LATEST, MORE, CHUNK, FIRST, EPISODES = 1_000, 60_000, 40_000, 500, 100, 25


def sparse_goals(row: str, hindsight: bool, evaluations: int = 10) -> dict[str, Any]:
    """Train with or without hindsight, and return the share of episodes that reach the goal, of each agent, along the training."""
    import torch

    import funrl
    from funrl import buffers, random

    name, options, env_name, settings, radius, updates = SPARSE[row]
    env = funrl.envs.make(env_name, **settings)
    if radius:
        env = env._replace(default_params=env.default_params.replace(goal_radius=torch.tensor(radius)))
    if hindsight:
        size = options["buffer_size"]
        rest = {key: value for key, value in options.items() if key != "buffer_size"}
        buffer = buffers.hindsight(size, funrl.envs.goal_reward(env), num_envs=options["num_envs"])
        algo = funrl.algos.make(name, env, buffer=buffer, **rest)
    else:
        algo = funrl.algos.make(name, env, **options)

    def success(key: Any, state: Any) -> Any:
        # An episode that reaches its goal has a return above that of one that does not: -1 for each step.
        learner = state.learner
        found = funrl.evaluate(learner.params, key, learner.env_params, env=env, act=algo.greedy, num_episodes=NUM_EPISODES)
        return (found.episode_return > -env.max_episode_steps).double().mean()

    program, test = funrl.compile(torch.func.vmap(algo.step), donate=1), funrl.compile(torch.func.vmap(success))
    key, curve = random.key(0), []
    states = torch.func.vmap(algo.init)(random.split(key, NUM_AGENTS))
    for i in range(updates):
        states, _ = program(random.split(random.fold_in(key, i), NUM_AGENTS), states)
        if (i + 1) % (updates // evaluations) == 0:
            curve.append([round(x, 4) for x in test(random.split(random.fold_in(key, updates + i), NUM_AGENTS), states).tolist()])
            say(f"hierarchy: {row}, {'with' if hindsight else 'without'} hindsight, {(i + 1) * algo.steps_per_update:,} steps: {curve[-1]}")
    return {"steps": updates * algo.steps_per_update, "success": curve}


def one_hot_rooms() -> Any:
    """Return FourRooms whose observation is its tile, one-hot [169], so that the goal is not observed."""
    import torch

    import funrl

    env = funrl.envs.make("FourRooms-misc")

    def seen(timestep: Any) -> Any:
        x = timestep.observation
        tile = 13 * x[0] + x[1]
        return timestep.replace(observation=(torch.arange(169, device=x.device) == tile).to(x.dtype))

    space = funrl.spaces.Box(0.0, 1.0, (169,))
    return funrl.transforms.stateless(env, "one_hot_rooms()", start=seen, finish=seen, observation_space=space)


def _moved(states: Any, goals: Any) -> Any:
    """Return the states of agents with other goals [N, 2]."""
    learner = states.learner
    return states.replace(learner=learner.replace(env_params=learner.env_params.replace(goal=goals.clone())))


def _new_goals(walls: Any, num_agents: int) -> tuple[Any, Any]:
    """Return the first goals [N, 2], the eastern door, and the later ones, random tiles of the room below it."""
    import torch

    from funrl import random

    lower = torch.tensor([[i, j] for i in range(8, 12) for j in range(7, 12) if not walls[i, j]])
    drawn = torch.func.vmap(lambda key: random.randint(key, (), 0, len(lower)))(random.split(random.key(77), num_agents))
    return torch.tensor([[7, 9]]).repeat(num_agents, 1), lower[drawn]


def rooms(row: str) -> dict[str, Any]:
    """Train in FourRooms, move the goal, and return how long the episodes of each agent were afterwards, while it learned on."""
    import torch

    import funrl
    from funrl import random

    name, options = ROOMS[row]
    num_agents = 20 if "num_updates" not in options else NUM_AGENTS  # without replay they cost little
    env, key = one_hot_rooms(), random.key(0)
    starts, walls = env.default_params.starts, env.default_params.walls
    if name == "feudal":
        options = dict(options, goals=torch.nn.functional.one_hot(13 * starts[:, 0] + starts[:, 1], 169).to(torch.float32))
    algo = funrl.algos.make(name, env, **options)
    program = funrl.compile(torch.func.vmap(algo.step), donate=1)
    states = torch.func.vmap(algo.init)(random.split(key, num_agents))
    first, new = _new_goals(walls, num_agents)
    goals, lengths = {0: first, BEFORE: new}, []
    for i in range(BEFORE + AFTER):
        if i in goals:
            states = _moved(states, goals[i])
        states, metrics = program(random.split(random.fold_in(key, i), num_agents), states)
        lengths.append(metrics["episode_length"])
    length, per_update = torch.stack(lengths), algo.steps_per_update
    smooth = length[BEFORE:].unfold(0, WINDOW, 1).mean(-1)
    solved = smooth < SOLVED
    steps = [int(x.nonzero()[0] + WINDOW) * per_update if x.any() else None for x in solved.unbind(1)]
    found = {
        "before": length[BEFORE - WINDOW : BEFORE].nanmean(0).tolist(),
        "after": length[BEFORE:].nanmean(0).tolist(),
        "last": length[-WINDOW:].nanmean(0).tolist(),
        "steps": steps,
    }
    say(f"hierarchy: FourRooms, {row}: {found}")
    return found


def tables(row: str, num_agents: int = 100, seed: int = 202) -> dict[str, Any]:
    """Train in FourRooms as in the paper, move the goal, and return how many steps the episodes of each agent took afterwards."""
    import torch

    import funrl
    from funrl import optim, random, tree

    name, options, rates = TABLES[row]
    env, key, n = one_hot_rooms(), random.key(seed), num_agents
    env = env._replace(max_episode_steps=1_000, default_params=env.default_params.replace(max_steps=torch.tensor(1_000)))

    def descend(gradient: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return {part: tree.map(lambda g: -rates[part] * g, x) for part, x in gradient.items()}, state  # noqa: B023

    algo = funrl.algos.make(
        name, env, num_envs=1, num_steps=1, num_cells=(), lambda_=0.0, value_weight=1.0,
        optimizer=optim.Optimizer(lambda params: (), descend), **options,
    )  # fmt: skip

    def play(key: Any, state: Any) -> Any:
        def step(state: Any, key: Any) -> tuple[Any, Any]:
            collect_key, learn_key = random.split(key).unbind(0)
            actor, samples = algo.collect(collect_key, state)
            learner, _ = algo.learn(learn_key, state.learner, samples)
            return state.replace(actor=actor, learner=learner), samples.done[0, 0]

        return funrl.scan(step, state, random.split(key, CHUNK))

    program = funrl.compile(torch.func.vmap(play), donate=1)
    states = torch.func.vmap(algo.init)(random.split(key, n))
    params = states.learner.params
    states = states.replace(learner=states.learner.replace(params=params.replace(network=tree.zeros_like(params.network))))
    goal, new = _new_goals(env.default_params.walls, n)
    ends, moved, episodes = [], torch.full((n,), LATEST), torch.zeros(n, dtype=torch.int64)
    while len(ends) * CHUNK < int(moved.max()) + MORE:
        time = torch.tensor(len(ends) * CHUNK)
        moved = torch.where((episodes >= MOVE) & (time < moved), time, moved)
        states = _moved(states, torch.where((moved <= time)[:, None], new, goal))
        states, done = program(random.split(random.fold_in(key, len(ends)), n), states)
        ends.append(done)
        episodes = episodes + done.sum(1)
    found: dict[str, Any] = {"before": [], "first": [], "steps": []}
    for done, start in zip(torch.cat(ends, 1), moved.tolist(), strict=True):
        earlier, later = (part.nonzero()[:, 0] + 1 for part in (done[:start], done[start : start + MORE]))
        length = torch.diff(later, prepend=torch.zeros(1, dtype=torch.int64)).to(torch.float64)
        solved = (length.unfold(0, EPISODES, 1).mean(-1) < SOLVED).nonzero().flatten().tolist() if len(length) >= EPISODES else []
        found["before"].append(torch.diff(earlier).to(torch.float64)[-FIRST:].mean().item())
        found["first"].append(int(later[FIRST - 1]) if len(later) >= FIRST else None)
        found["steps"].append(int(later[solved[0] + EPISODES - 1]) if len(solved) else None)
    say(f"hierarchy: FourRooms, {row}: {found}")
    return found


ROWS = {
    **{f"{row}, hindsight": lambda row=row: sparse_goals(row, True) for row in SPARSE},
    **{f"{row}, without": lambda row=row: sparse_goals(row, False) for row in SPARSE},
    **{f"FourRooms, {row}": lambda row=row: rooms(row) for row in ROOMS},
    **{f"FourRooms, {row}": lambda row=row: tables(row) for row in TABLES},
}


def run(options: Options) -> Iterator[Figures]:
    """Yield what the agents of each row learned."""
    for row, learn in ROWS.items():
        if options.wants(row, quick=False):
            say(f"hierarchy: {row}")
            yield {row: learn()}


def notes(figures: Figures) -> list[str]:
    """Return a line for each row."""
    lines = []
    for name, row in figures.items():
        if "success" in row:
            curve, part = row["success"], row["steps"] // len(row["success"])
            solved = [next((f"{part * (i + 1):,}" for i, x in enumerate(curve) if x[j] >= 0.95), "not") for j in range(NUM_AGENTS)]
            shown = ", ".join(f"{x:.2f}" for x in curve[-1])
            lines.append(f"* {name}: success after {row['steps']:,} steps {shown}; 95 % by step {', '.join(solved)}.")
        elif "first" in row:
            first = [MORE if x is None else x for x in row["first"]]
            half = 1.96 * statistics.stdev(first) / len(first) ** 0.5
            median = statistics.median(MORE if x is None else x for x in row["steps"])
            lines.append(
                f"* {name}: episodes of {statistics.mean(row['before']):.1f} steps before the goal moves; the first {FIRST} episodes after "
                f"it take {statistics.mean(first):,.0f} ± {half:,.0f} steps (mean of {len(first)} agents with its interval of 95 %, "
                f"{row['first'].count(None)} of them not within {MORE:,}); median of the steps until the mean of {EPISODES} episodes is "
                f"below {SOLVED}: {median:,.0f}."
            )
        else:
            steps = ", ".join("not" if x is None else f"{x:,}" for x in row["steps"])
            means = {part: statistics.mean(row[part]) for part in ("before", "after", "last")}
            lines.append(
                f"* {name}: episodes of {means['before']:.1f} steps before the goal moves, {means['after']:.1f} on average afterwards, "
                f"{means['last']:.1f} at the end; steps until the mean of {WINDOW} updates is below {SOLVED}: {steps}."
            )
    return lines


BENCHMARK = Benchmark(
    f"Hindsight for sparse goals, and hierarchies in FourRooms after its goal moves, {NUM_AGENTS} agents as one program.",
    (),
    run,
    notes,
)
