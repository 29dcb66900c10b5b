"""Transforms of images: uint8 or floating point, [H, W, C] as environments render them or [C, H, W] as networks expect them.

The space or the argument ``layout`` determines the layout; see :func:`funrl.spaces.picture_layout`.
"""

from typing import Any

import torch

from funrl import _check
from funrl.spaces import Box, picture_layout
from funrl.transforms._core import Transform
from funrl.transforms._parts import Keys, Map, map_parts, misfit

# The default in_keys of a dict observation.
PIXELS = "pixels"
# Luma of red, green and blue by ITU-R BT.709, in ten-thousandths, as in gymnasium.
_LUMA = (2125, 7154, 721)
_LAYOUTS = {-1: "hwc", -3: "chw"}


def to_tensor_image(*, in_keys: Keys = None, out_keys: Keys = None, layout: str | None = None) -> Transform:
    """Turn uint8 pictures into floating-point ones [C, H, W] between 0 and 1.

    Args:
        in_keys: the entries of a dict observation to transform, by default ``["pixels"]``; an observation that is not a dict is
            transformed as a whole.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.
        layout: of the images: "hwc" for [H, W, C], "chw" for [C, H, W]; None: found by :func:`funrl.spaces.picture_layout`.

    Raises:
        TypeError: if keys are not a list of strings.
        ValueError: when applied: if an entry is missing, is not a uint8 picture, or has an unknown layout.

    Example:
        >>> import funrl
        >>> from funrl.transforms import compose
        >>> env = funrl.envs.make("Pendulum-v1")._replace(observation_space=Box(0, 255, (64, 64, 3), torch.uint8))
        >>> compose(env, to_tensor_image()).observation_space.shape
        (3, 64, 64)
    """

    def fit(space: Any, place: str) -> tuple[Box, Map]:
        if not isinstance(space, Box) or space.dtype != torch.uint8 or len(space.shape) != 3:
            raise misfit("to_tensor_image", place, "a picture uint8 [H, W, C]", space, "leave it as it is")
        dim = _channel_dim("to_tensor_image", space, place, layout)

        def f(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            return x.movedim(dim, -3).to(dtype) / 255

        return Box(f(space.low, torch.float32), f(space.high, torch.float32), layout="chw"), f

    return map_parts("to_tensor_image", fit, in_keys, out_keys, PIXELS)


def grayscale(*, in_keys: Keys = None, out_keys: Keys = None, layout: str | None = None) -> Transform:
    """Replace red, green and blue by one channel: 0.2125 R + 0.7154 G + 0.0721 B, rounded down where pictures are uint8.

    Args:
        in_keys: the entries of a dict observation to transform, by default ``["pixels"]``; an observation that is not a dict is
            transformed as a whole.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.
        layout: of the images: "hwc" for [H, W, C], "chw" for [C, H, W]; None: found by :func:`funrl.spaces.picture_layout`.

    Raises:
        TypeError: if keys are not a list of strings.
        ValueError: when applied: if an entry is missing, is not a picture of 3 channels, or has an unknown layout.

    Example:
        >>> import funrl
        >>> from funrl.transforms import compose
        >>> env = funrl.envs.make("Pendulum-v1")._replace(observation_space=Box(0, 255, (64, 64, 3), torch.uint8))
        >>> compose(env, grayscale()).observation_space.shape
        (64, 64, 1)
    """

    def fit(space: Any, place: str) -> tuple[Box, Map]:
        dim = _channel_dim("grayscale", space, place, layout)
        if space.shape[dim] != 3:
            raise misfit("grayscale", place, "3 channels: [H, W, 3] or [3, H, W]", space, "leave it as it is")

        def whole(x: torch.Tensor) -> torch.Tensor:
            # In integers, as the floating-point sum of a white pixel is slightly less than 255.
            red, green, blue = (weight * x.narrow(dim, i, 1).to(torch.int32) for i, weight in enumerate(_LUMA))
            return ((red + green + blue) // 10_000).to(torch.uint8)

        def real(x: torch.Tensor) -> torch.Tensor:
            red, green, blue = (weight / 10_000 * x.narrow(dim, i, 1) for i, weight in enumerate(_LUMA))
            return red + green + blue

        f = whole if space.dtype == torch.uint8 else real
        low, high = f(space.low), f(space.high)
        followed = Box(low, high, dtype=space.dtype, layout=_LAYOUTS[dim])
        return followed, lambda x, _: f(x) if space.dtype == torch.uint8 else _within(f(x), low, high)

    return map_parts("grayscale", fit, in_keys, out_keys, PIXELS)


def resize(
    height: int, width: int, *, mode: str = "area", in_keys: Keys = None, out_keys: Keys = None, layout: str | None = None
) -> Transform:
    """Resize images as :func:`torch.nn.functional.interpolate` does; uint8 results are rounded to the nearest integer.

    Args:
        height: the height of the results, in pixels.
        width: the width of the results, in pixels.
        mode: ``"area"``, the mean of the pixels that a new pixel covers, for smaller results; ``"bilinear"``, interpolation between the
            four nearest pixels, for larger ones; or ``"nearest"``.
        in_keys: the entries of a dict observation to transform, by default ``["pixels"]``; an observation that is not a dict is
            transformed as a whole.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.
        layout: of the images: "hwc" for [H, W, C], "chw" for [C, H, W]; None: found by :func:`funrl.spaces.picture_layout`.

    Raises:
        TypeError: if a size is not an integer, or keys are not a list of strings.
        ValueError: if a size is less than 1, or there is no such mode; when applied: if an entry is missing, is not a picture, or has an
            unknown layout.

    Example:
        >>> import funrl
        >>> from funrl.transforms import compose
        >>> env = funrl.envs.make("Pendulum-v1")._replace(observation_space=Box(0, 255, (64, 64, 3), torch.uint8))
        >>> compose(env, resize(42, 42), to_tensor_image()).observation_space.shape
        (3, 42, 42)
    """
    size = (_check.integer("resize: height", height, 1), _check.integer("resize: width", width, 1))
    _check.one_of("resize: mode", mode, ("area", "bilinear", "nearest"))

    def fit(space: Any, place: str) -> tuple[Box, Map]:
        dim = _channel_dim("resize", space, place, layout)

        def f(x: torch.Tensor) -> torch.Tensor:
            pixels = x.movedim(dim, -3).to(torch.float32) if x.dtype == torch.uint8 else x.movedim(dim, -3)
            pixels = torch.nn.functional.interpolate(pixels[None], size, mode=mode)[0]
            return (pixels.round() if x.dtype == torch.uint8 else pixels).movedim(-3, dim)

        # Every new pixel is between the minimum and the maximum of its channel.
        sides = (0, 1) if dim == -1 else (1, 2)
        shape = (*size, space.shape[-1]) if dim == -1 else (space.shape[0], *size)
        low, high = space.low.amin(sides, keepdim=True), space.high.amax(sides, keepdim=True)
        return Box(low, high, shape, space.dtype, _LAYOUTS[dim]), lambda x, _: _within(f(x), low, high).to(x.dtype)

    return map_parts("resize", fit, in_keys, out_keys, PIXELS, height=height, width=width, mode=mode)


def center_crop(height: int, width: int, *, in_keys: Keys = None, out_keys: Keys = None, layout: str | None = None) -> Transform:
    """Crop images to their centre; if the margins cannot be equal, the upper and the left one are a pixel narrower.

    Args:
        height: the height of the results, in pixels.
        width: the width of the results, in pixels.
        in_keys: the entries of a dict observation to transform, by default ``["pixels"]``; an observation that is not a dict is
            transformed as a whole.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.
        layout: of the images: "hwc" for [H, W, C], "chw" for [C, H, W]; None: found by :func:`funrl.spaces.picture_layout`.

    Raises:
        TypeError: if a size is not an integer, or keys are not a list of strings.
        ValueError: if a size is less than 1; when applied: if an entry is missing, is not a picture, has an unknown layout, or is smaller
            than the results.

    Example:
        >>> import funrl
        >>> from funrl.transforms import compose
        >>> env = funrl.envs.make("Pendulum-v1")._replace(observation_space=Box(0, 255, (64, 64, 3), torch.uint8))
        >>> compose(env, center_crop(32, 48)).observation_space.shape
        (32, 48, 3)
    """
    size = (_check.integer("center_crop: height", height, 1), _check.integer("center_crop: width", width, 1))

    def fit(space: Any, place: str) -> tuple[Box, Map]:
        dim = _channel_dim("center_crop", space, place, layout)
        sides = (0, 1) if dim == -1 else (1, 2)
        if any(space.shape[side] < n for side, n in zip(sides, size, strict=True)):
            raise misfit("center_crop", place, f"a picture of at least {height} x {width}", space, "resize it first")

        def f(x: torch.Tensor) -> torch.Tensor:
            for side, n in zip(sides, size, strict=True):
                x = x.narrow(side, (space.shape[side] - n) // 2, n)
            return x

        return Box(f(space.low), f(space.high), dtype=space.dtype, layout=_LAYOUTS[dim]), lambda x, _: f(x)

    return map_parts("center_crop", fit, in_keys, out_keys, PIXELS, height=height, width=width)


def _channel_dim(transform: str, space: Any, place: str, layout: str | None) -> int:
    """Return the channel dimension of an image: -1 for [H, W, C], -3 for [C, H, W]."""
    if not isinstance(space, Box) or len(space.shape) != 3 or not (space.dtype == torch.uint8 or space.dtype.is_floating_point):
        raise misfit(transform, place, "a picture: uint8 or floating point, [H, W, C] or [C, H, W]", space, "name pictures in in_keys")
    return -1 if picture_layout(f"{transform}: {place}", space, layout) == "hwc" else -3


def _within(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Clip a mean to its bounds, which rounding may have exceeded."""
    return torch.clamp(x, low.to(x.device, x.dtype), high.to(x.device, x.dtype))
