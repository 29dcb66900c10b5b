"""Runs with worker processes whose learner dies; slow, as each process takes seconds to begin."""

import functools
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from funrl import algos, collectors, envs, random, record, training, tree
from funrl.training import every, hooks
from tests import preloaded

pytestmark = pytest.mark.slow

NUM_WORKERS, COPIES, NUM_STEPS = 2, 2, 8
OPTIONS = {
    "ppo": ("gymnasium:CartPole-v1", dict(num_cells=(8,), num_epochs=1, num_minibatches=2, normalize_observation=True)),
    "ppo, recurrent": ("gymnasium:CartPole-v1", dict(num_cells=(8,), num_epochs=1, num_minibatches=2, recurrent="gru", recurrent_size=4)),
    "impala": ("gymnasium:CartPole-v1", dict(num_cells=(8,), num_minibatches=2)),
    "sac": ("gymnasium:Pendulum-v1", dict(num_cells=(8,), batch_size=8, num_updates=2, learning_starts=64, buffer_size=256)),
}


def run(kind, collector, out, num_updates, resume=False):
    """Train with real workers, and checkpoints as often as can be."""
    together = COPIES * (NUM_WORKERS if collector == "synchronous" else 1)
    env, options = OPTIONS[kind]
    key = random.key(7)
    with envs.make(env, num_envs=together) as mine:
        algo = algos.make(kind.split(",")[0], mine, num_envs=together, num_steps=NUM_STEPS, **options)
        settings = dict(num_workers=NUM_WORKERS, frames_per_batch=algo.steps_per_update, total_frames=-1, key=random.key(8))
        params = algo.init(key).learner.params
        with getattr(collectors, collector)(lambda: envs.make(env, num_envs=COPIES), algo.act, params, **settings) as source:
            return training.train(
                algo,
                key,
                num_updates * algo.steps_per_update,
                collector=source,
                hooks=[every(64, hooks.annealing(gamma=lambda step: 0.99 - step / 1e6))],
                out=out,
                resume=resume,
                evaluate_episodes=0,
                checkpoint_every=0.02,
                backend="eager",
            )


def killed(kind, collector, out, times, num_updates):
    """Run it in a process of its own, which dies so many times at random moments, until it ends; return the output of each."""
    state_file, told, chance = out / "checkpoint" / "state", [], np.random.default_rng()
    code = "import sys; from tests.training.test_killed import run; run(*sys.argv[1:4], int(sys.argv[4]), resume=len(sys.argv) > 5)"
    for number in range(times + 1):
        seen = state_file.stat().st_mtime_ns if state_file.exists() else None
        again = ["resume"] if (out / "config.json").exists() else []
        command = [sys.executable, "-c", code, kind, collector, str(out), str(num_updates), *again]
        process = preloaded.Popen(command, nested=True, stderr=subprocess.PIPE, text=True)
        if number < times:
            while (not state_file.exists() or state_file.stat().st_mtime_ns == seen) and process.poll() is None:
                time.sleep(0.001)
            time.sleep(0.3 * chance.random())
            process.send_signal(signal.SIGKILL)
        told.append(process.communicate(timeout=300)[1])
        assert process.returncode == (-signal.SIGKILL if number < times else 0), told[-1]
    return told


def often(mark, *kinds, times):
    """Return a parameter for each kind: so many deaths in 150 updates. Weekly are the kinds that die each day, once."""
    return [pytest.param(kind, times, 150, marks=mark) for kind in kinds]


nightly, weekly = (functools.partial(often, mark) for mark in (pytest.mark.nightly, pytest.mark.weekly))


@pytest.mark.parametrize(
    ("kind", "times", "num_updates"), [("ppo", 1, 25), *nightly("ppo, recurrent", "sac", times=3), *weekly("ppo", times=3)]
)
def test_a_synchronous_run_ends_with_the_same_bits(tmp_path, kind, times, num_updates):
    whole = run(kind, "synchronous", tmp_path / "whole", num_updates)
    told = killed(kind, "synchronous", tmp_path / "run", times, num_updates)
    assert "continuing after update" in told[-1] and "lost" not in told[-1]
    again = run(kind, "synchronous", tmp_path / "run", num_updates, resume=True)  # it is finished: this only reads it
    assert again.updates == num_updates
    for path, x, y in zip(tree.paths(whole.state), tree.leaves(whole.state), tree.leaves(again.state), strict=True):
        if not path.startswith(".actor"):  # those of the learner itself, which nobody steps
            torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True, msg=lambda text, path=path: f"{path}: {text}")
    one, other = (record.read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "run"))
    assert other["update"].tolist() == list(range(1, num_updates + 1)) and (other["staleness"] == 0).all()
    for name in set(one) - {"seconds"}:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize(("kind", "times", "num_updates"), [("impala", 1, 25), *nightly("ppo", "sac", times=2), *weekly("impala", times=2)])
def test_an_asynchronous_run_loses_what_was_in_flight_and_says_so(tmp_path, kind, times, num_updates):
    told = killed(kind, "asynchronous", tmp_path, times, num_updates)
    frames = COPIES * NUM_STEPS
    for text in told[1:]:
        if "continuing after update" in text:
            (lost,) = re.findall(
                r"continuing after update \d+; (\d+) frames that were in flight at the checkpoint are collected again", text
            )
            assert 0 < int(lost) <= 2 * NUM_WORKERS * frames and int(lost) % frames == 0
    assert "continuing after update" in told[-1]
    result = run(kind, "asynchronous", tmp_path, num_updates, resume=True)
    assert result.state.learner.num_steps == num_updates * frames
    table = record.read_metrics(tmp_path / "metrics.csv")
    assert table["update"].tolist() == list(range(1, num_updates + 1)) and (np.diff(table["steps"]) == frames).all()
    assert (table["staleness"] <= 2 * NUM_WORKERS).all() and table["staleness"].max() > 0
