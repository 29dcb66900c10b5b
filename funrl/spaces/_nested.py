"""Dicts and tuples of other spaces."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from funrl import _check, random
from funrl.spaces._space import Space


class _Nested(Space):
    """The functions of both kinds, over entries by name or number."""

    spaces: Any
    check_entries: Callable[..., None]

    def _names(self) -> list[Any]:
        return list(self.spaces if isinstance(self.spaces, Mapping) else range(len(self.spaces)))

    def _each(self, call: Callable[..., Any], *elements: Any) -> Any:
        """Return ``call(space, entry, ...)`` of each entry, as a dict or tuple."""
        results = {name: call(self.spaces[name], *(x[name] for x in elements)) for name in self._names()}
        return results if isinstance(self.spaces, Mapping) else tuple(results.values())

    @property
    def shape(self) -> Any:
        """The shape of each entry."""
        return self._each(lambda space: space.shape)

    @property
    def dtype(self) -> Any:
        """The dtype of each entry."""
        return self._each(lambda space: space.dtype)

    def check(self, x: Any, name: str = "x") -> None:
        """Raise TypeError or ValueError unless ``x`` has these entries, each of the right shape and dtype."""
        self.check_entries(x, name)
        for entry in self._names():
            self.spaces[entry].check(x[entry], f"{name}[{entry!r}]")

    def sample(self, key: torch.Tensor) -> Any:
        """Return a random element, its entries independent; ``key`` is int64 []."""
        keys = dict(zip(sorted(self._names()), random.split(key, len(self.spaces)).unbind(0), strict=True))
        return self._each(lambda space, key: space.sample(key), keys)

    def project(self, x: Any) -> Any:
        """Return the element nearest to ``x``, entry by entry; raises as :meth:`check`."""
        self.check(x)
        return self._each(lambda space, entry: space.project(entry), x)

    def _contains(self, x: Any) -> torch.Tensor:
        return torch.stack([self.spaces[name]._contains(x[name]) for name in self._names()]).all()


@dataclasses.dataclass(frozen=True)
class Dict(_Nested):
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

    def check_entries(self, x: Any, name: str = "x") -> None:
        """Raise TypeError or ValueError unless ``x`` is a dict with these names; the entries are not checked."""
        if not isinstance(x, Mapping) or x.keys() != self.spaces.keys():
            kind, got = (ValueError, sorted(x, key=str)) if isinstance(x, Mapping) else (TypeError, _check.describe(x))
            _check.fail(kind, name, f"a dict with the entries {sorted(self.spaces)}", got)


@dataclasses.dataclass(frozen=True)
class Tuple(_Nested):
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

    def check_entries(self, x: Any, name: str = "x") -> None:
        """Raise TypeError or ValueError unless ``x`` is a tuple of this length; the entries are not checked."""
        if not isinstance(x, tuple) or len(x) != len(self.spaces):
            kind, got = (ValueError, len(x)) if isinstance(x, tuple) else (TypeError, _check.describe(x))
            _check.fail(kind, name, f"a tuple of {len(self.spaces)} entries", got)
