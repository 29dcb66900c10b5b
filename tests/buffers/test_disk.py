"""Buffers in files: what is there after the process, the disk or the writer stopped."""

import os
import resource
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch

from funrl import buffers, random, tree
from tests import preloaded

EXAMPLE = {"n": torch.tensor(0), "x": torch.zeros(300)}
FACTORIES = {"uniform": buffers.uniform, "prioritized": buffers.prioritized}


def rows(start, n):
    number = torch.arange(start, start + n)
    return {"n": number, "x": number.float()[:, None].expand(n, 300)}


def made(folder, factory=buffers.uniform, capacity=50):
    buffer = buffers.in_place(factory(capacity, storage=buffers.files(folder)))
    return buffer, buffer.init(EXAMPLE)


def held(state):
    """The numbers of the rows that may be drawn, the oldest first; each row has to be whole."""
    ring = getattr(state, "ring", state)
    capacity = len(ring.data["n"])
    slots = (int(ring.cursor) - torch.arange(int(ring.size), 0, -1)) % capacity
    n = ring.data["n"][slots]
    assert torch.equal(ring.data["x"][slots], n.float()[:, None].expand(-1, 300))
    return n.tolist()


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_they_are_as_in_memory(tmp_path, factory):
    buffer, state = made(tmp_path, factory, 7)
    other = buffers.in_place(factory(7))
    memory = other.init(EXAMPLE)
    for i, n in enumerate([3, 1, 5, 20, 0, 7]):
        state, memory = buffer.extend(state, rows(20 * i, n)), other.extend(memory, rows(20 * i, n))
        state, memory = buffer.add(state, tree.index(rows(i, 1), 0)), other.add(memory, tree.index(rows(i, 1), 0))
        assert tree.equal(state, memory)
        assert tree.equal(buffer.sample(random.key(i), state, 9), other.sample(random.key(i), memory, 9))
        again = buffers.reopen(buffer, EXAMPLE)
        if hasattr(state, "laps"):  # they begin anew: no index of another process is known here
            again = again.replace(laps=state.laps)
        assert tree.equal(again, state)
    assert len(held(state)) == 7


def test_sequences_and_frames_in_files(tmp_path):
    step = lambda i: {"x": torch.full((2,), float(i)), "done": torch.tensor([i % 3 == 2, False])}  # noqa: E731
    buffer = buffers.in_place(buffers.sequence(9, 2, storage=buffers.files(tmp_path / "s")))
    state = buffer.init(step(0))
    for i in range(14):
        state = buffer.add(state, step(i))
    again = buffers.reopen(buffer, step(0))
    assert torch.equal(again.starts.weights, state.starts.weights) and again.count == state.count
    again = buffer.extend(again, tree.stack([step(14), step(15)]))
    assert buffer.sample(random.key(0), again, 4).batch["x"].shape == (2, 4)
    picture = {name: torch.ones(2, 3, 4, 4, dtype=torch.uint8) for name in ("observation", "next_observation")}
    frames = buffers.in_place(buffers.frame_stacks(9, 3, storage=buffers.files(tmp_path / "f")))
    state = frames.init({**picture, "done": torch.zeros(2, dtype=torch.bool)})
    for _ in range(5):
        state = frames.add(state, {**picture, "done": torch.zeros(2, dtype=torch.bool)})
    assert tree.equal(buffers.reopen(frames, {**picture, "done": torch.zeros(2, dtype=torch.bool)}), state)


def test_errors(tmp_path):
    buffer, state = made(tmp_path / "a")
    with pytest.raises(TypeError, match=r"would copy all files of this buffer into memory; use that of buffers\.in_place\(buffer\)"):
        buffers.uniform(50).extend(state, rows(0, 1))
    with pytest.raises(ValueError, match="holds a tree already"):
        buffer.init(EXAMPLE)
    stale = tree.map(lambda x: x.clone() if x.ndim == 0 else x, state)
    state = buffer.extend(state, rows(0, 3))
    with pytest.raises(ValueError, match="the files were written since this state was; use the state that extend returned"):
        buffer.extend(stale, rows(0, 1))
    with pytest.raises(ValueError, match=r"leaf \['n'\] is int64 \[50\], but in like it is int64 \[60\]"):
        buffers.reopen(buffers.uniform(60, storage=buffers.files(tmp_path / "a")), EXAMPLE)
    with pytest.raises(ValueError, match="there is no buffer here"):
        buffers.reopen(buffers.uniform(60, storage=buffers.files(tmp_path / "b")), EXAMPLE)
    (tmp_path / "a" / "journal").write_bytes(b"x" * 40)
    with pytest.raises(ValueError, match="the journal of the buffer is damaged"):
        buffers.reopen(buffer, EXAMPLE)


