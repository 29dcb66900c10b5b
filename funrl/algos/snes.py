"""SNES: separable natural evolution strategies."""

from typing import Any

from funrl import evolution, nn, tree
from funrl.algos._algorithm import Algorithm
from funrl.algos._evolutionary import EvolutionConfig, evolving
from funrl.env import AnyEnv

__all__ = ["SNESConfig", "make"]


@tree.dataclass
class SNESConfig(EvolutionConfig):
    """The options of :func:`make`: those of :class:`~funrl.algos.EvolutionConfig`, and these.

    Attributes:
        sigma: the first standard deviation of the candidates, above 0; fixed.
        learning_rate: of the mean, at least 0.
    """

    sigma: float = tree.static(default=0.3)
    learning_rate: Any = 1.0


def make(env: AnyEnv, *, network: nn.OwnNet = None, **options: Any) -> Algorithm:
    """Make SNES for a pure environment: an update is a generation of :func:`funrl.evolution.snes`.

    Args:
        env: a pure environment, not batched.
        network: a net from observations [N, ...] to the parameters [N, F] of the policy's distribution: logits, or the means of continuous
            actions; None: the network that the options describe. :func:`funrl.nn.from_module` makes a net from a torch module.
        **options: fields of :class:`SNESConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``help(funrl.algos)`` lists its metrics.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit the environment.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> algo = make(funrl.envs.make("CartPole-v1"), num_envs=8, num_steps=50)
        >>> state, metrics = algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))
        >>> metrics["steps"]
        tensor(400)

    Reference: T. Schaul, T. Glasmachers, J. Schmidhuber, "High Dimensions and Heavy Tails for Natural Evolution Strategies", GECCO
        2011, doi:10.1145/2001576.2001692 (no arXiv id), and more as for :func:`funrl.evolution.snes`.
    """

    def strategy(num_candidates: int, hparams: SNESConfig) -> evolution.Strategy:
        return evolution.snes(num_candidates, sigma=hparams.sigma, learning_rate=hparams.learning_rate)

    return evolving("snes", env, SNESConfig, options, strategy, network=network)
