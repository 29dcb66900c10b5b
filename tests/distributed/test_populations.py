"""Agents in chunks, in one process and in several."""

import json
import os
import subprocess
import sys

import pytest
import torch

from funrl import algos, checkpoint, distributed, envs, random, record, runs, training, tree
from funrl.populations import log_uniform, pbt
from tests.distributed import ranks
from tests.support import same

NUM_AGENTS, CHUNK, NUM_UPDATES = 8, 2, 3


def learner(**options):
    env = envs.make("CartPole-v1")._replace(max_episode_steps=10)
    return algos.a2c.make(env, **dict(num_envs=2, num_steps=4, num_cells=(8,)) | options)


def train(group, out=None, resume=False, num_updates=NUM_UPDATES, algo=None, **options):
    algo = algo or learner()
    options = {"chunk": CHUNK, "num_agents": NUM_AGENTS, "evaluate_episodes": 3, "backend": "eager", **options}
    steps = num_updates * algo.steps_per_update
    return training.train(algo, random.key(1), steps, group=group, out=out, resume=resume, progress=False, **options)


def flat(result):
    """Return what a rank is to tell of its result: no object of a process's own."""
    return tree.leaves(result.state), result.metrics, result.evaluation.episode_return


def on_ranks(size, *args, **options):
    return ranks.run(lambda group: flat(train(group, *args, **options)), size)


