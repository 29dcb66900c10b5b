"""The interface of tasks, and numbers that are uniform over a box with cells held out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _check, random, tree
from funrl.env import Env

# A task belongs to the tests if a number that describes it is a multiple of this one.
SHARES = 5
_CELLS = 10  # of a range


class Tasks(NamedTuple):
    """A distribution over tasks, each an ``env_params`` of one environment. No task of :meth:`train` is one of :meth:`test`.

    Attributes:
        name: of its environment, or what it is called.
        env: the environment; None for tasks of supervised learning.
        default_params: the params that a task begins with.
        draw: ``draw(key, env_params, held_out) -> env_params``: one task, that is, ``env_params`` with other values where tasks differ, in
            their dtypes and on their device. ``held_out`` is bool []: whether the task is one for tests.
        is_held_out: ``is_held_out(env_params) -> bool``: whether tasks, with leaves [...] or [N, ...], are for tests.
        test_share: the part of all tasks that is held out.
    """

    name: str
    env: Env | None
    default_params: Any
    draw: Callable[[torch.Tensor, Any, torch.Tensor], Any]
    is_held_out: Callable[[Any], torch.Tensor]
    test_share: float = 1 / SHARES

    def sample(self, key: torch.Tensor, n: int) -> Any:
        """Draw n tasks of all, those for tests too: ``env_params`` with leaves [n, ...]; ``key`` is a key []."""
        split_key, key = random.split(key).unbind(0)
        return self._drawn(key, random.bernoulli(split_key, self.test_share, (_number(n),)))

    def train(self, key: torch.Tensor, n: int) -> Any:
        """Draw n tasks for training: ``env_params`` with leaves [n, ...]; ``key`` is a key []."""
        return self._drawn(key, torch.zeros(_number(n), dtype=torch.bool, device=_check.key("tasks: key", key).device))

    def test(self, key: torch.Tensor, n: int) -> Any:
        """Draw n tasks for tests: ``env_params`` with leaves [n, ...]; ``key`` is a key []."""
        return self._drawn(key, torch.ones(_number(n), dtype=torch.bool, device=_check.key("tasks: key", key).device))

    def _drawn(self, key: torch.Tensor, held_out: torch.Tensor) -> Any:
        like = tree.to(self.default_params, key.device)
        return torch.func.vmap(self.draw, (0, None, 0))(random.split(key, len(held_out)), like, held_out)


def _number(n: Any) -> int:
    return _check.integer("tasks: n", n, 1)


def residue(key: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
    """Draw the number of a task modulo ``SHARES``, int64 []: 0 if it is held out, otherwise any other residue."""
    return torch.where(held_out, 0, 1 + random.randint(key, (), 0, SHARES - 1))


def uniform(
    env: Env | None,
    *,
    name: str = "",
    default_params: Any = None,
    further: Callable[[torch.Tensor, Any], Any] | None = None,
    **ranges: tuple[float, float],
) -> Tasks:
    r"""Return tasks in which the numbers of some fields of ``env_params`` are drawn uniformly.

    Each range is cut into ten cells, and the d numbers of a task together are in one of :math:`10^d` boxes. A box is held out if the sum of
    its cells' numbers is a multiple of 5:

    .. math:: \sum_{i=1}^d \left\lfloor 10\, \frac{x_i - l_i}{h_i - l_i} \right\rfloor \equiv 0 \pmod 5

    With two numbers or more each of them is then uniform over its whole range, in training and in tests. A hundredth of a cell at each of
    its ends is left out, so that rounding takes no task to another cell.

    Args:
        env: the environment; None for tasks of supervised learning.
        name: of the tasks; that of the environment unless given.
        default_params: the params that a task begins with; those of the environment unless given.
        further: ``further(key, env_params) -> env_params`` draws what else differs between tasks.
        **ranges: fields of the params, each (lowest, highest).

    Raises:
        ValueError: if the params have no such floating-point field, or a range is empty.

    Example:
        >>> from funrl import envs
        >>> lengths = uniform(envs.pendulum(), length=(0.5, 2.0))
        >>> drawn = lengths.train(random.key(0), 1000)
        >>> bool(drawn.length.min() > 0.5), bool(drawn.length.max() < 2.0), drawn.mass[:2]
        (True, True, tensor([1., 1.]))
    """
    default = default_params if env is None else env.default_params
    what = name or (env.name if env is not None else "")
    for field, given in ranges.items():
        value, numbers = getattr(default, field, None), isinstance(given, tuple | list) and len(given) == 2
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            raise ValueError(f"tasks.uniform: {field}: expected a floating-point field of the params of {what}, got {value!r}")
        if not numbers or not given[0] < given[1]:
            raise ValueError(f"tasks.uniform: {field}: expected a range (lowest, highest), got {given!r}")
    if not ranges:
        raise ValueError("tasks.uniform: ranges: expected at least one, such as length=(0.5, 2.0), got none")

    def draw(key: torch.Tensor, env_params: Any, held_out: torch.Tensor) -> Any:
        cell_key, residue_key, place_key, further_key = random.split(key, 4).unbind(0)
        sizes = [getattr(default, field).numel() for field in ranges]
        cells = random.randint(cell_key, (sum(sizes),), 0, _CELLS)
        wanted = (residue(residue_key, held_out) - cells[:-1].sum()) % SHARES
        cells = torch.cat([cells[:-1], (wanted + SHARES * (cells[-1] // SHARES)).reshape(1)])
        dtype = getattr(env_params, next(iter(ranges))).dtype
        places = (cells + 0.01 + 0.98 * random.uniform(place_key, (sum(sizes),), dtype=dtype)) / _CELLS
        values = {}
        for (field, (low, high)), x in zip(ranges.items(), places.split(sizes), strict=True):
            like = getattr(env_params, field)
            values[field] = (low + (high - low) * x).reshape(like.shape).to(like.dtype)
        env_params = env_params.replace(**values)
        return env_params if further is None else further(further_key, env_params)

    def is_held_out(env_params: Any) -> torch.Tensor:
        check_params_kind(what, env_params, default)
        total = 0
        for field, (low, high) in ranges.items():
            value = getattr(env_params, field)
            cells = ((value - low) / (high - low) * _CELLS).floor().long()
            total = total + cells.reshape(*value.shape[: value.ndim - getattr(default, field).ndim], -1).sum(-1)
        return torch.as_tensor(total) % SHARES == 0

    return Tasks(what, env, default, draw, is_held_out)


def check_params_kind(name: str, env_params: Any, default: Any) -> None:
    """Raise a TypeError unless the params are of the class of the default ones."""
    if type(env_params) is not type(default):
        raise TypeError(f"tasks of {name}: env_params: expected {type(default).__name__}, got {type(env_params).__name__}")
