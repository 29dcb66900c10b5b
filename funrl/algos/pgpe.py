"""PGPE: policy gradients with parameter-based exploration."""

from typing import Any

from funrl import evolution, nn, optim, tree
from funrl.algos._algorithm import Algorithm
from funrl.algos._evolutionary import EvolutionConfig, evolving
from funrl.env import AnyEnv

__all__ = ["PGPEConfig", "make"]


@tree.dataclass
class PGPEConfig(EvolutionConfig):
    """The options of :func:`make`: those of :class:`~funrl.algos.EvolutionConfig`, and these.

    Attributes:
        sigma: the first standard deviation of the candidates, above 0; fixed.
        learning_rate: of ClipUp, at least 0; the largest step is twice that.
        sigma_learning_rate: of the standard deviations, at least 0.
        max_change: the largest share by which a standard deviation changes in a generation, in [0, 1).
    """

    sigma: float = tree.static(default=0.1)
    learning_rate: Any = 0.15
    sigma_learning_rate: Any = 0.1
    max_change: Any = 0.2


def make(env: AnyEnv, *, network: nn.OwnNet = None, optimizer: optim.Optimizer | None = None, **options: Any) -> Algorithm:
    """Make PGPE for a pure environment: an update is a generation of :func:`funrl.evolution.pgpe`.

    Args:
        env, network: as for :func:`funrl.algos.snes.make`.
        optimizer: any :class:`funrl.optim.Optimizer`, instead of ``learning_rate``, in ``learner.hparams`` too; None: ClipUp.
        **options: fields of :class:`PGPEConfig`.

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

    Reference: F. Sehnke, C. Osendorfer, T. Rückstieß, A. Graves, J. Peters, J. Schmidhuber, "Parameter-exploring policy gradients",
        Neural Networks 23, 2010, doi:10.1016/j.neunet.2009.12.004 (no arXiv id), and more as for :func:`funrl.evolution.pgpe`.
    """

    def strategy(num_candidates: int, hparams: PGPEConfig) -> evolution.Strategy:
        return evolution.pgpe(
            num_candidates,
            optimizer or optim.clip_up(hparams.learning_rate),
            sigma=hparams.sigma,
            sigma_learning_rate=hparams.sigma_learning_rate,
            max_change=hparams.max_change,
        )

    return evolving("pgpe", env, PGPEConfig, options, strategy, network=network, optimizer=optimizer)
