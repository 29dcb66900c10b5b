"""Wrong arguments of the room's functions: each is an error that names the argument, what was expected and what came."""

import pytest
import torch

import funrl
from funrl import envs, meta, optim, random, tree
from funrl.envs import tasks

KEY = random.key(0)
ROBOT, PENDULUM = envs.make("PointRobot-misc"), envs.make("Pendulum-v1")
GOALS, RODS, WAVES = tasks.of(ROBOT), tasks.of(PENDULUM), tasks.sinusoids().train(KEY, 2)
START, FLAGS = meta.MetaParams(torch.zeros(2), torch.tensor(0.1)), torch.zeros(3, dtype=torch.bool)
LEVELS = meta.start_levels(ROBOT.default_params, 4)


def loss(params, data):
    return (params - data).square().sum()


def adapt(**changes):
    options = {"loss": loss, "num_steps": 1, "meta": START, "data": torch.zeros(2), **changes}
    return meta.adapt(options.pop("meta"), options.pop("data"), **options)


CASES = {
    "tasks of a number of another kind": (lambda: GOALS.train(KEY, 2.5), "tasks: n: expected an integer of at least 1, got 2.5"),
    "no tasks": (lambda: GOALS.test(KEY, 0), "tasks: n: expected an integer of at least 1, got 0"),
    "a seed as a key": (lambda: GOALS.train(0, 3), "tasks: key: expected one key"),
    "a range that is none": (lambda: tasks.uniform(ROBOT, goal=1.0), r"goal: expected a range \(lowest, highest\), got 1.0"),
    "several sinusoids": (lambda: tasks.sinusoid_batch(KEY, WAVES, 5), "map over several tasks with torch.func.vmap"),
    "no sinusoid": (lambda: tasks.sinusoid_batch(KEY, "sin", 5), "sinusoid_batch: task: expected a SinusoidTask, got a str"),
    "no points": (lambda: tasks.sinusoid_batch(KEY, tree.index(WAVES, 0), 0), "sinusoid_batch: num: expected"),
    "no loss": (lambda: adapt(loss=3), "adapt: loss: expected a function, got an int"),
    "a loss with metrics": (
        lambda: adapt(loss=lambda p, d: (loss(p, d), {})),
        r"adapt: loss: expected a function that returns a tensor \[\], got",
    ),
    "losses": (lambda: adapt(loss=lambda p, d: p - d), r"returns a tensor \[\], got float32 \[2\]; take the mean"),
    "half a step": (lambda: adapt(num_steps=1.5), "adapt: num_steps: expected an integer of at least 0, got 1.5"),
    "data without rows": (lambda: adapt(num_steps=None, data=torch.zeros(())), "adapt: data: expected leaves .* give num_steps"),
    "a size that is no tensor": (lambda: adapt(meta=START.replace(step_size=0.1)), "adapt: step_size: expected a tensor, got a float"),
    "other tasks in the query": (
        lambda: meta.maml_loss(START, torch.zeros(3, 2), torch.zeros(2, 2), loss=loss, num_steps=1),
        r"maml_loss: support, query: expected leaves \[N, ...\] of the same N tasks, got \[3, 2\], \[2, 2\]",
    ),
    "advantages [T, 1]": (lambda: meta.dice_loss(torch.zeros(3), torch.zeros(3, 1), FLAGS), "dice_loss: advantage: expected"),
    "ends that are numbers": (
        lambda: meta.surrogate_loss(torch.zeros(3), torch.zeros(3), torch.zeros(3)),
        "surrogate_loss: done: expected",
    ),
    "an integer": (lambda: meta.magic_box(torch.tensor(3)), "magic_box: x: expected a floating-point tensor"),
    "tasks of another environment": (
        lambda: meta.rl2.make(ROBOT, tasks=RODS),
        "tasks: expected those of PointRobot-misc, with .* Pendulum-v1",
    ),
    "trials of them": (lambda: meta.trials(RODS, 2)(ROBOT), "tasks: expected those of PointRobot-misc"),
    "MAML in them": (lambda: meta.maml.make(ROBOT, tasks=RODS), "tasks: expected those of PointRobot-misc"),
    "levels that are no tasks": (lambda: meta.plr.make(envs.maze(), tasks=3), "tasks: expected funrl.envs.tasks.Tasks, got an int"),
    "a mixture of a number": (lambda: meta.multi_task.make(ROBOT, tasks=3), "task_mixture: env_params: expected a tensor, got an int"),
    "an agent without its dimension": (
        lambda: meta.evaluate_adaptation(lambda p, k, e: torch.zeros(3), torch.tensor(1.0), KEY, torch.zeros(3)),
        r"evaluate_adaptation: params: expected leaves \[R, ...\] .* got \[\[\]\]; tree.unsqueeze\(x, 0\) adds it",
    ),
    "a single return": (
        lambda: meta.evaluate_adaptation(lambda p, k, e: p * e, torch.ones(2), KEY, torch.zeros(3)),
        r"play's result: expected the shape \[2, 3, S\].*, got \[2, 3\]",
    ),
    "returns of PPO": (
        lambda: meta.maml.returns(funrl.algos.ppo.make(ROBOT), num_steps=2),
        "maml.returns: algo: expected one of maml.make",
    ),
    "scores of one level": (lambda: meta.level_score(torch.zeros(3)), r"level_score: advantage: expected the shape \[T, B\]"),
    "three probabilities of four": (
        lambda: meta.sample_levels(KEY, LEVELS, torch.ones(3), 2),
        r"sample_levels: probability: expected the shape \[4\]",
    ),
    "one score of two": (
        lambda: meta.update_levels(LEVELS, torch.tensor([0, 1]), torch.ones(1)),
        r"update_levels: score: expected the shape \[2\]",
    ),
    "two scores of one": (
        lambda: meta.insert_levels(LEVELS, tree.unsqueeze(ROBOT.default_params, 0), torch.ones(2)),
        r"insert_levels: levels: expected leaves \[B, ...\] of as many levels as score \[2\]",
    ),
    "a level that is none": (lambda: meta.start_levels(3, 4), "start_levels: level: expected at least one floating-point tensor, got none"),
    "integers": (
        lambda: optim.project_conflicts(KEY, torch.ones(2, 3, dtype=torch.int64)),
        "project_conflicts: gradients: expected a floating",
    ),
    "goals of another size": (
        lambda: meta.feudal.make(PENDULUM, goals=torch.zeros(4, 2)),
        r"feudal: goals: expected the shape \[G, 3\], got \[4, 2\]; a goal is like what achieved",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_says_what_is_wrong(case):
    call, message = CASES[case]
    with pytest.raises((TypeError, ValueError), match=message):
        call()
