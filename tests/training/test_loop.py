import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from funrl import algos, checkpoint, compiler, envs, random, record, runs, training, tree
from funrl.checkpoint import CheckpointError
from funrl.training import Diverged, RunError
from funrl.training._log import sparkline
from tests import preloaded
from tests.record.drifter import DrifterState, algorithm
from tests.support import compilations

KEY = random.key(5)


def train(total_steps, algo=None, **options):
    algo = algorithm() if algo is None else algo
    return training.train(algo, KEY, total_steps, **{"evaluate_episodes": 0, "progress": False, "backend": "eager", **options})


def by_hand(algo, key, num_updates):
    """The run as the docstring tells it, one call after the other."""
    state = algo.init(random.fold_in(key, 0))
    for number in range(1, num_updates + 1):
        state, metrics = algo.step(random.fold_in(key, number), state)
    return state, metrics


def equal(one, other):
    assert tree.structure(one) == tree.structure(other)
    for x, y in zip(tree.leaves(one), tree.leaves(other), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_one_agent_is_the_loop_of_the_docstring():
    result = train(55)
    state, metrics = by_hand(algorithm(), random.split(KEY, 1)[0], 5)
    equal(result.state, state)
    equal(result.metrics, metrics)
    assert (result.updates, result.steps, result.evaluation) == (5, 50, None)
    assert 0 < result.compile_seconds < result.seconds


@pytest.mark.parametrize("num_agents", [2, 5])
def test_an_agent_does_not_depend_on_the_number_of_agents(num_agents):
    result = train(50, num_agents=num_agents)
    for k in range(num_agents):
        equal(tree.index(result.state, k), by_hand(algorithm(), random.split(KEY, 7)[k], 5)[0])
    assert result.metrics["value_loss"].shape == (num_agents,)


def test_xla():
    result = train(30, num_agents=2, backend="xla")
    expected = by_hand(algorithm(), random.split(KEY, 2)[1], 3)[0]
    torch.testing.assert_close(result.state.learner.params["w"][1], expected.learner.params["w"])
    assert result.state.learner.count.tolist() == [3, 3]


def test_it_compiles_once():
    with compilations(1):
        train(80, num_agents=2, backend="aot_eager")


def test_what_the_algorithm_shares_with_its_state_survives_donation():
    shared = torch.ones(100_000)
    algo = algorithm()

    def learn(key, learner, transitions):
        return DrifterState({"w": learner.params["w"] + 1}, learner.count + 1), {"value_loss": learner.params["w"].mean()}

    algo = algo._replace(init=lambda key: algos.State((), DrifterState({"w": shared}, torch.tensor(0))), learn=learn)
    for _ in range(2):
        assert train(30, algo).state.learner.params["w"][0] == 4
    assert bool((shared == 1).all())


@pytest.mark.parametrize("num_agents", [1, 3])
def test_the_folder(tmp_path, num_agents):
    out = tmp_path / "deep" / "run"
    train(50, num_agents=num_agents, out=out, notes={"seed": 5})
    assert sorted(x.name for x in out.iterdir()) == ["checkpoint", "config.json", "learning_curve.png", "metrics.csv"]
    assert [x.name for x in (out / "checkpoint").iterdir()] == ["state"]

    config = runs.read_config(out)
    assert config["algorithm"] == "drifter" and config["env"] == "CartPole-v1" and config["seed"] == 5 and config["key"] == int(KEY)
    assert config["total_steps"] == 50 and config["num_agents"] == num_agents and config["options"]["limit"] == "inf"
    assert config["versions"]["torch"] == torch.__version__

    columns = ["update", "agent", "steps", "seconds", "episode_return", "episodes", "value_loss", "zest"]
    table = record.read_metrics(out / "metrics.csv")
    assert list(table) == columns
    assert table["update"].tolist() == [i for i in range(1, 6) for _ in range(num_agents)]
    assert table["agent"].tolist() == list(range(num_agents)) * 5
    assert (table["steps"] == 10 * table["update"]).all() and (np.diff(table["seconds"]) >= 0).all()
    for k in range(num_agents):
        for number in range(1, 6):
            metrics = by_hand(algorithm(), random.split(KEY, num_agents)[k], number)[1]
            row = (number - 1) * num_agents + k
            np.testing.assert_array_equal(np.float32(table["episode_return"][row]), metrics["episode_return"].numpy())
            np.testing.assert_array_equal(np.float32(table["value_loss"][row]), metrics["value_loss"].numpy())


@pytest.mark.parametrize("num_agents", [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, num_agents):
    whole = train(90, num_agents=num_agents, out=tmp_path / "whole")
    first = train(40, num_agents=num_agents, out=tmp_path / "run")
    second = train(90, num_agents=num_agents, out=tmp_path / "run", resume=True)
    equal(second.state, whole.state)
    assert second.seconds > first.seconds and second.compile_seconds > first.compile_seconds and second.updates == 9
    one, other = (record.read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "run"))
    for name in set(one) - {"seconds"}:
        np.testing.assert_array_equal(one[name], other[name])
    assert (np.diff(other["seconds"]) >= 0).all()
    assert runs.read_config(tmp_path / "run")["total_steps"] == 90


@pytest.mark.parametrize("backend", ["xla", pytest.param("inductor", marks=pytest.mark.nightly)])
def test_half_a_run_and_its_resumption_have_the_bits_of_a_whole_run_on_each_backend(tmp_path, backend):
    env = envs.make("Pendulum-v1")
    algo = algos.ppo.make(env, num_envs=2, num_steps=4, num_minibatches=2, num_epochs=2, num_cells=(4,))
    whole = train(64, algo, num_agents=2, backend=backend, out=tmp_path / "whole")
    train(32, algo, num_agents=2, backend=backend, out=tmp_path / "run")
    equal(train(64, algo, num_agents=2, backend=backend, out=tmp_path / "run", resume=True).state, whole.state)
    assert runs.read_config(tmp_path / "run")["backend"] == backend


@pytest.mark.parametrize("save_at", [1, 3])
def test_an_interrupted_run_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch, save_at):
    whole = train(90)
    save = checkpoint.save

    def interrupted(value, path, meta):
        if meta["update"] == save_at + 1:
            raise KeyboardInterrupt
        save(value, path, meta)

    monkeypatch.setattr(checkpoint, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(90, out=tmp_path, checkpoint_every=0)
    monkeypatch.undo()
    assert record.read_metrics(tmp_path / "metrics.csv")["update"].tolist() == list(range(1, save_at + 2))
    equal(train(90, out=tmp_path, resume=True).state, whole.state)
    assert record.read_metrics(tmp_path / "metrics.csv")["update"].tolist() == list(range(1, 10))


@pytest.mark.parametrize("rows", [None, 0, 1])
def test_a_run_without_a_checkpoint_begins_anew(tmp_path, capsys, rows):
    whole = train(30, out=tmp_path, num_agents=2)
    shutil.rmtree(tmp_path / "checkpoint")
    path = tmp_path / "metrics.csv"
    if rows is None:
        path.unlink()
    else:
        path.write_text("".join(path.read_text().splitlines(keepends=True)[: 1 + 2 * rows]))
    equal(train(30, out=tmp_path, num_agents=2, resume=True, progress=True).state, whole.state)
    assert capsys.readouterr().err.startswith("no checkpoint yet: starting from the beginning\n")
    assert record.read_metrics(path)["update"].tolist() == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("damage", ["", "nonsense\n"])
def test_a_lost_checkpoint_is_refused_and_nothing_is_overwritten(tmp_path, damage):
    train(30, out=tmp_path)
    shutil.rmtree(tmp_path / "checkpoint")
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write(damage)
    before = contents(tmp_path)
    reason = "and metrics.csv cannot be read" if damage else "although metrics.csv has 3 updates; restore it, or train in another folder"
    with pytest.raises(RunError, match=f"{tmp_path / 'checkpoint' / 'state'}: missing, {reason}"):
        train(50, out=tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_a_finished_run_is_only_evaluated(tmp_path, capsys):
    whole = train(35, out=tmp_path)
    before = (tmp_path / "metrics.csv").read_bytes()
    again = train(35, out=tmp_path, resume=True, progress=True, evaluate_episodes=3)
    equal(again.state, whole.state)
    assert again.metrics == {} and again.updates == 3 and again.evaluation.episode_return.shape == (3,)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert "is finished: it has 30 steps already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algo": algorithm(width=4)}, "the run there has width = 3, not 4"),
        ({"num_agents": 2}, "num_agents = 1, not 2"),
        ({"notes": {"seed": 6}}, "seed = 5, not 6"),
        ({"total_steps": 40}, "the run there is to have 50 steps, not 40"),
    ],
)
def test_another_configuration_is_not_resumed(tmp_path, change, message):
    train(50, out=tmp_path, notes={"seed": 5})
    before = contents(tmp_path)
    with pytest.raises(RunError, match=f"cannot resume: .*{message}"):
        train(**{"total_steps": 50, "out": tmp_path, "resume": True, "notes": {"seed": 5}, **change})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["truncated", "foreign", "other", "meta"])
