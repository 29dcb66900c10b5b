"""PopArt: value heads that learn normalised targets, and statistics of the targets of each task that preserve their outputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _across, _check, tree

__all__ = ["PopArt", "PopArtState", "popart"]


@tree.dataclass
class PopArtState(tree.Replaceable):
    """Statistics of the targets of K tasks.

    Attributes:
        mean: floating point [K], at first 0.
        var: floating point [K], at first 1.
        weight: floating point [K], in [0, 1]: the total weight of the targets in mean and variance; 0 before the first.
    """

    mean: torch.Tensor
    var: torch.Tensor
    weight: torch.Tensor


class PopArt(NamedTuple):
    """Functions of a value head whose K outputs are the normalised values of K tasks, as :func:`popart` makes them.

    Attributes:
        num_tasks: K.
        task: ``task(observation) -> int64 [N...]``: the numbers of the tasks of observations [N..., ...].
        init: ``init(like) -> PopArtState``: the statistics before the first target, in dtype and on the device of a tensor.
        update: ``update(state, task, target) -> PopArtState``, from int64 [N...] and floating point [N...].
        rescale: ``rescale(layer, before, after) -> layer``: the last layer of the head, a dict of ``weight`` [K, D] and ``bias`` [K], for
            other statistics; the values that :attr:`denormalize` computes from its outputs stay the same.
        scale: ``scale(state, task) -> [N...]``: the standard deviation of the targets of a task.
        normalize: ``normalize(state, task, value) -> [N...]``.
        denormalize: ``denormalize(state, task, normalized) -> [N...]``, the inverse of it.
    """

    num_tasks: int
    task: Callable[[Any], torch.Tensor]
    init: Callable[[torch.Tensor], PopArtState]
    update: Callable[[PopArtState, torch.Tensor, torch.Tensor], PopArtState]
    rescale: Callable[[dict[str, Any], PopArtState, PopArtState], dict[str, Any]]
    scale: Callable[[PopArtState, torch.Tensor], torch.Tensor]
    normalize: Callable[[PopArtState, torch.Tensor, torch.Tensor], torch.Tensor]
    denormalize: Callable[[PopArtState, torch.Tensor, torch.Tensor], torch.Tensor]


def popart(
    task: Callable[[Any], torch.Tensor], num_tasks: int, *, rate: float = 0.1, min_scale: float = 1e-4, max_scale: float = 1e6
) -> PopArt:
    r"""Make the functions of PopArt, for value functions whose targets differ in scale, between tasks or over time.

    Output k of the head, :math:`n_k = w_k^\top h + b_k`, is the value of task k, normalised by the mean and standard deviation of its
    targets; :math:`V = \sigma_k n_k + \mu_k`. An update with the targets G of a task moves the statistics towards their mean
    :math:`\bar G` and variance s²,

    .. math:: \mu' = \mu + \beta (\bar G - \mu), \qquad \sigma'^2 = (1 - \beta) (\sigma^2 + \beta (\bar G - \mu)^2) + \beta s^2,

    with :math:`\beta = \alpha / (1 - (1 - \alpha)^t)` in the t-th update of the task, so that the first one replaces the initial values.
    Then the layer is rescaled, so that all values stay as they were, up to the rounding of a number as large as the mean:

    .. math:: w' = \frac{\sigma}{\sigma'} w, \qquad b' = \frac{\sigma b + \mu - \mu'}{\sigma'}

    Args:
        task: ``task(observation) -> int64 [N...]``: the numbers of the tasks of observations, such as ``meta.task_number(env)``.
        num_tasks: K, at least 1.
        rate: alpha, in (0, 1].
        min_scale: the least standard deviation, above 0.
        max_scale: the greatest one.

    Returns:
        A :class:`PopArt`, the argument ``popart`` of :func:`funrl.algos.ppo.make`.

    Raises:
        ValueError: if a number is out of its range.
        TypeError: if ``task`` is not a function.

    Example:
        >>> one = popart(lambda observation: torch.zeros_like(observation[..., 0], dtype=torch.int64), 1)
        >>> state, task = one.init(torch.zeros(())), torch.zeros(2, dtype=torch.int64)
        >>> after = one.update(state, task, torch.tensor([900.0, 1100.0]))
        >>> after.mean, one.scale(after, task[0])
        (tensor([1000.]), tensor(100.))
        >>> layer = one.rescale({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, state, after)
        >>> one.denormalize(after, task[0], layer["weight"] @ torch.tensor([1.0, 2.0]) + layer["bias"])
        tensor([3.])

    Reference: H. van Hasselt, A. Guez, M. Hessel, V. Mnih, D. Silver, "Learning values across many orders of magnitude", 2016,
        arXiv:1602.07714; with several tasks M. Hessel et al., "Multi-task Deep Reinforcement Learning with PopArt", 2018,
        arXiv:1809.04474. The second moment of the papers is written as a variance here, which loses fewer digits.
    """
    _check.function("popart: task", task, "meta.task_number(env) is one")
    _check.integer("popart: num_tasks", num_tasks, 1)
    _check.number("popart: rate", rate, "(0, 1]")
    _check.number("popart: min_scale", min_scale, "(0, inf)")
    _check.number("popart: max_scale", max_scale, "(0, inf)")
    if not min_scale < max_scale:
        raise ValueError(f"popart: min_scale, max_scale: expected a lower and a higher scale, got {min_scale} and {max_scale}")

    def init(like: torch.Tensor) -> PopArtState:
        zeros = torch.zeros(num_tasks, dtype=like.dtype, device=like.device)
        return PopArtState(zeros, torch.ones_like(zeros), zeros.clone())

    def update(state: PopArtState, task: torch.Tensor, target: torch.Tensor) -> PopArtState:
        chosen = tree.one_hot(task, num_tasks, target).reshape(-1, num_tasks)
        flat = torch.where(chosen > 0, target.reshape(-1, 1), state.mean)  # a target that is not finite spoils its own task only
        number, offset = _across.total((chosen.sum(0), (flat - state.mean).sum(0)))
        some = number.clamp(min=1)
        delta = offset / some
        spread = _across.total((chosen * (flat - state.mean - delta).square()).sum(0)) / some
        weight = state.weight + rate * (1 - state.weight)
        beta = rate / weight
        mean = state.mean + beta * delta
        var = (1 - beta) * (state.var + beta * delta.square()) + beta * spread
        return tree.map(lambda new, old: torch.where(number > 0, new, old), PopArtState(mean, var, weight), state)

    def deviation(state: PopArtState) -> torch.Tensor:
        return state.var.sqrt().clamp(min_scale, max_scale)

    def rescale(layer: dict[str, Any], before: PopArtState, after: PopArtState) -> dict[str, Any]:
        old, new = deviation(before), deviation(after)
        bias = (old * layer["bias"] + before.mean - after.mean) / new
        return {**layer, "weight": layer["weight"] * (old / new)[:, None], "bias": bias}

    def scale(state: PopArtState, task: torch.Tensor) -> torch.Tensor:
        return tree.rows(deviation(state), task)

    def normalize(state: PopArtState, task: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return (value - tree.rows(state.mean, task)) / scale(state, task)

    def denormalize(state: PopArtState, task: torch.Tensor, normalized: torch.Tensor) -> torch.Tensor:
        return scale(state, task) * normalized + tree.rows(state.mean, task)

    return PopArt(num_tasks, task, init, update, rescale, scale, normalize, denormalize)


def select_task(values: torch.Tensor, task: torch.Tensor) -> torch.Tensor:
    """Return the value [N...] of the task among the values [N..., K] of all.

    Example:
        >>> select_task(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0]))
        tensor([2., 3.])
    """
    return (values * tree.one_hot(task, values.shape[-1], values)).sum(-1)
