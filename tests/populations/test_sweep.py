"""Sweeps: what each agent does is what it does alone."""

import numpy as np
import pandas
import pytest
import scipy.stats
import torch

import funrl
from funrl import populations, random, training, tree
from funrl.populations import log_uniform, uniform
from funrl.populations._spaces import from_unit, grid, perturb, sobol
from funrl.runs import RunError
from tests.populations import climber
from tests.support import compilations, same

KEY = random.key(3)
QUIET = dict(evaluate_episodes=0, progress=False)


def ppo(dtype=torch.float32, **options):
    env = funrl.envs.make("CartPole-v1")
    env = env._replace(default_params=tree.to(env.default_params, dtype))
    return funrl.algos.ppo.make(env, num_envs=2, num_steps=8, num_epochs=2, num_minibatches=2, num_cells=(8,), **options)


def test_a_sweep_gives_what_single_runs_give():
    """64 learning rates, of which eight are run alone, by an algorithm that was made with the rate: the same bits in float64.

    A run without vmap has other bits, as torch multiplies one matrix by other code than a batch of one.
    """
    algo = ppo(torch.float64)
    swept = populations.sweep(algo, {"learning_rate": log_uniform(1e-4, 1e-1), "gamma": [0.9, 0.99]}, 64)
    table = populations.run(swept, KEY, 48, backend="eager")
    keys, hparams = random.split(KEY, 64), swept.draw(random.fold_in(KEY, -4))
    assert table.keys.tolist() == keys.tolist() and table.hparams["learning_rate"].tolist() == hparams["learning_rate"].tolist()
    whole = training.train(algo, keys, 48, hparams=hparams, backend="eager", **QUIET)
    assert torch.equal(whole.state.learner.hparams.learning_rate, hparams["learning_rate"])
    np.testing.assert_array_equal(table.curves[:, -1], whole.metrics["episode_return"])
    for agent in range(0, 64, 8):
        made = ppo(torch.float64, **{name: x[agent].item() for name, x in hparams.items()})
        alone = populations.PopulationState(populations.begin(made, keys[agent : agent + 1], {}))
        for number in (1, 2, 3):
            alone, _ = populations.advance(made, None, random.fold_in(keys[agent], number)[None], alone)
        same(tree.index(alone.agents.learner.params, 0), tree.index(whole.state.learner.params, agent), rtol=0, atol=0)
        if agent % 32 == 0:
            run = training.train(made, keys[agent : agent + 1], 48, backend="eager", **QUIET)
            same(run.state.learner.params, tree.index(whole.state.learner.params, agent), rtol=1e-9, atol=1e-12)


def test_a_compiled_sweep_in_chunks_gives_what_it_gives_eagerly():
    """Two chunks of one size are one program, here for two devices in turn, and on two threads."""
    algo = funrl.algos.a2c.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=16, num_cells=(4,))
    swept = populations.sweep(algo, {"learning_rate": log_uniform(1e-4, 1e-2)}, 4)
    with compilations(1):
        halves = populations.run(swept, KEY, 96, chunk=2, devices=["cpu", "cpu"])
    np.testing.assert_array_equal(halves.curves, populations.run(swept, KEY, 96, chunk=2, threads=2).curves)
    np.testing.assert_allclose(halves.curves, populations.run(swept, KEY, 96, backend="eager").curves, rtol=1e-4)


@pytest.mark.parametrize("backend", ["eager", "xla"])
def test_an_agent_that_diverges_leaves_the_others_as_they_are(backend):
    algo = ppo()
    rates = torch.tensor([1e-3, 1e-3, 1e-3, 1e-3], dtype=torch.float64)
    broken = torch.where(torch.arange(4) == 2, 1e38, rates)
    whole = [
        training.train(algo, KEY, 96, hparams={"learning_rate": x}, diverged="continue", backend=backend, **QUIET) for x in (rates, broken)
    ]
    assert whole[0].diverged == (0, 0, 0, 0)
    assert [x > 0 for x in whole[1].diverged] == [False, False, True, False]
    for agent in (0, 1, 3):
        same(*(tree.index(one.state.learner.params, agent) for one in whole), rtol=0, atol=0)
    assert not all(bool(x.isfinite().all()) for x in tree.leaves(tree.index(whole[1].state.learner.params, 2)))
    with pytest.raises(training.Diverged, match=r"of agent 2 is"):
        training.train(algo, KEY, 96, hparams={"learning_rate": broken}, backend=backend, **QUIET)


