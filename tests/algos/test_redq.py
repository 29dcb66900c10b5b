import torch

import funrl
from funrl import random, tree
from funrl.envs import probes
from tests.algos import gradient_steps


def targets(monkeypatch, subset):
    """The targets of 60 gradient steps where the three target critics say 0, 10 and 20, whatever they see."""
    steps = gradient_steps.record(monkeypatch)
    env = probes.truncation("continuous")
    env = env._replace(default_params=env.default_params.replace(reward=torch.tensor(0.0)))
    options = dict(num_envs=2, num_steps=4, num_updates=60, policy_delay=20, batch_size=4, num_cells=(8,), learning_starts=0)
    algo = funrl.algos.redq.make(env, num_critics=3, subset=subset, gamma=1.0, tau=0.0, initial_alpha=1e-9, learning_rate=0.0, **options)
    state = algo.init(random.key(0))
    critics = tree.map(torch.zeros_like, state.learner.target)
    critics[-1]["bias"].copy_(torch.tensor([[0.0], [10.0], [20.0]]))
    algo.step(random.key(1), tree.update(state, ("learner", "target"), critics))
    seen = torch.stack([step.metrics["target_mean"] for step in steps if step.kind == "learn"])
    return (seen / 10).round().long().bincount(minlength=3) / 60


def test_a_target_is_the_least_of_m_critics(monkeypatch):
    for subset, expected in ((1, [1 / 3, 1 / 3, 1 / 3]), (2, [2 / 3, 1 / 3, 0]), (3, [1, 0, 0])):
        shares = targets(monkeypatch, subset)
        assert (shares - torch.tensor(expected)).abs().max() < 4 * (2 / 9 / 60) ** 0.5 and shares.sum() == 1
        assert all((shares > 0) == (torch.tensor(expected) > 0))
