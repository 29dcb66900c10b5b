"""Functional reinforcement learning on torch.func."""

import os
import sys

if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    # OpenMP reads it once, when torch loads: threads that spin for long while they wait slow a program 50-fold beside a
    # busy process, and threads that sleep at once halve its speed on a quiet machine. 600 turns are some ten microseconds.
    os.environ.setdefault("GOMP_SPINCOUNT", "600")

from funrl import (
    algos,
    buffers,
    checkpoint,
    collectors,
    distributions,
    env,
    envs,
    losses,
    nn,
    optim,
    policies,
    random,
    record,
    returns,
    spaces,
    stats,
    transforms,
    tree,
)
from funrl.interaction import evaluate, rand_step, rollout, step_mdp
from funrl.program import compile, scan
from funrl.training import train

__all__ = [
    "algos",
    "buffers",
    "checkpoint",
    "collectors",
    "compile",
    "distributions",
    "env",
    "envs",
    "evaluate",
    "losses",
    "nn",
    "optim",
    "policies",
    "rand_step",
    "random",
    "record",
    "returns",
    "rollout",
    "scan",
    "spaces",
    "stats",
    "step_mdp",
    "train",
    "transforms",
    "tree",
]
