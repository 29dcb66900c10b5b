"""The parts of an observation that a transform changes, the whole or entries of a dict, and the resulting spaces."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from funrl import _check
from funrl.env import AnyEnv, Timestep, on_host
from funrl.spaces import Binary, Box, Dict, Discrete, MultiDiscrete, Tuple
from funrl.transforms._core import Transform, stateful, stateless

Map = Callable[[torch.Tensor, torch.dtype], torch.Tensor]
Keys = Sequence[str] | None

# The name of a plain observation in the dict that results from adding an entry.
WHOLE = "observation"


@dataclasses.dataclass(frozen=True)
class Parts:
    """Parts of an observation that a transform reads, and the entries that it writes.

    Attributes:
        transform: the name of the transform, for messages.
        in_keys: the entries that it reads; None: the observation is not a dict, and is transformed as a whole.
        out_keys: the entries that it writes, one for each of ``in_keys``; None for an observation that is not a dict.
        space: the observation space of the environment below.
    """

    transform: str
    in_keys: tuple[str, ...] | None
    out_keys: Any
    space: Any

    def read(self, observation: Any) -> tuple[Any, ...]:
        """Return the parts of an observation."""
        return (observation,) if self.in_keys is None else tuple([observation[name] for name in self.in_keys])

    def write(self, observation: Any, values: Sequence[Any]) -> Any:
        """Return the observation with its parts replaced by ``values``."""
        return values[0] if self.in_keys is None else {**observation, **dict(zip(self.out_keys, values, strict=True))}

    def spaces(self) -> list[tuple[Any, str]]:
        """Return the space of each part, and its name in messages."""
        if self.in_keys is None:
            return [(self.space, "observation")]
        return [(self.space.spaces[name], f"observation[{name!r}]") for name in self.in_keys]

    def replace(self, spaces: Sequence[Any]) -> Any:
        """Return the observation space with the parts replaced by ``spaces``."""
        return spaces[0] if self.in_keys is None else Dict({**self.space.spaces, **dict(zip(self.out_keys, spaces, strict=True))})

    def label(self, **settings: Any) -> str:
        """Return the text of the transform in a ``repr``."""
        keys = {} if self.in_keys is None else {"in_keys": list(self.in_keys)}
        if self.out_keys != self.in_keys:
            keys["out_keys"] = list(self.out_keys)
        return label(self.transform, **keys, **settings)


def parts(env: AnyEnv, transform: str, in_keys: Any, out_keys: Any = None, *, default: str | None = None) -> Parts:
    """Return the parts of the observations of ``env`` with the names ``in_keys``.

    Args:
        env: the environment below.
        transform: the name of the transform.
        in_keys: names of entries of a dict; None: the observation is not a dict.
        out_keys: names for the results; None: the results replace the entries.
        default: the entry of a dict to transform if ``in_keys`` is None.

    Raises:
        TypeError: if keys are not a sequence of strings.
        ValueError: if keys do not fit the observation space or each other.
    """
    space = env.observation_space
    names: Any = None if in_keys is None else _check.strings(f"{transform}: in_keys", in_keys)
    outs: Any = None if out_keys is None else _check.strings(f"{transform}: out_keys", out_keys)
    if names is None and isinstance(space, Dict):
        if default not in space.spaces:
            raise misfit(transform, "observation", "a tensor", space, "name the entries to transform with in_keys=[...]")
        names = (default,)
    if names is not None and not isinstance(space, Dict):
        raise misfit(transform, "observation", f"a dict with the entries {list(names)}", space, "leave in_keys out")
    if names is None and outs is not None:
        raise misfit(transform, "observation", "a dict, as out_keys are given", space, "leave out_keys out")
    for name in names or ():
        if name not in space.spaces:
            raise misfit(transform, "observation", f"an entry {name!r}", space, "name one of these")
    if names is not None and outs is not None:
        _check.count(f"{transform}: out_keys", outs, len(names), f"names, one for each of {list(names)}")
    for name in outs or ():
        if name in space.spaces and name not in names:
            raise ValueError(f"{transform}: out_keys: expected new names, got {name!r}, which the observation has; choose another one")
    return Parts(transform, names, names if outs is None else outs, space)


def map_parts(
    transform: str, fit: Callable[[Any, str], tuple[Any, Map]], in_keys: Any, out_keys: Any, default: str | None = None, **settings: Any
) -> Transform:
    """Return the transform that applies a function to each part of an observation.

    Args:
        transform: its name.
        fit: ``fit(space, place) -> (space, f)``: the new space of a part, and ``f(x, dtype)``, where ``dtype`` is the floating-point
            dtype of the episode. It raises if the transform does not apply to the space.
        in_keys: as for :func:`parts`.
        out_keys: as for :func:`parts`.
        default: as for :func:`parts`.
        **settings: the other arguments of the transform, for its ``repr``.
    """

    def apply(env: AnyEnv) -> AnyEnv:
        where = parts(env, transform, in_keys, out_keys, default=default)
        spaces, maps = zip(*[fit(space, place) for space, place in where.spaces()], strict=True)

        def observe(timestep: Timestep) -> Timestep:
            values = [f(x, timestep.reward.dtype) for f, x in zip(maps, where.read(timestep.observation), strict=True)]
            return timestep.replace(observation=where.write(timestep.observation, values))

        return stateless(env, where.label(**settings), start=observe, finish=observe, observation_space=where.replace(spaces))

    return apply


def followed_entry(
    transform: str,
    out_key: Any,
    space: Any,
    first: Callable[[Timestep], torch.Tensor],
    follow: Callable[[torch.Tensor, Timestep], torch.Tensor],
    **settings: Any,
) -> Transform:
    """Return the transform that adds an entry: ``first(timestep)`` after a reset, and then ``follow(entry, timestep)`` after each step."""

    def apply(env: AnyEnv) -> AnyEnv:
        put, spaces = add_entry(env, transform, out_key, space)

        def start(timestep: Timestep) -> tuple[torch.Tensor, Timestep]:
            entry = first(timestep)
            return entry, put(timestep, entry)

        def finish(entry: torch.Tensor, timestep: Timestep) -> tuple[torch.Tensor, Timestep]:
            entry = follow(entry, timestep)
            return entry, put(timestep, entry)

        shown = label(transform, **settings, out_key=out_key)
        return stateful(env, shown, start=start, finish=finish, observation_space=spaces)

    return apply


def add_entry(env: AnyEnv, transform: str, name: Any, space: Any) -> tuple[Callable[[Timestep, torch.Tensor], Timestep], Any]:
    """Return ``put(timestep, value)``, which adds an entry to the observation, and the new observation space.

    A plain observation becomes the entry ``"observation"`` of a dict.
    """
    _check.instance(f"{transform}: out_key", name, str, expected="a string")
    old = env.observation_space
    spaces = old.spaces if isinstance(old, Dict) else {WHOLE: old}
    if name in spaces:
        raise ValueError(f"{transform}: out_key: expected a new name, got {name!r}, which is one of {sorted(spaces)}; choose another one")

    def put(timestep: Timestep, value: torch.Tensor) -> Timestep:
        observation = timestep.observation if isinstance(old, Dict) else {WHOLE: timestep.observation}
        return timestep.replace(observation={**observation, name: value})

    return put, Dict({**spaces, name: space})


def signal(env: AnyEnv, transform: str, name: Any) -> tuple[Callable[[Timestep], torch.Tensor], Any]:
    """Return ``read(timestep)``, which reads a tensor from the observation or otherwise from info, and its space, None for info.

    Raises:
        TypeError: if the name is not a string.
        ValueError: from ``read``: if neither has the entry.
    """
    _check.instance(f"{transform}: in_key", name, str, expected="a string")
    space = env.observation_space
    if isinstance(space, Dict) and name in space.spaces:
        return lambda timestep: timestep.observation[name], space.spaces[name]

    def read(timestep: Timestep) -> torch.Tensor:
        if name not in timestep.info:
            raise ValueError(
                f"{transform}: in_key: expected an entry {name!r} in the observation or in info, got {describe(space)} and "
                f"{sorted(timestep.info)}; name one that {env.name} has"
                + ("; entries of gymnasium's info come with make(..., info=[...]) or wrap(..., info=[...])" if on_host(env) else "")
            )
        return timestep.info[name]

    return read, None


def moved(space: Any, f: Callable[[torch.Tensor], torch.Tensor], layout: str | None = None) -> Any:
    """Return the space of f(x) for x in ``space``, with the given layout of images; ``f`` only moves, repeats or selects elements."""
    if isinstance(space, Binary):
        return Binary(tuple(f(torch.zeros(space.shape, dtype=torch.bool)).shape), layout)
    box = as_box(space)
    return Box(f(box.low), f(box.high), dtype=box.dtype, layout=layout)


def as_box(space: Any) -> Box:
    """Return a tensor space as a Box; a Discrete or MultiDiscrete becomes an int64 Box."""
    if isinstance(space, Discrete):
        return Box(space.start, space.start + space.n - 1, (), torch.int64)
    if isinstance(space, MultiDiscrete):
        start = torch.tensor(space.start)
        return Box(start, start + torch.tensor(space.nvec) - 1, dtype=torch.int64)
    return space


def check_tensor(transform: str, space: Any, place: str) -> None:
    """Raise unless the elements of ``space`` are tensors."""
    if isinstance(space, (Dict, Tuple)):
        raise misfit(transform, place, "a tensor", space, "leave it out: entries that are dicts or tuples are not supported")


def neutral(space: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Return the element of ``space`` nearest to 0, with ``dtype`` for floating-point numbers."""
    if isinstance(space, Dict):
        return {name: neutral(entry, dtype, device) for name, entry in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple([neutral(entry, dtype, device) for entry in space.spaces])
    return space.project(torch.zeros(space.shape, dtype=dtype if space.dtype.is_floating_point else space.dtype, device=device))


def misfit(transform: str, place: str, expected: str, got: Any, remedy: str) -> ValueError:
    """Return the error for a space to which a transform does not apply."""
    return ValueError(f"{transform}: {place}: expected {expected}, got {describe(got)}; {remedy}")


def describe(space: Any) -> str:
    """Return a short description of a space."""
    if isinstance(space, Dict):
        return f"a dict with the entries {sorted(space.spaces)}"
    if isinstance(space, Tuple):
        return f"a tuple of {len(space.spaces)} entries"
    if isinstance(space, Box):
        return f"{str(space.dtype).removeprefix('torch.')} {list(space.shape)}"
    return repr(space)


def label(transform: str, **settings: Any) -> str:
    """Return the text of the call that made a transform, for ``repr``."""
    return f"{transform}({', '.join(f'{name}={_show(value)}' for name, value in settings.items() if value is not None)})"


def _show(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return str(value.tolist()) if value.numel() <= 4 else f"<{str(value.dtype).removeprefix('torch.')} {list(value.shape)}>"
    return repr(value)
