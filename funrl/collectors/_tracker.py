"""The episode tracker: numbers the episodes of the batches, counts their steps, and stores the actions of the running episodes."""

from typing import Any

import torch

from funrl import tree
from funrl.buffers import split_trajectories
from funrl.returns import running_sum


@tree.dataclass
class Collected:
    """A batch of experience: [T, B], T steps of B copies; or [N, T], N trajectories of at most T steps, each in a row of its own.

    To add its T x B rows to a buffer of transitions, take ``tree.reshape(batch.transition, (-1,), batch_dims=2)``.

    Attributes:
        transition: a :class:`~funrl.env.Transition` with leaves [T, B, ...], or [N, T, ...] with zeros after the end of a trajectory. Its
            ``place``, a :class:`~funrl.env.Place`, holds ``number`` (the unique number of the episode), ``step_count`` and
            ``return_so_far``.
        step_count: int64 [T, B] or [N, T], the number of steps of the episode before this one.
        return_so_far: shape and dtype of the reward: the sum of the rewards of the episode before this step.
        traj_ids: int64, the unique number of the episode. An episode that spans several batches has the same number in all of them.
            The number modulo ``num_envs`` of the collector is the index of the copy of the environment.
        mask: bool, True where there is a step: everywhere in [T, B], and up to the end of each trajectory in [N, T].
        version: int64, the version of the parameters that chose the action: 0 for those given to the collector, 1 for the first
            that were published.

    ``traj_ids`` and ``version`` are -1 where there is no step.
    """

    transition: Any
    step_count: torch.Tensor
    return_so_far: torch.Tensor
    traj_ids: torch.Tensor
    mask: torch.Tensor
    version: torch.Tensor


@tree.dataclass
class EpisodeTrackerState(tree.Replaceable):
    """State of an :class:`EpisodeTracker` between batches, for W workers with B copies in all.

    Attributes:
        batches: int64 [W], the number of batches that each worker has delivered.
        steps: int64 [B], the number of steps of each running episode.
        returns: float64 [B], the sum of the rewards of each running episode, rounded to the dtype of the rewards.
        episodes: int64 [B], the number of finished episodes of each copy.
        after: a dict of two trees [B, ...]: ``observation``, the next input of the policy, and ``memory``, its recurrent state.
        actions: a tree [C, B, ...], the last actions of each copy: the action of step t is at row t modulo C. C is 0 before the
            first batch, and grows with the length of the running episodes, up to the maximum length of an episode.
    """

    batches: torch.Tensor
    steps: torch.Tensor
    returns: torch.Tensor
    episodes: torch.Tensor
    after: Any
    actions: Any

    _funrl_any_length = ("actions",)


@tree.dataclass
class ResumePoint:
    """Data from which a worker resumes: the counts of its copies, and the actions [L, ...] of their running episodes, oldest first."""

    batches: torch.Tensor
    steps: torch.Tensor
    after: Any
    actions: Any


