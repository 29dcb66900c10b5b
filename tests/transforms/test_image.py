"""Pictures: against gymnasium, jax.image and plain means."""

import gymnasium
import jax
import numpy as np
import pytest
import torch

from funrl import random
from funrl.spaces import Box
from funrl.transforms import center_crop, compose, grayscale, resize, to_tensor_image
from tests.oracles import gymnasium_twin as twin
from tests.transforms import toys

NUMBERS = np.random.default_rng(0)


def show(image, transform, space=None, layout=None):
    """Return one picture after a transform, and its space."""
    if space is None:
        high, dtype = (255, torch.uint8) if image.dtype == torch.uint8 else (1.0, torch.float32)
        space = Box(0, high, image.shape, dtype, layout)
    env = transform(toys.constant(image, space))
    observation = env.reset(random.key(0), env.default_params)[1].observation
    assert env.observation_space.contains(observation)
    return observation, env.observation_space


def random_picture(height, width, channels=3):
    return torch.from_numpy(NUMBERS.integers(0, 256, (height, width, channels), dtype=np.uint8))


def test_grayscale_is_that_of_gymnasium():
    """Where theirs falls a hair below a whole number and is cut off, ours is the whole number."""

    def wrap(env):
        return gymnasium.wrappers.GrayscaleObservation(env, keep_dim=True)

    for timestep, observation, *_ in twin.play_both(toys.arcade("pixels"), grayscale(), wrap, num_steps=10):
        difference = timestep.observation.numpy().astype(int) - observation.astype(int)
        assert set(np.unique(difference)) <= {0, 1} and difference.mean() < 0.01


def test_grayscale_by_hand():
    colours = torch.tensor([[255, 255, 255], [0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100], [10, 20, 30]], dtype=torch.uint8)
    gray, space = show(colours.reshape(2, 3, 3), grayscale(), layout="hwc")
    assert gray.flatten().tolist() == [255, 0, 21, 71, 7, 18] and gray.shape == (2, 3, 1) and space == Box(0, 255, (2, 3, 1), torch.uint8)
    real, space = show(colours.reshape(2, 3, 3).movedim(-1, 0) / 255.0, grayscale(), layout="chw")
    expected = (colours.double() @ torch.tensor([0.2125, 0.7154, 0.0721], dtype=torch.float64) / 255).reshape(1, 2, 3)
    torch.testing.assert_close(real.double(), expected, rtol=0, atol=1e-6)
    assert space.shape == (1, 2, 3)


