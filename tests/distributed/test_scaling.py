"""The cost model: its formulas at sizes that are easily computed, and its fit."""

import json

import pytest

from benchmarks import scaling_model as model

LINK = model.Link(1e-5, 1e9)


def test_all_reduce():
    one = {"inside": LINK, "between": LINK}
    assert model.all_reduce(1e6, 1, **one) == 0
    assert model.all_reduce(1e6, 2, **one) == pytest.approx(2 * (1e-5 + 0.5e6 / 1e9))
    assert model.all_reduce(1e6, 8, **one) == pytest.approx(2 * 7 * (1e-5 + 1e6 / 8 / 1e9))  # a ring for many bytes
    assert model.all_reduce(8, 8, **one) == pytest.approx(2 * 3 * 1e-5, rel=1e-2)  # a tree for few
    assert model.all_reduce(1e6, 16, **one) == pytest.approx(model.all_reduce(1e6, 8, **one) + 2 * (1e-5 + 1e6 / 16 / 1e9))


def test_fit_finds_the_link_and_more_devices_are_less_efficient():
    sizes = [64, 4096, 1 << 20, 1 << 24]
    link = model.fit(sizes, [2 * (LINK.latency + n / 2 / LINK.bandwidth) for n in sizes])
    assert link == pytest.approx(LINK)
    for job in model.JOBS.values():
        found = [model.efficiency(job, n) for n in (1, *model.DEVICES)]
        assert found[0] == 1 and found == sorted(found, reverse=True)
        calm = job._replace(jitter=0.0)
        exchanges = job.gradient_steps * model.all_reduce(4 * job.params, 8) + 2 * model.all_reduce(64, 8)
        assert model.step_seconds(calm, 8) == pytest.approx(job.compute + exchanges)


def test_the_table(tmp_path, capsys):
    file = tmp_path / "measured.json"
    file.write_text(json.dumps({"bytes": [64, 1 << 20], "seconds": [1e-4, 2e-3]}))
    model.main(["--fit", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fitted: latency 50 us") and len(lines) == 3 + len(model.JOBS) * len(model.DEVICES)
    with open(file, "a") as more:
        more.write("\n" + json.dumps({"what": "parallel", "one process": 1e5, "efficiency": 0.75}) + "\n")
    model.main(["--fit", str(file)])
    assert "0.75 as measured" in capsys.readouterr().out.splitlines()[1]
