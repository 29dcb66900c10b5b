"""Convolutions over images, and a function that flattens their features."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from funrl import _check, random
from funrl.nn._initializers import Initializer, orthogonal
from funrl.nn._net import Net, activation_function, check_dtype


def squash_dims(x: torch.Tensor, num_dims: int = 3) -> torch.Tensor:
    """Join the last ``num_dims`` dimensions of ``x`` to one.

    Args:
        x: [..., D1, ..., Dn].
        num_dims: n, at least 1.

    Returns:
        [..., D1 * ... * Dn].

    Raises:
        ValueError: if x has fewer dimensions.

    Example:
        >>> import torch
        >>> squash_dims(torch.zeros(10, 64, 5, 5)).shape
        torch.Size([10, 1600])
    """
    if not 1 <= num_dims <= x.ndim:
        raise ValueError(f"squash_dims: x: expected at least num_dims = {num_dims} dimensions, got the shape {list(x.shape)}")
    return x.flatten(x.ndim - num_dims)


def conv(
    num_cells: Sequence[int] = (32, 64, 64),
    kernel_sizes: int | Sequence[int] = 3,
    strides: int | Sequence[int] = 1,
    paddings: int | Sequence[int] = 0,
    *,
    activation: str | Callable[[torch.Tensor], torch.Tensor] = "elu",
    aggregator: Callable[[torch.Tensor], torch.Tensor] | None = squash_dims,
    init: Initializer | None = None,
) -> Net:
    r"""Make a stack of two-dimensional convolutions, each followed by its activation.

    Args:
        num_cells: the numbers of channels, each at least 1; at least one layer.
        kernel_sizes: the side of the kernels, one number for all layers, or one for each.
        strides: the strides, one number for all layers, or one for each.
        paddings: the width of zeros around the image, at least 0, one number for all layers, or one for each.
        activation: as for :func:`funrl.nn.mlp`.
        aggregator: a function of the last features [..., C, H, W]; :func:`squash_dims` flattens them. None: they are the output.
        init: initialiser of the weights, ``init(key, shape, dtype, device)``; :func:`orthogonal` of sqrt(2) unless given.

    Returns:
        A :class:`Net`. ``init(key, example [..., C, H, W])`` returns a tuple with a dict of ``weight`` [out, in, K, K] and ``bias``
        [out] (zeros) for each layer; ``apply(params, x [..., C, H, W])`` takes any leading dimensions, or none.

    Raises:
        ValueError: if a size is out of its range or their numbers differ, or the activation is unknown; from ``init`` and ``apply``,
            if x has fewer than three dimensions, other channels than the example, or is smaller than a kernel.
        TypeError: from ``init`` and ``apply``, if the input is not floating point, or not of the parameters' dtype.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> net = conv((32, 64), (8, 4), (2, 1))
        >>> params = net.init(random.key(0), torch.zeros(3, 32, 32))
        >>> net.apply(params, torch.zeros(10, 3, 32, 32)).shape
        torch.Size([10, 6400])

    Reference: V. Mnih et al., "Human-level control through deep reinforcement learning", Nature 2015, has the layout:
        ``conv((32, 64, 64), (8, 4, 3), (4, 2, 1), activation="relu")``.
    """
    cells = _check.integers("conv: num_cells", num_cells, 1)
    _check.some("conv: num_cells", cells, "layer")
    kernels = _each("kernel_sizes", kernel_sizes, len(cells), 1)
    strides = _each("strides", strides, len(cells), 1)
    paddings = _each("paddings", paddings, len(cells), 0)
    act = activation_function("conv: activation", activation)
    if aggregator is not None:
        _check.function("conv: aggregator", aggregator, "give nn.squash_dims", "a function or None")
    make = orthogonal(math.sqrt(2.0)) if init is None else init

    def init_params(key: torch.Tensor, example: torch.Tensor) -> tuple[dict[str, torch.Tensor], ...]:
        _check_image("conv.init: example", example)
        keys = random.split(key, len(cells))
        channels, size, layers = example.shape[-3], example.shape[-2:], []
        for i, (out, kernel) in enumerate(zip(cells, kernels, strict=True)):
            size = [(n + 2 * paddings[i] - kernel) // strides[i] + 1 for n in size]
            if min(size) < 1:
                got = f"{list(example.shape)}, of which layer {i} with a kernel of {kernel} leaves nothing"
                _check.fail(ValueError, "conv.init: example", "images that are not smaller than the kernels", got, "give larger ones")
            weight = make(keys[i], (out, channels, kernel, kernel), example.dtype, example.device)
            layers.append({"weight": weight, "bias": torch.zeros(out, dtype=example.dtype, device=example.device)})
            channels = out
        return tuple(layers)

    def apply(params: tuple[dict[str, torch.Tensor], ...], x: torch.Tensor, *, key: Any = None) -> torch.Tensor:
        _check_image("conv.apply: x", x)
        _check.count("conv.apply: params", params, len(cells), "layers", "make them with this net's init")
        weight = params[0]["weight"]
        if x.shape[-3] != weight.shape[1]:
            expected = f"{weight.shape[1]} channels, as the example in init had, in [..., C, H, W]"
            remedy = "move the channels with x.movedim(-1, -3)"
            _check.fail(ValueError, "conv.apply: x", expected, f"the shape {list(x.shape)}", remedy)
        check_dtype("conv.apply: x", x, weight)
        leading = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:])
        for layer, stride, padding in zip(params, strides, paddings, strict=True):
            x = act(functional.conv2d(x, layer["weight"], layer["bias"], stride, padding))
        x = x.reshape(*leading, *x.shape[1:])
        return x if aggregator is None else aggregator(x)

    return Net(init_params, apply)


def _each(name: str, value: Any, number: int, low: int) -> tuple[int, ...]:
    """Return a whole number for each layer."""
    values = (value,) * number if isinstance(value, int) else value
    return _check.integers(f"conv: {name}", values, low, number, "give one for each layer of num_cells")


def _check_image(what: str, x: Any) -> None:
    _check.floating(what, x, "cast pixels with x.to(torch.float32) / 255", expected="a floating-point tensor [..., C, H, W]")
    _check.sized(what, x, (..., "C", "H", "W"), "add channels with unsqueeze(-3)")
