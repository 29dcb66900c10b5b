"""Meta-gradients: against finite differences through two updates in float64."""

import math

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import meta, optim, random, tree
from tests.support import same

NAMES = ("gamma", "lambda_", "entropy_weight", "learning_rate")
OPTIONS = dict(num_envs=3, num_steps=5, num_cells=(4,), gamma=0.9, lambda_=0.8, entropy_weight=0.1, learning_rate=0.02)
STARTS = {"gamma": 0.9, "lambda_": 0.8, "entropy_weight": 0.1, "learning_rate": 0.02}


def made(**options):
    env = funrl.envs.make("Pendulum-v1")
    env = env._replace(default_params=tree.to(env.default_params, torch.float64))
    return meta.meta_a2c.make(env, learned=",".join(NAMES), meta_learning_rate=0.0, **{**OPTIONS, **options})


def moved(name, size):
    """A hyperparameter a little further along its logit or logarithm."""
    x = STARTS[name]
    return 1 / (1 + math.exp(-(math.log(x / (1 - x)) + size))) if name in ("gamma", "lambda_") else x * math.exp(size)


@pytest.mark.parametrize("before", [0, 2])
def test_the_gradient_agrees_with_differences(before):
    """Of the loss J' after an update, by repeating that update with other hyperparameters: the first one, and one with a filled Adam."""
    algo = made()
    state = algo.init(random.key(0))
    for i in range(before):
        state, _ = algo.step(random.key(10 + i), state)
    _, first = algo.collect(random.key(1), state)
    learner, _ = algo.learn(random.key(2), state.learner, first)
    _, second = algo.collect(random.key(3), state.replace(learner=learner))

    def updated(**changes):
        old = state.learner.replace(hparams=state.learner.hparams.replace(**changes))
        return algo.learn(random.key(2), old, first)[0]

    between = updated()
    _, metrics = algo.learn(random.key(4), between, second)
    nets = funrl.algos.on_policy.networks(algo.config, algo.env)
    value, next_value = nets.values(between.params.network, second)
    ends = (second.terminated, second.truncated)
    advantage, _ = funrl.returns.gae(second.reward, value, next_value, *ends, gamma=0.99, lambda_=1.0)  # it counts as a constant

    def judged(learner):
        distribution, _ = nets.both(learner.params.network, nets.inputs(second))
        return -(advantage.flatten() * distribution.log_prob(second.extras["unclipped_action"].flatten(0, 1))).mean()

    torch.testing.assert_close(metrics["meta_loss"], judged(between))
    for name in NAMES:
        values = [judged(updated(**{name: torch.tensor(moved(name, size), dtype=torch.float64)})) for size in (1e-4, -1e-4)]
        expected = (values[0] - values[1]) / 2e-4
        torch.testing.assert_close(metrics[f"{name.rstrip('_')}_gradient"], expected, rtol=1e-5, atol=1e-8)
        assert expected.abs() > 1e-7
    # Vmapped and compiled.
    both = tree.stack([between, between])
    keys, samples = torch.stack([random.key(4)] * 2), tree.stack([second, second])
    for f in (vmap(algo.learn), funrl.compile(vmap(algo.learn), backend="xla")) if before else (vmap(algo.learn),):
        _, found = f(keys, both, samples)
        for name in NAMES:
            key = f"{name.rstrip('_')}_gradient"
            torch.testing.assert_close(found[key], metrics[key].expand(2), rtol=1e-7, atol=1e-12)


def test_it_moves_against_the_gradient_and_the_first_update_moves_nothing():
    algo = meta.meta_a2c.make(funrl.envs.make("Pendulum-v1"), learned=",".join(NAMES), meta_learning_rate=0.01, **OPTIONS)
    state = algo.init(random.key(0))
    state, metrics = algo.step(random.key(1), state)
    for name, value in STARTS.items():
        assert getattr(state.learner.hparams, name) == torch.tensor(value) and metrics[f"{name.rstrip('_')}_gradient"] == 0
    state, metrics = algo.step(random.key(2), state)
    for name in NAMES:
        sign = -metrics[f"{name.rstrip('_')}_gradient"].sign().item()
        expected = torch.tensor(moved(name, 0.01 * sign))  # the first step of Adam
        torch.testing.assert_close(getattr(state.learner.hparams, name), expected, rtol=1e-4, atol=1e-6)
        assert metrics[name] == getattr(state.learner.hparams, name)


def test_without_a_meta_learning_rate_it_is_a2c():
    options = {**OPTIONS, "num_steps": 6}
    env = funrl.envs.make("CartPole-v1")
    one, other = meta.meta_a2c.make(env, meta_learning_rate=0.0, **options), funrl.algos.a2c.make(env, **options)
    states = [algo.init(random.key(0)) for algo in (one, other)]
    for i in range(3):
        states = [algo.step(random.key(i + 1), state)[0] for algo, state in zip((one, other), states, strict=True)]
    same(*(state.learner.params for state in states), rtol=1e-5, atol=1e-6)
    same(*(state.actor for state in states))


def test_an_optimizer_of_ones_own():
    env, adam = funrl.envs.make("CartPole-v1"), optim.flatten(optim.chain(optim.clip_by_global_norm(0.5), optim.adam(0.02, eps=1e-5)))
    options = {name: value for name, value in OPTIONS.items() if name != "learning_rate"}
    algos = meta.meta_a2c.make(env, **OPTIONS), meta.meta_a2c.make(env, optimizer=adam, **options)
    states = [algo.init(random.key(0)) for algo in algos]
    for i in range(2):
        states = [algo.step(random.key(i + 1), state)[0] for algo, state in zip(algos, states, strict=True)]
    same(*(state.learner.params for state in states), rtol=0, atol=0)
    assert states[0].learner.hparams.gamma == states[1].learner.hparams.gamma != 0.9
    with pytest.raises(ValueError, match="learned, optimizer: expected no 'learning_rate' in learned with an optimizer"):
        meta.meta_a2c.make(env, learned="learning_rate", optimizer=adam)


def test_errors():
    env = funrl.envs.make("CartPole-v1")
    for options, message in (
        (
            dict(learned="gama"),
            "learned: expected some of gamma, lambda_, entropy_weight, learning_rate, each once and with commas, got 'gama'",
        ),
        (dict(learned=""), "learned: expected some of"),
        (dict(learned="gamma,gamma"), "learned: expected some of"),
        (dict(learned="entropy_weight", entropy_weight=0.0), "entropy_weight: expected a number above 0"),
        (dict(reference_gamma=1.1), r"reference_gamma: expected a number in \[0, 1\]"),
        (dict(meta_learning_rate=-1.0), "meta_learning_rate: expected a number of at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            meta.meta_a2c.make(env, **options)
