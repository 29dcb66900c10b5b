"""Behavioural cloning of the best episodes."""

from typing import Any

from funrl import tree
from funrl.algos import Algorithm
from funrl.nn import OwnNet
from funrl.offline import _skeleton as skeleton
from funrl.offline._dataset import Dataset
from funrl.offline._skeleton import EnvOrSpaces
from funrl.offline._views import top
from funrl.offline.bc import BCConfig, learner
from funrl.optim import Optimizer

__all__ = ["FilteredBCConfig", "make"]


@tree.dataclass
class FilteredBCConfig(BCConfig):
    """The options of :func:`make`: those of :class:`~funrl.offline.bc.BCConfig`, and these.

    Attributes:
        fraction: the share of the episodes that are learned from, those with the greatest returns, in (0, 1].
    """

    fraction: float = tree.static(default=0.1)


def make(
    env: EnvOrSpaces, dataset: Dataset | None, *, actor: OwnNet = None, optimizer: Optimizer | None = None, **options: Any
) -> Algorithm:
    """Make behavioural cloning of the episodes with the greatest returns, a tenth of them.

    Args:
        env, actor, optimizer: as for :func:`funrl.offline.bc.make`.
        dataset: the data, in memory or memory-mapped; the rows of the chosen episodes are copied.
        **options: fields of :class:`FilteredBCConfig`.

    Raises:
        ValueError, TypeError: as for :func:`funrl.offline.bc.make`; if ``dataset`` is a stream.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("CartPole-v1")
        >>> data = funrl.offline.datasets.record(None, funrl.random.key(0), env=env, num_steps=200, num_envs=2)
        >>> algo = make(env, data, fraction=0.5, num_updates=3, batch_size=8, num_cells=(8,))
        >>> algo.data.size < data.size
        True

    Reference: L. Chen et al., "Decision Transformer: Reinforcement Learning via Sequence Modeling", 2021, arXiv:2106.01345, section 5.1
        ("percentile behavior cloning").
    """
    best = lambda dataset, config: top(dataset, config.fraction)  # noqa: E731
    return skeleton.build("filtered_bc", FilteredBCConfig, env, dataset, learner, options, optimizer, {"actor": actor}, best)