def test_a_bad_checkpoint_is_refused_and_nothing_is_overwritten(tmp_path, damage):
    train(50, out=tmp_path)
    path = tmp_path / "checkpoint" / "state"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "foreign":
        path.write_bytes(b"something else")
    else:
        tree_ = {"w": torch.zeros(3)} if damage == "other" else algorithm().init(KEY)
        checkpoint.save(tree_, path, {"update": 1})
    before = contents(tmp_path)
    reason = {"truncated": "truncated", "foreign": "not a checkpoint", "other": "another structure", "meta": "does not say its seconds"}[
        damage
    ]
    with pytest.raises(CheckpointError, match=f"^{path}: .*{reason}"):
        train(80, out=tmp_path, resume=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("change", [{"update": "1"}, {"update": 1.5}, {"update": -1}, {"seconds": None}, {"compile_seconds": [0.0]}])
def test_a_checkpoint_with_notes_of_another_type(tmp_path, change):
    train(20, out=tmp_path)
    path = tmp_path / "checkpoint" / "state"
    checkpoint.save(algorithm().init(KEY), path, {"update": 1, "seconds": 0, "compile_seconds": 0.5, **change})
    with pytest.raises(CheckpointError, match=f"^{path}: its {next(iter(change))} is "):
        train(80, out=tmp_path, resume=True)


def test_a_loss_that_is_nan_stops_the_run(tmp_path):
    algo = algorithm(bad_loss_at=4)
    with pytest.raises(
        Diverged, match="update 4: value_loss of agent 0 is nan, so the run was stopped; the checkpoint of update 3 is kept"
    ):
        train(90, algo, out=tmp_path, checkpoint_every=0)
    state, meta = checkpoint.load(tmp_path / "checkpoint" / "state", algo.init(KEY))
    assert meta["update"] == 3 and bool(state.learner.params["w"].isfinite().all())
    assert record.read_metrics(tmp_path / "metrics.csv")["update"].tolist() == [1, 2, 3, 4]


def test_metrics_that_wait_are_looked_at_before_a_checkpoint(tmp_path):
    with pytest.raises(Diverged, match=r"update 4: value_loss of agent 0 is nan.*the checkpoint of update 1 is kept"):
        train(90, algorithm(bad_loss_at=4), out=tmp_path, checkpoint_every=math.inf)
    assert record.read_metrics(tmp_path / "metrics.csv")["update"].tolist() == [1, 2, 3, 4]


def test_the_agent_that_diverged_is_named():
    algo = algorithm()

    def init(key):
        state = algo.init(key)
        agent = (key == random.fold_in(random.split(KEY, 3)[2], 0)).to(torch.int64)
        return algos.State((), DrifterState(state.learner.params, -10 * agent))

    def learn(key, learner, transitions):
        learner, metrics = algo.learn(key, learner, transitions)
        return learner, {**metrics, "entropy": torch.where(learner.count == -5, torch.inf, 1.0)}

    with pytest.raises(Diverged, match=r"update 5: entropy of agent 2 is inf.*there is no checkpoint without a folder"):
        train(90, algo._replace(init=init, learn=learn), num_agents=3)


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    algo = algorithm(bad_params_at=3)  # its losses stay finite
    with pytest.raises(Diverged, match=r"update 3: the parameter \['w'\] of agent 0 is not finite.*the checkpoint of update 2 is kept"):
        train(90, algo, out=tmp_path, checkpoint_every=0)
    assert checkpoint.load(tmp_path / "checkpoint" / "state", algo.init(KEY))[1]["update"] == 2


def test_a_run_that_diverges_at_once_has_no_checkpoint(tmp_path):
    with pytest.raises(Diverged, match=r"update 1: .*there was no checkpoint yet"):
        train(90, algorithm(bad_loss_at=1), out=tmp_path)
    assert not (tmp_path / "checkpoint").exists()


SECOND = """
import sys
from funrl import random, training
from tests.record.drifter import algorithm
try:
    training.train(algorithm(), random.key(5), 90, out=sys.argv[1], resume=sys.argv[2] == "True", evaluate_episodes=0, progress=False,
                   backend="eager")
except training.RunError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(tmp_path, resume):
    found = []

    def hook(step, state, metrics):
        if step == 30:
            with pytest.raises(RunError, match="run: this process is training there; wait until it has ended, or choose another folder"):
                train(90, out=tmp_path / "run", resume=resume)
            if resume:  # from another process too
                command = [sys.executable, "-c", SECOND, str(tmp_path / "run"), str(resume)]
                found.append(preloaded.run(command, capture_output=True, text=True, timeout=500))

    whole = train(50, out=tmp_path / "run", hooks=[hook])
    assert all(x.returncode == 1 and f"run: process {os.getpid()} is training there" in x.stderr for x in found) and len(found) == resume
    assert record.read_metrics(tmp_path / "run" / "metrics.csv")["update"].tolist() == [1, 2, 3, 4, 5]
    assert ".lock" not in os.listdir(tmp_path / "run")
    equal(train(50, out=tmp_path / "run", resume=True).state, whole.state)


def test_a_lock_ends_with_its_process_and_not_with_one_that_it_forked(tmp_path):
    program = (
        "import os, pathlib, sys, time; from funrl._locks import hold\n"
        "with hold(pathlib.Path(sys.argv[1])):\n"
        "    if not os.fork(): time.sleep(100)\n"
        "    print('held', flush=True); time.sleep(100)"
    )
    holder = preloaded.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"process {holder.pid} is training there"):
            train(50, out=tmp_path)
        holder.kill()
        holder.wait()
        assert train(50, out=tmp_path).updates == 5 and ".lock" not in os.listdir(tmp_path)
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), "it is missing; the run continues after update 5 without the earlier metrics"),
        (lambda path: path.write_text("\n".join(path.read_text().split("\n")[:3]) + "\n"), "it lacks 3 of the 5 rows up to update 5"),
    ],
)
def test_metrics_that_are_missing_at_a_resume_are_said_to_be(tmp_path, damage, message):
    train(50, out=tmp_path)
    damage(tmp_path / "metrics.csv")
    with pytest.warns(UserWarning, match=f"metrics.csv: {message}"):
        train(70, out=tmp_path, resume=True)
    assert record.read_metrics(tmp_path / "metrics.csv")["update"].tolist()[-2:] == [6, 7]


def test_metrics_that_are_damaged_at_a_resume_are_left(tmp_path):
    train(50, out=tmp_path)
    text = (tmp_path / "metrics.csv").read_text().replace("\n3,", "\n\0,")
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(RunError, match=r"metrics.csv: cannot be read: line 4: expected .* numbers"):
        train(70, out=tmp_path, resume=True)
    assert (tmp_path / "metrics.csv").read_text() == text


@pytest.mark.parametrize("name", ["config.json", "metrics.csv", "learning_curve.png", "checkpoint", "evaluation.json"])
def test_a_folder_that_is_taken(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(RunError, match=str(tmp_path)):
        train(50, out=tmp_path)
    assert contents(tmp_path) == {(tmp_path / name).relative_to(tmp_path): b"precious"}


def test_other_files_may_be_there(tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    train(20, out=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total_steps": 9}, "total_steps: one update takes 10 steps, got 9"),
        ({"total_steps": 50.0}, "total_steps: expected an integer of at least 1, got 50.0"),
        ({"num_agents": 0}, "num_agents: expected an integer of at least 1, got 0"),
        ({"evaluate_episodes": -1}, "evaluate_episodes: expected an integer of at least 0, got -1"),
        ({"checkpoint_every": math.nan}, "checkpoint_every: expected at least 0"),
        ({"resume": True}, "resume: out is None, so that there is no run to resume"),
        ({"out": "/proc/version/run"}, "/proc/version/run: cannot write there"),
        ({"out": "/nowhere/run", "resume": True}, "there is no run here"),
    ],
)
def test_bad_arguments_come_before_compiling(monkeypatch, change, message):
    def compiled(fn, **options):
        return lambda *args: pytest.fail("it compiles")

    monkeypatch.setattr(training._experience, "compile", compiled)
    with pytest.raises(RunError, match=message):
        train(**{"total_steps": 50, **change})


@pytest.mark.parametrize("key", [0, torch.zeros(2, 2, dtype=torch.int64), torch.zeros(())])
def test_a_bad_key(key):
    with pytest.raises(RunError, match=r"key: expected a key \(int64 \[\]\)"):
        training.train(algorithm(), key, 50)
    with pytest.raises(RunError, match="algo: expected an Algorithm, got function"):
        training.train(algorithm, KEY, 50)


def test_evaluation():
    algo = algorithm()
    one = train(20, evaluate_episodes=6).evaluation
    assert one.episode_return.tolist() == [4.0] * 6 and not one.finished.any()
    state = train(20, num_agents=2).state
    two = training.evaluate_agents(algo, state, KEY, 6, num_agents=2)
    five = training.evaluate_agents(algo, tree.map(lambda x: x[[0, 1, 0, 0, 1]], state), KEY, 6, num_agents=5)
    assert two.episode_return.shape == (2, 6)
    equal(tree.index(five, slice(2)), two)


def test_what_is_shown(tmp_path, capsys):
    train(50, num_agents=2, out=tmp_path, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.replace("\r", "\n").splitlines()
    assert lines[0] == f"training 2 agents of drifter on CartPole-v1, 50 steps each, in {tmp_path}"
    assert lines[1].startswith("first update after ")
    bars = [line for line in lines if "steps/s" in line]
    assert "20.0/100" in bars[0] and "no episode has ended yet" in bars[1] and "100/100" in bars[-1] and "return " in bars[-1]
    train(50, progress=False)
    assert capsys.readouterr().err == ""
    train(50, progress=True, backend="aot_eager")
    shown = capsys.readouterr().err.splitlines()
    assert shown[1] == "drifter: tracing ..." and shown[2].startswith("tracing ") and shown[3].startswith("first update after ")


def test_the_returns_are_drawn_as_a_line(capsys):
    train(200, progress=True)
    bar = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "steps/s" in line][-1]
    line, latest = bar.split("return ")[1].split("]")[0].split()
    assert 1 <= len(line) <= 16 and set(line) <= set("▁▂▃▄▅▆▇█") and math.isfinite(float(latest))


@pytest.mark.parametrize(
    ("values", "encoding", "line"),
    [
        ([3.0], "utf-8", "▁"),
        ([math.inf, 1.0, -math.inf, math.nan, 3.0], "utf-8", "█▁▁▁█"),
        ([math.nan, math.inf], "ascii", "00"),
        (list(range(32)), "latin-1", "0011223344556677"),
        ([0.0] * 16 + [1.0], "unknown", "0000000000000007"),
    ],
)
def test_sparkline(values, encoding, line):
    assert sparkline(values, encoding) == line


def test_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    train(20, out=tmp_path, progress=True)
    assert 'pip install "funrl[plot]"' in capsys.readouterr().err and not (tmp_path / "learning_curve.png").exists()


@pytest.mark.parametrize("error", [ValueError("no\ncolumn"), OSError(28, "no\ncolumn")])
def test_a_picture_that_fails_costs_no_evaluation(tmp_path, capsys, monkeypatch, error):
    def learning_curve(*args, **options):
        raise error

    monkeypatch.setattr(record, "learning_curve", learning_curve)
    assert train(20, out=tmp_path, progress=True, evaluate_episodes=2).evaluation.episode_return.shape == (2,)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("no learning_curve.png: ") and line.endswith("no column")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {**c, "format": 2}, "expected format 1, got 2"),
        (lambda c: "[" * 100_000, "damaged or not of funrl"),
        (lambda c: '{"format": ' + "9" * 5_000 + "}", "damaged or not of funrl"),
        (lambda c: b"\xff", "damaged or not of funrl"),
        (lambda c: {**c, "num_agents": True}, "damaged or not of funrl"),
        (lambda c: {**c, "options": 3}, "damaged or not of funrl"),
        (lambda c: [c], "damaged or not of funrl"),
        (lambda c: c, "cannot make the algorithm again: .*no algorithm is called 'drifter'"),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path, change, message):
    train(20, out=tmp_path)
    path = tmp_path / "config.json"
    new = change(json.loads(path.read_text()))
    path.write_bytes(new if isinstance(new, bytes) else (new if isinstance(new, str) else json.dumps(new)).encode())
    with pytest.raises(RunError, match=message):
        training.load_run(tmp_path)


def test_a_run_of_ones_own_algorithm(tmp_path):
    result = train(20, out=tmp_path, num_agents=2)
    run = training.load_run(tmp_path, algo=algorithm())
    equal(run.state, result.state)
    assert run.updates == 2 and training.evaluate_agents(run.algo, run.state, KEY, 3, num_agents=2).episode_return.shape == (2, 3)
    with pytest.raises(
        RunError, match=r"config.json: .*the run has rate = 0.5, and the algorithm given has 0.25; give the one that it was"
    ):
        training.load_run(tmp_path, algo=algorithm(rate=0.25))


def test_a_folder_imports_no_module_unless_it_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "enemy.py").write_text("import os, pathlib; pathlib.Path(os.environ['ENEMY']).touch()")
    monkeypatch.setenv("ENEMY", str(tmp_path / "was here"))
    monkeypatch.syspath_prepend(tmp_path)
    train(20, out=tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = {**json.loads(path.read_text()), "algorithm": "ppo", "env": "gymnasium:enemy:Some-v0", "options": {}}
    path.write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"imports the module 'enemy', .* if you trust the folder, say so: load_run\(..., trust=True\)"):
        training.load_run(tmp_path / "run")
    assert not (tmp_path / "was here").exists()
    with pytest.raises(RunError, match="cannot make the algorithm again"):
        training.load_run(tmp_path / "run", trust=True)
    assert (tmp_path / "was here").exists()


def test_ctrl_c_waits_for_the_update_and_saves_it(tmp_path):
    algo = algorithm()
    calls = []

    def learn(key, learner, transitions):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return algo.learn(key, learner, transitions)

    with pytest.raises(KeyboardInterrupt):
        train(90, algo._replace(learn=learn), out=tmp_path, backend="eager", checkpoint_every=math.inf)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and len(calls) == 4
    state, meta = checkpoint.load(tmp_path / "checkpoint" / "state", algo.init(KEY))
    assert meta["update"] == 4 and state.learner.count == 4
    assert record.read_metrics(tmp_path / "metrics.csv")["update"].tolist() == [1, 2, 3, 4]


def test_ctrl_c_while_compiling_and_other_handlers():
    def interrupt(name, ended, seconds, begins):
        if begins == "compiling":
            signal.raise_signal(signal.SIGINT)

    # A program that is not on disk.
    algo, number = algorithm(), random.bits(random.key(time.time_ns()), ()).item()

    def learn(key, learner, transitions):
        learner, metrics = algo.learn(key, learner, transitions)
        return learner, {**metrics, "value_loss": metrics["value_loss"] + 0 * (learner.count - number)}

    with compiler.listening(interrupt), pytest.raises(KeyboardInterrupt):
        train(90, algo._replace(learn=learn), backend="xla")
    caught = []
    before = signal.signal(signal.SIGINT, lambda *args: caught.append(1))
    try:
        with compiler.listening(interrupt):
            train(20, algo._replace(learn=learn), backend="xla")
        assert caught == [1]
    finally:
        signal.signal(signal.SIGINT, before)


KILLED = """
import sys
from funrl import random, training
from tests.record.drifter import algorithm
algo = algorithm(width=50)
training.train(algo, random.key(5), 30_000, out=sys.argv[1], resume=len(sys.argv) > 2, num_agents=2,
    evaluate_episodes=0, progress=False, backend="eager", checkpoint_every=0.05)
"""


@pytest.mark.nightly
def test_kill_at_random_moments(tmp_path):
    """The process dies four times; what it learns is that of a run that was left alone."""
    whole = train(30_000, algorithm(width=50), num_agents=2)
    chance = np.random.default_rng()
    state_file, seen = tmp_path / "checkpoint" / "state", None
    for kills in range(5):
        again = ["resume"] if (tmp_path / "config.json").exists() else []
        process = preloaded.Popen([sys.executable, "-c", KILLED, str(tmp_path), *again], stderr=subprocess.PIPE)
        if kills < 4:
            while (not state_file.exists() or state_file.stat().st_mtime_ns == seen) and process.poll() is None:
                time.sleep(0.001)
            time.sleep(0.2 * chance.random())
            process.send_signal(signal.SIGKILL)
        _, message = process.communicate(timeout=100)
        assert process.returncode == (-signal.SIGKILL if kills < 4 else 0), message.decode()
        seen = state_file.stat().st_mtime_ns
    state, meta = checkpoint.load(state_file, whole.state)
    assert meta["update"] == 3000
    equal(state, whole.state)
    assert record.read_metrics(tmp_path / "metrics.csv")["update"].tolist() == [i for i in range(1, 3001) for _ in range(2)]


FULL = """
import resource, sys
from funrl import random, training
from tests.record.drifter import algorithm

def full(step, state, metrics):
    if step == 40:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))

