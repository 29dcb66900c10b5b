"""Data parallel learning: one learner whose environments are divided among processes, and whose gradients are their means."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _across, _check, random, tree
from funrl.acting import rollout
from funrl.algos import Algorithm, LearnerState, Rollouts, State
from funrl.algos.episodes import Episodes
from funrl.compiler import elementwise_call
from funrl.distributed._group import Group
from funrl.env import Transition, VectorEnv
from funrl.optim import Optimizer
from funrl.typing import Metrics

__all__ = ["averaged", "data_parallel"]


def averaged(optimizer: Optimizer) -> Optimizer:
    r"""Make an optimiser that takes the means of the gradients over all processes of :func:`data_parallel`.

    .. math:: g = \frac{1}{W} \sum_{r=1}^{W} g_r

    All gradients of a dtype are exchanged as one vector, inside of a compiled program too. Outside of :func:`data_parallel` it is
    ``optimizer`` itself. Whatever depends on the whole gradient, such as a clipped norm, belongs inside: ``averaged(chain(...))``.

    Args:
        optimizer: any :class:`funrl.optim.Optimizer`.

    Returns:
        An :class:`funrl.optim.Optimizer` with the same state.

    Raises:
        TypeError: if ``optimizer`` is not one.

    Example:
        >>> from funrl import optim
        >>> opt = averaged(optim.sgd(0.5))
        >>> opt.update(torch.ones(2), opt.init(torch.zeros(2)), torch.zeros(2))[0]
        tensor([-0.5000, -0.5000])
    """
    _check.instance("distributed.averaged: optimizer", optimizer, Optimizer, "call the factory, as in adam(1e-3)")
    return _Averaged(optimizer.init, lambda grads, state, params: optimizer.update(_across.mean(grads), state, params))


class _Averaged(Optimizer):
    """An optimiser that :func:`averaged` made."""


def data_parallel(make: Callable[[int], Algorithm], num_envs: int, group: Group) -> Algorithm:
    """Divide the environments of one learner among the processes of a group; the gradients are the means over all.

    Each process has ``num_envs / W`` environments. Environment b has the random numbers that it has in one process with all environments;
    the statistics of observations, rewards and tasks, the moments of advantages and the metrics of a loss are of all processes. So all have
    the same parameters, which are those of one process with all environments, up to rounding, if a pass has one minibatch. With several,
    each process divides its own rows among them. The parts of a replay buffer, and the environments of a :class:`~funrl.env.VectorEnv`,
    have random numbers of their own in each process.

    ``explained_variance`` and the metrics of off-policy learners are means over the processes; those of episodes are of all environments.

    Args:
        make: ``make(num_envs) -> Algorithm``, with an ``optimizer`` that :func:`averaged` made.
        num_envs: B, the environments of all processes together.
        group: the processes.

    Returns:
        The algorithm of this process. ``funrl.train(algo, ..., group=group)`` trains it, with one table of metrics, and a checkpoint with a
        file for each process, from which the same number of processes resumes.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if the number of processes does not divide ``num_envs``, the algorithm has no averaged optimizer, or its ``collect`` in
            a single environment is more than a rollout of its policy, as in MAML, APG, SHAC and evolution strategies. When it learns: if a
            network has a batch normalisation, as in CrossQ.
        DistributedError: when it is called, as for :meth:`Group.gather`.

    Example:
        >>> import funrl
        >>> from funrl import optim
        >>> env = funrl.envs.make("CartPole-v1")
        >>> make = lambda num_envs: funrl.algos.a2c.make(env, num_envs=num_envs, num_steps=4, optimizer=averaged(optim.adam(1e-3)))
        >>> algo = data_parallel(make, 4, funrl.distributed.alone())
        >>> state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        >>> metrics["steps"]
        tensor(16)
    """
    _check.integer("distributed.data_parallel: num_envs", num_envs, 1)
    _check.function("distributed.data_parallel: make", make, "give lambda num_envs: algos.ppo.make(env, num_envs=num_envs, ...)")
    _check.instance("distributed.data_parallel: group", group, Group, "give that of distributed.join, or distributed.alone()")
    if num_envs % group.size:
        raise ValueError(
            f"distributed.data_parallel: num_envs: {group.size} processes do not divide {num_envs} environments; choose a multiple"
        )
    each, all_envs = num_envs // group.size, make(num_envs)
    algo = make(each)
    for found in (all_envs, algo):
        _check.instance("distributed.data_parallel: make", found, Algorithm, "return algos.ppo.make(env, num_envs=num_envs, ...)")
    copies = isinstance(algo.env, VectorEnv)
    if not copies and not isinstance(algo.collect, Rollouts):
        raise ValueError(
            f"distributed.data_parallel: make: {algo.name} collects in a way of its own, which cannot be divided among processes; "
            "choose an algorithm that learns from rollouts of its policy, such as ppo, or train several agents with funrl.train(group=...)"
        )
    if not isinstance(algo.given.get("optimizer"), _Averaged):
        raise ValueError(
            f"distributed.data_parallel: make: expected {algo.name} with an averaged optimizer, so that all processes take the same steps; "
            "give optimizer=distributed.averaged(optim.adam(3e-4))"
        )
    mine = slice(group.rank * each, (group.rank + 1) * each)

    def mean_of(x: torch.Tensor) -> torch.Tensor:
        return elementwise_call(group.mean, x)

    def init(key: torch.Tensor, *hparams: Any) -> State:
        own = algo.init(key, *hparams)
        if copies:
            return own.replace(actor=algo.init(random.fold_in(key, group.rank), *hparams).actor)
        leaves, form = tree.flatten(own)
        parts = zip(leaves, tree.leaves(all_envs.init(key, *hparams)), strict=True)
        return tree.unflatten(form, [_part(x, whole, mine) for x, whole in parts])

    def collect(key: torch.Tensor, state: State) -> Any:
        if copies:
            return algo.collect(random.fold_in(key, group.rank), state)
        learner, num_steps = state.learner, algo.config.num_steps
        keys = random.split(key, (num_steps, num_envs, 3))[:, mine]
        return rollout(learner.params, keys, state.actor, learner.env_params, env=algo.env, act=algo.act, num_steps=num_steps)

    def learn(key: torch.Tensor, learner: LearnerState, transitions: Transition) -> tuple[LearnerState, Metrics]:
        with _across.divided(group.size, group.rank, mean_of):
            learner, metrics = algo.learn(random.fold_in(key, group.rank), learner, transitions)
            return _of_all(group, learner, metrics)

    given = {**algo.given, "processes": group.size}
    return algo._replace(init=init, collect=collect, learn=learn, given=given)


def _part(x: torch.Tensor, whole: torch.Tensor, mine: slice) -> torch.Tensor:
    """Return the part of a leaf of all environments that belongs to this process, whose own leaf is ``x``."""
    differ = [i for i, (m, n) in enumerate(zip(x.shape, whole.shape, strict=True)) if m != n]
    return whole[(slice(None),) * differ[0] + (mine,)].contiguous() if len(differ) == 1 else x


def _of_all(group: Group, learner: LearnerState, metrics: Metrics) -> tuple[LearnerState, Metrics]:
    """Return the learner and its metrics with the episodes of all processes."""
    if group.size == 1:
        return learner, metrics
    names = [name for name in _EPISODES if name in metrics]
    numbers = {name: x.double() for name, x in metrics.items() if name in names or x.is_floating_point()}
    found = _across.every({**numbers, **{name: numbers[name].nan_to_num(_NONE) for name in names}})
    count = found["episodes"].round()
    # If no episode has ended in this update, these are the means of an earlier one, which all processes have.
    weight = torch.where(count.sum() > 0, count, torch.ones_like(count))
    ended = weight > 0
    of_all = {
        "episode_return": (weight * found["episode_return"]).sum() / weight.sum(),
        "episode_length": (weight * found["episode_length"]).sum() / weight.sum(),
        "episode_return_min": torch.where(ended, found["episode_return_min"], torch.inf).amin(),
        "episode_return_max": torch.where(ended, found["episode_return_max"], -torch.inf).amax(),
    }
    of_all = {name: torch.where(x < _NONE / 2, torch.nan, x).to(metrics[name].dtype) for name, x in of_all.items()}
    further = {name: x.mean(0).to(metrics[name].dtype) for name, x in found.items() if name not in names}
    episodes = learner.episodes
    if isinstance(episodes, Episodes):
        values = {place: of_all[name] for name, place in _EPISODES.items() if place}
        learner = learner.replace(episodes=episodes.replace(**values))
    return learner, {**metrics, **further, **of_all, "episodes": count.sum().to(metrics["episodes"].dtype)}


# The metrics of episodes, and the fields of a learner that have them.
_EPISODES = {
    "episode_return": "mean_return",
    "episode_return_min": "min_return",
    "episode_return_max": "max_return",
    "episode_length": "mean_length",
    "episodes": "",
}
# A number for the means of episodes before any has ended; it is exchanged with rounding.
_NONE = -(2.0**100)
