"""The diversity of an ensemble of critics, which EDAC adds to the critics' loss of SAC."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.losses._checks import fields, mean
from funrl.typing import ActionValue, Metrics


def ensemble_diversity_loss(
    critic_params: Any, batch: Any, *, critic: ActionValue, weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, Metrics]:
    r"""Return the similarity of the critics' gradients in the action: the mean cosine of all pairs, which EDAC makes small.

    .. math:: L = \frac1N \sum_i w_i \frac{1}{E - 1} \sum_{e} \sum_{f \ne e}
        \left\langle \frac{\nabla_a Q_{\theta_e}(s_i, a_i)}{\lVert \nabla_a Q_{\theta_e}(s_i, a_i) \rVert},
        \frac{\nabla_a Q_{\theta_f}(s_i, a_i)}{\lVert \nabla_a Q_{\theta_f}(s_i, a_i) \rVert} \right\rangle

    Args:
        critic_params: theta, of E critics, leaves [E, ...]; the argument to differentiate.
        batch: a :class:`funrl.env.Transition` of leaves [N...], of which observation and action are used.
        critic: ``critic(critic_params, observation, action) -> Q of each critic [E, N...]``, for any number of critics.
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], from -1 to E, and metrics, without gradient: ``diversity_loss`` [].

    Raises:
        ValueError: if there is one critic only, or shapes do not fit.
        TypeError: if ``batch`` lacks a field.

    Example:
        >>> import torch
        >>> from funrl.losses import ReinforceBatch
        >>> batch = ReinforceBatch(torch.ones(2, 3), torch.ones(2, 2), torch.ones(2))
        >>> critic = lambda p, s, a: torch.einsum("ea,...a->e...", p, a)
        >>> ensemble_diversity_loss(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]), batch, critic=critic)[0]  # one pair is alike
        tensor(1.)

    Reference: G. An, S. Moon, J.-H. Kim, H. O. Song, "Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble", 2021,
        arXiv:2110.01548, equation 3; the norms have 1e-10 added, as in the authors' code.
    """
    what = "ensemble_diversity_loss"
    fields(f"{what}: batch", batch, ("observation", "action"), "funrl.env.Transition")
    num = tree.leaves(critic_params)[0].shape[0]
    if num < 2:
        raise ValueError(f"{what}: critic_params: expected at least 2 critics, leaves [E, ...], got {num}")

    def total(actions: torch.Tensor) -> torch.Tensor:
        def one(params: Any, action: torch.Tensor) -> torch.Tensor:
            values = critic(tree.map(lambda x: x[None], params), batch.observation, action)
            _check.floating(f"{what}: critic's values of one critic", values, shape=(1, *batch.action.shape[:-1]))
            return values[0]

        return torch.func.vmap(one)(critic_params, actions).sum()

    gradient = torch.func.grad(total)(batch.action.expand(num, *batch.action.shape))
    # The root of 0 has no gradient.
    norm = (gradient.square().sum(-1, keepdim=True) + torch.finfo(gradient.dtype).tiny).sqrt()
    unit = gradient / (norm + 1e-10)
    together = unit.sum(0)
    pairs = together.square().sum(-1) - unit.square().sum(-1).sum(0)
    loss = mean(what, pairs / (num - 1), weight)
    return loss, {"diversity_loss": loss.detach()}
