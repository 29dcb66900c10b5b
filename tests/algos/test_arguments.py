"""The parts of an algorithm that a user replaces: optimizers, networks, buffers, losses, spaces and exploration."""

import functools

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import algos, optim, random, schedules, tree
from tests.support import same

ON_POLICY = dict(num_envs=4, num_steps=8, num_cells=(8,))
PPO = dict(ON_POLICY, num_epochs=2, num_minibatches=2)
OFF_POLICY = dict(num_envs=2, num_steps=4, num_updates=2, batch_size=8, num_cells=(8,), buffer_size=64, learning_starts=0)
ALGORITHMS = {
    "ppo": ("CartPole-v1", PPO),
    "a2c": ("CartPole-v1", ON_POLICY),
    "reinforce": ("CartPole-v1", ON_POLICY),
    "impala": ("CartPole-v1", dict(ON_POLICY, num_minibatches=2)),
    "pqn": ("CartPole-v1", PPO),
    "dqn": ("CartPole-v1", OFF_POLICY),
    "ddpg": ("Pendulum-v1", OFF_POLICY),
    "td3": ("Pendulum-v1", OFF_POLICY),
    "sac": ("Pendulum-v1", OFF_POLICY),
    "sac_discrete": ("CartPole-v1", OFF_POLICY),
    "redq": ("Pendulum-v1", dict(OFF_POLICY, num_critics=3, policy_delay=2)),
    "crossq": ("Pendulum-v1", dict(OFF_POLICY, policy_delay=2)),
}


def make(name, **options):
    env, defaults = ALGORITHMS[name]
    return algos.make(name, funrl.envs.make(env), **{**defaults, **options})


def without(options, *names):
    return {name: value for name, value in options.items() if name not in names}


def learns(algo, *, compiled=True, updates=2):
    """Check that updates are alike eagerly, of two agents under vmap and, with ``compiled``, by XLA; return the last metrics."""
    keys = random.split(random.key(0), 2)
    singles = [algo.init(key) for key in keys]
    states = vmap(algo.init)(keys)
    same(states, tree.stack(singles))
    before = tree.ravel(singles[0].learner.params.network)[0]
    step = funrl.compile(vmap(algo.step), backend="xla") if compiled else vmap(algo.step)
    for i in range(1, updates + 1):
        keys = random.split(random.key(i), 2)
        results = [algo.step(key, state) for key, state in zip(keys, singles, strict=True)]
        singles = [state for state, _ in results]
        states, metrics = step(keys, states)
        same(
            (states.learner.params, metrics),
            tree.stack([(state.learner.params, metrics) for state, metrics in results]),
            rtol=1e-3,
            atol=1e-4,
        )
    after = tree.ravel(singles[0].learner.params.network)[0]
    assert after.isfinite().all() and not torch.equal(before, after)
    return results[0][1]


def annealed_adamw(steps=100):
    return optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(schedules.cosine(1e-2, 0.0, steps)))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_any_optimizer(name):
    metrics = learns(make(name, optimizer=annealed_adamw()), compiled=False)
    assert "learning_rate" not in metrics
    # What does nothing learns nothing, in all parts.
    algo = make(name, optimizer=optim.sgd(0.0))
    state = algo.init(random.key(0))
    after, _ = algo.step(random.key(1), state)
    if name != "crossq":  # whose running statistics move
        same(after.learner.params.network, state.learner.params.network, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_the_default_optimizer_can_be_given(name):
    algo = make(name, learning_rate=0.01)
    given = make(name, optimizer=optim.flatten(optim.chain(optim.clip_by_global_norm(0.5), optim.adam(0.01, eps=1e-5))))
    results = [algo.step(random.key(1), algo.init(random.key(0)))[0] for algo in (algo, given)]
    same(results[0].learner.params, results[1].learner.params, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("ppo", dict(optimizer=optim.sgd(0.1), learning_rate=0.1), ValueError, "optimizer, learning_rate: expected one of them, got both"),
        ("sac", dict(optimizer=optim.sgd(0.1), anneal_steps=1e6), ValueError, "optimizer, anneal_steps: expected one of them, got both"),
        ("a2c", dict(optimizer=optim.adam), TypeError, "optimizer: expected a funrl.optim.Optimizer, got the function adam; call the"),
        (
            "dqn",
            dict(optim=optim.sgd(0.1)),
            ValueError,
            "unknown option 'optim': the argument is called optimizer; help.funrl.algos.dqn.make",
        ),
    ],
)
def test_errors(name, options, error, message):
    with pytest.raises(error, match=message):
        make(name, **options)


def test_a_run_records_what_was_given(tmp_path):
    algo = make("ppo", optimizer=annealed_adamw())
    play = functools.partial(funrl.train, key=random.key(0), out=tmp_path, backend="eager", evaluate_episodes=0, progress=False)
    play(algo, total_steps=64)
    assert list(funrl.record.read_config(tmp_path)["given"]) == ["optimizer"]
    with pytest.raises(funrl.record.RunError, match="made with optimizer= of the user's own, .*load_run.*algo=algo"):
        funrl.training.load_run(tmp_path)
    assert funrl.training.load_run(tmp_path, algo=make("ppo", optimizer=annealed_adamw())).updates == 2
    with pytest.raises(funrl.record.RunError, match="the run has optimizer = .* and the algorithm given has 'its own'"):
        funrl.training.load_run(tmp_path, algo=make("ppo"))
    play(make("ppo", optimizer=annealed_adamw()), total_steps=96, resume=True)
    with pytest.raises(funrl.record.RunError, match="cannot resume: the run there has optimizer = .*not 'its own'"):
        play(make("ppo"), total_steps=128, resume=True)
