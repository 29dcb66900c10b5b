"""Initialisers: functions from a key and a shape to the initial values of a weight."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from funrl import _check, random

Initializer = Callable[[torch.Tensor, Sequence[int], torch.dtype, torch.device], torch.Tensor]

# The standard deviation of a standard normal distribution truncated at -2 and 2.
_TRUNCATED_STD = 0.8796256610342398


def orthogonal(scale: float = 1.0) -> Initializer:
    """Make an initialiser of random matrices with orthonormal rows or columns, whichever are fewer, times ``scale``.

    The matrix is the Q of a QR decomposition of a normal matrix, multiplied by the signs of R's diagonal, so that its distribution is
    uniform (Haar) and does not depend on the conventions of the decomposition.

    Args:
        scale: the singular values; sqrt(2) compensates for a ReLU.

    Returns:
        ``init(key, shape, dtype=torch.float32, device=None) -> tensor`` of that shape [N, ...]; dimensions after the first are joined to
        one. With None the device is that of the key.

    Raises:
        TypeError: if ``scale`` is not a Python number.
        ValueError: from ``init``, if the shape has fewer than two dimensions.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> weight = orthogonal(2.0)(random.key(0), (2, 5))
        >>> torch.allclose(weight @ weight.T, 4 * torch.eye(2), atol=1e-5)
        True

    Reference: A. M. Saxe, J. L. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
        linear neural networks", 2013, arXiv:1312.6120.
    """
    _check.number("orthogonal: scale", scale, "[-inf, inf]", "give a Python float")

    def init(key: torch.Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: Any = None) -> torch.Tensor:
        rows, columns = _matrix("orthogonal", shape)
        noise = random.normal(key, (max(rows, columns), min(rows, columns)), dtype=dtype).to(device or key.device)
        q, r = torch.linalg.qr(noise)
        q = q * torch.where(r.diagonal() < 0, -scale, scale)
        return (q if rows >= columns else q.transpose(0, 1)).reshape(tuple(shape))

    return init


def variance_scaling(scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal") -> Initializer:
    r"""Make an initialiser of independent numbers with mean 0 and variance ``scale`` over the fan.

    .. math:: \mathrm{Var}(w) = \frac{s}{n}, \qquad n = n_{in},\ n_{out}\ \text{or}\ \tfrac12 (n_{in} + n_{out})

    (2, "fan_in") is He's initialiser for ReLU, (1, "fan_avg") Glorot's, and (1, "fan_in") LeCun's.

    Args:
        scale: s, above 0.
        mode: "fan_in", "fan_out" or "fan_avg". The fans of a weight [N, M, K...] are M * prod(K) in and N * prod(K) out.
        distribution: "normal", "truncated_normal" (at two standard deviations, rescaled to the same variance) or "uniform".

    Returns:
        ``init(key, shape, dtype=torch.float32, device=None) -> tensor``, as for :func:`orthogonal`.

    Raises:
        TypeError: if ``scale`` is not a Python number.
        ValueError: if it is not above 0, or another argument is unknown; from ``init``, if the shape has fewer than two dimensions.

    Example:
        >>> from funrl import random
        >>> weight = variance_scaling(2.0, "fan_in", "normal")(random.key(0), (400, 100))
        >>> round(weight.var().item(), 3)
        0.02

    Reference: K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", 2015, arXiv:1502.01852; X. Glorot, Y. Bengio,
        "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.
    """
    _check.number("variance_scaling: scale", scale, "(0, inf)", "give a Python float")
    _check.one_of("variance_scaling: mode", mode, ("fan_in", "fan_out", "fan_avg"))
    _check.one_of("variance_scaling: distribution", distribution, ("normal", "truncated_normal", "uniform"))

    def init(key: torch.Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: Any = None) -> torch.Tensor:
        rows, columns = _matrix("variance_scaling", shape)
        fans = {"fan_in": columns, "fan_out": rows * math.prod(shape[2:])}
        fan = fans.get(mode, sum(fans.values()) / 2)
        std = math.sqrt(scale / fan)
        if distribution == "normal":
            noise = random.normal(key, tuple(shape), dtype=dtype)
        elif distribution == "truncated_normal":
            noise = random.truncated_normal(key, -2.0, 2.0, tuple(shape), dtype=dtype) / _TRUNCATED_STD
        else:
            noise = random.uniform(key, tuple(shape), -math.sqrt(3.0), math.sqrt(3.0), dtype=dtype)
        return (std * noise).to(device or key.device)

    return init


def torch_default() -> Initializer:
    r"""Make the initialiser that torch.nn.Linear and torch.nn.Conv2d use for their weights: uniform within +-1 / sqrt(fan in).

    .. math:: w \sim \mathcal U\left(-\frac{1}{\sqrt{n_{in}}}, \frac{1}{\sqrt{n_{in}}}\right)

    Deviation: torch draws biases from it too; here they start at 0.

    Returns:
        ``init(key, shape, dtype=torch.float32, device=None) -> tensor``, as for :func:`orthogonal`.

    Raises:
        ValueError: from ``init``, if the shape has fewer than two dimensions.

    Example:
        >>> from funrl import random
        >>> weight = torch_default()(random.key(0), (64, 4))
        >>> bool((weight.abs() <= 0.5).all())
        True
    """
    return variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def _matrix(what: str, shape: Sequence[int]) -> tuple[int, int]:
    """Return the rows and columns of a weight whose dimensions after the first are joined to one."""
    if len(shape) < 2:
        raise ValueError(f"{what}: shape: expected at least two dimensions, got {list(shape)}; use zeros for a bias")
    return shape[0], math.prod(shape[1:])
