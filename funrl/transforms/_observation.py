"""Transforms of values, dtypes and shapes of observations."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from funrl import _check, tree
from funrl.spaces import Binary, Box, Discrete, MultiDiscrete
from funrl.transforms._core import Transform
from funrl.transforms._parts import Keys, Map, as_box, check_tensor, map_parts, misfit, moved


def observation_norm(loc: float | torch.Tensor, scale: float | torch.Tensor, *, in_keys: Keys = None, out_keys: Keys = None) -> Transform:
    """Scale and shift observations: x * scale + loc.

    For observations with mean m and standard deviation s, ``loc=-m / s, scale=1 / s`` gives mean 0 and standard deviation 1; for
    running statistics see :func:`funrl.transforms.vec_norm`. Integers become floating point.

    Args:
        loc: the summand, finite; a number, or a tensor that broadcasts to the shape of the observation.
        scale: the factor, finite and not 0; a number, or a tensor that broadcasts to the shape of the observation.
        in_keys: the entries of a dict observation to transform; None: the observation is not a dict.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.

    Raises:
        TypeError: if ``loc`` or ``scale`` is neither number nor tensor, or keys are not a list of strings.
        ValueError: if ``loc`` or ``scale`` is not as above; when applied: if an entry is missing, is not a Box, or has another shape.

    Example:
        >>> import funrl
        >>> norm = observation_norm(loc=1, scale=torch.tensor([1.0, 1.0, 0.125]))
        >>> env = funrl.transforms.compose(funrl.envs.make("Pendulum-v1"), norm)
        >>> env.observation_space.low, env.observation_space.high
        (tensor([0., 0., 0.]), tensor([2., 2., 2.]))
    """
    for name, value in (("loc", loc), ("scale", scale)):
        if isinstance(value, bool) or not isinstance(value, (int, float, torch.Tensor)):
            raise TypeError(f"observation_norm: {name}: expected a number or a tensor, got {type(value).__name__}")
        numbers = torch.as_tensor(value, dtype=torch.float64)
        if not bool(numbers.isfinite().all()) or (name == "scale" and bool((numbers == 0).any())):
            raise ValueError(f"observation_norm: {name}: expected finite numbers{', not 0' if name == 'scale' else ''}, got {value}")

    def number(value: Any, x: torch.Tensor) -> Any:
        return value.to(x.device, x.dtype) if isinstance(value, torch.Tensor) else value

    def f(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        x = x if x.is_floating_point() else x.to(dtype)
        return x * number(scale, x) + number(loc, x)

    def fit(space: Any, place: str) -> tuple[Box, Map]:
        if not isinstance(space, Box):
            raise misfit("observation_norm", place, "numbers (a Box)", space, "put discrete_to_one_hot or cast before it")
        for name, value in (("loc", loc), ("scale", scale)):
            if isinstance(value, torch.Tensor) and not _check.broadcasts(value.shape, space.shape):
                raise misfit("observation_norm", place, f"a shape that {name} {list(value.shape)} broadcasts to", space, f"reshape {name}")
        one, other = f(space.low, torch.float32), f(space.high, torch.float32)
        return Box(torch.minimum(one, other), torch.maximum(one, other), dtype=one.dtype, layout=space.layout), f

    return map_parts("observation_norm", fit, in_keys, out_keys, loc=loc, scale=scale)


def cast(dtype: torch.dtype, *, in_keys: Keys = None, out_keys: Keys = None) -> Transform:
    """Cast observations to a floating-point dtype, such as the float64 observations of MuJoCo to float32.

    The observation then no longer has the dtype of ``env_params``; :func:`funrl.env.check_env` reports this for a pure environment.

    Args:
        dtype: a floating-point dtype.
        in_keys: the entries of a dict observation to transform; None: the observation is not a dict.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.

    Raises:
        TypeError: if ``dtype`` is not a floating-point dtype, or keys are not a list of strings.
        ValueError: when applied: if an entry is missing or is not a tensor.

    Example:
        >>> import funrl
        >>> env = funrl.transforms.compose(funrl.envs.make("Pendulum-v1"), cast(torch.float64))
        >>> env.observation_space.dtype, env.reset(funrl.random.key(0))[1].observation.dtype
        (torch.float64, torch.float64)
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"cast: dtype: expected a floating-point dtype such as torch.float32, got {dtype!r}")

    def fit(space: Any, place: str) -> tuple[Box, Map]:
        check_tensor("cast", space, place)
        if isinstance(space, Binary):
            followed = Box(0.0, 1.0, space.shape, dtype, space.layout)
        else:
            box = as_box(space)
            followed = Box(box.low.to(dtype), box.high.to(dtype), dtype=dtype, layout=box.layout)
        return followed, lambda x, _: x.to(dtype)

    return map_parts("cast", fit, in_keys, out_keys, dtype=dtype)


