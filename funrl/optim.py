"""Gradient-based optimisers as pairs of pure functions that compose.

An :class:`Optimizer` turns gradients into updates, which :func:`apply_updates` adds to the parameters:

    >>> import torch
    >>> from funrl import optim
    >>> params = {"w": torch.tensor([3.0, 4.0])}
    >>> opt = optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(0.1))
    >>> state = opt.init(params)
    >>> grads = torch.func.grad(lambda p: p["w"].square().sum())(params)
    >>> updates, state = opt.update(grads, state, params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([2.9400, 3.9200])}

A learning rate is a Python number, a 0-d tensor (built inside the function that :func:`torch.func.vmap` maps over many of them),
or one of :mod:`funrl.schedules`: a function from the int64 count of earlier updates to a rate. Updates are differentiable.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import tree
from funrl.schedules import Schedule
from funrl.tree import global_norm

__all__ = [
    "AdamState",
    "Optimizer",
    "RMSPropState",
    "SGDState",
    "adam",
    "adamw",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "flatten",
    "global_norm",
    "rmsprop",
    "scale",
    "sgd",
]

Number = float | torch.Tensor


class Optimizer(NamedTuple):
    """An optimiser as a pair of pure functions.

    Attributes:
        init: ``init(params) -> state``.
        update: ``update(grads, state, params) -> (updates, state)``; updates have the structure, shapes and dtypes of
            grads, and are added to the parameters.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]


@tree.dataclass
class SGDState:
    """State of :func:`sgd`.

    Attributes:
        count: int64 [], the number of updates so far.
        momentum: a tree like the parameters, the decaying sum of gradients; an empty tuple without momentum.
    """

    count: torch.Tensor
    momentum: Any


@tree.dataclass
class AdamState:
    """State of :func:`adam` and :func:`adamw`.

    Attributes:
        count: int64 [], the number of updates so far.
        mean: a tree like the parameters, in float32 if these are in half precision; the running mean of gradients.
        square: a tree like ``mean``, the running mean of squared gradients.
    """

    count: torch.Tensor
    mean: Any
    square: Any


