"""The interface and the shared parts of all collectors."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from funrl import _check, tree
from funrl.acting import check_act
from funrl.collectors._tracker import Collected, EpisodeTracker, EpisodeTrackerState, split
from funrl.env import AnyEnv, HostError
from funrl.transforms import VecNormParams


@tree.dataclass
class CollectorState:
    """The state from which a collector resumes. Shapes are constant, except that ``tracker.actions`` grows with the length of episodes.

    Attributes:
        tracker: the state of the episode tracker.
        env: the :class:`~funrl.acting.ActorState` of :func:`compiled`; () for collectors with workers, which replay the running episodes.
        frames: int64 [], the number of steps delivered so far.
        version: int64 [], the version of the latest parameters.
        in_flight: int64 [], the number of steps that were requested from workers and not yet delivered. A collector that resumes from this
            state collects them again, with its current parameters.
    """

    tracker: EpisodeTrackerState
    env: Any
    frames: torch.Tensor
    version: torch.Tensor
    in_flight: torch.Tensor


def constants(what: str, env: AnyEnv, env_params: Any, device: torch.device | None) -> Any:
    """Return the ``env_params`` that a collector uses: the given ones, or for None the environment's ``default_params``.

    Raises:
        ValueError: if their structure is not that of ``default_params``, or if they contain the statistics of a ``vec_norm`` that has
            seen no observations yet: a collector does not update them.

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

    Use it in a ``with`` statement, or call :meth:`close`; it closes itself after the last batch. :func:`synchronous`,
    :func:`asynchronous`, :func:`compiled` and :func:`ray` make collectors.

    Attributes:
        frames: the number of steps delivered so far.
        version: the version of the latest parameters; 0 until :meth:`update_params` is called.
        staleness: the number of newer versions of the parameters that existed when the last batch was delivered.
        discarded_frames: the number of steps that were collected but not delivered, because their parameters were too old.
        lost_frames: the sum of ``in_flight`` over the states given to :meth:`restore`; these steps are collected again.
        restarts: the number of lost workers that were replaced.
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
        _check.integer(f"{what}: frames_per_batch", frames_per_batch, 1)
        for name, number in (("total_frames", total_frames), ("max_frames_per_traj", max_frames_per_traj)):
            if number != -1:
                _check.integer(f"{what}: {name}", number, 1, remedy="give -1 for no end")
        check_act(what, act)
        _check.key(f"{what}: key", key)
        for path, x in zip(tree.paths(params), tree.leaves(params), strict=True):
            module = isinstance(x, torch.nn.Module)
            remedy = "take funrl.nn.from_module, or dict(module.named_parameters())" if module else "wrap it in torch.tensor"
            _check.tensor(f"{what}: params: leaf {path}", x, remedy)
        self._what, self._frames_per_batch, self._total, self._split = what, frames_per_batch, total_frames, split_trajectories
        self._device: Any = None if device is None else torch.device(device)  # None: tensors stay on their device
        self._params_like = tree.map(lambda x: torch.empty_like(x, device="meta"), params)
        self._tracker: EpisodeTracker
        self.frames = self.version = self.staleness = self.discarded_frames = self.lost_frames = 0

    def __iter__(self) -> "Collector":
        return self

    def __next__(self) -> Collected:
        if 0 <= self._total <= self.frames:
            self.close()
            raise StopIteration
        try:
            batch = self._collect()
        except BaseException:  # also an interrupt: the environments and the tracker may be at different steps now
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
        """The number of copies of the environment, over all workers."""
        return self._tracker.num_copies

    def update_params(self, params: Any) -> None:
        """Give the workers new parameters. Batches that begin from now on use them; with Ray, batches that are requested from now on.

        Args:
            params: a tree of the same structure, shapes and dtypes as the one given to the collector.

        Raises:
            ValueError: if it is a different tree.
        """
        tree.check_like(params, self._params_like, f"{self._what}: update_params: params", "the parameters it was made with")
        self._publish(params, self.version + 1)
        self.version += 1

    def state(self) -> CollectorState:
        """Return a copy of the state for :meth:`restore`, without the parameters. :func:`funrl.checkpoint.save` can write it.

        Raises:
            HostError: if an episode is longer than ``max_episode_steps`` of its environment, so that its first actions are lost.
        """
        if steps := self._tracker.overrun():
            raise HostError(
                f"{self._what}: state: an episode has {steps} steps, but max_episode_steps is {self._tracker.limit}, so its first "
                "actions were not stored; give max_frames_per_traj, or an environment with the right max_episode_steps"
            )
        numbers = (torch.tensor(n, dtype=torch.int64) for n in (self.frames, self.version, self._in_flight()))
        return CollectorState(tree.clone(self._tracker.state), tree.clone(self._env_state()), *numbers)

    def restore(self, state: CollectorState) -> None:
        """Resume from the state of a collector with the same configuration, with the current parameters of this collector.

        Batches that this collector has requested and not yet delivered are dropped.

        Args:
            state: the result of :meth:`state`.

        Raises:
            ValueError: if ``state`` is of a collector with another configuration.
            HostError: if the replay of an episode ends with another observation, because the environment is not deterministic.
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
        """End processes and free memory; a second call does nothing."""

    @abstractmethod
    def _collect(self) -> Collected:
        """Collect a batch [T, B]."""

    @abstractmethod
    def _publish(self, params: Any, version: int) -> None:
        """Use these parameters for later batches."""

    def _env_state(self) -> Any:
        return ()

    def _in_flight(self) -> int:
        return 0

    @abstractmethod
    def _resume(self, state: CollectorState) -> None:
        """Bring the environments to where they were in ``state``, or raise."""
