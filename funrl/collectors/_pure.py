"""The collector of pure environments: one process, one program, no workers."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, random, transforms, tree
from funrl.acting import rollout, start
from funrl.collectors._collector import Collector, CollectorState, constants
from funrl.collectors._tracker import Collected, EpisodeTracker
from funrl.compiler import compile as compiled_program
from funrl.env import Env, Place, VectorEnv

# No actions are replayed, so that the length of an episode has no limit.
_NO_LIMIT = 1 << 62


def compiled(
    create_env: Callable[[], Env],
    act: Any,
    params: Any,
    *,
    num_envs: int,
    frames_per_batch: int,
    total_frames: int,
    max_frames_per_traj: int = -1,
    split_trajectories: bool = False,
    device: torch.device | str | None = None,
    env_params: Any = None,
    key: torch.Tensor | None = None,
    backend: str = "auto",
) -> Collector:
    """Collect from ``num_envs`` copies of a pure environment, by a compiled :func:`funrl.rollout` in this process.

    It has the same interface as the collectors with workers, for a learner that accepts either. A learner that is itself a pure function
    can call :func:`funrl.rollout` instead.

    Args:
        create_env: a function that returns a single pure :class:`~funrl.env.Env`.
        num_envs: B, the number of copies.
        frames_per_batch: the number of steps of a batch; a multiple of ``num_envs``.
        device: the device of the program and of the batches; None: the CPU.
        backend: as for :func:`funrl.compile`.
        act, params, total_frames, max_frames_per_traj, split_trajectories, env_params, key: as for :func:`synchronous`.

    Returns:
        A :class:`Collector`. A restored one continues bit for bit, because the states of its environments are tensors.

    Raises:
        TypeError: if a leaf of ``params`` is not a tensor.
        ValueError: if the environment is not single and pure, or a number is out of range.

    Example:
        >>> import funrl
        >>> create_env = lambda: funrl.envs.make("CartPole-v1")
        >>> sizes = dict(num_envs=4, frames_per_batch=40, total_frames=80)
        >>> with compiled(create_env, None, (), **sizes, max_frames_per_traj=5, backend="eager") as collector:
        ...     for batch in collector:
        ...         print(batch.transition.observation.shape, batch.step_count[:, 0], batch.traj_ids[0])
        torch.Size([10, 4, 4]) tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4]) tensor([0, 1, 2, 3])
        torch.Size([10, 4, 4]) tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4]) tensor([ 8,  9, 10, 11])
    """
    return _Compiled("collectors.compiled", **locals())


class _Compiled(Collector):
    def __init__(
        self,
        what: str,
        create_env: Callable[[], Env],
        act: Any,
        params: Any,
        num_envs: int,
        frames_per_batch: int,
        total_frames: int,
        max_frames_per_traj: int,
        split_trajectories: bool,
        device: torch.device | str | None,
        env_params: Any,
        key: torch.Tensor | None,
        backend: str,
    ):
        key = random.key(0) if key is None else key
        super().__init__(what, act, params, key, frames_per_batch, total_frames, max_frames_per_traj, split_trajectories, device)
        _check.integer(f"{what}: num_envs", num_envs, 1)
        _check.divisor(f"{what}: num_envs", num_envs, frames_per_batch, "frames_per_batch", "all copies take the same number of steps")
        env = create_env()
        if isinstance(env, VectorEnv):
            kind = "one on the host: use collectors.synchronous" if env.host else "a batched one: give an Env, and num_envs"
            raise ValueError(f"{what}: create_env: expected a single pure environment, got {kind}")
        _check.instance(f"{what}: create_env", env, Env, "funrl.envs.make returns one", expected="a function that returns an Env")
        env_params = tree.clone(constants(what, env, env_params, self._device))
        if max_frames_per_traj > 0:
            env = transforms.compose(env, transforms.time_limit(max_frames_per_traj))
        key = key.to(self._device)
        reset_key, self._key = random.split(random.fold_in(key, 0)).unbind(0)
        self._params = tree.clone(tree.to(params, self._device))
        self._actor = start(reset_key, env_params, env=env, num_envs=num_envs, act=act, params=self._params)
        steps = frames_per_batch // num_envs
        self._tracker = EpisodeTracker([num_envs], [steps], (), (), _NO_LIMIT)

        def play(params: Any, key: torch.Tensor, actor: Any) -> Any:
            return rollout(params, key, actor, env_params, env=env, act=act, num_steps=steps)

        self._play = compiled_program(play, backend=backend)

    def close(self) -> None:
        """Do nothing: there are no processes to end."""

    def _collect(self) -> Collected:
        number = self._tracker.state.batches[0].to(self._key.device)
        self._actor, transition = self._play(self._params, random.fold_in(self._key, number), self._actor)
        counts = self._tracker.record(0, transition.reward.cpu(), transition.done.cpu(), (), ())
        step_count, return_so_far, traj_ids = (x.to(self._device) for x in counts)
        self.staleness = 0
        mask, version = torch.ones_like(step_count, dtype=torch.bool), torch.full_like(step_count, self.version)
        transition = transition.replace(place=Place(traj_ids, step_count, return_so_far))
        return Collected(transition, step_count, return_so_far, traj_ids, mask, version)

    def _publish(self, params: Any, version: int) -> None:
        self._params = tree.clone(tree.to(params, self._device))  # the learner may overwrite the given tensors

    def _env_state(self) -> Any:
        return self._actor

    def _resume(self, state: CollectorState) -> None:
        self._actor, self._tracker.state = tree.to(state.env, self._device), state.tracker
