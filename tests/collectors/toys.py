"""Environments that a worker process makes, and which do what a test needs."""

import os
import signal
import time

import gymnasium
import numpy as np

import funrl

NUMBER = 0  # of all steps in this process


class Odd(gymnasium.Env):
    """Observes the time and the sum of its actions; in its step ``at`` it does what ``fault`` says, once if ``once`` names a file."""

    observation_space = gymnasium.spaces.Box(-1e6, 1e6, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fault="none", at=3, once=None, length=1000):
        self.fault, self.at, self.once, self.length = fault, at, once, length
        if fault == "create":
            raise RuntimeError("there is no motor")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.total = 0, float(self.np_random.integers(1000))
        return self._see(), {}

    def step(self, action):
        global NUMBER
        NUMBER += 1
        self.time, self.total = self.time + 1, self.total + action
        observation = self._see()
        if self.fault == "drifts":
            observation = observation + NUMBER
        elif self.time == self.at and (self.once is None or not os.path.exists(self.once)):
            if self.once is not None:
                open(self.once, "w").close()
            if self.fault == "raises":
                raise RuntimeError("the motor is broken")
            if self.fault == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "hangs":
                time.sleep(600)
            if self.fault == "nan":
                observation = observation * np.nan
        return observation, 1.0, False, self.time >= self.length, {}

    def _see(self):
        return np.array([self.time, self.total], np.float32)


def odd(*, num_envs=2, **options):
    """Return an Env of such copies, of which the last has the fault."""
    made = [lambda: Odd()] * (num_envs - 1) + [lambda: Odd(**options)]
    return funrl.envs.gymnasium.wrap(gymnasium.vector.SyncVectorEnv(made))
