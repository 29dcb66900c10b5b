"""Conversion between spaces of gymnasium and of funrl, and between batches of their elements, arrays and tensors."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple

from funrl import spaces

WIDER = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.int64}


def from_gymnasium(space: Space, what: str) -> Any:
    """Return the funrl space with the elements of a gymnasium space.

    MultiBinary and boolean boxes become :class:`~funrl.spaces.Binary`; a MultiDiscrete of several dimensions becomes an integer box. As
    torch does not compute with these dtypes, boxes of uint16, uint32, and uint64 below 2**63 become boxes of int32, int64 and int64.

    Raises:
        TypeError: if a space has no counterpart; the message names it, and begins with ``what``.
    """
    if isinstance(space, Dict):
        return spaces.Dict({name: from_gymnasium(entry, f"{what}[{name!r}]") for name, entry in space.spaces.items()})
    if isinstance(space, Tuple):
        return spaces.Tuple(tuple([from_gymnasium(entry, f"{what}[{i}]") for i, entry in enumerate(space.spaces)]))
    if isinstance(space, Discrete):
        return spaces.Discrete(int(space.n), int(space.start))
    if isinstance(space, MultiDiscrete):
        if space.nvec.ndim == 1:
            return spaces.MultiDiscrete(tuple(space.nvec.tolist()), tuple(space.start.tolist()))
        return spaces.Box(space.start.astype(np.int64), (space.start + space.nvec - 1).astype(np.int64), dtype=torch.int64)
    if isinstance(space, MultiBinary) or (isinstance(space, Box) and space.dtype == np.bool_):
        return spaces.Binary(space.shape)
    if isinstance(space, Box):
        try:
            low, high = space.low, space.high
            if (wider := WIDER.get(space.dtype)) and (space.dtype != np.uint64 or int(high.max(initial=0)) < 1 << 63):
                low, high = low.astype(wider), high.astype(wider)
            dtype = torch.from_numpy(np.empty(0, low.dtype)).dtype
            return spaces.Box(torch.from_numpy(low), torch.from_numpy(high), space.shape, dtype)
        except (TypeError, RuntimeError):
            raise TypeError(f"{what}: torch does not compute with the {space.dtype} of {space}; cast it in a gymnasium wrapper") from None
    raise TypeError(
        f"{what}: {space} has no counterpart in funrl.spaces; expected Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple: "
        "turn it into one of these with a gymnasium wrapper"
    )


def to_gymnasium(space: Any) -> Space:
    """Return the gymnasium space with the elements of a funrl space."""
    if isinstance(space, spaces.Dict):
        return Dict({name: to_gymnasium(entry) for name, entry in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return Tuple([to_gymnasium(entry) for entry in space.spaces])
    if isinstance(space, spaces.Discrete):
        return Discrete(space.n, start=space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiDiscrete(list(space.nvec), start=list(space.start))
    if isinstance(space, spaces.Binary):
        return MultiBinary(space.shape)
    low, high = space.low.numpy(), space.high.numpy()
    return Box(low, high, space.shape, low.dtype.type)


class Misfit(ValueError):
    """Error: an element does not fit its space; the message says why, to follow "an observation"."""


def layout(space: Space, what: str) -> "Leaf | Branch":
    """Return the layout of batches of elements of a space; raises as :func:`from_gymnasium`."""
    ours = from_gymnasium(space, what)
    if isinstance(space, (Dict, Tuple)):
        entries: Any = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
        return Branch({name: layout(entry, f"{what}[{name!r}]") for name, entry in entries}, ours)
    return Leaf(space, ours)


class Leaf:
    """Layout of batches of one array, [B, ...] in gymnasium's dtype; ``ours`` is the funrl space."""

    def __init__(self, space: Any, ours: Any):
        self.shape, self.dtype, self.ours, self.scalar = space.shape, space.dtype, ours, isinstance(space, Discrete)
        self.torch_dtype = np.dtype(str(ours.dtype).removeprefix("torch."))
        self.floats = ours.dtype.is_floating_point
        self.bounds = None if self.floats else _bounds(space)
        starts = np.any(getattr(space, "start", 0))
        self.remedy = "; policies and losses count from 0 unless they are given the space, or its start" if starts else ""

    def stack(self, rows: list[Any]) -> np.ndarray:
        """Return the elements of B copies as new arrays.

        Raises:
            Misfit: if one of them has the wrong structure, shape or dtype.
        """
        try:
            array = np.array(rows)
        except ValueError:  # of several shapes
            array = None
        if array is not None and array.shape[1:] == self.shape:
            if array.dtype == self.dtype:
                return array
            if np.can_cast(array.dtype, self.dtype, "same_kind"):
                return array.astype(self.dtype)
        raise Misfit(f"of {_kind(rows[0])}, not {self.dtype} {list(self.shape)}")

    def fit(self, batch: Any, num: int) -> np.ndarray:
        """Return the elements of B copies, given as a batch, as new arrays. Numbers have to be finite, but may leave a floating-point box.

        Raises:
            Misfit: if they are not such elements; the message says why.
        """
        try:
            array = self.stack(batch)
        except (Misfit, TypeError):
            raise Misfit(f"{_kind(batch)}, not {self.dtype} {[num, *self.shape]}") from None
        if len(array) != num:
            raise Misfit(f"{len(array)} of them")
        if self.flaw(array):
            raise Misfit("NaN or infinity")
        if self.bounds is not None and not ((array >= self.bounds[0]) & (array <= self.bounds[1])).all():
            raise Misfit(f"{array.tolist()}")
        return array

    def flaw(self, array: np.ndarray) -> str | None:
        """Return whether any number is NaN or infinite, in words that follow "an observation"; None if all are finite."""
        # A sum of squares is one pass without an array of flags; as it may overflow, an infinite sum is checked again.
        if not self.floats or np.vdot(array, array) < np.inf or np.isfinite(array).all():
            return None
        return "with NaN" if np.isnan(array).any() else "with infinity"

    def unstack(self, array: np.ndarray) -> list[Any]:
        """Return the elements of the copies: arrays, or numbers for a Discrete."""
        return list(array) if self.scalar or self.shape else [array[i, ...] for i in range(len(array))]

    def given(self, x: torch.Tensor) -> np.ndarray:
        """Return tensors [B, ...] as new arrays."""
        return np.array(numpy(x), self.dtype)

    def tensors(self, array: np.ndarray) -> torch.Tensor:
        """Return arrays [B, ...] as tensors that share their memory."""
        if array.dtype != self.torch_dtype:
            array = array.astype(self.torch_dtype)
        return torch.from_numpy(array)

    def arrays(self, x: Any, num: int, name: str) -> tuple[np.ndarray, int]:
        """Return tensors [B, ...] of ``num`` copies as new arrays, and a checksum of them.

        Raises:
            TypeError, ValueError: if structure, shapes or dtypes are not those of a batch of elements.
        """
        if not isinstance(x, torch.Tensor) or (x.dtype != self.ours.dtype and not (self.floats and x.is_floating_point())):
            self.ours.check(x, name)
        if x.shape != (num, *self.shape):
            raise ValueError(f"{name}: expected shape {[num, *self.shape]}, got {list(x.shape)}")
        array = self.given(x)
        if self.bounds is not None and not ((array >= self.bounds[0]) & (array <= self.bounds[1])).all():
            raise ValueError(f"{name}: expected elements of {self.ours}, got {array.tolist()}{self.remedy}")
        return array, zlib.crc32(array.data)


