"""The skeleton of offline learners: draw batches from a data set, and take a gradient step on each."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from funrl import _check, buffers, random, stats, tree
from funrl.algos import ActorParams, Algorithm, Learned, LearnerState, State, configure, in_dtype_of, make_hparams, off_policy
from funrl.algos.off_policy import Learner
from funrl.env import AnyEnv, Env, Transition
from funrl.offline import _online as online
from funrl.offline._dataset import Dataset, check_actions, spaces_of
from funrl.offline._files import Stream
from funrl.offline._views import moments
from funrl.policies import StatefulPolicy
from funrl.spaces import Box, Discrete

_NO_ACTOR: Any = ()
EnvOrSpaces: TypeAlias = AnyEnv | tuple[Any, Any]
Data: TypeAlias = Dataset | Stream | None


@tree.dataclass
class OfflineConfig(tree.Replaceable):
    """The options of every offline learner. Those from ``learning_rate`` on are hyperparameters, which ``learner.hparams`` has as tensors.

    Attributes:
        num_updates: U, gradient steps in one step. Their batches are drawn at once: one step has U * ``batch_size`` transitions in memory.
        batch_size: transitions in a gradient step.
        num_cells: widths of the hidden layers of every network.
        activation: their activation, as for :func:`funrl.nn.mlp`.
        normalize_observation: whether observations are normalised by the moments of the data, in learning and in acting; they are clipped
            at 10 standard deviations, and 1e-6 is added to the variance.
        learning_rate: of Adam, at least 0.
        gamma: discount, in [0, 1]; transitions of :func:`funrl.offline.datasets.n_step` have factors of their own.
    """

    num_updates: int = tree.static(default=100)
    batch_size: int = tree.static(default=256)
    num_cells: tuple = tree.static(default=(256, 256))
    activation: str = tree.static(default="relu")
    normalize_observation: bool = tree.static(default=False)
    learning_rate: Any = 3e-4
    gamma: Any = 0.99


def environment(what: str, place: Any, dataset: Any) -> AnyEnv:
    """Return the environment that a learner was given, or one that has only the spaces; raise unless the data fits them.

    Raises:
        TypeError: if ``place`` is neither an environment nor a pair of spaces, or ``dataset`` no data set.
        ValueError: if the data has other spaces, or integer actions outside that of the environment.

    Warns:
        UserWarning: with their number, if continuous actions are outside the action space of the environment.

    Example:
        >>> environment("bc", (Box(-1.0, 1.0, (2,)), Discrete(3)), None).name
        'offline'
        >>> environment("bc", (Box(-1.0, 1.0, (2,)), Discrete(3)), "data.hdf5")
        Traceback (most recent call last):
        ...
        TypeError: bc: dataset: expected a Dataset of funrl.offline.datasets, got a str; datasets.open_dataset opens files
    """
    seen, chosen = spaces_of(f"{what}: env", place)
    if dataset is not None:
        source = dataset.dataset if isinstance(dataset, Stream) else dataset
        remedy = "datasets.open_dataset opens files"
        _check.instance(f"{what}: dataset", source, Dataset, remedy, "a Dataset of funrl.offline.datasets")
        pairs = (("observations", seen, source.transition.observation), ("actions", chosen, source.transition.action))
        for name, space, rows in pairs:
            if isinstance(rows, torch.Tensor) and not hasattr(space, "spaces") and tuple(rows.shape[1:]) != tuple(space.shape):
                raise ValueError(f"{what}: dataset: expected {name} as in {space}, got rows of shape {list(rows.shape[1:])}")
        discrete = isinstance(chosen, Discrete)
        action = source.transition.action
        if isinstance(action, torch.Tensor) and action.is_floating_point() == discrete:
            raise ValueError(f"{what}: dataset: expected actions as in {chosen}, got {action.dtype}; give the environment of the data")
        if source.action_space != chosen:
            check_actions(f"{what}: dataset", chosen, action)
    if isinstance(place, AnyEnv):
        return place

    def missing(*args: Any) -> Any:
        raise ValueError(f"{what}: it was made with spaces alone, and has no environment to act in; make it with one: make(env, dataset)")

    return Env("offline", missing, missing, seen, chosen, (), 1, None)


def check(name: str, env: AnyEnv, *nets: Any, discrete: bool = False) -> None:
    """Raise a ValueError unless the spaces fit a learner called ``name``.

    Actions are continuous or, with ``discrete``, may be either. Observations are vectors, or any if all ``nets`` are the user's own.

    Example:
        >>> import funrl
        >>> check("IQL", funrl.envs.make("CartPole-v1"), None)
        Traceback (most recent call last):
        ...
        ValueError: env: IQL expects a floating-point Box of actions of shape [A] with finite ends, got Discrete(n=2, start=0); ...
    """
    space = env.action_space
    box = isinstance(space, Box) and space.dtype.is_floating_point and len(space.shape) == 1
    box = box and all(map(math.isfinite, [*space.low.tolist(), *space.high.tolist()]))
    if not box and not (discrete and isinstance(space, Discrete)):
        expected = "a floating-point Box of actions of shape [A] with finite ends"
        if discrete:
            expected = "Discrete actions, or a floating-point Box of them of shape [A] with finite ends"
        raise ValueError(f"env: {name} expects {expected}, got {space}; bc, cql and decision_transformer take both kinds")
    seen = env.observation_space
    if None in nets and not (isinstance(seen, Box) and len(seen.shape) == 1 and seen.dtype.is_floating_point):
        raise ValueError(
            f"env: {name} expects observations that are vectors (a floating-point Box of shape [D]), got {seen}; with networks of your own "
            "it takes any"
        )


def build(
    name: str,
    kind: type,
    place: Any,
    dataset: Any,
    learner: Callable[..., Learner],
    options: dict[str, Any],
    optimizer: Any,
    nets: dict[str, Any],
    columns: Callable[[Any, Any], Data] | None = None,
) -> Algorithm:
    """Make a learner of the arguments of its ``make``, or of its ``online``, where its configuration is an :class:`OnlineConfig`.

    Args:
        name: its name for ``python -m funrl train``.
        kind: the class of its configuration.
        place: the environment, or the pair of its spaces.
        dataset: the data, or None.
        learner: ``learner(env, config, optimizer, **nets)``, which checks them and returns the parts of the algorithm.
        options: the fields of the configuration.
        optimizer: the optimizer of the user, or None.
        nets: the networks of the user, or None each.
        columns: ``columns(dataset, config)``, which selects rows of the data or adds columns to it; None: it stays.

    Raises:
        TypeError, ValueError: as :func:`environment`, ``learner`` and ``columns``.

    Example:
        >>> import funrl
        >>> env, bc = funrl.envs.make("Pendulum-v1"), funrl.offline.bc
        >>> build("cloning", bc.BCConfig, env, None, bc.learner, {"num_cells": (8,)}, None, {"actor": None}).name
        'cloning'
    """
    config, given = configure(kind, options, optimizer=optimizer, **nets)
    env = environment(name, place, dataset)
    spec = learner(env, config, optimizer, **nets)
    if columns is not None and dataset is not None:
        dataset = columns(dataset, config)
    return (online.make if isinstance(config, online.OnlineConfig) else make)(name, env, dataset, config, spec, given)


def make(
    name: str,
    env: AnyEnv,
    dataset: Data,
    config: Any,
    spec: Learner,
    given: dict[str, Any] | None = None,
    *,
    draw: Callable[[torch.Tensor], Any] | None = None,
    rows_of: Callable[[Any], Transition] | None = None,
) -> Algorithm:
    """Make an :class:`~funrl.algos.Algorithm` of a :class:`funrl.algos.off_policy.Learner` that learns from a data set.

    ``collect`` draws ``num_updates`` batches of transitions, uniformly and with replacement, and ``learn`` takes a gradient step on each.
    The data set is not part of the state: a compiled program has it as an input by reference, so that any number of vmapped agents share
    one copy.

    Args:
        name: its name for ``python -m funrl train``.
        env: the environment, for evaluation and its spaces.
        dataset: the data; None: the learner only acts, as one that was loaded from a run.
        config: an :class:`OfflineConfig`.
        spec: the parts that are particular to the algorithm; its policies may be a :class:`funrl.policies.StatefulPolicy`.
        given: the parts that the user gave instead of the default ones.
        draw: ``draw(index)``, what ``collect`` returns of rows, int64 [U, N]; None: their transitions.
        rows_of: ``rows_of(drawn)``, the transitions [U, N, K, *] of what ``draw`` returns; None: there is no ``draw``.

    Example:
        >>> import funrl
        >>> env = funrl.envs.make("Pendulum-v1")
        >>> data = funrl.offline.datasets.record(None, random.key(0), env=env, num_steps=100, num_envs=2)
        >>> algo = funrl.offline.bc.make(env, data, num_updates=2, batch_size=8, num_cells=(8,))
        >>> state, metrics = algo.step(random.key(2), algo.init(random.key(1)))
        >>> metrics["steps"], state.learner.num_updates
        (tensor(2), tensor(2))
    """
    start = env.action_space.start if isinstance(env.action_space, Discrete) else 0
    source = dataset.dataset if isinstance(dataset, Stream) else dataset
    dtype = torch.float32 if source is None else source.transition.reward.dtype
    example = tree.map(lambda x: torch.zeros(x.shape, dtype=dtype), env.observation_space.sample(random.key(0, "cpu")))
    known: Any = ()
    if config.normalize_observation:
        known = stats.moments(example) if dataset is None else moments(dataset)

    def init(key: torch.Tensor, hparams: Mapping[str, torch.Tensor] = MappingProxyType({})) -> State:
        network, target, optimizer = spec.init(key, tree.to(example, key.device))
        params = ActorParams(network, observation=tree.map(lambda x: x.to(key.device, copy=True), known))
        own = make_hparams(config, torch.zeros((), dtype=dtype, device=key.device), hparams)
        counts = {name: torch.zeros_like(own.gamma, dtype=torch.int64) for name in ("num_steps", "num_updates")}
        learner = LearnerState(params=params, hparams=own, target=target, optimizer=optimizer, **counts)
        return tree.map(torch.Tensor.contiguous, State(_NO_ACTOR, learner))

    def collect(key: torch.Tensor, state: State) -> tuple[Any, Any]:
        if dataset is None:
            raise ValueError(f"{name}: it was made without data, to act alone; give the data set: make(env, dataset)")
        index = random.randint(key, (config.num_updates, config.batch_size), 0, dataset.size)
        return state.actor, (draw or dataset.rows)(index)

    def learn(key: torch.Tensor, learner: LearnerState, transitions: Any) -> tuple[LearnerState, dict[str, torch.Tensor]]:
        remedy = "give state.learner" if isinstance(learner, State) else "algo.init(key).learner is one"
        _check.instance(f"{name}: learn: learner", learner, LearnerState, remedy)
        transitions = transitions if rows_of is None else rows_of(transitions)
        _check_batches(name, transitions.reward, config, windows=rows_of is not None)
        sample = _sample(learner.params, transitions, start)
        before = Learned(learner.params.network, learner.target, learner.optimizer, learner.num_updates)
        after, metrics = off_policy.fit(spec, config, before, random.split(key, config.num_updates), sample, learner.hparams)
        num_steps = learner.num_steps + config.num_updates
        learner = learner.replace(
            params=learner.params.replace(network=after.network),
            target=after.target,
            optimizer=after.optimizer,
            num_steps=num_steps,
            num_updates=after.num_updates,
        )
        return learner, {"steps": num_steps, **{key: x.mean() for key, x in metrics.items()}, "updates": after.num_updates}

    data = () if dataset is None else dataset  # None is for learners that act in the environment
    return Algorithm(name, env, config, init, collect, learn, _policy(spec.sample, start), _policy(spec.greedy, start), given or {}, data)


def _policy(choose: Any, start: int) -> Any:
    def act(params: ActorParams, key: torch.Tensor, observation: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        action = choose(params, key, normalized(params, in_dtype_of(params.network, observation)))
        return action + start if start else action, {}

    return choose if isinstance(choose, StatefulPolicy) else act


def _sample(params: ActorParams, transitions: Transition, start: int) -> buffers.Sample:
    """Return batches [U, N, ...] as a learner takes them: observations normalised, discrete actions counted from 0, all weights 1."""
    rows = in_dtype_of(params.network, transitions)
    rows = rows.replace(
        observation=normalized(params, rows.observation),
        next_observation=normalized(params, rows.next_observation),
        action=rows.action - start if start else rows.action,
    )
    ones = torch.ones_like(rows.reward)
    return buffers.Sample(rows, torch.zeros_like(ones, dtype=torch.int64), ones, ones)


def normalized(params: ActorParams, observation: Any) -> Any:
    """Return an observation, normalised if the parameters have the moments of the data.

    Example:
        >>> normalized(ActorParams(()), torch.tensor(3.0))
        tensor(3.)
    """
    if not isinstance(params.observation, stats.Moments):
        return observation
    return stats.normalize(params.observation, observation, eps=1e-6)


def _check_batches(name: str, reward: torch.Tensor, config: Any, *, windows: bool) -> None:
    expected = (config.num_updates, config.batch_size)
    if tuple(reward.shape[:2]) != expected or reward.ndim != 2 + windows:
        got = list(reward.shape)
        raise ValueError(f"{name}: learn: transitions: expected leaves {[*expected]}, num_updates by batch_size, got a reward {got}")
