"""Every file that is read may be an enemy's: each loader gives a named error or what the file says, and touches nothing elsewhere.

A few mutations of each file are tried here; ``FUNRL_MUTATIONS=10000 pytest -n 0 tests/test_hostile_files.py`` tries many (five minutes).
"""

import json
import os
import random as python_random
import resource
import shutil
import struct
import warnings
import zlib

import pytest
import safetensors.torch
import torch

import funrl
from funrl import buffers, checkpoint, record, runs, training, tree
from funrl.buffers import _journal as journal
from funrl.offline import datasets
from funrl.record import loggers
from tests.offline.data import dataset

MUTATIONS = int(os.environ.get("FUNRL_MUTATIONS", "40"))
MEMORY = 1 << 20  # in KiB: what a test may take at most beyond what was taken before

# What stands in for a part of a JSON value.
VALUES = [
    None, True, -1, 0, 1, 3, 2**31, 2**63, -(2**63), 2**70, 1e308, float("nan"), float("inf"), 0.5, "", "x", "../secret", "/etc/passwd",
    ".", "..", "a/b", "\0", "\ud800", "float32", "int32", "Tensor", "nan", "1e999", "é" * 100, [], {}, [[]], [1], [-1], [2**62, 2**62],
    [0, 2**63], {"a": 1}, ["float32"], "step", "gymnasium:os:path",
]  # fmt: skip
# What stands in for bytes.
BYTES = [b"", b"\0", b"\xff", b"-1", b"9" * 5_000, b"[" * 100_000, b"{}", b"null", b"NaN", b"../", b"\n", b",", b'"', b"\xc3\x28", b"1e999"]


