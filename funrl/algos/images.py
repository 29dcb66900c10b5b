"""What learners see images with."""

from typing import Any

import torch

from funrl import nn, random
from funrl.env import Env
from funrl.spaces import Binary, Box

__all__ = ["above", "check_observations", "convolutions"]


def convolutions(config: Any) -> nn.Net:
    """Make convolutions over images [..., H, W, C] of any dtype; those of bytes count from 0 to 1.

    Args:
        config: has ``num_channels`` (one a layer), ``kernel_size`` and ``activation``; the stride is 1, and there is no padding.

    Returns:
        A net with outputs [..., F] of the parameters' dtype.

    Example:
        >>> import funrl
        >>> net = convolutions(funrl.algos.ppo.PPOConfig(num_channels=(4,), kernel_size=3))
        >>> params = net.init(random.key(0), torch.zeros(10, 5, 1))
        >>> net.apply(params, torch.zeros(7, 10, 5, 1, dtype=torch.uint8)).shape
        torch.Size([7, 96])
    """
    net = nn.conv(config.num_channels, config.kernel_size, activation=config.activation)

    def apply(params: Any, x: torch.Tensor) -> torch.Tensor:
        pixels = x.movedim(-1, -3).to(params[0]["weight"].dtype)
        return net.apply(params, pixels / 255 if x.dtype == torch.uint8 else pixels)

    return nn.Net(lambda key, example: net.init(key, example.movedim(-1, -3)), apply)


def above(below: nn.Net, above: nn.Net) -> nn.Net:
    """Make the network that feeds ``above`` with what ``below`` makes; its parameters are a dict of ``below`` and ``above``.

    Example:
        >>> import funrl
        >>> net = above(convolutions(funrl.algos.ppo.PPOConfig()), nn.mlp((32,), 2))
        >>> net.apply(net.init(random.key(0), torch.zeros(10, 5, 1)), torch.zeros(7, 10, 5, 1)).shape
        torch.Size([7, 2])
    """

    def init(key: torch.Tensor, example: torch.Tensor) -> dict[str, Any]:
        keys = random.split(key)
        params = below.init(keys[0], example)
        return {"below": params, "above": above.init(keys[1], below.apply(params, example))}

    return nn.Net(init, lambda params, x: above.apply(params["above"], below.apply(params["below"], x)))


def check_observations(env: Env) -> None:
    """Raise a ValueError unless an environment shows vectors or images.

    Example:
        >>> import funrl
        >>> check_observations(funrl.envs.make("FrozenLake-v1"))
        Traceback (most recent call last):
        ...
        ValueError: env: expected observations that are vectors (a floating-point Box of shape [D]) or images ..., got Discrete(...)
    """
    space = env.observation_space
    vector = isinstance(space, Box) and len(space.shape) == 1 and space.dtype.is_floating_point
    image = isinstance(space, Box | Binary) and len(space.shape) == 3
    if not vector and not image:
        raise ValueError(
            f"env: expected observations that are vectors (a floating-point Box of shape [D]) or images (a Box or Binary of shape "
            f"[H, W, C]), got {space}"
        )
