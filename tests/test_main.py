import functools
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from funrl import algos, checkpoint, envs, random, record, runs, training, transforms, tree
from funrl.__main__ import _num_envs, main
from tests import preloaded
from tests.record import drifter

TINY = [f"--set={option}" for option in ("num_envs=2", "num_steps=8", "num_epochs=1", "num_minibatches=2", "num_cells=8")]


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """No code is generated, ``drifter`` is an algorithm, and runs/ is in a temporary folder."""
    monkeypatch.setattr(training, "train", functools.partial(training.train, backend="eager"))
    monkeypatch.setitem(algos._ALGORITHMS, "drifter", (drifter.make, drifter.DrifterConfig))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys):
    def run(*argv):
        code = main([str(x) for x in argv])
        shown = capsys.readouterr()
        return code, shown.out.splitlines(), shown.err.splitlines()

    return run


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


DRIFT = ("train", "drifter", "--env", "CartPole-v1", "--total-steps", 50)


def test_train_and_evaluate(run, tmp_path):
    code, out, _ = run(*DRIFT, "--seed", 3, "--set", "width=5", "--set", "rate=0.25")
    assert code == 0
    assert re.fullmatch(r"50 steps in \d+\.\d s, of which compiling \d+\.\d s; mean return 4\.0 over 100 episodes", out[-1])
    folder = tmp_path / "runs" / "drifter-CartPole-v1-3"
    config = runs.read_config(folder)
    assert config["seed"] == 3 and config["options"]["width"] == 5 and config["options"]["rate"] == 0.25 and config["num_agents"] == 1
    assert {x.name for x in folder.iterdir()} == {"config.json", "metrics.csv", "learning_curve.png", "checkpoint", "evaluation.json"}

    code, out, err = run("evaluate", folder, "--episodes", 7)
    assert (code, out, err) == (0, ["drifter on CartPole-v1 after 50 steps: mean return 4.0 over 7 episodes"], [])


def test_several_agents(run, tmp_path):
    code, out, _ = run(*DRIFT, "--num-agents", 3, "--out", tmp_path / "r")
    assert code == 0 and re.match(
        r"3 agents x 50 steps in .* s; mean return 4\.0 over 100 episodes each \(agents from 4\.0 to 4\.0\)$", out[-1]
    )
    code, out, _ = run("evaluate", tmp_path / "r", "--episodes", 2)
    assert code == 0 and out[-1].endswith("mean return 4.0 over 2 episodes each (agents from 4.0 to 4.0)")


def test_the_default_folder_counts_on(run, tmp_path):
    for _ in range(3):
        assert run(*DRIFT)[0] == 0
    assert sorted(x.name for x in (tmp_path / "runs").iterdir()) == [f"drifter-CartPole-v1-0{end}" for end in ("", "-2", "-3")]
    code, _, err = run(*DRIFT, "--resume")
    assert code == 0 and "the run in runs/drifter-CartPole-v1-0-3 is finished" in err[0]


def test_resume_takes_what_is_not_given_from_the_run(run, tmp_path):
    assert run(*DRIFT, "--num-agents", 2, "--seed", 9, "--set", "width=4", "--set", "limit=7", "--out", "r")[0] == 0
    code, out, _ = run("train", "drifter", "--env", "CartPole-v1", "--out", "r", "--resume", "--total-steps", "8e1")
    assert code == 0 and out[-1].startswith("2 agents x 80 steps")
    assert run("train", "drifter", "--env", "CartPole-v1", "--out", "r", "--resume")[0] == 0
    code, out, _ = run("train", "--resume", "--out", "r", "--total-steps", 90)
    assert code == 0 and out[-1].startswith("2 agents x 90 steps")
    for given, complaint in (
        (("--set", "width=3"), "width = 4, not 3"),
        (("--seed", 1), "seed = 9, not 1"),
        (("--num-agents", 1), "num_agents = 2"),
    ):
        before = contents(tmp_path)
        code, out, err = run("train", "drifter", "--env", "CartPole-v1", "--out", "r", "--resume", *given)
        assert code == 2 and complaint in err[-1] and contents(tmp_path) == before
    code, _, err = run("train", "ppo", "--env", "CartPole-v1", "--out", "r", "--resume", "--total-steps", "1e5")
    assert code == 2 and "algorithm = 'drifter', not 'ppo'" in err[-1]


def test_report(run, tmp_path):
    assert run(*DRIFT, "--num-agents", 2, "--out", "r")[0] == 0 and run(*DRIFT, "--out", "other/r")[0] == 0
    assert run("video", "r", "--episodes", 1, "--out", "r/film.gif")[0] == 0
    assert run("report", "r") == (0, ["r/report.html: 1 run, 1 film"], [])
    text = (tmp_path / "r" / "report.html").read_text()
    assert "4.0 [4.0, 4.0] (100 episodes of each agent, n = 2)" in text and 'src="data:image/gif;base64,' in text
    assert run("report", "r", "other/r", "--out", "both.html") == (0, ["both.html: 2 runs, 1 film"], [])
    assert "<th>other/r</th>" in (tmp_path / "both.html").read_text()
    os.remove("other/r/metrics.csv")
    for argv, complaint in (
        (("r", "--out", "x.pdf"), "path: expected a name that ends in .html"),
        (("other/r",), "metrics.csv: it is missing; wait for the first update"),
        (("nowhere",), "there is no run here"),
    ):
        code, _, err = run("report", *argv)
        assert code == 2 and complaint in err[0]


