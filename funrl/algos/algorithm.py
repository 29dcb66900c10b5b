"""The algorithm interface, and the checks of configurations that all algorithms share."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from funrl.env import Env
from funrl.names import nearest
from funrl.policies import StatefulPolicy

__all__ = ["Algorithm", "check_range", "make_config"]


class Algorithm(NamedTuple):
    """A learner as pure functions: :func:`torch.func.vmap` makes many of it, ``funrl.compile`` one program.

    Attributes:
        name: what ``python -m funrl train`` knows it by.
        env: the environment that it learns in.
        config: its static configuration and the defaults of its hyperparameters, a frozen dataclass.
        init: ``init(key) -> state``. On the key's device.
        step: ``step(key, state) -> (state, metrics)``: one update, experience included. ``metrics`` is a dict of tensors [].
        act: ``act(params, key, observation) -> (action, extras)``, as it explores; ``params`` is ``state.params``. That of a recurrent
            policy is a :class:`funrl.policies.StatefulPolicy`; ``funrl.rollout`` and ``funrl.evaluate`` take both.
        greedy: of the same kind, without exploration.
        steps_per_update: how many environment steps one ``step`` takes.
    """

    name: str
    env: Env
    config: Any
    init: Callable[[Any], Any]
    step: Callable[[Any, Any], Any]
    act: Callable[[Any, Any, Any], Any] | StatefulPolicy
    greedy: Callable[[Any, Any, Any], Any] | StatefulPolicy
    steps_per_update: int


def make_config(kind: type, options: dict[str, Any]) -> Any:
    """Build the configuration ``kind`` from keyword options; an unknown name is an error that offers the nearest.

    Raises:
        ValueError: for an unknown name.
        TypeError: for a value of another type than the field's.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Config:
        ...     num_envs: int = 64
        ...     gamma: float = 0.99
        >>> make_config(Config, {"gamma": 1})
        Config(num_envs=64, gamma=1.0)
        >>> make_config(Config, {"gama": 1})
        Traceback (most recent call last):
        ...
        ValueError: unknown option 'gama': did you mean gamma?
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, value in options.items():
        if name not in fields:
            raise ValueError(f"unknown option {name!r}: {nearest(name, fields)}")
        expected = type(fields[name].default)
        right = isinstance(value, expected) and not (expected is int and isinstance(value, bool))
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            options = {**options, name: float(value)}
        elif expected is tuple and isinstance(value, list):
            options = {**options, name: tuple(value)}
        elif not right:
            raise TypeError(f"{name}: expected {expected.__name__}, as its default {fields[name].default!r} is, got {value!r}")
    return kind(**options)


def check_range(
    config: Any, names: Iterable[str], low: float, high: float = math.inf, *, open_low: bool = False, infinite: bool = False
) -> None:
    """Raise a ValueError unless each named number of ``config`` is in [low, high] (or in (low, high]) and finite.

    Args:
        config: what has the numbers as attributes.
        names: of the attributes.
        low: the least that is allowed.
        high: the most that is allowed.
        open_low: whether ``low`` itself is refused.
        infinite: whether infinity passes where ``high`` is infinite. NaN never does.

    Raises:
        ValueError: for the first number that is out of its range.

    Example:
        >>> from types import SimpleNamespace
        >>> check_range(SimpleNamespace(gamma=1.5), ("gamma",), 0, 1)
        Traceback (most recent call last):
        ...
        ValueError: gamma: expected a number at least 0 and at most 1, got 1.5
        >>> check_range(SimpleNamespace(clip=math.inf), ("clip",), 0, infinite=True)
    """
    for name in names:
        value = getattr(config, name)
        inside = (low < value if open_low else low <= value) and value <= high
        if not inside or not (infinite or abs(value) < math.inf):
            kind = "finite number" if inside else "number"
            bounds = f"{'above' if open_low else 'at least'} {low}" + (f" and at most {high}" if high < math.inf else "")
            raise ValueError(f"{name}: expected a {kind} {bounds}, got {value}")
