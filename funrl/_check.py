"""Suggestions for unknown names that users have typed."""

import difflib
import re
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a suggestion for an unknown name: known names that are similar, contain it as half or as initials, or all known names.

    Args:
        name: the unknown name; upper and lower case are not distinguished.
        known: at least one name.

    Example:
        >>> nearest("cartpole", ["CartPole-v1", "Pendulum-v1"])
        'did you mean CartPole-v1?'
        >>> nearest("xyz", ["CartPole-v1", "Pendulum-v1"])
        'choose one of CartPole-v1, Pendulum-v1'
        >>> nearest("lr", ["learning_rate", "gamma"])
        'did you mean learning_rate?'
    """
    lower = {candidate.lower(): candidate for candidate in known}
    typed = str(name).lower()
    near = [candidate for short, candidate in lower.items() if len(typed) > 1 and typed == "".join(word[:1] for word in short.split("_"))]
    near = near or [lower[match] for match in difflib.get_close_matches(typed, lower, n=3, cutoff=0.65)]
    near = near or [candidate for short, candidate in lower.items() if 2 * len(typed) >= len(short) and typed in re.split(r"[\W_]+", short)]
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(lower.values())}"
