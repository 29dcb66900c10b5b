"""Where episodes end, and the places of steps in them."""

from typing import Any

import torch

__all__ = ["breaks", "done", "positions"]


def done(item: Any) -> torch.Tensor:
    """Return where episodes end, for items with the fields or keys ``done``, or ``terminated`` and ``truncated``.

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
        f"buffers: a {type(item).__name__} says not where its episode ends: it has neither done nor terminated and truncated; "
        "give the factory a function done(item) -> bool tensor"
    )


def breaks(before: Any, after: Any) -> torch.Tensor | None:
    """Return which of T steps do not go on from the step before them, bool [T, E]; None where they do not say in which episode they are.

    Args:
        before: the place of the step before the first one, a :class:`funrl.env.Place` [1, E], or ().
        after: the places of the steps [T, E], or ().

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
    """Return the place of each step in its episode, int64 [T, E], and whether the last one ended it, for steps that go on from ``last``.

    A step that is ``broken`` [T, E] off from the one before counts as the first of an episode.
    """
    time = torch.arange(len(done), device=done.device)[:, None]
    begins = torch.cat([over[None], done[:-1]])
    if broken is not None:
        begins = begins | broken
    # The time of the step that began the episode; before the first one here, it began last + 1 steps ago.
    since = torch.where(begins, time, -1).cummax(0).values
    return torch.where(since >= 0, time - since, time + last + 1), done[-1].clone()
