"""Convolutional encoders."""

from typing import Any

import torch

from funrl import _check, nn, random, tree
from funrl.env import AnyEnv
from funrl.spaces import Binary, Box, Dict, picture_layout

__all__ = ["ATARI", "ImageConfig"]

# The usual encoder of images of 84 x 84 (Mnih et al., "Human-level control through deep reinforcement learning", Nature 518, 2015), as
# options of a learner: ``ppo.make(env, **ATARI)``.
ATARI = {"num_channels": (32, 64, 64), "kernel_size": (8, 4, 3), "stride": (4, 2, 1), "num_cells": (512,), "activation": "relu"}


@tree.dataclass
class ImageConfig(tree.Replaceable):
    """The options of the convolutions before the hidden layers; they are used for image observations only.

    Attributes:
        num_channels: channels of the convolutions, one for each layer; at least one.
        kernel_size: side of the kernels, one number for all or a tuple with one for each; there is no padding.
        stride: stride of the kernels, likewise. :data:`funrl.algos.images.ATARI` has the usual layers.
        layout: ``"hwc"`` for [H, W, C], ``"chw"`` for [C, H, W]; ``""``: the layout of the space, or the result of
            :func:`funrl.spaces.picture_layout`.
    """

    num_channels: tuple = tree.static(default=(16,))
    kernel_size: int | tuple = tree.static(default=3)
    stride: int | tuple = tree.static(default=1)
    layout: str = tree.static(default="")


def convolutions(config: Any, space: Any) -> nn.Net:
    """Make convolutions over images of any dtype; images of bytes are scaled to [0, 1].

    Args:
        config: an object with the options ``num_channels``, ``kernel_size``, ``stride``, ``layout`` and ``activation``.
        space: the space of the images [H, W, C] or [C, H, W].

    Returns:
        A net from images [..., H, W, C] or [..., C, H, W] to features [..., F] with the dtype of the parameters.

    Example:
        >>> import funrl
        >>> space = Box(0, 255, (10, 5, 1), torch.uint8)
        >>> net = convolutions(funrl.algos.ppo.PPOConfig(num_channels=(4,), kernel_size=3), space)
        >>> params = net.init(random.key(0), torch.zeros(10, 5, 1))
        >>> net.apply(params, torch.zeros(7, 10, 5, 1, dtype=torch.uint8)).shape
        torch.Size([7, 96])
    """
    net = nn.conv(config.num_channels, config.kernel_size, config.stride, activation=config.activation)
    channels = -1 if picture_layout("env", space, config.layout or None) == "hwc" else -3

    def apply(params: Any, x: torch.Tensor) -> torch.Tensor:
        pixels = x.movedim(channels, -3).to(params[0]["weight"].dtype)
        return net.apply(params, pixels / 255 if x.dtype == torch.uint8 else pixels)

    return nn.Net(lambda key, example: net.init(key, example.movedim(channels, -3)), apply)


def encoder(config: Any, space: Any) -> nn.Net | None:
    """Make the encoder before the hidden layers: convolutions for images, and None for vectors, which are used without change.

    For a dict of both it concatenates the encoded entries, in the order of their names.

    Args:
        config: as for :func:`convolutions`.
        space: a space checked by :func:`check_observations`.

    Example:
        >>> import funrl
        >>> space = Dict({"image": Box(0, 255, (10, 5, 1), torch.uint8), "speed": Box(0.0, 1.0, (2,))})
        >>> net = encoder(funrl.algos.ppo.PPOConfig(num_channels=(4,)), space)
        >>> x = {"image": torch.zeros(7, 10, 5, 1, dtype=torch.uint8), "speed": torch.zeros(7, 2)}
        >>> net.apply(net.init(random.key(0), {"image": torch.zeros(10, 5, 1), "speed": torch.zeros(2)}), x).shape
        torch.Size([7, 98])
    """
    if not isinstance(space, Dict):
        return convolutions(config, space) if is_image(space) else None
    parts = {name: encoder(config, space.spaces[name]) for name in sorted(space.spaces)}

    def init(key: torch.Tensor, example: dict[str, Any]) -> dict[str, Any]:
        keys = random.split(key, len(parts)).unbind(0)
        return {name: net.init(k, example[name]) for k, (name, net) in zip(keys, parts.items(), strict=True) if net is not None}

    def apply(params: dict[str, Any], x: dict[str, Any]) -> torch.Tensor:
        return torch.cat([x[name] if net is None else net.apply(params[name], x[name]) for name, net in parts.items()], -1)

    return nn.Net(init, apply)


