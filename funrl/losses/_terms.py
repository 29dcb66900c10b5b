"""Terms of losses, and measures of a fit, which several families of algorithms have."""

import torch

from funrl import _check


def huber(error: torch.Tensor, *, delta: float | torch.Tensor = 1.0) -> torch.Tensor:
    r"""Return the Huber loss of an error: half its square, or linear beyond ``delta``.

    .. math:: h(x) = \begin{cases} \tfrac12 x^2 & |x| \le \delta \\ \delta (|x| - \tfrac12 \delta) & \text{otherwise} \end{cases}

    Args:
        error: x, floating point [...].
        delta: at least 0, a number or a tensor []; infinity gives exactly half the square.

    Raises:
        ValueError: if ``delta`` is a negative Python number.
        TypeError: if ``error`` is not a floating-point tensor.

    Example:
        >>> import torch
        >>> huber(torch.tensor([0.5, 2.0]), delta=1.0)
        tensor([0.1250, 1.5000])

    Reference: P. J. Huber, "Robust Estimation of a Location Parameter", 1964, doi:10.1214/aoms/1177703732 (no arXiv id).
    """
    _check.floating("huber: error", error)
    delta = _check.in_dtype("huber: delta", delta, error)
    bounded = torch.minimum(torch.maximum(error, -delta), delta) if isinstance(delta, torch.Tensor) else error.clamp(-delta, delta)
    return bounded * (error - 0.5 * bounded)


def explained_variance(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r"""Return the fraction [] of the targets' variance that the values explain: 1 is perfect, 0 no better than a constant.

    .. math:: 1 - \frac{\mathrm{Var}(R - V)}{\mathrm{Var}(R)}

    It is 0 if all targets are equal, and carries no gradient.

    Args:
        value: V, floating point [...].
        target: R, floating point [...].

    Raises:
        ValueError: if shapes differ.
        TypeError: if an argument is not a floating-point tensor.

    Example:
        >>> import torch
        >>> explained_variance(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([1.0, 2.0, 3.0]))
        tensor(0.6667)
    """
    _check.alike("explained_variance", value=value, target=target)
    value, target = value.detach(), target.detach()
    variance = target.var(correction=0)
    some = variance > 0
    return torch.where(some, 1 - (target - value).var(correction=0) / torch.where(some, variance, 1.0), 0.0)