def test_the_table_says_which_agent_diverged_and_when():
    """Climbers break at once above a rate of 2; the third begins with one at its second update's metrics, as PBT may."""
    swept = populations.sweep(climber.algorithm(), {"rate": [0.5, 3.0]}, 4, method="grid", num_seeds=2)
    table = populations.run(swept, KEY, 50, backend="eager")
    assert table.diverged.tolist() == [0, 0, 1, 1] and np.isnan(table.scores).tolist() == [False, False, True, True]
    assert table.best() == {"rate": 0.5} and table.configuration.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(table.scores[:2], table.curves[:2, -1])  # the last tenth of five updates
    with pytest.raises(ValueError, match="no agent has a score, as all diverged"):
        populations.run(populations.sweep(climber.algorithm(), {"rate": [3.0]}, 2), KEY, 50, backend="eager").best()


def test_a_table_is_read_by_pandas_and_by_itself(tmp_path):
    swept = populations.sweep(climber.algorithm(), {"rate": uniform(0.5, 1.0), "wind": [0.1, 0.2]}, 6)
    table = populations.run(swept, KEY, 50, backend="eager")
    table.save(tmp_path / "table.csv")
    frame = pandas.read_csv(tmp_path / "table.csv")
    assert frame["rate"].tolist() == table.hparams["rate"].tolist() and frame["key"].tolist() == table.keys.tolist()
    assert frame["return_at_50"].tolist() == table.curves[:, -1].tolist()
    assert pandas.DataFrame(table.columns()).shape == frame.shape
    back = populations.read_table(tmp_path / "table.csv")
    for one, other in zip(back[:7], table[:7], strict=True):
        np.testing.assert_equal(one, other)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected a column 'agent'"):
        populations.read_table(tmp_path / "other.csv")


def test_values_of_static_fields_are_programs_of_their_own():
    algos = populations.by_value(climber.algorithm(), {"width": [2, 3]}, make=climber.algorithm)
    table = populations.run([populations.sweep(x, {"rate": uniform(0.1, 1.0)}, 3) for x in algos], KEY, 30, chunk=2, backend="eager")
    assert table.hparams["width"].tolist() == [2, 2, 2, 3, 3, 3] and table.keys.tolist() == random.split(KEY, 6).tolist()
    assert table.hparams["rate"][:3].tolist() == table.hparams["rate"][3:].tolist()
    made = populations.by_value(ppo(gamma=0.5), {"num_cells": [(8,), (4, 4)], "num_epochs": [1, 2]})
    assert [(x.config.num_cells, x.config.num_epochs, x.config.gamma) for x in made] == [
        ((8,), 1, 0.5), ((8,), 2, 0.5), ((4, 4), 1, 0.5), ((4, 4), 2, 0.5),
    ]  # fmt: skip
    longer = [climber.algorithm(), climber.algorithm(num_steps=20)]  # a curve of ten updates beside one of five
    table = populations.run([populations.seeds(x, 2) for x in longer], KEY, 100, backend="eager")
    assert table.steps.tolist() == list(range(10, 101, 10)) and np.isfinite(table.curves[2:]).sum(1).tolist() == [5, 5]


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_points_are_spread_as_their_space_says(method):
    space = {"learning_rate": log_uniform(1e-4, 1e-2), "clip": uniform(0.1, 0.3), "gamma": [0.9, 0.95, 0.99]}
    points = populations.sweep(ppo(), space, 4096, method=method).draw(KEY)
    logs = (points["learning_rate"].log() - np.log(1e-4)) / np.log(100)
    assert scipy.stats.kstest(logs.numpy(), "uniform").pvalue > 1e-3
    assert scipy.stats.kstest(((points["clip"] - 0.1) / 0.2).numpy(), "uniform").pvalue > 1e-3
    counts = [int((points["gamma"] == x).sum()) for x in (0.9, 0.95, 0.99)]
    assert sum(counts) == 4096 and scipy.stats.chisquare(counts).pvalue > 1e-3
    again = populations.sweep(ppo(), space, 4096, method=method).draw(KEY)
    assert all(torch.equal(points[name], again[name]) for name in space)
    if method == "random":
        assert abs(np.corrcoef(logs, points["clip"])[0, 1]) < 0.06


