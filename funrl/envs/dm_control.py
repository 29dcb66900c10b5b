"""The bridge to dm_control: tasks of its suite, with MuJoCo's physics and rendering, as a :class:`~funrl.env.VectorEnv`."""

import ctypes.util
import functools
import importlib.util
import math
import os
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from funrl import _check
from funrl.env import VectorEnv, with_label
from funrl.envs import gymnasium as bridge
from funrl.envs.gymnasium import settings_text

__all__ = ["make", "names"]

_PICTURES = (
    "for pictures install a library of OpenGL (on Debian: apt-get install libegl1 libopengl0 libgl1-mesa-dri, or libosmesa6) and "
    "choose it by the environment variable MUJOCO_GL=egl (or osmesa) before Python starts"
)


def names() -> list[tuple[str, str]]:
    """Return the pairs of domain and task that :func:`make` knows.

    Raises:
        ImportError: if dm_control is not installed.

    Example:
        >>> ("cartpole", "swingup") in names()
        True
    """
    return list(_suite().ALL_TASKS)


def make(
    domain: str,
    task: str,
    *,
    num_envs: int = 1,
    vectorization: str = "sync",
    frame_skip: int = 1,
    from_pixels: bool = False,
    pixels_only: bool = False,
    height: int = 240,
    width: int = 320,
    camera: int | str = 0,
    timeout: float = 60.0,
    **settings: Any,
) -> VectorEnv:
    """Return ``num_envs`` copies of a task of dm_control's suite as a :class:`~funrl.env.VectorEnv` that runs on the host.

    It is an environment like those of :func:`funrl.envs.gymnasium.make`: its state is a token that can be used once, each reset seeds
    the task from its key, so that the same keys give the same episodes, and it should be closed after use.

    Observations are a dict of dm_control's entries, in its dtype, float64; rewards are float32. A last step of discount 0 is terminated,
    and any other, such as that of the time limit, truncated.

    Args:
        domain: such as ``"cartpole"``.
        task: such as ``"swingup"``; :func:`names` lists the pairs.
        num_envs: B >= 1, the number of copies.
        vectorization: ``"sync"`` or ``"async"``, as for :func:`funrl.envs.gymnasium.make`. Processes are spawned, as OpenGL does not
            work after a fork: this takes some seconds, and a script needs ``if __name__ == "__main__":``.
        frame_skip: how often to repeat each action; rewards are summed, and the repetition stops at the end of the episode.
        from_pixels: whether to observe an entry ``pixels`` too, a picture, uint8 [H, W, 3].
        pixels_only: whether to observe ``pixels`` alone.
        height: H of the pictures.
        width: W of the pictures.
        camera: the camera of the pictures: a number or name of the model's cameras; -1: the free one.
        timeout: the number of seconds that a worker process may take to answer before it counts as lost.
        **settings: arguments of the task, such as ``time_limit``, in seconds.

    Returns:
        The environment.

    Raises:
        ImportError: if dm_control is not installed.
        TypeError: if an argument has the wrong type, or a setting is unknown.
        ValueError: if there is no such domain or task, or an argument is out of range, or is given without another one that it requires.
        RuntimeError: if there is no OpenGL to take pictures with; :class:`~funrl.envs.gymnasium.HostError` from ``render``.
        funrl.envs.gymnasium.HostError: from ``reset`` and ``step``, as :func:`funrl.envs.gymnasium.make` says; the physics may diverge.

    Example:
        >>> import funrl
        >>> with make("cartpole", "swingup") as env:
        ...     state, timestep = env.reset(funrl.random.key(0))
        >>> timestep.observation["position"].shape, env.action_space.high, env.max_episode_steps
        (torch.Size([1, 3]), tensor([1.], dtype=torch.float64), 1000)

    Reference: S. Tunyasuvunakool et al., "dm_control: software and tasks for continuous control", 2020, arXiv:2006.12983.
    """
    suite = _suite()
    if domain not in suite.TASKS_BY_DOMAIN:
        raise ValueError(f"dm_control.make: domain: there is none called {domain!r}; {_choices(domain, suite.TASKS_BY_DOMAIN)}")
    if task not in suite.TASKS_BY_DOMAIN[domain]:
        raise ValueError(f"dm_control.make: task: {domain} has none called {task!r}; {_choices(task, suite.TASKS_BY_DOMAIN[domain])}")
    if "random" in settings:
        raise ValueError("dm_control.make: random: the randomness of an episode comes from the key that it is reset with; leave it out")
    for name, value in (("height", height), ("width", width)):
        _check.integer(f"dm_control.make: {name}", value, 1)
    create: Any = functools.partial(Control, domain, task, settings, {"height": height, "width": width, "camera_id": camera})
    name = f"dm_control:{domain}-{task}"
    env = bridge.make(
        EnvSpec(name, create),
        num_envs=num_envs,
        vectorization=vectorization,
        frame_skip=frame_skip,
        from_pixels=from_pixels,
        pixels_only=pixels_only,
        timeout=timeout,
        start_method="spawn" if vectorization == "async" else None,
        render_mode="rgb_array",
    )
    picture = {"height": height, "width": width, "camera": camera}
    options = {"frame_skip": frame_skip, "from_pixels": from_pixels, "pixels_only": pixels_only}
    env = with_label(env, settings_text(make, **options, **picture, **settings))
    limit = suite.load(domain, task, settings)._step_limit
    return env if limit == math.inf else env._replace(max_episode_steps=math.ceil(limit / frame_skip))


