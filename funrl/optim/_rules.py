"""The rules: gradient descent with momentum, Adam, RMSProp and ClipUp."""

import math
from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, tree
from funrl.optim._optimizer import Number, Optimizer, like, shrinking, wide
from funrl.schedules import Schedule
from funrl.tree import global_norm


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


@tree.dataclass
class ClipUpState(tree.Replaceable):
    """State of :func:`clip_up`.

    Attributes:
        count: int64 [], the number of updates so far.
        velocity: a tree like the parameters, in float32 if these are in half precision; minus the last update.
    """

    count: torch.Tensor
    velocity: Any


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
    _check.number("sgd: momentum", momentum, "[0, 1)", tensor=True)
    heavy = isinstance(momentum, torch.Tensor) or momentum > 0
    if nesterov and not heavy:
        raise ValueError("sgd: nesterov: expected momentum above 0 with it, got 0; give momentum=0.9")

    def update(rate: Number, grads: Any, state: SGDState, params: Any) -> tuple[Any, SGDState]:
        total, step = (), grads
        if heavy:
            total = tree.map(lambda m, g: without_subnormals(like(momentum, g) * m + g), state.momentum, grads)
            step = tree.map(lambda m, g: like(momentum, g) * m + g, total, grads) if nesterov else total
        return tree.map(lambda s: -like(rate, s) * s, step), SGDState(state.count + 1, total)

    return rule("sgd", learning_rate, lambda count, params: SGDState(count, _zeros(params) if heavy else ()), update)


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
        >>> from funrl import optim
        >>> opt, params = adam(1e-3), torch.zeros(2)
        >>> updates, state = opt.update(torch.tensor([5.0, -2.0]), opt.init(params), params)
        >>> optim.apply_updates(params, updates)
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
    _check.number("adamw: weight_decay", weight_decay, "[0, inf]", tensor=True)
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
    _check.number("rmsprop: decay", decay, "[0, 1)", tensor=True)
    _check.number("rmsprop: eps", eps, "[0, inf]", tensor=True)
    _check.number("rmsprop: momentum", momentum, "[0, 1)", tensor=True)
    heavy = isinstance(momentum, torch.Tensor) or momentum > 0

    def init(count: torch.Tensor, params: Any) -> RMSPropState:
        return RMSPropState(count, _wide_zeros(params), _wide_zeros(params) if heavy else ())

    def update(rate: Number, grads: Any, state: RMSPropState, params: Any) -> tuple[Any, RMSPropState]:
        widened = tree.map(wide, grads)
        square = tree.map(lambda v, g: without_subnormals(like(decay, g) * v + (1 - like(decay, g)) * g.square()), state.square, widened)
        step = tree.map(lambda g, v: g / (_above_zero(v).sqrt() + like(eps, g)), widened, square)
        total = ()
        if heavy:
            step = total = tree.map(lambda m, s: without_subnormals(like(momentum, s) * m + s), state.momentum, step)
        updates = tree.map(lambda s, g: (-like(rate, s) * s).to(g.dtype), step, grads)
        return updates, RMSPropState(state.count + 1, square, total)

    return rule("rmsprop", learning_rate, init, update)


def clip_up(learning_rate: Number | Schedule, momentum: Number = 0.9, max_speed: Number | None = None) -> Optimizer:
    r"""Make ClipUp: the gradient counts by its direction alone, and no update is longer than ``max_speed``.

    .. math:: v' = \mu v_{t-1} + \alpha_t \frac{g_t}{\lVert g_t \rVert}, \qquad
        v_t = v' \min\left(1, \frac{v_{max}}{\lVert v' \rVert}\right), \qquad \Delta_t = -v_t

    Norms are over all leaves. A gradient of 0 adds nothing. It is for gradients that are as noisy as those of evolution strategies.

    Args:
        learning_rate: alpha, at least 0: a number, a tensor [] or a schedule.
        momentum: mu in [0, 1), a number or a tensor [].
        max_speed: v_max, above 0, a number or a tensor []; None: twice the learning rate, the paper's choice.

    Raises:
        ValueError: if a Python number is outside its range.
        TypeError: if a hyperparameter is neither a number nor a floating-point tensor [] (nor a schedule).

    Example:
        >>> import torch
        >>> opt, params = clip_up(0.5), torch.zeros(2)
        >>> state = opt.init(params)
        >>> for _ in range(3):
        ...     update, state = opt.update(torch.tensor([30.0, 40.0]), state, params)
        >>> update  # of length 1, twice the learning rate
        tensor([-0.6000, -0.8000])

    Reference: N. E. Toklu, P. Liskowski, R. K. Srivastava, "ClipUp: A Simple and Powerful Optimizer for Distribution-based Policy
        Evolution", 2020, arXiv:2008.02387, algorithm 1.
    """
    _check.number("clip_up: momentum", momentum, "[0, 1)", tensor=True)
    if max_speed is not None:
        _check.number("clip_up: max_speed", max_speed, "(0, inf]", "use math.inf for no limit", tensor=True)

    def update(rate: Number, grads: Any, state: ClipUpState, params: Any) -> tuple[Any, ClipUpState]:
        limit = 2 * rate if max_speed is None else max_speed
        wide_grads = tree.map(wide, grads)
        norm = global_norm(wide_grads)
        factor = rate / torch.where(norm == 0, 1.0, norm)
        velocity = tree.map(lambda v, g: like(momentum, g) * v + factor.to(g.dtype) * g, state.velocity, wide_grads)
        shrink = shrinking(global_norm(velocity), limit)
        velocity = tree.map(lambda v: without_subnormals(shrink.to(v.dtype) * v), velocity)
        return tree.map(lambda v, g: (-v).to(g.dtype), velocity, grads), ClipUpState(state.count + 1, velocity)

    return rule("clip_up", learning_rate, lambda count, params: ClipUpState(count, _wide_zeros(params)), update)