class Branch:
    """Layout of batches of a dict or a tuple; see :class:`Leaf`."""

    def __init__(self, entries: dict[Any, Any], ours: Any):
        self.entries, self.ours, self.kind = entries, ours, dict if isinstance(ours, spaces.Dict) else tuple

    def _tree(self, values: Sequence[Any]) -> Any:
        return dict(zip(self.entries, values, strict=True)) if self.kind is dict else tuple(values)

    def _fits(self, value: Any) -> bool:
        if self.kind is dict:
            return isinstance(value, dict) and value.keys() == self.entries.keys()
        return isinstance(value, (tuple, list)) and len(value) == len(self.entries)

    def stack(self, rows: list[Any]) -> Any:
        parts = []
        for row in rows:
            if not self._fits(row):
                got = list(row) if isinstance(row, dict) else len(row) if isinstance(row, (tuple, list)) else "none"
                raise Misfit(f"that is a {type(row).__name__} with the entries {got}, not a {self.kind.__name__} with {list(self.entries)}")
        for name, entry in self.entries.items():
            try:
                parts.append(entry.stack([row[name] for row in rows]))
            except Misfit as error:
                raise Misfit(f"with an entry {name!r} {error}") from None
        return self._tree(parts)

    def fit(self, batch: Any, num: int) -> Any:
        if not self._fits(batch):
            raise Misfit(f"a {type(batch).__name__}, not a {self.kind.__name__} with the entries {list(self.entries)}")
        return self._tree([entry.fit(batch[name], num) for name, entry in self.entries.items()])

    def flaw(self, batch: Any) -> str | None:
        found = [(name, entry.flaw(batch[name])) for name, entry in self.entries.items()]
        return next((f"with an entry {name!r} {text}" for name, text in found if text), None)

    def unstack(self, batch: Any) -> list[Any]:
        return [self._tree(row) for row in zip(*[entry.unstack(batch[name]) for name, entry in self.entries.items()], strict=True)]

    def given(self, x: Any) -> Any:
        return self._tree([entry.given(x[name]) for name, entry in self.entries.items()])

    def tensors(self, batch: Any) -> Any:
        return self._tree([entry.tensors(batch[name]) for name, entry in self.entries.items()])

    def arrays(self, x: Any, num: int, name: str) -> tuple[Any, int]:
        self.ours.check_entries(x, name)
        parts = [entry.arrays(x[at], num, f"{name}[{at!r}]") for at, entry in self.entries.items()]
        return self._tree([part for part, _ in parts]), zlib.crc32(repr([checksum for _, checksum in parts]).encode())


def _bounds(space: Any) -> tuple[Any, Any]:
    """Return the smallest and the greatest integers in a space."""
    if isinstance(space, Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return (0, 1) if isinstance(space, MultiBinary) else (space.low, space.high)


def _kind(value: Any) -> str:
    try:
        got = np.asarray(value)
        return f"{got.dtype} {list(got.shape)}"
    except ValueError:  # of several shapes
        return "rows of several shapes"


def numpy(x: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array, which shares its memory if possible.

    Raises:
        TypeError: if it has no values, under a transform such as vmap.
    """
    try:
        if x.requires_grad:
            x = x.detach()
        return x.numpy() if x.is_cpu else x.cpu().numpy()
    except RuntimeError as error:
        raise TypeError(
            "an environment that runs outside torch takes tensors with values, and can be neither vmapped nor differentiated; "
            f"for a batch, give make num_envs ({error})"
        ) from None