def test_ppo_from_end_to_end(run, tmp_path):
    """The real algorithm, and all the columns that it has."""
    command = ("train", "ppo", "--env", "CartPole-v1", *TINY, "--out", "r", "--total-steps", "5e1")
    code, out, _ = run(*command)
    assert code == 0 and re.match(r"48 steps in .*; mean return \d+\.\d over 100 episodes$", out[-1])
    columns = (tmp_path / "r" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert columns[:9] == [
        "update",
        "agent",
        "steps",
        "seconds",
        *("episode_return" + end for end in ("", "_min", "_max")),
        "episode_length",
        "episodes",
    ]
    learning = [
        "policy_loss",
        "value_loss",
        "entropy",
        "approximate_kl",
        "clip_fraction",
        "explained_variance",
        "learning_rate",
        "gradient_norm",
    ]
    assert columns[9:17] == learning
    assert runs.read_config("r")["options"]["num_cells"] == [8]
    assert run("evaluate", "r", "--episodes", 3)[1][-1].startswith("ppo on CartPole-v1 after 48 steps: mean return ")


def test_a_recurrent_policy_from_end_to_end(run, tmp_path):
    """Trained, kept with what it remembers, and evaluated with its memory."""
    command = ("train", "ppo", "--env", "MemoryChain-bsuite", "--out", "r", *TINY, "--set", "recurrent_size=6")
    code, out, _ = run(*command, "--set", "recurrent=gru", "--total-steps", 48)
    assert code == 0 and out[-1].startswith("48 steps")
    state = training.load_run("r").state
    assert state.actor.memory.state.shape == (2, 6) and state.actor.memory.state.any() and "memory" in state.learner.params.network
    assert runs.read_config("r")["options"]["recurrent"] == "gru"
    code, out, err = run("evaluate", "r", "--episodes", 3)
    assert (code, err) == (0, []) and out[-1].startswith("ppo on MemoryChain-bsuite after 48 steps: mean return ")
    code, _, err = run(*command, "--set", "recurrent=gnu")
    assert code == 2 and err == ["funrl: recurrent: expected 'none', 'gru', 'lstm' or 'min_gru', got 'gnu'"]


# On the host


@pytest.fixture
def eager_learners(monkeypatch):
    """A step on the host compiles its parts by itself, but not here; and a few episodes are enough."""
    monkeypatch.setattr(training, "train", functools.partial(training.train, evaluate_episodes=4))
    monkeypatch.setattr(algos._algorithm, "compile", lambda part, **options: part)


TINY_DQN = [
    f"--set={option}" for option in ("num_envs=2", "num_steps=8", "batch_size=4", "learning_starts=16", "num_cells=8", "anneal_steps=inf")
]


@pytest.mark.parametrize(("algorithm", "options"), [("ppo", [*TINY, "--set=anneal_steps=inf"]), ("dqn", TINY_DQN)])
def test_gymnasium_from_end_to_end(run, tmp_path, eager_learners, algorithm, options):
    command = ("train", algorithm, "--env", "gymnasium:CartPole-v1")
    code, out, err = run(*command, *options, "--total-steps", 48)
    assert code == 0 and re.match(r"48 steps in .*; mean return \d+\.\d over 4 episodes$", out[-1]), err
    folder = tmp_path / "runs" / f"{algorithm}-gymnasium-CartPole-v1-0"
    assert runs.read_config(folder)["environment"] == "VectorEnv(gymnasium:CartPole-v1, num_envs=2, host=True)"
    code, out, err = run(*command, "--resume", "--total-steps", 80)
    assert code == 0 and out[-1].startswith("80 steps in "), err
    assert record.read_metrics(folder / "metrics.csv")["update"].tolist() == [1, 2, 3, 4, 5]
    one, again = (run("evaluate", folder, "--episodes", 3) for _ in range(2))
    assert one == again and re.match(algorithm + r" on gymnasium:CartPole-v1 after 80 steps: mean return \d+", one[1][-1]), one
    assert run(*command, "--num-agents", 2, "--total-steps", 1e5)[2][-1].startswith("funrl: num_agents: gymnasium:CartPole-v1 runs outside")


@pytest.mark.parametrize(
    ("collector", "workers", "per_worker", "given", "num_envs", "expected"),
    [
        ("sync", 2, None, {}, 64, 64),
        ("sync", 3, None, {}, 64, 63),
        ("sync", 2, None, {}, 1, 2),
        ("sync", 2, None, {"num_envs": 8}, 8, 8),
        ("sync", 2, 3, {}, 64, 6),
        ("sync", 2, 4, {"num_envs": 8}, 8, 8),
        ("async", 2, None, {}, 64, 64),
        ("async", 2, 3, {}, 64, 3),
        ("async", 3, None, {"num_envs": 4}, 4, 4),
    ],
)
def test_environments_are_shared_out(collector, workers, per_worker, given, num_envs, expected):
    assert _num_envs(collector, workers, per_worker, given, {"num_envs": num_envs}) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "collector"),
    [
        ("ppo", "sync"),
        *(
            pytest.param(*x, marks=pytest.mark.nightly)
            for x in (("sac", "async"), ("ppo", "async"), ("sac", "sync"), ("impala", "sync"), ("impala", "async"))
        ),
    ],
)
def test_workers_from_end_to_end(run, tmp_path, algorithm, collector):
    """Trained, resumed by what config.json says, and evaluated."""
    env = "gymnasium:Pendulum-v1" if algorithm == "sac" else "gymnasium:CartPole-v1"
    options = {
        "ppo": ["--set=num_minibatches=2", "--set=num_epochs=1", "--set=anneal_steps=inf"],
        "impala": ["--set=num_minibatches=2", "--set=anneal_steps=inf"],
        "sac": ["--set=batch_size=8", "--set=num_updates=2", "--set=learning_starts=32"],
    }[algorithm]
    command = ("train", algorithm, "--env", env, "--out", "r")
    how = ("--collector", collector, "--num-workers", 2, "--envs-per-worker", 2, "--set=num_steps=8", "--set=num_cells=8", *options)
    each = 32 if collector == "sync" else 16
    code, out, err = run(*command, *how, "--total-steps", 3 * each)
    assert code == 0 and out[-1].startswith(f"{3 * each} steps in "), err
    config = runs.read_config("r")
    assert (config["collector"], config["num_workers"]) == ("synchronous" if collector == "sync" else "asynchronous", 2)
    assert config["options"]["num_envs"] == each // 8
    code, out, err = run(*command, "--resume", "--total-steps", 5 * each)
    assert code == 0 and out[-1].startswith(f"{5 * each} steps in "), err
    assert any("frames that were in flight" in line for line in err) == (collector == "async")
    assert record.read_metrics(tmp_path / "r" / "metrics.csv")["update"].tolist() == [1, 2, 3, 4, 5]
    code, out, err = run("evaluate", "r", "--episodes", 2)
    assert (code, err) == (0, []) and out[-1].startswith(f"{algorithm} on {env} after {5 * each} steps: mean return ")
    code, out, err = run(*command, "--resume", "--num-workers", 4)
    assert code == 2 and "num_workers = 2, not 4" in err[-1]


