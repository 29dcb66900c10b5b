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
