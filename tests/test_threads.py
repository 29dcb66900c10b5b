"""The thread policy: how long threads spin, and how many a program takes."""

import os
import subprocess
import sys

import pytest
import torch

from funrl import compile


def spincount(**environment: str) -> str:
    """Return what a fresh process has for GOMP_SPINCOUNT after ``import funrl``."""
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = "import os, funrl; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", command], env={**clean, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_threads_spin_shortly_unless_told_otherwise():
    assert spincount() == "2000"
    assert spincount(OMP_WAIT_POLICY="passive") == "None"
    assert spincount(GOMP_SPINCOUNT="5") == "5"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_program_takes_its_threads_and_gives_them_back(threads):
    before, seen = torch.get_num_threads(), []

    def backend(graph, inputs):
        def run(*args):
            seen.append(torch.get_num_threads())
            return graph(*args)

        return run

    torch.set_num_threads(3)
    try:
        assert compile(lambda x: x + 1, threads=threads, backend=backend)(torch.ones(2)).tolist() == [2, 2]
        assert seen == [threads] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_threads_have_to_be_a_number():
    for threads in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="threads"):
            compile(lambda x: x, threads=threads)
