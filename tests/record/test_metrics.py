import math

import numpy as np
import pytest

from funrl.record import MetricsFile, read_metrics

COLUMNS = ["update", "agent", "loss"]


@pytest.fixture
def path(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv", COLUMNS)
    file.append([[1, 0, 0.1], [1, 1, math.nan]])
    file.append([[2, 0, np.float32(1) / 3], [2, 1, -math.inf]])
    file.append([[10, 0, 1e-30], [10, 1, 0.0]])
    file.close()
    return tmp_path / "metrics.csv"


def test_numbers_come_back(path):
    table = read_metrics(path)
    assert list(table) == COLUMNS
    np.testing.assert_array_equal(table["update"], [1, 1, 2, 2, 10, 10])
    np.testing.assert_array_equal(table["loss"].astype(np.float32), np.float32([0.1, np.nan, 1 / 3, -np.inf, 1e-30, 0]))


@pytest.mark.parametrize(("keep", "rows"), [(0, 0), (1, 2), (2, 4), (9, 4), (10, 6), (99, 6)])
def test_opening_again_cuts_what_comes_later(path, keep, rows):
    before = path.read_text().splitlines()
    file = MetricsFile(path, COLUMNS, keep=keep)
    file.append([[keep + 1, 0, 5.0]])
    file.close()
    assert path.read_text().splitlines() == [*before[: 1 + rows], f"{keep + 1},0,5"]
    cut = path.with_name("metrics.csv.cut")  # what was cut off is not lost
    assert (cut.read_text().splitlines() if cut.exists() else []) == before[1 + rows :]


def test_every_place_where_a_write_may_have_stopped(path):
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        MetricsFile(path, COLUMNS, keep=99).close()
        kept = path.read_bytes()
        assert kept.endswith(b"\n") and (whole.startswith(kept) or size == 0)
        assert all(len(x) == kept.count(b"\n") - 1 for x in read_metrics(path).values())


def test_a_last_row_without_its_end_is_not_read(path):
    path.write_text(path.read_text() + "11,0")
    assert len(read_metrics(path)["update"]) == 6


@pytest.mark.parametrize("bad", ["x,0,1", "\0\0\0", "99,0,1", "9" * 5_000 + ",0,1"])
def test_no_row_that_is_to_stay_is_lost(path, bad):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], bad, *lines[3:], ""]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"metrics.csv: row 3: expected a row up to 10, as row 4 is, got"):
        MetricsFile(path, COLUMNS, keep=10)
    assert path.read_bytes() == before
    MetricsFile(path, COLUMNS, keep=1).close()  # all up to here is whole
    assert path.read_text().splitlines() == lines[:3]


def test_a_file_without_a_line_is_not_written_over(tmp_path):
    (tmp_path / "notes").write_text("my notes")
    with pytest.raises(ValueError, match="expected the columns update,agent,loss, got my notes; move it away"):
        MetricsFile(tmp_path / "notes", COLUMNS)
    assert (tmp_path / "notes").read_text() == "my notes"


def test_columns_that_come_later(path):
    file = MetricsFile(path, COLUMNS, keep=99)
    file.add_columns(["gain", "more"])
    file.append([[11, 0, 1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="expected new ones, got 'gain', which exists already"):
        file.add_columns(["gain"])
    file.close()
    table = read_metrics(path)
    np.testing.assert_array_equal(table["gain"], [math.nan] * 6 + [2.0])
    assert list(table) == [*COLUMNS, "gain", "more"] and table["update"].tolist() == [1, 1, 2, 2, 10, 10, 11]


def test_a_file_is_written_by_one_at_a_time(path):
    file = MetricsFile(path, COLUMNS, keep=99)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="it is being written already, here or by another process; write to another file"):
        MetricsFile(path, COLUMNS)
    assert path.read_bytes() == before
    file.close()
    MetricsFile(path, COLUMNS, keep=99).close()


@pytest.mark.parametrize(
    "text, message",
    [
        (b"update,loss\n1,\xff\n", "expected text, got bytes that are not UTF-8"),
        (b"update,update\n1,1\n", "expected names of columns, each once"),
        (b"update,loss\n1,1_0\n", "line 2: expected 2 numbers"),
        (b"update,loss\n1, 1\n", "line 2: expected 2 numbers"),
        (b"update,loss\n1,2\n1\n", "line 3: expected 2 numbers"),
    ],
)
def test_what_is_no_file_of_metrics(path, text, message):
    path.write_bytes(text)
    with pytest.raises(ValueError, match=f"metrics.csv: {message}"):
        read_metrics(path)
    path.write_bytes(b"update,loss\r\n1,2\r\n")  # as Windows writes it
    assert {name: x.tolist() for name, x in read_metrics(path).items()} == {"update": [1], "loss": [2]}


def test_errors(path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="expected the columns update,gain, got update,agent,loss"):
        MetricsFile(path, ["update", "gain"], keep=99)
    with pytest.raises(ValueError, match="expected 'update' or 'step' first"):
        MetricsFile(path, ["loss"])
    assert path.read_bytes() == before
    path.write_text(path.read_text() + "11,x,3\n")
    with pytest.raises(ValueError, match="line 8: expected 3 numbers, got '11,x,3'"):
        read_metrics(path)
