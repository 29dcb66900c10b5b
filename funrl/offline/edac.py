"""EDAC: SAC-N with critics whose gradients in the action differ."""

from typing import Any

from funrl import tree
from funrl.algos import Algorithm
from funrl.nn import OwnNet
from funrl.offline import _skeleton as skeleton
from funrl.offline._skeleton import Data, EnvOrSpaces
from funrl.offline.sac_n import SACNConfig, learner
from funrl.optim import Optimizer

__all__ = ["EDACConfig", "make"]


@tree.dataclass
class EDACConfig(SACNConfig):
    """The options of :func:`make`: those of :class:`~funrl.offline.sac_n.SACNConfig`, and these.

    Attributes:
        diversity: eta, the weight of :func:`funrl.losses.ensemble_diversity_loss` against squared errors, at least 0.
    """

    diversity: Any = 1.0


def make(
    env: EnvOrSpaces, dataset: Data, *, actor: OwnNet = None, critic: OwnNet = None, optimizer: Optimizer | None = None, **options: Any
) -> Algorithm:
    """Make EDAC: SAC-N whose critics are made to disagree about actions outside the data, so that fewer of them are enough.

    Args:
        env, dataset, actor, critic, optimizer: as for :func:`funrl.offline.sac_n.make`.
        **options: fields of :class:`EDACConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``state.learner.params.network`` is a :class:`~funrl.losses.SoftActorCritic`.

    Raises:
        ValueError, TypeError: as for :func:`funrl.offline.sac_n.make`.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> data = funrl.offline.datasets.record(None, funrl.random.key(0), env=env, num_steps=100, num_envs=2)
        >>> algo = make(env, data, num_critics=3, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(funrl.random.key(2), algo.init(funrl.random.key(1)))
        >>> bool(metrics["diversity_loss"] <= 3)
        True

    Reference: G. An, S. Moon, J.-H. Kim, H. O. Song, "Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble", 2021,
        arXiv:2110.01548, algorithm 1. A step moves actor, critics and temperature at once, by the parameters before it.
    """
    return skeleton.build("edac", EDACConfig, env, dataset, learner, options, optimizer, {"actor": actor, "critic": critic})
