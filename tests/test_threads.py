"""The thread policy: how long threads spin, and how many a program takes."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from funrl import compile, compiler


def spincount(**environment: str) -> str:
    """Return what a fresh process has for GOMP_SPINCOUNT after ``import funrl``."""
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = "import os, funrl; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", command], env={**clean, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.slow
def test_threads_spin_shortly_unless_told_otherwise():
    assert spincount() == "2000"
    assert spincount(OMP_WAIT_POLICY="passive") == "None"
    assert spincount(GOMP_SPINCOUNT="5") == "5"


PROGRAM = """
import os, sys, warnings
import funrl, torch
torch.set_num_threads(3)
program = funrl.compile(lambda x: x @ x, backend="xla", threads=int(sys.argv[1]))
x = torch.ones(8, 8)
assert program(x).tolist() == (x @ x).tolist() and torch.get_num_threads() == 3
names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
print(sum("XLAEigen" in name for name in names))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    funrl.compile(lambda x: x + 1, backend="xla", threads=7)(x)
print(*(type(x.message).__name__ for x in caught))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads where Linux shows them")
@pytest.mark.parametrize("threads", [1, 3])
def test_a_program_takes_its_threads_and_leaves_those_of_torch(threads):
    clean = {k: v for k, v in os.environ.items() if k not in ("PJRT_NPROC", "NPROC")}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(threads)], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(threads), "RuntimeWarning"]


def test_threads_have_to_be_a_number():
    for threads in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="threads"):
            compile(lambda x: x, threads=threads)


def test_lanes_make_calls_at_the_same_time():
    """Each waits for the other; with one thread they come one after another. Both have the backend that the caller has chosen."""
    meeting = threading.Barrier(2, timeout=10)
    with compiler.using("eager"), compiler.lanes(2, "auto") as together:
        results = together([lambda: (meeting.wait(), compiler.backend())[1], lambda: (meeting.wait(), compiler.backend())[1]])
    assert results == [("eager", "it was chosen for this run")] * 2
    with compiler.lanes(1, "xla") as together:
        assert together([threading.get_ident] * 2) == [threading.get_ident()] * 2
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad(), compiler.lanes(2, "eager") as together:
        assert together([lambda: (x @ x).dtype, torch.is_grad_enabled]) == [torch.bfloat16, False]
    with compiler.lanes(2, "eager") as together, pytest.raises(ZeroDivisionError):
        together([lambda: 1, lambda: 1 // 0])
