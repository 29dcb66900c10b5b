"""RLPD: learning in an environment with data from the beginning."""

from typing import Any

from funrl import buffers, nn, tree
from funrl.algos import Algorithm, configure, redq
from funrl.algos.redq import REDQConfig
from funrl.env import AnyEnv
from funrl.offline import _skeleton as skeleton
from funrl.offline._dataset import Dataset
from funrl.offline._online import mixed_buffer
from funrl.optim import Optimizer

__all__ = ["RLPDConfig", "make"]


@tree.dataclass
class RLPDConfig(REDQConfig):
    """The options of :func:`make`: those of :class:`funrl.algos.redq.REDQConfig`, and these.

    Attributes:
        offline_share: the share of each batch that is of the data, in [0, 1).
    """

    num_cells: tuple = tree.static(default=(256, 256))
    offline_share: float = tree.static(default=0.5)
    learning_rate: Any = 3e-4
    entropy_share: Any = 0.5


def make(env: AnyEnv, dataset: Dataset | None, *, optimizer: Optimizer | None = None, **options: Any) -> Algorithm:
    """Make RLPD: soft actor-critic with an ensemble of critics that have layer normalisation, many gradient steps to an environment step,
    and batches of which one half is of the data.

    Args:
        env: the environment to act in: pure, or of ``num_envs`` copies. Actions are continuous.
        dataset: the data; None: batches are of the replay buffer alone.
        optimizer: any :class:`funrl.optim.Optimizer` in the place of Adam with ``learning_rate``; None: Adam.
        **options: fields of :class:`RLPDConfig`.

    Returns:
        An :class:`~funrl.algos.Algorithm`; ``state.learner.params.network`` is a :class:`~funrl.losses.SoftActorCritic`.

    Raises:
        ValueError: if an option is unknown, out of its range, or does not fit environment and data.
        TypeError: if an option has another type than its default.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> data = funrl.offline.datasets.record(None, funrl.random.key(0), env=env, num_steps=100, num_envs=2)
        >>> options = dict(num_steps=8, num_updates=4, policy_delay=2, batch_size=8, num_cells=(8,), num_critics=3, learning_starts=0)
        >>> algo = make(env, data, **options)
        >>> algo.step(funrl.random.key(1), algo.init(funrl.random.key(0)))[1]["updates"]
        tensor(4)

    Reference: P. J. Ball, L. Smith, I. Kostrikov, S. Levine, "Efficient Online Reinforcement Learning with Offline Data", 2023,
        arXiv:2302.02948, algorithm 1: the learner is REDQ's, with that buffer and those critics. As there, the defaults have 10 critics, 20
        gradient steps of them and one of the actor for each environment step, and a target entropy of -1/2 for each action dimension; with
        fewer gradient steps or critics much of the advantage over SAC is lost.
    """
    config, given = configure(RLPDConfig, options, optimizer=optimizer)
    env = skeleton.environment("rlpd", env, dataset)
    critic = nn.mlp(config.num_cells, 1, activation=config.activation, norm="layer")
    buffer = buffers.uniform(config.buffer_size)
    buffer = buffer if dataset is None else mixed_buffer(dataset, buffer, share=config.offline_share)
    replaced = ("offline_share", "buffer_size", *(("learning_rate", "anneal_steps") if optimizer is not None else ()))
    own = {name: value for name, value in vars(config).items() if name not in replaced}
    algo = redq.make(env, critic=critic, buffer=buffer, optimizer=optimizer, **own)
    return algo._replace(name="rlpd", config=config, given=given)
