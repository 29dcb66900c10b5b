"""Faults: each is an error that names worker and environment, and none leaves a process or memory behind."""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest

from funrl import collectors
from funrl.env import HostError
from tests import preloaded
from tests.collectors.toys import odd

SIZES = dict(frames_per_batch=24, total_frames=240)


@pytest.fixture(autouse=True, scope="module")
def server():
    """Before tests that count what is open."""
    preloaded.server()


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def mapped():
    with open("/proc/self/maps") as maps:
        return sum("memfd:funrl" in line for line in maps)


@pytest.mark.parametrize(
    ("fault", "message", "seconds"),
    [
        ("dies", r"worker 1 \(process \d+, gymnasium:SyncVectorEnv\) was killed by SIGKILL in its batch 0; .*restart_workers=True", 10),
        pytest.param(
            "raises",
            r"worker 1 .*gymnasium:SyncVectorEnv: copy 1 raised in step: RuntimeError: the motor is broken",
            10,
            marks=pytest.mark.slow,
        ),
        pytest.param("nan", r"worker 1 .*gymnasium:SyncVectorEnv: copy 1 returned an observation with NaN", 10, marks=pytest.mark.slow),
        pytest.param(
            "hangs", r"worker 1 .*gymnasium:SyncVectorEnv\) did not finish a step or reset .*within 3 s", 15, marks=pytest.mark.slow
        ),
    ],
)
def test_faults_name_worker_and_environment(fault, message, seconds):
    """Of two workers the second fails, in the third step of its second copy."""
    before, held = mapped(), len(os.listdir("/proc/self/fd"))
    collector = collectors.synchronous([odd, lambda: odd(fault=fault)], None, (), num_workers=2, timeout=3.0, **SIZES)
    processes = collector.processes
    start = time.monotonic()
    with pytest.raises(HostError, match=message):
        next(collector)
    assert time.monotonic() - start < seconds and not any(map(alive, processes))
    with pytest.raises(HostError, match="is closed; make a new one"):
        next(collector)
    collector.close()
    collector.close()
    del collector
    assert mapped() == before and len(os.listdir("/proc/self/fd")) == held


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["dies", pytest.param("hangs", marks=pytest.mark.nightly)])
def test_a_worker_lost_in_mid_batch_is_replaced(fault, tmp_path):
    """It dies in its third step, once; all is as if it had not."""

    def collect(fault):
        make = lambda: odd(fault=fault, once=str(tmp_path / "once"))  # noqa: E731
        options = dict(num_workers=2, restart_workers=True, timeout=3.0, **SIZES)
        with collectors.synchronous([odd, make], None, (), **options) as collector:
            return [batch.transition.observation.tolist() for batch in collector], collector.restarts, collector.frames

    batches, restarts, frames = collect(fault)
    assert (tmp_path / "once").exists() and restarts == 1 and frames == 240
    assert collect("none")[0] == batches


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["dies", pytest.param("hangs", marks=pytest.mark.nightly)])
def test_workers_lost_together_are_replaced(fault, tmp_path):
    """Both in their third step, with a timeout shorter than the start of a process."""

    def collect(fault):
        makes = [lambda i=i: odd(fault=fault, once=str(tmp_path / f"once{i}")) for i in range(2)]
        options = dict(num_workers=2, restart_workers=True, timeout=1.0, **SIZES)
        with collectors.synchronous(makes, None, (), **options) as collector:
            return [batch.transition.observation.tolist() for batch in collector], collector.restarts, collector.frames

    batches, restarts, frames = collect(fault)
    assert (restarts, frames) == (2, 240)
    assert collect("none")[0] == batches


@pytest.mark.slow
def test_a_worker_that_dies_at_the_same_place_again_is_given_up():
    with collectors.synchronous(lambda: odd(fault="dies"), None, (), num_workers=1, restart_workers=True, **SIZES) as collector:
        with pytest.raises(HostError, match="was killed by SIGKILL in its batch 0, for the 4th time without finishing a batch"):
            next(collector)
        assert collector.restarts == 3


@pytest.mark.slow
def test_an_interrupt_between_workers_closes_it(monkeypatch):
    """Otherwise the tracker of one worker would be one batch behind that of another."""
    with collectors.synchronous(odd, None, (), num_workers=1, **SIZES) as collector:
        next(collector)
        monkeypatch.setattr(collector._tracker, "record", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            next(collector)
        with pytest.raises(HostError, match="is closed; make a new one"):
            next(collector)


@pytest.mark.slow
def test_what_fails_at_the_start_is_told():
    def act(params, key, observation):
        raise ValueError("no such layer")

    for create_env, acts, message in (
        (lambda: odd(fault="create"), None, "worker 0 .*RuntimeError: there is no motor"),
        (odd, act, "worker 0 .*ValueError: no such layer"),
        (lambda: 3, None, "worker 0 .*TypeError: create_env: expected a function that returns an Env or a VectorEnv, got an int"),
    ):
        with pytest.raises(HostError, match=message):
            collectors.synchronous(create_env, acts, (), num_workers=1, **SIZES)
    with pytest.raises(ValueError, match="frames_per_batch: expected a multiple of the 2 copies that a worker has, got 25"):
        collectors.asynchronous(odd, None, (), num_workers=1, frames_per_batch=25, total_frames=25)


# In a process of its own, whose end the test decides.
LEARNER = """
import sys, time
from funrl import collectors
from tests.collectors.toys import odd

phase, kind = sys.argv[1:]
print("started", flush=True)
make = lambda: odd(fault="hangs") if phase == "collecting" else odd()
collector = getattr(collectors, kind)(make, None, (), num_workers=2, frames_per_batch=400, total_frames=-1)
print(*collector.processes, flush=True)
if phase == "learning":
    next(collector)
    print("learning", flush=True)
    time.sleep(600)
for batch in collector:
    pass
"""


def learner(phase, kind):
    """Return a process in a phase, and its workers' ids. Only one whose workers start, which takes time, starts itself."""
    start = subprocess.Popen if phase == "starting" else functools.partial(preloaded.Popen, nested=True)
    process = start([sys.executable, "-c", LEARNER, phase, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    if phase == "starting":
        deadline = time.monotonic() + 60
        while len(workers := children(process.pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return process, workers
    workers = [int(word) for word in process.stdout.readline().split()]
    if phase == "learning":
        process.stdout.readline()
    time.sleep(0.5)
    return process, workers


def children(parent):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat:
                if int(stat.read().rsplit(")", 1)[1].split()[1]) == parent:
                    found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["synchronous", "asynchronous"])
@pytest.mark.parametrize("phase", ["starting", "collecting", "learning"])
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.nightly), signal.SIGKILL])
def test_no_process_and_no_memory_stays_behind(number, phase, kind):
    """After Ctrl-C, and after the learner is killed."""
    process, workers = learner(phase, kind)
    assert len(workers) == 2 and all(map(alive, workers))
    os.kill(process.pid, number)
    deadline = time.monotonic() + 10
    try:
        assert process.wait(10) != 0
        while any(map(alive, workers)):
            assert time.monotonic() < deadline, "orphans"
            time.sleep(0.1)
    finally:
        process.kill()
        _, errors = process.communicate()
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in errors and errors.count("Traceback") == 1
