"""Files of loggers, as csv, json, TensorBoard's own reader and wandb's protocol read them."""

import csv
import io
import json
import math
import resource
import struct
import sys
import time

import numpy as np
import pytest
import torch

from funrl import random, training
from funrl.record import Logger, loggers, read_metrics
from tests.record import drifter

nan, inf = math.nan, math.inf
ROWS = [
    (10, {"loss": torch.tensor([0.5, nan]), "episodes": torch.tensor([3, 4]), "rate": 0.1}),
    (10, {"loss": torch.tensor([0.25, inf]), "episodes": torch.tensor([5, 6]), "rate": np.float32(0.5)}),
    (70, {"rate": torch.tensor(0.75, dtype=torch.bfloat16), "loss": [0.125, -inf], "episodes": torch.tensor([True, False])}),
]


def write(logger, rows=ROWS):
    with logger:
        for step, metrics in rows:
            logger.log(step, metrics)


def test_csv(tmp_path):
    write(loggers.csv(tmp_path / "new" / "run.csv"))
    with open(tmp_path / "new" / "run.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [["step", "agent", "loss", "episodes", "rate"]] * 6
    assert [row["step"] for row in rows] == ["10"] * 4 + ["70"] * 2 and [row["agent"] for row in rows] == ["0", "1"] * 3
    assert [row["episodes"] for row in rows] == ["3", "4", "5", "6", "1", "0"]
    np.testing.assert_array_equal([float(row["loss"]) for row in rows], [0.5, nan, 0.25, inf, 0.125, -inf])
    np.testing.assert_array_equal(read_metrics(tmp_path / "new" / "run.csv")["rate"], [0.1, 0.1, 0.5, 0.5, 0.75, 0.75])


def test_csv_takes_metrics_that_come_later_and_go(tmp_path):
    with loggers.csv(tmp_path / "run.csv") as logger:
        logger.log(1, {"loss": 0.5})
        logger.log(2, {"loss": [0.25, 0.75], "gain": 1.0})
        logger.log(3, {"gain": 2})
        for name in ("a,b", "step", "agent", "a\nb"):
            with pytest.raises(ValueError, match="cannot be the name of a column"):
                logger.log(4, {name: 0.5})
    assert (tmp_path / "run.csv").read_text() == "step,agent,loss,gain\n1,0,0.5,nan\n2,0,0.25,1\n2,1,0.75,1\n3,0,nan,2\n"
    with loggers.csv(tmp_path / "run.csv", keep=2) as logger:  # goes on with the columns that are there
        logger.log(3, {"loss": 0.125})
        logger.log(4, {"other": 5})
    table = read_metrics(tmp_path / "run.csv")
    assert list(table) == ["step", "agent", "loss", "gain", "other"] and table["step"].tolist() == [1, 2, 2, 3, 4]
    np.testing.assert_array_equal(table["gain"], [nan, 1, 1, nan, nan])
    np.testing.assert_array_equal(table["other"], [nan, nan, nan, nan, 5])


def test_an_evaluation_now_and_then_goes_to_a_csv(tmp_path):
    algo = drifter.algorithm()
    evaluate = lambda step, state, metrics: metrics.update(evaluation=torch.tensor(float(step)))  # noqa: E731
    with loggers.csv(tmp_path / "run.csv") as log:
        hooks = [training.every(3 * algo.steps_per_update, evaluate), loggers.hook(log)]
        training.train(algo, random.key(0), 7 * algo.steps_per_update, hooks=hooks, evaluate_episodes=0, progress=False, backend="eager")
    found = read_metrics(tmp_path / "run.csv")
    np.testing.assert_array_equal(found["evaluation"], [x if i % 3 == 2 else nan for i, x in enumerate(found["step"])])


@pytest.mark.parametrize("make", [loggers.csv, loggers.jsonl])
def test_one_logger_writes_a_file_at_a_time(tmp_path, make):
    with make(tmp_path / "run") as logger:
        logger.log(1, {"loss": 0.5})
        with pytest.raises(ValueError, match="run: it is being written already, here or by another process"):
            make(tmp_path / "run").log(1, {"loss": 0.5})
        logger.log(2, {"loss": 0.25})
    with make(tmp_path / "run", keep=2) as logger:
        logger.log(3, {"loss": 0.125})
    assert len((tmp_path / "run").read_text().splitlines()) == (4 if make is loggers.csv else 3)


@pytest.mark.parametrize("make", [loggers.csv, loggers.jsonl])
def test_a_full_disk_names_the_file(tmp_path, make):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    logger = make(tmp_path / "run")
    logger.log(1, {"loss": 0.5})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
        with pytest.raises(OSError, match=r"File too large: '.*/run'"):
            logger.log(2, {"loss": 0.123456789, "more": [1.0, 2.0, 3.0]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    logger.close()


def test_no_line_that_is_to_stay_is_lost(tmp_path):
    (tmp_path / "run").write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"jsonl: .*run: row 2: expected a row up to 5, as row 3 is, got"):
        loggers.jsonl(tmp_path / "run", keep=5)
    assert len((tmp_path / "run").read_text().splitlines()) == 3


def test_jsonl(tmp_path):
    write(loggers.jsonl(tmp_path / "new" / "run.jsonl"), [*ROWS, (70, {"evaluation": 9})])
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "new" / "run.jsonl").read_text().splitlines()]
    assert rows == [
        {"step": 10, "loss": [0.5, None], "episodes": [3, 4], "rate": 0.1},
        {"step": 10, "loss": [0.25, "inf"], "episodes": [5, 6], "rate": 0.5},
        {"step": 70, "rate": 0.75, "loss": [0.125, "-inf"], "episodes": [1, 0]},
        {"step": 70, "evaluation": 9},
    ]
    with loggers.jsonl(tmp_path / "other.jsonl") as logger, pytest.raises(ValueError, match="'step' is the number of the step already"):
        logger.log(1, {"step": 0.5})


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(("keep", "kept"), [(0, []), (1, [1]), (2, [1, 2, 2]), (9, [1, 2, 2, 5])])
def test_files_go_on_after_the_last_step_that_stays(tmp_path, kind, keep, kept):
    path = tmp_path / "run"
    write(getattr(loggers, kind)(path), [(step, {"loss": 0.5}) for step in (1, 2, 2, 5)])
    with open(path, "a") as file:
        file.write('{"step": 9' if kind == "jsonl" else "9,0")  # a kill in mid-line
    write(getattr(loggers, kind)(path, keep=keep), [(10, {"loss": 1.5})])
    lines = path.read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines] if kind == "jsonl" else read_metrics(path)["step"].tolist()
    assert steps == [*kept, 10]


