"""One learner in several processes, beside one process with all environments."""

import functools
import threading

import pytest
import torch

import funrl
from benchmarks import distributed as distributed_benchmark
from funrl import algos, distributed, envs, losses, optim, random, record, runs, stats, training, tree
from funrl.env import on_host
from tests import registry
from tests.distributed import ranks
from tests.support import same

NUM_ENVS = 4
OPTIMIZER = optim.chain(optim.clip_by_global_norm(0.5), optim.adam(1e-2))
SMALL = dict(num_steps=8, num_cells=(8,))
KINDS = {
    "ppo": dict(num_epochs=2, num_minibatches=1, normalize_observation=True, normalize_reward=True, target_kl=0.01),
    "ppo, recurrent": dict(num_epochs=1, num_minibatches=1, recurrent="gru", recurrent_size=4),
    "a2c": {},
    "reinforce": {},
    "reinforce, none": dict(baseline="none"),
    "impala": dict(num_minibatches=1),
    "multi_task": dict(
        num_epochs=2,
        num_minibatches=1,
        num_tasks=3,
        normalize_per_task=True,
        gradient_surgery=True,
        popart_rate=0.1,
        sampling="difficulty",
        low_return=8.0,
        high_return=100.0,
    ),
}


# Exchanges of an update: running statistics, advantages of all minibatches, gradient steps, metrics; in REINFORCE also weights.
EXCHANGES = {
    "ppo": 2 + 1 + 2 + 1,
    "ppo, recurrent": 3,
    "a2c": 2,
    "reinforce": 3,
    "reinforce, none": 3,
    "impala": 2,
    "multi_task": 9,
}


def wide(env):
    """Return an environment whose numbers are float64."""
    return env._replace(default_params=tree.map(lambda x: x.double() if x.is_floating_point() else x, env.default_params))


def make(kind, num_envs, env="CartPole-v1", optimizer=None, **options):
    options = {**SMALL, **KINDS.get(kind, {}), **options}
    optimizer = distributed.averaged(OPTIMIZER) if optimizer is None else optimizer
    return algos.make(kind.split(",")[0], wide(envs.make(env)), num_envs=num_envs, optimizer=optimizer, **options)


class Counted(distributed.Group):
    """A group that counts its exchanges."""

    count = 0

    def mean(self, x):
        Counted.count += 1
        return super().mean(x)


def learn(group, kind, num_updates=10, backend="eager", **options):
    """Return the parameters, the other statistics and the metrics after some updates."""
    group = Counted(*group)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        algo = distributed.data_parallel(functools.partial(make, kind, **options), NUM_ENVS, group)
        state, key = algo.init(random.key(0)), random.key(1)
        step = funrl.compile(algo.step, backend=backend)
        for i in range(num_updates):
            state, metrics = step(random.fold_in(key, i), state)
    finally:
        torch.set_default_dtype(before)
    return learned(state.learner), {**metrics, "exchanges": torch.tensor(Counted.count)}


def learned(learner):
    """Return whatever all processes have in common."""
    return tree.leaves((learner.params, learner.optimizer, getattr(learner.normalizers, "moments", ()), learner.env_params))


@pytest.mark.parametrize(
    "kind",
    [
        *("ppo", "a2c", "multi_task", "reinforce, none"),
        *(pytest.param(x, marks=pytest.mark.nightly) for x in ("ppo, recurrent", "reinforce", "impala")),
    ],
)
def test_two_processes_learn_as_one_with_all_environments(kind):
    """The one is the algorithm itself, which knows of no processes."""
    own = {"explained_variance"}  # the mean over the processes

    def alone():
        algo = make(kind, NUM_ENVS, optimizer=OPTIMIZER)
        state, key = algo.init(random.key(0)), random.key(1)
        for i in range(10):
            state, metrics = algo.step(random.fold_in(key, i), state)
        return learned(state.learner), metrics

    torch.set_default_dtype(torch.float64)
    try:
        expected, metrics = alone()
    finally:
        torch.set_default_dtype(torch.float32)
    assert metrics["episodes"] >= 0 and metrics["episode_return"] > 0
    first, second = ranks.run(lambda group: learn(group, kind), 2)
    for found in (first, second):
        assert int(found[1].pop("exchanges")) == 10 * EXCHANGES[kind]
        same(found[0], expected, rtol=0, atol=1e-9)
        same(*({name: x for name, x in m.items() if name not in own} for m in (found[1], metrics)), rtol=0, atol=1e-9)
    same(first, second, rtol=0, atol=0)


