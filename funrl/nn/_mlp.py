"""The multilayer perceptron."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from funrl import _check, random
from funrl.nn._initializers import Initializer, orthogonal
from funrl.nn._net import Net, activation_function, check_features, check_input, concatenate
from funrl.nn._norm import layer_norm


def mlp(
    num_cells: Sequence[int] = (64, 64),
    out_features: int | Sequence[int] | None = None,
    *,
    activation: str | Callable[[torch.Tensor], torch.Tensor] = "tanh",
    norm: str | Net | None = None,
    init: Initializer | None = None,
    out_init: Initializer | None = None,
) -> Net:
    r"""Make a multilayer perceptron.

    .. math:: h_{i+1} = \phi(W_i h_i + b_i), \qquad y = W_n h_n + b_n

    Args:
        num_cells: the widths of the hidden layers, each at least 1; may be empty.
        out_features: the width of the output layer, which has no activation, or the shape of its output. None: there is
            no output layer, and the result is the last hidden layer, after its activation (for a trunk that several heads share).
        activation: elu, gelu, leaky_relu, mish, relu, selu, sigmoid, silu, softplus or tanh, or an elementwise function.
        norm: "layer", or a :class:`Net` such as :func:`layer_norm`, between each hidden layer and its activation; None: no normalisation.
        init: initialiser of the hidden weights, ``init(key, shape, dtype, device)``; :func:`orthogonal` of sqrt(2) unless given.
        out_init: initialiser of the output weights; ``init`` unless given. With ``orthogonal(0.01)`` a policy is initially near uniform.

    Returns:
        A :class:`Net`. ``init(key, example [..., D])`` takes the input width, dtype and device from the example, and
        returns a tuple with a dict of ``weight`` [out, in] and ``bias`` [out] (zeros) for each layer, and ``norm`` if there is one.
        ``apply(params, x [..., D])`` returns [..., out_features]. Several inputs of init and apply are joined along their last
        dimension, ``apply(params, observation, action)``, and so are the entries of a dict, in the order of their names.

    Raises:
        ValueError: if a width is below 1, the activation or norm is unknown or there is no layer at all; from ``apply``, if x has
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
    shape = () if out_features is None else (out_features,) if isinstance(out_features, int) else out_features
    cells, shape = _check.integers("mlp: num_cells", num_cells, 1), _check.integers("mlp: out_features", shape, 1)
    widths = [*cells, *([math.prod(shape)] if shape else [])]
    _check.some("mlp: num_cells, out_features", widths, "layer", "give out_features")
    act = activation_function("mlp: activation", activation)
    norm = _norm(norm)
    hidden_init = orthogonal(math.sqrt(2.0)) if init is None else init
    initializers = [hidden_init] * len(cells) + ([hidden_init if out_init is None else out_init] if shape else [])

    def init_params(key: torch.Tensor, *examples: torch.Tensor) -> tuple[dict[str, Any], ...]:
        example = concatenate("mlp.init", examples)
        check_input("mlp.init: example", example)
        keys = random.split(key, len(widths))
        sizes = [example.shape[-1], *widths]
        layers = []
        for i, make in enumerate(initializers):
            bias = torch.zeros(sizes[i + 1], dtype=example.dtype, device=example.device)
            weight_key, extra = keys[i], {}
            if norm is not None and i < len(cells):
                weight_key, norm_key = random.split(keys[i]).unbind(0)
                extra = {"norm": norm.init(norm_key, bias)}
            weight = make(weight_key, (sizes[i + 1], sizes[i]), example.dtype, example.device)
            layers.append({"weight": weight, "bias": bias, **extra})
        return tuple(layers)

    def apply(params: tuple[dict[str, Any], ...], *inputs: torch.Tensor, key: Any = None) -> torch.Tensor:
        x = concatenate("mlp.apply", inputs)
        _check.count("mlp.apply: params", params, len(widths), "layers", "make them with this net's init")
        check_features("mlp.apply: x", x, params[0]["weight"])
        for i, layer in enumerate(params):
            x = functional.linear(x, layer["weight"], layer["bias"])
            if i < len(cells):
                x = act(x if norm is None else norm.apply(layer["norm"], x))
        return x.unflatten(-1, shape) if len(shape) > 1 else x

    return Net(init_params, apply)


def _norm(norm: Any) -> Net | None:
    if norm is None or (isinstance(norm, Net) and not norm.noisy):
        return norm
    if norm == "layer":
        return layer_norm()
    got = repr(norm) if isinstance(norm, str) else f"a {type(norm).__name__}"
    raise ValueError(f"mlp: norm: expected None, 'layer' or a Net without noise, got {got}; call batch_norm, which has a state, by itself")
