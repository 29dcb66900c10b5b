"""Functional reinforcement learning on torch.func."""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    # OpenMP reads GOMP_SPINCOUNT once, when torch loads: how often a waiting thread looks for work before it sleeps. With a large number
    # two threads are 50 times slower than one while another process is busy; with a very small one they have half their speed on an idle
    # machine. With 2,000 (some tens of microseconds) they lose a tenth of their speed on an idle machine, and are only 3 times slower than
    # one thread while another process is busy.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from funrl import (
    acting,
    checkpoint,
    compiler,
    distributions,
    env,
    nn,
    optim,
    policies,
    random,
    returns,
    schedules,
    spaces,
    stats,
    tree,
    typing,
)
from funrl.acting import ActorState, evaluate, rand_step, rollout, step_mdp
from funrl.compiler import compile, scan

if TYPE_CHECKING:
    from funrl import (
        algos,
        buffers,
        collectors,
        debug,
        distributed,
        envs,
        evolution,
        losses,
        meta,
        offline,
        populations,
        record,
        runs,
        training,
        transforms,
    )
    from funrl.training import train

__all__ = [
    "ActorState",
    "acting",
    "algos",
    "buffers",
    "checkpoint",
    "collectors",
    "compile",
    "compiler",
    "debug",
    "distributed",
    "distributions",
    "env",
    "envs",
    "evaluate",
    "evolution",
    "losses",
    "meta",
    "nn",
    "offline",
    "optim",
    "policies",
    "populations",
    "rand_step",
    "random",
    "record",
    "returns",
    "rollout",
    "runs",
    "scan",
    "schedules",
    "spaces",
    "stats",
    "step_mdp",
    "train",
    "training",
    "transforms",
    "tree",
    "typing",
]


def __getattr__(name: str) -> Any:
    # Packages of many files are imported at their first use, so that importing funrl takes hardly longer than importing torch.
    if name == "train":
        globals()[name] = importlib.import_module("funrl.training").train
        return globals()[name]
    if name in __all__:
        return importlib.import_module(f"funrl.{name}")
    raise AttributeError(f"module 'funrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
