"""Pure environments as gymnasium environments, single or as a vector environment of copies."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import gymnasium
import gymnasium.vector
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import CloudpickleWrapper, batch_space

from funrl import _check, compiler, random, tree
from funrl.env import Env, Timestep, VectorEnv
from funrl.envs.gymnasium import _spaces as spaces

_FRAMES_PER_SECOND = 30  # of videos; an Env does not know the duration of a step


def to_gymnasium(
    env: Env,
    *,
    env_params: Any = None,
    render_mode: str | None = None,
    device: torch.device | str = "cpu",
    backend: str | None = None,
) -> gymnasium.Env:
    """Return a pure environment, transformed or not, as a gymnasium environment.

    Spaces, observations and actions are converted to gymnasium's, with the dtypes of the environment's spaces; ``info`` has arrays; rewards
    are Python floats. It does not reset itself, and a step after the end of an episode is an error.

    An episode has the key ``k = random.key(n)``, with ``n = np_random.integers(2**63)`` drawn at its start: its reset
    uses ``split(k)[0]``, and step t = 0, 1, ... uses ``fold_in(split(k)[1], t)``. So a seed determines all later episodes, and a reset
    without a seed uses a new key.

    Args:
        env: a pure environment.
        env_params: its physical constants; by default ``env.default_params``.
        render_mode: ``"rgb_array"`` for ``render`` to return pictures, uint8 [H, W, 3]; None: there are none.
        device: the device of the computation.
        backend: None: eager, about half a millisecond per step. ``"auto"``, or another backend of :func:`funrl.compile`: the first reset
            and step take some seconds, and each further one about a tenth of a millisecond.

    Returns:
        The environment. ``gymnasium.make(spec)`` with its ``spec`` makes it again.

    Raises:
        TypeError: if ``env`` is not an :class:`~funrl.env.Env`, or numpy lacks the dtype of one of its spaces.
        ValueError: if it is a :class:`funrl.env.VectorEnv`, ``env_params`` are not like its default ones, or it has no such
            ``render_mode``; from ``step``, if the action is not one of the environment (a Box may be left).
        gymnasium.error.ResetNeeded: from ``step`` and ``render``, if no episode is running.

    Example:
        >>> import funrl
        >>> env = to_gymnasium(funrl.envs.make("CartPole-v1"))
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> observation.shape, observation.dtype, reward, terminated
        ((4,), dtype('float32'), 1.0, False)
    """
    return PureEnv(PureVectorEnv("to_gymnasium", env, 1, env_params, render_mode, AutoresetMode.DISABLED, device, backend))


def to_gymnasium_vector(
    env: Env,
    num_envs: int,
    *,
    env_params: Any = None,
    render_mode: str | None = None,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    device: torch.device | str = "cpu",
    backend: str | None = None,
) -> gymnasium.vector.VectorEnv:
    """Return ``num_envs`` copies of a pure environment as a vector environment of gymnasium, which steps all of them at once.

    Its results equal those of gymnasium's SyncVectorEnv with as many copies of :func:`to_gymnasium`, in the time of one:
    copy i has a separate generator, seeded by ``seed + i``.

    Args:
        env: a pure environment.
        num_envs: B >= 1, the number of copies.
        env_params: the physical constants of all copies; by default ``env.default_params``.
        render_mode: ``"rgb_array"`` for ``render`` to return a tuple of pictures, uint8 [H, W, 3]; None: there are none.
        autoreset_mode: when a copy is reset after the end of its episode, as in SyncVectorEnv: ``NEXT_STEP``, by the next step, which
            ignores its action; ``SAME_STEP``, at once, with ``final_obs`` and ``final_info`` in the info; ``DISABLED``, by
            ``reset(options={"reset_mask": ...})``.
        device: the device of the computation.
        backend: as for :func:`to_gymnasium`.

    Returns:
        The vector environment.

    Raises:
        TypeError: if ``env`` is not an :class:`~funrl.env.Env`, or ``num_envs`` not an integer, or numpy lacks a dtype of its spaces.
        ValueError: as :func:`to_gymnasium`, or if ``num_envs`` is less than 1, or there is no such ``autoreset_mode``.
        gymnasium.error.ResetNeeded: as :func:`to_gymnasium`.

    Example:
        >>> import funrl
        >>> envs = to_gymnasium_vector(funrl.envs.make("Pendulum-v1"), 3)
        >>> observation, info = envs.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        >>> observation.shape, reward.shape, truncated
        ((3, 3), (3,), array([False, False, False]))
    """
    _check.integer("to_gymnasium_vector: num_envs", num_envs, 1)
    mode = AutoresetMode(autoreset_mode)
    return PureVectorEnv("to_gymnasium_vector", env, num_envs, env_params, render_mode, mode, device, backend)


class PureEnv(gymnasium.Env):
    """See :func:`to_gymnasium`: the only copy of a :class:`PureVectorEnv`."""

    def __init__(self, copies: "PureVectorEnv"):
        self.copies, self.spec, self.render_mode = copies, copies.spec, copies.render_mode
        self.metadata = {name: value for name, value in copies.metadata.items() if name != "autoreset_mode"}
        self.observation_space, self.action_space = copies.single_observation_space, copies.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        observation, info = self.copies.start([self.np_random], np.ones(1, np.bool_))
        return self.copies.layout.unstack(observation)[0], _first(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        try:
            batch = self.copies.action_layout.stack([action])
        except spaces.Misfit as error:
            raise ValueError(f"{self.copies.env.name}: expected an action in {self.action_space}, got one {error}") from None
        observation, reward, terminated, truncated, info = self.copies.play(batch, np.zeros(1, np.bool_))
        first = float(reward[0]), bool(terminated[0]), bool(truncated[0])
        return self.copies.layout.unstack(observation)[0], *first, _first(info)

    def render(self) -> np.ndarray | None:
        pictures = self.copies.render()
        return None if pictures is None else pictures[0]


class PureVectorEnv(gymnasium.vector.VectorEnv):
    """See :func:`to_gymnasium_vector`. One call of a vmapped function steps all copies."""

    def __init__(
        self, what: str, env: Env, num_envs: int, env_params: Any, render_mode: str | None, mode: AutoresetMode, device: Any, backend: Any
    ):
        if isinstance(env, VectorEnv):
            copies = f"has {env.num_envs} copies; give a single one, to_gymnasium_vector makes copies"
            raise ValueError(f"{what}: env: {env.name} {'runs outside torch: use it as it is there' if env.host else copies}")
        _check.instance(f"{what}: env", env, Env, "funrl.envs.make returns one")
        if env_params is not None:
            tree.check_like(env_params, env.default_params, f"{what}: env_params", "default_params", dtypes=False)
        modes = [] if env.render is None else ["rgb_array"]
        if render_mode is not None and render_mode not in modes:
            raise ValueError(f"{what}: render_mode: {env.name} has {modes or 'no pictures'}; got {render_mode!r}")
        self.env, self.num_envs, self.render_mode, self.autoreset_mode = env, num_envs, render_mode, mode
        self.env_params = tree.to(env.default_params if env_params is None else env_params, torch.device(device))
        self.device, self.metadata = torch.device(device), {"render_modes": modes, "render_fps": _FRAMES_PER_SECOND, "autoreset_mode": mode}
        # The spec makes a single environment, as that of gymnasium's vector environments does.
        make = _Maker(functools.partial(to_gymnasium, env, env_params=env_params, device=device, backend=backend))
        limit = env.max_episode_steps if env_params is None else None
        self.spec = EnvSpec(re.sub(r"[^\w:.-]", "_", env.name), make, max_episode_steps=limit, kwargs={"render_mode": render_mode})
        self.single_observation_space, self.layout = self._space(what, "observation_space")
        self.single_action_space, self.action_layout = self._space(what, "action_space")
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.begin, self.advance = self._begin, self._advance
        if backend is not None:
            self.begin, self.advance = (compiler.compile(f, backend=backend) for f in (self._begin, self._advance))
        self.over: np.ndarray | None = None  # bool [N], which episodes are over
        self.times = np.zeros(num_envs, np.int64)  # steps taken in each
        self.now: Any = None  # keys, states, observations and infos
        self._seeded: list[Any] = [None] * num_envs  # generators and their seeds, from their first use on
        self._all = np.ones(num_envs, np.bool_)

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """The generator of each copy."""
        return tuple([generator for generator, _ in self._seed([None] * self.num_envs, self._all)])

    @property
    def np_random_seed(self) -> tuple[int, ...]:
        """The seed of each copy's generator."""
        return tuple([seed for _, seed in self._seed([None] * self.num_envs, self._all)])

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        mask = self._all
        if options is not None and "reset_mask" in options:
            mask = options["reset_mask"]
            if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
                raise ValueError(f"reset: reset_mask: expected a bool array [{self.num_envs}] that is True somewhere, got {mask!r}")
        if seed is None or isinstance(seed, (int, np.integer)):
            seed = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"reset: seed: expected one for each of {self.num_envs} copies, got {len(seed)}")
        self._seed(seed, mask)
        observation, info = self.start(self.np_random, mask)
        return observation, _masked(info, mask)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        skip: Any = self.over if self.autoreset_mode == AutoresetMode.NEXT_STEP else ~self._all
        observation, reward, terminated, truncated, info = self.play(actions, skip)
        ends, final = skip, {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            ends = terminated | truncated
            if ends.any():
                rows, array = self.layout.unstack(observation), np.full(self.num_envs, None, object)
                for i in np.flatnonzero(ends):
                    array[i] = rows[i]
                final = {"final_obs": array, "_final_obs": ends, "final_info": _masked(info, ends), "_final_info": ends.copy()}
        if ends.any():
            observation, info = self.start(self.np_random, ends)
        return observation, reward, terminated, truncated, {**final, **_masked(info, self._all)}

    def render(self) -> tuple[np.ndarray, ...] | None:
        if self.render_mode is None:
            return None
        if self.over is None:
            raise ResetNeeded(f"{self.env.name}: reset it before it is rendered")
        pictures = torch.func.vmap(self.env.render, (0, None))(self.now[1], self.env_params)
        return tuple(np.array(spaces.numpy(pictures)))

    def start(self, generators: Sequence[np.random.Generator], where: np.ndarray) -> tuple[Any, Any]:
        """Start episodes with keys from the generators; return the observations and infos of all copies."""
        if self.over is None and not where.all():
            raise ResetNeeded(f"{self.env.name}: reset all copies before some of them")
        seeds = np.zeros(self.num_envs, np.int64)
        for i in np.flatnonzero(where).tolist():
            seeds[i] = generators[i].integers(1 << 63, dtype=np.int64)
        new = self.begin(self._tensor(seeds), self.env_params)
        self.now = new if where.all() else tree.where(self._tensor(where), new, self.now)
        self.times[where] = 0
        self.over = ~where if self.over is None else self.over & ~where
        return self._shown()

    def play(self, action: Any, skip: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, Any]:
        """Step all copies except those in ``skip``, whose rewards are 0 and whose flags are False."""
        if self.over is None:
            raise ResetNeeded(f"{self.env.name}: reset it before the first step")
        if (self.over & ~skip).any():
            i = int(np.flatnonzero(self.over & ~skip)[0])
            raise ResetNeeded(f"{self.env.name}: the episode of copy {i} is over; reset it before the next step")
        try:
            action = self.action_layout.tensors(self.action_layout.fit(action, self.num_envs))
        except spaces.Misfit as error:
            expected = f"expected an action in {self.single_action_space} for each of {self.num_envs} copies"
            raise ValueError(f"{self.env.name}: {expected}; got {error}") from None
        keys, state, _, _ = self.now
        state, timestep = self.advance(keys, self._tensor(self.times), state, tree.to(action, self.device), self.env_params)
        self.now = keys, state, timestep.observation, timestep.info
        self.times += 1
        live = ~skip
        reward = np.where(live, spaces.numpy(timestep.reward), 0.0).astype(np.float64)
        terminated, truncated = (spaces.numpy(flag) & live for flag in (timestep.terminated, timestep.truncated))
        self.over = terminated | truncated | skip
        observation, info = self._shown()
        return observation, reward, terminated, truncated, info

    def _seed(self, seeds: Sequence[int | None], mask: np.ndarray) -> list[Any]:
        """Return the generators and their seeds; those in the mask get new ones, if a seed is given or they have none."""
        for i in np.flatnonzero(mask).tolist():
            if seeds[i] is not None or self._seeded[i] is None:
                self._seeded[i] = np_random(seeds[i])
        return self._seeded

    def _begin(self, seeds: torch.Tensor, env_params: Any) -> tuple[torch.Tensor, Any, Any, Any]:
        def one(seed: torch.Tensor) -> tuple[torch.Tensor, Any, Any, Any]:
            reset_key, key = random.split(random.key(seed)).unbind(0)
            state, timestep = self.env.reset(reset_key, env_params)
            return key, state, timestep.observation, timestep.info

        return torch.func.vmap(one)(seeds)

    def _advance(self, keys: torch.Tensor, times: torch.Tensor, state: Any, action: Any, env_params: Any) -> tuple[Any, Timestep]:
        def one(key: torch.Tensor, time: torch.Tensor, state: Any, action: Any) -> tuple[Any, Timestep]:
            return self.env.step(random.fold_in(key, time), state, action, env_params)

        return torch.func.vmap(one)(keys, times, state, action)

    def _shown(self) -> tuple[Any, Any]:
        _, _, observation, info = self.now
        return self.layout.given(observation), tree.map(lambda x: np.array(spaces.numpy(x)), info)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, copy=True)

    def _space(self, what: str, field: str) -> tuple[Any, Any]:
        """Return the space in a field of the environment as gymnasium's, and its layout."""
        ours = getattr(self.env, field)
        try:
            space = spaces.to_gymnasium(ours)
        except TypeError as error:
            raise TypeError(f"{what}: {self.env.name}: {field}: numpy has no counterpart of {ours} ({error}); cast it first") from None
        return space, spaces.layout(space, f"{self.env.name}: {field}")


class _Maker(CloudpickleWrapper):
    """A function that makes an environment and can be sent to other processes; the functions of the Env are created there."""

    def __call__(self, **options: Any) -> gymnasium.Env:
        return self.fn(**options)

    def __deepcopy__(self, memo: Any) -> "_Maker":
        return self  # it is immutable


def _first(info: Any) -> Any:
    """Return the info of the only copy, with flags as Python bools, as gymnasium's vector environments require."""
    return tree.map(lambda x: bool(x[0]) if x.dtype == np.bool_ and x.ndim == 1 else x[0], info)


def _masked(info: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Return the infos of some copies in gymnasium's format: 0 for the others, and for each entry a mask ``_entry`` of these copies."""
    out: dict[str, Any] = {}
    for name, value in info.items():
        if isinstance(value, dict):
            out[name] = _masked(value, mask)
        else:
            out[name] = value if mask.all() else np.where(mask.reshape(-1, *[1] * (value.ndim - 1)), value, np.zeros((), value.dtype))
        out[f"_{name}"] = mask.copy()
    return out