def test_a_sobol_sequence_is_scipys_shifted():
    found = sobol(KEY, {"a": uniform(0.0, 1.0), "b": uniform(0.0, 1.0)}, 64)
    theirs = scipy.stats.qmc.Sobol(2, scramble=False).random(64)
    shift = (torch.stack(list(found.values()), 1).numpy() - theirs) % 1.0
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-12)


def test_a_grid_is_a_product():
    space = {"a": (1.0, 2.0), "b": log_uniform(1.0, 100.0)}
    points = grid("sweep", space, 6)
    np.testing.assert_allclose(np.stack([points["a"], points["b"]], 1), [[a, b] for a in (1, 2) for b in (1, 10, 100)])
    for n, sizes in ((5, "a multiple of 2, such as 8 points"), (0, "a multiple")):
        with pytest.raises(ValueError, match=sizes):
            grid("sweep", space, n)
    with pytest.raises(ValueError, match=r"has 1 times a power of 2, such as 4 or 9 points, got 5"):
        grid("sweep", {"a": uniform(0, 1), "b": uniform(0, 1)}, 5)


def test_ends_of_ranges():
    for space in (log_uniform(1e-4, 1e-2), uniform(-1.0, 2.0)):
        ends = from_unit(space, torch.tensor([0.0, 1.0]))
        assert ends.tolist() == [space.low, space.high]
        assert float(perturb(space, ends[1], torch.tensor(True), (0.8, 1.2))) == space.high
    assert from_unit((1.0, 2.0), torch.tensor([1.0])).tolist() == [2.0]


def test_hyperparameters_count_from_the_first_update_on():
    """The exploration of DQN is computed at init; an agent has that of its own hyperparameters there."""
    env, options = funrl.envs.make("CartPole-v1"), dict(num_envs=2, num_steps=4, batch_size=4, buffer_size=32, learning_starts=0)
    states = populations.begin(
        funrl.algos.dqn.make(env, **options), random.split(KEY), {"epsilon_start": torch.tensor([0.25, 0.5], dtype=torch.float64)}
    )
    for agent, share in enumerate((0.25, 0.5)):
        alone = funrl.algos.dqn.make(env, epsilon_start=share, **options)
        same(tree.index(states, agent), alone.init(random.fold_in(random.split(KEY)[agent], 0)), rtol=0, atol=0)


def test_a_run_knows_its_hyperparameters_when_it_is_resumed(tmp_path):
    algo = climber.algorithm()
    rates = torch.tensor([0.1, 0.3, 1.0], dtype=torch.float64)
    training.train(algo, KEY, 50, hparams={"rate": rates}, out=tmp_path / "r", **QUIET)
    config = funrl.runs.read_config(tmp_path / "r")
    assert config["hparams"] == {"rate": [0.1, 0.3, 1.0]} and config["num_agents"] == 3
    columns = funrl.record.read_metrics(tmp_path / "r" / "metrics.csv")
    assert columns["hparams.rate"].tolist() == [0.1, 0.3, 1.0] * 5
    more = training.train(algo, KEY, 100, out=tmp_path / "r", resume=True, **QUIET)
    assert torch.equal(more.state.learner.hparams.rate, rates.double())
    whole = training.train(algo, KEY, 100, hparams={"rate": rates}, **QUIET)
    same(more.state, whole.state, rtol=0, atol=0)
    with pytest.raises(RunError, match=r"cannot resume: the run there has hparams = \{'rate': \[0\.1\d*, 0\.3\d*, 1\.0\]\}, not"):
        training.train(algo, KEY, 150, hparams={"rate": 2 * rates}, out=tmp_path / "r", resume=True, **QUIET)
    assert training.load_run(tmp_path / "r", algo=algo).state.learner.hparams.rate.shape == (3,)


