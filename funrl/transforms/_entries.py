"""Transforms of the entries of a dict observation."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from funrl import _check
from funrl.env import AnyEnv, Timestep
from funrl.spaces import Box, Dict
from funrl.transforms._core import Transform, stateless
from funrl.transforms._parts import Keys, label, misfit, parts


def select(in_keys: Sequence[str]) -> Transform:
    """Select the named entries of a dict observation and drop all others.

    Args:
        in_keys: at least one name.

    Raises:
        TypeError: if ``in_keys`` is not a list of strings.
        ValueError: when applied: if the observation has no such entry, or is not a dict.

    Example:
        >>> import funrl
        >>> from funrl.transforms import compose, step_counter
        >>> sorted(compose(funrl.envs.make("Pendulum-v1"), step_counter(), select(["step_count"])).observation_space.spaces)
        ['step_count']
    """
    kept = _check.strings("select: in_keys", in_keys)
    return _renaming("select", lambda space: {name: name for name in space.spaces if name in kept}, in_keys=list(kept))


def exclude(in_keys: Sequence[str]) -> Transform:
    """Drop the named entries of a dict observation.

    Args:
        in_keys: at least one name, and not all.

    Raises:
        TypeError: if ``in_keys`` is not a list of strings.
        ValueError: when applied: if the observation has no such entry, is not a dict, or would become empty.

    Example:
        >>> import funrl
        >>> from funrl.transforms import compose, step_counter
        >>> sorted(compose(funrl.envs.make("Pendulum-v1"), step_counter(), exclude(["step_count"])).observation_space.spaces)
        ['observation']
    """
    dropped = _check.strings("exclude: in_keys", in_keys)

    def remaining(space: Dict) -> dict[str, str]:
        if len(dropped) == len(space.spaces):
            raise misfit("exclude", "observation", "an entry that remains", space, "name fewer entries")
        return {name: name for name in space.spaces if name not in dropped}

    return _renaming("exclude", remaining, in_keys=list(dropped))


def rename(in_keys: Sequence[str], out_keys: Sequence[str]) -> Transform:
    """Rename entries of a dict observation.

    Args:
        in_keys: the old names, at least one.
        out_keys: the new names, one for each; old names may be reused, for example to swap two entries.

    Raises:
        TypeError: if keys are not lists of strings.
        ValueError: if their numbers differ; when applied: if the observation has no such entry, is not a dict, or two entries would
            have the same name.

    Example:
        >>> import funrl
        >>> from funrl.transforms import compose, step_counter
        >>> env = compose(funrl.envs.make("Pendulum-v1"), step_counter(), rename(["observation"], ["state"]))
        >>> sorted(env.observation_space.spaces)
        ['state', 'step_count']
    """
    old, new = _check.strings("rename: in_keys", in_keys), _check.strings("rename: out_keys", out_keys)
    _check.count("rename: out_keys", new, len(old), f"names, one for each of {list(old)}")
    called = dict(zip(old, new, strict=True))

    def renamed(space: Dict) -> dict[str, str]:
        for name in new:
            if name in space.spaces and name not in called:
                raise ValueError(f"rename: out_keys: expected new names, got {name!r}, which another entry has; choose another one")
        return {called.get(name, name): name for name in space.spaces}

    return _renaming("rename", renamed, in_keys=list(old), out_keys=list(new))


def cat_tensors(in_keys: Keys = None, *, out_key: str | None = None, dim: int = -1) -> Transform:
    """Join entries of a dict observation into one tensor.

    Args:
        in_keys: the entries, in the order of the result; None: all, in the order of their names. A number [] counts as
            a vector [1].
        out_key: the entry for the result, which replaces the others. None: the result replaces the whole observation, which is then no
            longer a dict; ``in_keys`` have to be all entries.
        dim: the dimension along which they are joined; negative ones count from the end.

    Raises:
        TypeError: if keys are no strings, or ``dim`` is not an integer.
        ValueError: when applied: if the observation has no such entry or is not a dict; if entries are no Box, or differ in dtype or in
            another dimension than ``dim``; if ``out_key`` is an entry that stays, or is missing where entries stay.

    Example:
        >>> import funrl
        >>> from funrl.transforms import cast, compose, step_counter
        >>> env = compose(funrl.envs.make("Pendulum-v1"), step_counter(), cast(torch.float32, in_keys=["step_count"]), cat_tensors())
        >>> env.observation_space.shape
        (4,)
    """
    joined = None if in_keys is None else _check.strings("cat_tensors: in_keys", in_keys)
    if out_key is not None:
        _check.instance("cat_tensors: out_key", out_key, str, expected="a string")
    _check.integer("cat_tensors: dim", dim)

    def join(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([x.reshape(1) if x.ndim == 0 else x for x in tensors], dim)

    def apply(env: AnyEnv) -> AnyEnv:
        space = env.observation_space
        keys = sorted(space.spaces) if joined is None and isinstance(space, Dict) else joined
        where = parts(env, "cat_tensors", keys)
        if keys is None:
            raise misfit("cat_tensors", "observation", "a dict", space, "leave it out")
        rest = {name: entry for name, entry in space.spaces.items() if name not in keys}
        if out_key is None and rest:
            raise misfit(
                "cat_tensors", "observation", f"no entries besides {list(keys)}", space, "name all, select them, or give an out_key"
            )
        if out_key in rest:
            raise ValueError(f"cat_tensors: out_key: expected a new name, got {out_key!r}, which another entry has; choose another one")
        boxes = _boxes(where.spaces(), dim)
        whole = Box(join([box.low for box in boxes]), join([box.high for box in boxes]), dtype=boxes[0].dtype)

        def observe(timestep: Timestep) -> Timestep:
            observation = timestep.observation
            x = join([observation[name] for name in keys])
            if out_key is None:
                return timestep.replace(observation=x)
            return timestep.replace(observation={**{name: observation[name] for name in rest}, out_key: x})

        shown = label("cat_tensors", in_keys=list(keys), out_key=out_key, dim=dim)
        followed = whole if out_key is None else Dict({**rest, out_key: whole})
        return stateless(env, shown, start=observe, finish=observe, observation_space=followed)

    return apply


def _boxes(spaces: Sequence[tuple[Any, str]], dim: int) -> list[Box]:
    """Check that spaces are boxes of the same dtype that can be joined, and return them."""
    first = spaces[0][0]
    for space, place in spaces:
        if not isinstance(space, Box):
            raise misfit("cat_tensors", place, "numbers (a Box)", space, "put discrete_to_one_hot or cast before it")
        shape, expected = (tuple(box.shape) or (1,) for box in (space, first))
        if space.dtype != first.dtype:
            raise misfit("cat_tensors", place, f"{first.dtype} as the entry before", space, "put cast before it")
        if not -len(shape) <= dim < len(shape):
            raise misfit("cat_tensors", place, f"a dimension {dim}", space, "change dim")
        others = [sizes[: dim % len(shape)] + sizes[dim % len(shape) + 1 :] for sizes in (shape, expected)]
        if len(shape) != len(expected) or others[0] != others[1]:
            raise misfit("cat_tensors", place, f"a shape like {list(expected)} but for dimension {dim}", space, "reshape it")
    return [space for space, _ in spaces]


def _renaming(transform: str, choose: Callable[[Dict], dict[str, str]], *, in_keys: list[str], **settings: Any) -> Transform:
    """Return the transform whose observations have the entries of ``choose(space)``, a dict from new names to old ones."""

    def apply(env: AnyEnv) -> AnyEnv:
        parts(env, transform, in_keys)
        sources = choose(env.observation_space)

        def observe(timestep: Timestep) -> Timestep:
            return timestep.replace(observation={name: timestep.observation[old] for name, old in sources.items()})

        space = Dict({name: env.observation_space.spaces[old] for name, old in sources.items()})
        shown = label(transform, in_keys=in_keys, **settings)
        return stateless(env, shown, start=observe, finish=observe, observation_space=space)

    return apply
