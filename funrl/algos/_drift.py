"""PPO with a drift function in the place of clipping."""

from collections.abc import Callable
from typing import Any

import torch

from funrl.losses import PPOBatch, drift_loss


def with_drift(drift: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """Make the ``loss=`` of :func:`funrl.algos.ppo.make` that has a drift function instead of clipping: :func:`funrl.losses.drift_loss`.

    The option ``clip`` has no effect then; all others have.

    Args:
        drift: ``drift(log_ratio [N], advantage [N]) -> D [N]``: :func:`funrl.losses.dpo_drift`, :func:`funrl.losses.learned_drift` of its
            parameters, or one of your own.

    Returns:
        ``loss(params, rows, hparams, *, default, apply) -> (loss, metrics)``.

    Example:
        >>> import funrl
        >>> discovered = with_drift(funrl.losses.dpo_drift)
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), loss=discovered, num_envs=4, num_steps=16)
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> bool(metrics["drift"] >= 0)
        True

    Reference: C. Lu, J. G. Kuba, A. Letcher, L. Metz, C. Schroeder de Witt, J. Foerster, "Discovered Policy Optimisation", 2022,
        arXiv:2210.05639.
    """

    def loss(
        params: Any, rows: PPOBatch, hparams: Any, *, default: Any, apply: Callable[..., Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        weights = {"value_weight": hparams.value_weight, "entropy_weight": hparams.entropy_weight}
        return drift_loss(params, rows, apply=apply, drift=drift, value_clip=hparams.value_clip, **weights)

    return loss
