"""What all collectors have in common, whoever steps the environments."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from funrl import tree
from funrl.acting import check_act
from funrl.collectors.ledger import Collected, Ledger, LedgerState, split
from funrl.env import Env, HostError
from funrl.transforms import VecNormParams

__all__ = ["Collector", "CollectorState", "constants"]


@tree.dataclass
class CollectorState:
    """What a collector goes on from, a tree of tensors whose shapes stay the same, except that ``ledger.actions`` grows with the episodes.

    Attributes:
        ledger: what the next batches start from.
        env: the state of an environment inside torch; () where the running episodes are replayed instead.
        frames: int64 [], handed over so far.
        version: int64 [], of the latest parameters.
        in_flight: int64 [], frames that were asked of workers and not handed over: those that are lost if it is gone on from here.
    """

    ledger: LedgerState
    env: Any
    frames: torch.Tensor
    version: torch.Tensor
    in_flight: torch.Tensor


def constants(what: str, env: Env, env_params: Any, device: torch.device | None) -> Any:
    """Return the ``env_params`` that a collector plays with: those that it was given, or for None the environment's ``default_params``.

    Raises:
        ValueError: if they are another tree, or have moments that nobody would update.

    Example:
        >>> import funrl
        >>> constants("collectors.compiled", funrl.envs.make("CartPole-v1"), None, None).gravity
        tensor(9.8000)
    """
    params = env.default_params if env_params is None else env_params
    if tree.structure(params) != tree.structure(env.default_params):
        expected, got = type(env.default_params).__name__, type(params).__name__
        raise ValueError(
            f"{what}: env_params: expected a tree like the default_params of {env.name} ({expected}), got another ({got}); begin with "
            "those, or with the env_params of a learner"
        )
    if isinstance(params, VecNormParams) and not bool(params.moments.count > 0):
        raise ValueError(
            f"{what}: create_env: {env.name} has a vec_norm whose moments are empty, and collectors do not update them; normalise where "
            "you learn, as ppo.make(..., normalize_observation=True) does, or give env_params with moments that were learned"
        )
    return params if device is None else tree.to(params, device)


class Collector(ABC):
    """An iterator over batches of experience, each a :class:`Collected`.

    Use it in a ``with`` statement, or close it; it closes itself after the last batch. It is made by :func:`synchronous`,
    :func:`asynchronous` and :func:`compiled`.

    Attributes:
        frames: how many steps were handed over so far.
        version: the number of the latest parameters; 0 until :meth:`update_params` is called.
        staleness: how many versions the parameters of the last batch were behind the latest when it was handed over.
        discarded_frames: how many were collected and not handed over, for they were too stale.
        lost_frames: how many were in flight when what was restored was saved, and so had to be collected anew.
        restarts: how many lost workers were replaced.
        processes: the ids of the worker processes.
    """

    restarts: int = 0
    processes: tuple[int, ...] = ()

    def __init__(
        self,
        what: str,
        act: Any,
        params: Any,
        key: torch.Tensor,
        frames_per_batch: int,
        total_frames: int,
        max_frames_per_traj: int,
        split_trajectories: bool,
        device: torch.device | str | None,
    ):
        for name, number, least in (
            ("frames_per_batch", frames_per_batch, 1),
            ("total_frames", total_frames, -1),
            ("max_frames_per_traj", max_frames_per_traj, -1),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < least or number == 0:
                options = "a positive integer, or -1 for no end" if least < 0 else "a positive integer"
                raise ValueError(f"{what}: {name}: expected {options}, got {number!r}")
        check_act(what, act)
        if not isinstance(key, torch.Tensor) or key.dtype != torch.int64 or key.ndim != 0:
            raise TypeError(f"{what}: key: expected one key, int64 [], got {key!r}; make it with funrl.random.key")
        for path, x in zip(tree.paths(params), tree.leaves(params), strict=True):
            if not isinstance(x, torch.Tensor):
                module = isinstance(x, torch.nn.Module)
                remedy = "take funrl.nn.from_module, or dict(module.named_parameters())" if module else "wrap it in torch.tensor"
                raise TypeError(f"{what}: params: expected a tree of tensors, got {type(x).__name__} at {path}; {remedy}")
        self._what, self._frames_per_batch, self._total, self._split = what, frames_per_batch, total_frames, split_trajectories
        self._device: Any = None if device is None else torch.device(device)  # tensors stay where they are for None
        self._params_like = tree.map(lambda x: torch.empty_like(x, device="meta"), params)
        self._ledger: Ledger
        self.frames = self.version = self.staleness = self.discarded_frames = self.lost_frames = 0

    def __iter__(self) -> "Collector":
        return self

    def __next__(self) -> Collected:
        if 0 <= self._total <= self.frames:
            self.close()
            raise StopIteration
        try:
            batch = self._collect()
        except BaseException:  # an interrupt, too: what was played and what the books say may differ
            self.close()
            raise
        self.frames += batch.mask.numel()
        return split(batch) if self._split else batch

    def __enter__(self) -> "Collector":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def num_envs(self) -> int:
        """How many copies of the environment there are, with all workers together."""
        return self._ledger.num_copies

    def update_params(self, params: Any) -> None:
        """Publish new parameters, for batches that are begun from now on.

        Args:
            params: a tree like the one that the collector was made with.

        Raises:
            ValueError: if it is another tree.
        """
        tree.check_like(params, self._params_like, f"{self._what}: update_params: params", "the parameters it was made with")
        self._publish(params, self.version + 1)
        self.version += 1

    def state(self) -> CollectorState:
        """Return what :meth:`restore` goes on from, the parameters aside: a copy, as :func:`funrl.checkpoint.save` takes it.

        Raises:
            HostError: if an episode is longer than ``max_episode_steps`` of its environment says, so that its actions are not all kept.
        """
        if steps := self._ledger.overrun():
            raise HostError(
                f"{self._what}: state: an episode is in its step {steps}, but max_episode_steps is {self._ledger.limit}, so that its "
                "actions were not all kept; give max_frames_per_traj, or an environment whose limit is right"
            )
        numbers = (torch.tensor(n, dtype=torch.int64) for n in (self.frames, self.version, self._in_flight()))
        return CollectorState(tree.clone(self._ledger.state), tree.clone(self._env_state()), *numbers)

    def restore(self, state: CollectorState) -> None:
        """Go on from where a collector made alike was when ``state`` was taken, with the parameters that this one has.

        What it has in flight itself is dropped.

        Args:
            state: what :meth:`state` returned.

        Raises:
            ValueError: if ``state`` is of a collector of another configuration.
            HostError: if an environment cannot be brought to where it was: it is not deterministic.
        """
        tree.check_like(state, self.state(), f"{self._what}: restore: state", "that of this collector")
        state = tree.clone(state)
        try:
            self._resume(state)
        except BaseException:
            self.close()
            raise
        self.frames, self.version, self.lost_frames = int(state.frames), int(state.version), self.lost_frames + int(state.in_flight)

    @abstractmethod
    def close(self) -> None:
        """End what it holds; a second call does nothing."""

    @abstractmethod
    def _collect(self) -> Collected:
        """Make a batch [T, B]."""

    @abstractmethod
    def _publish(self, params: Any, version: int) -> None:
        """Let later batches be made with these parameters."""

    def _env_state(self) -> Any:
        return ()

    def _in_flight(self) -> int:
        return 0

    @abstractmethod
    def _resume(self, state: CollectorState) -> None:
        """Go to where the environments were, or raise."""
