"""Donated arguments: the outputs that use their memory, and tensors that must not be used again."""

import collections
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from funrl import tree

# The number of bytes from which a donated tensor is written in place. For smaller ones a new tensor costs less.
LARGE = 1 << 16
# The attribute of a donated tensor: the name of the function that it was donated to.
MARK = "_funrl_donated"


class _Donated(torch.Tensor):
    """A tensor whose memory was given away: each use is an error."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = next((x for x in (*args, *(kwargs or {}).values()) if isinstance(x, _Donated)), None)
        name = "a compiled function" if given is None else given.__dict__.get(MARK, "a compiled function")
        raise ValueError(f"this tensor was donated to {name}, which wrote over it; use what that call returned")

    def __repr__(self, **options: Any) -> str:
        return f"<a tensor that was donated to {self.__dict__.get(MARK)}>"


def matched(name: str, positions: tuple[int, ...], args: tuple[Any, ...], out: Any) -> tuple[bool, list[int]]:
    """Return True if the whole output uses the memory of a donated argument (False: only items of it), and the positions of such items.

    Raises:
        ValueError: if no output has the structure, shapes and dtypes of a donated argument.
    """
    whole = any(_alike(out, args[i]) for i in positions)
    parts = list(out) if type(out) is tuple and not whole else [out]
    taken: list[int] = []
    for i in positions:
        place = next((k for k, part in enumerate(parts) if k not in taken and _alike(part, args[i])), None)
        if place is None:
            raise ValueError(
                f"compile: no output has the structure, shapes and dtypes of donated argument {i}; return its successor or do not donate it"
            )
        taken.append(place)
    return whole, taken


def _alike(part: Any, old: Any) -> bool:
    if tree.structure(part) != tree.structure(old):
        return False
    pairs = zip(tree.leaves(part), tree.leaves(old), strict=True)
    return all(isinstance(x, torch.Tensor) and x.shape == y.shape and x.dtype == y.dtype for x, y in pairs)


def mark_donated(name: str, small: Iterable[torch.Tensor], large: Iterable[torch.Tensor]) -> None:
    """Mark tensors that must not be used again, ``large`` ones (or empty ones) so that each use is an error."""
    collections.deque(map(setattr, small, itertools.repeat(MARK), itertools.repeat(name)), 0)
    for x in large:
        kept = MARK in x.__dict__ or "_funrl_array" in x.__dict__  # it occurs twice among the arguments, or was copied
        x._funrl_donated = name  # pyright: ignore[reportAttributeAccessIssue]
        if not kept:
            x.__class__ = _Donated


def own_copies(leaves: list[torch.Tensor], large: Sequence[int]) -> None:
    """Replace large leaves that are strided, or share memory with another one, by copies: one layout is one program.

    Args:
        leaves: the leaves of a call; they are replaced in the list.
        large: the places of the large ones.
    """
    memory: set[int] = set()
    for i in large:
        x = leaves[i]
        place = x.data_ptr()
        if not x.is_contiguous() or place in memory:
            x = leaves[i] = x.clone(memory_format=torch.contiguous_format)
        memory.add(place)
