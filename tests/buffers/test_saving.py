import subprocess
import sys

import pytest
import torch

from funrl import buffers, random, tree
from tests import preloaded

ITEM = {"x": torch.zeros(3), "n": torch.tensor(0)}
STEP = {"x": torch.zeros(2, 3), "n": torch.zeros(2, dtype=torch.int64), "done": torch.zeros(2, dtype=torch.bool)}
BUFFERS = {
    "uniform": (lambda **o: buffers.uniform(7, **o), ITEM),
    "prioritized": (lambda **o: buffers.prioritized(7, **o), ITEM),
    "sequence": (lambda **o: buffers.prioritized_sequence(9, 2, burn_in=1, **o), STEP),
}


def batch(example, i, n=4):
    return tree.stack(
        [
            tree.map(lambda x, k=k: torch.full_like(x, (4 * i + k) % 5 == 0 if x.dtype == torch.bool else 4 * i + k), example)
            for k in range(n)
        ]
    )


def go_on(buffer, example, state, steps):
    """Write, draw and set priorities; return the state and all that was drawn."""
    drawn = []
    for i in steps:
        state = buffers.in_place(buffer).extend(state, batch(example, i))
        drawn.append(buffer.sample(random.key(i), state, 5))
        if buffer.update_priority is not None:
            state = buffers.in_place(buffer).update_priority(state, drawn[-1].indices, drawn[-1].indices.float() * 0.37 + 0.1)
    return state, drawn


@pytest.mark.parametrize("name", BUFFERS)
@pytest.mark.parametrize("where", ["memory", "files"])
@pytest.mark.parametrize("steps", [1, 5])
def test_what_was_saved_goes_on_bit_for_bit_also_after_the_ring_has_wrapped(tmp_path, name, where, steps):
    make, example = BUFFERS[name]
    storage = {} if where == "memory" else {"storage": buffers.files(tmp_path / "data")}
    buffer = make(**storage)
    state, _ = go_on(buffer, example, buffer.init(example), range(steps))
    buffers.save(state, tmp_path / "state")
    again = buffers.load(tmp_path / "state", make(**storage), example)
    assert tree.equal(again, state)
    if where == "memory":
        expected = go_on(buffer, example, state, range(steps, steps + 4))
        assert tree.equal(go_on(make(), example, again, range(steps, steps + 4)), expected)
    else:
        assert (tmp_path / "state").stat().st_size < 3000
        other = make()
        twin, _ = go_on(other, example, other.init(example), range(steps))
        assert tree.equal(go_on(buffer, example, again, range(steps, steps + 4)), go_on(other, example, twin, range(steps, steps + 4)))


def test_files_that_were_written_after_the_state_was_saved(tmp_path):
    buffer = buffers.prioritized(7, storage=buffers.files(tmp_path / "data"))
    state, _ = go_on(buffer, ITEM, buffer.init(ITEM), range(3))
    buffers.save(state, tmp_path / "state")
    state = buffers.in_place(buffer).extend(state, batch(ITEM, 3))
    with pytest.warns(UserWarning, match="4 rows were written to the files after this state was saved"):
        again = buffers.load(tmp_path / "state", buffer, ITEM)
    assert tree.equal(again.ring, state.ring) and (again.priorities.weights[:7] == 1).all()


def test_another_buffer_is_refused(tmp_path):
    buffer = buffers.uniform(7)
    buffers.save(buffer.init(ITEM), tmp_path / "state")
    with pytest.raises(
        ValueError, match=r"state: the state in the file: leaf \['data.n'\] is int64 \[7\], but in this buffer it is int64 \[8\]"
    ):
        buffers.load(tmp_path / "state", buffers.uniform(8), ITEM)
    with pytest.raises(ValueError, match="has another structure than this buffer"):
        buffers.load(tmp_path / "state", buffers.prioritized(7), ITEM)
    with pytest.raises(TypeError, match="shelf is a Shelf; expected tensors only"):
        buffers.save(buffers.objects(7).init(), tmp_path / "state")
    filed = buffers.uniform(7, storage=buffers.files(tmp_path / "data"))
    buffers.save(filed.init(ITEM), tmp_path / "filed")
    with pytest.raises(ValueError, match="the items of this state are in files"):
        buffers.load(tmp_path / "filed", buffer, ITEM)
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:-3])
    with pytest.raises(ValueError, match="the file is damaged"):
        buffers.load(tmp_path / "state", buffer, ITEM)