@tree.dataclass
class RMSPropState:
    """State of :func:`rmsprop`.

    Attributes:
        count: int64 [], the number of updates so far.
        square: a tree like the parameters, in float32 if these are in half precision; the running mean of squared gradients.
        momentum: a tree like ``square``, the decaying sum of scaled gradients; an empty tuple without momentum.
    """

    count: torch.Tensor
    square: Any
    momentum: Any


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
        >>> opt = chain(clip_by_global_norm(0.5), adam(1e-3))
        >>> len(opt.init(torch.zeros(3)))
        2
    """
    for number, optimizer in enumerate(optimizers):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"chain: argument {number}: expected an Optimizer, got {type(optimizer).__name__}; call the factory, as in adam(1e-3)"
            )

    def init(params: Any) -> tuple[Any, ...]:
        return tuple(optimizer.init(params) for optimizer in optimizers)

    def update(grads: Any, state: tuple[Any, ...], params: Any) -> tuple[Any, tuple[Any, ...]]:
        if len(state) != len(optimizers):
            raise ValueError(
                f"chain: state: expected a tuple of {len(optimizers)} states, got {len(state)}; make it with this optimiser's init"
            )
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
        >>> opt = flatten(adam(1e-3))
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
    _check_number("scale", "factor", factor)
    return Optimizer(lambda params: (), lambda grads, state, params: (tree.map(lambda g: _as(factor, g) * g, grads), state))


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
    _check_number("clip_by_global_norm", "max_norm", max_norm)
    if not isinstance(max_norm, torch.Tensor) and not max_norm > 0:
        raise ValueError(f"clip_by_global_norm: max_norm: expected a number above 0, got {max_norm}; use math.inf for no clipping")

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        norm = global_norm(grads)
        # A comparison with NaN is False, so that NaN reaches all leaves unless the bound is infinity.
        within = (norm <= max_norm) | (torch.as_tensor(max_norm, device=norm.device) == math.inf)
        factor = torch.where(within, 1.0, max_norm / torch.where(within, 1.0, norm))
        return tree.map(lambda g: (factor.to(_wide(g).dtype) * g).to(g.dtype), grads), state

    return Optimizer(lambda params: (), update)


def sgd(learning_rate: Number | Schedule, momentum: Number = 0.0, nesterov: bool = False) -> Optimizer:
    r"""Make stochastic gradient descent, with optional momentum.

    .. math:: m_t = \mu m_{t-1} + g_t, \qquad \Delta_t = -\alpha_t m_t, \quad\text{with Nesterov}\quad -\alpha_t (\mu m_t + g_t)

    Args:
        learning_rate: alpha, at least 0: a number, a tensor [] or a schedule.
        momentum: mu in [0, 1), a number or a tensor []; with the Python number 0 the state has no sum.
        nesterov: whether to use Nesterov momentum; needs ``momentum``.

    Raises:
        ValueError: if a Python number is outside its range, or ``nesterov`` is given without momentum.
        TypeError: if a hyperparameter is neither a number nor a floating-point tensor [] (nor a schedule).

    Example:
        >>> import torch
        >>> opt = sgd(0.1, momentum=0.9)
        >>> state = opt.init(torch.zeros(1))
        >>> for _ in range(2):
        ...     update, state = opt.update(torch.ones(1), state, torch.zeros(1))
        >>> update, state.count
        (tensor([-0.1900]), tensor(2))

    Reference: I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of initialization and momentum in deep
        learning", ICML 2013; the sum is scaled as in torch.optim.
    """
    _check_rate("sgd", learning_rate)
    _check_fraction("sgd", "momentum", momentum)
    heavy = isinstance(momentum, torch.Tensor) or momentum > 0
    if nesterov and not heavy:
        raise ValueError("sgd: nesterov: expected momentum above 0 with it, got 0; give momentum=0.9")

    def init(params: Any) -> SGDState:
        return SGDState(_count("sgd", params), _zeros(params) if heavy else ())

    def update(grads: Any, state: SGDState, params: Any) -> tuple[Any, SGDState]:
        tree.check_like(grads, params, "sgd: grads", "params")
        total, step = (), grads
        if heavy:
            total = tree.map(lambda m, g: _without_subnormals(_as(momentum, g) * m + g), state.momentum, grads)
            step = tree.map(lambda m, g: _as(momentum, g) * m + g, total, grads) if nesterov else total
        rate = _rate(learning_rate, state.count)
        return tree.map(lambda s: -_as(rate, s) * s, step), SGDState(state.count + 1, total)

    return Optimizer(init, update)


def adam(learning_rate: Number | Schedule, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-8) -> Optimizer:
    r"""Make Adam.

    .. math:: m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \quad
        \Delta_t = -\alpha_t \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    For parameters in half precision the means and all arithmetic are in float32. v is at least the smallest normal number, so that
    there is no division by 0 for any epsilon.

    Args:
        learning_rate: alpha, at least 0: a number, a tensor [] or a schedule.
        b1: beta 1 in [0, 1), a number or a tensor [].
        b2: beta 2 in [0, 1), a number or a tensor [].
        eps: epsilon, at least 0, a number or a tensor []; policy-gradient methods often use 1e-5.

    Raises:
        ValueError: if a Python number is outside its range.
        TypeError: if a hyperparameter is neither a number nor a floating-point tensor [] (nor a schedule).

    Example:
        >>> import torch
        >>> opt, params = adam(1e-3), torch.zeros(2)
        >>> updates, state = opt.update(torch.tensor([5.0, -2.0]), opt.init(params), params)
        >>> apply_updates(params, updates)
        tensor([-0.0010,  0.0010])

    Reference: D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980.
    """
    return _adam("adam", learning_rate, b1, b2, eps, None)


def adamw(
    learning_rate: Number | Schedule, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-8, weight_decay: Number = 1e-2
) -> Optimizer:
    r"""Make Adam with decoupled weight decay: :func:`adam` whose update also has :math:`-\alpha_t \lambda \theta`.

    Args:
        learning_rate, b1, b2, eps: as for :func:`adam`.
        weight_decay: lambda, at least 0, a number or a tensor [].

    Raises:
        ValueError: if a Python number is outside its range.
        TypeError: if a hyperparameter is neither a number nor a floating-point tensor [] (nor a schedule).

    Example:
        >>> import torch
        >>> opt = adamw(0.1, weight_decay=0.5)
        >>> opt.update(torch.zeros(1), opt.init(torch.ones(1)), torch.ones(1))[0]
        tensor([-0.0500])

    Reference: I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101; the decay is
        multiplied by the learning rate, as in torch.optim.
    """
    _check_number("adamw", "weight_decay", weight_decay, low=0.0)
    return _adam("adamw", learning_rate, b1, b2, eps, weight_decay)


def rmsprop(learning_rate: Number | Schedule, decay: Number = 0.99, eps: Number = 1e-8, momentum: Number = 0.0) -> Optimizer:
    r"""Make RMSProp.

    .. math:: v_t = \rho v_{t-1} + (1-\rho) g_t^2, \qquad m_t = \mu m_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon}, \qquad
        \Delta_t = -\alpha_t m_t

    Args:
        learning_rate: alpha, at least 0: a number, a tensor [] or a schedule.
        decay: rho in [0, 1), a number or a tensor [].
        eps: epsilon, at least 0, outside the square root, a number or a tensor [].
        momentum: mu in [0, 1), a number or a tensor []; with the Python number 0 the state has no sum.

    Raises:
        ValueError: if a Python number is outside its range.
        TypeError: if a hyperparameter is neither a number nor a floating-point tensor [] (nor a schedule).

    Example:
        >>> import torch
        >>> opt = rmsprop(0.1, decay=0.75)
        >>> opt.update(torch.tensor([4.0]), opt.init(torch.zeros(1)), torch.zeros(1))[0]
        tensor([-0.2000])

    Reference: T. Tieleman, G. Hinton, "Lecture 6.5 - RMSProp", COURSERA: Neural Networks for Machine Learning, 2012.
    """
    _check_rate("rmsprop", learning_rate)
    _check_fraction("rmsprop", "decay", decay)
    _check_number("rmsprop", "eps", eps, low=0.0)
    _check_fraction("rmsprop", "momentum", momentum)
    heavy = isinstance(momentum, torch.Tensor) or momentum > 0

    def init(params: Any) -> RMSPropState:
        return RMSPropState(_count("rmsprop", params), _wide_zeros(params), _wide_zeros(params) if heavy else ())

    def update(grads: Any, state: RMSPropState, params: Any) -> tuple[Any, RMSPropState]:
        tree.check_like(grads, params, "rmsprop: grads", "params")
        wide = tree.map(_wide, grads)
        square = tree.map(lambda v, g: _without_subnormals(_as(decay, g) * v + (1 - _as(decay, g)) * g.square()), state.square, wide)
        step = tree.map(lambda g, v: g / (_above_zero(v).sqrt() + _as(eps, g)), wide, square)
        total = ()
        if heavy:
            step = total = tree.map(lambda m, s: _without_subnormals(_as(momentum, s) * m + s), state.momentum, step)
        rate = _rate(learning_rate, state.count)
        updates = tree.map(lambda s, g: (-_as(rate, s) * s).to(g.dtype), step, grads)
        return updates, RMSPropState(state.count + 1, square, total)

    return Optimizer(init, update)


def _adam(name: str, learning_rate: Number | Schedule, b1: Number, b2: Number, eps: Number, weight_decay: Number | None) -> Optimizer:
    _check_rate(name, learning_rate)
    _check_fraction(name, "b1", b1)
    _check_fraction(name, "b2", b2)
    _check_number(name, "eps", eps, low=0.0)

    def init(params: Any) -> AdamState:
        return AdamState(_count(name, params), _wide_zeros(params), _wide_zeros(params))

    def update(grads: Any, state: AdamState, params: Any) -> tuple[Any, AdamState]:
        tree.check_like(grads, params, f"{name}: grads", "params")
        count = state.count + 1
        wide = tree.map(_wide, grads)
        mean = tree.map(lambda m, g: _without_subnormals(_as(b1, g) * m + (1 - _as(b1, g)) * g), state.mean, wide)
        square = tree.map(lambda v, g: _without_subnormals(_as(b2, g) * v + (1 - _as(b2, g)) * g.square()), state.square, wide)
        rate = _rate(learning_rate, state.count)

        def step(m: torch.Tensor, v: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
            first, second = _bias_correction(b1, count, m.dtype), _bias_correction(b2, count, m.dtype)
            direction = m / first / ((_above_zero(v) / second).sqrt() + _as(eps, m))
            if weight_decay is not None:
                direction = direction + _as(weight_decay, m) * _wide(p)
            return (-_as(rate, m) * direction).to(p.dtype)

        return tree.map(step, mean, square, params), AdamState(count, mean, square)

    return Optimizer(init, update)


def _without_subnormals(x: torch.Tensor) -> torch.Tensor:
    """Return x with 0 instead of subnormal numbers, with which a processor is a hundred times slower.

    The means of a weight whose gradient stays 0, such as that of a unit that is never active, decay to subnormal numbers. In half
    precision, whose smallest normal number is not very small, processors calculate in float32.
    """
    return torch.where(x.abs() < torch.finfo(torch.promote_types(x.dtype, torch.float32)).tiny, 0.0, x)


def _above_zero(square: torch.Tensor) -> torch.Tensor:
    """Return a mean of squares, with the smallest normal number where it was rounded to 0, so that quotients stay small."""
    return square.clamp(min=torch.finfo(square.dtype).tiny)


def _wide(x: torch.Tensor) -> torch.Tensor:
    """Cast x to float32 if it is in half precision, which cannot represent epsilon, squares of small gradients or long means."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _wide_zeros(params: Any) -> Any:
    return tree.map(_wide, _zeros(params))