def test_an_environment_that_fails_is_one_line(run, eager_learners, monkeypatch):
    def step(self, action):
        raise RuntimeError("the motor is broken")

    monkeypatch.setattr("gymnasium.envs.classic_control.CartPoleEnv.step", step)
    code, out, err = run("train", "ppo", "--env", "gymnasium:CartPole-v1", *TINY, "--total-steps", 48)
    assert code == 1 and out == [] and err[-1].startswith("funrl: gymnasium:CartPole-v1: copy 0 raised in step: RuntimeError: the motor is")


PPO = dict(num_envs=2, num_steps=8, num_epochs=1, num_minibatches=2, num_cells=(8,))


@pytest.mark.parametrize(
    ("algorithm", "options", "name", "settings"),
    [("ppo", PPO, "gymnasium:CartPole-v1", {"num_envs": 2, "frame_skip": 2}), ("drifter", {}, "CartPole-v1", {})],
)
def test_what_the_name_does_not_tell_is_not_lost(run, eager_learners, algorithm, options, name, settings):
    """A run with settings or transforms goes on from Python; what makes the environment by its name refuses."""

    def train(total_steps, **how):
        with transforms.compose(envs.make(name, **settings), transforms.time_limit(5)) as env:
            algo = algos.make(algorithm, env, **options)
            return training.train(algo, random.key(0), total_steps, out="r", progress=False, evaluate_episodes=0, **how)

    assert train(48).updates > 0
    for argv in (("evaluate", "r"), ("train", algorithm, "--env", name, "--out", "r", "--resume")):
        code, out, err = run(*argv)
        assert code == 2 and out == [] and len(err) == 1 and "time_limit" in err[0] and "algorithm yourself" in err[0]
        assert ("frame_skip=2" in err[0]) == bool(settings)
    assert train(80, resume=True).steps == 80


