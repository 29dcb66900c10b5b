"""Tensors of numbers between bounds and of flags, and the layout of those that are pictures."""

import dataclasses
from typing import Any

import torch

from funrl import _check, random
from funrl.spaces._space import Space, check_element, sizes_of


@dataclasses.dataclass(frozen=True, eq=False)
class Box(Space):
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
            shape = torch.broadcast_tensors(low, high)[0].shape if self.shape is None else sizes_of(self.shape, "Box: shape")
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
        return f"Box({_text(self.low)}, {_text(self.high)}, {self.shape}, {self.dtype}{layout})"

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
        check_element(x, name, self.shape, self.dtype, any_float=self.dtype.is_floating_point)

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


def _text(bound: torch.Tensor) -> str:
    """Return a short text of a box's bound: one number if all are equal, otherwise their range."""
    values = bound.flatten().tolist()
    if values and all(x == values[0] for x in values):
        return f"{values[0]:g}"
    return f"[{', '.join(f'{x:g}' for x in values)}]" if len(values) <= 16 else f"<{min(values):g} to {max(values):g}>"


@dataclasses.dataclass(frozen=True)
class Binary(Space):
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
    dtype = torch.bool

    def __post_init__(self):
        object.__setattr__(self, "shape", sizes_of(self.shape, "Binary: shape"))
        _check_layout("Binary", self.layout, self.shape)

    def sample(self, key: torch.Tensor) -> torch.Tensor:
        """Return an element, bool ``shape``, all equally likely; ``key`` is int64 []."""
        return random.uniform(key, self.shape) < 0.5

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x``; raises as :meth:`check`."""
        self.check(x)
        return x

    def _contains(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x).all()


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
    _check.one_of(f"{what}: layout", layout, ("hwc", "chw", None))
    if layout is not None and len(shape) != 3:
        raise ValueError(f"{what}: layout: expected a shape of three dimensions, as {layout!r} says, got {shape}")