def _adam(name: str, learning_rate: Number | Schedule, b1: Number, b2: Number, eps: Number, weight_decay: Number | None) -> Optimizer:
    _check.number(f"{name}: b1", b1, "[0, 1)", tensor=True)
    _check.number(f"{name}: b2", b2, "[0, 1)", tensor=True)
    _check.number(f"{name}: eps", eps, "[0, inf]", tensor=True)

    def update(rate: Number, grads: Any, state: AdamState, params: Any) -> tuple[Any, AdamState]:
        count = state.count + 1
        widened = tree.map(wide, grads)
        mean = tree.map(lambda m, g: without_subnormals(like(b1, g) * m + (1 - like(b1, g)) * g), state.mean, widened)
        square = tree.map(lambda v, g: without_subnormals(like(b2, g) * v + (1 - like(b2, g)) * g.square()), state.square, widened)

        def step(m: torch.Tensor, v: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
            first, second = _bias_correction(b1, count, m.dtype), _bias_correction(b2, count, m.dtype)
            direction = m / first / ((_above_zero(v) / second).sqrt() + like(eps, m))
            if weight_decay is not None:
                direction = direction + like(weight_decay, m) * wide(p)
            return (-like(rate, m) * direction).to(p.dtype)

        return tree.map(step, mean, square, params), AdamState(count, mean, square)

    return rule(name, learning_rate, lambda count, params: AdamState(count, _wide_zeros(params), _wide_zeros(params)), update)


def rule(name: str, learning_rate: Number | Schedule, init: Callable[..., Any], update: Callable[..., Any]) -> Optimizer:
    """Make an optimiser with a count of its updates and a learning rate.

    Args:
        name: of the factory, for messages.
        learning_rate: a schedule, a finite number of at least 0, or a tensor [].
        init: ``init(count, params) -> state``.
        update: ``update(rate, grads, state, params) -> (updates, state)``.
    """
    if not callable(learning_rate):
        _check.number(f"{name}: learning_rate", learning_rate, "[0, inf)", tensor=True)

    def start(params: Any) -> Any:
        leaves = _check.some(f"{name}: params", tree.leaves(params), "leaf")
        for path, x in zip(tree.paths(params), leaves, strict=True):
            _check.floating(f"{name}: params: leaf {path}", x, "keep integers and other constants out of params")
        return init(torch.zeros((), dtype=torch.int64, device=leaves[0].device), params)

    def checked(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        tree.check_like(grads, params, f"{name}: grads", "params")
        return update(learning_rate(state.count) if callable(learning_rate) else learning_rate, grads, state, params)

    return Optimizer(start, checked)


def without_subnormals(x: torch.Tensor) -> torch.Tensor:
    """Return x with 0 instead of subnormal numbers, with which a processor is a hundred times slower.

    The means of a weight whose gradient stays 0, such as that of a unit that is never active, decay to subnormal numbers. In half
    precision, whose smallest normal number is not very small, processors calculate in float32.
    """
    return torch.where(x.abs() < torch.finfo(torch.promote_types(x.dtype, torch.float32)).tiny, 0.0, x)


def _above_zero(square: torch.Tensor) -> torch.Tensor:
    """Return a mean of squares, with the smallest normal number where it was rounded to 0, so that quotients stay small."""
    return square.clamp(min=torch.finfo(square.dtype).tiny)


def _wide_zeros(params: Any) -> Any:
    """Return zeros like the parameters, in float32 for those in half precision."""
    return tree.map(wide, _zeros(params))


def _bias_correction(b: Number, count: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return 1 - b ** count without cancellation, which would lose five digits for b = 0.999 in float32."""
    log_b = b.to(dtype).log() if isinstance(b, torch.Tensor) else math.log(b) if b > 0 else -math.inf
    return -torch.expm1(count.to(dtype) * log_b)


def _zeros(params: Any) -> Any:
    return tree.map(lambda p: torch.zeros_like(p, memory_format=torch.contiguous_format), params)