@pytest.mark.slow
def test_compiled_with_minibatches_all_processes_have_the_same_parameters():
    """The exchange is a call inside the program."""
    first, second = ranks.run(lambda group: learn(group, "ppo", 3, "xla", num_minibatches=2), 2)
    same(first, second, rtol=0, atol=0)
    eager = ranks.run(lambda group: learn(group, "ppo", 3, num_minibatches=2), 2)[0]
    same(first[0], eager[0], rtol=1e-6, atol=1e-9)


def test_off_policy_each_process_has_its_own_experience():
    def f(group):
        options = dict(batch_size=8, num_updates=2, learning_starts=0, buffer_size=64)
        algo = distributed.data_parallel(functools.partial(make, "sac", env="Pendulum-v1", **options), NUM_ENVS, group)
        state = algo.init(random.key(0))
        for i in range(2):
            state, metrics = algo.step(random.fold_in(random.key(1), i), state)
        return tree.leaves(state.learner.params), tree.leaves(state.learner.buffer), metrics

    before = torch.get_default_dtype()
    first, second = ranks.run(f, 2)
    assert torch.get_default_dtype() == before
    same((first[0], first[2]), (second[0], second[2]), rtol=0, atol=0)
    assert int(first[2]["steps"]) == 2 * NUM_ENVS * SMALL["num_steps"]
    assert any(not torch.equal(x, y) for x, y in zip(first[1], second[1], strict=True))


def test_moments_and_advantages_are_of_all_parts():
    """The mean over parts is simulated: the vmapped dimension is the processes."""
    parts = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 100

    def f(group):
        from funrl import _across

        with _across.divided(2, group.rank, group.mean):
            x = parts[group.rank]
            return stats.update(stats.moments(x[0]), x), losses.normalize_advantage(x[:, 0]), _across.mean({"n": torch.tensor(group.rank)})

    expected = stats.update(stats.moments(parts[0, 0]), parts.reshape(-1, 3))
    found = ranks.run(f, 2)
    for moments, _, _ in found:
        same(moments, expected, rtol=1e-12, atol=1e-12)
    advantages = torch.stack([advantage for _, advantage, _ in found])
    same(advantages, losses.normalize_advantage(parts[..., 0]), rtol=1e-12, atol=1e-12)
    assert [int(each["n"]) for _, _, each in found] == [0, 1]


def test_means_of_each_type_and_size_are_the_same_bits_everywhere():
    """Tensors of one piece and of several go by sockets, and a large one by gloo."""
    kinds = [(torch.float64, 1), (torch.bfloat16, 5), (torch.float32, 100_000), (torch.float32, 300_000)]
    given = [[torch.rand(n, generator=torch.Generator().manual_seed(rank)).to(dtype) for dtype, n in kinds] for rank in range(3)]
    found = ranks.run(lambda group: [group.mean(x) for x in given[group.rank]] + [group.mean(torch.zeros(()))], 3)
    same(found[0], found[1], rtol=0, atol=0)
    same(found[0], found[2], rtol=0, atol=0)
    for *parts, mean in zip(*given, found[0], strict=False):
        same(mean.double(), torch.stack(parts).double().mean(0), rtol=0, atol=1e-2 if mean.dtype == torch.bfloat16 else 1e-6)


def test_one_process_is_the_algorithm_itself():
    algo = make("ppo", NUM_ENVS, optimizer=OPTIMIZER)
    parallel = distributed.data_parallel(functools.partial(make, "ppo"), NUM_ENVS, distributed.alone())
    key = random.key(0)
    same(parallel.init(key), algo.init(key), rtol=0, atol=0)
    same(parallel.collect(key, parallel.init(key)), algo.collect(key, algo.init(key)), rtol=0, atol=0)


def train(group, out, resume=False, num_updates=4):
    algo = distributed.data_parallel(functools.partial(make, "a2c"), NUM_ENVS, group)
    options = dict(evaluate_episodes=2, backend="eager", progress=False, group=group)
    result = training.train(algo, random.key(0), num_updates * algo.steps_per_update, out=out, resume=resume, **options)
    return tree.leaves(result.state.learner.params), result.metrics, result.evaluation.episode_return, result.steps


