"""Normalisation of features, and dropout."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from funrl import _across, _check, random, tree
from funrl.nn._net import Net, check_features, check_input


def layer_norm(eps: float = 1e-5) -> Net:
    r"""Make a normalisation of each sample over its features.

    .. math:: y = \gamma \frac{x - \bar x}{\sqrt{\mathrm{Var}(x) + \epsilon}} + \beta

    Args:
        eps: added to the variance, above 0.

    Returns:
        A :class:`Net`: ``init(key, example [..., D])`` gives ``scale`` [D] (ones) and ``bias`` [D] (zeros);
        ``apply(params, x [..., D])`` returns [..., D].

    Raises:
        ValueError: if ``eps`` is not above 0; from ``apply``, if x has another width than D.
        TypeError: if an input is not floating point, or not of the parameters' dtype.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> net = layer_norm()
        >>> params = net.init(random.key(0), torch.zeros(4))
        >>> net.apply(params, torch.tensor([1.0, 1.0, 3.0, 3.0]))
        tensor([-1.0000, -1.0000,  1.0000,  1.0000])

    Reference: J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", 2016, arXiv:1607.06450.
    """
    _check.number("layer_norm: eps", eps, "(0, inf]")

    def apply(params: dict[str, torch.Tensor], x: torch.Tensor, *, key: Any = None) -> torch.Tensor:
        check_features("layer_norm.apply: x", x, params["scale"])
        return functional.layer_norm(x, x.shape[-1:], params["scale"], params["bias"], eps)

    return Net(lambda key, example: _affine("layer_norm.init: example", example), apply)


@tree.dataclass
class BatchNormState:
    """State of a batch normalisation.

    Attributes:
        mean: floating point [D], the running mean; initially zeros.
        var: floating point [D], the running variance (unbiased); initially ones.
    """

    mean: torch.Tensor
    var: torch.Tensor


class BatchNorm(NamedTuple):
    """A batch normalisation as pure functions: its running statistics are a state, not parameters.

    Attributes:
        init: ``init(key, example) -> params``.
        start: ``start(example) -> state``, the initial :class:`BatchNormState`.
        apply: ``apply(params, state, x) -> y``: normalises by the running statistics, for evaluation.
        train: ``train(params, state, x) -> (state, y)``: normalises by the statistics of the batch, and updates the running ones.
    """

    init: Callable[..., Any]
    start: Callable[..., Any]
    apply: Callable[..., Any]
    train: Callable[..., Any]


def batch_norm(momentum: float = 0.1, eps: float = 1e-5) -> BatchNorm:
    r"""Make a normalisation of each feature over the batch.

    .. math:: y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta, \qquad \mu \leftarrow (1 - m)\,\mu + m\,\mu_B

    with the same update of the variance, as in torch.nn.BatchNorm1d: the batch is normalised by its biased variance, and the running
    one is unbiased.

    Args:
        momentum: m in [0, 1], the weight of the new batch in the running statistics.
        eps: added to the variance, above 0.

    Returns:
        A :class:`BatchNorm`; x is [..., D], and all dimensions but the last are the batch. The state carries no gradient.

    Raises:
        ValueError: if an argument is out of its range; from ``apply`` and ``train``, if x has another width than D; from ``train``,
            if the batch has a single sample, or is divided among processes (:func:`funrl.distributed.data_parallel`).
        TypeError: if an input is not floating point, or not of the parameters' dtype.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> net = batch_norm()
        >>> x = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
        >>> params, state = net.init(random.key(0), x), net.start(x)
        >>> state, y = net.train(params, state, x)
        >>> y, state.mean
        (tensor([[-1.0000,  0.0000],
                [ 1.0000,  0.0000]]), tensor([0.1000, 0.5000]))

    Reference: S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
        2015, arXiv:1502.03167.
    """
    _check.number("batch_norm: eps", eps, "(0, inf]")
    _check.number("batch_norm: momentum", momentum, "[0, 1]")

    def start(example: torch.Tensor) -> BatchNormState:
        check_input("batch_norm.start: example", example)
        ones = torch.ones(example.shape[-1], dtype=example.dtype, device=example.device)
        return BatchNormState(torch.zeros_like(ones), ones)

    def scaled(params: dict[str, torch.Tensor], x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
        return (x - mean) * torch.rsqrt(var + eps) * params["scale"] + params["bias"]

    def apply(params: dict[str, torch.Tensor], state: BatchNormState, x: torch.Tensor) -> torch.Tensor:
        check_features("batch_norm.apply: x", x, params["scale"])
        return scaled(params, x, state.mean, state.var)

    def train(params: dict[str, torch.Tensor], state: BatchNormState, x: torch.Tensor) -> tuple[BatchNormState, torch.Tensor]:
        check_features("batch_norm.train: x", x, params["scale"])
        if _across.count() > 1:
            raise ValueError(
                f"batch_norm.train: x: a batch that is divided among {_across.count()} processes has other statistics in each; use "
                "layer_norm, or an algorithm without it (sac or redq instead of crossq), or train in one process"
            )
        number = x.numel() // x.shape[-1]
        if number < 2:
            raise ValueError(f"batch_norm.train: x: expected at least two samples, got {list(x.shape)}; use apply for a single one")
        rows = x.reshape(number, x.shape[-1])
        mean, var = rows.mean(0), rows.var(0, correction=0)
        unbiased = var.detach() * (number / (number - 1))
        state = BatchNormState(
            mean=(1 - momentum) * state.mean + momentum * mean.detach(), var=(1 - momentum) * state.var + momentum * unbiased
        )
        return state, scaled(params, x, mean, var)

    return BatchNorm(lambda key, example: _affine("batch_norm.init: example", example), start, apply, train)


def dropout(rate: float) -> Net:
    """Make a layer that sets each number to 0 with probability ``rate``, and divides the others by 1 - ``rate``.

    Args:
        rate: in [0, 1).

    Returns:
        A noisy :class:`Net` without parameters: ``apply(params, x, key=key)``; without a key it returns x.

    Raises:
        ValueError: if ``rate`` is out of its range.
        TypeError: from ``apply``, if x is not floating point.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> net = dropout(0.5)
        >>> net.apply((), torch.ones(6), key=random.key(2))
        tensor([0., 2., 0., 2., 0., 2.])
        >>> net.apply((), torch.ones(2))
        tensor([1., 1.])

    Reference: N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: A Simple Way to Prevent Neural
        Networks from Overfitting", JMLR 2014 (arXiv:1207.0580 has the idea).
    """
    _check.number("dropout: rate", rate, "[0, 1)")

    def apply(params: tuple[()], x: torch.Tensor, *, key: torch.Tensor | None = None) -> torch.Tensor:
        _check.floating("dropout.apply: x", x)
        if key is None or rate == 0:
            return x
        return torch.where(random.bernoulli(key, 1 - rate, tuple(x.shape)), x / (1 - rate), 0.0)

    return Net(lambda key, example: (), apply, noisy=True)


def _affine(what: str, example: torch.Tensor) -> dict[str, torch.Tensor]:
    check_input(what, example)
    scale = torch.ones(example.shape[-1], dtype=example.dtype, device=example.device)
    return {"scale": scale, "bias": torch.zeros_like(scale)}
