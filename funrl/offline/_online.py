"""The skeleton of learners that go from data to an environment: a replay buffer whose batches come in part from the data."""

from typing import Any

import torch

from funrl import _check, buffers, random, stats, tree
from funrl.algos import Algorithm, State, off_policy
from funrl.algos.off_policy import Learner, OffPolicyConfig
from funrl.env import AnyEnv, Transition
from funrl.offline._dataset import Dataset, check_dataset


@tree.dataclass
class OnlineConfig(OffPolicyConfig):
    """The options of a learner that continues in an environment: those of :class:`funrl.algos.off_policy.OffPolicyConfig`, and these.

    Attributes:
        offline_share: the share of each batch that comes from the data, in [0, 1).
    """

    learning_starts: int = tree.static(default=0)
    offline_share: float = tree.static(default=0.5)


def make(name: str, env: AnyEnv, dataset: Dataset | None, config: Any, spec: Learner, given: dict[str, Any]) -> Algorithm:
    """Make an off-policy :class:`~funrl.algos.Algorithm` with a :func:`mixed_buffer`.

    Raises:
        ValueError: if ``offline_share`` is out of its range, or observations are to be normalised.
        TypeError: if ``dataset`` is a stream.

    Example: see :func:`funrl.offline.iql.online`.

        >>> import funrl
        >>> funrl.offline.iql.online(funrl.envs.make("Pendulum-v1"), None, normalize_observation=True)
        Traceback (most recent call last):
        ...
        ValueError: normalize_observation: expected False, as observations of an environment are not normalised by data, got True; ...
    """
    if config.normalize_observation:
        raise ValueError(
            "normalize_observation: expected False, as observations of an environment are not normalised by data, got True; "
            "funrl.transforms.observation_norm does so in the environment, and datasets.normalize_observations in the data"
        )
    off_policy.check(name, env, config, discrete=False, observations="any")
    buffer = None
    if dataset is not None:
        buffer = mixed_buffer(dataset, buffers.uniform(config.buffer_size), share=config.offline_share)
    return off_policy.make(name, env, config, spec, given, buffer=buffer)


def mixed_buffer(dataset: Dataset, buffer: buffers.Buffer, *, share: float = 0.5) -> buffers.Buffer:
    """Return a replay buffer whose batches come in part from a data set: the symmetric sampling of RLPD.

    The data is not part of the buffer's state: vmapped agents share one copy. A column of the data's extras is 0 in rows of the
    environment, except ``return_to_go``, which is minus infinity there, so that it bounds nothing.

    Args:
        dataset: the data.
        buffer: the buffer for the transitions of the environment.
        share: the share of the data in a batch, in [0, 1), rounded to whole rows.

    Raises:
        ValueError: if ``share`` is out of its range.
        TypeError: if ``dataset`` is no :class:`funrl.offline.datasets.Dataset`.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> data = funrl.offline.datasets.record(None, random.key(0), env=env, num_steps=100, num_envs=2)
        >>> buffer = mixed_buffer(data, buffers.uniform(100), share=0.25)
        >>> zero = tree.map(lambda x: torch.zeros_like(x[0]), data.transition)
        >>> state = buffer.extend(buffer.init(zero), tree.map(torch.zeros_like, data.rows(torch.arange(10))))
        >>> (buffer.sample(random.key(1), state, 8).batch.reward == 0).sum()
        tensor(6)

    Reference: P. J. Ball, L. Smith, I. Kostrikov, S. Levine, "Efficient Online Reinforcement Learning with Offline Data", 2023,
        arXiv:2302.02948, section 4.1.
    """
    check_dataset("mixed_buffer", dataset)
    _check.instance("mixed_buffer: buffer", buffer, buffers.Buffer, "buffers.uniform makes one", "a funrl.buffers.Buffer")
    _check.number("offline_share", share, "[0, 1)")

    def sample(key: torch.Tensor, state: Any, batch_size: int) -> buffers.Sample:
        count = round(share * batch_size)
        data_key, buffer_key = random.split(key).unbind(0)
        own = buffer.sample(buffer_key, state, batch_size - count)
        rows: Transition = dataset.rows(random.randint(data_key, (count,), 0, dataset.size))
        mine = own.batch.extras if isinstance(own.batch.extras, dict) else {}
        theirs = {name: x for name, x in rows.extras.items() if name != "discount" or name in mine}
        mine = {name: mine.get(name, _fill(name, x, batch_size - count)) for name, x in theirs.items()}
        rows = tree.map(lambda x, like: x.to(like.dtype), rows.replace(extras=theirs), own.batch.replace(extras=mine))
        batch = tree.map(lambda x, y: torch.cat([x, y]), own.batch.replace(extras=mine), rows)
        ones = own.weights.new_ones(count)
        return own.replace(
            batch=batch,
            indices=torch.cat([own.indices, own.indices.new_full((count,), -1)]),
            probabilities=torch.cat([own.probabilities, ones / dataset.size]),
            weights=torch.cat([own.weights, ones]),
        )

    return buffer._replace(sample=sample, update_priority=None, sample_epoch=None, take=None)


def _fill(name: str, like: torch.Tensor, count: int) -> torch.Tensor:
    value = -torch.inf if name == "return_to_go" else 0
    return torch.full((count, *like.shape[1:]), value, dtype=like.dtype, device=like.device)


def hand_over(state: State, offline: State) -> State:
    """Return the state of an online learner that continues the learning of an offline one.

    Parameters, targets, the optimizer's state and the number of gradient steps are those of ``offline``; environments, buffer,
    hyperparameters and environment steps those of ``state``. Under :func:`torch.func.vmap` it does so for each agent.

    Args:
        state: the result of ``init`` of the online algorithm.
        offline: the state of the same algorithm offline, with networks of the same shapes.

    Raises:
        ValueError: if the parameters differ in structure or shape, or the offline learner normalised its observations.

    Example: see :func:`funrl.offline.iql.online`.

        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> states = [funrl.offline.iql.make(env, None, num_cells=cells).init(random.key(0)) for cells in ((8,), (9,))]
        >>> hand_over(*states)
        Traceback (most recent call last):
        ...
        ValueError: hand_over: offline: the parameters: ...
    """
    for name, x in (("state", state), ("offline", offline)):
        _check.instance(f"hand_over: {name}", x, State, "algo.init and algo.step return one", "a State")
    if isinstance(offline.learner.params.observation, stats.Moments):
        raise ValueError("hand_over: offline: expected a learner without normalize_observation, got one with normalize_observation=True")
    new, old = state.learner, offline.learner
    pairs = (("parameters", old.params.network, new.params.network), ("targets", old.target, new.target))
    for name, theirs, mine in (*pairs, ("optimizer's state", old.optimizer, new.optimizer)):
        tree.check_like(theirs, mine, f"hand_over: offline: the {name}", "that of state")
    learner = new.replace(
        params=new.params.replace(network=tree.map(torch.clone, old.params.network)),
        target=tree.map(torch.clone, old.target),
        optimizer=tree.map(torch.clone, old.optimizer),
        num_updates=old.num_updates.clone(),
    )
    return state.replace(learner=learner)
