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
        moments = start.learner.target[0]
        mean, var = moments.mean[:, :3], moments.var[:, :3]
        for step in steps:
            if step.kind == "learn":
                both = torch.cat([step.batch.observation, step.batch.next_observation])
                mean = momentum * both.mean(0) + (1 - momentum) * mean
                var = momentum * both.var(0) + (1 - momentum) * var  # unbiased, as torch.nn.BatchNorm1d keeps it
            torch.testing.assert_close(step.after.target[0].mean[:, :3], mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(step.after.target[0].var[:, :3], var, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(end.learner.target[0].mean[:, :3], mean, rtol=1e-4, atol=1e-5)
        moved = [
            not torch.equal(x, y)
            for x, y in zip(tree.leaves(start.learner.target), tree.leaves(end.learner.target), strict=True)
            if x.numel() > 2
        ]
        assert all(moved) == any(moved) == (momentum > 0)


def test_the_actor_is_normalised_too(monkeypatch):
    """By the batch in its own loss, whose moments go into those by which it acts and chooses next actions; as its authors do."""
    steps = gradient_steps.record(monkeypatch)
    start, end = run(momentum=0.5, num_updates=4)
    moments = start.learner.params.network.actor["statistics"]
    assert [x.mean.shape for x in moments] == [(3,), (8,)] and len(end.learner.params.network.actor["layers"]) == 2
    mean, var = moments[0].mean, moments[0].var
    for step in steps:
        if step.kind == "delayed":
            x = step.batch.observation
            mean, var = 0.5 * x.mean(0) + 0.5 * mean, 0.5 * x.var(0) + 0.5 * var
        torch.testing.assert_close(step.after.network.actor["statistics"][0].mean, mean)
        torch.testing.assert_close(step.after.network.actor["statistics"][0].var, var)
    torch.testing.assert_close(end.learner.params.network.actor["statistics"][0].mean, mean)


def test_where_the_actor_goes_by_the_batch_and_where_by_what_it_remembers():
    actor = funrl.algos._normalized.normalized_actor((8,), funrl.spaces.Box(-2.0, 2.0, (1,)), "relu", 0.1)
    params = actor.init(random.key(0), torch.zeros(3))
    x = random.normal(random.key(1), (64, 3))
    trained, statistics = actor.train(params, x)
    torch.testing.assert_close(actor.train(params, 5 * x + 3)[0].mode(), trained.mode(), rtol=1e-3, atol=1e-4)
    same = actor.apply({**params, "statistics": statistics}, x)
    torch.testing.assert_close(same.mode()[5], actor.apply({**params, "statistics": statistics}, x[5]).mode())
    assert (actor.apply(params, 5 * x + 3).mode() - trained.mode()).abs().max() > 1e-3
