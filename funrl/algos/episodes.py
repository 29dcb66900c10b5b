"""Returns and lengths of the episodes in the experience of a learner."""

from typing import Any

import torch

from funrl import tree
from funrl.env import Place, Transition
from funrl.returns import running_sum

__all__ = ["Episodes", "record", "start"]


@tree.dataclass
class Episodes(tree.Replaceable):
    """Running sums of the unfinished episodes, and a summary of the last update in which any episode ended.

    Attributes:
        running_return: floating point [B].
        running_length: int64 [B].
        mean_return: floating point []; NaN before any episode has ended.
        min_return: floating point [].
        max_return: floating point [].
        mean_length: floating point [].
    """

    running_return: torch.Tensor
    running_length: torch.Tensor
    mean_return: torch.Tensor
    min_return: torch.Tensor
    max_return: torch.Tensor
    mean_length: torch.Tensor


def start(reward: torch.Tensor) -> Episodes:
    """Return the state before the first step of B environments; ``reward`` [B] gives dtype and device.

    Example:
        >>> import torch
        >>> start(torch.zeros(2)).running_length
        tensor([0, 0])
    """
    none = torch.full_like(reward[0], torch.nan)
    zeros = torch.zeros_like(reward)
    return Episodes(zeros, zeros.to(torch.int64), none, none.clone(), none.clone(), none.clone())


def _resumed(state: Episodes, place: Any) -> Episodes:
    """Return the state with the sums before a batch whose ``place`` is known. It may come from other copies than the last batch."""
    if not isinstance(place, Place):
        return state
    running_return, running_length = place.return_so_far[0], place.step_count[0]
    return state.replace(
        running_return=running_return.to(state.running_return, copy=True),
        running_length=running_length.to(state.running_length, copy=True),
    )


def returns(state: Episodes, samples: Transition) -> torch.Tensor:
    """Return the sum of rewards of each episode up to and including each step, [T, B]. Arguments as for :func:`record`.

    Example:
        >>> import torch
        >>> terminated = torch.tensor([[False], [True], [False]])
        >>> samples = Transition((), (), torch.ones(3, 1), terminated, terminated & False, (), {})
        >>> returns(start(torch.zeros(1)), samples)[:, 0]
        tensor([1., 2., 1.])
    """
    return _returns(_resumed(state, samples.place), samples)


def _returns(state: Episodes, samples: Transition) -> torch.Tensor:
    """Return the sums of :func:`returns` from a state that has the running episodes of the first step."""
    done = samples.done
    begins = torch.cat([torch.zeros_like(done[:1]), done[:-1]])
    return running_sum(samples.reward, begins, state.running_return)


def record(state: Episodes, samples: Transition) -> tuple[Episodes, dict[str, torch.Tensor]]:
    """Update returns and lengths with T steps of B environments.

    Args:
        state: the sums so far.
        samples: the transitions; reward and done are [T, B]. If their ``place`` is known, as in the batches of a collector, the running
            sums before these steps are read from it, because successive batches of an asynchronous collector come from different copies of
            the environment.

    Returns:
        The new state, and metrics []: ``episode_return`` (mean), ``episode_return_min``, ``episode_return_max`` and ``episode_length``
        (mean) of the episodes that ended in the last update with any, and ``episodes``, the number of episodes that ended in this update.

    Example:
        >>> import torch
        >>> terminated = torch.tensor([[False], [True], [False]])
        >>> samples = Transition(
        ...     observation=(), action=(), reward=torch.ones(3, 1), terminated=terminated, truncated=terminated & False,
        ...     next_observation=(), extras={},
        ... )
        >>> state, metrics = record(start(torch.zeros(1)), samples)
        >>> metrics["episode_return"], metrics["episodes"], state.running_return
        (tensor(2.), tensor(1), tensor([1.]))
    """
    state, done = _resumed(state, samples.place), samples.done
    sums = _returns(state, samples)
    time = torch.arange(done.shape[0], device=done.device).unsqueeze(1)
    last_end = torch.where(done, time, -1).cummax(0).values
    before = torch.cat([torch.full_like(last_end[:1], -1), last_end[:-1]])
    lengths = time - before + torch.where(before < 0, state.running_length, 0)

    count = done.sum()
    some = count > 0
    shown = count.clamp(min=1)

    def latest(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        return torch.where(some, new.to(old.dtype), old)

    ended = done[-1]
    state = Episodes(
        running_return=torch.where(ended, 0.0, sums[-1]),
        running_length=torch.where(ended, 0, lengths[-1]),
        mean_return=latest(torch.where(done, sums, 0.0).sum() / shown, state.mean_return),
        min_return=latest(torch.where(done, sums, torch.inf).amin(), state.min_return),
        max_return=latest(torch.where(done, sums, -torch.inf).amax(), state.max_return),
        mean_length=latest(torch.where(done, lengths, 0).sum() / shown, state.mean_length),
    )
    return state, {
        "episode_return": state.mean_return,
        "episode_return_min": state.min_return,
        "episode_return_max": state.max_return,
        "episode_length": state.mean_length,
        "episodes": count,
    }
