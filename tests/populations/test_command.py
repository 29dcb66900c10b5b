"""``python -m funrl sweep``, whole, broken, and with bad input."""

import signal
import sys
import time

import numpy as np
import pytest

from funrl import algos, populations, random, record, training
from funrl.__main__ import main
from tests import preloaded
from tests.populations import climber

KEY = random.key(11)


@pytest.fixture(autouse=True)
def climbers(monkeypatch, tmp_path):
    """``climber`` is an algorithm, and runs/ is in a temporary folder."""
    monkeypatch.setitem(algos._ALGORITHMS, "climber", (climber.make, climber.ClimberConfig))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys):
    def run(*argv):
        code = main([str(x) for x in ("sweep", *argv)])
        shown = capsys.readouterr()
        return code, shown.out.splitlines(), shown.err.splitlines()

    return run


SWEEP = ("climber", "--env", "CartPole-v1", "--num-agents", 8, "--total-steps", 50, "--backend", "eager")


def test_a_sweep_from_end_to_end(run, tmp_path):
    code, out, _ = run(*SWEEP, "--set", "rate=log:0.5..8", "wind=0.1,0.2", "width=2,3", "num_steps=10", "--seeds", 2, "--chunk", 4)
    folder = tmp_path / "runs" / "sweep-climber-CartPole-v1-0"
    table = populations.read_table(folder / "table.csv")
    lost = int((table.hparams["rate"] > 2).sum())
    assert code == 0 and out[-1].startswith(f"16 agents, {lost} diverged; best: rate=") and lost
    assert sorted(x.name for x in folder.iterdir()) == [*(f"chunk-00{i}" for i in range(4)), "sweep.json", "sweep.png", "table.csv"]
    assert table.configuration.tolist() == [i // 2 for i in range(16)] and table.hparams["width"].tolist() == [2] * 8 + [3] * 8
    two = populations.by_value(climber.algorithm(), {"width": [2, 3]}, make=climber.algorithm)
    space = {"rate": populations.log_uniform(0.5, 8.0), "wind": [0.1, 0.2]}
    whole = populations.run([populations.sweep(x, space, 8, num_seeds=2) for x in two], random.key(0), 50, backend="eager")
    np.testing.assert_allclose(table.curves, whole.curves, rtol=1e-8)  # files have nine digits
    np.testing.assert_array_equal(table.diverged, whole.diverged)
    before = (folder / "table.csv").read_bytes()
    (folder / "table.csv").unlink()
    assert run("--resume", "--out", folder, "--backend", "eager")[0] == 0 and (folder / "table.csv").read_bytes() == before
    assert run("climber", "--env", "CartPole-v1", "--resume", "--backend", "eager")[0] == 0
    code, _, err = run("--resume", "--out", folder, "--seeds", 4)
    assert code == 2 and "the sweep there has --seeds 2, not 4; leave it out" in err[-1]
    code, _, err = run(*SWEEP, "--set", "rate=0.1,0.2", "--out", folder)
    assert code == 2 and "another sweep is here; resume it" in err[-1]
    code, _, err = run("--resume", "--out", folder, "--chunk", 8)
    assert code == 2 and "chunk = 4, not 8" in err[-1]


def test_pbt_and_seeds_from_the_command_line(run, tmp_path):
    code, out, _ = run(*SWEEP, "--set", "rate=0.1..1", "--method", "pbt", "--total-steps", 500, "--out", "bred")
    assert code == 0 and "8 agents, 0 diverged" in out[-1]
    columns = record.read_metrics(tmp_path / "bred" / "chunk-000" / "metrics.csv")
    assert {"parent", "hparams.rate"} <= set(columns) and (columns["parent"] != columns["agent"]).any()
    code, out, _ = run("climber", "--env", "CartPole-v1", "--set", "wind=0.3", "--seeds", 3, "--total-steps", 30, "--out", "seeds")
    assert code == 0 and out[-1].startswith("3 agents, 0 diverged; best: ")
    run_of_bred = "bred/chunk-000"
    for argv in (
        ("bred", "seeds"),
        ("bred",),
        ("bred", "--over"),
        (run_of_bred,),
        (run_of_bred, "--over"),
        (run_of_bred, "seeds/chunk-000"),
    ):
        assert main(["plot", *argv, "--out", "curves.png"]) == 0 and (tmp_path / "curves.png").stat().st_size > 0
        (tmp_path / "curves.png").unlink()
    for argv in (("bred", run_of_bred), ("seeds/chunk-000", "--over"), ("bred", "seeds", "--over"), ("nowhere",)):
        assert main(["plot", *argv, "--out", "curves.png"]) == 2 and not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("climber", "--env", "CartPole-v1"), "required: --set"),
        (("climber", "--set", "rate=1,2"), "required: --env"),
        (("climbr", "--env", "CartPole-v1", "--set", "rate=1,2"), "no algorithm is called 'climbr'; did you mean climber"),
        (("climber", "--env", "CartPole-v1", "--set", "rate=1,2"), "--num-agents: expected the number of agents in all"),
        ((*SWEEP, "--set", "rate=2..1"), "--set rate=2..1: uniform: expected low < high, got 2.0 and 1.0, an empty range"),
        ((*SWEEP, "--set", "rate=log:0..1"), "low: expected a number above 0, got 0.0"),
        ((*SWEEP, "--set", "rate=ln:1..2"), "expected log:LOW..HIGH or LOW..HIGH, got 'ln'"),
        ((*SWEEP, "--set", "rate=a..2"), "--set rate=a..2: expected LOW..HIGH, two numbers, got 'a..2'"),
        ((*SWEEP, "--set", "rat=1,2"), "unknown option 'rat': did you mean rate?"),
        ((*SWEEP, "--set", "width=1..2"), "--set width=1..2: expected a whole number, got '1..2'"),
        ((*SWEEP, "--set", "rate=1,2", "rate=1..2"), "--set rate: expected once, got it twice"),
        ((*SWEEP, "--set", "rate=1,2", "--seeds", 3), "n: expected a multiple of num_seeds, 3"),
        ((*SWEEP, "--set", "width=1,2", "--method", "pbt"), "--method pbt: expected a range or choices of a hyperparameter"),
        ((*SWEEP, "--set", "rate=1,2", "--total-steps", 5), "total_steps: expected an integer of at least 10"),
        (("--resume", "--out", "/nowhere"), "there is no sweep here"),
        (("--resume",), "--out: expected the folder of the sweep to resume"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, tmp_path, argv, complaint):
    code, out, err = run(*argv)
    assert code == 2 and not out and complaint in err[-1], err
    assert not list(tmp_path.iterdir())