def above(below: nn.Net, above: nn.Net) -> nn.Net:
    """Make the network ``above`` on top of ``below``; its parameters are a dict of ``below`` and ``above``.

    Example:
        >>> import funrl
        >>> net = above(convolutions(funrl.algos.ppo.PPOConfig(), Box(0.0, 1.0, (10, 5, 1))), nn.mlp((32,), 2))
        >>> net.apply(net.init(random.key(0), torch.zeros(10, 5, 1)), torch.zeros(7, 10, 5, 1)).shape
        torch.Size([7, 2])
    """

    def init(key: torch.Tensor, example: torch.Tensor) -> dict[str, Any]:
        keys = random.split(key)
        params = below.init(keys[0], example)
        return {"below": params, "above": above.init(keys[1], below.apply(params, example))}

    return nn.Net(init, lambda params, x: above.apply(params["above"], below.apply(params["below"], x)))


def check_layers(config: Any, env: AnyEnv) -> None:
    """Raise unless the options of convolutions are in their ranges, and fit the images of the environment, if it has any.

    Args:
        config: as for :func:`convolutions`.
        env: the environment.

    Raises:
        ValueError: if they are not, or if the channel dimension of the images is unknown.

    Example:
        >>> import funrl
        >>> check_layers(funrl.algos.ppo.PPOConfig(stride=0), funrl.envs.make("CartPole-v1"))
        Traceback (most recent call last):
        ...
        ValueError: stride: expected 1 integer of at least 1, got (0,); give one number, or one for each of the layers of num_channels
    """
    num = len(_check.integers("num_channels", config.num_channels, 1))
    for name in ("kernel_size", "stride"):
        value = getattr(config, name)
        sizes = value if isinstance(value, tuple) else (value,) * num
        _check.integers(name, sizes, 1, num, "give one number, or one for each of the layers of num_channels")
    _check.one_of("layout", config.layout, ("hwc", "chw", ""), "'' takes what the space says")
    for space in _entries(env.observation_space):
        if is_image(space):
            picture_layout("env", space, config.layout or None)


def check_observations(env: AnyEnv) -> None:
    """Raise a ValueError unless the observations of an environment are vectors, images, or a dict of both.

    Example:
        >>> import funrl
        >>> check_observations(funrl.envs.make("FrozenLake-v1"))
        Traceback (most recent call last):
        ...
        ValueError: env: expected observations that are vectors (a floating-point Box of shape [D]) or images ..., got Discrete(...)...
    """
    space = env.observation_space
    wrong = [part for part in _entries(space) if not is_vector(part) and not is_image(part)]
    if wrong:
        got = space if wrong[0] is space else f"{wrong[0]} in {space}"
        raise ValueError(
            f"env: expected observations that are vectors (a floating-point Box of shape [D]) or images (a Box or Binary of shape "
            f"[H, W, C] or [C, H, W]), or a Dict of both, got {got}{advice(wrong[0])}"
        )


def _entries(space: Any) -> list[Any]:
    """Return the spaces in a Dict, at any depth, or the space itself."""
    if isinstance(space, Dict):
        return [part for entry in space.spaces.values() for part in _entries(entry)]
    return [space]


def is_vector(space: Any) -> bool:
    """Return True for a space of floating-point vectors.

    Example:
        >>> is_vector(Box(0.0, 1.0, (3,))), is_vector(Box(0, 1, (3,), torch.int64))
        (True, False)
    """
    return isinstance(space, Box) and len(space.shape) == 1 and space.dtype.is_floating_point


def is_image(space: Any) -> bool:
    """Return True for a space of images.

    Example:
        >>> is_image(Box(0, 255, (84, 84, 3), torch.uint8)), is_image(Binary((3,)))
        (True, False)
    """
    return isinstance(space, Box | Binary) and len(space.shape) == 3


def advice(space: Any) -> str:
    """Return the end of a message: the transforms that make vectors or images from other observations.

    Example:
        >>> advice(Box(0, 255, (4, 84, 84, 1), torch.uint8))
        '; where pictures of one channel are stacked, put transforms.squeeze(-1) before transforms.frame_stack'
    """
    if isinstance(space, Dict):
        return "; transforms.select and transforms.cat_tensors() make one tensor of a dict, and of a dict with one entry that entry"
    if isinstance(space, Box) and len(space.shape) == 4:
        return "; where pictures of one channel are stacked, put transforms.squeeze(-1) before transforms.frame_stack"
    return "; transforms.flatten_observation and transforms.cast make vectors, transforms.discrete_to_one_hot of integers"
