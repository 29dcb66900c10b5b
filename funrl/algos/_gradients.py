"""Gradient steps of off-policy learners, with Adam or an optimizer of the user's own."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import optim, tree


@tree.dataclass
class Learned(tree.Replaceable):
    """The part of a learner that a gradient step changes.

    Attributes:
        network: the parameters.
        target: the target parameters, without shared memory, or other values that targets are computed from.
        optimizer: the state of the optimizer, or of several.
        num_updates: int64 [], gradient steps so far.
    """

    network: Any
    target: Any
    optimizer: Any
    num_updates: torch.Tensor


def start_optimizer(optimizer: optim.Optimizer | None, network: Any, *parts: str) -> Any:
    """Return the initial optimizer state for a network, or a dict of one state for each part that has its own steps.

    Without an optimizer (None) it is the state of Adam for all parameters as one vector.

    Example:
        >>> from funrl.losses import ActorCritic
        >>> network = ActorCritic(torch.zeros(3, 2), torch.zeros(2))
        >>> start_optimizer(None, network).mean.shape, start_optimizer(None, network, "actor", "critic")["actor"].mean.shape
        (torch.Size([8]), torch.Size([6]))
    """
    if parts:
        return {part: start_optimizer(optimizer, getattr(network, part)) for part in parts}
    return (optimizer or _adam(0.0)).init(network)


def apply_gradients(
    learned: Learned, gradient: Any, learning_rate: torch.Tensor, optimizer: optim.Optimizer | None = None, *, part: str | None = None
) -> Learned:
    """Take a gradient step with the whole network, or with a part that has its own optimizer state.

    Without an optimizer it is a step of Adam with ``learning_rate``.

    Example:
        >>> learned = Learned(torch.ones(1), torch.ones(1), start_optimizer(None, torch.ones(1)), torch.tensor(0))
        >>> apply_gradients(learned, torch.ones(1), torch.tensor(0.5)).network
        tensor([0.5000])
    """
    network, state, optimizer = learned.network, learned.optimizer, optimizer or _adam(learning_rate)
    if part is None:
        updates, state = optimizer.update(gradient, state, network)
        return learned.replace(network=optim.apply_updates(network, updates), optimizer=state)
    params = getattr(network, part)
    updates, moved = optimizer.update(gradient, state[part], params)
    network = network.replace(**{part: optim.apply_updates(params, updates)})
    return learned.replace(network=network, optimizer={**state, part: moved})


def apply_all_gradients(
    learned: Learned, gradient: Any, learning_rate: torch.Tensor, optimizer: optim.Optimizer | None, parts: tuple[str, ...]
) -> Learned:
    """Take a gradient step with all parts of the network. An ``optimizer`` treats each part separately: norms and decay are those of the
    part.

    Without an optimizer it is one step of Adam, whose result does not depend on the parts.

    Example:
        >>> from funrl.losses import ActorCritic
        >>> network, clipped = ActorCritic(torch.ones(1), torch.ones(1)), optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(1.0))
        >>> learned = Learned(network, (), start_optimizer(clipped, network, "actor", "critic"), torch.tensor(0))
        >>> gradient = ActorCritic(torch.tensor([0.5]), torch.tensor([100.0]))
        >>> apply_all_gradients(learned, gradient, torch.tensor(0.5), clipped, ("actor", "critic")).network
        ActorCritic(actor=tensor([0.5000]), critic=tensor([0.]))
    """
    if optimizer is None or not parts:
        return apply_gradients(learned, gradient, learning_rate, optimizer)
    for part in parts:
        learned = apply_gradients(learned, getattr(gradient, part), learning_rate, optimizer, part=part)
    return learned


def minimize(
    loss: Callable[[Any], tuple[torch.Tensor, Any]], learned: Learned, learning_rate: torch.Tensor, optimizer: Any, *parts: str
) -> tuple[Learned, Any]:
    """Take a gradient step on ``loss(params) -> (loss, metrics)``; return the result and the metrics.

    ``params`` are those of the network or, if there is only one of ``parts``, of this part, and no other changes. Several parts are as for
    :func:`apply_all_gradients`.

    Example:
        >>> learned = Learned(torch.ones(1), (), start_optimizer(None, torch.ones(1)), torch.tensor(0))
        >>> minimize(lambda params: (params.sum(), {}), learned, torch.tensor(0.5), None)[0].network
        tensor([0.5000])
    """
    alone = parts[0] if len(parts) == 1 else None
    params = learned.network if alone is None else getattr(learned.network, alone)
    gradient, (_, metrics) = torch.func.grad_and_value(loss, has_aux=True)(params)
    if alone is None:
        return apply_all_gradients(learned, gradient, learning_rate, optimizer, parts), metrics
    return apply_gradients(learned, gradient, learning_rate, optimizer, part=alone), metrics


def _adam(learning_rate: Any) -> optim.Optimizer:
    return optim.flatten(optim.adam(learning_rate))