class Control(gymnasium.Env):
    """A task of the suite as an environment of gymnasium."""

    def __init__(self, domain: str, task: str, settings: Mapping[str, Any], picture: Mapping[str, Any], render_mode: str):
        self.control, self.picture, self.render_mode = _suite().load(domain, task, dict(settings)), picture, render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / self.control.control_timestep())}
        entries: dict[str, gymnasium.Space] = {name: _box(spec) for name, spec in self.control.observation_spec().items()}
        self.observation_space, self.action_space = gymnasium.spaces.Dict(entries), _box(self.control.action_spec())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.control.task.random.seed(seed)
        return dict(self.control.reset().observation), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        now = self.control.step(action)
        terminated = now.last() and now.discount == 0
        return dict(now.observation), now.reward, terminated, now.last() and not terminated, {}

    def render(self) -> np.ndarray:
        try:
            return self.control.physics.render(**self.picture)
        except (RuntimeError, ImportError, AttributeError, OSError) as error:
            name = self.spec.id if self.spec else type(self).__name__
            raise RuntimeError(f"{name}: no picture could be taken: {error}; {_PICTURES}") from error

    def close(self) -> None:
        self.control.close()


def _box(spec: Any) -> gymnasium.spaces.Box:
    low, high = (np.broadcast_to(getattr(spec, side, end), spec.shape) for side, end in (("minimum", -np.inf), ("maximum", np.inf)))
    return gymnasium.spaces.Box(low.astype(spec.dtype), high.astype(spec.dtype), spec.shape, spec.dtype.type)


def _choices(name: str, known: Any) -> str:
    return f"{_check.nearest(name, known)} (there are {', '.join(sorted(known))})"


def _suite() -> Any:
    """Return dm_control's module of tasks."""
    if importlib.util.find_spec("dm_control") is None:
        raise ImportError("dm_control is not installed; its extra brings it: pip install 'funrl[dm_control]'")
    if "MUJOCO_GL" not in os.environ and "DISPLAY" not in os.environ and "WAYLAND_DISPLAY" not in os.environ:
        # Without a display, dm_control would first try a window, and warn.
        found = [backend for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")) if ctypes.util.find_library(library)]
        os.environ["MUJOCO_GL"] = found[0] if found else "disable"
    try:
        from dm_control import suite
    except (ImportError, AttributeError, RuntimeError) as error:
        raise ImportError(f"dm_control cannot be loaded with MUJOCO_GL={os.environ.get('MUJOCO_GL')}: {error}; {_PICTURES}") from error
    return suite