@pytest.mark.slow
def test_a_run_has_one_table_and_resumes(tmp_path):
    whole = ranks.run(lambda group: train(group, tmp_path / "whole"), 2)
    same(whole[0], whole[1], rtol=0, atol=0)
    assert whole[0][3] == 4 * NUM_ENVS * SMALL["num_steps"] and whole[0][2].shape == (2,)

    def halves(group):
        train(group, tmp_path / "run", num_updates=2)
        return train(group, tmp_path / "run", resume=True)

    same(ranks.run(halves, 2), whole, rtol=0, atol=0)
    table = record.read_metrics(tmp_path / "run" / "metrics.csv")
    assert table["update"].tolist() == [1, 2, 3, 4] and table["steps"].tolist() == [32, 64, 96, 128]
    read = runs.load_run(
        tmp_path / "run", algo=distributed.data_parallel(functools.partial(make, "a2c"), NUM_ENVS, distributed.Group(0, 2))
    )
    same(tree.leaves(read.state.learner.params), whole[0][0], rtol=0, atol=0)
    with pytest.raises(training.RunError, match="cannot resume: the run there has processes = 2, not 1"):
        train(distributed.alone(), tmp_path / "run", resume=True)


def registered(kind, num_envs):
    name, env, options = registry.ALGORITHMS[kind]
    return algos.make(name, env, **options)


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(num_envs=3), "2 processes do not divide 3 environments"),
        (dict(make=functools.partial(make, "a2c", optimizer=OPTIMIZER)), "expected a2c with an averaged optimizer"),
        (dict(make=lambda n: algos.a2c.make(envs.make("CartPole-v1"), num_envs=n)), "expected a2c with an averaged optimizer"),
        *(
            (dict(make=functools.partial(registered, kind)), "collects in a way of its own")
            for kind in registry.OWN_COLLECT
            if kind != "plr"
        ),
    ],
)
def test_wrong_arguments(given, message):
    with pytest.raises(ValueError, match=message):
        distributed.data_parallel(**{"make": functools.partial(make, "a2c"), "num_envs": 4, "group": distributed.Group(0, 2), **given})


def test_batch_statistics_are_refused():
    """Each process would have others; nothing is exchanged before."""
    algo = distributed.data_parallel(functools.partial(make, "crossq", env="Pendulum-v1", learning_starts=0), 4, distributed.Group(0, 2))
    with pytest.raises(ValueError, match=r"divided among 2 processes has other statistics in each; .*sac or redq"):
        algo.step(random.key(0), algo.init(random.key(1)))


def test_arguments_of_other_types():
    for options, message in (
        (dict(make=3), "make: expected a function, got an int"),
        (dict(make=lambda num_envs: None), "make: expected an Algorithm, got None"),
        (dict(group=2), "group: expected a Group, got an int; give that of distributed.join"),
    ):
        with pytest.raises(TypeError, match=message):
            distributed.data_parallel(**{"make": functools.partial(make, "a2c"), "num_envs": 4, "group": distributed.alone(), **options})
    with pytest.raises(TypeError, match="actors: group: expected a Group, got an int"):
        next(distributed.actors(2, None, None, (), frames_per_batch=1).gen)
    for f, args, message in ((None, (), "f: expected a function"), (len, (threading.Lock(),), "cannot be sent to a process")):
        with pytest.raises(TypeError, match=message):
            distributed.launch(f, 2, *args)


@pytest.mark.nightly
def test_learning_curves_of_five_seeds_are_alike():
    """PPO with minibatches, whose rows are not those of one process; the seeds are one program. Means of the returns of all updates."""
    one, two = (ranks.run(distributed_benchmark.curves, size, seconds=240.0)[0] for size in (1, 2))
    areas = torch.stack([torch.tensor(one).mean(0), torch.tensor(two).mean(0)])
    error = (areas.var(1) / areas.shape[1]).sum().sqrt()
    assert (areas[0].mean() - areas[1].mean()).abs() < 2 * error, areas
    assert (torch.tensor(one)[-1].mean() > 100) and (torch.tensor(two)[-1].mean() > 100)


def test_environments_on_the_host():
    """Copies on the host have keys of their own in each process."""

    def f(group):
        env = envs.make("gymnasium:CartPole-v1", num_envs=2)
        with env:
            make = functools.partial(algos.a2c.make, env, num_steps=4, num_cells=(8,), optimizer=distributed.averaged(OPTIMIZER))
            algo = distributed.data_parallel(lambda num_envs: make(num_envs=2), 4, group)
            state, _ = algo.step(random.key(1), algo.init(random.key(0)))
            assert on_host(algo.env)
            return tree.leaves(state.learner.params), state.actor.timestep.observation

    (first, seen), (second, other) = ranks.run(f, 2)
    same(first, second, rtol=0, atol=0)
    assert not torch.equal(seen, other)
