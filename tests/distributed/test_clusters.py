"""Collectors in a cluster of Ray with several nodes, which are killed. Each node takes seconds to start."""

import functools
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from funrl import algos, collectors, envs, random, record, runs, training, tree
from tests.distributed.clusters import Cluster
from tests.distributed.test_ray import connected, create_env, kept
from tests.support import same

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture
def cluster(monkeypatch):
    pytest.importorskip("ray")
    cluster = Cluster()
    for name, value in cluster.variables.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.close()
    assert cluster.is_gone()


@pytest.mark.nightly
def test_training_goes_on_when_a_node_is_killed(cluster):
    """Two nodes with a worker each. The results are those of a run that lost nothing."""
    cluster.start()
    cluster.start()
    options = dict(num_workers=2, frames_per_batch=32, total_frames=-1, key=random.key(3))

    def train(make, hooks=(), **more):
        with envs.make("gymnasium:CartPole-v1", num_envs=4) as env:
            algo = algos.a2c.make(env, num_envs=4, num_steps=8, num_cells=(8,))
            params = algo.init(random.key(0)).learner.params
            with make(create_env, algo.act, params, **options, **more) as collector:
                calls = [functools.partial(hook, collector) for hook in hooks]
                settings = dict(evaluate_episodes=0, backend="eager", progress=False, hooks=calls)
                return training.train(algo, random.key(0), 20 * 32, collector=collector, **settings).state, collector.restarts

    with connected(address=cluster.address) as engine:
        deadline = time.monotonic() + 60
        while sum(node["Alive"] for node in engine.nodes()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        nodes = []

        def kill(collector, step, state, metrics):
            if step == 5 * 32:
                nodes.extend(node for _, node in kept(collector, engine))
                cluster.kill(1)

        spread = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
        found, restarts = train(collectors.ray, [kill], restart_workers=True, resources=spread)
        assert len(set(nodes)) == 2 and restarts == 1, (nodes, restarts)
    expected, _ = train(collectors.synchronous)
    same(tree.leaves(found), tree.leaves(expected), rtol=0, atol=0)


LEARNER = """
import sys
from pathlib import Path
from funrl import algos, collectors, envs, random, training
from tests.distributed.test_ray import create_env

kind, out, updates, address = sys.argv[1:]
where = dict(address=address, timeout=20.0) if kind == "ray" else {}
with envs.make("gymnasium:CartPole-v1", num_envs=2) as env:
    algo = algos.a2c.make(env, num_envs=2, num_steps=8, num_cells=(8,))
    options = dict(num_workers=1, frames_per_batch=16, total_frames=-1, key=random.key(3), **where)
    with getattr(collectors, kind)(create_env, algo.act, algo.init(random.key(0)).learner.params, **options) as collector:
        begun = Path(out, "config.json").exists()
        settings = dict(evaluate_episodes=0, backend="eager", progress=False, checkpoint_every=0.0)
        training.train(algo, random.key(0), int(updates) * 16, collector=collector, out=out, resume=begun, **settings)
"""


def learner(kind, out, updates, address="", **variables):
    command = [sys.executable, "-c", LEARNER, kind, str(out), str(updates), address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables})


@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.nightly), pytest.param(30, marks=pytest.mark.weekly)])
def test_a_killed_head_ends_the_learner_which_resumes_in_a_new_cluster(kills, tmp_path):
    """The learner has an error in time, and no process, port or memory is left. The run then has each update once."""
    pytest.importorskip("ray")
    updates, chance, killed, told = 40 * kills, np.random.default_rng(0), 0, ""
    out, before = tmp_path / "run", set(os.listdir("/dev/shm"))
    while True:
        cluster = Cluster()
        try:
            cluster.start()
            process = learner("ray", out, updates, cluster.address, FUNRL_TEST=cluster.mark, **cluster.variables)
            seen = runs.Folder(out).checkpoint
            then = seen.stat().st_mtime_ns if seen.exists() else 0
            while process.poll() is None and (not seen.exists() or seen.stat().st_mtime_ns == then):
                time.sleep(0.02)
            if lost := killed < kills and process.poll() is None:
                time.sleep(0.5 * chance.random())
                cluster.kill(0)
                killed += 1
            begun = time.monotonic()
            told = process.communicate(timeout=300)[1]
            assert process.returncode == 0 or (lost and time.monotonic() - begun < 90), told
            if process.returncode == 0:
                break
        finally:
            cluster.close()
            assert cluster.is_gone()
    assert killed == kills, told
    assert learner("synchronous", tmp_path / "whole", updates).wait() == 0
    found, expected = (record.read_metrics(tmp_path / name / "metrics.csv") for name in ("run", "whole"))
    assert found["update"].tolist() == list(range(1, updates + 1))
    for name in set(expected) - {"seconds"}:
        np.testing.assert_array_equal(found[name], expected[name], name)
    assert {name for name in set(os.listdir("/dev/shm")) - before if name.startswith(("plasma", "ray"))} == set()
