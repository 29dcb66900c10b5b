import json
import os
import struct

import numpy as np
import pytest
import torch

from funrl import checkpoint, tree
from funrl.checkpoint import CheckpointError


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
    checkpoint.save(path, example(), {"update": 3, "seconds": 1.25})
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
    checkpoint.save(tmp_path / "state", value)
    loaded, meta = checkpoint.load(tmp_path / "state", target)
    tree.leaves(loaded)[0].fill_(1)
    assert [bits(x) for x in tree.leaves(value)] == before and [bits(x) for x in tree.leaves(target)] == target_before and meta == {}


def test_device(path):
    loaded, _ = checkpoint.load(path, like(), device="meta")
    assert {x.device.type for x in tree.leaves(loaded)} == {"meta"}


def test_a_tree_without_leaves(tmp_path):
    checkpoint.save(tmp_path / "state", (), {"a": [1, None, "x"]})
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
    with pytest.raises(CheckpointError, match=r"damaged, it has .* bytes and should have"):
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
    path.write_bytes(path.read_bytes().replace(b"checkpoint 1\n", b"checkpoint 2\n"))
    with pytest.raises(CheckpointError, match="format version 2, expected 1"):
        checkpoint.load(path, like())


def test_a_header_that_lies(path):
    header = json.dumps({"meta": {}, "leaves": [{"path": "x"}]}).encode()
    path.write_bytes(b"funrl checkpoint 1\n" + struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(CheckpointError, match="its header cannot be read"):
        checkpoint.load(path, like())


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
    with pytest.raises(TypeError, match=r"leaf \['b'\]: expected a tensor, got float"):
        checkpoint.save(path, {"a": torch.zeros(1), "b": 1.0})
    with pytest.raises(TypeError, match="meta: expected what JSON can hold"):
        checkpoint.save(path, {"a": torch.zeros(1)}, {"x": object()})
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
    checkpoint.save(path, example())
    assert os.listdir(path.parent) == ["state"]
