"""Functional reinforcement learning on torch.func."""

import os
import sys

if "torch" not in sys.modules:
    # OpenMP reads it once, when torch loads: threads that wait spinning slow a program 50-fold beside a busy process.
    # Where torch was first, funrl.compile takes one thread instead.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from funrl import algos, checkpoint, distributions, env, envs, losses, nn, optim, random, record, returns, spaces, stats, tree
from funrl.interaction import evaluate, rollout
from funrl.program import compile, scan
from funrl.training import train

__all__ = [
    "algos",
    "checkpoint",
    "compile",
    "distributions",
    "env",
    "envs",
    "evaluate",
    "losses",
    "nn",
    "optim",
    "random",
    "record",
    "returns",
    "rollout",
    "scan",
    "spaces",
    "stats",
    "train",
    "tree",
]
