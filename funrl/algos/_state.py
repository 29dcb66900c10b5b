"""The state of an agent: an actor and a learner."""

from typing import Any

import torch

from funrl import acting, tree
from funrl.algos._rewards import RewardScale
from funrl.algos.episodes import Episodes


@tree.dataclass
class ActorParams(tree.Replaceable):
    """Parameters of a policy, for ``algo.act(params, key, observation)``. Fields that an algorithm does not use are ().

    Attributes:
        network: the learned parameters, a tree.
        observation: :class:`funrl.stats.Moments` that normalise observations.
        random: floating point [], probability of a uniformly random action.
        noise: floating point [], scale of exploration noise.
    """

    network: Any
    observation: Any = ()
    random: Any = ()
    noise: Any = ()


@tree.dataclass
class LearnerState(tree.Replaceable):
    """State of a learner. Fields that an algorithm does not use are ().

    Attributes:
        params: the parameters of the policy, :class:`ActorParams`.
        target: parameters of target networks, without shared memory, or other values that targets are computed from.
        optimizer: the state of the optimizer.
        buffer: the state of the replay buffer.
        normalizers: running statistics that are only needed for learning, such as those of rewards.
        hparams: the configuration with its hyperparameters as tensors [], which may differ between vmapped agents. Its static fields are
            equal to those of ``algo.config``; to change one, make another algorithm.
        num_steps: int64 [], environment steps so far, summed over all B environments.
        num_updates: int64 [], gradient steps so far.
        env_params: the physical constants of the environments, with the statistics of :func:`funrl.transforms.vec_norm`.
        episodes: :class:`funrl.algos.episodes.Episodes`, the returns of the unfinished episodes.
    """

    params: Any
    target: Any = ()
    optimizer: Any = ()
    buffer: Any = ()
    normalizers: Any = ()
    hparams: Any = ()
    num_steps: Any = ()
    num_updates: Any = ()
    env_params: Any = ()
    episodes: Any = ()

    def in_new_episodes(self) -> "LearnerState":
        """Return the learner after a reset of all environments: the sums of the running episodes are 0."""
        sums, scale, changes = self.episodes, self.normalizers, {}
        if isinstance(sums, Episodes):
            none = {"running_return": torch.zeros_like(sums.running_return), "running_length": torch.zeros_like(sums.running_length)}
            changes["episodes"] = sums.replace(**none)
        if isinstance(scale, RewardScale):
            changes["normalizers"] = scale.replace(discounted=torch.zeros_like(scale.discounted))
        return self.replace(**changes)


@tree.dataclass
class State(tree.Replaceable):
    """An agent: one tree, one checkpoint.

    Attributes:
        actor: :class:`funrl.acting.ActorState`, the environments and their current episodes.
        learner: :class:`LearnerState`.
    """

    actor: acting.ActorState
    learner: LearnerState


@tree.dataclass
class Learned(tree.Replaceable):
    """The part of a learner that a gradient step changes.

    Attributes:
        network: the parameters.
        target: the target parameters, without shared memory, or other values that targets are computed from.
        optimizer: the state of the optimizer, or of several.
        num_updates: int64 [], gradient steps so far.
    """

    network: Any
    target: Any
    optimizer: Any
    num_updates: torch.Tensor
