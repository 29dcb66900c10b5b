"""The loss of sequence models of episodes, the decision transformer."""

from collections.abc import Callable
from typing import Any

import torch

from funrl.losses._checks import detach, fields
from funrl.losses._dqn import take
from funrl.typing import Metrics


def decision_transformer_loss(
    params: Any,
    window: Any,
    *,
    apply: Callable[..., torch.Tensor],
    key: torch.Tensor | None = None,
    scale: float | torch.Tensor = 1.0,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of a decision transformer: the actions of the data, predicted from what came before them and from the return to go.

    .. math:: L = \frac{\sum_{i,t} m_{i,t}\, \ell(\hat a_{i,t}, a_{i,t})}{\sum_{i,t} m_{i,t}}, \qquad
        \ell = \frac1A \left\lVert \frac{\hat a - a}{c} \right\rVert^2 \quad\text{or the cross-entropy of discrete actions}

    Args:
        params: of the model; the argument to differentiate.
        window: an object as :class:`funrl.offline.datasets.Window`, with ``transition`` (leaves [N, K, ...]), ``return_to_go`` [N, K],
            ``step`` int64 [N, K] and ``mask`` bool [N, K].
        apply: ``apply(params, observation, action, return_to_go, step, mask, key=key) -> actions [N, K, A]``, or logits [N, K, A] if
            actions are int64 [N, K]; output t must not depend on action t or on later entries.
        key: int64 [], for dropout; None: without.
        scale: c, above 0, the unit of continuous actions, a number or a tensor that broadcasts to the action.

    Returns:
        The loss [], and metrics, without gradient: ``actor_loss`` [].

    Raises:
        ValueError: if the output of ``apply`` has another shape than the actions.
        TypeError: if ``window`` lacks a field.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> from types import SimpleNamespace
        >>> flags = torch.zeros(1, 2, dtype=torch.bool)
        >>> observation, action = torch.zeros(1, 2, 3), torch.tensor([[[9.0], [2.0]]])
        >>> rows = Transition(observation, action, torch.zeros(1, 2), flags, flags, observation, {})
        >>> padded = torch.tensor([[False, True]])
        >>> window = SimpleNamespace(transition=rows, return_to_go=torch.ones(1, 2), step=torch.tensor([[0, 0]]), mask=padded)
        >>> decision_transformer_loss(torch.tensor(0.5), window, apply=lambda p, s, a, g, t, m, key: p * torch.ones(1, 2, 1))[0]
        tensor(2.2500)

    Reference: L. Chen et al., "Decision Transformer: Reinforcement Learning via Sequence Modeling", 2021, arXiv:2106.01345, algorithm 1.
    """
    what = "decision_transformer_loss"
    fields(f"{what}: window", window, ("transition", "return_to_go", "step", "mask"), "funrl.offline.datasets.Window")
    rows, mask = window.transition, window.mask
    output = apply(params, rows.observation, rows.action, window.return_to_go, window.step, mask, key=key)
    if rows.action.is_floating_point():
        if output.shape != rows.action.shape:
            raise ValueError(f"{what}: apply: expected actions {list(rows.action.shape)}, got {list(output.shape)}")
        each = ((output - rows.action) / scale).square().mean(-1)
    else:
        if output.shape[:-1] != rows.action.shape:
            raise ValueError(f"{what}: apply: expected logits {[*rows.action.shape, 'A']}, got {list(output.shape)}")
        each = -take(output.log_softmax(-1), rows.action)
    count = mask.to(each.dtype).sum().clamp(min=1.0)
    loss = torch.where(mask, each, 0.0).sum() / count
    return loss, {"actor_loss": detach(loss)}
