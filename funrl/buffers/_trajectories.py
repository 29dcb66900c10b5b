"""Functions of experience [T, ...]: n-step transitions, returns, and splitting into trajectories."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.buffers._episodes import done as done_of


@tree.dataclass
class NStep:
    """Transitions joined over several steps.

    Attributes:
        transition: the given transitions, leaves [T, ...], except that ``reward``, ``next_observation``, ``terminated`` and ``truncated``
            are those of the m steps from here.
        discount: floating point [T, ...], gamma ** m, the factor of the value of ``next_observation`` unless terminated.
        steps: int64 [T, ...], m.
        reward: floating point [T, ...], the reward of the first step alone.
    """

    transition: Any
    discount: torch.Tensor
    steps: torch.Tensor
    reward: torch.Tensor


def n_step(transition: Any, *, n: int, gamma: float | torch.Tensor) -> NStep:
    r"""Join each transition with the following ones to an n-step transition.

    .. math:: R_t = \sum_{k=0}^{m-1} \gamma^k r_{t+k}, \qquad s'_t = s_{t+m}

    with m = n, or fewer if the episode or the data [T, ...] ends before. The end of the data is not the end of the episode, so that a
    learner bootstraps from ``next_observation`` there. With a buffer of sequences, draw slices of n steps and use the first step of each.

    Args:
        transition: a tree with the fields or keys ``reward`` (floating point [T, ...]), ``next_observation``, ``terminated`` and
            ``truncated`` (bool [T, ...]), such as what a rollout returns.
        n: the number of steps, at least 1.
        gamma: the discount, a number in [0, 1] or a tensor [].

    Returns:
        An :class:`NStep`.

    Raises:
        TypeError: if ``reward`` is not floating-point, or a flag is not bool.
        ValueError: if ``n`` or ``gamma`` is out of range, a part is missing, or shapes differ.

    Example:
        >>> step = {"reward": torch.ones(4), "next_observation": torch.arange(1.0, 5.0),
        ...         "terminated": torch.tensor([False, True, False, False]), "truncated": torch.zeros(4, dtype=torch.bool)}
        >>> result = n_step(step, n=3, gamma=0.5)
        >>> result.transition["reward"], result.transition["next_observation"]
        (tensor([1.5000, 1.0000, 1.5000, 1.0000]), tensor([2., 2., 4., 4.]))
        >>> result.discount, result.steps
        (tensor([0.2500, 0.5000, 0.2500, 0.5000]), tensor([2, 1, 2, 1]))

    Reference: R. S. Sutton, A. G. Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, section 7.1 (no arXiv id).
    """
    _check.integer("buffers.n_step: n", n, 1)
    _check.number("buffers.n_step: gamma", gamma, "[0, 1]", tensor=True)
    reward, terminated, truncated = [tree.get(transition, name) for name in ("reward", "terminated", "truncated")]
    _check.floating("buffers.n_step: reward", reward, shape=("T", ...))
    _check.alike("buffers.n_step", reward=reward, terminated=terminated, truncated=truncated)
    after = tree.get(transition, "next_observation")
    shape = tree.batch_shape(after, reward.ndim) if tree.leaves(after) else reward.shape
    if shape != reward.shape:
        _check.fail(ValueError, "buffers.n_step: next_observation", f"the shape {list(reward.shape)} of reward first", list(shape))
    length = reward.shape[0]
    total, steps, factor = torch.zeros_like(reward), torch.zeros_like(reward, dtype=torch.int64), torch.ones_like(reward)
    going = torch.ones_like(terminated)
    for k in range(min(n, length)):
        # The steps from k on, and padding for those after the end.
        later = reward[k:]
        total = total + torch.cat([torch.where(going[: length - k], factor[: length - k] * later, 0.0), torch.zeros_like(reward[:k])])
        going = torch.cat([going[: length - k], torch.zeros_like(going[:k])])
        steps = steps + going
        factor = torch.where(going, factor * gamma, factor)
        going = torch.cat([going[: length - k] & ~(terminated | truncated)[k:], torch.zeros_like(going[:k])])
    last = torch.arange(length, device=reward.device).reshape(-1, *[1] * (reward.ndim - 1)) + steps - 1

    def at_last(x: torch.Tensor) -> torch.Tensor:
        return x.gather(0, last.reshape(*last.shape, *[1] * (x.ndim - last.ndim)).expand(x.shape))

    result = tree.update(transition, "reward", total)
    for name in ("next_observation", "terminated", "truncated"):
        result = tree.update(result, name, tree.map(at_last, tree.get(transition, name)))
    return NStep(result, factor, steps, reward)


@tree.dataclass
class Trajectories:
    """Trajectories, time first, padded to the same length.

    Attributes:
        batch: the steps, leaves [L, K, ...]; zeros after the end of a trajectory.
        mask: bool [L, K], True where there is a step.
        traj_ids: int64 [L, K], the number of the trajectory; -1 where there is no step.
    """

    batch: Any
    mask: torch.Tensor
    traj_ids: torch.Tensor


def split_trajectories(batch: Any, done: torch.Tensor | None = None, *, num_trajectories: int | None = None) -> Trajectories:
    """Cut the experience of B environments where episodes end, and stack the pieces as padded trajectories.

    The trajectories are ordered by environment, then by time.

    Args:
        batch: leaves [T, B, ...].
        done: bool [T, B], the last steps of episodes; by default ``batch.done``, or ``terminated | truncated``, as field or key.
        num_trajectories: K, for compiled programs and vmap, whose shapes cannot depend on values: the result has K trajectories of
            T steps, and further ones are dropped. None: as many as there are, padded to the longest.

    Returns:
        The :class:`Trajectories`.

    Raises:
        TypeError: if ``done`` is not bool.
        ValueError: if shapes differ, or ``num_trajectories`` is less than 1.

    Example:
        >>> done = torch.tensor([[False, False], [True, False], [False, False]])
        >>> result = split_trajectories({"x": torch.arange(6).reshape(3, 2)}, done)
        >>> result.batch["x"].T
        tensor([[0, 2, 0],
                [4, 0, 0],
                [1, 3, 5]])
        >>> result.mask.T
        tensor([[ True,  True, False],
                [ True, False, False],
                [ True,  True,  True]])
    """
    done = done_of(batch) if done is None else done
    shape = tree.batch_shape(batch, 2)
    _check.flag("buffers.split_trajectories: done", done, "it has the dimensions [T, E] of the batch", shape=shape)
    _check.sized("buffers.split_trajectories: done", done, ("T", "E"))
    if num_trajectories is not None:
        _check.integer("buffers.split_trajectories: num_trajectories", num_trajectories, 1)
    steps = shape[0]
    begins = torch.cat([torch.ones_like(done[:1]), done[:-1]])
    time = torch.arange(steps, device=done.device)[:, None]
    place = (time - torch.where(begins, time, 0).cummax(0).values).T.reshape(-1)
    number = begins.T.reshape(-1).cumsum(0) - 1
    if num_trajectories is None:
        count, length = int(number[-1]) + 1, int(place.max()) + 1
    else:
        count, length = num_trajectories, steps
    # An extra column receives the dropped trajectories.
    target = place * (count + 1) + number.clamp(max=count)

    def lay(x: torch.Tensor) -> torch.Tensor:
        rest = x.shape[2:]
        room = torch.zeros((length * (count + 1), *rest), dtype=x.dtype, device=x.device)
        return room.index_copy(0, target, x.transpose(0, 1).reshape(-1, *rest)).reshape(length, count + 1, *rest)[:, :count]

    mask = lay(torch.ones_like(done))
    ids = torch.where(mask, torch.arange(count, device=done.device), -1)
    return Trajectories(tree.map(lay, batch), mask, ids)