def discrete_to_one_hot(*, in_keys: Keys = None, out_keys: Keys = None) -> Transform:
    """Encode integers as one-hot vectors: one integer below n as [n], and K integers, concatenated, as [n_1 + ... + n_K].

    Args:
        in_keys: the entries of a dict observation to transform; None: the observation is not a dict.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.

    Raises:
        TypeError: if keys are not a list of strings.
        ValueError: when applied: if an entry is missing, or neither Discrete nor MultiDiscrete.

    Example:
        >>> import funrl
        >>> from funrl.env import Timestep
        >>> def reset(key, env_params):
        ...     zero, no = torch.tensor(0.0), torch.tensor(False)
        ...     return (), Timestep(torch.tensor(1), zero, no, no, {})
        >>> env = funrl.envs.make("Pendulum-v1")._replace(observation_space=Discrete(3), reset=reset)
        >>> funrl.transforms.compose(env, discrete_to_one_hot()).reset(funrl.random.key(0))[1].observation
        tensor([0., 1., 0.])
    """

    def fit(space: Any, place: str) -> tuple[Box, Map]:
        if not isinstance(space, (Discrete, MultiDiscrete)):
            raise misfit("discrete_to_one_hot", place, "Discrete or MultiDiscrete", space, "leave it as it is")
        sizes = (space.n,) if isinstance(space, Discrete) else space.nvec
        starts = (space.start,) if isinstance(space, Discrete) else space.start

        def f(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            digits = x.reshape(len(sizes)).unbind(0)
            hot = [tree.one_hot(digit - first, n) for digit, first, n in zip(digits, starts, sizes, strict=True)]
            return torch.cat(hot).to(dtype)

        return Box(0.0, 1.0, (sum(sizes),)), f

    return map_parts("discrete_to_one_hot", fit, in_keys, out_keys)


def flatten_observation(start_dim: int = 0, end_dim: int = -1, *, in_keys: Keys = None, out_keys: Keys = None) -> Transform:
    """Join the dimensions from ``start_dim`` to ``end_dim`` into one; by default an observation becomes a vector.

    After ``frame_stack``, ``flatten_observation(0, 1)`` makes one picture with the channels of all frames.

    Args:
        start_dim: the first of the dimensions of a single observation; negative ones count from the end.
        end_dim: the last of them, inclusive.
        in_keys: the entries of a dict observation to transform; None: the observation is not a dict.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.

    Raises:
        TypeError: if a dimension is not an integer, or keys are not a list of strings.
        ValueError: when applied: if an entry is missing, is not a tensor, or has no such dimensions.

    Example:
        >>> import funrl
        >>> from funrl.transforms import compose, frame_stack
        >>> compose(funrl.envs.make("Pendulum-v1"), frame_stack(4), flatten_observation()).observation_space.shape
        (12,)
    """

    dims, expected = {"start_dim": start_dim, "end_dim": end_dim}, f"dimensions from {start_dim} to {end_dim}"
    return _reshaping("flatten_observation", dims, lambda x: x.flatten(start_dim, end_dim), expected, in_keys, out_keys)


def permute(dims: Sequence[int], *, in_keys: Keys = None, out_keys: Keys = None) -> Transform:
    """Permute the dimensions of observations.

    Args:
        dims: the old index of each dimension of a single observation, each once; negative ones count from the end.
        in_keys: the entries of a dict observation to transform; None: the observation is not a dict.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.

    Raises:
        TypeError: if ``dims`` is not a sequence of integers, or keys are not sequences of strings.
        ValueError: when applied: if an entry is missing, is not a tensor, or has other dimensions.

    Example:
        >>> import funrl
        >>> from funrl.transforms import compose, frame_stack
        >>> compose(funrl.envs.make("Pendulum-v1"), frame_stack(4), permute((1, 0))).observation_space.shape
        (3, 4)
    """
    dims = _check.integers("permute: dims", dims, remedy="give all dimensions, as in (2, 0, 1)")
    expected = f"the {len(dims)} dimensions {list(dims)}"
    return _reshaping("permute", {"dims": dims}, lambda x: x.permute(*dims), expected, in_keys, out_keys)


def squeeze(dim: int, *, in_keys: Keys = None, out_keys: Keys = None) -> Transform:
    """Drop a dimension of size 1 from observations.

    Args:
        dim: the dimension of a single observation; negative ones count from the end.
        in_keys: the entries of a dict observation to transform; None: the observation is not a dict.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.

    Raises:
        TypeError: if ``dim`` is not an integer, or keys are not a list of strings.
        ValueError: when applied: if an entry is missing, is not a tensor, or has no such dimension of size 1.

    Example:
        >>> import funrl
        >>> from funrl.transforms import compose
        >>> compose(funrl.envs.make("Pendulum-v1"), unsqueeze(0), squeeze(0)).observation_space.shape
        (3,)
    """

    def f(x: torch.Tensor) -> torch.Tensor:
        (only,) = x.unbind(dim)  # where x.squeeze would return another size unchanged
        return only

    return _reshaping("squeeze", {"dim": dim}, f, f"size 1 in dimension {dim}", in_keys, out_keys)


def unsqueeze(dim: int, *, in_keys: Keys = None, out_keys: Keys = None) -> Transform:
    """Insert a dimension of size 1 into observations.

    Args:
        dim: its index among the dimensions of a single observation; negative ones count from the end.
        in_keys: the entries of a dict observation to transform; None: the observation is not a dict.
        out_keys: new entries for the results, in addition to the old ones; None: the results replace the old entries.

    Raises:
        TypeError: if ``dim`` is not an integer, or keys are not a list of strings.
        ValueError: when applied: if an entry is missing, is not a tensor, or has too few dimensions.

    Example:
        >>> import funrl
        >>> from funrl.transforms import compose
        >>> compose(funrl.envs.make("Pendulum-v1"), unsqueeze(-1)).observation_space.shape
        (3, 1)
    """
    return _reshaping("unsqueeze", {"dim": dim}, lambda x: x.unsqueeze(dim), f"a place {dim} for a new dimension", in_keys, out_keys)


def _reshaping(name: str, settings: dict[str, Any], f: Callable, expected: str, in_keys: Keys, out_keys: Keys) -> Transform:
    """Return the transform that rearranges elements by ``f``, which raises an error of torch for a shape that is not as ``expected``."""
    for argument, value in settings.items():
        if not isinstance(value, tuple):
            _check.integer(f"{name}: {argument}", value)

    def fit(space: Any, place: str) -> tuple[Any, Map]:
        check_tensor(name, space, place)
        try:
            return moved(space, f), lambda x, _: f(x)
        except (IndexError, RuntimeError, ValueError):
            remedy = f"change {' or '.join(settings)}: these are dimensions of a single observation"
            raise misfit(name, place, expected, space, remedy) from None

    return map_parts(name, fit, in_keys, out_keys, **settings)
