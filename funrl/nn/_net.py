"""The interface of networks, the activations by name, and the checks of inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch.nn import functional

from funrl import _check, tree
from funrl.typing import Init

_NAMES = ("elu", "gelu", "leaky_relu", "mish", "relu", "selu", "sigmoid", "silu", "softplus", "tanh")
_ACTIVATIONS = {name: getattr(torch if hasattr(torch, name) else functional, name) for name in _NAMES}


class Net(NamedTuple):
    """A network as a pair of pure functions.

    Attributes:
        init: ``init(key, example) -> params``; only shape, dtype and device of the example, an input, matter. A network
            of several inputs takes an example of each.
        apply: ``apply(params, x, key=None) -> y``, for any leading batch dimensions of x. Without a key it adds no noise.
        noisy: whether ``apply`` uses its key. That of a net of your own that is not noisy need not take one.
    """

    init: Init
    apply: Callable[..., Any]
    noisy: bool = False


def activation_function(what: str, activation: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return an activation: a function is returned unchanged, a name is looked up.

    Raises:
        TypeError: if it is a class; the message begins with ``what``.
        ValueError: if the name is unknown.

    Example:
        >>> activation_function("mlp: activation", "relu") is torch.relu
        True
    """
    if isinstance(activation, type):
        raise TypeError(f"{what}: expected a function, got the class {activation.__name__}; make an object of it: {activation.__name__}()")
    if callable(activation):
        return cast(Callable[[torch.Tensor], torch.Tensor], activation)
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise ValueError(f"{what}: expected a function or one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
    return _ACTIVATIONS[activation]


def check_input(what: str, x: Any) -> None:
    """Raise unless ``x`` is a floating-point tensor [..., D] with D at least 1; the message begins with ``what``.

    Example:
        >>> check_input("mlp.apply: x", torch.tensor(1.0))
        Traceback (most recent call last):
        ...
        ValueError: mlp.apply: x: expected the shape [..., D] with D at least 1, got []; reshape a single number to [1]
    """
    _check.floating(what, x, expected="a floating-point tensor [..., D]")
    if x.ndim == 0 or x.shape[-1] == 0:
        _check.sized(what, x, (..., "D"), "reshape a single number to [1]")


def check_features(what: str, x: Any, weight: torch.Tensor) -> None:
    """Raise unless ``x`` [..., D] fits ``weight`` [..., D]: it has as many features, and its dtype.

    Example:
        >>> check_features("mlp.apply: x", torch.zeros(7, 4), torch.zeros(2, 3))
        Traceback (most recent call last):
        ...
        ValueError: mlp.apply: x: expected 3 features in the last dimension, as the example in init had, got the shape [7, 4]; reshape x, or
        call init with an example like it
    """
    check_input(what, x)
    if x.shape[-1] != weight.shape[-1]:
        expected = f"{weight.shape[-1]} features in the last dimension, as the example in init had"
        _check.fail(ValueError, what, expected, f"the shape {list(x.shape)}", "reshape x, or call init with an example like it")
    check_dtype(what, x, weight)


def check_dtype(what: str, x: torch.Tensor, weight: torch.Tensor) -> None:
    """Check that ``x`` has the dtype of the parameters."""
    if x.dtype != weight.dtype:
        _check.fail(TypeError, what, f"{weight.dtype} as the parameters are", x.dtype, "cast either with funrl.tree.to")


def concatenate(what: str, inputs: tuple[Any, ...]) -> torch.Tensor:
    """Return a single input, or several joined along their last dimension; a tree counts as its leaves, a dict in the order of its keys.

    Raises:
        ValueError: if there is none, or their leading dimensions differ: nothing is broadcast.
        TypeError: if one of several is not a floating-point tensor.

    Example:
        >>> concatenate("mlp.apply", (torch.zeros(7, 3), torch.ones(7, 2))).shape
        torch.Size([7, 5])
    """
    inputs = tuple(y for x in inputs for y in tree.leaves(x))
    if len(inputs) == 1:
        return inputs[0]
    _check.some(what, inputs, "input")
    for i, x in enumerate(inputs):
        check_input(f"{what}: input {i}", x)
        if x.shape[:-1] != inputs[0].shape[:-1]:
            expected = f"the leading dimensions {list(inputs[0].shape[:-1])} of input 0"
            _check.fail(ValueError, f"{what}: input {i}", expected, list(x.shape), "nothing is broadcast: expand it first")
    return torch.cat(inputs, -1)
