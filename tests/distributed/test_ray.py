"""The collector over Ray beside the one with worker processes. Ray is an extra, and takes ten seconds to start."""

import os
import random as chance
import signal
import sys
import time
import warnings

import pytest

from funrl import algos, collectors, envs, random, training, tree
from funrl.env import HostError
from tests.distributed import ranks
from tests.support import same

OPTIONS = dict(num_workers=2, frames_per_batch=32, total_frames=-1)


def create_env():
    return envs.make("gymnasium:CartPole-v1", num_envs=2)


def test_without_ray_an_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'funrl\[ray\]', or use collectors.synchronous"):
        collectors.ray(create_env, None, (), **OPTIONS)


def test_a_cluster_that_is_too_small_is_an_error_at_once():
    """Ray itself would wait for more machines."""
    check = collectors._ray._check_room
    check({"CPU": 4.0}, {"num_cpus": 1, "scheduling_strategy": "SPREAD"}, 4)
    with pytest.raises(ValueError, match=r"num_workers: 5 workers need 5 CPU, and the cluster has 4; start fewer"):
        check({"CPU": 4.0}, {"num_cpus": 1}, 5)
    with pytest.raises(ValueError, match=r"2 workers need 2 arm, and the cluster has 0"):
        check({"CPU": 4.0}, {"num_cpus": 1, "resources": {"arm": 1}}, 2)


def test_an_address_without_a_cluster_is_an_error_at_once():
    """Ray itself would try for minutes."""
    for address in (f"127.0.0.1:{ranks.free_port()}", "127.0.0.1", "here"):
        with pytest.raises(ConnectionError, match=f"address: nothing listens at '{address}'; start the cluster"):
            collectors._ray._check_address(address)
    for address in (None, "auto", "local", "ray://there:10001"):
        collectors._ray._check_address(address)


@pytest.fixture(scope="module")
def engine():
    engine = pytest.importorskip("ray")
    path = os.pathsep.join([os.getcwd(), *sys.path])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_worker_niceness", "0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield engine
        engine.shutdown()


def processes(collector, engine):
    """Return the processes of the workers."""
    actors = collector._pool.transport.actors
    return [engine.get(actors[worker].__ray_call__.remote(lambda worker: os.getpid())) for worker in sorted(actors)]


ray = pytest.mark.filterwarnings("ignore")  # Ray's own


@ray
@pytest.mark.slow
def test_batches_are_those_of_worker_processes(engine):
    with envs.make("gymnasium:CartPole-v1", num_envs=4) as env:
        algo = algos.a2c.make(env, num_envs=4, num_steps=8, num_cells=(8,))
        params = algo.init(random.key(0)).learner.params
    found = []
    for make in (collectors.synchronous, collectors.ray):
        with make(create_env, algo.act, params, key=random.key(3), **OPTIONS) as collector:
            batches = [next(collector)]
            collector.update_params(tree.map(lambda x: x * 0.5, params))
            batches += [next(collector), next(collector)]
            state = collector.state()
            later = next(collector)
            collector.restore(state)
            same(next(collector), later, rtol=0, atol=0)
            found.append((batches, collector.version, collector.frames))
    same(found[0][0], found[1][0], rtol=0, atol=0)
    assert found[0][1:] == found[1][1:]


@ray
@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_nothing_changes(engine):
    def collect(kill):
        options = {**OPTIONS, "restart_workers": kill}
        with collectors.ray(create_env, None, (), key=random.key(4), **options) as collector:
            batches = []
            for i in range(5):
                if kill and i in (1, 3):
                    engine.kill(collector._pool.transport.actors[i % 2])
                batches.append(next(collector))
            return batches, collector.restarts

    (expected, none), (found, restarts) = collect(False), collect(True)
    same(found, expected, rtol=0, atol=0)
    assert (none, restarts) == (0, 2)


@ray
@pytest.mark.slow
def test_errors_name_the_worker(engine):
    def broken():
        raise OSError("no such simulator")

    with pytest.raises(HostError, match=r"collectors\.ray: worker 0: OSError: no such simulator"):
        collectors.ray([broken, create_env], None, (), **OPTIONS)
    with collectors.ray(create_env, None, (), **OPTIONS) as collector:
        engine.kill(collector._pool.transport.actors[1])
        with pytest.raises(HostError, match=r"worker 1 was lost .*restart_workers=True"):
            next(collector)


@ray
@pytest.mark.slow
def test_training_apart(engine):
    with envs.make("gymnasium:CartPole-v1", num_envs=2) as env:
        algo = algos.impala.make(env, num_envs=2, num_steps=8, num_minibatches=1, num_cells=(8,))
        options = dict(num_workers=2, frames_per_batch=16, total_frames=-1, together=False, max_staleness=4)
        with collectors.ray(create_env, algo.act, algo.init(random.key(0)).learner.params, **options) as collector:
            result = training.train(algo, random.key(0), 160, collector=collector, evaluate_episodes=0, backend="eager", progress=False)
        assert result.updates == 10 and 0 <= int(result.metrics["staleness"]) <= 4


@ray
@pytest.mark.nightly
def test_thirty_killed_workers(engine, record_property):
    """At random moments; the batches are those without kills, so that no frame is lost or double."""
    chance.seed(0)
    with collectors.synchronous(create_env, None, (), key=random.key(4), **OPTIONS) as collector:
        expected = [next(collector) for _ in range(70)]
    seen = set()
    with collectors.ray(create_env, None, (), key=random.key(4), restart_workers=True, **OPTIONS) as collector:
        for i, batch in enumerate(expected):
            if i % 2 and collector.restarts < 30:
                seen.update(found := processes(collector, engine))
                os.kill(chance.choice(found), signal.SIGKILL)
                time.sleep(0.1 * chance.random())
            same(next(collector), batch, rtol=0, atol=0)
        record_property("killed worker of Ray", collector.restarts)
        assert collector.restarts == 30
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in seen) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(seen) > 30 and not any(os.path.exists(f"/proc/{pid}") for pid in seen)
