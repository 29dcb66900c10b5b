"""Functional reinforcement learning on torch.func."""

from funrl import algos, distributions, env, envs, losses, nn, optim, random, returns, spaces, stats, tree
from funrl.interaction import evaluate, rollout
from funrl.program import compile, scan

__all__ = [
    "algos",
    "compile",
    "distributions",
    "env",
    "envs",
    "evaluate",
    "losses",
    "nn",
    "optim",
    "random",
    "returns",
    "rollout",
    "scan",
    "spaces",
    "stats",
    "tree",
]
