"""Spaces: the sets of observations and actions of an environment, as frozen values (not pytrees).

Every space has

* ``shape`` and ``dtype`` of one element (dicts of them for :class:`Dict`, tuples for :class:`Tuple`);
* ``sample(key)``, a random element; ``torch.func.vmap`` over keys makes batches;
* ``contains(x)``, whether ``x`` is an element: a bool tensor [], or ``False`` if it is not a tensor of that shape and dtype;
* ``project(x)``, the element nearest to ``x``;
* ``check(x, name)``, which raises unless ``x`` has the shape and dtype of an element. It does not depend on values, so it
  costs nothing inside a compiled program.

Spaces describe a single element, without batch dimensions. Their tensors are on the CPU, and their functions use the device of the
arguments.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from funrl import random

__all__ = ["Binary", "Box", "Dict", "Discrete", "MultiDiscrete", "Tuple", "picture_layout"]


def _describe(x: Any) -> str:
    if not isinstance(x, torch.Tensor):
        return f"{type(x).__name__}"
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"


def _shape(shape: Any, what: str) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(not isinstance(size, int) or size < 0 for size in sizes):
        raise ValueError(f"{what}: expected a shape of non-negative integers, got {shape!r}")
    return sizes


def _check(x: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype, *, any_float: bool = False) -> None:
    kind = str(dtype).removeprefix("torch.")
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: expected {kind} {list(shape)}, got {_describe(x)}; convert it with torch.as_tensor")
    if not (x.is_floating_point() if any_float else x.dtype == dtype):
        expected = "floating-point" if any_float else kind
        raise TypeError(f"{name}: expected {expected} {list(shape)}, got {_describe(x)}; cast it with .to(torch.{kind})")
    if tuple(x.shape) != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {_describe(x)}; for a batch use torch.func.vmap")


class _Space:
    """Base class of all spaces: membership is a check of shape and dtype, then a comparison of values."""

    check: Callable[..., None]
    _contains: Callable[[Any], Any]

    def contains(self, x: Any) -> torch.Tensor | bool:
        """Return whether ``x`` is an element: a bool tensor [], or ``False`` if its structure, shape or dtype is wrong."""
        try:
            self.check(x)
        except (TypeError, ValueError):
            return False
        return self._contains(x)


def _told(bound: torch.Tensor) -> str:
    """Return a short text of a box's bound: one number if all are equal, otherwise their range."""
    values = bound.flatten().tolist()
    if values and all(x == values[0] for x in values):
        return f"{values[0]:g}"
    return f"[{', '.join(f'{x:g}' for x in values)}]" if len(values) <= 16 else f"<{min(values):g} to {max(values):g}>"


