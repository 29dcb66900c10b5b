"""Collectors in a cluster of Ray with several nodes, which are killed. Each node takes seconds to start."""

import contextlib
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from funrl import record, runs
from tests.distributed.clusters import Cluster

# In a process of its own, as Ray ends a process whose cluster has lost its head.
LEARNER = """
import sys, time
from pathlib import Path
from funrl import algos, collectors, envs, random, training
from tests.distributed.test_ray import create_env

kind, out, updates, workers, address = sys.argv[1:]
workers, where = int(workers), {}
if kind == "ray":
    import ray
    ray.init(address=address, log_to_driver=False, logging_level="error")
    while sum(node["Alive"] for node in ray.nodes()) < workers:
        time.sleep(0.1)
    where = dict(timeout=20.0, restart_workers=workers > 1, resources={"num_cpus": 1, "scheduling_strategy": "SPREAD"})
with envs.make("gymnasium:CartPole-v1", num_envs=2 * workers) as env:
    algo = algos.a2c.make(env, num_envs=2 * workers, num_steps=8, num_cells=(8,))
    options = dict(num_workers=workers, frames_per_batch=algo.steps_per_update, total_frames=-1, key=random.key(3), **where)
    with getattr(collectors, kind)(create_env, algo.act, algo.init(random.key(0)).learner.params, **options) as collector:
        begun = Path(out, "config.json").exists()
        settings = dict(evaluate_episodes=0, backend="eager", progress=False, checkpoint_every=0.0)
        training.train(algo, random.key(0), int(updates) * algo.steps_per_update, collector=collector, out=out, resume=begun, **settings)
        print("restarts", collector.restarts)
"""


def learner(out, updates, workers=1, cluster=None):
    """Start a learner in a cluster, or with worker processes of its own."""
    kind, address = ("synchronous", "") if cluster is None else ("ray", cluster.address)
    command = [sys.executable, "-c", LEARNER, kind, str(out), str(updates), str(workers), address]
    variables = {} if cluster is None else {**cluster.variables, "FUNRL_TEST": cluster.mark}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables})


def wait_for_checkpoint(out, process):
    """Wait until a learner has written a checkpoint, or has ended."""
    path = runs.Folder(out).checkpoint
    before = path.stat().st_mtime_ns if path.exists() else 0
    while process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
        time.sleep(0.02)


@contextlib.contextmanager
def cluster_of(nodes):
    """Context in which there is a cluster; it leaves nothing behind."""
    pytest.importorskip("ray")
    cluster = Cluster()
    try:
        for _ in range(nodes):
            cluster.start()
        yield cluster
    finally:
        cluster.close()
    assert cluster.is_gone()


def check_as_whole(path, updates, workers=1):
    """Compare the metrics of a run with those of a run in processes of this machine, which lost nothing."""
    whole = learner(path / "whole", updates, workers)
    _, errors = whole.communicate(timeout=600)
    assert whole.returncode == 0, errors
    found, expected = (record.read_metrics(path / name / "metrics.csv") for name in ("run", "whole"))
    assert found["update"].tolist() == list(range(1, updates + 1))
    for name in set(expected) - {"seconds"}:
        np.testing.assert_array_equal(found[name], expected[name], name)


@pytest.mark.nightly
def test_training_goes_on_when_a_node_is_killed(tmp_path):
    """Two nodes with a worker each."""
    with cluster_of(2) as cluster:
        process = learner(tmp_path / "run", 200, 2, cluster)
        wait_for_checkpoint(tmp_path / "run", process)
        cluster.kill(1)
        told, errors = process.communicate(timeout=240)
        assert process.returncode == 0 and "restarts 1" in told, told + errors
    check_as_whole(tmp_path, 200, 2)


@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.nightly), pytest.param(30, marks=pytest.mark.weekly)])
def test_a_killed_head_ends_the_learner_which_resumes_in_a_new_cluster(kills, tmp_path, record_property):
    """The learner has an error in time, and no process, port or memory is left. The run then has each update once."""
    updates, chance, killed, told = 40 * kills, np.random.default_rng(0), 0, ""
    out, before, code = tmp_path / "run", set(os.listdir("/dev/shm")), 1
    while code:
        with cluster_of(1) as cluster:
            process = learner(out, updates, cluster=cluster)
            wait_for_checkpoint(out, process)
            if lost := killed < kills and process.poll() is None:
                time.sleep(0.5 * chance.random())
                cluster.kill(0)
                killed += 1
            begun = time.monotonic()
            told, code = process.communicate(timeout=300)[1], process.returncode
            assert code == 0 or (lost and time.monotonic() - begun < 90), told
    record_property("killed head of Ray", killed)
    assert killed == kills, told
    check_as_whole(tmp_path, updates)
    assert {name for name in set(os.listdir("/dev/shm")) - before if name.startswith(("plasma", "ray"))} == set()