SPACE = {"learning_rate": log_uniform(1e-4, 1e-2)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: populations.sweep(ppo(), {"learning_rat": [1.0]}, 2), "PPOConfig has no hyperparameter 'learning_rat'; did you mean"),
        (lambda: populations.sweep(ppo(), {"num_epochs": [1, 2]}, 2), r"num_epochs is a static field of PPOConfig: .*by_value\(algo, "),
        (lambda: populations.sweep(ppo(), {"gamma": []}, 2), "gamma: expected at least one choice, got an empty list"),
        (lambda: populations.sweep(ppo(), {"gamma": ["a"]}, 2), "gamma: expected numbers, got 'a'"),
        (lambda: populations.sweep(ppo(), {"gamma": 0.9}, 2), "gamma: expected uniform, log_uniform or a list of numbers, got 0.9"),
        (lambda: populations.sweep(ppo(), {"gamma": [0.9, 1.5]}, 2), r"gamma: expected a number in \[0, 1\], got 1.5"),
        (lambda: populations.sweep(ppo(), {}, 2), "space: expected a dict .* got none"),
        (lambda: populations.sweep(ppo(), SPACE, 0), "n: expected an integer of at least 1, got 0"),
        (lambda: populations.sweep(ppo(), SPACE, 6, num_seeds=4), "expected a multiple of num_seeds, 4, as n counts all agents, got 6"),
        (lambda: populations.sweep(ppo(), SPACE, 6, method="tpe"), "method: expected one of 'random', 'grid', 'sobol', got 'tpe'"),
        (lambda: populations.sweep(ppo(), {"learning_rate": populations.Range(1.0, 0.5)}, 2), "expected low < high, .* an empty range"),
        (lambda: log_uniform(1e-2, 1e-2), "log_uniform: expected low < high, got 0.01 and 0.01, an empty range"),
        (lambda: uniform(0.0, float("inf")), "uniform: high: expected a finite number, got inf"),
        (lambda: populations.sweep(ppo(optimizer=funrl.optim.sgd(0.1)), SPACE, 2), "learning_rate has no effect, .* optimizer= in its"),
        (lambda: populations.by_value(ppo(), {"gamma": [0.9]}), "gamma is a hyperparameter in which agents of one program may differ"),
        (lambda: populations.by_value(ppo(), {"num_epoch": [0.9]}), "PPOConfig has no field 'num_epoch'; did you mean num_epochs"),
        (lambda: populations.by_value(ppo(), {"num_epochs": []}), "num_epochs: expected a list of at least one value"),
        (lambda: populations.by_value(climber.algorithm(), {"width": [1]}), "make: climber is not of funrl; give the function"),
        (lambda: populations.run(populations.seeds(ppo(), 2), KEY, 8), "total_steps: expected an integer of at least 16"),
        (lambda: populations.run(populations.seeds(ppo(), 2), random.split(KEY), 64), "key: expected a key, int64"),
        (lambda: populations.run(populations.seeds(ppo(), 2), KEY, 64, chunk=0), "chunk: expected an integer of at least 1, got 0"),
        (lambda: training.train(ppo(), KEY, 64, hparams={"num_epochs": [1, 2]}), "train: hparams: num_epochs is a static field"),
        (lambda: training.train(ppo(), KEY, 64, hparams={"gamma": [0.9, 0.8]}, num_agents=3), "got 3 by num_agents, 2 by hparams: gamma"),
        (lambda: training.train(ppo(), KEY, 64, hparams={"gamma": [0.9, float("nan")]}), "gamma: expected numbers, got NaN"),
        (
            lambda: training.train(ppo(), KEY, 64, hparams={"gamma": torch.ones(2, 2)}),
            r"for each of the 2 agents, got torch.float32 \[2, 2\]",
        ),
        (lambda: training.train(ppo(), KEY, 64, diverged="ignore"), "diverged: expected 'stop' or 'continue', got 'ignore'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("odd", [None, 3, "x", [], torch.tensor(1.0)])
def test_odd_arguments_are_named(odd):
    """Whatever stands in the place of an argument: the message begins with the function and the argument."""
    population = populations.seeds(climber.algorithm(), 2)
    calls = {
        "begin: hparams": lambda: populations.begin(population.algo, random.split(KEY, 2), odd),
        "begin: keys": lambda: populations.begin(population.algo, odd, {}),
        "hparam_names: algo": lambda: populations.hparam_names(odd),
        "agent_bytes: algo": lambda: populations.agent_bytes(odd),
        "advance: algo": lambda: populations.advance(odd, None, KEY, ()),
        "first_hparams: population": lambda: populations.first_hparams(odd, KEY),
        "Population.step: state": lambda: population.step(KEY, odd),
        "by_value: values": lambda: populations.by_value(population.algo, odd),
        "not_finite: metrics": lambda: populations.not_finite(odd),
        "pbt: fraction": lambda: populations.pbt(population.algo, {"rate": [0.1]}, 2, fraction=odd),
        "pbt: factors": lambda: populations.pbt(population.algo, {"rate": [0.1]}, 2, factors=odd),
        "run: populations": lambda: populations.run(odd, KEY, 100),
        "run: devices": lambda: populations.run(population, KEY, 100, devices=[odd, "nowhere"]),
    }
    calls |= {} if isinstance(odd, str) else {"read_table: path": lambda: populations.read_table(odd)}
    for name, call in calls.items():
        with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
            call()
    with pytest.raises(ValueError, match="1,000,000,000,000 agents need about"):
        populations.run(populations.seeds(population.algo, 10**12), KEY, 100)


def test_a_population_that_is_larger_than_the_memory(monkeypatch):
    """It is divided into chunks; one agent that is larger, or a population that has to be one program, is an error before anything runs."""
    from funrl.populations import _run

    algo = climber.algorithm()
    each = populations.agent_bytes(algo)
    monkeypatch.setattr(_run, "free_bytes", lambda device: 2.5 * each)
    five = [populations.seeds(algo, 5)]
    pieces = _run.chunks_of(five, KEY, _run.chunk_size(five, None, torch.device("cpu")))
    assert [len(piece.keys) for piece in pieces] == [2, 2, 1]
    assert torch.cat([piece.keys for piece in pieces]).tolist() == random.split(KEY, 5).tolist()
    together = []
    with monkeypatch.context() as patch:
        patch.setattr(_run, "train_together", lambda some, *rest: together.append(len(some)) or [])
        patch.setattr(_run, "table_of", lambda pieces, records: [len(piece.keys) for piece in pieces])
        assert populations.run(five, KEY, 50, threads=2) == [1, 1, 1, 1, 1]  # as two of them share the memory
    assert together == [2, 2, 1]
    monkeypatch.setattr(_run, "train_together", lambda *args: pytest.fail("it runs"))
    with pytest.raises(ValueError, match=r"5 agents of climber need about \d+ MiB, and \d+ are free; take fewer agents"):
        populations.run(populations.pbt(algo, {"rate": [0.1, 0.2]}, 5), KEY, 50)
    monkeypatch.setattr(_run, "free_bytes", lambda device: 0.5 * each)
    with pytest.raises(ValueError, match="1 agent of climber needs about"):
        populations.run(populations.seeds(algo, 5), KEY, 50)
    with pytest.raises(ValueError, match="runs outside torch, so that its agents are not one program"):
        host = funrl.envs.make("gymnasium:CartPole-v1", num_envs=2)
        populations.run(populations.seeds(funrl.algos.a2c.make(host, num_envs=2), 2), KEY, 1000)
    assert _run.free_bytes(torch.device("cpu")) > 0