def test_a_damaged_sweep_is_not_resumed(run, tmp_path):
    (tmp_path / "sweep.json").write_text('{"format": 1}')
    code, _, err = run("--resume", "--out", tmp_path)
    assert code == 2 and "it is damaged or not of funrl" in err[-1]


def sweep_in_a_process(out, method, resume=False):
    """Sweep with checkpoints at each update, slowly, as the process is to be killed."""
    algo = climber.algorithm()
    space = {"rate": populations.log_uniform(0.1, 1.5)}
    made = populations.pbt(algo, space, 6, period=2) if method == "pbt" else populations.sweep(algo, space, 6)
    options = dict(chunk=None if method == "pbt" else 3, checkpoint_every=0.0, progress=False, backend="eager")
    training.train_populations(made, KEY, 400, out=out, resume=resume, **options)


def killed(out, method, times):
    """Run it in processes of its own, of which so many are killed at random moments, until one ends."""
    code = "import sys; from tests.populations.test_command import sweep_in_a_process as f; f(*sys.argv[1:3], resume=len(sys.argv) > 3)"
    chance, deaths = np.random.default_rng(), 0
    for number in range(times + 1):
        again = ["resume"] if (out / "sweep.json").exists() else []
        process = preloaded.Popen([sys.executable, "-c", code, str(out), method, *again])
        if number < times:
            states = [out / f"chunk-00{i}" / "checkpoint" / "state" for i in range(2)]
            seen = [x.stat().st_mtime_ns if x.exists() else None for x in states]
            while [x.stat().st_mtime_ns if x.exists() else None for x in states] == seen and process.poll() is None:
                time.sleep(0.005)
            time.sleep(chance.uniform(0.0, 0.2))
            process.kill()
        deaths += process.wait() == -signal.SIGKILL
    assert process.returncode == 0
    return deaths


def same_results(out, method):
    sweep_in_a_process(out / "whole", method)
    for name in ("table.csv", "chunk-000/metrics.csv"):
        texts = [(out / folder / name).read_text().splitlines() for folder in ("whole", "killed")]
        if name.endswith("metrics.csv"):  # all but the seconds
            column = texts[0][0].split(",").index("seconds")
            texts = [[line.split(",")[:column] + line.split(",")[column + 1 :] for line in text] for text in texts]
        assert texts[0] == texts[1], name


@pytest.mark.slow
def test_a_killed_sweep_ends_bit_equal(tmp_path):
    """Slow, as each process takes seconds to begin."""
    assert killed(tmp_path / "killed", "random", 2)
    same_results(tmp_path, "random")


@pytest.mark.nightly
def test_pbt_killed_ten_times_has_the_same_lineage(tmp_path):
    assert killed(tmp_path / "killed", "pbt", 10) > 3
    same_results(tmp_path, "pbt")
