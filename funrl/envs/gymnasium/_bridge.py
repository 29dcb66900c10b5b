"""The :class:`funrl.env.VectorEnv` of a driver: converts tensors, derives seeds from keys, and identifies states by a token."""

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from funrl import _check, tree
from funrl.compiler import tracing
from funrl.env import HostError, Mask, Timestep, VectorEnv, with_label
from funrl.envs.gymnasium._spaces import WIDER, numpy
from funrl.random import output, shift
from funrl.typing import Key

_MASK = (1 << 64) - 1
_POSITIVE = (1 << 63) - 1
_ODD = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio: its multiples are spread over all 64 bits
_INSTANCES = itertools.count(1)


@tree.dataclass
class HostState:
    """Token of one moment of a host environment; the environment itself is outside torch and changes in place.

    Attributes:
        token: int64 [B], a hash of the environment, the seed of the episode and all actions since.
    """

    token: torch.Tensor


def to_env(driver: Any, *, label: str, max_episode_steps: int, renders: bool, info: Sequence[str], reset_options: Any) -> VectorEnv:
    """Return the :class:`~funrl.env.VectorEnv` of a driver."""
    name = driver.name
    if isinstance(info, str) or not all(isinstance(entry, str) for entry in info):
        raise TypeError(f"{name}: info: expected a list of names, such as ['action_mask'], got {info!r}")
    if reset_options is not None and (not isinstance(reset_options, dict) or "reset_mask" in reset_options):
        raise TypeError(f"{name}: reset_options: expected a dict of options of the environment's reset, got {reset_options!r}")
    driver.options = reset_options
    host = _Host(driver, tuple(info))
    env = VectorEnv(
        name=name,
        reset=host.reset,
        step=host.step,
        observation_space=driver.layout.ours,
        action_space=driver.action_layout.ours,
        default_params=(),
        max_episode_steps=max_episode_steps,
        render=host.render if renders else None,
        num_envs=driver.num,
        close=host.close,
        host=True,
    )
    return with_label(env, label)


def settings_text(make: Callable[..., VectorEnv], **settings: Any) -> str:
    """Return, for ``repr``, the settings that differ from the defaults of ``make``."""
    known = inspect.signature(make).parameters
    return ", ".join(f"{name}={value!r}" for name, value in settings.items() if name not in known or value != known[name].default)