def _bias_correction(b: Number, count: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return 1 - b ** count without cancellation, which would lose five digits for b = 0.999 in float32."""
    log_b = b.to(dtype).log() if isinstance(b, torch.Tensor) else math.log(b) if b > 0 else -math.inf
    return -torch.expm1(count.to(dtype) * log_b)


def _rate(learning_rate: Number | Schedule, count: torch.Tensor) -> Number:
    return learning_rate(count) if callable(learning_rate) else learning_rate


def _as(number: Number, like: torch.Tensor) -> Number:
    """Cast a hyperparameter to the dtype of its factor, so that it never promotes it."""
    return number.to(like.dtype) if isinstance(number, torch.Tensor) else number


def _zeros(params: Any) -> Any:
    return tree.map(lambda p: torch.zeros_like(p, memory_format=torch.contiguous_format), params)


def _count(name: str, params: Any) -> torch.Tensor:
    """Check the parameters, and return the count 0 on their device."""
    leaves = tree.leaves(params)
    if not leaves:
        raise ValueError(f"{name}: params: expected a tree with at least one leaf, got none")
    for path, x in zip(tree.paths(params), leaves, strict=True):
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
            raise TypeError(f"{name}: params: expected floating-point tensors, got {got} at {path}; keep what is not learned out of params")
    return torch.zeros((), dtype=torch.int64, device=leaves[0].device)


def _check_number(name: str, argument: str, x: Any, *, low: float = -math.inf) -> None:
    if isinstance(x, torch.Tensor):
        if x.ndim or not x.is_floating_point():
            raise TypeError(
                f"{name}: {argument}: expected a number or a floating-point tensor [], got {x.dtype} {list(x.shape)}; "
                f"for one value a copy, build {name} inside the function that vmap maps"
            )
        return
    if isinstance(x, bool) or not isinstance(x, int | float):
        raise TypeError(f"{name}: {argument}: expected a number or a floating-point tensor [], got {type(x).__name__}")
    if not x >= low:
        raise ValueError(f"{name}: {argument}: expected a number of at least {low}, got {x}")


def _check_fraction(name: str, argument: str, x: Any) -> None:
    _check_number(name, argument, x, low=0.0)
    if not isinstance(x, torch.Tensor) and not x < 1:
        raise ValueError(f"{name}: {argument}: expected a number in [0, 1), got {x}")


def _check_rate(name: str, x: Any) -> None:
    if callable(x):
        return
    _check_number(name, "learning_rate", x, low=0.0)
    if not isinstance(x, torch.Tensor) and not math.isfinite(x):
        raise ValueError(f"{name}: learning_rate: expected a finite number, got {x}")
