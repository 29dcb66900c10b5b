"""Shared by all tests: the thread policy, and small programs of all algorithms that compile once."""

import functools
import os

# Of jax's CPU backend, which an oracle may start before a program of ours does, with as many threads as there are cores.
os.environ.setdefault("PJRT_NPROC", "1")

import funrl  # isort: skip  (before torch: see funrl/__init__.py)
import pytest
import torch

from tests import preloaded
from tests.registry import ALGORITHMS

# One thread a test process; FUNRL_TEST_THREADS=2 shows what holds for one number of threads only.
torch.set_num_threads(int(os.environ.get("FUNRL_TEST_THREADS", "1")))


@pytest.fixture(scope="session")
def algorithm():
    """``algorithm(kind)``: the Algorithm of a kind in ALGORITHMS; each is made once a session."""

    @functools.cache
    def make(kind):
        name, env, options = ALGORITHMS[kind]
        return funrl.algos.make(name, funrl.envs.make(env), **options)

    return make


@pytest.fixture(scope="session")
def program(algorithm):
    """``program(kind)``: compiled vmap(algo.step) of ``algorithm(kind)``; each is made once a session."""
    return functools.cache(lambda kind: funrl.compile(torch.func.vmap(algorithm(kind).step), backend="aot_eager"))


@pytest.fixture(autouse=True, scope="session")
def preloaded_workers():
    """Workers of collectors start from a process that has the imports; in doctests each starts a Python of its own, as users' do."""
    with pytest.MonkeyPatch.context() as patch:
        preloaded.use(patch.setattr)
        yield
