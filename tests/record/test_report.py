"""The page about runs: it is whole, loads nothing, and says what was measured."""

import base64
import html.parser
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from funrl import random, record
from funrl.acting import Evaluation
from funrl.record import RunRecord, report

KEY = random.key(3)
CONFIG = {
    "algorithm": "ppo", "env": "CartPole-v1", "num_agents": 2, "seed": 7, "key": 1,
    "options": {"gamma": 0.98, "num_cells": [64, 64]}, "versions": {"torch": "2.13.0"},
    "hparams": {"learning_rate": [1e-4, 1e-3]}, "given": {"network": "<my net>"},
}  # fmt: skip


def metrics(agents=2, updates=4):
    update, agent = (x.reshape(-1).astype(float) for x in np.meshgrid(np.arange(1, updates + 1), np.arange(agents), indexing="ij"))
    returns = np.where(update < 2, np.nan, 10 * update + agent)
    return {
        "update": update,
        "agent": agent,
        "steps": 64 * update,
        "seconds": 2 + update / 2,
        "episode_return": returns,
        "entropy": 1 / update,
    }


def evaluation(*shape):
    returns = torch.arange(8.0)[: torch.Size(shape).numel()].reshape(shape)
    return Evaluation(returns, torch.ones(shape, dtype=torch.int64), torch.arange(returns.numel()).reshape(shape) != 0)


class Page(html.parser.HTMLParser):
    """The tags, the sources and the text of a page; every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.rows, self.text = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.sources += [given[name] for name in ("src", "href", "data") if name in given]
        if tag == "tr":
            self.rows.append([given.get("class"), []])
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open[-1:] in (["td"], ["th"]):
            self.rows[-1][1].append(data)


def page(tmp_path, runs, **options):
    report(KEY, runs, tmp_path / "deep" / "report.html", **options)
    return Page((tmp_path / "deep" / "report.html").read_text(encoding="utf-8"))


def test_it_is_whole_and_says_what_was_measured(tmp_path):
    frames = torch.arange(0, 250, 50, dtype=torch.uint8)[:, None, None, None].expand(-1, 16, 16, 3)
    record.video(tmp_path / "film.gif", frames)
    found = page(tmp_path, {"one": RunRecord(CONFIG, metrics(), evaluation(2, 4), [tmp_path / "film.gif"])}, title="<title> & more")
    assert found.sources and all(re.match(r"data:image/(svg\+xml|gif);base64,", x) for x in found.sources)
    assert base64.b64decode(found.sources[-1].split(",")[1]) == (tmp_path / "film.gif").read_bytes()
    rows = {cells[0]: cells[1:] for _, cells in found.rows}
    assert rows["steps of each agent"] == ["256"] and rows["steps per second"] == ["256 after the first update"]  # 2 * 192 / 1.5
    assert rows["return in training"][0].startswith("40.5 [40.0, 41.0] (last episodes, n = 2)")
    assert re.match(r"3\.5 \[1\.5, 5\.5\] \(4 episodes of each agent, n = 2\); 1 unfinished", rows["final evaluation"][0])
    assert rows["gamma"] == ["0.98"] and rows["torch"] == ["2.13.0"] and rows["learning_rate (of agents)"] == ["0.0001 to 0.001"]
    assert rows["network (given)"] == ["<my net>"] and "<title> & more" in found.text


def test_rows_in_which_runs_differ_are_marked(tmp_path):
    other = CONFIG | {"options": {"gamma": 0.9, "num_cells": [64, 64]}, "num_agents": 1}
    found = page(tmp_path, {"one": RunRecord(CONFIG, metrics()), "two": RunRecord(other, metrics(1), evaluation(6))})
    kinds = {cells[0]: kind for kind, cells in found.rows if cells}
    assert kinds["gamma"] == "differs" and kinds["num_cells"] is None and kinds["torch"] is None
    rows = {cells[0]: cells[1:] for _, cells in found.rows}
    assert rows["final evaluation"][0] == "none" and rows["final evaluation"][1].startswith("2.5 [")


def test_the_same_key_gives_the_same_page(tmp_path):
    runs = {"one": RunRecord(CONFIG, metrics(5), evaluation(2, 4))}
    pages = []
    for name in ("a.html", "b.html"):
        report(KEY, runs, tmp_path / name)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_a_run_of_one_update_without_returns(tmp_path):
    columns = {name: x for name, x in metrics(1, 1).items() if name != "episode_return"}
    rows = {cells[0]: cells[1:] for _, cells in page(tmp_path, {"one": RunRecord({}, columns)}).rows}
    assert rows["return in training"] == ["no episode has ended"] and rows["final evaluation"] == ["none"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_metrics_that_are_never_finite(tmp_path, bad):
    columns = metrics(3) | {"episode_return": np.full(12, np.nan), "entropy": np.full(12, bad)}
    rows = {cells[0]: cells[1:] for _, cells in page(tmp_path, {"one": RunRecord({}, columns)}).rows}
    assert rows["return in training"] == ["no episode has ended"]


@pytest.mark.parametrize(
    ("runs", "name", "message"),
    [
        ({}, "x.html", "runs: expected at least one, got none"),
        ({"a": RunRecord({}, metrics())}, "x.pdf", "path: expected a name that ends in .html"),
        ({"a": RunRecord({}, {"update": np.ones(1)})}, "x.html", "runs: a: expected a column 'agent', got update"),
        ({"a": RunRecord({}, {name: x[:0] for name, x in metrics().items()})}, "x.html", "runs: a: expected at least one row"),
        ({"a": RunRecord({}, {name: x * np.nan for name, x in metrics().items()})}, "x.html", "update: expected finite numbers, got nan"),
        ({"a": RunRecord({}, metrics() | {"seconds": np.full(8, np.inf)})}, "x.html", "a: seconds: expected finite numbers, got inf"),
        ({"a": RunRecord({}, metrics(), None, ["film.avi"])}, "x.html", "films: expected names that end in .mp4"),
    ],
)
def test_wrong_arguments(tmp_path, runs, name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        report(KEY, runs, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_a_browser_shows_it(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium"))), None)
    if browser is None:
        pytest.skip("there is no headless Chromium")
    page(tmp_path, {"one": RunRecord(CONFIG, metrics(), evaluation(2, 4))})
    options = ["--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([browser, *options, tmp_path / "deep" / "report.html"], capture_output=True, text=True, check=True, timeout=120)
    assert "Learning curves" in done.stdout and done.stdout.count("<img") == 3