training.train(algorithm(width=5_000), random.key(5), 90, out=sys.argv[1], evaluate_episodes=0, progress=False, backend="eager",
    checkpoint_every=0, hooks=[full])
"""


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint_before(tmp_path):
    """The run can go on as if nothing had happened, once there is room."""
    done = preloaded.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and "OSError: [Errno 27] File too large" in done.stderr
    algo = algorithm(width=5_000)
    state, meta = checkpoint.load(tmp_path / "checkpoint" / "state", algo.init(KEY))
    assert meta["update"] == 3 and [x.name for x in (tmp_path / "checkpoint").iterdir()] == ["state"]
    equal(state, by_hand(algo, random.split(KEY, 1)[0], 3)[0])
    equal(train(90, algo, out=tmp_path, resume=True).state, train(90, algo).state)


def test_an_annealed_run_is_extended_with_a_longer_annealing(tmp_path):
    env = envs.make("CartPole-v1")
    make = lambda steps: algos.ppo.make(env, num_envs=2, num_steps=5, num_cells=(4,), num_minibatches=1, anneal_steps=steps)  # noqa: E731
    train(50, make(50.0), out=tmp_path, num_agents=2)
    with pytest.raises(RunError, match=r"falls to 0 at 50 steps \(anneal_steps\).*let it fall later with --set anneal_steps=80"):
        train(80, make(50.0), out=tmp_path, num_agents=2, resume=True)
    with pytest.raises(RunError, match=r"the run there has anneal_steps = 50\.0, not 40\.0"):
        train(50, make(40.0), out=tmp_path, num_agents=2, resume=True)
    result = train(80, make(80.0), out=tmp_path, num_agents=2, resume=True)
    assert result.updates == 8 and result.state.learner.hparams.anneal_steps.tolist() == [80.0, 80.0]
    rates = record.read_metrics(tmp_path / "metrics.csv")["learning_rate"][::2]
    first = make(80.0).config.learning_rate
    np.testing.assert_allclose(rates, [first * (1 - 10 * i / (50 if i < 5 else 80)) for i in range(8)], rtol=1e-5)
    assert train(80, make(math.inf), out=tmp_path, num_agents=2, resume=True).updates == 8