@pytest.mark.parametrize(("name", "env"), [pytest.param("sac", "Pendulum-v1", marks=pytest.mark.slow), ("dqn", "CartPole-v1")])
def test_off_policy_learners_from_end_to_end(run, name, env):
    sizes = ("num_envs=2", "num_steps=8", "num_updates=2", "batch_size=8", "num_cells=8", "buffer_size=64")
    settings = (*sizes, "learning_starts=32", "anneal_steps=inf")
    command = ("train", name, "--env", env)
    options = [f"--set={setting}" for setting in settings]
    code, out, _ = run(*command, *options, "--out", "r", "--total-steps", 48)
    assert code == 0 and re.match(r"48 steps in .*; mean return -?\d+\.\d over 100 episodes$", out[-1])
    assert run("evaluate", "r", "--episodes", 3)[1][-1].startswith(f"{name} on {env} after 48 steps: mean return ")
    code, out, _ = run(*command, "--out", "r", "--resume", "--total-steps", 96)
    assert code == 0 and out[-1].startswith("96 steps in ")
    assert run(*command, *options, "--out", "whole", "--total-steps", 96)[0] == 0
    resumed, whole = (training.load_run(folder).state for folder in ("r", "whole"))
    assert resumed.learner.num_updates == 2 * 5  # the step that reaches learning_starts learns, and so do those after it
    for x, y in zip(tree.leaves(resumed), tree.leaves(whole), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
def test_ppo_that_diverges(run):
    code, out, err = run("train", "ppo", "--env", "CartPole-v1", *TINY, "--out", "r", "--total-steps", 160, "--set", "learning_rate=1e30")
    assert code == 1 and out == []
    assert re.fullmatch(r"funrl: update \d: \w+ of agent 0 is (nan|-?inf), so the run was stopped; .*try a lower learning_rate", err[-1])


def test_a_nan_keeps_the_last_finite_checkpoint(run, tmp_path):
    code, out, err = run(*DRIFT, "--out", "r", "--set", "bad_loss_at=4")
    assert (
        code == 1 and out == [] and "update 4: value_loss of agent 0 is nan" in err[-1] and "the checkpoint of update 1 is kept" in err[-1]
    )
    assert training.load_run("r").updates == 1


def test_video(run, tmp_path):
    assert run(*DRIFT, "--num-agents", 2, "--out", "r")[0] == 0
    code, out, err = run("video", "r", "--episodes", 2, "--agent", 1, "--out", "films/x.gif")
    assert (code, out) == (0, ["films/x.gif: mean return 4.0 over 2 episodes"])
    assert err[0] == "filming 2 episodes of CartPole-v1, of at most 4 steps each ..."
    assert (tmp_path / "films" / "x.gif").read_bytes().startswith(b"GIF89a")
    for argv, complaint in (
        (("--agent", 2), "--agent: expected one of the run's 2, from 0 to 1, got 2"),
        (("--episodes", 0), "--episodes: expected at least 1, got 0"),
        (("--out", "x.avi"), "--out: expected a name that ends in .mp4 or .gif, got 'x.avi'"),
    ):
        assert run("video", "r", *argv) == (2, [], [f"funrl: {complaint}"])
    assert set(os.listdir("r")) == {"config.json", "metrics.csv", "learning_curve.png", "checkpoint", "evaluation.json"}


def test_a_run_of_ones_own_algorithm(run, tmp_path, monkeypatch):
    """Which the command line does not know by its name."""
    (tmp_path / "my_own.py").write_text(
        "from tests.record.drifter import algorithm\ndef make():\n    return algorithm()._replace(name='mine')\nthing = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    mine = drifter.algorithm()._replace(name="mine")
    training.train(mine, random.key(0), 20, out="r", evaluate_episodes=0, progress=False, backend="eager")
    code, _, err = run("evaluate", "r")
    assert code == 2 and "no algorithm is called 'mine'; if it is your own, give it: load_run(..., algo=algo), or --algo" in err[0]
    code, out, err = run("evaluate", "r", "--episodes", 3, "--algo", "my_own:make")
    assert code == 0 and out[-1].startswith("mine on CartPole-v1 after 20 steps: mean return"), err
    code, out, err = run("video", "r", "--episodes", 1, "--algo", "my_own:make", "--out", "film.gif")
    assert code == 0 and out[-1].startswith("film.gif: mean return") and err[0].startswith("filming 1 episodes of CartPole-v1, of at most")
    for name, message in (("my_own", "expected MODULE:NAME"), ("my_own:thing", "object is not callable"), ("none:x", "No module named")):
        code, out, err = run("evaluate", "r", "--algo", name)
        assert code == 2 and message in err[0]


def test_ones_own_algorithm_is_trained_and_resumed(run, tmp_path, monkeypatch):
    """Also a run that was begun in Python, which has a key and notes but no seed."""
    (tmp_path / "my_other.py").write_text(
        "from tests.record.drifter import algorithm\ndef make():\n    return algorithm()._replace(name='mine')\n"
    )
    monkeypatch.chdir(tmp_path)
    mine = drifter.algorithm()._replace(name="mine")
    whole = training.train(mine, random.key(7), 40, out="whole", evaluate_episodes=0, progress=False, backend="eager")
    training.train(mine, random.key(7), 20, out="r", evaluate_episodes=0, progress=False, backend="eager", notes={"who": "me"})
    own = ("train", "--algo", "my_other:make")
    code, out, err = run(*own, "--resume", "--out", "r", "--total-steps", 40)
    assert code == 0 and out[-1].startswith("40 steps in "), err
    state, config = training.load_run("r", algo=mine)[1:3]
    assert tree.equal(state, whole.state) and config["total_steps"] == 40 and "seed" not in config

    code, out, err = run(*own, "--total-steps", 20, "--seed", 3, "--num-agents", 2)
    assert code == 0 and out[-1].startswith("2 agents x 20 steps"), err
    assert runs.read_config("runs/mine-CartPole-v1-3")["seed"] == 3
    code, out, err = run(*own, "--resume", "--seed", 3, "--total-steps", 30)
    assert code == 0 and out[-1].startswith("2 agents x 30 steps"), err
    runs.Folder("c").write_config(runs.describe(mine, random.key(0), 20, 1, {"collector": "synchronous"}))
    for argv, message in (
        ((), "--total-steps: expected a number of steps"),
        (("ppo",), "algorithm: an algorithm of --algo has its own environment and options; leave algorithm out"),
        (("--env", "Catch-bsuite"), "--env: an algorithm of --algo has its own"),
        (("--set", "rate=1"), "leave --set out, and give it there"),
        (("--collector", "sync"), "leave --collector out, and use funrl.train(collector=)"),
        (("--resume", "--out", "c"), "c: cannot resume here: the run has a collector"),
        (("--resume", "--out", "none"), "there is no run here"),
        (("--resume", "--out", "r", "--seed", 1, "--total-steps", 40), "cannot resume: the run there has seed = None, not 1"),
    ):
        code, out, err = run(*own, *argv)
        assert code == 2 and message in err[-1], err


def test_a_module_that_a_run_names_is_imported_if_it_is_trusted(run, tmp_path, monkeypatch):
    """By train --resume too: --trust, or --env, which names it again."""
    (tmp_path / "my_ids.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Mine-v0', CartPoleEnv, max_episode_steps=5)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = "gymnasium:my_ids:Mine-v0"
    tiny = ["--set=num_envs=2", "--set=num_steps=4", "--set=num_minibatches=1", "--set=num_epochs=1", "--set=anneal_steps=inf"]
    assert run("train", "ppo", "--env", name, "--total-steps", 8, "--out", "r", "--backend", "eager", *tiny)[0] == 0
    code, _, err = run("train", "--resume", "--out", "r", "--total-steps", 16)
    assert code == 2 and "say so: load_run(..., trust=True), or --trust" in err[-1]
    assert run("train", "--resume", "--out", "r", "--total-steps", 16, "--trust")[0] == 0
    assert run("train", "--env", name, "--resume", "--out", "r", "--total-steps", 24)[0] == 0
    assert run("evaluate", "r", "--episodes", 1)[0] == 2 and run("evaluate", "r", "--episodes", 1, "--trust")[0] == 0


def test_a_run_in_ones_own_environment(run, tmp_path, monkeypatch):
    """Which its name does not tell: here one on the host, under a transform."""
    (tmp_path / "my_world.py").write_text(
        "from funrl import algos, envs, transforms\n"
        "def make():\n"
        "    env = envs.make('gymnasium:CartPole-v1', num_envs=2, render_mode='rgb_array')\n"
        "    env = transforms.compose(env, transforms.time_limit(5))\n"
        "    return algos.ppo.make(env, num_envs=2, num_steps=4, num_minibatches=1, num_cells=(4,))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with importlib.import_module("my_world").make().env as env:
        algo = algos.ppo.make(env, num_envs=2, num_steps=4, num_minibatches=1, num_cells=(4,))
        training.train(algo, random.key(0), 16, out="r", evaluate_episodes=0, progress=False, backend="eager")
    code, _, err = run("evaluate", "r")
    assert code == 2 and "the environment was compose(" in err[0] and "--algo MODULE:NAME" in err[0]
    code, out, err = run("evaluate", "r", "--episodes", 2, "--algo", "my_world:make")
    assert (code, out) == (0, ["ppo on gymnasium:CartPole-v1 after 16 steps: mean return 5.0 over 2 episodes"]), err
    code, out, err = run("video", "r", "--episodes", 2, "--algo", "my_world:make", "--out", "film.gif")
    assert (code, out) == (0, ["film.gif: mean return 5.0 over 2 episodes"]), err


def test_video_without_its_packages(run, monkeypatch):
    assert run(*DRIFT, "--out", "r")[0] == 0
    monkeypatch.setitem(sys.modules, "imageio.v2", None)
    code, out, err = run("video", "r")
    assert code == 2 and out == [] and err[0].endswith('pip install "funrl[video]"')


def test_video_on_the_host(run, tmp_path, eager_learners):
    assert run("train", "ppo", "--env", "gymnasium:CartPole-v1", *TINY, "--out", "r", "--total-steps", 16)[0] == 0
    code, out, err = run("video", "r", "--episodes", 2)
    assert code == 0 and re.fullmatch(r"r/video\.mp4: mean return \d+\.\d over 2 episodes", out[0]), err
    assert (tmp_path / "r" / "video.mp4").stat().st_size > 1_000


def test_plot(run, tmp_path):
    for folder, seed in (("a", 0), ("b", 1)):
        assert run(*DRIFT, "--num-agents", 3, "--seed", seed, "--out", folder)[0] == 0
    assert run("plot", "a", "b") == (0, ["learning_curves.png: 2 runs"], [])
    assert run("plot", "a", "--out", "new/a.svg") == (0, ["new/a.svg: 1 run"], [])
    assert (tmp_path / "learning_curves.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (tmp_path / "new" / "a.svg").read_text()
    (tmp_path / "a" / "metrics.csv").unlink()
    for argv, complaint in (
        (("b", "--out", "b.jpg"), "--out: expected a name that ends in .png or .svg or .pdf, got 'b.jpg'"),
        (("b", "c"), "c: there is no run here"),
        (("b", "a"), "No such file or directory: 'a/metrics.csv'"),
    ):
        code, out, err = run("plot", *argv)
        assert code == 2 and out == [] and len(err) == 1 and complaint in err[0]


def test_envs(run):
    code, out, err = run("envs")
    assert code == 0 and err == [] and [line.split()[0] for line in out][:2] == ["CartPole-v1", "Pendulum-v1"]
    assert out[1].endswith("observation Box [3], action Box [1], at most 200 steps")
    assert [line.split()[0] for line in out[-2:]] == ["gymnasium:ID", "dm_control:DOMAIN-TASK"]


CARTPOLE = ("train", "ppo", "--env", "CartPole-v1", "--total-steps", 10_000)
WORKERS = ("train", "ppo", "--env", "gymnasium:CartPole-v1", "--total-steps", 10_000, "--collector", "sync")


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ((), "the following arguments are required"),
        (("tarin",), "invalid choice: 'tarin'"),
        (("train", "ppo"), "the following arguments are required: --env; ppo has presets for CartPole-v1, Acrobot-v1, "),
        (("train", "feudal"), "required: --env; feudal has presets for FourRooms-misc; see python -m funrl train --help"),
        (("train", "ppo", "--env", "cartpole-v0"), "no environment is called 'cartpole-v0'; did you mean CartPole-v1"),
        (("train", "ppo", "--env", "Go"), "no environment is called 'Go'; choose one of CartPole-v1"),
        (("train", "ppo", "--env", "gymnasium:Go-v1"), "gymnasium.make: id: Environment `Go` doesn't exist"),
        (("train", "ppo", "--env", "dm_control:cartpole"), "dm_control.make: task: cartpole has none called ''"),
        (("train", "pop", "--env", "CartPole-v1"), "no algorithm is called 'pop'; did you mean ppo?"),
        (("train", "td3bc", "--env", "Pendulum-v1"), "no algorithm is called 'td3bc'; did you mean td3_bc"),
        ((*CARTPOLE, "--set", "learnin_rate=1"), "unknown option 'learnin_rate': did you mean learning_rate"),
        ((*CARTPOLE, "--set", "zzz=big"), "unknown option 'zzz': choose one of num_channels, kernel_size, "),
        ((*CARTPOLE, "--set", "norm=layer"), "; help(funrl.algos.ppo.PPOConfig) says what each of them does"),
        ((*CARTPOLE, "--set", "learning_rate"), "expected NAME=VALUE, such as learning_rate=3e-4"),
        ((*CARTPOLE, "--set", "learning_rate=fast"), "expected a number (inf too), got 'fast'"),
        ((*CARTPOLE, "--set", "num_envs=2.5"), "expected a whole number, got '2.5'"),
        ((*CARTPOLE, "--set", "num_envs="), "expected a whole number, got ''"),
        ((*CARTPOLE, "--set", "num_cells=64,big"), "expected whole numbers with commas, such as 64,64, got '64,big'"),
        ((*CARTPOLE, "--set", "normalize_reward=yes"), "expected true or false, got 'yes'"),
        ((*CARTPOLE, "--set", "num_minibatches=7"), "num_minibatches: expected a divisor of num_envs * num_steps = 1024, got 7"),
        ((*CARTPOLE, "--set", "learning_rate=-1"), "learning_rate: expected a number of at least 0, got -1.0"),
        ((*CARTPOLE, "--set", "learning_rate=inf"), "learning_rate: expected a finite number of at least 0, got inf"),
        ((*CARTPOLE, "--set", "learning_rate=nan"), "learning_rate: expected a number of at least 0, got nan"),
        ((*CARTPOLE, "--set", "trunk=split"), "trunk: expected 'separate' or 'shared', got 'split'"),
        ((*CARTPOLE, "--set", "activation=sine"), "activation"),
        (("train", "ppo", "--env", "Pendulum-v1", "--set", "uniform_mix=0.1"), "uniform_mix: is for discrete actions, but Pendulum-v1"),
        (("train", "ppo", "--env", "CartPole-v1", "--total-steps", "100"), "total_steps: one update takes 1,024 steps, got 100"),
        (
            ("train", "ppo", "--env", "CartPole-v1", "--total-steps", "many"),
            "argument --total-steps: expected a whole number such as 500000 or 5e5, got 'many'",
        ),
        ((*CARTPOLE, "--num-agents", 0), "num_agents: expected an integer of at least 1, got 0"),
        ((*CARTPOLE, "--seed", 1 << 70), "seed"),
        ((*CARTPOLE, "--out", "/proc/version/run"), "/proc/version/run: cannot write there"),
        ((*CARTPOLE, "--out", "taken"), "taken: another run is here; resume it (--resume), or choose another folder (--out)"),
        ((*CARTPOLE, "--out", "empty", "--resume"), "empty: there is no run here"),
        (("train", "--out", "empty", "--resume"), "empty: there is no run here"),
        (("train", "--out", "new"), "the following arguments are required: algorithm, --env; see python -m funrl train --help"),
        (("train", "--resume"), "required: algorithm, --env; train --resume --out DIR continues the run in DIR; see"),
        ((*CARTPOLE, "--collector", "sync"), "--collector: CartPole-v1 is pure torch: its steps are in the program that learns"),
        ((*CARTPOLE, "--collector", "both"), "invalid choice: 'both' (choose from 'sync', 'async')"),
        ((*CARTPOLE, "--num-workers", 2), "--num-workers: there are workers only with --collector sync or async"),
        ((*CARTPOLE, "--envs-per-worker", 2), "--envs-per-worker: there are workers only with --collector sync or async"),
        ((*WORKERS, "--num-workers", 0), "--num-workers: expected at least 1, got 0"),
        ((*WORKERS, "--envs-per-worker", 0), "--envs-per-worker: expected at least 1, got 0"),
        ((*WORKERS, "--num-workers", 3, "--set", "num_envs=4"), "--num-workers: 3 do not divide num_envs = 4"),
        (
            (*WORKERS, "--envs-per-worker", 3, "--set", "num_envs=4"),
            "--envs-per-worker: 3 make 6 in a batch, but num_envs=4 was asked for; give one of both",
        ),
        (("evaluate", "empty"), "empty: there is no run here (no config.json)"),
        (("evaluate", "nowhere"), "nowhere: there is no run here"),
        (("evaluate", "taken"), "taken/config.json: it is damaged"),
        (("evaluate", "begun"), "begun: the run has no checkpoint yet"),
        (("evaluate", "broken"), "broken/checkpoint/state: it is not a checkpoint of funrl"),
        (
            ("train", "drifter", "--env", "CartPole-v1", "--out", "broken", "--resume"),
            "broken/checkpoint/state: it is not a checkpoint of funrl",
        ),
        (("evaluate", "begun", "--episodes", "some"), "argument --episodes: expected a whole number"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, monkeypatch, argv, complaint):
    monkeypatch.setattr("funrl.training._experience.compile", lambda program, **options: None)  # none is called
    for name in ("empty", "taken", "begun", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "taken" / "config.json").write_text("precious")
    algo = drifter.algorithm()
    for name in ("begun", "broken"):
        runs.Folder(tmp_path / name).write_config(runs.describe(algo, torch.tensor(0), 50, 1, {"seed": 0}) | {"key": int(random.key(0))})
    runs.Folder("broken").checkpoint.parent.mkdir()
    runs.Folder("broken").checkpoint.write_text("rubbish")
    before = contents(tmp_path)
    code, out, err = run(*argv)
    assert code == 2 and out == []
    assert err[-1].startswith("funrl: ") and complaint in err[-1], err
    assert len(err) == 1
    assert contents(tmp_path) == before and not (tmp_path / "runs").exists()


def test_interrupted(run, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", interrupted)
    code, out, err = run(*DRIFT, "--out", "r")
    assert code == 130 and out == [] and err[-1].startswith("funrl: interrupted; ") and "Traceback" not in "".join(err)


def test_an_interrupted_evaluation_has_nothing_to_resume(run, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "load_run", interrupted)
    assert run("evaluate", "r") == (130, [], ["funrl: interrupted"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"options": {"rate": "abc"}}, "cannot make the algorithm again: rate: expected a number, got 'abc'"),
        ({"options": {"rate": []}}, "cannot make the algorithm again: rate: expected float"),
        ({"options": {"speed": 1}}, "cannot make the algorithm again: unknown option 'speed'"),
        ({"num_agents": 0}, "it is damaged"),
        ({"total_steps": True}, "it is damaged"),
        ({"seed": "abc"}, "seed"),
    ],
)
def test_a_damaged_configuration_is_not_resumed(run, tmp_path, change, complaint):
    assert run(*DRIFT, "--out", "r")[0] == 0
    path = tmp_path / "r" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    before = contents(tmp_path)
    code, out, err = run("train", "drifter", "--env", "CartPole-v1", "--out", "r", "--resume")
    assert code == 2 and out == [] and len(err) == 1 and complaint in err[0] and contents(tmp_path) == before


def test_an_annealed_run_is_not_extended(run, tmp_path):
    assert run(*DRIFT, "--out", "r", "--set", "anneal_steps=50")[0] == 0
    before = contents(tmp_path)
    again = ("train", "drifter", "--env", "CartPole-v1", "--out", "r", "--resume")
    code, out, err = run(*again, "--total-steps", 100)
    assert code == 2 and out == [] and contents(tmp_path) == before
    assert err == [
        "funrl: r: cannot resume: the learning rate falls to 0 at 50 steps (anneal_steps), so further steps would learn nothing; "
        "let it fall later with --set anneal_steps=100, or inf for never"
    ]
    assert run(*again, "--set", "anneal_steps=40")[0] == 2 and contents(tmp_path) == before
    assert run(*again)[0] == 0
    assert run(*again, "--total-steps", 100, "--set", "anneal_steps=100")[0] == 0 and training.load_run("r").updates == 10
    assert run(*DRIFT, "--out", "s", "--set", "anneal_steps=70")[0] == 0
    assert run("train", "drifter", "--env", "CartPole-v1", "--out", "s", "--resume", "--total-steps", 70)[0] == 0
    assert run(*DRIFT, "--out", "t", "--set", "anneal_steps=20")[0] == 0  # as it was asked for, to its end
    assert run("train", "drifter", "--env", "CartPole-v1", "--out", "t", "--resume")[0] == 0


def test_a_full_disk(run, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device", "r/checkpoint/state")

    monkeypatch.setattr(checkpoint, "save", full)
    code, _, err = run(*DRIFT, "--out", "r")
    assert code == 1 and err[-1] == "funrl: [Errno 28] No space left on device: 'r/checkpoint/state'"


def test_faults_of_the_program_are_not_hidden(monkeypatch):
    monkeypatch.setattr(training._loop, "evaluate_agents", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([str(x) for x in DRIFT])


def test_help(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["train", "--help"])
    assert exit.value.code == 0 and "--num-agents" in capsys.readouterr().out


def test_presets_name_what_exists():
    for (algorithm, env), preset in training.PRESETS.items():
        with algos.make(algorithm, env, **preset.options).env:
            assert training.preset(algorithm, env) is preset
        assert preset.total_steps >= 10_000  # what the thriftiest, REDQ, takes


@pytest.mark.slow
def test_a_killed_run_of_ppo_ends_bit_equal(tmp_path):
    """The command line itself, with generated code: killed while it trains, resumed, and compared."""

    def command(out, *more):
        options = ["--set=num_envs=8", "--set=num_steps=16", "--num-agents=2", "--total-steps=40_000", f"--out={tmp_path / out}"]
        return [sys.executable, "-m", "funrl", "train", "ppo", "--env=CartPole-v1", *options, *more]

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    options = dict(capture_output=True, text=True, timeout=300, env=environment)
    whole = subprocess.run(command("whole"), **options)
    assert whole.returncode == 0, whole.stderr
    process = preloaded.Popen(command("run"), stderr=subprocess.DEVNULL, env=environment)
    metrics = tmp_path / "run" / "metrics.csv"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 2000):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < training.load_run(tmp_path / "run").updates < 312
    resumed = preloaded.run(command("run", "--resume"), **options)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.split("; ")[-1] == whole.stdout.split("; ")[-1]
    one, other = (training.load_run(tmp_path / name) for name in ("whole", "run"))
    assert one.updates == other.updates == 312
    for x, y in zip(tree.leaves(one.state), tree.leaves(other.state), strict=True):
        assert torch.equal(x.view(-1).view(torch.uint8), y.view(-1).view(torch.uint8))
    updates = record.read_metrics(metrics)["update"].tolist()
    assert updates == [i for i in range(1, 313) for _ in range(2)]
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == json.loads((tmp_path / "whole" / "config.json").read_text())


@pytest.mark.slow
def test_ctrl_c(tmp_path):
    command = [sys.executable, "-m", "funrl", "train", "ppo", "--env=CartPole-v1", "--total-steps=1e8", *TINY, f"--out={tmp_path / 'run'}"]
    process = preloaded.Popen(command, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "run" / "checkpoint" / "state"
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in err and err.splitlines()[-1].startswith("funrl: interrupted; ")
    assert [x.name for x in state.parent.iterdir()] == ["state"] and training.load_run(tmp_path / "run").updates > 0


ANYWHERE = """
import sys, torch, funrl
from funrl import algos, debug, record, tree
from funrl.__main__ import main
from tests.record import drifter
algos._ALGORITHMS["drifter"] = drifter.make, drifter.DrifterConfig
name = "gr\\xf6\\xdfe \\u5927"
run = sys.argv[1]
debug.print(name + " {}", torch.ones(1))
tree.save({name: torch.ones(1)}, run + ".safetensors")
assert list(tree.load(run + ".safetensors")) == [name]
for keep in (0, 1):
    with record.loggers.csv(run + ".csv", keep=keep) as log, record.loggers.console(sys.stdout) as console:
        for each in (log, console):
            each.log(keep + 1, {name: torch.tensor(1.0)})
assert len(record.read_metrics(run + ".csv")[name]) == 2
command = ["train", "drifter", "--env", "CartPole-v1", "--backend", "eager", "--out", run]
for command in (
    [*command, "--total-steps", "30"],
    [*command, "--total-steps", "50", "--resume"],
    ["plot", run, "--out", run + ".png"],
    ["evaluate", run, "--episodes", "1"],
):
    assert main(command) == 0, command
assert main(["evaluate", run + "x"]) == 2
"""


@pytest.mark.slow
def test_names_that_the_locale_cannot_encode(tmp_path):
    """In the C locale without Python's coercion to UTF-8, in which files are read as ASCII by default."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-W", "ignore", "-c", ANYWHERE, os.fsencode(tmp_path / "r\xfcn")]
    done = subprocess.run(command, capture_output=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert rb"gr\xf6\xdfe" in done.stdout and (tmp_path / "r\xfcn.png").exists() and (tmp_path / "r\xfcn" / "learning_curve.png").exists()
