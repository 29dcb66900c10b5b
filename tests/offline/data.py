"""Small data sets whose right answers are known."""

import numpy as np
import torch

from funrl.env import Transition
from funrl.offline import datasets
from funrl.spaces import Box

SPACES = (Box(-float("inf"), float("inf"), (3,)), Box(-1.0, 1.0, (2,)))


def episodes(lengths=(4, 2, 3), ends="tcu", seed=0, width=3, actions=2):
    """Return columns [N] of episodes: each ends terminated (t), truncated (u), or cut off (c), and successors are the next observations."""
    rng = np.random.default_rng(seed)
    rows = {name: [] for name in ("observation", "action", "reward", "terminated", "truncated", "next_observation", "end")}
    for length, end in zip(lengths, ends, strict=True):
        seen = rng.normal(size=(length + 1, width)).astype(np.float32)
        last = np.arange(length) == length - 1
        columns = {
            "observation": seen[:-1],
            "next_observation": seen[1:],
            "action": rng.uniform(-1, 1, size=(length, actions)).astype(np.float32),
            "reward": rng.normal(size=length).astype(np.float32),
            "terminated": last & (end == "t"),
            "truncated": last & (end == "u"),
            "end": last,
        }
        for name, x in columns.items():
            rows[name].append(x)
    return {name: np.concatenate(x) for name, x in rows.items()}


def dataset(*args, **options):
    """The same as a Dataset."""
    columns = {name: torch.from_numpy(x) for name, x in episodes(*args, **options).items()}
    end = columns.pop("end")
    return datasets.from_transitions(Transition(**columns, extras={}), end=end, spaces=SPACES)


def bandit(num=2000, seed=0, optimum=0.5):
    """One-step episodes whose reward is 1 - (a - optimum)^2 of uniform actions: the best policy is known, and cloning is the mean, 0."""
    rng = np.random.default_rng(seed)
    action = torch.from_numpy(rng.uniform(-1, 1, size=(num, 1)).astype(np.float32))
    observation = torch.from_numpy(rng.normal(size=(num, 2)).astype(np.float32))
    yes = torch.ones(num, dtype=torch.bool)
    rows = Transition(observation, action, 1 - (action[:, 0] - optimum) ** 2, yes, ~yes, observation, {})
    return datasets.from_transitions(rows, spaces=(Box(-float("inf"), float("inf"), (2,)), Box(-1.0, 1.0, (1,))))
