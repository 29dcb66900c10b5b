"""The multilayer perceptron, and the initialiser that it uses."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from funrl import random

__all__ = ["Net", "mlp", "orthogonal"]

Initializer = Callable[[torch.Tensor, Sequence[int], torch.dtype, torch.device], torch.Tensor]

_ACTIVATIONS = {
    "elu": functional.elu,
    "gelu": functional.gelu,
    "leaky_relu": functional.leaky_relu,
    "mish": functional.mish,
    "relu": torch.relu,
    "selu": functional.selu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "tanh": torch.tanh,
}


class Net(NamedTuple):
    """A network as a pair of pure functions.

    Attributes:
        init: ``init(key, example) -> params``; the example is an input, of which only shape, dtype and device matter.
        apply: ``apply(params, x) -> y``, for any leading batch dimensions of x.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]


def orthogonal(scale: float = 1.0) -> Initializer:
    """Make an initialiser of random matrices with orthonormal rows or columns, whichever are fewer, times ``scale``.

    The Q of a QR decomposition of a normal matrix, with the signs of R's diagonal taken over, so that it is uniform
    (Haar) and does not depend on the conventions of the decomposition.

    Args:
        scale: what the singular values are; sqrt(2) makes up for a ReLU.

    Returns:
        ``init(key, shape, dtype=torch.float32, device=None) -> tensor`` of that shape [N, ...]; dimensions after the first count as one.
        The device is the key's if it is None.

    Raises:
        TypeError: if ``scale`` is no Python number.
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
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise TypeError(f"orthogonal: scale: expected a number, got {type(scale).__name__}; give a Python float")

    def init(key: torch.Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: Any = None) -> torch.Tensor:
        if len(shape) < 2:
            raise ValueError(f"orthogonal: shape: expected at least two dimensions, got {list(shape)}; use zeros for a bias")
        rows, columns = shape[0], math.prod(shape[1:])
        noise = random.normal(key, (max(rows, columns), min(rows, columns)), dtype=dtype).to(device or key.device)
        q, r = torch.linalg.qr(noise)
        q = q * torch.where(r.diagonal() < 0, -scale, scale)
        return (q if rows >= columns else q.transpose(0, 1)).reshape(tuple(shape))

    return init


def mlp(
    num_cells: Sequence[int] = (64, 64),
    out_features: int | None = None,
    *,
    activation: str | Callable[[torch.Tensor], torch.Tensor] = "tanh",
    init: Initializer | None = None,
    out_init: Initializer | None = None,
) -> Net:
    r"""Make a multilayer perceptron.

    .. math:: h_{i+1} = \phi(W_i h_i + b_i), \qquad y = W_n h_n + b_n

    Args:
        num_cells: the widths of the hidden layers, each at least 1; may be empty.
        out_features: the width of the output layer, which has no activation. None: there is no output layer, and the
            result is the last hidden layer, after its activation (a trunk that several heads share).
        activation: elu, gelu, leaky_relu, mish, relu, selu, sigmoid, silu, softplus or tanh, or an elementwise function.
        init: initialiser of the hidden weights, ``init(key, shape, dtype, device)``; :func:`orthogonal` of sqrt(2) unless given.
        out_init: initialiser of the output weights; ``init`` unless given. ``orthogonal(0.01)`` makes a policy begin near uniform.

    Returns:
        A :class:`Net`. ``init(key, example [..., D])`` takes the input width, dtype and device from the example, and
        returns a tuple with a dict of ``weight`` [out, in] and ``bias`` [out] (zeros) for each layer.
        ``apply(params, x [..., D])`` returns [..., out_features].

    Raises:
        ValueError: if a width is below 1, the activation is unknown or there is no layer at all; from ``apply``, if x has
            another width than D.
        TypeError: from ``init`` and ``apply``, if the input is not floating point, or not of the parameters' dtype.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> net = mlp((64, 64), 2, out_init=orthogonal(0.01))
        >>> params = net.init(random.key(0), torch.zeros(4))
        >>> net.apply(params, torch.zeros(7, 4)).shape, params[-1]["weight"].shape
        (torch.Size([7, 2]), torch.Size([2, 64]))
        >>> copies = torch.func.vmap(net.init, in_dims=(0, None))(random.split(random.key(0), 8), torch.zeros(4))
        >>> torch.func.vmap(net.apply, in_dims=(0, None))(copies, torch.zeros(7, 4)).shape
        torch.Size([8, 7, 2])
    """
    widths = [*num_cells, *([] if out_features is None else [out_features])]
    for width in widths:
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise ValueError(f"mlp: num_cells, out_features: expected whole numbers of at least 1, got {width!r}")
    if not widths:
        raise ValueError("mlp: num_cells, out_features: expected at least one layer, got none; give out_features")
    if not callable(activation) and activation not in _ACTIVATIONS:
        raise ValueError(f"mlp: activation: expected a function or one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
    act = activation if callable(activation) else _ACTIVATIONS[activation]
    hidden_init = orthogonal(math.sqrt(2.0)) if init is None else init
    initializers = [hidden_init] * len(num_cells) + ([] if out_features is None else [hidden_init if out_init is None else out_init])

    def init_params(key: torch.Tensor, example: torch.Tensor) -> tuple[dict[str, torch.Tensor], ...]:
        _check_input("mlp.init: example", example)
        keys = random.split(key, len(widths))
        sizes = [example.shape[-1], *widths]
        return tuple(
            {
                "weight": make(keys[i], (sizes[i + 1], sizes[i]), example.dtype, example.device),
                "bias": torch.zeros(sizes[i + 1], dtype=example.dtype, device=example.device),
            }
            for i, make in enumerate(initializers)
        )

    def apply(params: tuple[dict[str, torch.Tensor], ...], x: torch.Tensor) -> torch.Tensor:
        _check_input("mlp.apply: x", x)
        if len(params) != len(widths):
            raise ValueError(f"mlp.apply: params: expected {len(widths)} layers, got {len(params)}; make them with this net's init")
        weight = params[0]["weight"]
        if x.shape[-1] != weight.shape[-1]:
            raise ValueError(
                f"mlp.apply: x: expected {weight.shape[-1]} features in the last dimension, as the example in init had, "
                f"got the shape {list(x.shape)}; "
                "reshape x, or call init with an example like it"
            )
        if x.dtype != weight.dtype:
            raise TypeError(f"mlp.apply: x: expected {weight.dtype} as the parameters are, got {x.dtype}; cast either with funrl.tree.to")
        for i, layer in enumerate(params):
            x = functional.linear(x, layer["weight"], layer["bias"])
            if i < len(num_cells):
                x = act(x)
        return x

    return Net(init_params, apply)


def _check_input(what: str, x: Any) -> None:
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f"{what}: expected a floating-point tensor [..., D], got {got}; cast it with .to(torch.float32)")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"{what}: expected the shape [..., D] with D at least 1, got {list(x.shape)}; reshape a single number to [1]")