@pytest.mark.slow
def test_kill_while_it_is_saved_leaves_the_old_or_the_new(tmp_path):
    program = f"""
import torch
from funrl import buffers
buffer = buffers.uniform(100_000)
state = buffer.init(torch.zeros(100))
i = 0
while True:
    buffers.in_place(buffer).extend(state, torch.full((100_000, 100), float(i)))
    buffers.save(state, {str(tmp_path / "state")!r})
    i += 1
    print(i, flush=True)
"""
    buffer = buffers.uniform(100_000)
    for attempt in range(4):
        with preloaded.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            try:
                process.wait(0.05 * attempt + 0.02)
            except subprocess.TimeoutExpired:
                process.kill()
        data = buffers.load(tmp_path / "state", buffer, torch.zeros(100)).data
        assert (data == data[0, 0]).all()


def test_names_with_dots(tmp_path):
    item = {"0.weight": torch.zeros(2), "a": {"b.c": torch.zeros(())}}
    buffer = buffers.prioritized(7)
    state = buffers.in_place(buffer).extend(buffer.init(item), tree.stack([item, tree.map(lambda x: x + 1, item)]))
    buffers.save(state, tmp_path / "state")
    assert tree.equal(buffers.load(tmp_path / "state", buffer, item), state)
    files = buffers.uniform(7, storage=buffers.files(tmp_path / "data"))
    state = buffers.in_place(files).extend(files.init(item), tree.stack([item, tree.map(lambda x: x + 1, item)]))
    buffers.save(state, tmp_path / "state")
    assert tree.equal(buffers.load(tmp_path / "state", files, item), state)


def test_a_state_does_not_bring_back_what_was_taken_since(tmp_path):
    queue = buffers.first_in_first_out(10, storage=buffers.files(tmp_path / "q"))
    state = buffers.in_place(queue).extend(queue.init(torch.zeros(())), torch.arange(6.0))
    buffers.save(state, tmp_path / "state")
    assert queue.size(buffers.load(tmp_path / "state", queue, torch.zeros(()))) == 6
    buffers.in_place(queue).take(state, 4)
    with pytest.warns(UserWarning, match="state: 4 items were taken from the files, or lost, after this state was saved"):
        state = buffers.load(tmp_path / "state", queue, torch.zeros(()))
    assert queue.sample(None, state, 2).batch.tolist() == [4, 5]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda value: torch.zeros(3), "it does not hold the state of a buffer; give a file that buffers.save wrote"),
        (lambda value: {"state": value["state"]}, "it does not hold the state of a buffer"),
        (lambda value: {**value, "written": torch.zeros(2, dtype=torch.int64)}, "it does not hold the state of a buffer"),
        (lambda value: {**value, "more": torch.zeros(2)}, "it does not hold the state of a buffer"),
        (lambda value: tree.update(value, ("state", "cursor"), torch.tensor(7)), "it has a cursor of 7 and a size of 4 of 7"),
        (lambda value: tree.update(value, ("state", "cursor"), torch.tensor(-1)), "it has a cursor of -1 and a size of 4 of 7"),
        (lambda value: tree.update(value, ("state", "size"), torch.tensor(8)), "it has a cursor of 4 and a size of 8 of 7"),
        (lambda value: tree.update(value, "written", torch.tensor(3)), "the items of this state are in files"),
    ],
)
def test_a_file_that_somebody_else_wrote(tmp_path, change, message):
    buffer = buffers.uniform(7)
    buffers.save(buffers.in_place(buffer).extend(buffer.init(ITEM), batch(ITEM, 0)), tmp_path / "state")
    tree.save(change(tree.load(tmp_path / "state")), tmp_path / "state")
    with pytest.raises(ValueError, match=f"state: .*{message}"):
        buffers.load(tmp_path / "state", buffer, ITEM)
