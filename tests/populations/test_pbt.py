"""Population-based training, successive halving, Hyperband and Optuna's ask and tell."""

import numpy as np
import pytest
import torch

import funrl
from funrl import populations, random, training, tree
from funrl.populations import log_uniform
from tests.oracles import pbt as oracle
from tests.populations import climber
from tests.support import same

KEY = random.key(5)
SPACE = {"rate": log_uniform(0.01, 1.5)}
QUIET = dict(evaluate_episodes=0, progress=False, backend="eager")


@pytest.mark.parametrize("selection", ["truncation", "binary_tournament"])
@pytest.mark.parametrize("explore", ["perturb", "resample"])
def test_it_is_a_loop_over_agents(selection, explore):
    options = dict(period=3, selection=selection, fraction=0.34, explore=explore)
    bred = populations.pbt(climber.algorithm(), SPACE, 7, factors=(0.5, 1.5), resample_probability=0.6, **options)
    table = populations.run(bred, KEY, 120, backend="eager")
    keys, rates = random.split(KEY, 7), bred.draw(random.fold_in(KEY, -4))["rate"].tolist()
    x = [random.normal(random.fold_in(k, 0), (2,), dtype=torch.float64).numpy() for k in keys]
    parents, all_rates, returns = oracle.lineage(keys, rates, x, (0.01, 1.5), 12, factors=(0.5, 1.5), probability=0.6, **options)
    np.testing.assert_array_equal(table.history["parent"].T, parents)
    np.testing.assert_allclose(table.history["hparams.rate"].T, all_rates, rtol=1e-12)
    np.testing.assert_allclose(table.curves.T, returns, rtol=1e-12)
    moved = (np.array(parents) != np.arange(7)).sum(1)
    assert (moved[2::3] > 0).all() and moved.sum() == moved[2::3].sum()


def test_choices_move_to_their_neighbours():
    bred = populations.pbt(climber.algorithm(), {"rate": [0.1, 0.4, 0.2, 0.3]}, 8, period=1, selection="binary_tournament")
    history = populations.run(bred, KEY, 200, backend="eager").history
    order, seen = [0.1, 0.2, 0.3, 0.4], set()
    before = np.stack([history["hparams.rate"][history["parent"][:, u], u - 1] for u in range(1, 20)], 1)
    for old, new, changed in zip(
        before.flat, history["hparams.rate"][:, 1:].flat, (history["parent"] != np.arange(8)[:, None])[:, 1:].flat, strict=True
    ):
        step = order.index(new) - order.index(old)
        assert abs(step) <= 1 if changed else step == 0
        seen.add(step)
    assert seen == {-1, 0, 1}


def test_an_agent_that_diverges_takes_anothers_place():
    bred = populations.pbt(
        climber.algorithm(), {"rate": [0.5, 3.0]}, 6, period=2, fraction=0.5, explore="resample", resample_probability=0.0
    )
    table = populations.run(bred, KEY, 60, backend="eager")
    broken = table.hparams["rate"] == 3.0
    assert 0 < broken.sum() < 6 and table.diverged[broken].tolist() == [1] * broken.sum() and not table.diverged[~broken].any()
    assert (table.history["hparams.rate"][:, -1] == 0.5).all() and np.isfinite(table.scores).all()


@pytest.mark.slow
def test_a_learner_breeds_in_one_program():
    """Replaced agents have the parameters of their parents, compiled and eagerly."""
    algo = funrl.algos.a2c.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=32, num_cells=(4,))
    bred = populations.pbt(algo, {"learning_rate": log_uniform(1e-4, 1e-2), "entropy_weight": [0.0, 0.01]}, 4, period=2, fraction=0.5)
    step, states = funrl.compile(bred.step), [bred.init(KEY)] * 2
    for i in range(4):
        (state, metrics), (eager, _) = (f(random.fold_in(KEY, i), x) for f, x in zip((step, bred.step), states, strict=True))
        states = [state, eager]
        parent, params = metrics["parent"].tolist(), state.agents.learner.params
        for k, p in enumerate(parent):
            if parent[p] == p:
                same(tree.index(params, k), tree.index(params, p), rtol=0, atol=0)
        same(state.agents.learner, eager.agents.learner, rtol=1e-3, atol=1e-5)
    assert parent != [0, 1, 2, 3] and torch.equal(metrics["hparams.entropy_weight"], state.agents.learner.hparams.entropy_weight)


