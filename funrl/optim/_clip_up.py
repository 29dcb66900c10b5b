"""ClipUp: steps of one length, with momentum and a limit of the speed."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.optim._optimizer import Number, Optimizer, like, shrinking, wide
from funrl.optim._rules import rule, wide_zeros, without_subnormals
from funrl.schedules import Schedule
from funrl.tree import global_norm


@tree.dataclass
class ClipUpState(tree.Replaceable):
    """State of :func:`clip_up`.

    Attributes:
        count: int64 [], the number of updates so far.
        velocity: a tree like the parameters, in float32 if these are in half precision; minus the last update.
    """

    count: torch.Tensor
    velocity: Any


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

    return rule("clip_up", learning_rate, lambda count, params: ClipUpState(count, wide_zeros(params)), update)
