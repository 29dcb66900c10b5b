"""Wrappers that :func:`make` applies to each gymnasium environment, in the process that runs it."""

from typing import Any

import gymnasium

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


class Seeded(gymnasium.Wrapper):
    """Wrapper in a worker process; a reset with a seed also seeds the global generators of the process."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            seed_globals(seed)
        return self.env.reset(seed=seed, options=options)


class Checked(gymnasium.ObservationWrapper):
    """Raise if an observation does not fit its space; otherwise gymnasium's workers broadcast it into shared memory without an error."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.layout = layout(env.observation_space, "observation_space")

    def observation(self, observation: Any) -> Any:
        try:
            self.layout.stack([observation])
        except Misfit as error:
            raise ValueError(f"it returned an observation {error}") from None
        return observation