def test_a_broken_run_has_the_same_lineage(tmp_path):
    """A hook stops it at four updates; each time it is resumed from its checkpoint."""
    algo = climber.algorithm()
    bred = populations.pbt(algo, SPACE, 5, period=3, fraction=0.4)
    whole = training.train(algo, KEY, 400, population=bred, out=tmp_path / "whole", **QUIET)

    def stop(step, state, metrics):
        if step in (70, 90, 200, 310):
            raise training.Stop("as the test asks")

    part, count = None, 0
    while part is None or part.steps < 400:
        part = training.train(algo, KEY, 400, population=bred, out=tmp_path / "part", resume=count > 0, hooks=[stop], **QUIET)
        count += 1
    assert count == 5
    same(part.state, whole.state, rtol=0, atol=0)
    columns = [funrl.record.read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "part")]
    for name in ("parent", "hparams.rate", "episode_return"):
        np.testing.assert_array_equal(*(x[name] for x in columns))
    table = populations.run(bred, KEY, 400, backend="eager")
    np.testing.assert_array_equal(columns[0]["parent"].reshape(40, 5).T, table.history["parent"])
    state = training.load_run(tmp_path / "part", algo=algo).state
    same(state, whole.state, rtol=0, atol=0)
    with pytest.raises(training.RunError, match=r"population: the run has one, .*; resume it with the same"):
        training.train(algo, KEY, 500, out=tmp_path / "part", resume=True, **QUIET)
    with pytest.raises(training.RunError, match="it draws the hyperparameters and the agents' keys from one key"):
        training.train(algo, KEY, 500, population=bred, hparams={"rate": torch.ones(5)}, **QUIET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n=1), "pbt: n: expected an integer of at least 2, got 1"),
        (dict(period=0), "pbt: period: expected an integer of at least 1, got 0"),
        (dict(selection="best"), "pbt: selection: expected one of 'truncation', 'binary_tournament', got 'best'"),
        (dict(fraction=0.6), "pbt: fraction: expected a number in \\(0, 0.5\\], got 0.6"),
        (dict(explore="mutate"), "pbt: explore: expected one of 'perturb', 'resample', got 'mutate'"),
        (dict(factors=(0.0, 1.0)), "pbt: factors: expected a number above 0, got 0.0"),
        (dict(resample_probability=2), "pbt: resample_probability: expected a number in \\[0, 1\\], got 2"),
        (dict(space={"width": [1]}), "pbt: width is a static field of ClimberConfig"),
    ],
)
def test_bad_options_of_pbt(options, message):
    with pytest.raises(ValueError, match=message):
        populations.pbt(climber.algorithm(), **{"space": SPACE, "n": 4, **options})


def test_halving_stops_the_worst_and_leaves_the_others_as_they_are():
    swept = populations.sweep(climber.algorithm(), {"rate": [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 3.0]}, 16, method="grid", num_seeds=2)
    table = populations.successive_halving(swept, KEY, 400, eta=2, backend="eager")
    whole = populations.run(swept, KEY, 400, backend="eager")
    ran = table.notes["num_updates"]
    assert sorted(ran.tolist()) == [5] * 8 + [10] * 4 + [20] * 2 + [40] * 2
    for agent, count in enumerate(ran):
        np.testing.assert_array_equal(table.curves[agent, :count], whole.curves[agent, :count])
        assert np.isnan(table.curves[agent, count:]).all()
    assert table.diverged.tolist() == [0] * 14 + [1] * 2 and ran[14:].tolist() == [5, 5]
    finals = whole.curves[:, 4].reshape(8, 2).mean(1)[:7]  # by their first five updates, the last tenth of which is one
    first_out = {c for c in range(8) if ran[2 * c] == 5}
    assert first_out == {7, *np.argsort(finals)[:3].tolist()}
    assert table.best()["rate"] == table.hparams["rate"][ran.argmax()]
    with pytest.raises(ValueError, match="num_rungs: 8 configurations and 40 updates allow 1 to 4 rungs of eta 2, got 5"):
        populations.successive_halving(swept, KEY, 400, eta=2, num_rungs=5)
    with pytest.raises(ValueError, match="expected one whose agents do not exchange anything"):
        populations.successive_halving(populations.pbt(climber.algorithm(), SPACE, 4), KEY, 400)


def test_hyperband_has_the_brackets_of_its_paper():
    """Table 1 of arXiv:1603.06560: eta 3 and R = 81 updates."""
    table = populations.hyperband(climber.algorithm(), SPACE, KEY, 810, num_brackets=5, backend="eager")
    sizes = {s: int((table.notes["bracket"] == s).sum()) for s in range(5)}
    assert sizes == {4: 81, 3: 34, 2: 15, 1: 8, 0: 5}
    rungs = {s: np.unique(table.notes["num_updates"][table.notes["bracket"] == s]).tolist() for s in range(5)}
    assert rungs == {4: [1, 3, 9, 27, 81], 3: [3, 9, 27, 81], 2: [9, 27, 81], 1: [27, 81], 0: [81]}
    assert table.best()["rate"] > 0.4  # the best climbs by rate - rate^2 / 2 an update
    with pytest.raises(ValueError, match="expected 'random' or 'sobol'"):
        populations.hyperband(climber.algorithm(), SPACE, KEY, 810, method="grid")


def test_optuna_asks_for_a_batch_and_is_told_its_scores():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {"rate": populations.uniform(0.01, 2.5), "wind": [0.1, 0.2]}
    asked = []

    def search():
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
        ask = study.ask
        study.ask = lambda: (asked.append(len([t for t in study.trials if t.state.is_finished()])), ask())[1]
        return study, populations.optuna_search(
            study, climber.algorithm(), space, KEY, 200, num_trials=48, batch=16, num_seeds=2, backend="eager"
        )

    study, table = search()
    assert asked == [0] * 16 + [16] * 16 + [32] * 16
    assert table.notes["trial"].tolist() == [i for i in range(48) for _ in range(2)]
    states = {"FAIL" if x > 2 else "COMPLETE" for x in table.hparams["rate"]}
    assert states == {"FAIL", "COMPLETE"}
    for trial in study.trials:
        mine = table.notes["trial"] == trial.number
        assert table.hparams["rate"][mine].tolist() == [trial.params["rate"]] * 2
        assert trial.state.name == ("FAIL" if trial.params["rate"] > 2 else "COMPLETE")
        if trial.value is not None:
            assert trial.value == table.scores[mine].mean()
    assert study.best_params["rate"] == table.best()["rate"] and 0.7 < study.best_params["rate"] < 1.3
    np.testing.assert_array_equal(search()[1].scores, table.scores)
    for wrong in ({"direction": "minimize"}, {"directions": ["maximize", "maximize"]}):
        with pytest.raises(ValueError, match="study: expected one objective to maximize, got"):
            populations.optuna_search(optuna.create_study(**wrong), climber.algorithm(), space, KEY, 200)
