"""The bridge to gymnasium: gymnasium environments as a :class:`~funrl.env.VectorEnv`, and any pure Env as a gymnasium environment."""

import functools
import math
import multiprocessing
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import gymnasium.vector
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import DependencyNotInstalled, Error
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import AddRenderObservation, FilterObservation, TimeLimit

from funrl import _check
from funrl.env import HostError, VectorEnv
from funrl.envs.gymnasium._bridge import HostState, settings_text as settings_text, to_env
from funrl.envs.gymnasium._drivers import Copies, Vectors, Workers
from funrl.envs.gymnasium._pure import to_gymnasium, to_gymnasium_vector
from funrl.envs.gymnasium._spaces import from_gymnasium as from_gymnasium, to_gymnasium as as_gymnasium_space  # noqa: F401
from funrl.envs.gymnasium._wrappers import Checked, FrameSkip, Seeded

__all__ = ["HostError", "HostState", "make", "to_gymnasium", "to_gymnasium_vector", "wrap"]

# Env.max_episode_steps of an environment without a limit.
NO_LIMIT = 100_000


def make(
    id: str | EnvSpec,
    *,
    num_envs: int = 1,
    vectorization: str = "sync",
    frame_skip: int = 1,
    from_pixels: bool = False,
    pixels_only: bool = False,
    timeout: float = 60.0,
    start_method: str | None = None,
    info: Sequence[str] = (),
    reset_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> VectorEnv:
    """Return ``num_envs`` copies of a gymnasium environment as a :class:`~funrl.env.VectorEnv` that runs on the host.

    It is used like a pure one: with ``reset`` and ``step``, :func:`funrl.rollout` and the transforms; only ``torch.func.vmap`` and
    ``funrl.compile`` cannot be applied to it. All leaves are [B, ...], also those of a single copy. Its state is a token: the environment
    itself is outside torch and changes in place, so that only the latest state can be used, once; any other is an error. Each reset seeds
    the environment from its key, so that the same keys give the same episodes.

    Observations have the dtypes of gymnasium's space (unsigned integers that torch does not compute with become wider ones), rewards are
    float32, and ``env_params`` are ``()``. A timestep has only the entries of gymnasium's info that the argument ``info`` names: no space
    describes that dict, and its entries may differ from step to step, which is not possible in a Timestep. The environment has ``render``
    if ``render_mode="rgb_array"`` is given. Close it after use, or use it in a ``with`` statement.

    Args:
        id: a registered name or an EnvSpec, as for ``gymnasium.make``.
        num_envs: B >= 1, the number of copies.
        vectorization: ``"sync"``, one copy after another in this process, or ``"async"``, each copy in a separate process, by
            gymnasium's AsyncVectorEnv.
        frame_skip: how often to repeat each action; rewards are summed, and the repetition stops at the end of the episode.
        from_pixels: whether to observe a dict of ``state``, the observation, and ``pixels``, a picture, uint8 [H, W, 3]. An
            observation that is a dict contributes its entries instead of ``state``.
        pixels_only: whether to observe ``pixels`` alone.
        timeout: the number of seconds that a worker process may take to answer before it counts as lost.
        start_method: the start method of worker processes, ``"fork"``, ``"spawn"`` or ``"forkserver"``, as in multiprocessing; None: its
            default. An environment that renders with OpenGL, as MuJoCo's do, needs ``"spawn"``: it cannot render after a fork.
        info: the entries of gymnasium's info that timesteps have, such as ``["action_mask"]``: numbers, or arrays of constant shape, that
            exist after each reset and step. float64 becomes float32.
        reset_options: the ``options`` of each reset.
        **kwargs: arguments of ``gymnasium.make``, such as constants of the environment.

    Returns:
        The environment.

    Raises:
        ImportError: if a package that the environment needs is not installed.
        TypeError: if a space has no counterpart in :mod:`funrl.spaces`, or an argument has the wrong type.
        ValueError: if there is no such environment, or an argument is out of range, or is given without another one that it requires.
        HostError: from ``reset`` and ``step``, if the environment raises, dies, does not answer within ``timeout``, or returns
            NaN, infinity or a wrong shape, or an info without a requested entry; it names the copy. After the failure of a
            worker all processes are ended.

    Example:
        >>> import torch, funrl
        >>> with make("CartPole-v1", num_envs=3) as env:
        ...     state, timestep = env.reset(funrl.random.key(0))
        ...     state, timestep = env.step(funrl.random.key(1), state, torch.tensor([0, 1, 1]))
        >>> timestep.observation.shape, timestep.reward
        (torch.Size([3, 4]), tensor([1., 1., 1.]))

    Reference: M. Towers et al., "Gymnasium: a standard interface for reinforcement learning environments", 2024, arXiv:2407.17032.
    """
    _check_options(num_envs, vectorization, frame_skip, from_pixels, pixels_only, start_method)
    _check.number("gymnasium.make: timeout", timeout, "(0, inf]", "give seconds")
    label = settings_text(
        make, frame_skip=frame_skip, from_pixels=from_pixels, pixels_only=pixels_only, info=info, reset_options=reset_options, **kwargs
    )
    more: dict[str, Any] = {"info": info, "reset_options": reset_options}
    if from_pixels:
        kwargs = {"render_mode": "rgb_array", **kwargs}
    # The bridge checks each step, so gymnasium's checker is not needed.
    kwargs = {"disable_env_checker": True, **kwargs}
    create = functools.partial(_create, id, kwargs, frame_skip, from_pixels, pixels_only)

    try:
        first = create()
    except DependencyNotInstalled as error:
        raise ImportError(f"gymnasium.make: {id}: {error}") from error
    except Error as error:
        raise ValueError(f"gymnasium.make: id: {error}") from error
    if vectorization == "sync":
        envs = [first]
        try:
            envs += [create() for _ in range(num_envs - 1)]
            driver = Copies(envs, _name(first, id), functools.partial(_close_all, envs))
            return to_env(driver, label=label, **_facts(first, frame_skip), **more)
        except BaseException:
            _close_all(envs)
            raise
    try:
        name, facts = _name(first, id), _facts(first, frame_skip)
    finally:
        first.close()
    # Gymnasium drops its references to the locks of shared memory at once, before a spawned process may have opened them.
    shared = multiprocessing.get_context(start_method).get_start_method() == "fork"
    copies = [functools.partial(_checked, create)] * num_envs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")  # from jax, which compiled programs use and workers do not
        vector = _Async(copies, shared_memory=shared, context=start_method, autoreset_mode=AutoresetMode.DISABLED)
    try:
        return to_env(Workers(vector, name, timeout), label=label, **facts, **more)
    except BaseException:
        vector.close(terminate=True)
        raise


def wrap(
    env: gymnasium.Env | gymnasium.vector.VectorEnv,
    *,
    timeout: float = 60.0,
    info: Sequence[str] = (),
    reset_options: dict[str, Any] | None = None,
) -> VectorEnv:
    """Return an environment that gymnasium has made as a :class:`~funrl.env.VectorEnv` that runs on the host; see :func:`make`.

    An environment is its only copy. A vector environment may have any ``AutoresetMode``: copies are reset on request, from the given key,
    and ``next_observation`` is always the true successor, so that all modes give the same transitions. The environments of a
    SyncVectorEnv are stepped one by one, without its own ``step``. A vector environment with wrappers around the whole batch
    cannot step some copies only (``where``); one that is neither a SyncVectorEnv nor an AsyncVectorEnv must have the mode DISABLED.

    Environments that return the same array each time need the mode DISABLED or NEXT_STEP in an AsyncVectorEnv: with SAME_STEP its
    processes reset in the same step, and overwrite the last observation of an episode before they send it.

    Args:
        env: an environment, or a vector environment, of gymnasium; it should not be used directly any more.
        timeout: the number of seconds that a worker process of an AsyncVectorEnv may take to answer before it counts as lost.
        info, reset_options: as for :func:`make`.

    Returns:
        The environment; ``close`` closes ``env``.

    Raises:
        TypeError: if ``env`` is of another kind, or a space has no counterpart in :mod:`funrl.spaces`.
        ValueError: if it is a vector environment that cannot reset some copies alone.
        HostError: as for :func:`make`; and from ``step`` of an AsyncVectorEnv with SAME_STEP, if the arrays of the last observation of an
            episode equal those of the first of the next one, as they may have been overwritten.

    Example:
        >>> import gymnasium, torch, funrl
        >>> env = wrap(gymnasium.make("Pendulum-v1"))
        >>> state, timestep = env.reset(funrl.random.key(0))
        >>> state, timestep = env.step(funrl.random.key(1), state, torch.tensor([[0.5]]))
        >>> timestep.observation.shape, env.action_space.high
        (torch.Size([1, 3]), tensor([2.]))
        >>> env.close()
    """
    _check.number("gymnasium.wrap: timeout", timeout, "(0, inf]", "give seconds")
    more: dict[str, Any] = {"info": info, "reset_options": reset_options}
    kinds = (gymnasium.Env, gymnasium.vector.VectorEnv)
    _check.instance("wrap: env", env, kinds, expected="an environment or a vector environment of gymnasium")
    if isinstance(env, gymnasium.Env):
        driver: Any = Copies([env], _name(env), env.close)
    elif type(env) is SyncVectorEnv:
        driver = Copies(list(env.envs), _name(env), env.close)
    elif type(env) is AsyncVectorEnv:
        driver = Workers(env, _name(env), timeout)
    else:
        driver = Vectors(env, _name(env))
    return to_env(driver, label=str(env), **_facts(env), **more)


class _Async(AsyncVectorEnv):
    """Gymnasium's AsyncVectorEnv without the unlimited wait for its workers at its creation; :class:`Workers` waits with a timeout."""

    def _check_spaces(self) -> None:
        pass


def _create(id: str | EnvSpec, kwargs: dict[str, Any], frame_skip: int, from_pixels: bool, pixels_only: bool) -> gymnasium.Env:
    env = gymnasium.make(id, **kwargs)
    if frame_skip > 1:
        env = FrameSkip(env, frame_skip)
    if from_pixels:
        env = AddRenderObservation(env, render_only=False)
    return FilterObservation(env, ["pixels"]) if pixels_only else env


def _checked(create: Any) -> gymnasium.Env:
    # Runs in the worker. A forked process lacks torch's threads, and would wait for them for ever.
    torch.set_num_threads(1)
    return Seeded(Checked(create()))


def _close_all(envs: list[gymnasium.Env]) -> None:
    for env in envs:
        env.close()


def _name(env: gymnasium.Env | gymnasium.vector.VectorEnv, asked: Any = None) -> str:
    if isinstance(asked, str) and ":" in asked:
        return f"gymnasium:{asked}"  # with the module that registers it, so that the name finds it again
    id = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    return id if ":" in id else f"gymnasium:{id}"  # "dm_control:cartpole-swingup" already has its prefix


def _facts(env: gymnasium.Env | gymnasium.vector.VectorEnv, frame_skip: int = 1) -> dict[str, Any]:
    limit = getattr(env.spec, "max_episode_steps", None) or _time_limit(env) or NO_LIMIT
    return {"max_episode_steps": math.ceil(limit / frame_skip), "renders": env.render_mode == "rgb_array"}


def _time_limit(env: Any) -> int | None:
    """Return the time limit set by a wrapper that no spec mentions; for the copies of a SyncVectorEnv the greatest."""
    if isinstance(env, SyncVectorEnv):
        limits = [_time_limit(copy) for copy in env.envs]
        return None if None in limits else max(limits)  # pyright: ignore
    limits = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            limits.append(env._max_episode_steps)
        env = env.env
    return min(limits, default=None)


def _check_options(
    num_envs: int, vectorization: str, frame_skip: int, from_pixels: bool, pixels_only: bool, start_method: str | None
) -> None:
    """Raise unless the options of :func:`make` are in their ranges and go together."""
    _check.integer("gymnasium.make: num_envs", num_envs, 1)
    _check.integer("gymnasium.make: frame_skip", frame_skip, 1)
    _check.one_of("gymnasium.make: vectorization", vectorization, ("sync", "async"))
    if pixels_only and not from_pixels:
        raise ValueError("gymnasium.make: pixels_only: there are no pixels; give from_pixels=True too")
    methods = multiprocessing.get_all_start_methods()
    _check.one_of("gymnasium.make: start_method", start_method, (None, *methods))
    if start_method is not None and vectorization != "async":
        raise ValueError("gymnasium.make: start_method: there are no processes to start; give vectorization='async' too")
