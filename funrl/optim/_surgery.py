"""Gradient surgery: gradients of several tasks that do not undo each other."""

from typing import Any

import torch

from funrl import _across, _check, random, tree
from funrl.optim._optimizer import Optimizer, wide

__all__ = ["PCGradState", "pcgrad", "project_conflicts"]


@tree.dataclass
class PCGradState(tree.Replaceable):
    """State of :func:`pcgrad`.

    Attributes:
        count: int64 [], the number of updates so far.
        inner: the state of the optimiser of the joint gradient.
    """

    count: torch.Tensor
    inner: Any


def project_conflicts(key: torch.Tensor, gradients: Any) -> Any:
    r"""Join the gradients of K tasks to one, without the parts of each that conflict with another (PCGrad).

    Each gradient :math:`g_i` in turn meets the gradients of the other tasks in random order. Where its inner product with :math:`g_j` is
    negative, it is projected onto the plane that is orthogonal to :math:`g_j`:

    .. math:: g_i \leftarrow g_i - \frac{g_i \cdot g_j}{\lVert g_j \rVert^2} g_j

    The result is the sum of all :math:`g_i`. It is the sum of the gradients if no two of them conflict. Norms and products are over all
    leaves. The projections are computed with the inner products of the K gradients only, so that they cost about K² / 2 products; each
    gradient is first divided by its largest entry, so that no square of a finite gradient is 0 or infinite.

    Args:
        key: a key [], for the orders.
        gradients: a tree of floating-point tensors [K, ...] of one dtype.

    Returns:
        A tree of tensors [...].

    Raises:
        ValueError: if there is no leaf, or the leaves have not the same first dimension.
        TypeError: if a leaf is not a floating-point tensor.

    Example:
        >>> from funrl import random
        >>> conflict = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
        >>> project_conflicts(random.key(0), conflict)  # (0.5, 0.5) and (0, 1)
        tensor([0.5000, 1.5000])

    Reference: T. Yu, S. Kumar, A. Gupta, S. Levine, K. Hausman, C. Finn, "Gradient Surgery for Multi-Task Learning", 2020,
        arXiv:2001.06782, algorithm 1.
    """
    leaves = _check.some("project_conflicts: gradients", tree.leaves(gradients), "leaf")
    num_tasks = leaves[0].shape[0] if leaves[0].ndim else 0
    if not num_tasks or any(x.shape[:1] != leaves[0].shape[:1] for x in leaves):
        shapes = ", ".join(str(list(x.shape)) for x in leaves)
        raise ValueError(f"project_conflicts: gradients: expected leaves [K, ...] with a gradient for each of K tasks, got {shapes}")
    for x in leaves:
        _check.floating("project_conflicts: gradients", x)
    rows = torch.cat([wide(x).reshape(num_tasks, -1) for x in leaves], 1)
    size = rows.abs().amax(1)
    size = torch.where(size > 0, size, 1.0)
    rows = rows / size[:, None]
    products = rows @ rows.T
    numbers = torch.arange(num_tasks, device=rows.device)
    orders = torch.func.vmap(random.permutation, (0, None))(random.split(key, num_tasks), num_tasks)
    shares = torch.eye(num_tasks, dtype=rows.dtype, device=rows.device)  # row i is now the sum of shares[i, j] rows[j]
    for other in orders.unbind(1):
        chosen = (other[:, None] == numbers).to(rows.dtype)
        along = (shares @ products * chosen).sum(1)
        square = chosen @ products.diagonal()
        conflict = (along < 0) & (other != numbers) & (square > 0)
        shares = shares - torch.where(conflict, along / torch.where(conflict, square, 1.0), 0.0)[:, None] * chosen
    joint, form = (size @ shares) @ rows, tree.flatten(gradients)[1]
    parts = joint.split([x[0].numel() for x in leaves])
    return tree.unflatten(form, [part.reshape(x.shape[1:]).to(x.dtype) for part, x in zip(parts, leaves, strict=True)])


def pcgrad(optimizer: Optimizer, seed: int = 0) -> Optimizer:
    """Make an optimiser of gradients of K tasks, which are joined by :func:`project_conflicts`.

    Its ``update`` takes gradients with a first dimension of tasks, leaves [K, ...] for parameters [...]. The orders of the tasks depend on
    the seed and on the number of updates, so that they are the same in each run. PPO computes such gradients with
    ``meta.multi_task.make(env, gradient_surgery=True)``; the ``optimizer=`` of other learners gets the gradient of one loss. In
    :func:`funrl.distributed.data_parallel` the gradients of each task are averaged over all processes before they are joined.

    Args:
        optimizer: the optimiser of the joint gradient.
        seed: of the orders.

    Raises:
        TypeError: if ``optimizer`` is not an :class:`Optimizer`.

    Example:
        >>> from funrl import optim
        >>> opt, params = pcgrad(optim.sgd(1.0)), torch.zeros(2)
        >>> def loss(params, goal):
        ...     return (params - goal).square().sum() / 2
        >>> goals = torch.tensor([[-1.0, 0.0], [1.0, -1.0]])
        >>> gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, goals)
        >>> opt.update(gradients, opt.init(params), params)[0]
        tensor([-0.5000, -1.5000])
    """
    _check.instance("pcgrad: optimizer", optimizer, Optimizer, "call the factory, as in adam(1e-3)")
    random.key(seed, "cpu")  # raises if it is no seed

    def init(params: Any) -> PCGradState:
        return PCGradState(torch.zeros((), dtype=torch.int64, device=tree.leaves(params)[0].device), optimizer.init(params))

    def update(grads: Any, state: PCGradState, params: Any) -> tuple[Any, PCGradState]:
        key = random.fold_in(random.key(seed, state.count.device), state.count)
        joint = project_conflicts(key, _across.mean(grads))  # averaged before, because a projection is not linear
        updates, inner = optimizer.update(joint, state.inner, params)
        return updates, PCGradState(state.count + 1, inner)

    return Optimizer(init, update)
