"""Rendering in pure torch: signed distances to shapes, painted with smooth edges.

A shape is given by its *signed distance*: a tensor [H, W] of the distances of the pixels' centres from the shape's
edge, negative inside. :func:`paint` paints the pixels that a shape covers, and converts distances within one pixel of
the edge to partial coverage. All operations are elementwise, so a picture can be vmapped and compiled like a step.

Lengths and positions are in the units of the world that :func:`canvas` opens, x to the right and y up; positions
are numbers or tensors []. Colours are (red, green, blue) between 0 and 1.

Reference: the distances follow elementary plane geometry; the idea of coverage from distance is in C. Green, "Improved
Alpha-Tested Magnification for Vector Textures and Special Effects", SIGGRAPH 2007 courses.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch

Number = float | torch.Tensor
Colour = tuple[float, float, float]

INK = (0.17, 0.20, 0.27)
STEEL = (0.36, 0.42, 0.52)
PALE = (0.80, 0.84, 0.89)
CORAL = (0.90, 0.36, 0.29)
AMBER = (0.96, 0.70, 0.26)
TEAL = (0.13, 0.56, 0.56)
LEAF = (0.33, 0.62, 0.38)


class Canvas(NamedTuple):
    """A grid of pixels over a window of the world.

    Attributes:
        image: red, green and blue, each float32 [H, W] between 0 and 1. In one tensor, XLA would compute each shape for each colour.
        x: float32 [1, W], the x coordinates of the pixels' centres.
        y: float32 [H, 1], their y coordinates.
        pixel: the width of a pixel in units of the world.
    """

    image: tuple[torch.Tensor, ...]
    x: torch.Tensor
    y: torch.Tensor
    pixel: float


def canvas(
    size: tuple[int, int],
    centre: tuple[float, float],
    width: float,
    *,
    top: Colour = (0.86, 0.92, 0.97),
    bottom: Colour = (0.98, 0.98, 0.97),
    device: torch.device | None = None,
) -> Canvas:
    """Return an empty picture whose background runs from ``bottom`` to ``top``.

    Args:
        size: height H and width W in pixels.
        centre: the point of the world in the middle.
        width: the width of the window in the world; pixels are square.
        top: the colour of the upper edge.
        bottom: the colour of the lower edge.
        device: the device of the picture.

    Example:
        >>> canvas((2, 4), (0.0, 0.0), 8.0).x
        tensor([[-3., -1.,  1.,  3.]])
    """
    h, w = size
    pixel = width / w
    x = centre[0] + pixel * (torch.arange(w, device=device, dtype=torch.float32) - (w - 1) / 2)
    y = centre[1] - pixel * (torch.arange(h, device=device, dtype=torch.float32) - (h - 1) / 2)
    down = torch.linspace(0.0, 1.0, h, device=device)[:, None]
    image = tuple((a + (b - a) * down).expand(h, w) for a, b in zip(top, bottom, strict=True))
    return Canvas(image, x[None, :], y[:, None], pixel)


def paint(picture: Canvas, distance: torch.Tensor, colour: Colour, opacity: float = 1.0) -> Canvas:
    """Paint the pixels where ``distance`` [H, W] is negative with ``colour``, and those at the edge partially.

    Example:
        >>> import torch
        >>> blank = canvas((1, 3), (0.0, 0.0), 3.0, top=(1.0, 1.0, 1.0), bottom=(1.0, 1.0, 1.0))
        >>> paint(blank, circle(blank, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0)).image[0]
        tensor([[0.5000, 0.0000, 0.5000]])
    """
    cover = opacity * (0.5 - distance / picture.pixel).clamp(0.0, 1.0)
    return picture._replace(image=tuple(channel + cover * (value - channel) for channel, value in zip(picture.image, colour, strict=True)))


def circle(picture: Canvas, x: Number, y: Number, radius: float) -> torch.Tensor:
    """Return the signed distance [H, W] to a disc around (x, y)."""
    return torch.hypot(picture.x - x, picture.y - y) - radius


def capsule(picture: Canvas, start: tuple[Number, Number], end: tuple[Number, Number], radius: float) -> torch.Tensor:
    """Return the signed distance [H, W] to a thick line from ``start`` to ``end`` with round ends."""
    px, py = picture.x - start[0], picture.y - start[1]
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((px * dx + py * dy) / (dx * dx + dy * dy + 1e-12)).clamp(0.0, 1.0)
    return torch.hypot(px - along * dx, py - along * dy) - radius


def box(
    picture: Canvas, centre: tuple[Number, Number], half: tuple[float, float], *, angle: torch.Tensor | None = None, corner: float = 0.0
) -> torch.Tensor:
    """Return the signed distance [H, W] to a rectangle with round corners.

    Args:
        picture: where to draw it.
        centre: its middle.
        half: half its width and half its height, corners included.
        angle: [] radians, counter-clockwise; none for an upright one.
        corner: the radius of the corners.
    """
    px, py = picture.x - centre[0], picture.y - centre[1]
    if angle is not None:
        c, s = torch.cos(angle), torch.sin(angle)
        px, py = c * px + s * py, c * py - s * px
    qx, qy = px.abs() - (half[0] - corner), py.abs() - (half[1] - corner)
    outside = torch.hypot(qx.clamp(min=0.0), qy.clamp(min=0.0))
    return outside + torch.maximum(qx, qy).clamp(max=0.0) - corner


def polygon(picture: Canvas, points: Sequence[tuple[Number, Number]]) -> torch.Tensor:
    """Return a signed distance [H, W] to a convex polygon, exact next to its edges.

    Args:
        picture: where to draw it.
        points: its corners, counter-clockwise.
    """
    sides = []
    for (ax, ay), (bx, by) in zip(points, [*points[1:], *points[:1]], strict=True):
        ex, ey = bx - ax, by - ay
        sides.append((ey * (picture.x - ax) - ex * (picture.y - ay)) / (ex * ex + ey * ey) ** 0.5)
    return functools.reduce(torch.maximum, sides)


def to_uint8(picture: Canvas) -> torch.Tensor:
    """Return the picture as uint8 [H, W, 3]."""
    return (torch.stack(picture.image, -1) * 255.0).round().to(torch.uint8)


def pie(picture: Canvas, x: Number, y: Number, radius: float) -> Canvas:
    """Paint a joint: a dark disc with a light middle."""
    picture = paint(picture, circle(picture, x, y, radius), INK)
    return paint(picture, circle(picture, x, y, 0.45 * radius), PALE)