@dataclasses.dataclass(frozen=True, eq=False)
class Box(_Space):
    """All tensors x with low <= x <= high, element by element.

    The elements of a floating-point box may have any floating-point dtype, because an episode has the dtype of its
    ``env_params``; elements of an integer box have its dtype.

    Args:
        low: the lower bound, a number or [...] that broadcasts to ``shape``; ``-inf`` for none.
        high: the upper bound, inclusive, a number or [...] that broadcasts to ``shape``; ``inf`` for none.
        shape: the shape of an element; by default that of ``low`` and ``high`` broadcast together.
        dtype: a floating-point or integer dtype.
        layout: of images: "hwc" if the elements are [height, width, channels], "chw" if they are [channels, height, width]; None: see
            :func:`picture_layout`. The layout is ignored when two boxes are compared.

    Attributes:
        low: ``dtype`` ``shape``, on the CPU.
        high: ``dtype`` ``shape``, on the CPU.

    Raises:
        TypeError: if ``dtype`` is neither floating-point nor integer.
        ValueError: if bounds do not broadcast to ``shape``, are NaN, empty (low > high), or outside an integer dtype.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> box = Box([-1.0, 0.0], [1.0, float("inf")])
        >>> box.shape, box.contains(box.sample(random.key(0)))
        ((2,), tensor(True))
        >>> box.project(torch.tensor([3.0, -4.0]))
        tensor([1., 0.])
        >>> box, Box(0, 255, (64, 64, 3), torch.uint8)
        (Box([-1, 0], [1, inf], (2,), torch.float32), Box(0, 255, (64, 64, 3), torch.uint8))
    """

    low: Any  # the argument is an ArrayLike, the field a tensor; shape is never None after __init__
    high: Any
    shape: Any = None
    dtype: torch.dtype = torch.float32
    layout: str | None = None
    _bounded: bool = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        if not isinstance(self.dtype, torch.dtype) or self.dtype.is_complex or self.dtype == torch.bool:
            raise TypeError(f"Box: dtype: expected a floating-point or integer torch.dtype, got {self.dtype!r}; for booleans use Binary")
        exact = torch.float64 if self.dtype.is_floating_point else None
        low, high = (torch.as_tensor(bound, dtype=exact, device="cpu").detach() for bound in (self.low, self.high))
        try:
            # Not broadcast_shapes, as it imports sympy, which takes a third of the time of importing torch.
            shape = torch.broadcast_tensors(low, high)[0].shape if self.shape is None else _shape(self.shape, "Box: shape")
            low, high = low.expand(shape), high.expand(shape)
        except RuntimeError:
            raise ValueError(
                f"Box: low {list(low.shape)} and high {list(high.shape)} do not broadcast to "
                f"{'one shape' if self.shape is None else list(shape)}; give numbers, or bounds of the shape of an element"
            ) from None
        if not bool((low <= high).all()):
            raise ValueError(
                f"Box: expected low <= high everywhere, got low={low.tolist()}, high={high.tolist()}; swap them or drop the NaN"
            )
        if not self.dtype.is_floating_point:
            limits = torch.iinfo(self.dtype)
            # As a float, the greatest integer rounds up to one more.
            above = high >= float(limits.max) + 1 if high.is_floating_point() and limits.bits > 32 else high > limits.max
            if bool((low < limits.min).any() | above.any() | (low != low.floor()).any() | (high != high.floor()).any()):
                raise ValueError(
                    f"Box: expected whole bounds between {limits.min} and {limits.max} for {self.dtype}, "
                    f"got low={low.tolist()}, high={high.tolist()}; choose a wider dtype or other bounds"
                )
        object.__setattr__(self, "_bounded", bool((low.isfinite() & high.isfinite()).all()))
        object.__setattr__(self, "low", low.to(self.dtype).contiguous())
        object.__setattr__(self, "high", high.to(self.dtype).contiguous())
        object.__setattr__(self, "shape", tuple(shape))
        _check_layout("Box", self.layout, self.shape)  # pyright: ignore

    def __repr__(self) -> str:
        layout = "" if self.layout is None else f", layout={self.layout!r}"
        return f"Box({_told(self.low)}, {_told(self.high)}, {self.shape}, {self.dtype}{layout})"

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Box):
            return NotImplemented
        same_kind = self.dtype == other.dtype and self.shape == other.shape
        return same_kind and torch.equal(self.low, other.low) and torch.equal(self.high, other.high)

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype, tuple(self.low.flatten().tolist()), tuple(self.high.flatten().tolist())))

    def bounds(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``low`` and ``high`` on the device of ``x``, and in its dtype if that is floating-point."""
        dtype = x.dtype if self.dtype.is_floating_point and x.is_floating_point() else self.dtype
        return self.low.to(x.device, dtype), self.high.to(x.device, dtype)

    def check(self, x: Any, name: str = "x") -> None:
        """Raise TypeError or ValueError unless ``x`` has the shape and kind of dtype of an element."""
        _check(x, name, self.shape, self.dtype, any_float=self.dtype.is_floating_point)

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return a random element: uniform where both bounds are finite.

        With one finite bound the distance from it is exponential with mean 1; with none the value is standard normal.

        Args:
            key: int64 [].

        Returns:
            ``dtype`` ``shape``.
        """
        low, high = self.low.to(key.device), self.high.to(key.device)
        if not self.dtype.is_floating_point:
            return random.randint(key, self.shape, low.long(), high.long(), endpoint=True).to(self.dtype)
        dtype = torch.promote_types(self.dtype, torch.float32)
        if self._bounded:
            u = random.uniform(key, self.shape, dtype=dtype)
            return torch.clamp((1 - u) * low + u * high, low, high).to(self.dtype)
        keys = random.split(key, 3).unbind(0)
        u = random.uniform(keys[0], self.shape, dtype=dtype)
        tail = random.exponential(keys[1], self.shape, dtype=dtype)
        free = random.normal(keys[2], self.shape, dtype=dtype)
        below, above = low.isfinite(), high.isfinite()
        a, b = torch.where(below, low, 0.0), torch.where(above, high, 0.0)
        one_sided = torch.where(below, a + tail, b - tail)
        x = torch.where(below & above, (1 - u) * a + u * b, torch.where(below | above, one_sided, free))
        return torch.clamp(x, low, high).to(self.dtype)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` clipped to the bounds, in the dtype of ``x``.

        Raises:
            TypeError, ValueError: as :meth:`check`.
        """
        self.check(x)
        return torch.clamp(x, *self.bounds(x))

    def _contains(self, x: torch.Tensor) -> torch.Tensor:
        low, high = self.low.to(x.device), self.high.to(x.device)
        return ((x >= low) & (x <= high)).all()


@dataclasses.dataclass(frozen=True)
class Discrete(_Space):
    """The integers start, start + 1, ..., start + n - 1, as int64 [].

    Args:
        n: the number of integers, at least 1.
        start: the smallest of them.

    Raises:
        TypeError: if ``n`` or ``start`` is not a Python integer.
        ValueError: if ``n`` is less than 1, or an element does not fit in int64.

    Example:
        >>> import torch
        >>> space = Discrete(3)
        >>> space.contains(torch.tensor(2)), space.contains(torch.tensor(3)), space.contains(torch.tensor(1.0))
        (tensor(True), tensor(False), False)
    """

    n: int
    start: int = 0

    def __post_init__(self):
        for name, value in (("n", self.n), ("start", self.start)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"Discrete: {name}: expected a Python integer, got {value!r}; its value has to be known while compiling")
        if self.n < 1:
            raise ValueError(f"Discrete: n: expected at least 1, got {self.n}")
        _check_int64("Discrete", self.start, self.n)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an element, ()."""
        return ()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of an element, torch.int64."""
        return torch.int64

    def check(self, x: Any, name: str = "x") -> None:
        """Raise TypeError or ValueError unless ``x`` is int64 []."""
        _check(x, name, self.shape, self.dtype)

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return an element, int64 [], all equally likely; ``key`` is int64 []."""
        return random.randint(key, (), self.start, self.start + self.n - 1, endpoint=True)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Return the element nearest to ``x``, int64 []; raises as :meth:`check`."""
        self.check(x)
        return torch.clamp(x, self.start, self.start + self.n - 1)

    def _contains(self, x: torch.Tensor) -> torch.Tensor:
        return (x >= self.start) & (x <= self.start + self.n - 1)


@dataclasses.dataclass(frozen=True)
class MultiDiscrete(_Space):
    """Vectors of integers: element i is one of ``start[i]``, ..., ``start[i] + nvec[i] - 1``, as int64 [K].

    Args:
        nvec: K counts, each at least 1.
        start: K smallest values; by default 0 for all.

    Raises:
        ValueError: if ``nvec`` is empty or is not integers of at least 1, or ``start`` is not K integers, or an element does
            not fit in int64.

    Example:
        >>> import torch
        >>> space = MultiDiscrete((3, 5))
        >>> space.shape, space.project(torch.tensor([7, -1]))
        ((2,), tensor([2, 0]))
    """

    nvec: tuple[int, ...]
    start: Any = None  # never None after __init__

    def __post_init__(self):
        try:
            nvec = tuple(self.nvec)
        except TypeError:
            nvec = ()
        if not nvec or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in nvec):
            raise ValueError(
                f"MultiDiscrete: nvec: expected a sequence of integers of at least 1, got {self.nvec!r}; for one integer use Discrete"
            )
        start = (0,) * len(nvec) if self.start is None else self.start
        if not isinstance(start, tuple) or len(start) != len(nvec) or any(not isinstance(n, int) or isinstance(n, bool) for n in start):
            raise ValueError(f"MultiDiscrete: start: expected a tuple of {len(nvec)} integers as in nvec, got {self.start!r}")
        for first, n in zip(start, nvec, strict=True):
            _check_int64("MultiDiscrete", first, n)
        object.__setattr__(self, "nvec", nvec)
        object.__setattr__(self, "start", start)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an element, (K,)."""
        return (len(self.nvec),)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of an element, torch.int64."""
        return torch.int64

    def check(self, x: Any, name: str = "x") -> None:
        """Raise TypeError or ValueError unless ``x`` is int64 [K]."""
        _check(x, name, self.shape, self.dtype)

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return an element, int64 [K], all equally likely; ``key`` is int64 []."""
        first, last = self._bounds(key.device)
        return random.randint(key, self.shape, first, last, endpoint=True)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Return the element nearest to ``x``, int64 [K]; raises as :meth:`check`."""
        self.check(x)
        return torch.clamp(x, *self._bounds(x.device))

    def _contains(self, x: torch.Tensor) -> torch.Tensor:
        first, last = self._bounds(x.device)
        return ((x >= first) & (x <= last)).all()

    def _bounds(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        first = torch.tensor(self.start, dtype=torch.int64, device=device)
        return first, first + torch.tensor(self.nvec, dtype=torch.int64, device=device) - 1


@dataclasses.dataclass(frozen=True)
class Binary(_Space):
    """All boolean tensors of a shape.

    Args:
        shape: the shape of an element; () for a single flag.
        layout: as for :class:`Box`.

    Raises:
        ValueError: if ``shape`` is not non-negative integers, or ``layout`` is unknown or does not fit it.

    Example:
        >>> import torch
        >>> Binary((2,)).contains(torch.tensor([True, False]))
        tensor(True)
    """

    shape: tuple[int, ...] = ()
    layout: str | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "shape", _shape(self.shape, "Binary: shape"))
        _check_layout("Binary", self.layout, self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of an element, torch.bool."""
        return torch.bool

    def check(self, x: Any, name: str = "x") -> None:
        """Raise TypeError or ValueError unless ``x`` is bool ``shape``."""
        _check(x, name, self.shape, self.dtype)

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return an element, bool ``shape``, all equally likely; ``key`` is int64 []."""
        return random.uniform(key, self.shape) < 0.5

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x``; raises as :meth:`check`."""
        self.check(x)
        return x

    def _contains(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x).all()


@dataclasses.dataclass(frozen=True)
class Dict(_Space):
    """Dicts with one entry for each name, each an element of its space.

    Args:
        spaces: names to spaces; they may nest.

    Raises:
        TypeError: if ``spaces`` is not a mapping of strings to spaces.
        ValueError: if it is empty.

    Example:
        >>> from funrl import random
        >>> space = Dict({"image": Box(0, 255, (8, 8), torch.uint8), "lives": Discrete(4)})
        >>> space.shape
        {'image': (8, 8), 'lives': ()}
        >>> space.contains(space.sample(random.key(0)))
        tensor(True)
    """

    spaces: Mapping[str, Any]

    def __post_init__(self):
        if not isinstance(self.spaces, Mapping):
            raise TypeError(f"Dict: spaces: expected a mapping of names to spaces, got {type(self.spaces).__name__}")
        for name, space in self.spaces.items():
            if not isinstance(name, str) or not isinstance(space, _Space):
                raise TypeError(f"Dict: spaces: expected strings to spaces, got {name!r} to {type(space).__name__}")
        if not self.spaces:
            raise ValueError("Dict: spaces: expected at least one space, got none")
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
        if not isinstance(x, Mapping):
            raise TypeError(f"{name}: expected a dict with the entries {sorted(self.spaces)}, got {_describe(x)}")
        if x.keys() != self.spaces.keys():
            raise ValueError(f"{name}: expected a dict with the entries {sorted(self.spaces)}, got {sorted(x, key=str)}")

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
class Tuple(_Space):
    """Tuples with one entry for each space.

    Args:
        spaces: the spaces of the entries, in order; they may nest.

    Raises:
        TypeError: if ``spaces`` is not a sequence of spaces.
        ValueError: if it is empty.

    Example:
        >>> from funrl import random
        >>> space = Tuple([Discrete(2), Box(0.0, 1.0, (3,))])
        >>> space.shape, space.contains(space.sample(random.key(0)))
        (((), (3,)), tensor(True))
    """

    spaces: tuple[Any, ...]

    def __post_init__(self):
        if not isinstance(self.spaces, (list, tuple)) or not all(isinstance(space, _Space) for space in self.spaces):
            raise TypeError(f"Tuple: spaces: expected a list or tuple of spaces, got {self.spaces!r}")
        if not self.spaces:
            raise ValueError("Tuple: spaces: expected at least one space, got none")
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
        if not isinstance(x, tuple):
            raise TypeError(f"{name}: expected a tuple of {len(self.spaces)} entries, got {_describe(x)}")
        if len(x) != len(self.spaces):
            raise ValueError(f"{name}: expected a tuple of {len(self.spaces)} entries, got {len(x)}")

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


def _check_int64(what: str, start: int, n: int) -> None:
    if not -(2**63) <= start <= start + n - 1 < 2**63:
        raise ValueError(
            f"{what}: start and n: expected elements in [-2**63, 2**63), got {start} to {start + n - 1}; choose another start, or fewer"
        )


def picture_layout(what: str, space: Any, layout: str | None = None) -> str:
    """Return the layout of images in a space: "hwc" for [height, width, channels], "chw" for [channels, height, width].

    The argument ``layout`` has precedence over the layout of the space. Without both, the channels are the first or last dimension,
    whichever has a size of at most 4, if the other one is larger, as no image is that small.

    Args:
        what: how messages begin.
        space: a :class:`Box` or :class:`Binary` of three dimensions.
        layout: the requested layout, or None.

    Raises:
        ValueError: if ``layout`` is unknown, or the layout cannot be known.

    Example:
        >>> picture_layout("env", Box(0, 255, (4, 84, 84), torch.uint8)), picture_layout("env", Box(0.0, 1.0, (84, 84, 3)))
        ('chw', 'hwc')
        >>> picture_layout("env", Binary((10, 10, 7), layout="hwc"))
        'hwc'
        >>> picture_layout("env", Binary((10, 10, 7)))
        Traceback (most recent call last):
        ...
        ValueError: env: layout: expected 'hwc' or 'chw', as the shape (10, 10, 7) does not show where the channels are, got None; ...
    """
    _check_layout(what, layout, space.shape)
    asked = space.layout if layout is None else layout
    if asked is not None:
        return asked
    first, last = space.shape[0] <= 4, space.shape[-1] <= 4
    if first == last:
        raise ValueError(
            f"{what}: layout: expected 'hwc' or 'chw', as the shape {space.shape} does not show where the channels are, got None; "
            "give layout='hwc' for [height, width, channels], layout='chw' for [channels, height, width], here or to the space"
        )
    return "chw" if first else "hwc"


def _check_layout(what: str, layout: Any, shape: tuple[int, ...]) -> None:
    if layout is not None and layout not in ("hwc", "chw"):
        raise ValueError(f"{what}: layout: expected 'hwc', 'chw' or None, got {layout!r}")
    if layout is not None and len(shape) != 3:
        raise ValueError(f"{what}: layout: expected a shape of three dimensions, as {layout!r} says, got {shape}")
