import errno
import math
import os
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

from funrl import checkpoint, tree
from funrl.checkpoint import CheckpointError
from tests import preloaded


@tree.dataclass
class State:
    params: dict
    count: torch.Tensor


def example():
    payload = torch.tensor([0x7FC12345, 0x7F800001, -0x3EDCBB, 0], dtype=torch.int32).view(torch.float32)
    return State(
        params={
            "nan": payload,
            "double": torch.tensor([[1.5, -0.0], [5e-324, torch.inf]], dtype=torch.float64),
            "half": torch.tensor([1.0, torch.nan], dtype=torch.bfloat16),
            "flags": torch.tensor([True, False, True]),
            "empty": torch.zeros(0, 3),
            "strided": torch.arange(6.0).reshape(2, 3).T,
            "list": [torch.tensor(-(2**63)), torch.tensor(255, dtype=torch.uint8)],
        },
        count=torch.tensor(7),
    )


def bits(x):
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def like():
    return tree.map(torch.zeros_like, example())


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoint" / "state"
    checkpoint.save(example(), path, {"update": 3, "seconds": 1.25})
    return path


def test_every_bit_comes_back(path):
    loaded, meta = checkpoint.load(path, like())
    assert meta == {"update": 3, "seconds": 1.25}
    assert tree.structure(loaded) == tree.structure(example())
    for new, old in zip(tree.leaves(loaded), tree.leaves(example()), strict=True):
        assert new.dtype == old.dtype and new.shape == old.shape and bits(new) == bits(old)
    assert [x.name for x in path.parent.iterdir()] == ["state"]


def test_like_and_the_tree_are_left_unmodified(tmp_path):
    value, target = example(), like()
    before, target_before = [bits(x) for x in tree.leaves(value)], [bits(x) for x in tree.leaves(target)]
    checkpoint.save(value, tmp_path / "state")
    loaded, meta = checkpoint.load(tmp_path / "state", target)
    tree.leaves(loaded)[0].fill_(1)
    assert [bits(x) for x in tree.leaves(value)] == before and [bits(x) for x in tree.leaves(target)] == target_before and meta == {}


def test_device(path):
    loaded, _ = checkpoint.load(path, like(), device="meta")
    assert {x.device.type for x in tree.leaves(loaded)} == {"meta"}


def test_a_tree_without_leaves(tmp_path):
    checkpoint.save((), tmp_path / "state", {"a": [1, None, "x"]})
    assert checkpoint.load(tmp_path / "state", ()) == ((), {"a": [1, None, "x"]})


def test_every_truncation_is_found(path):
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=f"^{path}: .*(truncated|not a checkpoint)"):
            checkpoint.load(path, like())


def test_every_flipped_byte_is_found(path):
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for place in random.choice(len(whole), 200, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"^{path}: "):
            checkpoint.load(path, like())


