"""CMA-ES: evolution strategies that adapt the covariance of their candidates."""

from typing import Any

from funrl import evolution, nn, tree
from funrl.algos._algorithm import Algorithm
from funrl.algos._evolutionary import EvolutionConfig, evolving
from funrl.env import AnyEnv

__all__ = ["CMAESConfig", "make"]


@tree.dataclass
class CMAESConfig(EvolutionConfig):
    """The options of :func:`make`: those of :class:`~funrl.algos.EvolutionConfig`, and these.

    Attributes:
        sigma: the first step size, above 0; fixed.
        separable: whether only the diagonal of the covariance is adapted, for policies of many parameters.
        learning_rate: of the mean, at least 0.
    """

    sigma: float = tree.static(default=0.3)
    separable: bool = tree.static(default=False)
    learning_rate: Any = 1.0


def make(env: AnyEnv, *, network: nn.OwnNet = None, **options: Any) -> Algorithm:
    """Make CMA-ES for a pure environment: an update is a generation of :func:`funrl.evolution.cma_es`.

    Args:
        env, network: as for :func:`funrl.algos.snes.make`.
        **options: fields of :class:`CMAESConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``help(funrl.algos)`` lists its metrics.

    Raises:
        ValueError, TypeError: as for :func:`funrl.algos.snes.make`.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("CartPole-v1"), num_envs=8, num_steps=50)
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"]
        tensor(400)

    Reference: N. Hansen, "The CMA Evolution Strategy: A Tutorial", 2016, arXiv:1604.00772, and more as for
        :func:`funrl.evolution.cma_es`.
    """

    def strategy(num_candidates: int, hparams: CMAESConfig) -> evolution.Strategy:
        return evolution.cma_es(num_candidates, sigma=hparams.sigma, learning_rate=hparams.learning_rate, separable=hparams.separable)

    return evolving("cma_es", env, CMAESConfig, options, strategy, network=network)
