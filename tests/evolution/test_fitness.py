"""Fitness by episodes and by training runs, each compared with a loop over candidates."""

import pytest
import torch

import funrl
from funrl import evolution, nn, policies, random, tree
from tests.support import same

CARTPOLE = funrl.envs.make("CartPole-v1")
NET = nn.mlp((), 2)
ACT = policies.q_value(NET).act


def candidates(n=3):
    return torch.func.vmap(NET.init, (0, None))(random.split(random.key(0), n), torch.zeros(4))


def test_episodes_agree_with_evaluate():
    fitness = evolution.episode_fitness(CARTPOLE, ACT, num_episodes=2, max_steps=40)
    found = fitness(random.key(1), candidates())
    keys = random.split(random.key(1), 3).unbind(0)
    expected = [
        funrl.evaluate(tree.index(candidates(), i), key, CARTPOLE.default_params, env=CARTPOLE, act=ACT, num_episodes=2, max_steps=40)
        for i, key in enumerate(keys)
    ]
    same(found, torch.stack([x.episode_return.mean() for x in expected]))


def test_the_same_episodes_for_all():
    fitness = evolution.episode_fitness(CARTPOLE, ACT, max_steps=40, same_episodes=True)
    twins = tree.map(lambda x: x[:1].expand(4, *x.shape[1:]), candidates())
    found = fitness(random.key(1), twins)
    same(found, found[:1].expand(4), rtol=0, atol=0)
    others = evolution.episode_fitness(CARTPOLE, ACT, max_steps=40)(random.key(1), twins)
    assert len(set(others.tolist())) > 1


def test_descriptors_and_transitions_are_of_the_first_episode():
    def describe(transitions, active):
        return torch.stack([active.sum().float(), torch.where(active, transitions.observation[:, 0], 0.0).sum()])

    options = dict(num_episodes=2, max_steps=30)
    fitness = evolution.episode_fitness(CARTPOLE, ACT, describe=describe, with_transitions=True, **options)
    values, descriptors, transitions = fitness(random.key(1), candidates())
    assert descriptors.shape == (3, 2) and transitions.observation.shape == (180, 4)
    same(values, descriptors[:, 0])  # the reward of a step is 1
    done = transitions.done.reshape(6, 30)
    lengths = [x.nonzero()[0].item() + 1 if x.any() else 30 for x in done]
    assert min(lengths) < 30, "an episode ends"
    same(values, torch.tensor(lengths).reshape(3, 2).float().mean(1))
    same(evolution.episode_fitness(CARTPOLE, ACT, describe=describe, **options)(random.key(1), candidates()), (values, descriptors))


def test_training_runs_agree_with_a_loop():
    algo = funrl.algos.a2c.make(CARTPOLE, num_envs=2, num_steps=24, num_cells=(8,))

    def prepare(candidate, state):
        return tree.update(state, ("learner", "hparams", "learning_rate"), candidate.exp())

    rates = torch.tensor([-6.0, -3.0])
    fitness = evolution.training_fitness(lambda rate: algo, num_updates=3, num_seeds=2, num_last=2, prepare=prepare)
    found = funrl.compile(fitness, backend="aot_eager")(random.key(0), rates)
    expected = []
    for rate, keys in zip(rates.unbind(0), random.split(random.key(0), (2, 2)).unbind(0), strict=True):
        for key in keys.unbind(0):
            init_key, step_key = random.split(key).unbind(0)
            state, returns = prepare(rate, algo.init(init_key)), []
            for k in random.split(step_key, 3).unbind(0):
                state, metrics = algo.step(k, state)
                returns.append(metrics["episode_return"])
            expected.append(torch.stack(returns[1:]).nanmean())
    same(found, torch.stack(expected).reshape(2, 2).nanmean(-1), rtol=1e-3, atol=1e-3)


def test_a_candidate_may_be_part_of_a_loss():
    def make(scale):
        def loss(params, rows, hparams, *, default, apply):
            value, metrics = default(params, rows, hparams)
            return scale * value, metrics

        return funrl.algos.ppo.make(CARTPOLE, num_envs=2, num_steps=24, num_cells=(8,), num_minibatches=1, loss=loss)

    fitness = evolution.training_fitness(make, num_updates=2, metric="gradient_norm", same_seeds=True)
    found = fitness(random.key(0), torch.tensor([1.0, 1.0, 1e-3]))
    same(found[0], found[1])
    assert found[2] < 0.01 * found[0]


@pytest.mark.parametrize(
    "make, text",
    [
        (
            lambda: evolution.episode_fitness(CARTPOLE, ACT, num_episodes=0),
            "episode_fitness: num_episodes: expected an integer of at least 1, got 0",
        ),
        (lambda: evolution.episode_fitness(CARTPOLE, ACT, max_steps=0), "episode_fitness: max_steps: expected an integer of at least 1"),
        (lambda: evolution.episode_fitness(funrl.envs.vectorize(CARTPOLE, 2), ACT), "expected a single pure environment.* has 2 copies"),
        (lambda: evolution.episode_fitness(CARTPOLE, ACT, with_transitions=True), "with_transitions: expected describe with it"),
        (lambda: evolution.training_fitness(len, num_updates=0), "training_fitness: num_updates: expected an integer of at least 1, got 0"),
        (lambda: evolution.training_fitness(len, num_updates=2, num_last=3), "training_fitness: num_last: expected at most num_updates"),
        (lambda: unknown_metric(), "training_fitness: metric: a2c has no 'return'; its metrics are steps"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def unknown_metric():
    algo = funrl.algos.a2c.make(CARTPOLE, num_envs=1, num_steps=2)
    evolution.training_fitness(lambda x: algo, num_updates=1, metric="return")(random.key(0), torch.zeros(1))
