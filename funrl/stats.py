"""Running mean and variance as a state, to normalise observations and rewards."""

from typing import Any

import torch

from funrl import _across, _check, tree

__all__ = ["Moments", "denormalize", "moments", "normalize", "update"]


@tree.dataclass
class Moments:
    """Mean and variance of all samples so far.

    Attributes:
        count: int64 [], the number of samples; an integer, as a float32 cannot count beyond 2^24.
        mean: a tree like a sample, floating point [*shape]; initially 0.
        var: a tree like a sample, floating point [*shape]: the mean squared deviation (divided by count); initially 1.
    """

    count: torch.Tensor
    mean: Any
    var: Any


def moments(example: Any) -> Moments:
    """Return the initial moments, of no samples; normalisation with them changes nothing (up to eps and clipping).

    Args:
        example: one sample, a floating-point tensor [*shape] or a tree of them; only shape, dtype and device matter.

    Raises:
        TypeError: if a leaf is not a floating-point tensor.
        ValueError: if there is no leaf.

    Example:
        >>> import torch
        >>> moments(torch.zeros(3))
        Moments(count=tensor(0), mean=tensor([0., 0., 0.]), var=tensor([1., 1., 1.]))
    """
    leaves = tree.leaves(example)
    _check.some("moments: example", leaves, "leaf")
    for path, x in zip(tree.paths(example), leaves, strict=True):
        _check.floating(f"moments: example: leaf {path}", x, "cast it with .to(torch.float32), or leave it out")
    count = torch.zeros((), dtype=torch.int64, device=leaves[0].device)
    zeros = tree.map(lambda x: torch.zeros_like(x, memory_format=torch.contiguous_format), example)
    return Moments(count, zeros, tree.map(lambda x: x + 1, zeros))


