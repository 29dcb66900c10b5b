"""Random experience for the tests of returns."""

import torch

from funrl import random


def experience(steps=9, copies=4, dtype=torch.float64, seed=0):
    """Return reward, value, next_value, terminated, truncated [T, B]."""
    keys = random.split(random.key(seed), 5)
    reward, value, next_value = (random.normal(key, (steps, copies), dtype=dtype) for key in keys[:3])
    terminated, truncated = (random.bernoulli(key, 0.2, (steps, copies)) for key in keys[3:])
    return reward, value, next_value, terminated, truncated


def log_ratios(like, seed=9):
    """Return log w [T, B], on both sides of 0."""
    return 0.7 * random.normal(random.key(seed), tuple(like.shape), dtype=like.dtype)