def test_to_tensor_image_by_hand():
    image = random_picture(4, 5)
    tensor, space = show(image, to_tensor_image(), layout="hwc")
    np.testing.assert_allclose(tensor, image.numpy().transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    assert space == Box(0.0, 1.0, (3, 4, 5)) and tensor.dtype == torch.float32


def test_an_episode_in_float64_has_pictures_in_float64():
    env = to_tensor_image()(toys.arcade("pixels"))
    params = env.default_params.replace(gain=env.default_params.gain.double())
    assert env.reset(random.key(0), params)[1].observation.dtype == torch.float64


@pytest.mark.parametrize("size", [(4, 3), (12, 9), (6, 18), (24, 18)])
def test_area_is_the_mean_of_what_a_pixel_covers(size):
    """Each new pixel covers the old ones from floor(i H / h) to ceil((i + 1) H / h)."""
    image = random_picture(12, 9)
    expected = np.zeros((*size, 3))
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * 12 // size[0], -(-(i + 1) * 12 // size[0]))
            columns = slice(j * 9 // size[1], -(-(j + 1) * 9 // size[1]))
            expected[i, j] = image.numpy()[rows, columns].astype(np.float64).mean((0, 1))
    whole, space = show(image, resize(*size))
    assert np.abs(whole.numpy() - expected).max() <= 0.5 + 1e-4 and whole.dtype == torch.uint8 and space.shape == (*size, 3)
    real, space = show(image.movedim(-1, 0).double() / 255, resize(*size), Box(0.0, 1.0, (3, 12, 9), torch.float64))
    np.testing.assert_allclose(real, expected.transpose(2, 0, 1) / 255, rtol=1e-9)
    assert space == Box(0.0, 1.0, (3, *size), torch.float64)


@pytest.mark.parametrize("size", [(24, 18), (17, 20)])
def test_bilinear_is_that_of_jax(size):
    image = random_picture(12, 9).movedim(-1, 0) / 255.0
    ours, _ = show(image, resize(*size, mode="bilinear"))
    theirs = jax.image.resize(image.numpy(), (3, *size), "bilinear", antialias=False)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_nearest_by_hand():
    image = random_picture(4, 6)
    ours, _ = show(image, resize(8, 3, mode="nearest"), layout="hwc")
    assert torch.equal(ours, image[[0, 0, 1, 1, 2, 2, 3, 3]][:, [0, 2, 4]])


def test_resize_keeps_the_bounds_of_each_channel():
    low = torch.zeros(2, 4, 4)
    low[1] = -1.0
    low[1, 0, 0] = -3.0
    box = Box(low, torch.full((2, 4, 4), 5.0), layout="chw")
    _, space = show(torch.full((2, 4, 4), 5.0), resize(2, 2), box)
    assert torch.equal(space.low[0], torch.zeros(2, 2)) and torch.equal(space.low[1], torch.full((2, 2), -3.0))


@pytest.mark.parametrize("size", [(4, 4), (5, 3), (12, 9)])
def test_center_crop_by_hand(size):
    image = random_picture(12, 9)
    top, left = (12 - size[0]) // 2, (9 - size[1]) // 2
    expected = image[top : top + size[0], left : left + size[1]]
    assert torch.equal(show(image, center_crop(*size))[0], expected)
    real, space = show(image.movedim(-1, 0) / 255.0, center_crop(*size))
    assert torch.equal(real, expected.movedim(-1, 0) / 255.0) and space.shape == (3, *size)


def test_pictures_are_the_entry_called_pixels_by_default():
    env = compose(toys.arcade(), grayscale(), resize(6, 6), center_crop(4, 4), to_tensor_image())
    assert env.observation_space.spaces["pixels"] == Box(0.0, 1.0, (1, 4, 4)) and "in_keys=['pixels']" in env.label


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (
            grayscale(),
            r"grayscale: observation: expected a picture: uint8 or .*, got float32 \[3\]; name pictures in in_keys",
        ),
        (to_tensor_image(), r"to_tensor_image: observation: expected a picture uint8 \[H, W, C\], got float32 \[3\]; leave it as it is"),
        (resize(3, 3), r"resize: observation: expected a picture.*got float32 \[3\]"),
        (center_crop(3, 3), r"center_crop: observation: expected a picture.*got float32 \[3\]"),
    ],
)
def test_what_is_no_picture_is_named(transform, message):
    with pytest.raises(ValueError, match=message):
        transform(toys.arcade("position"))


def test_other_bad_settings_are_named():
    env = toys.arcade()
    with pytest.raises(ValueError, match=r"grayscale: observation\['pixels'\]: expected 3 channels: .*, got uint8 \[12, 10, 1\]"):
        compose(env, grayscale(), grayscale())
    with pytest.raises(ValueError, match=r"center_crop: observation\['pixels'\]: expected a picture of at least 13 x 4, got uint8"):
        center_crop(13, 4)(env)
    with pytest.raises(ValueError, match=r"grayscale: observation\['level'\]: expected a picture.*, got Discrete\(n=4, start=1\)"):
        grayscale(in_keys=["level"])(env)
    with pytest.raises(ValueError, match="resize: mode: expected 'area', 'bilinear' or 'nearest', got 'cubic'"):
        resize(3, 3, mode="cubic")
    with pytest.raises(ValueError, match="resize: width: expected an integer of at least 1, got 0"):
        resize(3, 0)
    with pytest.raises(TypeError, match=r"center_crop: height: expected an integer of at least 1, got 1\.5"):
        center_crop(1.5, 3)
    with pytest.raises(ValueError, match=r"to_tensor_image: observation: expected a tensor, got a dict.*in_keys"):
        to_tensor_image()(toys.arcade(("position",)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("transform", [resize(5, 6), center_crop(5, 6), grayscale()])
def test_layout_and_dtype_do_not_depend_on_each_other(transform, dtype):
    picture = random_picture(10, 12)
    picture = picture if dtype == torch.uint8 else picture / 255
    plain, space = show(picture, transform)
    moved, other = show(picture.movedim(-1, 0), transform)
    torch.testing.assert_close(moved, plain.movedim(-1, 0), rtol=0, atol=1e-6)
    assert space.layout == "hwc" and other.layout == "chw" and other.shape == tuple(moved.shape)


def test_the_layout_can_be_asked_for():
    small = random_picture(3, 4).movedim(-1, 0)
    assert show(small, to_tensor_image(layout="chw"))[0].shape == (3, 3, 4)
    assert show(small, center_crop(2, 2, layout="hwc"))[0].shape == (2, 2, 4)
    with pytest.raises(ValueError, match=r"resize: observation: layout: expected 'hwc' or 'chw', as the shape \(3, 3, 4\)"):
        show(small, resize(2, 2))
