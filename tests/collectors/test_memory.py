"""Memory that processes share."""

import multiprocessing
import os

import pytest
import torch

from funrl import tree
from funrl.collectors._memory import Published, Shared, Spec, size, spec, tensor_views


def test_trees_lie_in_memory_apart_and_aligned():
    example = {"a": torch.zeros(3, dtype=torch.bool), "b": (torch.zeros(2, 2), torch.zeros((), dtype=torch.int64)), "c": {}}
    specs = spec(example)
    assert tree.leaves(spec(example["b"][0], (5,), 1)) == [Spec((5, 2), torch.float32)]
    memory = Shared(size(specs))
    views = tensor_views(specs, memory.bytes)
    tree.check_like(views, example, "views", "example")
    for i, x in enumerate(tree.leaves(views)):
        assert x.data_ptr() % 64 == 0
        x.fill_(i)
    assert [x.double().mean().item() for x in tree.leaves(views)] == [0, 1, 2]
    other = tensor_views(specs, Shared(size(specs), os.dup(memory.handle)).bytes)
    views["b"][0].fill_(5)
    assert (other["b"][0] == 5).all()


def test_memory_goes_with_the_last_tensor():
    def held():
        with open("/proc/self/maps") as maps:
            return sum("memfd:funrl" in line for line in maps)

    before = held()
    memory = Shared(1 << 20)
    view = memory.bytes[:10]
    assert held() == before + 1
    memory.close()
    memory.close()
    del memory
    view.fill_(1)
    del view
    assert held() == before


def _read(specs, handle, num, results):
    published, seen = Published(specs, handle), []
    while not seen or seen[-1] < num:
        version, params = published.read()
        torn = [x.unique().tolist() for x in params if not (x == version).all()]
        if torn:
            results.put(f"version {version} has {torn}")
            return
        seen.append(version)
    results.put(seen)


def test_no_reader_sees_half_of_a_version():
    """Each number of version v is v, and the versions that a process sees never go back."""
    num, params = 300, [torch.zeros(200_000), torch.zeros(3)]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    published = Published(spec(params))
    reader = context.Process(target=_read, args=(spec(params), os.dup(published.shared.handle), num, results))
    reader.start()
    for version in range(1, num + 1):
        published.write([torch.full_like(x, version) for x in params], version)
    seen = results.get(timeout=60)
    reader.join()
    assert isinstance(seen, list) and seen == sorted(seen) and seen[-1] == num


def test_a_reader_that_dies_holds_nobody_up():
    params = [torch.zeros(2)]
    published = Published(spec(params))

    def die():
        import fcntl

        fcntl.lockf(published.shared.handle, fcntl.LOCK_SH)
        os.kill(os.getpid(), 9)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    published.write([torch.ones(2)], 1)
    assert published.version == 1 and published.read()[1][0].tolist() == [1, 1]


@pytest.mark.parametrize("params", [(), None, {"a": ()}])
def test_parameters_may_be_none(params):
    published = Published(spec(params))
    published.write(params, 3)
    assert published.read() == (3, params)
