"""Tasks whose numbers are uniform: goals, masses, lengths, forces, arms of bandits and mean rewards."""

from typing import Any

import torch

from funrl import random
from funrl.env import Env
from funrl.envs.tasks._tasks import Tasks, uniform

# For each environment the fields of its params that differ between tasks, each with its lowest and its highest value.
RANGES: dict[str, dict[str, Any]] = {
    "PointRobot-misc": {"goal": (-0.5, 0.5)},
    "SparsePointRobot-misc": {"goal": (-0.5, 0.5)},
    "Pendulum-v1": {"gravity": (8.0, 12.0), "mass": (0.75, 1.25), "length": (0.75, 1.25)},
    "CartPole-v1": {"pole_mass": (0.05, 0.2), "pole_half_length": (0.25, 1.0), "force": (5.0, 20.0)},
    "Acrobot-v1": {"mass_1": (0.75, 1.25), "mass_2": (0.75, 1.25), "centre_2": (0.4, 0.6), "torque": (0.75, 1.5)},
    # The hole in the middle of the arm's reach stays within the nearest goal.
    "Reacher-misc": {"length": (0.35, 0.65), "mass": (0.5, 2.0)},
    "BernoulliBandit-misc": {"probability": (0.0, 1.0)},
    "GaussianBandit-misc": {"mean": (-1.0, 1.0)},
}


def tabular_mdp(env: Env) -> Tasks:
    """Return processes with mean rewards that are uniform from -1 to 1, and rows of transitions that are uniform over the simplex."""

    def further(key: torch.Tensor, env_params: Any) -> Any:
        weights = random.exponential(key, tuple(env_params.transition.shape), dtype=env_params.transition.dtype)
        return env_params.replace(transition=weights / weights.sum(-1, keepdim=True))

    return uniform(env, further=further, reward=(-1.0, 1.0))
