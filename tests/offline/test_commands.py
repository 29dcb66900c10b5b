"""Recording and training from data by the command line."""

import json

import pytest

import funrl
from funrl.__main__ import main
from funrl.offline import datasets

SMALL = ["--set", "num_cells=4", "--backend", "eager"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run of a2c in CartPole, and data that it recorded."""
    path = tmp_path_factory.mktemp("commands")
    options = ["--set", "num_envs=2", "--set", "num_steps=8", *SMALL]
    assert main(["train", "a2c", "--env", "CartPole-v1", "--total-steps", "32", "--out", str(path / "run"), *options]) == 0
    assert main(["record", str(path / "run"), "--out", str(path / "data.npz"), "--steps", "200", "--policy", "explore"]) == 0
    return path


def test_recorded_data_is_that_of_the_run(folder, capsys):
    data = datasets.open_dataset(folder / "data.npz", spaces=funrl.envs.make("CartPole-v1"))
    assert data.size == 200 and bool(data.transition.terminated.any())
    assert main(["record", str(folder / "run"), "--out", str(folder / "rows"), "--steps", "40", "--policy", "random", "--seed", "3"]) == 0
    assert "40 steps in" in capsys.readouterr().out and datasets.load(folder / "rows").size == 40


@pytest.mark.slow
def test_training_from_data(folder, capsys):
    run = folder / "bc"
    command = ["train", "bc", "--data", str(folder / "data.npz"), "--env", "CartPole-v1", "--out", str(run), *SMALL]
    options = ["--set", "num_updates=2", "--set", "batch_size=8"]
    assert main([*command, *options, "--total-steps", "4", "--num-agents", "2"]) == 0
    shown = capsys.readouterr()
    assert "2 agents x 4 steps" in shown.out and "after 4 steps: mean return" in shown.err
    assert json.loads((run / "config.json").read_text())["data"] == str(folder / "data.npz")
    assert main(["train", "--resume", "--out", str(run), "--total-steps", "6", "--backend", "eager"]) == 0
    assert "2 agents x 6 steps" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--episodes", "2"]) == 0  # which needs no data
    assert "bc on CartPole-v1 after 6 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "bc", "--env", "CartPole-v1"], "--data: bc learns from data; give minari:ID, a file, or a folder"),
        (["train", "bc", "--env", "CartPole-v1", "--data", "nowhere.npz"], "nowhere.npz: there is no such data"),
        (["train", "bc", "--env", "CartPole-v1", "--data", ""], "open_dataset: name: expected minari:ID, a Minari folder, "),
        (["train", "ppo", "--env", "CartPole-v1", "--data", "x.npz"], "--data: ppo has no use for it"),
        (["train", "iql", "--env", "CartPole-v1", "--data", "DATA"], "env: IQL expects a floating-point Box"),
        (["record", "RUN", "--out", "x.npz", "--steps", "9", "--policy", "replay"], "expected a learner with a buffer"),
        (["record", "RUN", "--out", "DATA", "--steps", "9"], "it is there already"),
        (["record", "RUN", "--out", "x.npz", "--steps", "-2", "--policy", "replay"], "--steps: expected at least 1, got -2"),
        (["record", "RUN", "--out", "x.hdf5", "--steps", "9"], "HDF5 files are only read, got x.hdf5"),
        (["record", "RUN", "--out", "x.npz", "--steps", "9", "--agent", "3"], "--agent: expected one of the run's 1"),
    ],
)
def test_what_is_wrong_is_one_line(folder, command, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(folder / "run"), "DATA": str(folder / "data.npz")}
    assert main([places.get(word, word) for word in command]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