def test_a_step_is_on_the_disk_once_it_is_logged(tmp_path):
    with loggers.several(loggers.csv(tmp_path / "a"), loggers.jsonl(tmp_path / "b")) as logger:
        logger.log(1, {"loss": 0.5})
        assert (tmp_path / "a").read_text() == "step,agent,loss\n1,0,0.5\n"
        assert (tmp_path / "b").read_text() == '{"step": 1, "loss": 0.5}\n'


def test_console(capsys):
    file = io.StringIO()
    write(loggers.console(file, names=["episodes", "missing", "rate"]))
    assert file.getvalue().splitlines() == [
        "step 10: episodes 3.5 (3 to 4), rate 0.1",
        "step 10: episodes 5.5 (5 to 6), rate 0.5",
        "step 70: episodes 0.5 (0 to 1), rate 0.75",
    ]
    write(loggers.console(), [(1_000_000, {"loss": -1 / 3})])
    assert capsys.readouterr() == ("", "step 1,000,000: loss -0.3333\n")


def scalars(folder):
    """Return {tag: [(step, value), ...]} as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard(tmp_path):
    write(loggers.tensorboard(tmp_path / "new"))
    read = scalars(tmp_path / "new")
    assert sorted(read) == ["episodes/0", "episodes/1", "loss/0", "loss/1", "rate"]
    assert read["loss/0"] == [(10, 0.5), (10, 0.25), (70, 0.125)] and read["rate"] == [(10, pytest.approx(0.1)), (10, 0.5), (70, 0.75)]
    assert math.isnan(read["loss/1"][0][1]) and [value for _, value in read["loss/1"][1:]] == [inf, -inf]


def test_tensorboard_of_many_agents(tmp_path):
    values = torch.arange(64.0)
    values[3] = nan
    write(loggers.tensorboard(tmp_path / "a", agents=[0, 63]), [(1, {"loss": values, "rate": 0.5}), (2, {"loss": values + 1})])
    read = scalars(tmp_path / "a")
    there = np.delete(np.arange(64.0), 3)
    assert sorted(read) == ["loss/0", "loss/63", "loss/mean", "loss/quantile_0.1", "loss/quantile_0.5", "loss/quantile_0.9", "rate"]
    assert read["loss/63"] == [(1, 63.0), (2, 64.0)] and read["loss/mean"][0][1] == pytest.approx(there.mean())
    for q in (0.1, 0.5, 0.9):
        assert read[f"loss/quantile_{q}"][0][1] == pytest.approx(np.quantile(there, q))
    write(loggers.tensorboard(tmp_path / "b"), [(1, {"loss": torch.full((9,), nan)})])
    assert sorted(scalars(tmp_path / "b")) == ["loss/mean", "loss/quantile_0.1", "loss/quantile_0.5", "loss/quantile_0.9"]
    with pytest.raises(ValueError, match="agents: expected some of 0 to 2, got 3"):
        write(loggers.tensorboard(tmp_path / "c", agents=[3]), [(1, {"loss": [1.0, 2.0, 3.0]})])


def test_tensorboard_shows_no_steps_that_were_taken_back(tmp_path):
    write(loggers.tensorboard(tmp_path), [(step, {"loss": float(step)}) for step in (1, 2, 3)])
    write(loggers.tensorboard(tmp_path, keep=1), [(2, {"loss": 20.0})])
    assert scalars(tmp_path) == {"loss": [(1, 1.0), (2, 20.0)]}


def history(folder):
    """Return what a run of wandb logged in its file: LevelDB's log (here one block) of its protocol's records."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")

    def records():
        data = path.read_bytes()
        assert data[:4] == b":W&B" and len(data) < 2**15
        place = 7
        while place < len(data):
            _, length, kind = struct.unpack_from("<IHB", data, place)
            assert kind == 1  # a whole record
            yield Record.FromString(data[place + 7 : place + 7 + length])
            place += 7 + length

    # Its process writes the end a moment after finish has returned.
    deadline = time.monotonic() + 20
    while "exit" not in [record.WhichOneof("record_type") for record in records()]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    rows, config = [], {}
    for record in records():
        if record.WhichOneof("record_type") == "history":
            row = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            rows.append({name: value for name, value in row.items() if name not in ("_timestamp", "_runtime")})
        if record.WhichOneof("record_type") == "run":
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update if item.key != "_wandb"}
            config |= {"project": record.run.project, "name": record.run.display_name}
    return rows, config


