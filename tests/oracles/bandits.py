"""Bandits as plain Python: what an arm pays, and what is seen after it."""

import numpy as np


def observation(num_arms, arm, reward, time, max_steps):
    """The last reward, the last arm one-hot (none: zeros), and the part of the episode that is over."""
    seen = np.zeros(num_arms + 2)
    seen[0] = reward
    if arm is not None:
        seen[1 + arm] = 1.0
    seen[-1] = time / max_steps
    return seen


def bernoulli(probabilities, arm, uniform):
    """1 if a uniform number is below the arm's probability."""
    return 1.0 if uniform < probabilities[arm] else 0.0


def gaussian(means, scales, arm, noise):
    """A normal number with the arm's mean and scale."""
    return means[arm] + scales[arm] * noise
