"""Ends of episodes, and the positions of steps in them."""

from typing import Any

import torch


def done(item: Any) -> torch.Tensor:
    """Return the flags of episode ends, for items with the field or key ``done``, or ``terminated`` and ``truncated``.

    Raises:
        TypeError: if it has neither.

    Example:
        >>> done({"terminated": torch.tensor(False), "truncated": torch.tensor(True)})
        tensor(True)
    """
    for names in (("done",), ("terminated", "truncated")):
        if type(item) is dict:
            flags = [item[name] for name in names if name in item]
        else:
            flags = [getattr(item, name) for name in names if hasattr(item, name)]
        if len(flags) == len(names):
            return flags[0] if len(flags) == 1 else flags[0] | flags[1]
    raise TypeError(
        f"buffers: the end of an episode is unknown for a {type(item).__name__}: it has neither done nor terminated and truncated; "
        "give the factory a function done(item) -> bool tensor"
    )


def breaks(before: Any, after: Any) -> torch.Tensor | None:
    """Return which of T steps do not follow the step before them, bool [T, E]; None if the steps have no ``place``.

    Args:
        before: the ``place`` of the step before the first one, a :class:`funrl.env.Place` [1, E], or ().
        after: the ``place`` of the steps [T, E], or ().

    Example:
        >>> breaks((), ()) is None
        True
    """
    if not hasattr(after, "step_count"):
        return None
    number, count = (torch.cat([getattr(before, name), getattr(after, name)]) for name in ("number", "step_count"))
    return (number[1:] != number[:-1]) | (count[1:] != count[:-1] + 1)


def positions(
    last: torch.Tensor, over: torch.Tensor, done: torch.Tensor, broken: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the position of each step in its episode, int64 [T, E], and whether the last step ended it, for steps that follow ``last``.

    A step that does not follow the one before it, as ``broken`` [T, E] says, counts as the first of an episode.
    """
    time = torch.arange(len(done), device=done.device)[:, None]
    begins = torch.cat([over[None], done[:-1]])
    if broken is not None:
        begins = begins | broken
    # The time of the first step of the episode; for an episode that began before step 0, this is -(last + 1).
    since = torch.where(begins, time, -1).cummax(0).values
    return torch.where(since >= 0, time - since, time + last + 1), done[-1].clone()
