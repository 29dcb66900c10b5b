"""What hindsight and hierarchies are worth: sparse goals with and without hindsight, and FourRooms after its goal moves.

The agents of a row, which differ by their seeds, are one vmapped program.
"""

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
SPARSE = {  # learner, its options, environment, its settings, updates
    "BitFlip, 20 bits": ("dqn", DQN, "BitFlip-misc", {"num_bits": 20}, 5_000),
    "GoalPointRobot": ("sac", SAC, "GoalPointRobot-misc", {}, 600),
    "GoalPointRobot, radius 0.02": ("sac", SAC, "GoalPointRobot-misc", {"goal_radius": 0.02}, 600),
    "GoalPointRobot, radius 0.01": ("sac", SAC, "GoalPointRobot-misc", {"goal_radius": 0.01}, 600),
}


def sparse_goals(row: str, hindsight: bool, evaluations: int = 10) -> dict[str, Any]:
    """Train with or without hindsight, and return the share of episodes that reach the goal, of each agent, along the training."""
    import torch

    import funrl
    from funrl import buffers, random

    name, options, env_name, settings, updates = SPARSE[row]
    env = funrl.envs.make(env_name, **{key: value for key, value in settings.items() if key != "goal_radius"})
    if "goal_radius" in settings:
        env = env._replace(default_params=env.default_params.replace(goal_radius=torch.tensor(settings["goal_radius"])))
    rest = {key: value for key, value in options.items() if key != "buffer_size"}
    buffer = buffers.hindsight(options["buffer_size"], funrl.envs.goal_reward(env), num_envs=options["num_envs"]) if hindsight else None
    algo = funrl.algos.make(name, env, buffer=buffer, **rest) if hindsight else funrl.algos.make(name, env, **options)
    part = updates // evaluations

    def success(key: Any, state: Any) -> Any:
        # An episode that reaches its goal has a return above that of one that does not: -1 for each step.
        learner = state.learner
        found = funrl.evaluate(learner.params, key, learner.env_params, env=env, act=algo.greedy, num_episodes=NUM_EPISODES)
        return (found.episode_return > -env.max_episode_steps).double().mean()

    program = funrl.compile(torch.func.vmap(algo.step), donate=1)
    test = funrl.compile(torch.func.vmap(success))
    key = random.key(0)
    states = torch.func.vmap(algo.init)(random.split(key, NUM_AGENTS))
    curve = []
    for i in range(updates):
        states, _ = program(random.split(random.fold_in(key, i), NUM_AGENTS), states)
        if (i + 1) % part == 0:
            curve.append(test(random.split(random.fold_in(key, updates + i), NUM_AGENTS), states).tolist())
            say(f"hierarchy: {row}, {'with' if hindsight else 'without'} hindsight, {(i + 1) * algo.steps_per_update:,} steps: {curve[-1]}")
    return {"steps": updates * algo.steps_per_update, "success": curve}


ROWS = {
    **{f"{row}, hindsight": lambda row=row: sparse_goals(row, True) for row in SPARSE},
    **{f"{row}, without": lambda row=row: sparse_goals(row, False) for row in SPARSE},
}


def run(options: Options) -> Iterator[Figures]:
    """Yield what the agents of each row learned."""
    for row, learn in ROWS.items():
        if options.wants(row, False):
            say(f"hierarchy: {row}")
            yield {row: learn()}
