"""Tasks given by tables: bandits and Markov decision processes."""

from typing import Any

import torch

from funrl import random
from funrl.env import Env
from funrl.envs.tasks._tasks import Tasks, uniform


def bernoulli_bandit(env: Env) -> Tasks:
    """Return bandits whose arms have probabilities that are uniform from 0 to 1."""
    return uniform(env, probability=(0.0, 1.0))


def gaussian_bandit(env: Env) -> Tasks:
    """Return bandits whose arms have means that are uniform from -1 to 1."""
    return uniform(env, mean=(-1.0, 1.0))


def tabular_mdp(env: Env) -> Tasks:
    """Return processes with mean rewards that are uniform from -1 to 1, and rows of transitions that are uniform over the simplex."""

    def further(key: torch.Tensor, env_params: Any) -> Any:
        weights = random.exponential(key, tuple(env_params.transition.shape), dtype=env_params.transition.dtype)
        return env_params.replace(transition=weights / weights.sum(-1, keepdim=True))

    return uniform(env, further=further, reward=(-1.0, 1.0))


TABLES = {"BernoulliBandit-misc": bernoulli_bandit, "GaussianBandit-misc": gaussian_bandit, "TabularMDP-misc": tabular_mdp}
