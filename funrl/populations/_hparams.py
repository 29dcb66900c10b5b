"""Hyperparameters of agents: their names, their checks, and the first states of agents that have them."""

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from funrl import _check, algos, random, tree
from funrl._check import nearest
from funrl.algos import Algorithm, State

# The hyperparameters that a user's own optimizer or schedule replaces.
_UNUSED = {
    "optimizer": ("learning_rate", "anneal_steps", "max_grad_norm"),
    "exploration": ("epsilon_start", "epsilon_end", "epsilon_steps", "exploration_noise"),
}


def hparam_names(algo: Algorithm) -> list[str]:
    """Return the names of the hyperparameters that may differ between the agents of one program.

    Example:
        >>> import funrl
        >>> hparam_names(funrl.algos.sac.make(funrl.envs.make("Pendulum-v1")))
        ['learning_rate', 'anneal_steps', 'gamma', 'tau', 'entropy_share']
    """
    return [field.name for field in dataclasses.fields(check_algo("hparam_names", algo).config) if not field.metadata.get("static")]


def check_algo(what: str, algo: Any) -> Algorithm:
    """Return an algorithm; raise a TypeError if it is none."""
    return _check.instance(f"{what}: algo", algo, Algorithm, "funrl.algos.make returns one")


def check_names(what: str, algo: Any, names: Any) -> None:
    """Raise a ValueError unless each name is of a hyperparameter that may differ between agents."""
    known, kind = hparam_names(check_algo(what, algo)), type(algo.config).__name__
    static = {field.name for field in dataclasses.fields(algo.config)} - set(known)
    for name in names:
        if name in static:
            raise ValueError(
                f"{what}: {name} is a static field of {kind}: it decides the shapes or the operators of the program, so the agents of "
                f'one vmapped program cannot differ in it; populations.by_value(algo, {{"{name}": [...]}}) makes an algorithm of each '
                "value, and run trains one population of each, a program a value"
            )
        if name not in known:
            raise ValueError(f"{what}: {kind} has no hyperparameter {name!r}; {nearest(str(name), known)}")
        for part, replaced in _UNUSED.items():
            if part in algo.given and name in replaced:
                raise ValueError(f"{what}: {name} has no effect, as the algorithm was made with {part}= in its place; leave either out")


def check_values(what: str, algo: Algorithm, values: Mapping[str, Sequence[float]]) -> None:
    """Raise a ValueError if a value is out of the range that the algorithm, one of funrl's, has for it."""
    if algo.name not in algos.names():
        return
    options = _changed(algo)
    try:
        algos.make(algo.name, algo.env, **options)
    except (TypeError, ValueError):  # it needs parts of the user's own, such as a network
        return
    for name, some in values.items():
        for x in {min(some), max(some)}:
            try:
                algos.make(algo.name, algo.env, **{**options, name: float(x)})
            except ValueError as error:
                raise ValueError(f"{what}: {error}") from None


def check_hparams(what: str, algo: Algorithm, hparams: Any, num_agents: int) -> dict[str, torch.Tensor]:
    """Return hyperparameters as float64 [K]; raise unless they are a dict of K numbers of each name."""
    if not isinstance(hparams, Mapping):
        raise TypeError(f'{what}: expected a dict such as {{"learning_rate": tensor[K]}}, got {type(hparams).__name__}')
    check_names(what, algo, hparams)
    checked = {}
    for name, x in hparams.items():
        try:
            x = torch.as_tensor(x)
        except (RuntimeError, TypeError, ValueError):
            raise TypeError(f"{what}: {name}: expected a number for each of the {num_agents} agents, got {_check.describe(x)}") from None
        if x.shape != (num_agents,) or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"{what}: {name}: expected a number for each of the {num_agents} agents, got {x.dtype} {list(x.shape)}")
        if bool(x.isnan().any()):
            raise ValueError(f"{what}: {name}: expected numbers, got NaN")
        checked[name] = x.detach().double()
    check_values(what, algo, {name: x.tolist() for name, x in checked.items()})
    return checked


