"""The skeleton of offline learners: draw batches from a data set, and take a gradient step on each."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from funrl import _check, buffers, random, stats, tree
from funrl.algos import ActorParams, Algorithm, Learned, LearnerState, State, in_dtype_of, make_hparams, off_policy
from funrl.algos.off_policy import Learner
from funrl.env import AnyEnv, Env, Transition
from funrl.offline._dataset import Dataset, check_actions, spaces_of
from funrl.offline._files import Stream
from funrl.offline._views import moments
from funrl.spaces import Box, Discrete


class _Nothing:
    """A stand-in for a data set where there is none."""

    host = False

    def __bool__(self) -> bool:
        return False


NOTHING: Any = _Nothing()
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
        if not isinstance(source, Dataset):
            raise TypeError(
                f"{what}: dataset: expected a Dataset of funrl.offline.datasets, got a {type(dataset).__name__}; "
                "datasets.open_dataset opens files"
            )
        pairs = (("observations", seen, source.transition.observation), ("actions", chosen, source.transition.action))
        for name, space, rows in pairs:
            shape = None if not hasattr(space, "spaces") and isinstance(rows, torch.Tensor) else ()
            if shape is None and tuple(rows.shape[1:]) != tuple(space.shape):
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


def check(name: str, env: AnyEnv, config: Any, *, actions: str, observations: str = "vectors") -> None:
    """Raise a ValueError unless the spaces and the options of :class:`OfflineConfig` fit a learner called ``name``.

    Actions are "continuous", "discrete" or "either"; observations "vectors", or "any" with networks of the user's own.

    Example:
        >>> import funrl
        >>> check("IQL", funrl.envs.make("CartPole-v1"), OfflineConfig(), actions="continuous")
        Traceback (most recent call last):
        ...
        ValueError: env: IQL expects a floating-point Box of actions of shape [A] with finite ends, got Discrete(n=2, start=0); ...
    """
    _check.fields(config, "[1, inf)", "num_updates", "batch_size")
    _check.fields(config, "[0, inf)", "learning_rate")
    _check.fields(config, "[0, 1]", "gamma")
    space = env.action_space
    box = isinstance(space, Box) and space.dtype.is_floating_point and len(space.shape) == 1
    box = box and all(map(math.isfinite, [*space.low.tolist(), *space.high.tolist()]))
    discrete = isinstance(space, Discrete)
    if not ((box and actions != "discrete") or (discrete and actions != "continuous")):
        expected = {
            "continuous": "a floating-point Box of actions of shape [A] with finite ends",
            "discrete": "Discrete actions",
            "either": "Discrete actions, or a floating-point Box of them of shape [A] with finite ends",
        }[actions]
        raise ValueError(f"env: {name} expects {expected}, got {space}; bc, cql and decision_transformer take both kinds")
    seen = env.observation_space
    if observations == "vectors" and not (isinstance(seen, Box) and len(seen.shape) == 1 and seen.dtype.is_floating_point):
        raise ValueError(
            f"env: {name} expects observations that are vectors (a floating-point Box of shape [D]), got {seen}; with networks of your own "
            "it takes any"
        )


def make(name: str, env: AnyEnv, dataset: Data, config: Any, spec: Learner, given: dict[str, Any] | None = None) -> Algorithm:
    """Make an :class:`~funrl.algos.Algorithm` of a :class:`funrl.algos.off_policy.Learner` that learns from a data set.

    ``collect`` draws ``num_updates`` batches of transitions, uniformly and with replacement, and ``learn`` takes a gradient step on each.
    The data set is not part of the state: a compiled program has it as an input by reference, so that any number of vmapped agents share
    one copy.

    Args:
        name: its name for ``python -m funrl train``.
        env: the environment, for evaluation and its spaces.
        dataset: the data; None: the learner only acts, as one that was loaded from a run.
        config: an :class:`OfflineConfig`.
        spec: the parts that are particular to the algorithm.
        given: the parts that the user gave instead of the default ones.

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
    example = _zeros(env.observation_space, dtype)
    known: Any = ()
    if config.normalize_observation:
        known = stats.moments(example) if dataset is None else moments(dataset)

    def init(key: torch.Tensor, hparams: Mapping[str, torch.Tensor] = MappingProxyType({})) -> State:
        observation = tree.to(tree.map(lambda x: x.to(dtype), example), key.device)
        network, target, optimizer = spec.init(key, observation)
        params = ActorParams(network, observation=tree.map(lambda x: x.to(key.device, copy=True), known))
        own = make_hparams(config, torch.zeros((), dtype=dtype, device=key.device), hparams)
        return start_state(params, own, target=target, optimizer=optimizer)

    def collect(key: torch.Tensor, state: State) -> tuple[Any, Transition]:
        if dataset is None:
            raise ValueError(f"{name}: it was made without data, to act alone; give the data set: make(env, dataset)")
        index = random.randint(key, (config.num_updates, config.batch_size), 0, dataset.size)
        return state.actor, dataset.rows(index)

    def learn(key: torch.Tensor, learner: LearnerState, transitions: Transition) -> tuple[LearnerState, dict[str, torch.Tensor]]:
        _check_batches(name, learner, transitions, config)
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

    def acting(choose: Any) -> Any:
        def act(params: ActorParams, key: torch.Tensor, observation: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            action = choose(params, key, normalized(params, in_dtype_of(params.network, observation)))
            return action + start if start else action, {}

        return act

    return Algorithm(
        name, env, config, init, collect, learn, acting(spec.sample), acting(spec.greedy), given or {}, data=dataset or NOTHING
    )


def start_state(params: ActorParams, hparams: Any, **parts: Any) -> State:
    """Return the initial state of a learner; nothing acts, so its actor is empty.

    Example:
        >>> start_state(ActorParams(torch.zeros(2)), make_hparams(OfflineConfig(), torch.zeros(()))).learner.num_steps
        tensor(0)
    """
    count = torch.zeros_like(hparams.gamma, dtype=torch.int64)
    learner = LearnerState(params=params, hparams=hparams, num_steps=count, num_updates=count.clone(), **parts)
    return tree.map(torch.Tensor.contiguous, State(_NO_ACTOR, learner))


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


def _zeros(space: Any, dtype: torch.dtype) -> Any:
    """Return an element of zeros, floating-point parts in ``dtype``."""
    if hasattr(space, "spaces"):
        parts = space.spaces
        return (
            {name: _zeros(part, dtype) for name, part in parts.items()}
            if isinstance(parts, dict)
            else tuple(_zeros(x, dtype) for x in parts)
        )
    return torch.zeros(space.shape, dtype=dtype)


def _check_batches(name: str, learner: Any, transitions: Transition, config: Any) -> None:
    if not isinstance(learner, LearnerState):
        remedy = "give state.learner" if isinstance(learner, State) else "algo.init(key).learner is one"
        raise TypeError(f"{name}: learn: learner: expected a LearnerState, got a {type(learner).__name__}; {remedy}")
    shape, expected = tuple(transitions.reward.shape), (config.num_updates, config.batch_size)
    if shape != expected:
        raise ValueError(
            f"{name}: learn: transitions: expected leaves {[*expected]}, num_updates by batch_size, got a reward {list(shape)}"
        )
