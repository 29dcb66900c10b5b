"""OpenES: evolution strategies with ranks and an optimizer of gradients."""

from typing import Any

from funrl import evolution, nn, optim, tree
from funrl.algos._algorithm import Algorithm
from funrl.algos._evolutionary import EvolutionConfig, evolving
from funrl.env import AnyEnv

__all__ = ["OpenESConfig", "make"]


@tree.dataclass
class OpenESConfig(EvolutionConfig):
    """The options of :func:`make`: those of :class:`~funrl.algos.EvolutionConfig`, and these.

    Attributes:
        sigma: the standard deviation of the candidates, above 0.
        learning_rate: of Adam, at least 0.
        weight_decay: of AdamW, at least 0.
    """

    sigma: Any = 0.1
    learning_rate: Any = 0.05
    weight_decay: Any = 0.0


def make(env: AnyEnv, *, network: nn.OwnNet = None, optimizer: optim.Optimizer | None = None, **options: Any) -> Algorithm:
    """Make OpenES for a pure environment: an update is a generation of :func:`funrl.evolution.openes`.

    Args:
        env, network: as for :func:`funrl.algos.snes.make`.
        optimizer: any :class:`funrl.optim.Optimizer`, instead of ``learning_rate``, in ``learner.hparams`` too; None: AdamW.
        **options: fields of :class:`OpenESConfig`.

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

    Reference: T. Salimans, J. Ho, X. Chen, S. Sidor, I. Sutskever, "Evolution Strategies as a Scalable Alternative to Reinforcement
        Learning", 2017, arXiv:1703.03864. Deviations: as for :func:`funrl.evolution.openes`.
    """

    def strategy(num_candidates: int, hparams: OpenESConfig) -> evolution.Strategy:
        adamw = optim.adamw(hparams.learning_rate, weight_decay=hparams.weight_decay)
        return evolution.openes(num_candidates, optimizer or adamw, sigma=hparams.sigma)

    return evolving("openes", env, OpenESConfig, options, strategy, network=network, optimizer=optimizer)
