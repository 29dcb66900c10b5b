"""ARS: augmented random search."""

from typing import Any

from funrl import evolution, nn, optim, tree
from funrl.algos._algorithm import Algorithm
from funrl.algos._evolutionary import EvolutionConfig, evolving
from funrl.env import AnyEnv

__all__ = ["ARSConfig", "make"]


@tree.dataclass
class ARSConfig(EvolutionConfig):
    """The options of :func:`make`: those of :class:`~funrl.algos.EvolutionConfig`, and these.

    Attributes:
        sigma: the standard deviation of the candidates, above 0.
        learning_rate: of gradient descent, at least 0.
        num_elites: the number of directions that are learned from; 0: half of them.
    """

    sigma: Any = 0.05
    learning_rate: Any = 0.05
    num_elites: int = tree.static(default=0)


def make(env: AnyEnv, *, network: nn.OwnNet = None, optimizer: optim.Optimizer | None = None, **options: Any) -> Algorithm:
    """Make ARS for a pure environment: an update is a generation of :func:`funrl.evolution.ars`.

    Args:
        env, network: as for :func:`funrl.algos.snes.make`.
        optimizer: any :class:`funrl.optim.Optimizer`, instead of ``learning_rate``; None: gradient descent.
        **options: fields of :class:`ARSConfig`.

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

    Reference: H. Mania, A. Guy, B. Recht, "Simple random search provides a competitive approach to reinforcement learning", 2018,
        arXiv:1803.07055: version V1-t, or V2-t with ``normalize_observation``.
    """

    def strategy(num_candidates: int, hparams: ARSConfig) -> evolution.Strategy:
        rule = optimizer or optim.sgd(hparams.learning_rate)
        return evolution.ars(num_candidates, rule, num_elites=hparams.num_elites or None, sigma=hparams.sigma)

    return evolving("ars", env, ARSConfig, options, strategy, network=network, optimizer=optimizer)
