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

from funrl.optim._optimizer import Optimizer, apply_updates, chain, clip_by_global_norm, flatten, scale
from funrl.optim._rules import adam, adamw, clip_up, rmsprop, sgd
from funrl.optim._surgery import pcgrad, project_conflicts
from funrl.optim._targets import hard_update, soft_update
from funrl.tree import global_norm

__all__ = [
    "Optimizer",
    "adam",
    "adamw",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "clip_up",
    "flatten",
    "global_norm",
    "hard_update",
    "pcgrad",
    "project_conflicts",
    "rmsprop",
    "scale",
    "sgd",
    "soft_update",
]
