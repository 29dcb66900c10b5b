"""The parts of an algorithm that its user may replace: networks, optimizer, replay buffer, loss and exploration."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from funrl import optim
from funrl.algos.algorithm import make_config

__all__ = ["configure"]

# The options that an argument takes the place of.
_REPLACED = {
    "optimizer": ("learning_rate", "anneal_steps", "max_grad_norm"),
}
# What users of other libraries call them, and what they are called here, the likeliest first.
_WORDS = {
    "optimizer": ("optim", "opt", "optimiser", "optimizer_class", "optimizer_fn", "tx", "solver"),
}


def configure(kind: type, options: Mapping[str, Any], *, unused: tuple[str, ...] = (), **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """Build the configuration ``kind`` from keyword options, and check the parts that are given in the place of an algorithm's own.

    Args:
        kind: the class of the configuration.
        options: its fields.
        unused: further fields that no longer mean anything with what is given.
        **arguments: the parts by name; None: the algorithm's own.

    Returns:
        The configuration, and the arguments that are not None.

    Raises:
        ValueError: for an unknown name, or an option that one of the arguments takes the place of.
        TypeError: for a value of another type than the field's, or an argument of another kind than its name says.

    Example:
        >>> import funrl
        >>> kind = funrl.algos.ppo.PPOConfig
        >>> configure(kind, {"gamma": 0.9}, optimizer=None)[1]
        {}
        >>> configure(kind, {"learning_rate": 0.1}, optimizer=optim.sgd(0.1))
        Traceback (most recent call last):
        ...
        ValueError: optimizer, learning_rate: expected one of them, got both, and the optimizer takes the place of ...
        >>> configure(kind, {"optim": optim.sgd(0.1)}, optimizer=None)
        Traceback (most recent call last):
        ...
        ValueError: unknown option 'optim': the argument is called optimizer; help(funrl.algos.ppo.make) says what it takes
    """
    fields = {field.name for field in dataclasses.fields(kind)}
    for name in options:
        if name not in fields:
            _check_word(kind, name, arguments)
    config = make_config(kind, dict(options))
    given = {name: value for name, value in arguments.items() if value is not None}
    for name, value in given.items():
        _check_kind(name, value)
        for option in (*_REPLACED.get(name, ()), *unused):
            if option in options:
                raise ValueError(
                    f"{name}, {option}: expected one of them, got both, and the {name} takes the place of {option}; leave either out"
                )
    return config, given


def _check_word(kind: type, name: str, arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError if ``name`` is another word for an argument."""
    meant = [argument for argument, words in _WORDS.items() if name == argument or name in words]
    here = [argument for argument in meant if argument in arguments]
    page = f"help({kind.__module__}.make)"
    if here:
        verb = "the argument is called" if len(here) == 1 else "the arguments are called"
        raise ValueError(
            f"unknown option {name!r}: {verb} {' and '.join(here)}; {page} says what {'it takes' if len(here) == 1 else 'they take'}"
        )
    if meant:
        raise ValueError(
            f"unknown option {name!r}: this algorithm has no such part; those that can be replaced are {', '.join(arguments)}, see {page}"
        )


def _check_kind(name: str, value: Any) -> None:
    """Raise a TypeError unless the value can be what its name says."""
    if name == "optimizer" and not isinstance(value, optim.Optimizer):
        raise TypeError(f"optimizer: expected a funrl.optim.Optimizer, got {_described(value)}; call the factory, as in optim.adamw(1e-3)")


def _described(value: Any) -> str:
    return f"the function {value.__name__}" if callable(value) and hasattr(value, "__name__") else f"a {type(value).__name__}"
