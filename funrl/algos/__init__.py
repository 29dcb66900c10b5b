"""Learners: each ``make(env, **config)`` returns an :class:`Algorithm` of pure functions."""

from funrl.algos import ppo
from funrl.algos.algorithm import Algorithm

__all__ = ["Algorithm", "ppo"]
