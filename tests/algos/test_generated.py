"""Programs that XLA generates, which the other tests replace by ``aot_eager``: whole updates of vmapped agents, bits, and tanh."""

import math

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import random, tree
from tests.support import same, scratch, traced

UPDATES = 3
PPO = dict(num_envs=4, num_steps=16, num_cells=(16,), num_minibatches=2, num_epochs=2)
OFF_POLICY = dict(num_envs=2, num_steps=8, num_updates=4, batch_size=16, num_cells=(16,), learning_starts=0)


# Where an action falls on the edge between two, the last bit of a logit decides: other seeds may need another look.
@pytest.mark.parametrize(
    ("algorithm", "env", "options", "agents", "seed"),
    [
        ("ppo", "CartPole-v1", PPO, 8, 0),
        ("sac", "Pendulum-v1", OFF_POLICY, 2, 0),
        pytest.param("ppo", "Pendulum-v1", PPO, 8, 1, marks=pytest.mark.slow),
    ],
)
def test_agents_in_one_generated_program_are_so_many_single_runs(algorithm, env, options, agents, seed):
    algo = funrl.algos.make(algorithm, funrl.envs.make(env), **options)
    step = funrl.compile(vmap(algo.step), donate=1, backend="xla")
    start, *keys = random.split(random.key(seed), (1 + UPDATES, agents)).unbind(0)
    singles = [algo.init(k) for k in start.unbind(0)]
    states = vmap(algo.init)(start)
    graphs = []
    for key in keys:
        results = [algo.step(k, state) for k, state in zip(key.unbind(0), singles, strict=True)]
        singles = [state for state, _ in results]
        states, metrics = step(key, states)
        graphs.append(traced())
        expected, expected_metrics = tree.stack(results)
        for field in ("params", "optimizer", "episodes", "num_steps"):
            same(getattr(states.learner, field), getattr(expected.learner, field), rtol=1e-4, atol=1e-5)
        same(metrics, expected_metrics, rtol=1e-4, atol=1e-5)
    assert graphs == [graphs[0]] * UPDATES, "a later call compiled again"
    assert all((states.learner.num_steps == UPDATES * algo.steps_per_update).tolist())
    # No two agents are one: they draw, and learn, by themselves.
    weights = vmap(lambda network: tree.ravel(network)[0])(states.learner.params.network)
    assert len(weights.unique(dim=0)) == agents


def test_a_large_buffer_is_not_copied():
    algo = funrl.algos.dqn.make(funrl.envs.make("CartPole-v1"), buffer_size=200_000, **OFF_POLICY)
    step = funrl.compile(algo.step, donate=1, backend="xla")
    state, _ = step(random.key(1), algo.init(random.key(0)))

    def places(state):
        return [x.data_ptr() for x in tree.leaves(state.learner.buffer) if x.nbytes > 1 << 16]

    before = places(state)
    for i in range(2, 4):
        state, _ = step(random.key(i), state)
        assert places(state) == before and len(before) > 2
    assert scratch(step) < 200_000  # not even the flags


def test_generated_bits_are_those_drawn_eagerly():
    # Keys made and used in one kernel: where its integers did not wrap, every word was another.
    def draw(key):
        keys = random.split(key, 2)
        return keys, vmap(lambda k: random.bits(k, (4,)))(keys), vmap(random.permutation, (0, None))(keys, 32)

    for x, y in zip(draw(random.key(3)), funrl.compile(draw, backend="xla")(random.key(3)), strict=True):
        assert torch.equal(x, y)


def test_generated_tanh():
    small = torch.logspace(-30, 0, 2001, dtype=torch.float32)
    x = torch.cat([torch.linspace(-12, 12, 20001), small, -small, torch.tensor([0.0, -0.0, math.inf, -math.inf])])
    tanh = funrl.compile(torch.tanh, backend="xla")
    y, exact = tanh(x), x.double().tanh()
    assert y.dtype == torch.float32 and y.shape == x.shape
    assert (y.abs() <= 1).all()
    assert torch.equal(y[x == 0], torch.zeros(int((x == 0).sum())))
    error = ((y.double() - exact) / exact).abs()[x != 0]
    assert error.max() < 5e-7, f"relative error {error.max():.2g} at {x[x != 0][error.argmax()]:.9g}"
    nan = torch.where(torch.arange(len(x)) % 3 == 0, math.nan, x)
    assert torch.equal(tanh(nan).isnan(), nan.isnan())
