"""Wrappers that :func:`make` applies to each gymnasium environment, in the process that runs it."""

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from funrl.env import seed_globals
from funrl.envs.gymnasium._spaces import Misfit, layout


class FrameSkip(gymnasium.Wrapper):
    """Repeat each action ``frames`` times or until the episode ends, and sum the rewards."""

    def __init__(self, env: gymnasium.Env, frames: int):
        super().__init__(env)
        self.frames = frames

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        total: Any = 0.0
        for _ in range(self.frames):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class Pixels(gymnasium.ObservationWrapper):
    """Observe a dict of the picture, ``pixels``, and, unless ``only``, the observation as ``state`` (or its entries if it is a dict)."""

    def __init__(self, env: gymnasium.Env, only: bool):
        super().__init__(env)
        inner = env.observation_space
        self.entries = {} if only else dict(inner.spaces) if isinstance(inner, Dict) else {"state": inner}
        if "pixels" in self.entries:
            raise ValueError(f"gymnasium.make: from_pixels: the observation {inner} has an entry 'pixels' already")
        env.reset()
        shape = self._picture().shape
        self.observation_space = Dict({**self.entries, "pixels": Box(0, 255, shape, np.uint8)})

    def observation(self, observation: Any) -> dict[str, Any]:
        kept = {} if not self.entries else observation if isinstance(self.env.observation_space, Dict) else {"state": observation}
        return {**kept, "pixels": self._picture()}

    def _picture(self) -> np.ndarray:
        picture = np.asarray(self.env.render())
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
            raise ValueError(f"gymnasium.make: from_pixels: expected a picture, uint8 [H, W, 3]; got {picture.dtype} {list(picture.shape)}")
        return picture


class Seeded(gymnasium.Wrapper):
    """Wrapper in a worker process; a reset with a seed also seeds the global generators of the process."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            seed_globals(seed)
        return self.env.reset(seed=seed, options=options)


class Copied(gymnasium.Wrapper):
    """Return copies of observations, so that a reset in the same step does not overwrite the last one."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return copy.deepcopy(observation), reward, terminated, truncated, info


class Checked(gymnasium.Wrapper):
    """Raise if an observation does not fit its space; otherwise gymnasium's workers broadcast it into shared memory without an error."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.layout = layout(env.observation_space, "observation_space")

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        return self._check(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._check(observation), reward, terminated, truncated, info

    def _check(self, observation: Any) -> Any:
        try:
            self.layout.stack([observation])
        except Misfit as error:
            raise ValueError(f"it returned an observation {error}") from None
        return observation
