import json
import os
import resource
import sys

import pytest
import safetensors.torch
import torch

from funrl import buffers, checkpoint, nn, tree
from tests import preloaded


@tree.dataclass
class Node:
    """A node."""

    x: torch.Tensor
    y: torch.Tensor


def example():
    shared = torch.arange(6.0)
    return {
        "node": Node(torch.tensor([1.5, torch.nan]), torch.arange(6).reshape(2, 3).T),
        "list": [torch.tensor(True), torch.zeros(0, 3), shared[2:4], shared, shared],
        "half": torch.ones(2, 2, dtype=torch.bfloat16),
        "byte": torch.tensor([255, 0], dtype=torch.uint8),
    }


def same(one, other):
    for x, y in zip(tree.leaves(one), tree.leaves(other), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert torch.equal(x.contiguous().reshape(-1).view(torch.uint8), y.contiguous().reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("write, read", [(tree.save, tree.load), (tree.memmap, tree.load_memmap)])
def test_round_trip(tmp_path, write, read):
    value = example()
    write(value, tmp_path / "there" / "it is")
    again = read(tmp_path / "there" / "it is", like=value)
    same(again, value)
    assert isinstance(again["node"], Node)
    nested = read(tmp_path / "there" / "it is")
    assert tree.equal(tree.exclude(nested, ("node", "x")), {**tree.select(nested, "byte", "half", "list"), "node": {"y": value["node"].y}})
    assert nested["list"]["3"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_single_tensor(tmp_path):
    tree.save(torch.arange(3), tmp_path / "one")
    for like in (None, torch.zeros(3, dtype=torch.int64)):
        assert tree.load(tmp_path / "one", like).tolist() == [0, 1, 2]
    assert tree.memmap(torch.arange(3), tmp_path / "two").tolist() == [0, 1, 2]


DOTTED = {
    "0.weight": torch.ones(2),
    "layer": torch.zeros(1),
    "layer.weight": torch.ones(1),
    "a": {"b": torch.ones(3), "": {"c": torch.ones(4)}},
    "a.b": torch.ones(5),
    "back\\slash": {"back\\.slash": torch.ones(6), "\\": torch.ones(7)},
    "__metadata__": torch.ones(8),
}


@pytest.mark.parametrize("write, read", [(tree.save, tree.load), (tree.memmap, tree.load_memmap)])
@pytest.mark.parametrize(
    "value", [DOTTED, {"__metadata__": torch.ones(1)}, {"(the whole tree)": torch.ones(1)}, {"\\(the whole tree)": torch.ones(1)}]
)
def test_names_with_dots_come_back_as_they_were(tmp_path, write, read, value):
    write(value, tmp_path / "t")
    assert tree.equal(read(tmp_path / "t"), value)
    assert tree.equal(read(tmp_path / "t", like=value), value)


def test_a_module_and_its_net_read_each_others_files(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(2, 1))
    net = nn.from_module(module)
    params = net.init()
    tree.save(params, tmp_path / "ours")
    assert set(safetensors.torch.load_file(tmp_path / "ours")) == {"0.weight", "0.bias"}
    safetensors.torch.save_file(module.state_dict(), tmp_path / "theirs")
    assert tree.equal(tree.load(tmp_path / "theirs", like=params), tree.load(tmp_path / "ours", like=params))
    assert torch.equal(net.apply(tree.load(tmp_path / "ours"), torch.ones(2)), module(torch.ones(2)))
    tree.memmap(params, tmp_path / "m")
    assert torch.equal(net.apply(tree.load_memmap(tmp_path / "m"), torch.ones(2)), module(torch.ones(2)))


def test_files_of_before_are_read(tmp_path):
    safetensors.torch.save_file({"a.b": torch.ones(1), "c\\d": torch.ones(2)}, tmp_path / "t")
    assert tree.equal(tree.load(tmp_path / "t"), {"a": {"b": torch.ones(1)}, "c\\d": torch.ones(2)})
    params = {"0.weight": torch.ones(2)}
    tree.memmap(params, tmp_path / "m")
    index = tmp_path / "m" / "index.json"
    index.write_text(index.read_text().replace("\\\\.", "."))
    assert json.loads(index.read_text())[0]["name"] == "0.weight" and tree.equal(tree.load_memmap(tmp_path / "m", like=params), params)


def test_other_libraries_read_the_file(tmp_path):
    tree.save({"net": {"w": torch.ones(2)}}, tmp_path / "file")
    text = (tmp_path / "file").read_bytes()
    header = json.loads(text[8 : 8 + int.from_bytes(text[:8], "little")])
    assert header["net.w"] == {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize("write, read", [(tree.save, tree.load), (tree.memmap, tree.load_memmap)])
def test_another_tree_is_refused(tmp_path, write, read):
    write({"a": torch.zeros(2)}, tmp_path / "t")
    with pytest.raises(ValueError, match=r"t: the tree in the file: leaf \['a'\] is float32 \[2\], but in like it is float32 \[3\]"):
        read(tmp_path / "t", {"a": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"has another structure than like: it has no leaf \['b'\]; its leaf \['a'\] is new"):
        read(tmp_path / "t", {"b": torch.zeros(2)})
    with pytest.raises(TypeError, match=r"leaf \['a'\] is a float; expected a tensor"):
        write({"a": 1.0}, tmp_path / "u")


def test_damaged_files(tmp_path):
    tree.save({"a": torch.zeros(1000)}, tmp_path / "t")
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:-1])
    with pytest.raises(ValueError, match="t: the file is damaged or no safetensors file"):
        tree.load(tmp_path / "t")
    with pytest.raises(FileNotFoundError):
        tree.load(tmp_path / "nowhere")
    tree.memmap({"a": torch.zeros(1000)}, tmp_path / "m")
    os.truncate(next((tmp_path / "m").glob("*.bin")), 3999)
    with pytest.raises(ValueError, match="it has 3999 bytes, and should have 4000"):
        tree.load_memmap(tmp_path / "m")
    with pytest.raises(ValueError, match="holds a tree already; open it with load_memmap"):
        tree.memmap({"a": torch.zeros(1000)}, tmp_path / "m")
    with pytest.raises(ValueError, match=r"there is no complete tree here \(no index.json\)"):
        tree.load_memmap(tmp_path)


@pytest.mark.parametrize(
    "index, message",
    [
        ('[{"name": "a"}]', "entry 0: expected a name, a file, a shape and a dtype"),
        ('{"x": 1}', "expected a list of files, got a dict"),
        ('"s"', "expected a list of files, got a str"),
        ("null", "expected a list of files, got a NoneType"),
        ("{garbled", "Expecting property name"),
        ("[" * 100_000, "nested too deep"),
        ("[" + "9" * 5_000 + "]", "Exceeds the limit"),
        ("\xff", "invalid start byte"),
        ('[{"name": "a", "dtype": "nope", "shape": [4], "file": "0.a.bin"}]', "entry 0: expected"),
        ('[{"name": "a", "dtype": "Tensor", "shape": [4], "file": "0.a.bin"}]', "entry 0: expected"),
        ('[{"name": "a", "dtype": "int32", "shape": [-4], "file": "0.a.bin"}]', "entry 0: expected"),
        ('[{"name": "a", "dtype": "int32", "shape": [true, 4], "file": "0.a.bin"}]', "entry 0: expected"),
        ('[{"name": "a", "dtype": "int32", "shape": [4], "file": "../secret"}]', "expected the name of a file in this folder"),
        ('[{"name": "a", "dtype": "int32", "shape": [4], "file": ".."}]', "expected the name of a file in this folder|a link or the like"),
        ('[{"name": "a", "dtype": "int32", "shape": [4], "file": "link"}]', "got a link or the like"),
        ('[{"name": "a", "dtype": "int32", "shape": [4], "file": "ABSOLUTE"}]', "expected the name of a file in this folder"),
        ('[{"name": "a", "dtype": "int32", "shape": [9223372036854775807, 9], "file": "0.a.bin"}]', "it has 16 bytes, and should have"),
        ('[{"name": "a", "dtype": "int32", "shape": [0, 9223372036854775807, 9], "file": "0.a.bin"}]', "it has 16 bytes|cannot be mapped"),
        ('[{"name": "a", "dtype": "int32", "shape": [4], "file": "0.a.bin"}, '
         '{"name": "b", "dtype": "int32", "shape": [4], "file": "0.a.bin"}]', "twice"),
    ],
)  # fmt: skip
def test_an_index_that_somebody_else_wrote(tmp_path, index, message):
    (tmp_path / "secret").write_bytes(b"\1\0\0\0" * 4)
    tree.memmap({"a": torch.zeros(4, dtype=torch.int32)}, tmp_path / "m")
    (tmp_path / "m" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "m" / "index.json").write_bytes(index.replace("ABSOLUTE", str(tmp_path / "secret")).encode("latin-1"))
    with pytest.raises(ValueError, match=f"m(/.*)?: .*({message})"):
        tree.load_memmap(tmp_path / "m")


def test_writing_follows_no_link_out_of_the_folder(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "0.a.bin").symlink_to(tmp_path / "secret")
    tree.memmap({"a": torch.zeros(4)}, tmp_path / "m")
    assert (tmp_path / "secret").read_text() == "secret"


def test_maps_share_what_is_written(tmp_path):
    value = tree.memmap({"a": torch.zeros(3), "b": torch.tensor([True])}, tmp_path / "m")
    program = f"from funrl import tree; tree.load_memmap({str(tmp_path / 'm')!r})['a'][1] = 7"
    preloaded.run([sys.executable, "-c", program], check=True, timeout=100)
    assert value["a"].tolist() == [0, 7, 0]
    assert str(tmp_path) in tree.describe(value).splitlines()[0]


def test_zeros_take_no_room(tmp_path):
    value = tree.memmap_like({"a": torch.empty(1 << 30, device="meta")}, tmp_path / "m")
    value["a"][-1] = 1
    file = next((tmp_path / "m").glob("*.bin")).stat()
    assert file.st_size == 4 << 30 and file.st_blocks * 512 < 1 << 20


def limited(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_leaves_what_was_there(tmp_path):
    tree.save({"a": torch.zeros(2)}, tmp_path / "t")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    try:
        limited(1 << 16)
        with pytest.raises(OSError, match=r"File too large: '.*t'"):
            tree.save({"a": torch.zeros(1 << 16)}, tmp_path / "t")
        for write in (tree.memmap, tree.memmap_like):
            with pytest.raises(OSError, match=r"File too large: '.*0\.a\.bin'"):
                write({"a": torch.zeros(1 << 16)}, tmp_path / "m")
    finally:
        limited(before)
    assert tree.load(tmp_path / "t")["a"].tolist() == [0, 0] and sorted(os.listdir(tmp_path)) == ["m", "t"]
    with pytest.raises(ValueError, match="no complete tree"):
        tree.load_memmap(tmp_path / "m")
    assert not (tmp_path / ".t.partial").exists()


@pytest.mark.parametrize("module", [tree, checkpoint, buffers])
def test_saving_has_one_order_of_arguments(module, tmp_path):
    value, path = {"a": torch.ones(2)}, tmp_path / "t"
    value = buffers.uniform(3).init(value) if module is buffers else value
    module.save(value, path)
    before = path.read_bytes()
    name = f"{module.__name__.removeprefix('funrl.')}.save"
    for where in (path, str(path)):
        with pytest.raises(TypeError, match=rf"{name}: path: expected .*, got .*; give the value to save first, .*: {name}\(value, path\)"):
            module.save(where, value)
    assert path.read_bytes() == before
