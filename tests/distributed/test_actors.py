"""A learner on one rank, and its actors on others."""

import os
import signal
import time

import pytest
import torch

from funrl import algos, collectors, distributed, envs, random, training, tree
from tests.distributed import ranks
from tests.support import same


def create_env(num_envs=2):
    return envs.make("gymnasium:CartPole-v1", num_envs=num_envs)


def learner(env, name="impala", num_envs=2):
    return algos.make(name, env, num_envs=num_envs, num_steps=8, num_minibatches=1, num_cells=(8,))


def settings(algo, **options):
    return {"frames_per_batch": algo.steps_per_update, "key": random.key(3), **options}


@pytest.mark.slow
def test_batches_of_all_actors_are_those_of_worker_processes():
    def collect(source):
        batches = [next(source) for _ in range(2)]
        source.update_params(tree.map(lambda x: x * 0.5, source.params))
        return [*batches, next(source)]

    def f(group):
        with create_env(4) as env:
            algo = learner(env, num_envs=4)
            params = algo.init(random.key(0)).learner.params
            with distributed.actors(group, create_env, algo.act, params, together=True, **settings(algo)) as source:
                if source is None:
                    return None
                source.params = params
                found = collect(source)
            options = settings(algo, num_workers=2, total_frames=-1)
            with collectors.synchronous(create_env, algo.act, params, **options) as source:
                source.params = params
                return found, collect(source)

    found, expected = ranks.run(f, 3, seconds=120.0)[0]
    same(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["impala", "ppo"])
def test_learning_from_stale_batches_is_bounded_and_reported(name):
    def f(group):
        with create_env() as env:
            algo = learner(env, name)
            params = algo.init(random.key(0)).learner.params
            with distributed.actors(group, create_env, algo.act, params, queue_size=2, max_staleness=1, **settings(algo)) as source:
                if source is None:
                    return torch.is_grad_enabled()
                seen = []
                hook = training.every(1, lambda step, state, metrics: seen.append(int(metrics["staleness"])))
                options = dict(collector=source, hooks=[hook], evaluate_episodes=0, backend="eager", progress=False)
                result = training.train(algo, random.key(0), 12 * algo.steps_per_update, **options)
                return seen, result.updates, source.discarded_frames

    (seen, updates, discarded), actor = ranks.run(f, 2, seconds=120.0)
    assert updates == 12 and set(seen) <= {0, 1} and seen.count(1) > 0 and discarded % 16 == 0 and actor


def test_a_killed_actor_and_an_exception_are_errors_of_the_learner():
    def broken():
        raise OSError("no such simulator")

    def dies(group):
        def make():
            env = create_env()
            return env._replace(step=lambda *args: os._exit(1)) if group.rank == 0 else env

        with distributed.actors(group, make, None, (), frames_per_batch=4) as source:
            return next(source).mask.numel()

    def raises(group):
        with distributed.actors(group, broken, None, (), frames_per_batch=4) as source:
            return source is None

    found = ranks.results(ranks.start(raises, 2))
    assert "HostError: distributed.actors: worker 0: OSError: no such simulator" in found[0][1]
    found = ranks.results(ranks.start(dies, 2, timeout=20.0))
    assert "HostError" in found[0][1] and "rank 1" in found[0][1], found


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_learner_and_actors_that_are_cut_off_find_it_in_time(stopped):
    """One of them is stopped: its connections stay, and nothing comes through them."""

    def f(group):
        def stop(*args):
            os.kill(os.getpid(), signal.SIGSTOP)

        def make():
            env = create_env()
            return env._replace(step=stop) if stopped == 1 else env

        with distributed.actors(group, make, None, (), frames_per_batch=4, timeout=2.0) as source:
            if source is not None:
                next(source)
                stop()

    found = ranks.results_of_one(ranks.start(f, 2, timeout=3.0), 1 - stopped)
    expected = (
        "HostError: distributed.actors: worker 0 gave no answer for 2 s" if stopped else "DistributedError: rank 1 of 2: another rank"
    )
    assert expected in found, found


@pytest.mark.slow
def test_a_learner_may_learn_for_longer_than_the_timeout():
    def f(group):
        with distributed.actors(group, create_env, None, (), frames_per_batch=4) as source:
            if source is not None:
                for _ in range(2):
                    next(source)
                    time.sleep(3.0)
                return source.frames, max(map(len, source._pool.transport.sent))

    frames, held = ranks.run(f, 2, timeout=2.0)[0]
    assert frames == 8 and held < 16