def test_what_was_taken_from_a_queue_is_gone_for_whoever_opens_it(tmp_path):
    make = lambda: buffers.first_in_first_out(10, storage=buffers.files(tmp_path / "q"))  # noqa: E731
    queue = buffers.in_place(make())
    state = queue.extend(queue.init(torch.zeros(())), torch.arange(6.0))
    state, sample = queue.take(state, 4)
    assert sample.batch.tolist() == [0, 1, 2, 3] and int(queue.size(state)) == 2
    follow = buffers.follow(make(), torch.zeros(()))
    assert follow(random.key(0), 2).batch.tolist() == [4, 5]
    again = buffers.reopen(make(), torch.zeros(()))
    assert queue.size(again) == 2 and queue.sample(None, again, 2).batch.tolist() == [4, 5]
    again = queue.extend(again, torch.arange(6.0, 20.0))  # past the end of the ring
    again, sample = queue.take(again, 3)
    assert sample.batch.tolist() == [10, 11, 12]
    assert queue.sample(None, buffers.reopen(make(), torch.zeros(())), 7).batch.tolist() == list(range(13, 20))
    with pytest.raises(ValueError, match="the files were written since this state was; use the state that take returned"):
        queue.take(state, 1)
    with pytest.raises(TypeError, match=r"take would leave the items in the files of this queue; use that of buffers\.in_place"):
        make().take(again, 1)