def whole(parts):
    """Return the leaves of all agents, and the metrics and evaluations, which all ranks have alike."""
    for _, metrics, returns in parts[1:]:
        same((metrics, returns), parts[0][1:], rtol=0, atol=0)
    return [torch.cat(leaves) for leaves in zip(*[leaves for leaves, _, _ in parts], strict=True)], *parts[0][1:]


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.nightly)])
def test_any_number_of_ranks_gives_the_same_bits_and_files(size, tmp_path):
    alone = flat(train(distributed.alone(), tmp_path / "one"))
    same(whole(on_ranks(size, tmp_path / "many")), alone, rtol=0, atol=0)
    one, many = (record.read_metrics(tmp_path / name / "metrics.csv") for name in ("one", "many"))
    assert one["agent"].tolist() == list(range(NUM_AGENTS)) * NUM_UPDATES
    for name in set(one) - {"seconds"}:
        torch.testing.assert_close(torch.tensor(one[name]), torch.tensor(many[name]), rtol=0, atol=0, equal_nan=True)
    files = [sorted(path.name for path in (tmp_path / name / "checkpoint").iterdir()) for name in ("one", "many")]
    assert files[0] == files[1] == ["manifest.json", *(f"part-{NUM_UPDATES:012}-{i:05}" for i in range(NUM_AGENTS // CHUNK))]
    read = runs.load_run(tmp_path / "many")
    assert read.updates == NUM_UPDATES
    same(runs.Folder(tmp_path / "many").read_evaluation().episode_return, alone[2].double())
    same(tree.leaves(read.state), alone[0], rtol=0, atol=0)


ON_THREADS = """
import sys
import torch
from tests.distributed.test_populations import compiled
torch.set_num_threads(2)
torch.save(compiled(), sys.argv[1])
"""


def compiled():
    """Of first weights whose bits depend on the threads of torch's operators."""
    return flat(train(None, chunk=4, algo=learner(num_cells=(64, 64)), backend="xla"))


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits(tmp_path, monkeypatch):
    """Two chunks at the same time, in programs of a jax with one thread and of one with two."""
    alone = compiled()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    same(compiled(), alone, rtol=0, atol=0)
    clean = {k: v for k, v in os.environ.items() if k not in ("PJRT_NPROC", "NPROC")}
    subprocess.run([sys.executable, "-W", "error", "-c", ON_THREADS, str(tmp_path / "two")], env=clean, check=True)
    same(torch.load(tmp_path / "two", weights_only=False), alone, rtol=0, atol=0)


def test_chunks_change_an_agent_by_rounding_only():
    algo = learner()
    alone = training.train(
        algo,
        random.key(1),
        NUM_UPDATES * algo.steps_per_update,
        num_agents=NUM_AGENTS,
        evaluate_episodes=0,
        progress=False,
        backend="eager",
    )
    chunked = train(distributed.alone(), evaluate_episodes=0)
    same(alone.metrics["steps"], chunked.metrics["steps"])
    same(alone.state.learner.params, chunked.state.learner.params, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first, second", [(2, 1), pytest.param(1, 4, marks=pytest.mark.nightly)])
def test_a_run_resumes_on_another_number_of_ranks(first, second, tmp_path):
    expected = flat(train(distributed.alone(), tmp_path / "whole"))
    on_ranks(first, tmp_path / "run", num_updates=2)
    same(whole(on_ranks(second, tmp_path / "run", True, chunk=None)), expected, rtol=0, atol=0)
    one, other = (record.read_metrics(tmp_path / name / "metrics.csv")["episode_return"] for name in ("whole", "run"))
    torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=0, atol=0, equal_nan=True)


def test_an_unfinished_checkpoint_does_not_count(tmp_path):
    """Parts of a later update, as a killed job leaves them, are neither read nor left behind."""
    train(distributed.alone(), tmp_path / "run", num_updates=2, evaluate_episodes=0)
    folder = runs.Folder(tmp_path / "run")
    for name in ("part-000000000003-00000", ".part-000000000003-00001.partial"):
        (folder.manifest.parent / name).write_bytes(b"half of it")
    expected = train(distributed.alone(), evaluate_episodes=0)
    same(train(distributed.alone(), tmp_path / "run", True, evaluate_episodes=0).state, expected.state, rtol=0, atol=0)
    assert len(list(folder.manifest.parent.iterdir())) == 1 + NUM_AGENTS // CHUNK


def test_parts_of_another_update_or_a_damaged_manifest_are_errors(tmp_path):
    train(distributed.alone(), tmp_path, num_updates=2, evaluate_episodes=0)
    manifest = runs.Folder(tmp_path).manifest
    good = manifest.read_text()
    for text, message in (
        ("{", "manifest.json: it is damaged"),
        (good.replace('"update": 2', '"update": 1'), "manifest.json: it is damaged"),
        (json.dumps({"parts": ["../config.json"], "meta": {}}), "manifest.json: it is damaged"),
        (json.dumps({**json.loads(good), "parts": json.loads(good)["parts"][::-1]}), "manifest.json: it is damaged"),
        (json.dumps({**json.loads(good), "parts": json.loads(good)["parts"][:2]}), "expected the parts of 4 chunks, got 2"),
    ):
        manifest.write_text(text)
        with pytest.raises(checkpoint.CheckpointError, match=message):
            train(distributed.alone(), tmp_path, True)


def test_hyperparameters_and_divergence_are_those_of_the_agent(tmp_path):
    rates = torch.full((NUM_AGENTS,), 1e-3, dtype=torch.float64)
    rates[5] = 1e30
    options = dict(hparams={"learning_rate": rates}, diverged="continue", evaluate_episodes=0)
    result = train(distributed.alone(), tmp_path, **options)
    assert [k for k, at in enumerate(result.diverged) if at] == [5]
    assert record.read_metrics(tmp_path / "metrics.csv")["hparams.learning_rate"][:NUM_AGENTS].tolist() == rates.tolist()

    def stops(group):
        with pytest.raises(training.Diverged, match="agent 5"):
            train(group, **{**options, "diverged": "stop"})
        return True

    assert ranks.run(stops, 2) == [True, True]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(chunk=3), "chunk: expected a divisor of the 8 agents, got 3"),
        (dict(chunk=0), "chunk: expected a divisor of the 8 agents, got 0"),
        (dict(hooks=[lambda step, state, metrics: None]), "hooks: not with chunks"),
        (dict(group=2), "group: expected that of distributed.join, got 2"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(training.RunError, match=message):
        train(**{"group": distributed.alone(), **options})


def test_what_several_processes_cannot_share():
    many = distributed.Group(rank=0, size=3)
    with pytest.raises(training.RunError, match="3 processes do not divide 8 agents; choose another --num-agents"):
        train(many, chunk=None)
    with pytest.raises(training.RunError, match=r"3 processes do not divide 1 agents; give it to distributed.data_parallel"):
        train(many, chunk=None, num_agents=1)
    with pytest.raises(training.RunError, match="2 processes do not divide 1 chunks; choose a --chunk that divides 4"):
        train(distributed.Group(0, 2), chunk=8)
    algo = learner()
    population = pbt(algo, {"learning_rate": log_uniform(1e-4, 1e-2)}, 4, period=2)
    with pytest.raises(training.RunError, match="population: not with chunks"):
        training.train(algo, random.key(0), 64, population=population, chunk=2)
