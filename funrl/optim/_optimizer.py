"""The interface of an optimiser, and what composes optimisers."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _check, tree
from funrl.tree import global_norm
from funrl.typing import Params, State

Number = float | torch.Tensor


class Optimizer(NamedTuple):
    """An optimiser as a pair of pure functions.

    Attributes:
        init: ``init(params) -> state``.
        update: ``update(grads, state, params) -> (updates, state)``; updates have the structure, shapes and dtypes of
            grads, and are added to the parameters.
    """

    init: Callable[[Params], State]
    update: Callable[[Params, State, Params], tuple[Params, State]]


def apply_updates(params: Any, updates: Any) -> Any:
    """Return ``params + updates``, leaf by leaf.

    Raises:
        ValueError: if the structure, or a leaf's shape or dtype, differs.

    Example:
        >>> import torch
        >>> apply_updates({"w": torch.ones(2)}, {"w": torch.tensor([0.5, -0.5])})
        {'w': tensor([1.5000, 0.5000])}
    """
    tree.check_like(updates, params, "apply_updates: updates", "params")
    return tree.map(lambda p, u: p + u, params, updates)


def chain(*optimizers: Optimizer) -> Optimizer:
    """Make an optimiser that passes the updates of each optimiser to the next; its state is the tuple of their states.

    Raises:
        TypeError: if an argument is not an :class:`Optimizer`.

    Example:
        >>> import torch
        >>> from funrl import optim
        >>> opt = chain(clip_by_global_norm(0.5), optim.adam(1e-3))
        >>> len(opt.init(torch.zeros(3)))
        2
    """
    for number, optimizer in enumerate(optimizers):
        _check.instance(f"chain: argument {number}", optimizer, Optimizer, "call the factory, as in adam(1e-3)")

    def init(params: Any) -> tuple[Any, ...]:
        return tuple(optimizer.init(params) for optimizer in optimizers)

    def update(grads: Any, state: tuple[Any, ...], params: Any) -> tuple[Any, tuple[Any, ...]]:
        _check.count("chain: state", state, len(optimizers), "states", "make it with this optimiser's init")
        states = []
        for optimizer, part in zip(optimizers, state, strict=True):
            grads, part = optimizer.update(grads, part, params)
            states.append(part)
        return grads, tuple(states)

    return Optimizer(init, update)


def flatten(optimizer: Optimizer) -> Optimizer:
    """Apply ``optimizer`` to one vector of all parameters: a few long kernels instead of a few for every leaf.

    The results of the optimisers in this module do not change. All leaves must have the same dtype.

    Example:
        >>> import torch
        >>> from funrl import optim
        >>> opt = flatten(optim.adam(1e-3))
        >>> opt.init({"w": torch.zeros(3, 2), "b": torch.zeros(2)}).mean.shape
        torch.Size([8])
    """

    def init(params: Any) -> Any:
        return optimizer.init(tree.ravel(params)[0])

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        tree.check_like(grads, params, "flatten: grads", "params")
        vector, unravel = tree.ravel(grads)
        updates, state = optimizer.update(vector, state, tree.ravel(params)[0])
        return unravel(updates), state

    return Optimizer(init, update)


def scale(factor: Number) -> Optimizer:
    """Make an optimiser that multiplies by ``factor``, a number or a tensor []. It has no state.

    Example:
        >>> import torch
        >>> scale(-0.5).update(torch.tensor([2.0]), (), torch.zeros(1))
        (tensor([-1.]), ())
    """
    _check.number("scale: factor", factor, "[-inf, inf]", tensor=True)
    return Optimizer(lambda params: (), lambda grads, state, params: (tree.map(lambda g: like(factor, g) * g, grads), state))


def clip_by_global_norm(max_norm: Number) -> Optimizer:
    r"""Make an optimiser that scales gradients to a norm of at most ``max_norm``, all leaves by the same factor. It has no state.

    .. math:: g \min\left(1, \frac{c}{\lVert g \rVert}\right)

    Args:
        max_norm: c, above 0, a number or a tensor []; infinity does not change gradients.

    Raises:
        ValueError: if ``max_norm`` is a Python number that is not above 0.

    Under :func:`torch.func.vmap` every copy has its own norm. A NaN in one leaf makes all leaves NaN, so that it is noticed.

    Example:
        >>> import torch
        >>> clip_by_global_norm(1.0).update(torch.tensor([3.0, 4.0]), (), torch.zeros(2))
        (tensor([0.6000, 0.8000]), ())

    Reference: R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training Recurrent Neural Networks", 2012, arXiv:1211.5063.
    """
    _check.number("clip_by_global_norm: max_norm", max_norm, "(0, inf]", "use math.inf for no clipping", tensor=True)

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        factor = shrinking(global_norm(grads), max_norm)
        return tree.map(lambda g: (factor.to(wide(g).dtype) * g).to(g.dtype), grads), state

    return Optimizer(lambda params: (), update)


def shrinking(norm: torch.Tensor, limit: Number) -> torch.Tensor:
    """Return the factor, at most 1, that brings a norm to at most ``limit``; it is NaN for a NaN unless the limit is infinity."""
    within = (norm <= limit) | (torch.as_tensor(limit, device=norm.device) == math.inf)
    return torch.where(within, 1.0, limit / torch.where(within, 1.0, norm))


def wide(x: torch.Tensor) -> torch.Tensor:
    """Cast x to float32 if it is in half precision, which cannot represent epsilon, squares of small gradients or long means."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def like(number: Number, like: torch.Tensor) -> Number:
    """Cast a hyperparameter to the dtype of its factor, so that it never promotes it."""
    return number.to(like.dtype) if isinstance(number, torch.Tensor) else number
