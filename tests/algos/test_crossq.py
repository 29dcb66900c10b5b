import torch

import funrl
from funrl import random, tree
from tests.algos import gradient_steps

SMALL = dict(num_envs=2, num_steps=4, num_updates=2, policy_delay=2, batch_size=8, num_cells=(8,), learning_starts=0)


def run(**options):
    algo = funrl.algos.crossq.make(funrl.envs.make("Pendulum-v1"), **{**SMALL, **options})
    state = algo.init(random.key(0))
    return state, algo.step(random.key(1), state)[0]


def test_statistics_are_those_of_both_halves_of_the_batch(monkeypatch):
    steps = gradient_steps.record(monkeypatch)
    for momentum in (1.0, 0.1, 0.0):
        steps.clear()
        start, end = run(momentum=momentum, num_updates=4)
        moments = start.target[0]
        mean, var = moments.mean[:, :3], moments.var[:, :3]
        for step in steps:
            if step.kind == "learn":
                both = torch.cat([step.batch.observation, step.batch.next_observation])
                mean = momentum * both.mean(0) + (1 - momentum) * mean
                var = momentum * both.var(0) + (1 - momentum) * var  # unbiased, as torch.nn.BatchNorm1d keeps it
            torch.testing.assert_close(step.after.target[0].mean[:, :3], mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(step.after.target[0].var[:, :3], var, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(end.target[0].mean[:, :3], mean, rtol=1e-4, atol=1e-5)
        moved = [not torch.equal(x, y) for x, y in zip(tree.leaves(start.target), tree.leaves(end.target), strict=True) if x.numel() > 2]
        assert all(moved) == any(moved) == (momentum > 0)
