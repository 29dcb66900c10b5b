"""The benchmarks' command line, and how their history becomes the tables."""

import json
import re
import subprocess
import sys

import pytest

from benchmarks import __main__ as command, harness, history, redone


def test_without_a_name_it_lists_all(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    command.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(command.NAMES) and all(len(line.split()) > 5 for line in lines)


def test_missing_libraries_are_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr(command, "versions", lambda python, packages: {name: None if name == "rejax" else "1" for name in packages})
    with pytest.raises(SystemExit, match=re.escape('lacks rejax, with which funrl is compared: pip install -e ".[bench]"')):
        command.check_peers(["ppo"], "python")
    command.check_peers(["recurrent"], "python")


def test_each_case_of_a_run_is_measured_in_turn(monkeypatch):
    def last_line(arguments):
        called.append(arguments[arguments.index("--measure") + 1])
        return {"row": [len(called), len(called) + 0.5]}

    called = []
    monkeypatch.setattr(harness, "last_line", last_line)
    libraries = {"funrl": harness.Library(print), "peer": harness.Library(print, "pip")}
    cases = [harness.Case("row", (), libraries), harness.Case("long row", (), libraries, quick=False)]
    benchmark = harness.speed("name", "summary", cases, unit="s", targets={}, seconds=1.0, rounds=3)
    assert benchmark.packages == ("pip",)
    (figures,) = benchmark.run(harness.Options(quick=True))
    assert called == ["funrl", "peer"] and figures == {"row": {"funrl": 1.25, "peer": 2.25}}
    called.clear()
    first, figures = benchmark.run(harness.Options(only=("long",), rounds=2))
    assert first == {"row": {"funrl": 1.25, "peer": 2.25}}  # kept if the second round is interrupted
    assert called == ["funrl", "peer"] * 2 and figures == {"row": {"funrl": 2.25, "peer": 3.25}}


def test_a_run_that_is_cut_off_keeps_what_it_had(monkeypatch, tmp_path):
    def cut_off(options):
        yield {"first": {"funrl": 1.0}}
        assert history.newest("returns")["first"].numbers == {"funrl": 1.0}  # it is there before the next one is measured
        raise KeyboardInterrupt

    written = []
    monkeypatch.setattr(history, "HISTORY", tmp_path / "history.jsonl")
    monkeypatch.setattr(history, "RESULTS", tmp_path)
    monkeypatch.setattr(history, "write", lambda benchmarks, rooms: written.append(history.newest("returns")))
    benchmark = harness.speed("returns", "", [], unit="s", targets={}, seconds=1.0, rounds=1)
    monkeypatch.setattr(command, "load", lambda name: benchmark._replace(run=cut_off))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "returns"])
    with pytest.raises(KeyboardInterrupt):
        command.main()
    assert written[0]["first"].numbers == {"funrl": 1.0}


def test_figures_from_before_the_newest_commit_are_marked(monkeypatch, tmp_path):
    monkeypatch.setattr(history, "HISTORY", tmp_path / "history.jsonl")
    monkeypatch.setattr(history, "RESULTS", tmp_path)
    for row, started in (("old", 100.0), ("new", 300.0)):
        history.append("name", {row: {"funrl": 1.0}}, {}, quick=False, seconds=1.0, started=started)
    rows = history.newest("name", since=200.0)
    assert {name: row.when().endswith(", older code") for name, row in rows.items()} == {"old": True, "new": False}
    assert history._days(list(rows.values())).endswith(", 1 of 2 measured before the newest changes of the code")
    rooms = {room for rooms in [command.OTHERS, *command.ROOMS.values()] for room in rooms.split()}
    assert set(command.ROOMS) <= set(command.NAMES)
    assert all((history.README.parent / "funrl" / room).is_dir() for room in rooms)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr(history, "README", tmp_path / "README.md")
    assert history.changed("algos compiler") == 0.0
    (tmp_path / "funrl" / "algos").mkdir(parents=True)
    (tmp_path / "funrl" / "algos" / "ppo.py").touch()
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    subprocess.run(["git", "-C", tmp_path, *identity, "commit", "-q", "-m", "x", "--date", "2026-01-01T00:00:00Z"], check=True)
    assert history.changed("algos compiler") > 0.0 == history.changed("compiler")


def test_full_figures_stay_until_there_are_newer_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(history, "HISTORY", tmp_path / "history.jsonl")
    monkeypatch.setattr(history, "RESULTS", tmp_path)

    def add(number, quick):
        history.append("name", {"row": {"funrl": number, "peer": 1.0}}, {"peer": "1.0"}, quick=quick, seconds=1.0)
        return history.newest("name")["row"]

    assert add(1.0, True).numbers["funrl"] == 1.0 and add(2.0, True).when().endswith(", quick")
    assert add(3.0, False).numbers["funrl"] == 3.0 and add(4.0, True).numbers["funrl"] == 3.0
    row = add(5.0, False)
    assert row.numbers["funrl"] == 5.0 and "quick" not in row.when()
    for number, started in ((6.0, 1.0), (7.0, 1.0), (8.0, 2.0)):
        history.append("name", {"row": {"funrl": number, "peer": 1.0}}, {}, quick=False, seconds=1.0, started=started)
    lines = [json.loads(line)["figures"]["row"]["funrl"] for line in history.HISTORY.read_text().splitlines()]
    assert lines == [1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 8.0] and history.newest("name")["row"].numbers["funrl"] == 8.0
    libraries = {"funrl": harness.Library(print)}
    rates, times = (
        harness.speed("name", "", [harness.Case("row", (), libraries)], unit="s", lower=lower, targets={}, seconds=1.0, rounds=1)
        for lower in (False, True)
    )
    assert history.faster(rates, row, "peer") == 5.0 and history.faster(times, row, "peer") == 0.2
    assert history.newest("other") == {}


def test_programs_that_were_redone_end_before_their_training():
    for page, (_, constant, _, _) in redone.CASES.items():
        text = redone.program(page, 1_234)
        assert f"\n{constant} = 1234" in text and "funrl.train(" not in text and "algo = " in text
        compile(text, page, "exec")