def test_wandb_offline(tmp_path):
    config = {"learning_rate": 0.5}
    with loggers.wandb("first", tmp_path / "a", name="one", config=config) as first, loggers.wandb("second", tmp_path / "b") as second:
        first.log(1, {"loss": torch.tensor([0.25, 0.75]), "episode_return": 17.5})
        second.log(3, {"gain": 2.0})
        first.log(1_000, {"loss": torch.tensor([0.125, 0.5])})
    rows, config = history(tmp_path / "a")
    assert rows == [{"_step": 1, "loss/0": 0.25, "loss/1": 0.75, "episode_return": 17.5}, {"_step": 1_000, "loss/0": 0.125, "loss/1": 0.5}]
    assert config == {"learning_rate": 0.5, "project": "first", "name": "one"}
    assert history(tmp_path / "b")[0] == [{"_step": 3, "gain": 2.0}]
    with pytest.raises(ValueError, match="mode: expected 'offline' or 'online', got 'disabled'"):
        loggers.wandb("third", tmp_path, mode="disabled")


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_missing_package(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard"}.get(kind, kind), None)
    make = {"tensorboard": loggers.tensorboard, "wandb": lambda folder: loggers.wandb("project", folder)}[kind]
    with pytest.raises(ModuleNotFoundError, match=rf'pip install "funrl\[{kind}\]"'):
        make(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def broken():
    raise OSError("the disk is full")


def test_several_close_all_even_if_one_fails(tmp_path):
    closed = []
    parts = [Logger(lambda step, metrics: None, lambda i=i: closed.append(i)) for i in range(2)]
    logger = loggers.several(parts[0], Logger(lambda step, metrics: None, broken), parts[1])
    logger.log(1, {"loss": 0.5})
    with pytest.raises(OSError, match="the disk is full"):
        logger.close()
    assert closed == [0, 1]
    logger.close()
    assert closed == [0, 1]


def test_a_logger_as_a_hook():
    rows = []
    log = loggers.hook(Logger(lambda step, metrics: rows.append((step, metrics)), lambda: None))
    log(3, object(), {"loss": 0.5})
    assert rows == [(3, {"loss": 0.5})]


def test_loggers_in_training(tmp_path):
    log = loggers.csv(tmp_path / "all.csv"), loggers.jsonl(tmp_path / "some.jsonl")
    with loggers.several(*log):
        hooks = [loggers.hook(log[0]), training.every(20, loggers.hook(log[1]))]
        options = {"num_agents": 2, "evaluate_episodes": 0, "progress": False, "backend": "eager"}
        training.train(drifter.algorithm(), random.key(0), 50, out=tmp_path / "run", hooks=hooks, **options)
    ours, own = read_metrics(tmp_path / "all.csv"), read_metrics(tmp_path / "run" / "metrics.csv")
    assert ours["step"].tolist() == own["steps"].tolist() == [step for step in (10, 20, 30, 40, 50) for _ in range(2)]
    for name in ("agent", "episode_return", "value_loss", "zest"):
        np.testing.assert_array_equal(ours[name], own[name])
    rows = [json.loads(line) for line in (tmp_path / "some.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40]
    np.testing.assert_allclose([row["zest"] for row in rows], own["zest"].reshape(5, 2)[[1, 3]], rtol=1e-7)


def made(tmp_path):
    yield loggers.console(io.StringIO())
    yield loggers.csv(tmp_path / "a")
    yield loggers.jsonl(tmp_path / "b")
    yield loggers.tensorboard(tmp_path / "c")
    yield loggers.several(loggers.console(io.StringIO()))


def test_all_refuse_the_same(tmp_path):
    for logger in made(tmp_path):
        logger.log(torch.tensor(5), {"loss": 0.5})
        with pytest.raises(ValueError, match="step: expected at least 5, got 4; steps must not decrease"):
            logger.log(4, {"loss": 0.5})
        with pytest.raises(TypeError, match=r"step: expected an integer, got 5\.5"):
            logger.log(5.5, {"loss": 0.5})
        for value, got in ((torch.zeros(2, 2), r"float64 \[2, 2\]"), ("high", r"<U4 \[\]"), ([], r"float64 \[0\]"), (None, r"object \[\]")):
            with pytest.raises(ValueError, match=rf"metrics: loss: expected a number, or one for each agent \[K\], got {got}"):
                logger.log(5, {"loss": value})
        with pytest.raises(ValueError, match="expected the same number of agents in each, got"):
            logger.log(5, {"loss": torch.zeros(2), "gain": torch.zeros(3)})
        with pytest.raises(TypeError, match=r"expected names .str. as keys, got an int"):
            logger.log(5, {3: 0.5})
        logger.close()
        logger.close()
        with pytest.raises(ValueError, match="the logger is closed"):
            logger.log(6, {"loss": 0.5})


def test_gradients_are_let_go():
    rows = []
    loss = torch.tensor(2.0, requires_grad=True) * 3
    loggers.several(Logger(lambda step, metrics: rows.append(metrics), lambda: None)).log(0, {"loss": loss})
    assert rows[0]["loss"].tolist() == 6.0
