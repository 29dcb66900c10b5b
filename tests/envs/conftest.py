"""The oracle of the environments: gymnasium's own, with each state copied in."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

from funrl import random, tree


def shortest(params, **exact):
    """Params in float64 that hold the decimal numbers (9.8, not the float32 nearest to it), with some given exactly."""

    def decimal(x):
        number = float(str(x.numpy())) if x.is_floating_point() else x.item()
        return torch.tensor(number, dtype=torch.float64 if x.is_floating_point() else torch.int64)

    return tree.map(decimal, params).replace(**{name: torch.tensor(value, dtype=torch.float64) for name, value in exact.items()})


def play_gymnasium(name, states, actions, times):
    """Step gymnasium's environment once from each of N states.

    Args:
        name: of the environment.
        states: float64 [N, D].
        actions: as gymnasium takes them, [N] or [N, A].
        times: [N] steps taken before, for the time limit.
    """
    env = gymnasium.make(name, disable_env_checker=True)
    env.reset(seed=0)
    inner = env.unwrapped
    rows = []
    for state, action, time in zip(states, actions, times, strict=True):
        inner.state = state.copy()
        if name == "CartPole-v1":
            inner.steps_beyond_terminated = None
        env._elapsed_steps = int(time)
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.append((np.array(inner.state, np.float64), observation, reward, terminated, truncated))
    columns = (np.array(column) for column in zip(*rows, strict=True))
    return SimpleNamespace(**dict(zip(("state", "observation", "reward", "terminated", "truncated"), columns, strict=True)))


def step_all(env, state, actions, env_params):
    """Step all states [N] with one vmap."""
    keys = random.split(random.key(0), len(actions))
    return torch.func.vmap(env.step, (0, 0, 0, None))(keys, state, actions, env_params)


def draw_times(numbers, n, limit):
    """Times of which a third is just before the limit."""
    return np.where(numbers.random(n) < 1 / 3, limit - numbers.integers(1, 4, n), numbers.integers(0, limit, n))


@pytest.fixture
def oracle():
    return SimpleNamespace(play=play_gymnasium, step=step_all, shortest=shortest, times=draw_times)