def mangled(text, draw):
    """Some bytes are changed, lost, doubled or put in."""
    text = bytearray(text)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        at = draw.randrange(len(text) + 1)
        length = draw.choice([1, 1, 2, 8, 100])
        kind = draw.randrange(6)
        if kind == 0 and text:
            text[min(at, len(text) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del text[at : at + length]
        elif kind == 2:
            text[at:at] = text[max(at - length, 0) : at]
        elif kind == 3:
            text[at : at + length] = draw.choice(BYTES)
        elif kind == 4:
            text[at:at] = draw.choice(BYTES)
        else:
            del text[at:]
    return bytes(text)


def changed(value, draw):
    """One part of a JSON value is another, or is gone."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice(list(value))
        if draw.random() < 0.15:
            return {other: x for other, x in value.items() if other != name}
        if draw.random() < 0.1:
            return {**value, draw.choice(["", "x", "..", name + "x"]): draw.choice(VALUES)}
        return {**value, name: changed(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        i = draw.randrange(len(value))
        if draw.random() < 0.2:
            return value[:i] + draw.choice([[], [value[i]] * 2]) + value[i + 1 :]
        return [*value[:i], changed(value[i], draw), *value[i + 1 :]]
    return draw.choice(VALUES)


def json_or_bytes(text, draw):
    if draw.random() < 0.5:
        return mangled(text, draw)
    return json.dumps(changed(json.loads(text), draw)).encode()


def safetensors_of(text, draw):
    if draw.random() < 0.4:
        return mangled(text, draw)
    length = struct.unpack("<Q", text[:8])[0]
    header = json_or_bytes(text[8 : 8 + length], draw)
    return struct.pack("<Q", len(header)) + header + text[8 + length :]


def checkpoint_of(text, draw):
    """A checkpoint whose metadata lies, with a checksum that is right; or a file whose header lies; or any bytes."""
    if draw.random() < 0.5:
        return safetensors_of(text, draw)
    length = struct.unpack("<Q", text[:8])[0]
    metadata, tensors = json.loads(text[8 : 8 + length])["__metadata__"], safetensors.torch.load(text)
    stored = [tensors[name] for name, _, _ in json.loads(metadata["leaves"])]
    part = draw.choice(["meta", "leaves"])
    metadata[part] = json_or_bytes(metadata[part].encode(), draw).decode("latin-1")
    metadata["sha256"] = checkpoint._digest(metadata["meta"], metadata["leaves"], stored)
    return safetensors.torch.save(tensors, metadata)


def journal_of(text, draw):
    if draw.random() < 0.4:
        return mangled(text, draw)
    numbers = [draw.choice([-(2**63), -1, 0, 1, 6, 7, 8, 2**40, 2**63 - 1]) for _ in range(4)]
    return b"".join(record + struct.pack("<I", zlib.crc32(record)) for record in (struct.pack("<qq", *numbers[i : i + 2]) for i in (0, 2)))


VALUE = {"a.b": torch.arange(4, dtype=torch.int32), "c": [torch.ones(2, 3), torch.tensor(True)], "d": {"e": torch.zeros(0, 2)}}
ITEM = {"x": torch.zeros(3), "n": torch.tensor(0)}


def filled(buffer):
    batch = {"x": torch.arange(15.0).reshape(5, 3), "n": torch.arange(5)}
    return buffers.in_place(buffer).extend(buffer.init(ITEM), batch)


def run_folder(folder):
    algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=4, num_cells=(4,))
    key = funrl.random.key(0)
    state = torch.func.vmap(algo.init)(funrl.random.split(key, 2))
    where = runs.Folder(folder)
    where.write_config(runs.describe(algo, key, 48, num_agents=2, notes={"seed": 0}))
    checkpoint.save(state, where.checkpoint, {"update": 3, "seconds": 1.0, "compile_seconds": 0.5})


def evaluated(folder):
    runs.Folder(folder).write_evaluation(funrl.acting.Evaluation(torch.ones(2, 3), torch.ones(2, 3).long(), torch.ones(2, 3).bool()))


def saved_buffer(folder):
    buffers.save(filled(buffers.prioritized(7)), folder / "state")


def metrics(folder):
    file = record.MetricsFile(folder / "metrics.csv", ["update", "agent", "loss"])
    file.append([[update, agent, 1 / (update + agent)] for update in range(1, 9) for agent in range(2)])
    file.close()


def lines(folder):
    with loggers.jsonl(folder / "run.jsonl") as logger:
        for step in range(8):
            logger.log(step, {"loss": 1 / (step + 1), "more": [1.0, float("nan")]})


def several(folder):
    for step in (10, 20, 30):
        checkpoint.save_kept(folder, step, VALUE, {"note": step}, keep=3, score=step % 20)


def appended(folder):
    record.MetricsFile(folder / "metrics.csv", ["update", "agent", "loss"], keep=5).close()
    return record.read_metrics(folder / "metrics.csv")


# For each loader: what makes its folder, which file is changed and how, and how it is read.
LOADERS = {
    "tree.load": (lambda f: tree.save(VALUE, f / "t"), "t", safetensors_of, lambda f: tree.load(f / "t")),
    "tree.load like": (lambda f: tree.save(VALUE, f / "t"), "t", safetensors_of, lambda f: tree.load(f / "t", VALUE)),
    "tree.load_memmap": (lambda f: tree.memmap(VALUE, f / "m"), "m/index.json", json_or_bytes, lambda f: tree.load_memmap(f / "m")),
    "tree.load_memmap like": (
        lambda f: tree.memmap(VALUE, f / "m"), "m/index.json", json_or_bytes, lambda f: tree.load_memmap(f / "m", VALUE),
    ),
    "checkpoint.load": (lambda f: checkpoint.save(VALUE, f / "c", {"a": 1}), "c", checkpoint_of, lambda f: checkpoint.load(f / "c", VALUE)),
    "checkpoint.load at": (
        lambda f: checkpoint.save((VALUE, ITEM), f / "c"), "c", checkpoint_of, lambda f: checkpoint.load(f / "c", ITEM, at="[1]"),
    ),
    "checkpoint.best": (several, "step-000000000020", checkpoint_of, lambda f: (checkpoint.best(f), checkpoint.latest(f))),
    "datasets.load": (
        lambda f: datasets.save(dataset(), f / "d"), "d/dataset.json", json_or_bytes, lambda f: datasets.load(f / "d"),
    ),
    "read_config": (run_folder, "config.json", json_or_bytes, runs.read_config),
    "read_evaluation": (evaluated, "evaluation.json", json_or_bytes, lambda f: runs.Folder(f).read_evaluation()),
    "load_run": (run_folder, "config.json", json_or_bytes, training.load_run),
    "load_run, checkpoint": (run_folder, "checkpoint/state", checkpoint_of, training.load_run),
    "read_metrics": (metrics, "metrics.csv", mangled, lambda f: record.read_metrics(f / "metrics.csv")),
    "MetricsFile": (metrics, "metrics.csv", mangled, appended),
    "jsonl": (lines, "run.jsonl", mangled, lambda f: loggers.jsonl(f / "run.jsonl", keep=5).close()),
    "buffers.load": (saved_buffer, "state", safetensors_of, lambda f: buffers.load(f / "state", buffers.prioritized(7), ITEM)),
    "buffers.reopen": (
        lambda f: filled(buffers.uniform(7, storage=buffers.files(f / "b"))), "b/journal", journal_of,
        lambda f: buffers.reopen(buffers.uniform(7, storage=buffers.files(f / "b")), ITEM),
    ),
}  # fmt: skip


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", LOADERS)
def test_any_file_gives_a_value_or_an_error_that_names_it(tmp_path, monkeypatch, name):
    make, file, change, read = LOADERS[name]
    monkeypatch.setattr(journal, "_TRIES", 2)
    elsewhere, origin, folder = tmp_path / "elsewhere", tmp_path / "origin", tmp_path / "folder"
    elsewhere.mkdir()
    (elsewhere / "secret").write_bytes(b"\1\0\0\0" * 4)
    (tmp_path / "secret").write_bytes(b"\1\0\0\0" * 4)
    origin.mkdir()
    make(origin)
    text = (origin / file).read_bytes()
    draw = python_random.Random(name)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + MEMORY
    for number in range(MUTATIONS):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(origin, folder)
        new = change(text, draw)
        (folder / file).write_bytes(new)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(folder)
        except (ValueError, OSError) as error:
            assert type(error) in (ValueError, runs.RunError, checkpoint.CheckpointError) or isinstance(error, OSError), (
                number,
                new,
                error,
            )
            assert str(folder) in str(error), (number, new[:300], error)
        except Exception as error:
            raise AssertionError(f"{name}, mutation {number}: {new[:500]!r} gave {type(error).__name__}: {error}") from error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < most
    shutil.rmtree(folder)
    shutil.rmtree(origin)
    assert {str(path): x for path, x in contents(tmp_path).items()} == {name: b"\1\0\0\0" * 4 for name in ("secret", "elsewhere/secret")}