class _Host:
    """Shared state of the functions of a VectorEnv: the driver, and the token of its present moment."""

    def __init__(self, driver: Any, info: tuple[str, ...]):
        self.driver, self.name, self.info = driver, driver.name, info
        self.kinds: dict[str, tuple[Any, Any]] = {}  # kinds of the entries of info, as in the first step
        self.layout, self.action_layout = driver.layout, driver.action_layout
        self.action_name = f"{self.name}: action"
        self.all, self.shape = list(range(driver.num)), (driver.num,)
        self.salt = (next(_INSTANCES) * _ODD) & _MASK
        self.history = 0  # a hash of all actions since the last reset of all copies
        self.tokens = [0] * driver.num
        self.token: Any = None  # the token of the latest state
        self.over = [False] * driver.num
        self.trouble = "it was not reset yet"
        self.closed = False

    def reset(self, key: Key, env_params: Any = (), state: HostState | None = None, where: Mask = None) -> tuple[HostState, Timestep]:
        if where is None:
            self._enter(env_params)
            rows, self.history = self.all, 0
        else:
            self._admit(state, env_params)
            rows = self._rows(where)
        seeds = self._seeds(key, rows)
        self.trouble = "its last reset failed"
        if rows:
            self.driver.reset(rows, seeds)
        tokens = self.tokens.copy()
        for i, seed in seeds.items():
            tokens[i], self.over[i] = ((self.salt ^ seed) * _ODD) & _POSITIVE, False
        return self._emit(key, tokens, np.zeros(self.shape, np.float32), np.zeros(self.shape, np.bool_), np.zeros(self.shape, np.bool_))

    def step(self, key: Key, state: HostState, action: Any, env_params: Any = (), where: Mask = None) -> tuple[HostState, Timestep]:
        self._admit(state, env_params)
        rows = self.all if where is None else self._rows(where)
        actions, checksum = self.action_layout.arrays(action, self.driver.num, self.action_name)
        over, history = self.over, self.history
        if True in over and (ended := [i for i in rows if over[i]]):
            raise ValueError(f"{self.driver.name_of(ended[0])}: its episode is over; reset it before the next step, as funrl.rollout does")
        if not rows:
            return self.reset(key, env_params, state, where)  # no copy changes
        self.trouble = "its last step failed"
        reward, terminated, truncated = self.driver.step(rows, actions)
        numbers = self._numbers(reward, np.float32, "reward")
        if not np.vdot(numbers, numbers) < np.inf and not np.isfinite(numbers).all():
            i = next(i for i in self.all if not np.isfinite(numbers[i]))
            raise HostError(f"{self.driver.name_of(i)} returned the reward {reward[i]}; expected a finite number")
        ends, cuts = self._numbers(terminated, np.bool_, "terminated"), self._numbers(truncated, np.bool_, "truncated")
        ended = (ends | cuts).tolist()
        self.history = history = hash((history, checksum)) & _POSITIVE  # of integers: the same in every process
        tokens = self.tokens.copy()
        for i in rows:
            tokens[i] ^= history
            over[i] = ended[i]
        return self._emit(key, tokens, numbers, ends, cuts)

    def render(self, state: HostState, env_params: Any = ()) -> torch.Tensor:
        self._admit(state, env_params)
        try:
            pictures = [np.asarray(picture) for picture in self.driver.render()]
        except HostError:
            raise
        except Exception as error:
            raise HostError(f"{self.name} raised in render, {type(error).__name__}: {error}; it may have no pictures") from error
        for i, picture in enumerate(pictures):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
                raise HostError(f"{self.driver.name_of(i)} rendered {picture.dtype} {list(picture.shape)}, not uint8 [H, W, 3]")
        return torch.from_numpy(np.array(pictures)).to(state.token.device)

    def close(self) -> None:
        if not self.closed:
            self.closed, self.trouble = True, "it is closed"
            self.driver.close()

    def _emit(
        self, key: Key, tokens: list[int], reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> tuple[HostState, Timestep]:
        """Return the state and the timestep after a reset or step, on the device of the key."""
        observation = self.driver.observe()
        if self.layout.flaw(observation):
            observed = self.layout.unstack(observation)
            i, text = next((i, text) for i in self.all if (text := self.layout.flaw(self.layout.stack([observed[i]]))))
            raise HostError(f"{self.driver.name_of(i)} returned an observation {text}: {observed[i]}")
        self.tokens, self.trouble = tokens, ""
        arrays = [np.array(tokens, np.int64), reward, terminated, truncated]
        token, gain, end, cut = map(torch.from_numpy, arrays)
        timestep = Timestep(self.layout.tensors(observation), gain, end, cut, {name: self._info_of(name) for name in self.info})
        if not key.is_cpu:
            token, timestep = token.to(key.device), tree.to(timestep, key.device)
        self.token = token
        return HostState(token), timestep

    def _info_of(self, name: str) -> torch.Tensor:
        """Return an entry of the infos of all copies, with the shape and dtype that it had in the first step."""
        arrays = []
        for i in self.all:
            entries = self.driver.infos[i]
            if name not in entries:
                raise HostError(
                    f"{self.driver.name_of(i)}: info: expected an entry {name!r} in each step, as requested, got "
                    f"{sorted(map(str, entries))}; leave it out, or add it in a gymnasium wrapper"
                )
            array = np.asarray(entries[name])
            array = array.astype(np.float32) if array.dtype == np.float64 else array
            shape, dtype = self.kinds.setdefault(name, (array.shape, array.dtype))
            if array.dtype.kind not in "biuf" or array.shape != shape or not np.can_cast(array.dtype, dtype, "same_kind"):
                raise HostError(
                    f"{self.driver.name_of(i)}: info: expected {name!r} to be {dtype} {list(shape)}, as at first, got {entries[name]!r}"
                )
            arrays.append(array.astype(dtype))
        whole = np.stack(arrays)
        return torch.from_numpy(whole.astype(WIDER.get(whole.dtype, whole.dtype)))

    def _numbers(self, values: list[Any], dtype: Any, what: str) -> np.ndarray:
        try:
            array = np.array(values, dtype)
            if array.shape == self.shape:
                return array
        except (TypeError, ValueError):
            pass
        kind = "flag" if dtype is np.bool_ else "number"
        i = next((i for i in self.all if np.shape(values[i]) != () or not isinstance(values[i], (bool, int, float, np.generic))), 0)
        raise HostError(f"{self.driver.name_of(i)} returned {values[i]!r} as {what}; expected a single {kind}")

    def _seeds(self, key: Key, rows: list[int]) -> dict[int, int]:
        """Return a seed of 31 bits for each row by SplitMix64; the seed of a row does not depend on the other rows."""
        _check.key(f"{self.name}: key", key)
        start = int(numpy(key))  # a few words are fastest as Python's integers
        return {i: shift(output(start, i + 1, 0), 33) for i in rows}

    def _rows(self, where: torch.Tensor) -> list[int]:
        _check.flag(f"{self.name}: where", where, "True for the copies to change", shape=self.shape)
        return [i for i, chosen in enumerate(numpy(where).tolist()) if chosen]

    def _enter(self, env_params: Any) -> None:
        if tracing():
            raise TypeError(f"{self.name} runs outside torch and cannot be compiled; compile what you do with its transitions")
        if self.closed:
            raise HostError(f"{self.name} is closed; make a new one")
        if env_params != () and tree.leaves(env_params):
            raise ValueError(f"{self.name}: env_params: expected (), for it runs outside torch: give its constants to make")

    def _admit(self, state: Any, env_params: Any) -> None:
        """Raise unless ``state`` is the latest state of the environment, which is fast to check for the same object."""
        if env_params == () and not self.trouble and state.__class__ is HostState and state.token is self.token:
            if not tracing():
                return
        self._enter(env_params)
        _check.instance(f"{self.name}: state", state, HostState, "give the first result of reset or step")
        if self.trouble:
            raise HostError(f"{self.name}: {self.trouble}, so there is no state to continue from; reset it")
        if not np.array_equal(numpy(state.token), numpy(self.token)):
            raise ValueError(
                f"{self.name}: state: it is not the latest of this environment, which changes in place: continue from the result of its "
                "last reset or step, once, and use a separate environment for each line of play"
            )
