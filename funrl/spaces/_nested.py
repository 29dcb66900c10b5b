"""Dicts and tuples of other spaces."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from funrl import _check, random
from funrl.spaces._space import Space


@dataclasses.dataclass(frozen=True)
class Dict(Space):
    """Dicts with one entry for each name, each an element of its space.

    Args:
        spaces: names to spaces; they may nest.

    Raises:
        TypeError: if ``spaces`` is not a mapping of strings to spaces.
        ValueError: if it is empty.

    Example:
        >>> from funrl import random
        >>> from funrl.spaces import Box, Discrete
        >>> space = Dict({"image": Box(0, 255, (8, 8), torch.uint8), "lives": Discrete(4)})
        >>> space.shape
        {'image': (8, 8), 'lives': ()}
        >>> space.contains(space.sample(random.key(0)))
        tensor(True)
    """

    spaces: Mapping[str, Any]

    def __post_init__(self):
        _check.instance("Dict: spaces", self.spaces, Mapping, expected="a mapping of names to spaces")
        for name, space in self.spaces.items():
            if not isinstance(name, str) or not isinstance(space, Space):
                raise TypeError(f"Dict: spaces: expected strings to spaces, got {name!r} to {type(space).__name__}")
        _check.some("Dict: spaces", self.spaces, "space")
        object.__setattr__(self, "spaces", dict(self.spaces))

    def __hash__(self) -> int:
        return hash(frozenset(self.spaces.items()))

    @property
    def shape(self) -> dict[str, Any]:
        """The shape of each entry."""
        return {name: space.shape for name, space in self.spaces.items()}

    @property
    def dtype(self) -> dict[str, Any]:
        """The dtype of each entry."""
        return {name: space.dtype for name, space in self.spaces.items()}

    def check_entries(self, x: Any, name: str = "x") -> None:
        """Raise TypeError or ValueError unless ``x`` is a dict with these names; the entries are not checked."""
        if not isinstance(x, Mapping) or x.keys() != self.spaces.keys():
            kind, got = (ValueError, sorted(x, key=str)) if isinstance(x, Mapping) else (TypeError, _check.describe(x))
            _check.fail(kind, name, f"a dict with the entries {sorted(self.spaces)}", got)

    def check(self, x: Any, name: str = "x") -> None:
        """Raise TypeError or ValueError unless ``x`` has these entries, each of the right shape and dtype."""
        self.check_entries(x, name)
        for entry, space in self.spaces.items():
            space.check(x[entry], f"{name}[{entry!r}]")

    def sample(self, key: torch.Tensor) -> dict[str, Any]:
        """Return a random element, its entries independent; ``key`` is int64 []."""
        keys = dict(zip(sorted(self.spaces), random.split(key, len(self.spaces)).unbind(0), strict=True))
        return {name: space.sample(keys[name]) for name, space in self.spaces.items()}

    def project(self, x: Mapping[str, Any]) -> dict[str, Any]:
        """Return the element nearest to ``x``, entry by entry; raises as :meth:`check`."""
        self.check(x)
        return {name: space.project(x[name]) for name, space in self.spaces.items()}

    def _contains(self, x: Mapping[str, Any]) -> torch.Tensor:
        return torch.stack([space._contains(x[name]) for name, space in self.spaces.items()]).all()


@dataclasses.dataclass(frozen=True)
class Tuple(Space):
    """Tuples with one entry for each space.

    Args:
        spaces: the spaces of the entries, in order; they may nest.

    Raises:
        TypeError: if ``spaces`` is not a sequence of spaces.
        ValueError: if it is empty.

    Example:
        >>> from funrl import random
        >>> from funrl.spaces import Box, Discrete
        >>> space = Tuple([Discrete(2), Box(0.0, 1.0, (3,))])
        >>> space.shape, space.contains(space.sample(random.key(0)))
        (((), (3,)), tensor(True))
    """

    spaces: tuple[Any, ...]

    def __post_init__(self):
        if not isinstance(self.spaces, (list, tuple)) or not all(isinstance(space, Space) for space in self.spaces):
            raise TypeError(f"Tuple: spaces: expected a list or tuple of spaces, got {self.spaces!r}")
        _check.some("Tuple: spaces", self.spaces, "space")
        object.__setattr__(self, "spaces", tuple(self.spaces))

    @property
    def shape(self) -> tuple[Any, ...]:
        """The shape of each entry."""
        return tuple(space.shape for space in self.spaces)

    @property
    def dtype(self) -> tuple[Any, ...]:
        """The dtype of each entry."""
        return tuple(space.dtype for space in self.spaces)

    def check_entries(self, x: Any, name: str = "x") -> None:
        """Raise TypeError or ValueError unless ``x`` is a tuple of this length; the entries are not checked."""
        if not isinstance(x, tuple) or len(x) != len(self.spaces):
            kind, got = (ValueError, len(x)) if isinstance(x, tuple) else (TypeError, _check.describe(x))
            _check.fail(kind, name, f"a tuple of {len(self.spaces)} entries", got)

    def check(self, x: Any, name: str = "x") -> None:
        """Raise TypeError or ValueError unless ``x`` is a tuple of this length, with entries of the right shapes and dtypes."""
        self.check_entries(x, name)
        for i, (entry, space) in enumerate(zip(x, self.spaces, strict=True)):
            space.check(entry, f"{name}[{i}]")

    def sample(self, key: torch.Tensor) -> tuple[Any, ...]:
        """Return a random element, its entries independent; ``key`` is int64 []."""
        return tuple(space.sample(k) for space, k in zip(self.spaces, random.split(key, len(self.spaces)).unbind(0), strict=True))

    def project(self, x: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the element nearest to ``x``, entry by entry; raises as :meth:`check`."""
        self.check(x)
        return tuple(space.project(entry) for space, entry in zip(self.spaces, x, strict=True))

    def _contains(self, x: tuple[Any, ...]) -> torch.Tensor:
        return torch.stack([space._contains(entry) for space, entry in zip(self.spaces, x, strict=True)]).all()
