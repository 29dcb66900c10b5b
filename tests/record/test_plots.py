import subprocess
import sys

import numpy as np
import pytest
import torch

from funrl import random
from funrl.record import _plots as plots, learning_curve, learning_curves
from funrl.record._aggregate import bootstrap_interval

KEY = random.key(5)


def metrics(num_agents, num_updates=5, gap=2):
    update, agent = np.meshgrid(np.arange(1, num_updates + 1), np.arange(num_agents), indexing="ij")
    returns = (10.0 * update + agent).astype(float)
    returns[:gap] = np.nan
    columns = {"update": update, "agent": agent, "steps": 64 * update, "episode_return": returns}
    return {name: x.reshape(-1).astype(float) for name, x in columns.items()}


@pytest.mark.parametrize(("num_agents", "gap"), [(1, 0), (1, 5), (2, 2), (10, 1), (3, 5)])
def test_it_draws(tmp_path, num_agents, gap):
    learning_curve(metrics(num_agents, gap=gap), tmp_path / "curve.png", title="a run")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 1


def test_one_agent_without_a_return_yet(tmp_path):
    rows = metrics(2)
    rows["episode_return"][5] = np.nan
    learning_curve(rows, tmp_path / "curve.png")


def test_a_missing_column(tmp_path):
    with pytest.raises(ValueError, match="expected a column 'steps', got update, agent"):
        learning_curve({"update": np.ones(1), "agent": np.ones(1)}, tmp_path / "curve.png")


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "funrl\[plot\]"'):
        learning_curve(metrics(1), tmp_path / "curve.png")


@pytest.fixture
def drawn(monkeypatch):
    """``drawn(runs)``: the axes of their picture."""
    seen = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path, kind="": seen.append(figure.axes[0]))

    def draw(runs, **options):
        learning_curves(KEY, runs, "curves.png", **options)
        return seen.pop()

    return draw


def test_curves_are_interquartile_means_with_intervals(drawn):
    runs = {"five": metrics(5), "one": metrics(1, gap=0), "none yet": metrics(2, gap=5)}
    runs["five"]["episode_return"][[10, 16]] = [500.0, -500.0]  # agents 0 and 1 of updates 3 and 4: outliers that are cut off
    axes = drawn(runs, confidence=0.9)
    five, one, none = axes.lines
    assert [line.get_label() for line in axes.lines] == ["five (5 agents)", "one", "none yet (2 agents)"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["five (5 agents)", "one", "none yet (2 agents)"]
    np.testing.assert_allclose(five.get_xdata(), [192, 256, 320])
    np.testing.assert_allclose(five.get_ydata(), [33.0, (40 + 42 + 43) / 3, 52.0])
    np.testing.assert_allclose(one.get_ydata(), [10, 20, 30, 40, 50])
    assert len(none.get_xdata()) == 0 and axes.get_ylabel() == "return: interquartile mean, 90 % interval"

    scores = runs["five"]["episode_return"].reshape(5, 5)[2:].T[:, None].copy()
    low, high = bootstrap_interval(random.fold_in(KEY, 0), torch.from_numpy(scores), confidence=0.9)
    edge = axes.collections[0].get_paths()[0].vertices
    for x, bottom, top in zip([192, 256, 320], low.tolist(), high.tolist(), strict=True):
        ys = edge[edge[:, 0] == x][:, 1]
        np.testing.assert_allclose([ys.min(), ys.max()], [bottom, top])


def test_many_updates_are_averaged_in_windows(drawn, monkeypatch):
    monkeypatch.setattr(plots, "_POINTS", 3)
    rows = metrics(2, num_updates=7, gap=0)
    returns = rows["episode_return"].reshape(7, 2)
    returns[:2, 1] = np.nan  # no episode of agent 1 ended in the first window,
    returns[4, :] = np.nan
    returns[5:, 0] = np.nan  # none of agent 0 in the last
    (line,) = drawn({"a": rows}).lines
    # Windows of the updates 1-2, 3-5, 6-7; agents have 10 u and 10 u + 1.
    assert line.get_xdata().tolist() == [5 * 64, 7 * 64]
    np.testing.assert_allclose(line.get_ydata(), [(35 + 36) / 2, (35 + 66) / 2])


def test_the_key_decides_on_the_picture(tmp_path):
    rows = metrics(9, gap=0)
    rows["episode_return"] = random.normal(KEY, rows["steps"].shape).numpy()  # of even numbers all intervals are equal
    runs = {"a": rows, "b": metrics(4, num_updates=9)}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        learning_curves(random.key(seed), runs, tmp_path / f"{name}.png", title="a title")
    one, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(("kind", "first"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_kinds_of_pictures(tmp_path, kind, first):
    learning_curves(KEY, {"a": metrics(2)}, tmp_path / f"curves.{kind}")
    assert (tmp_path / f"curves.{kind}").read_bytes().startswith(first)


def test_what_curves_refuse(tmp_path):
    with pytest.raises(ValueError, match=r"expected a name that ends in \.png or \.svg or \.pdf, got 'curves\.jpg'"):
        learning_curves(KEY, {"a": metrics(2)}, "curves.jpg")
    with pytest.raises(ValueError, match="runs: expected at least one, got none"):
        learning_curves(KEY, {}, "curves.png")
    with pytest.raises(ValueError, match="runs: a: expected a column 'agent', got update"):
        learning_curves(KEY, {"a": {"update": np.ones(1)}}, "curves.png")
    with pytest.raises(ValueError, match="runs: a: expected at least one row, got none"):
        learning_curves(KEY, {"a": {name: x[:0] for name, x in metrics(2).items()}}, "curves.png")


def test_funrl_imports_nothing_to_draw_or_log_with():
    optional = ("matplotlib", "imageio", "imageio_ffmpeg", "PIL", "tensorboard", "wandb")
    code = f"import funrl, funrl.__main__, sys; sys.exit(any(name.split('.')[0] in {optional} for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
