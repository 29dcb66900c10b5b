"""Pictures of populations: what they show, and what they refuse."""

import numpy as np
import pytest

from funrl import populations, random, record
from tests.populations import climber

KEY = random.key(0)


@pytest.fixture(scope="module")
def table():
    swept = populations.sweep(climber.algorithm(), {"rate": [0.1, 0.3, 0.5, 3.0], "wind": [0.1, 0.2]}, 24, method="grid", num_seeds=3)
    return populations.run(swept, KEY, 60, backend="eager")


def drawn(monkeypatch, call):
    """Return the axes of the figure that the call draws."""
    seen = []
    monkeypatch.setattr("funrl.record._tables.save_figure", lambda figure, path: seen.append(figure.axes))
    call()
    return seen[0]


def test_returns_over_hyperparameters(table, tmp_path, monkeypatch):
    curves, rate, wind = drawn(monkeypatch, lambda: record.hyperparameters(table, "a.png", title="climbers"))
    assert len(curves.lines) == 24 and curves.get_title() == "climbers"
    lost = np.isnan(table.scores)
    assert lost.any() and rate.get_xscale() == "log" and wind.get_xscale() == "linear"
    points = np.asarray(rate.collections[0].get_offsets())
    np.testing.assert_allclose(points, np.stack([table.hparams["rate"][~lost], table.scores[~lost]], 1))
    assert len(rate.collections[1].get_offsets()) == lost.sum()
    monkeypatch.undo()
    record.hyperparameters(table, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_curves_of_the_best_configurations(table, monkeypatch):
    (axes,) = drawn(monkeypatch, lambda: record.configurations(KEY, table, "a.png", most=2))
    best = table.best()
    assert len(axes.lines) == 2 and axes.lines[0].get_label() == f"rate {best['rate']:.3g}, wind {best['wind']:.3g}"
    mine = (table.hparams["rate"] == best["rate"]) & (table.hparams["wind"] == best["wind"])
    np.testing.assert_allclose(axes.lines[0].get_ydata()[-1], table.curves[mine, -1].mean())
    assert len(axes.collections) == 2  # the intervals


def test_comparisons(monkeypatch):
    scores = {"a": np.linspace(0.0, 1.0, 10).reshape(5, 2), "b": np.linspace(0.5, 1.5, 10).reshape(5, 2)}
    axes = drawn(monkeypatch, lambda: record.comparison(KEY, scores, "a.png"))
    assert [ax.get_title().split(" over")[0] for ax in axes] == [
        "interquartile mean", "optimality gap", "probability of improvement", "performance profile",
    ]  # fmt: skip
    mean = [line.get_xdata()[0] for line in axes[0].lines if len(line.get_xdata()) == 1]
    assert mean == pytest.approx([0.5, 1.0])
    assert [line.get_ydata()[0] for line in axes[3].lines] == pytest.approx([0.9, 1.0])
    for wrong in ({}, {"a": scores["a"], "b": scores["b"][:, :1]}, {"a": scores["a"][0]}):
        with pytest.raises(ValueError, match=r"scores: expected \[runs, tasks\] of each algorithm"):
            record.comparison(KEY, wrong, "a.png")
    for draw in (record.comparison, record.configurations):
        with pytest.raises(ValueError, match="expected a name that ends in"):
            draw(KEY, scores, "a.txt")


def test_scores_of_several_tasks(table):
    other = table._replace(scores=np.ones(24))
    matrix = record.score_matrix({"one": table, "two": other}, diverged=-5.0)
    assert matrix.shape == (24, 2) and (matrix[np.isnan(table.scores), 0] == -5).all() and (matrix[:, 1] == 1).all()
    with pytest.raises(ValueError, match=r"of one has no score; say what it counts as, diverged=0\.0"):
        record.score_matrix({"one": table})
    with pytest.raises(ValueError, match="expected as many agents in each"):
        record.score_matrix({"one": table, "two": other._replace(scores=np.ones(3))})