class EpisodeTracker:
    """Tracker of the episodes of a collector. :meth:`record` adds a batch; :attr:`state` is the result of all batches added so far.

    Args:
        copies: the number of copies of each worker.
        batch_steps: T of each worker, the number of steps of its batches.
        action: an example of one copy's action, a tree of shapes and dtypes.
        after: an example of one copy's observation and recurrent state, a tree of shapes and dtypes.
        limit: the maximum length of an episode, which is also the maximum number of stored actions of a copy.
    """

    def __init__(self, copies: list[int], batch_steps: list[int], action: Any, after: Any, limit: int):
        self.batch_steps, self.limit = batch_steps, limit
        ends = [sum(copies[: i + 1]) for i in range(len(copies))]
        self.columns = [slice(end - num, end) for end, num in zip(ends, copies, strict=True)]
        self.num_copies = ends[-1]

        def zeros(*lead: int) -> Any:
            return lambda x: torch.zeros((*lead, *x.shape), dtype=x.dtype)

        none = torch.zeros(self.num_copies, dtype=torch.int64)
        self.state = EpisodeTrackerState(
            batches=torch.zeros(len(copies), dtype=torch.int64),
            steps=none,
            returns=torch.zeros(self.num_copies, dtype=torch.float64),
            episodes=none.clone(),
            after=tree.map(zeros(self.num_copies), after),
            actions=tree.map(zeros(0, self.num_copies), action),
        )

    def record(
        self, worker: int, reward: torch.Tensor, done: torch.Tensor, action: Any, after: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Add a worker's batch [T, b, ...]; return its step counts, returns so far and episode numbers, each [T, b]."""
        state, columns = self.state, self.columns[worker]
        steps, episodes = state.steps[columns], state.episodes[columns]
        time = torch.arange(len(done))[:, None]
        begun = torch.cat([torch.zeros_like(done[:1]), done[:-1]])
        since = torch.where(begun, time, -1).cummax(0).values
        count = torch.where(since < 0, steps + time, time - since)
        # The learner sums with the same function and dtype, so that both have the same running returns to the last bit.
        start = state.returns[columns].to(reward.dtype)
        returns = running_sum(reward, begun, start)
        before = torch.where(begun, 0.0, torch.cat([start[None], returns[:-1]]))
        number = episodes + begun.cumsum(0)
        ids = number * self.num_copies + torch.arange(self.num_copies)[columns]

        running = torch.where(done[-1], 0, count[-1] + 1)
        self._make_room(int(running.max()))
        capacity, first = self.capacity, int(state.batches[worker]) * self.batch_steps[worker]
        kept = min(len(done), capacity)
        places = torch.arange(first + len(done) - kept, first + len(done)) % capacity
        for all, x in zip(tree.leaves(self.state.actions), tree.leaves(action), strict=True):
            all[places, columns] = x[-kept:]
        for all, x in zip(tree.leaves(state.after), tree.leaves(after), strict=True):
            all[columns] = x
        state.steps[columns] = running
        state.returns[columns] = torch.where(done[-1], 0.0, returns[-1]).double()
        state.episodes[columns] = number[-1] + done[-1]
        state.batches[worker] += 1
        return count, before, ids

    def resume_point(self, worker: int) -> ResumePoint:
        """Return the data that a worker resumes from."""
        state, columns = self.state, self.columns[worker]
        steps = state.steps[columns]
        now, longest = int(state.batches[worker]) * self.batch_steps[worker], int(steps.max())
        places = torch.arange(now - longest, now) % max(self.capacity, 1)
        return ResumePoint(
            batches=state.batches[worker],
            steps=steps.clone(),
            after=tree.map(lambda x: x[columns].clone(), state.after),
            actions=tree.map(lambda x: x[places][:, columns], state.actions),
        )

    def overrun(self) -> int:
        """Return the length of the longest running episode if it exceeds ``limit`` (its actions are incomplete then), else 0."""
        longest = int(self.state.steps.max())
        return longest if longest > self.limit else 0

    @property
    def capacity(self) -> int:
        """C, the number of steps of each copy whose actions can be stored now."""
        leaves = tree.leaves(self.state.actions)
        return len(leaves[0]) if leaves else self.limit

    def restore(self, state: EpisodeTrackerState) -> None:
        """Continue from the state of a tracker with the same configuration.

        Raises:
            ValueError: if the state lacks actions of its running episodes.
        """
        rows = {len(x) for x in tree.leaves(state.actions)} or {self.limit}
        longest = int(state.steps.max())
        if len(rows) > 1 or not longest <= max(rows) <= self.limit:
            raise ValueError(
                f"tracker: actions: the running episodes have up to {longest} steps, and the limit here is {self.limit}, but the state "
                f"stores the actions of {' or '.join(map(str, sorted(rows)))} steps; it belongs to a collector with another "
                "configuration, such as another max_frames_per_traj, or is damaged"
            )
        self.state = state

    def _make_room(self, steps: int) -> None:
        """Make room for the actions of ``steps`` steps, at most ``limit``. The room at least doubles, as each growth copies all actions."""
        old = self.capacity
        if old >= min(max(steps, 1), self.limit):
            return
        new = min(max(steps, 2 * old, 1), self.limit)
        kept = self.state.actions
        self.state = self.state.replace(actions=tree.map(lambda x: x.new_zeros((new, *x.shape[1:])), kept))
        for worker, columns in enumerate(self.columns):
            now = int(self.state.batches[worker]) * self.batch_steps[worker]
            times = torch.arange(max(now - old, 0), now)
            for all, x in zip(tree.leaves(self.state.actions), tree.leaves(kept), strict=True):
                all[times % new, columns] = x[times % max(old, 1), columns]


def split(batch: Collected) -> Collected:
    """Cut a batch [T, B] where episodes end, one trajectory to a row [N, T].

    Example:
        >>> from funrl.env import Transition
        >>> none, ones = torch.zeros(2, 1, dtype=torch.bool), torch.ones(2, 1, dtype=torch.int64)
        >>> end = torch.tensor([[True], [False]])
        >>> step = Transition(ones, ones, ones.float(), end, none, ones, {})
        >>> split(Collected(step, 0 * ones, 0.0 * ones, torch.tensor([[4], [5]]), ~none, 3 * ones)).traj_ids
        tensor([[4],
                [5]])
    """
    whole = (batch.transition, batch.step_count, batch.return_so_far, batch.traj_ids, batch.version)
    pieces = split_trajectories(whole, batch.transition.done)
    transition, step_count, return_so_far, traj_ids, version = tree.map(lambda x: x.transpose(0, 1).contiguous(), pieces.batch)
    mask = pieces.mask.T.contiguous()
    return Collected(transition, step_count, return_so_far, torch.where(mask, traj_ids, -1), mask, torch.where(mask, version, -1))