def limited(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_a_full_disk_costs_the_rows_that_were_being_written(tmp_path, factory):
    buffer, state = made(tmp_path, factory)
    state = buffer.extend(state, rows(0, 60))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    row = 300 * 4
    try:
        limited(12 * row)  # slots 10 and 11 are written, and 12 is not
        with pytest.raises(OSError, match=r"File too large: '.*\.bin'"):
            buffer.extend(state, rows(60, 5))
    finally:
        limited(before)
    assert held(state) == list(range(15, 60))
    drawn = buffer.sample(random.key(0), state, 200).batch["n"]
    assert drawn.min() >= 15 and drawn.max() < 60
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert held(buffers.reopen(buffer, EXAMPLE)) == list(range(15, 60))
    state = buffer.extend(state, rows(60, 5))
    assert held(state) == list(range(15, 65)) == held(buffers.reopen(buffer, EXAMPLE))
    assert set(buffer.sample(random.key(0), state, 500).batch["n"].tolist()) == set(range(15, 65))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no permission to mount")
    try:
        buffer, state = made(disk / "b", capacity=100)
        count = 0
        with pytest.raises(OSError, match="No space left"):
            for i in range(100):
                state = buffer.extend(state, rows(5 * i, 5))
                count = 5 * (i + 1)
        assert count and held(state) == list(range(count)) == held(buffers.reopen(buffer, EXAMPLE))
    finally:
        del buffer, state
        subprocess.run(["umount", "-l", str(disk)], check=True)


WRITER = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_disk import made, rows
from funrl import buffers
buffer, state = made({folder!r}, buffers.{factory})
i = 0
while True:
    buffer.extend(state, rows(20 * i, 20))
    i += 1
    if i == 5:
        print("ready", flush=True)
"""


def start(folder, factory="uniform"):
    program = WRITER.format(tests=os.path.dirname(__file__), folder=str(folder), factory=factory)
    process = preloaded.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def stop(process):
    process.kill()
    process.wait()
    process.stdout.close()


def reopened(folder, factory=buffers.uniform):
    """Reopen what a killed writer left, check it, and return the numbers that it holds."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        numbers = held(buffers.reopen(factory(50, storage=buffers.files(folder)), EXAMPLE))
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert len(numbers) == (30 if said else 50) and (numbers[-1] + 1) % 20 == 0
    return numbers


def test_kill_at_the_worst_moment_costs_the_rows_that_were_being_written(tmp_path):
    """The process dies with the first file written and the second not, and has wrapped before."""
    program = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_disk import made, rows
from funrl.buffers import _journal as journal
buffer, state = made({str(tmp_path)!r})
for i in range(4):
    buffer.extend(state, rows(20 * i, 20))
write, calls = journal._write_at, []
def dying(*arguments):
    calls.append(arguments)
    if len(calls) == 5:
        os.kill(os.getpid(), 9)
    write(*arguments)
journal._write_at = dying
buffer.extend(state, rows(80, 20))
"""
    assert preloaded.run([sys.executable, "-c", program], timeout=100).returncode == -signal.SIGKILL
    buffer = buffers.in_place(buffers.uniform(50, storage=buffers.files(tmp_path)))
    with pytest.warns(UserWarning, match="the writing of 20 rows was cut off: they are lost, and 20 old rows in their places"):
        state = buffers.reopen(buffer, EXAMPLE)
    assert held(state) == list(range(50, 80))
    assert state.data["n"][30:40].tolist() == list(range(80, 90))  # the spoilt places, which are not drawn
    state = buffer.extend(state, rows(80, 20))
    assert held(state) == list(range(50, 100)) == reopened(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("moments", [range(2, 15, 6), pytest.param(range(15), marks=pytest.mark.nightly)], ids=["three", "all"])
def test_kill_at_many_moments(tmp_path, factory, moments):
    for attempt in moments:
        folder = tmp_path / str(attempt)
        process = start(folder, factory)
        time.sleep(0.0007 * attempt)
        stop(process)
        reopened(folder, FACTORIES[factory])


def test_another_process_reads_while_it_is_written_and_after_it_was_killed(tmp_path):
    process = start(tmp_path)
    try:
        sample = buffers.follow(buffers.uniform(50, storage=buffers.files(tmp_path)), EXAMPLE)
        newest = []
        for i in range(60):
            batch = sample(random.key(i), 8).batch
            assert torch.equal(batch["x"], batch["n"].float()[:, None].expand(-1, 300))
            newest.append(batch["n"].max().item())
        assert newest[-1] > newest[0] + 50
    finally:
        stop(process)
    assert reopened(tmp_path)[-1] >= newest[-1]


def test_follow_is_for_single_items_in_files(tmp_path):
    with pytest.raises(ValueError, match="is in memory"):
        buffers.follow(buffers.uniform(5), EXAMPLE)
    buffer = buffers.in_place(buffers.sequence(5, 1, storage=buffers.files(tmp_path)))
    step = {"done": torch.zeros(1, dtype=torch.bool)}
    buffer.add(buffer.init(step), step)
    with pytest.raises(TypeError, match="expected a buffer of single items"):
        buffers.follow(buffer, step)(random.key(0), 1)


@pytest.mark.nightly
def test_twenty_gigabytes_under_one_resident(tmp_path):
    program = f"""
import resource, torch
from funrl import buffers, random
buffer = buffers.in_place(buffers.uniform(120_000_000, storage=buffers.files({str(tmp_path / "big")!r})))
state = buffer.init({{"x": torch.zeros(42)}})
block = torch.arange(200_000.0)[:, None].expand(-1, 42).contiguous()
# The whole file is there and may be read, but only a part of it takes room on this disk.
state.size.fill_(120_000_000)
for i in range(30):
    buffer.extend(state, {{"x": block}})
    for j in range(20):
        batch = buffer.sample(random.key(100 * i + j), state, 4096).batch["x"]
        assert bool((batch[:, 0] == batch[:, 41]).all())
status = dict(line.split(":") for line in open("/proc/self/status"))
print(state.data["x"].nbytes, int(status["VmHWM"].split()[0]) * 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    size, resident = map(int, done.stdout.split())
    assert size > 20e9 and resident < 1e9