def test_appended_bytes_are_found(path):
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(CheckpointError, match=f"^{path}: .*truncated or damaged"):
        checkpoint.load(path, like())


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip", b"\x80\x04 a pickle", b"{}\n", b"funrl other\n" * 9, bytes(4096)])
def test_foreign_files(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint of funrl"):
        checkpoint.load(path, like())


def test_pickles_are_not_executed(path):
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of funrl"):
        checkpoint.load(path, like())


def test_another_version(path):
    whole = path.read_bytes()
    old = r"funrl 0\.1 before "
    for content, version, writer in (
        (b"funrl checkpoint 1\n" + bytes(64), 1, old + "agents became State"),
        (b"funrl checkpoint 2\n" + bytes(64), 2, old + "checkpoints became safetensors"),
        (whole.replace(b'"funrl.checkpoint": "3"', b'"funrl.checkpoint": "4"'), 4, "another funrl"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"format version {version}, of {writer}.*, expected 3; read it with that one"):
            checkpoint.load(path, like())


def test_other_libraries_read_it(path):
    tensors = safetensors.torch.load_file(path)
    assert tensors[".count"] == 7 and bits(tensors[".params['nan']"]) == bits(example().params["nan"])
    checkpoint.save(torch.tensor([1 + 2j, torch.nan]).to(torch.complex128), path)
    assert checkpoint.load(path, torch.zeros(2, dtype=torch.complex128))[0][0] == 1 + 2j


@pytest.mark.parametrize("changed", ["leaves", "meta", "leaf", "sha256", "no digest"])
@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5_000, '[["x", 1, [2]]]', "[[1]]", "{}", '[[".count", "int64", [-2]]]'])
def test_a_file_that_lies(path, changed, value):
    with safetensors.safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    if changed == "leaf":
        tensors[".count"] = torch.tensor(8)
    elif changed == "no digest":
        del metadata["sha256"]
    else:
        metadata[changed] = value
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match=r"cannot be read|its checksum is wrong|not a checkpoint"):
        checkpoint.load(path, like())
    assert checkpoint._score(path) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.replace(count=torch.zeros(2, dtype=torch.int64)),
            r"leaf \.count is int64 \[\] in the file, but int64 \[2\] was expected",
        ),
        (lambda s: s.replace(count=torch.tensor(0.0)), r"leaf \.count is int64 \[\] in the file, but float32 \[\]"),
        (lambda s: s.replace(params={**s.params, "new": s.count}), r"another structure: it has no leaf \.params\['new'\]"),
        (lambda s: s.replace(params={k: v for k, v in s.params.items() if k != "nan"}), r"its leaf \.params\['nan'\] was not expected"),
    ],
)
def test_another_tree(path, change, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path, change(like()))


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="none: cannot read the checkpoint: No such file"):
        checkpoint.load(tmp_path / "none", like())


def test_what_cannot_be_saved_leaves_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"leaf \['b'\]: expected a tensor, got a float"):
        checkpoint.save({"a": torch.zeros(1), "b": 1.0}, path)
    with pytest.raises(TypeError, match="meta: expected JSON data"):
        checkpoint.save({"a": torch.zeros(1)}, path, {"x": object()})
    assert path.read_bytes() == before and os.listdir(path.parent) == ["state"]


def test_a_write_that_fails_halfway_leaves_the_old_file(path):
    before = path.read_bytes()

    def write(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_atomic(path, write)
    assert path.read_bytes() == before and os.listdir(path.parent) == ["state"]


def test_what_a_killed_process_left_is_written_over(path):
    path.with_name(".state.partial").write_bytes(b"left over")
    checkpoint.save(example(), path)
    assert os.listdir(path.parent) == ["state"]


@pytest.mark.parametrize("at", [".params", ".params['list']"])
def test_a_part_of_the_tree(path, at):
    part = example().params if at == ".params" else example().params["list"]
    loaded, meta = checkpoint.load(path, tree.map(torch.zeros_like, part), at=at)
    assert meta == {"update": 3, "seconds": 1.25} and tree.structure(loaded) == tree.structure(part)
    assert [bits(x) for x in tree.leaves(loaded)] == [bits(x) for x in tree.leaves(part)]


def test_a_part_that_is_not_there_and_damage_elsewhere(path):
    for at, like_, message in (
        (".parms", torch.zeros(1), r"it has no leaf \.parms"),
        (".count", torch.zeros(1), r"leaf \.count is int64 \[\] in the file, but float32 \[1\] was expected"),
        (".params", {"nan": torch.zeros(4)}, r"another structure: its leaf \.params\['"),
    ):
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(path, like_, at=at)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1  # in a leaf of params
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="its checksum is wrong"):
        checkpoint.load(path, torch.tensor(0), at=".count")


def kept(folder):
    return {int(name[5:]) for name in os.listdir(folder) if name.startswith("step-0") or name.startswith("step-1")}