def update(state: Moments, batch: Any) -> Moments:
    r"""Return the moments with the samples of ``batch`` added.

    .. math:: \delta = \bar x_B - \bar x_A, \quad n = n_A + n_B, \quad \bar x = \bar x_A + \delta \frac{n_B}{n}, \quad
        M = M_A + M_B + \delta^2 \frac{n_A n_B}{n}

    with M the sum of squared deviations. The implementation divides it by n, so that it does not grow, and centres the batch on its first
    sample before it computes the moments of the batch, so that a mean far from 0 costs no digits.

    Args:
        state: the moments so far.
        batch: a tree like the example, each leaf [N..., *shape] with the same leading dimensions (none: a single sample).

    Raises:
        ValueError: if the structure, or a leaf's shape or dtype, does not fit the state, or the batch is empty.

    Example:
        >>> import torch
        >>> state = update(moments(torch.zeros(())), torch.tensor([1.0, 2.0, 3.0, 4.0]))
        >>> update(state, torch.tensor([5.0, 6.0]))
        Moments(count=tensor(6), mean=tensor(3.5000), var=tensor(2.9167))

    Reference: T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
        Variances", Stanford STAN-CS-79-773, 1979.
    """
    leading = _leading("update: batch", state, batch)
    number = leading.numel()
    if number == 0:
        raise ValueError(f"update: batch: expected at least one sample, got none: the leading dimensions are {list(leading)}")
    number *= _across.count()
    total = state.count + number

    def merge(mean: torch.Tensor, var: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = mean.dtype
        mean, var, x = _wide(mean), _wide(var), _wide(x).reshape(-1, *mean.shape)
        first = x[0]
        centred = x - first
        offset = centred.mean(0)
        batch_var = (centred - offset).square().mean(0)
        new = number / total.to(mean.dtype)
        old = state.count.to(mean.dtype) / total.to(mean.dtype)
        delta, batch_var = _across.moments((first - mean) + offset, batch_var)
        return (mean + new * delta).to(dtype), (old * var + new * batch_var + old * new * delta.square()).to(dtype)

    means, form = tree.flatten(state.mean)
    merged = [merge(*leaves) for leaves in zip(means, tree.leaves(state.var), tree.leaves(batch), strict=True)]
    return Moments(total, tree.unflatten(form, [mean for mean, _ in merged]), tree.unflatten(form, [var for _, var in merged]))


def normalize(state: Moments, x: Any, *, clip: float | torch.Tensor = 10.0, eps: float | torch.Tensor = 1e-8) -> Any:
    r"""Normalise ``x`` to mean 0 and variance 1 by the moments in the state, and clip it at ``clip``.

    .. math:: \mathrm{clip}\left(\frac{x - \bar x}{\sqrt{\sigma^2 + \epsilon}}, -c, c\right)

    Args:
        state: the moments.
        x: a tree like the example, each leaf [N..., *shape].
        clip: c, above 0, in standard deviations, a number or a tensor []; infinity: no clipping.
        eps: added to the variance, above 0.

    Raises:
        ValueError: if ``x`` does not fit the state, or ``clip`` is a Python number that is not above 0.

    Example:
        >>> import torch
        >>> state = update(moments(torch.zeros(())), torch.tensor([1.0, 3.0]))
        >>> normalize(state, torch.tensor([2.0, 4.0, 100.0]))
        tensor([ 0.,  2., 10.])
    """
    if not isinstance(clip, torch.Tensor):
        _check.number("normalize: clip", clip, "(0, inf]", "use math.inf for no clipping")
    _leading("normalize: x", state, x)

    bound: Any = clip

    def scale(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
        return ((_wide(x) - mean) / (_wide(var) + eps).sqrt()).clamp(-bound, bound).to(x.dtype)

    return tree.map(scale, x, state.mean, state.var)


def denormalize(state: Moments, x: Any, *, eps: float | torch.Tensor = 1e-8) -> Any:
    """Invert :func:`normalize`, for values that it did not clip.

    Args:
        state: the moments.
        x: normalised values, each leaf [N..., *shape].
        eps: the same as for :func:`normalize`.

    Raises:
        ValueError: if ``x`` does not fit the state.

    Example:
        >>> import torch
        >>> state = update(moments(torch.zeros(())), torch.tensor([1.0, 3.0]))
        >>> denormalize(state, torch.tensor([0.0, 2.0]))
        tensor([2., 4.])
    """
    _leading("denormalize: x", state, x)
    return tree.map(lambda x, mean, var: (x * (_wide(var) + eps).sqrt() + mean).to(x.dtype), x, state.mean, state.var)


def _wide(x: torch.Tensor) -> torch.Tensor:
    """Cast x to float32 if it is in half precision, which cannot represent eps or counts above 65504."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _leading(what: str, state: Moments, x: Any) -> torch.Size:
    """Check ``x`` against the state, and return the leading dimensions that its leaves share."""
    if tree.structure(x) != tree.structure(state.mean):
        expected, got = (", ".join(tree.paths(t)) or "none" for t in (state.mean, x))
        kinds = "" if expected != got else ", in nodes of other types or with other static fields"
        raise ValueError(
            f"{what}: expected the structure of the state, with the leaves {expected}; got {got}{kinds}; give a tree like the example"
        )
    leading: Any = None
    for i, (value, mean) in enumerate(zip(tree.leaves(x), tree.leaves(state.mean), strict=True)):
        split = value.ndim - mean.ndim
        if split < 0 or value.shape[split:] != mean.shape or value.dtype != mean.dtype:
            raise ValueError(
                f"{what}: expected {mean.dtype} [N..., {', '.join(str(n) for n in mean.shape)}], "
                f"got {value.dtype} {list(value.shape)} at {tree.paths(x)[i]}"
            )
        if leading is not None and value.shape[:split] != leading:
            raise ValueError(
                f"{what}: expected the leading dimensions {list(leading)} of the leaves before, "
                f"got {list(value.shape)} at {tree.paths(x)[i]}"
            )
        leading = value.shape[:split]
    return leading
