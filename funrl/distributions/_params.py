"""Conversion of a network's output to the parameters of a distribution."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from funrl import _check


def normal_params(net: Any, mapping: str | Callable[[torch.Tensor], torch.Tensor] = "biased_softplus", min_scale: float = 1e-4) -> Any:
    r"""Make a network return a location and a scale: the two halves of its last dimension, the second one mapped above 0.

    .. math:: \sigma = \sigma_{min} + f(x)

    with f one of::

        biased_softplus   log(1 + exp(x + c)), with c such that the scale is 1 at x = 0
        softplus          log(1 + exp(x))
        exp               exp(x)
        sigmoid           1 / (1 + exp(-x))
        relu              max(x, 0)

    Args:
        net: a net whose output is [..., 2A], such as ``nn.mlp(num_cells, 2 * A)``.
        mapping: the name of f, or a function to numbers of at least 0.
        min_scale: the minimum of the scale, in (0, 1) for "biased_softplus", above 0 for the others.

    Returns:
        The net, with ``apply(params, x) -> (loc [..., A], scale [..., A])``.

    Raises:
        TypeError: if ``net`` is not a net.
        ValueError: if the mapping is unknown or ``min_scale`` is out of its range; from ``apply``, if the output's last dimension is odd.

    Example:
        >>> import torch
        >>> from funrl import nn, random
        >>> net = normal_params(nn.mlp((), 4, init=nn.orthogonal(0.0)))
        >>> loc, scale = net.apply(net.init(random.key(0), torch.zeros(5)), torch.ones(3, 5))
        >>> loc.shape, scale[0]
        (torch.Size([3, 2]), tensor([1., 1.]))
    """
    if not (hasattr(net, "apply") and hasattr(net, "_replace")):
        raise TypeError(f"normal_params: net: expected a net, got a {type(net).__name__}; nn.mlp and nn.from_module make one")
    _check.number("normal_params: min_scale", min_scale, "(0, 1)" if mapping == "biased_softplus" else "(0, inf)")
    mappings = {
        "biased_softplus": lambda x: functional.softplus(x + math.log(math.expm1(1 - min_scale))),
        "softplus": functional.softplus,
        "exp": torch.exp,
        "sigmoid": torch.sigmoid,
        "relu": torch.relu,
    }
    if not callable(mapping) and mapping not in mappings:
        raise ValueError(f"normal_params: mapping: expected a function or one of {', '.join(mappings)}, got {mapping!r}")
    positive = mapping if callable(mapping) else mappings[mapping]

    def apply(params: Any, *inputs: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        output = net.apply(params, *inputs, **options)
        if not isinstance(output, torch.Tensor) or output.ndim == 0 or output.shape[-1] % 2:
            got = f"the shape {list(output.shape)}" if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
            raise ValueError(f"normal_params: net: expected an output [..., 2A], loc and scale, got {got}; give it 2A out_features")
        loc, raw = output.chunk(2, -1)
        scale, least = positive(raw) + min_scale, torch.finfo(raw.dtype).tiny
        return loc, scale.clamp(min=least) if min_scale < least else scale  # half precision cannot represent every min_scale

    return net._replace(apply=apply)