def test_the_latest_and_the_best_stay(tmp_path):
    (tmp_path / "step-notes").write_text("precious")
    after = []
    for step, score in ((5, 1.0), (6, None), (7, 9.0), (8, 9.0), (9, math.nan), (10, math.inf), (1_000_000_000_000, 2.0)):
        written = checkpoint.save_kept(tmp_path, step, torch.tensor(step), {"mine": step}, keep=2, score=score)
        assert checkpoint.load(written, torch.tensor(0)) == (step, {"mine": step, "step": step, "score": None if step == 9 else score})
        after.append(kept(tmp_path))
    assert after == [{5}, {5, 6}, {6, 7}, {7, 8}, {7, 8, 9}, {9, 10}, {10, 1_000_000_000_000}]
    assert checkpoint.best(tmp_path).name == "step-000000000010" and checkpoint.latest(tmp_path).name == "step-1000000000000"
    assert (tmp_path / "step-notes").read_text() == "precious"


def test_a_damaged_one_is_not_the_best_and_one_that_is_written_again_is_replaced(tmp_path):
    for step, score in ((1, 5.0), (2, 1.0), (3, 2.0)):
        checkpoint.save_kept(tmp_path, step, torch.tensor(step), keep=3, score=score)
    (tmp_path / "step-000000000001").write_bytes(b"funrl checkpoint 3\n")
    assert checkpoint.best(tmp_path).name == "step-000000000003"
    # A run that goes on from a checkpoint before them.
    checkpoint.save_kept(tmp_path, 2, torch.tensor(20), keep=1, score=3.0)
    assert kept(tmp_path) == {2, 3} and checkpoint.load(tmp_path / "step-000000000002", torch.tensor(0))[0] == 20


def test_nothing_kept(tmp_path):
    checkpoint.save_kept(tmp_path / "a", 1, torch.tensor(1))
    for call, message in (
        (lambda: checkpoint.best(tmp_path / "a"), "no checkpoint there has a score"),
        (lambda: checkpoint.best(tmp_path / "b"), "no checkpoint there has a score"),
        (lambda: checkpoint.latest(tmp_path), "there is no checkpoint of save_kept"),
        (lambda: checkpoint.save_kept(tmp_path, -1, torch.tensor(1)), "step: expected an integer of at least 0, got -1"),
        (lambda: checkpoint.save_kept(tmp_path, 1.0, torch.tensor(1)), "step: expected an integer of at least 0, got 1.0"),
        (lambda: checkpoint.save_kept(tmp_path, 1, torch.tensor(1), keep=True), "keep: expected an integer of at least 1, got True"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()


FULL = """
import resource, sys, torch
from funrl import checkpoint
folder = sys.argv[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # the kernel writes so many bytes of a file, and no more
for save in (checkpoint.save, lambda value, path, meta: checkpoint.save_kept(folder, 2, value, meta)):
    try:
        save(torch.ones(100_000), f"{folder}/state", {"update": 2})
    except OSError as error:
        print(error.errno)
"""


def test_a_disk_without_room_keeps_the_checkpoint_before(tmp_path):
    """The kernel itself refuses to write on, in the middle of the file."""
    checkpoint.save(torch.zeros(10_000), tmp_path / "state", {"update": 1})
    checkpoint.save_kept(tmp_path, 1, torch.zeros(10_000), keep=1)
    done = preloaded.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == [str(errno.EFBIG)] * 2, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["state", "step-000000000001"]
    for name in os.listdir(tmp_path):
        value, meta = checkpoint.load(tmp_path / name, torch.ones(10_000))
        assert not value.any() and 1 in meta.values()


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_at_any_moment(path, monkeypatch, call):
    """ENOSPC where bytes are handed over (the kernel's own, of /dev/full), where they reach the disk, and where the file gets its name."""
    before = path.read_bytes()

    def fail(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "write":
        path.with_name(".state.partial").symlink_to("/dev/full")
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*state'"):
        checkpoint.save(example(), path, {"update": 4})
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(path.parent) == ["state"]
    assert checkpoint.load(path, like())[1]["update"] == 3


def test_one_element_of_a_row_is_saved_whatever_its_stride_is(tmp_path):
    x = torch.arange(4.0).reshape(2, 2)[:1, 1]
    assert x.is_contiguous() and x.stride() == (2,)
    checkpoint.save(x, tmp_path / "state")
    assert checkpoint.load(tmp_path / "state", torch.zeros(1))[0].tolist() == [1.0]