def begin(algo: Algorithm, keys: torch.Tensor, hparams: Mapping[str, torch.Tensor]) -> State:
    """Return the first states of agents: agent k from ``fold_in(keys[k], 0)``, with its hyperparameters.

    Args:
        algo: the algorithm. If its ``init`` does not take hyperparameters, those of the state are replaced afterwards.
        keys: the keys [K].
        hparams: tensors [K] by name.

    Returns:
        A state with leaves [K, ...].

    Raises:
        ValueError: if a hyperparameter is unknown or static, or does not have one value for each key.
        TypeError: if ``keys`` are no keys [K], or ``hparams`` no dict of tensors.
    """
    check_names("begin", algo, _check.instance("begin: hparams", hparams, Mapping, "give tensors [K] by name", "a dict"))
    _check.sized("begin: keys", _check.whole("begin: keys", keys, "make them with funrl.random.split(key, K)"), ("K",))
    for name, x in hparams.items():
        _check.sized(f"begin: hparams: {name}", _check.tensor(f"begin: hparams: {name}", x), tuple(keys.shape), of="keys")
    state = torch.func.vmap(lambda k, h: first_state(algo, k, h))(keys, dict(hparams))
    return tree.map(torch.clone, state)  # it will be donated, and may share tensors with the environment's default params


def first_state(algo: Algorithm, key: torch.Tensor, hparams: Mapping[str, torch.Tensor]) -> State:
    """Return the first state of one agent, as :func:`begin` does of several; ``hparams`` are tensors [].

    Example:
        >>> import funrl
        >>> algo = funrl.algos.dqn.make(funrl.envs.make("CartPole-v1"))
        >>> first_state(algo, random.key(0), {"gamma": torch.tensor(0.9)}).learner.hparams.gamma
        tensor(0.9000)
    """
    key = random.fold_in(key, 0)
    if not hparams:
        return algo.init(key)
    if "hparams" in inspect.signature(algo.init).parameters:
        return algo.init(key, dict(hparams))
    state = algo.init(key)
    own = state.learner.hparams
    own = own.replace(**{name: torch.zeros_like(getattr(own, name)) + x.to(getattr(own, name)) for name, x in hparams.items()})
    return state.replace(learner=state.learner.replace(hparams=own))


def by_value(algo: Algorithm, values: Mapping[str, Sequence[Any]], *, make: Callable[..., Algorithm] | None = None) -> list[Algorithm]:
    """Make an algorithm for each value of a static field, or for each combination of values of several.

    Agents of one program cannot differ in a static field, such as ``num_epochs`` or ``num_cells``. :func:`run` takes a list of
    populations, one for each algorithm.

    Args:
        algo: the algorithm, which is made again with other values.
        values: a list of values by the name of each field.
        make: ``make(**options)`` returns the algorithm with these values; None: :func:`funrl.algos.make`.

    Returns:
        The algorithms; the values of the last field vary fastest.

    Raises:
        ValueError: if a field is unknown or not static, its list is empty, or a value is refused by the algorithm.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=8)
        >>> [(one.config.num_envs, one.config.num_epochs) for one in by_value(algo, {"num_epochs": [2, 4]})]
        [(8, 2), (8, 4)]
    """
    check_algo("by_value", algo)
    _check.instance("by_value: values", values, Mapping, "give a list of values by the name of each field", "a dict")
    fields = {field.name: bool(field.metadata.get("static")) for field in dataclasses.fields(algo.config)}
    for name, some in values.items():
        if name not in fields:
            raise ValueError(f"by_value: {type(algo.config).__name__} has no field {name!r}; {nearest(name, fields)}")
        if not fields[name]:
            raise ValueError(f"by_value: {name} is a hyperparameter in which agents of one program may differ; sweep it instead")
        if isinstance(some, str) or not isinstance(some, Sequence) or not some:
            raise ValueError(f"by_value: {name}: expected a list of at least one value, got {some!r}")
    if make is None and algo.name not in algos.names():
        raise ValueError(f"by_value: make: {algo.name} is not of funrl; give the function that makes it, make(**options)")
    options, made = {**_changed(algo), **algo.given}, []
    for some in itertools.product(*values.values()):
        chosen = dict(zip(values, some, strict=True))
        made.append(make(**chosen) if make is not None else algos.make(algo.name, algo.env, **{**options, **chosen}))
    return made


def _changed(algo: Algorithm) -> dict[str, Any]:
    """Return the options of an algorithm that are not its defaults."""
    config = algo.config
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if getattr(config, field.name) != field.default}
