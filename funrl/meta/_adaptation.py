"""Adaptation by gradient steps, and gradients through these steps: MAML and Reptile."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, tree
from funrl.compiler import scan

Loss = Callable[[Any, Any], torch.Tensor]
# At most so many steps on the same data are written out: the gradient of a loop runs each step twice. Every step adds to the compile time.
_UNROLLED = 5


@tree.dataclass
class MetaParams(tree.Replaceable):
    """The parameters from which a task is learned, and the sizes of the steps that it takes.

    Attributes:
        params: theta, the initial parameters of every task, a tree.
        step_size: alpha: floating point [], or a tree of the structure of ``params`` whose leaves broadcast to those of ``params``. Sizes
            that are learned fit the number of steps that they are learned with: those for one step become large, and more steps with them
            may diverge.
    """

    params: Any
    step_size: Any


def adapt(meta: MetaParams, data: Any, *, loss: Loss, num_steps: int | None = None) -> Any:
    r"""Take gradient steps on the loss of a task; the result is differentiable in the first parameters and in the step sizes.

    .. math:: \theta_{k+1} = \theta_k - \alpha \odot \nabla_\theta L(\theta_k, D_k), \qquad k = 0, \dots, K - 1

    Args:
        meta: theta_0 and alpha.
        data: D, the second argument of the loss, a tree of tensors: the same at each step or, without ``num_steps``, leaves [K, ...] with a
            row for each step.
        loss: ``loss(params, data) -> []``.
        num_steps: K, at least 0; None: as many as ``data`` has rows.

    Returns:
        theta_K, like ``meta.params``.

    Raises:
        ValueError: if ``step_size`` fits neither of its forms, ``num_steps`` is negative, or ``data`` has no rows without it.
        TypeError: if an argument is of another kind, or the loss does not return a tensor [].

    Example:
        >>> meta = MetaParams(torch.tensor(0.0), torch.tensor(0.25))
        >>> def loss(params, target):
        ...     return (params - target).square()
        >>> adapt(meta, torch.tensor(1.0), loss=loss, num_steps=2)
        tensor(0.7500)
        >>> adapt(meta, torch.tensor([1.0, 1.0, 1.0]), loss=loss)
        tensor(0.8750)

    Reference: C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017, arXiv:1703.03400.
    Learned step sizes, one for each parameter: Z. Li, F. Zhou, F. Chen, H. Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning",
    2017, arXiv:1707.09835.
    """
    return _descend("adapt", meta, data, num_steps, torch.func.grad(_checked("adapt", loss)))


def adapt_first_order(meta: MetaParams, data: Any, *, loss: Loss, num_steps: int | None = None) -> Any:
    """Take the steps of :func:`adapt`, with gradients that count as constants when the result is differentiated.

    The values are those of :func:`adapt`. The derivative of the result with respect to the first parameters is the identity, so that no
    second derivatives are computed.

    Args:
        meta, data, loss, num_steps: as for :func:`adapt`.

    Example:
        >>> def loss(params, target):
        ...     return (params - target).square()
        >>> def after(params, function):
        ...     return function(MetaParams(params, torch.tensor(0.25)), torch.tensor(1.0), loss=loss, num_steps=2)
        >>> [torch.func.grad(after)(torch.tensor(0.0), f) for f in (adapt, adapt_first_order)]
        [tensor(0.2500), tensor(1.)]

    Reference: section 5.2 of arXiv:1703.03400; A. Nichol, J. Achiam, J. Schulman, "On First-Order Meta-Learning Algorithms", 2018,
    arXiv:1803.02999.
    """

    def gradient(params: Any, data: Any) -> Any:
        return tree.map(torch.detach, torch.func.grad(checked)(params, data))

    checked = _checked("adapt_first_order", loss)
    return _descend("adapt_first_order", meta, data, num_steps, gradient)


def maml_loss(
    meta: MetaParams,
    support: Any,
    query: Any,
    *,
    loss: Loss,
    num_steps: int,
    adapt: Callable[..., Any] = adapt,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    r"""Return the mean loss of N tasks, each after gradient steps on its own data: the loss that MAML minimises.

    .. math:: L(\theta, \alpha) = \frac1N \sum_i L(\theta^i_K, D^{query}_i), \qquad \theta^i_K = adapt(\theta, \alpha, D^{support}_i)

    Its gradient with respect to ``meta`` is that of MAML, or with :func:`adapt_first_order` that of FOMAML. All tasks are one program:
    their steps run side by side.

    Args:
        meta: theta and alpha, the argument to differentiate.
        support: the data of the steps, a tree with leaves [N, ...]; row i is the ``data`` of ``adapt``.
        query: the data on which the results are judged, a tree with leaves [N, ...].
        loss: ``loss(params, data) -> []`` of one task.
        num_steps: K, the number of steps.
        adapt: :func:`adapt`, :func:`adapt_first_order` or a function of the same form.

    Returns:
        The loss [], and metrics, each [] and without gradient: ``loss_before`` and ``loss_after`` the steps, on ``query``.

    Raises:
        ValueError: if ``support`` and ``query`` are not of the same N tasks; otherwise as for :func:`adapt`.

    Example:
        >>> def loss(params, target):
        ...     return (params - target).square()
        >>> meta, target = MetaParams(torch.tensor(0.0), torch.tensor(0.25)), torch.tensor([1.0, -1.0])
        >>> value, metrics = maml_loss(meta, target, target, loss=loss, num_steps=1)
        >>> value, metrics["loss_before"]
        (tensor(0.2500), tensor(1.))

    Reference: algorithm 2 of arXiv:1703.03400.
    """

    def one(support: Any, query: Any) -> tuple[torch.Tensor, torch.Tensor]:
        before = tree.map(torch.detach, meta.params)
        return loss(adapt(meta, support, loss=loss, num_steps=num_steps), query), loss(before, query)

    sizes = {x.shape[:1] for x in tree.leaves((support, query))}
    if len(sizes) != 1 or not min(sizes):
        shapes = ", ".join(str(list(x.shape)) for x in tree.leaves((support, query)))
        raise ValueError(f"maml_loss: support, query: expected leaves [N, ...] of the same N tasks, got {shapes}")
    after, before = (x.mean(0) for x in torch.func.vmap(one)(support, query))
    return after, {"loss_before": before, "loss_after": after.detach()}


def reptile_gradient(meta: MetaParams, data: Any, *, loss: Loss, num_steps: int | None = None) -> Any:
    r"""Return the vector that Reptile uses as a gradient: the mean, over N tasks, of the initial minus the learned parameters.

    .. math:: g = \frac1N \sum_i (\theta - \theta^i_K)

    One step of :func:`funrl.optim.sgd` with the learning rate epsilon moves theta by epsilon towards the mean of the learned parameters.
    No second derivatives are computed.

    Args:
        meta: theta and alpha.
        data: a tree with leaves [N, ...]; row i is the ``data`` of :func:`adapt`.
        loss: ``loss(params, data) -> []`` of one task.
        num_steps: K, as for :func:`adapt`; choose at least 2, because with 1 the result is alpha times the gradient of the mean loss.

    Returns:
        A tree like ``meta.params``.

    Example:
        >>> def loss(params, target):
        ...     return (params - target).square()
        >>> meta = MetaParams(torch.tensor(0.0), torch.tensor(0.25))
        >>> reptile_gradient(meta, torch.tensor([1.0, 3.0]), loss=loss, num_steps=2)
        tensor(-1.5000)

    Reference: A. Nichol, J. Achiam, J. Schulman, "On First-Order Meta-Learning Algorithms", 2018, arXiv:1803.02999.
    """
    learned = torch.func.vmap(lambda data: adapt_first_order(meta, data, loss=loss, num_steps=num_steps))(data)
    return tree.map(lambda old, new: (old - new.mean(0)).detach(), meta.params, learned)


def _checked(what: str, loss: Any) -> Loss:
    """Return the loss with a check of its results."""
    _check.function(f"{what}: loss", loss)

    def called(params: Any, data: Any) -> torch.Tensor:
        value = loss(params, data)
        if not isinstance(value, torch.Tensor) or value.ndim:
            _check.fail(TypeError, f"{what}: loss", "a function that returns a tensor []", _check.describe(value), "take the mean or sum")
        return value

    return called


def _descend(what: str, meta: MetaParams, data: Any, num_steps: int | None, gradient: Callable[..., Any]) -> Any:
    if not isinstance(meta, MetaParams):
        raise TypeError(f"{what}: meta: expected a MetaParams, got {type(meta).__name__}; write MetaParams(params, torch.tensor(0.01))")
    if num_steps is not None:
        _check.integer(f"{what}: num_steps", num_steps, 0)
    elif not all(x.ndim for x in tree.leaves(data)):
        raise ValueError(
            f"{what}: data: expected leaves [K, ...] with a row for each step, got a tensor []; give num_steps to reuse all of it"
        )
    sizes = _sizes(what, meta)

    def step(params: Any, data: Any) -> tuple[Any, tuple[()]]:
        return tree.map(lambda p, s, g: p - s * g, params, sizes, gradient(params, data)), ()

    if num_steps is None and tree.leaves(data)[0].shape[:1] == (1,):
        data, num_steps = tree.index(data, 0), 1
    if num_steps is None:
        return scan(step, meta.params, data)[0]
    if num_steps > _UNROLLED:
        return scan(lambda params, _: step(params, data), meta.params, length=num_steps)[0]
    params = meta.params
    for _ in range(num_steps):
        params, _ = step(params, data)
    return params


def _sizes(what: str, meta: MetaParams) -> Any:
    """Return the step sizes as a tree like the parameters."""
    for x in tree.leaves(meta.step_size):
        _check.tensor(f"{what}: step_size", x)
    if isinstance(meta.step_size, torch.Tensor) and meta.step_size.ndim == 0:
        return tree.map(lambda p: meta.step_size, meta.params)
    if tree.structure(meta.step_size) != tree.structure(meta.params):
        got = tree.describe_leaf(meta.step_size) if isinstance(meta.step_size, torch.Tensor) else type(meta.step_size).__name__
        raise ValueError(f"{what}: step_size: expected a tensor [] or a tree like params, got {got}")
    for path, p, s in zip(tree.paths(meta.params), tree.leaves(meta.params), tree.leaves(meta.step_size), strict=True):
        if not _check.broadcasts(s.shape, p.shape):
            raise ValueError(f"{what}: step_size: leaf {path}: expected a shape that broadcasts to {list(p.shape)}, got {list(s.shape)}")
    return meta.step_size
