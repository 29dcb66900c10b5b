import math

import numpy as np
import pytest
import torch

from funrl.envs import _draw as draw

WHITE = (1.0, 1.0, 1.0)


def blank(size=(120, 160), width=4.0):
    return draw.canvas(size, (0.5, -0.25), width, top=WHITE, bottom=WHITE)


def covered(picture, distance):
    """The area that a shape covers, from the ink that it leaves."""
    image = draw.paint(picture, distance, (0.0, 0.0, 0.0)).image[0]
    return float((1 - image).sum()) * picture.pixel**2


SHAPES = {
    "circle": (lambda p: draw.circle(p, 0.3, -0.2, 0.7), math.pi * 0.49),
    "capsule": (lambda p: draw.capsule(p, (-0.5, -0.7), (0.7, 0.2), 0.25), 1.5 * 0.5 + math.pi * 0.0625),
    "box": (lambda p: draw.box(p, (0.4, 0.1), (0.8, 0.3)), 1.6 * 0.6),
    "turned": (lambda p: draw.box(p, (0.4, 0.1), (0.8, 0.3), angle=torch.tensor(0.7)), 1.6 * 0.6),
    "rounded": (lambda p: draw.box(p, (0.4, 0.1), (0.8, 0.3), corner=0.2), 1.6 * 0.6 - (4 - math.pi) * 0.04),
    "polygon": (lambda p: draw.polygon(p, [(-0.5, -0.5), (1.0, -0.5), (0.0, 0.7)]), 0.5 * 1.5 * 1.2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_covers_its_area(shape):
    distance, area = SHAPES[shape]
    picture = blank()
    np.testing.assert_allclose(covered(picture, distance(picture)), area, rtol=5e-3)


def test_pixels_lie_where_the_window_says():
    picture = blank((2, 4), 8.0)
    assert picture.pixel == 2.0
    np.testing.assert_allclose(picture.x[0], [-2.5, -0.5, 1.5, 3.5])
    np.testing.assert_allclose(picture.y[:, 0], [0.75, -1.25])


def test_a_turned_box_is_turned_counter_clockwise():
    picture = blank()
    lean = draw.box(picture, (0.5, -0.25), (1.0, 0.1), angle=torch.tensor(math.pi / 4)) < 0
    rows, columns = lean.nonzero().unbind(1)
    assert np.corrcoef(rows, columns)[0, 1] < -0.9


def test_opacity_mixes_colours():
    picture = blank()
    image = draw.paint(picture, draw.circle(picture, 0.5, -0.25, 1.0), (0.0, 0.5, 1.0), 0.5).image
    np.testing.assert_allclose([channel[60, 80] for channel in image], [0.5, 0.75, 1.0], atol=1e-6)
    assert draw.to_uint8(picture._replace(image=image))[60, 80].tolist() == [128, 191, 255]
