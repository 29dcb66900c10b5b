"""Conversion of the columns of a file, in one of several layouts, to a data set."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from funrl import tree
from funrl.env import Transition
from funrl.offline._dataset import Dataset, follows, from_transitions

_NUMBERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_NUMBERS += (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# The names of columns in files, the usual one first.
ALIASES = {
    "observation": ("observations", "observation", "obs", "states"),
    "action": ("actions", "action"),
    "reward": ("rewards", "reward"),
    "terminated": ("terminals", "terminations", "terminated", "dones", "terminal", "done"),
    "truncated": ("timeouts", "truncations", "truncated"),
    "next_observation": ("next_observations", "next_observation", "next_obs"),
    "end": ("ends", "end"),
}


def rename(place: str, arrays: Mapping[str, Any], *, needed: tuple[str, ...]) -> dict[str, Any]:
    """Return the columns by funrl's names.

    Warns:
        UserWarning: if none says which rows are terminal, and there are columns of unknown names; these are not read.

    Raises:
        ValueError: if one of ``needed`` is missing; the message lists the existing ones.

    Example:
        >>> rename("a.npz", {"obs": 1}, needed=("observation", "action"))
        Traceback (most recent call last):
        ...
        ValueError: a.npz: expected a column 'actions' (or action), got only obs
    """
    found = {}
    for name, words in ALIASES.items():
        for word in words:
            if word in arrays:
                found[name] = arrays[word]
                break
        else:
            if name in needed:
                got = ", ".join(sorted(map(str, arrays))) or "nothing"
                raise ValueError(f"{place}: expected a column {words[0]!r} (or {', '.join(words[1:])}), got only {got}")
    unread = sorted(str(word) for word in arrays if not any(word in words for words in ALIASES.values()))
    if unread and "terminated" not in found:
        words = f"no column {ALIASES['terminated'][0]!r} (or {', '.join(ALIASES['terminated'][1:])}), so that no row is terminal"
        warnings.warn(f"{place}: {words}; not read: {', '.join(unread)}", stacklevel=3)
    return found


def columns_of(place: str, columns: Mapping[str, Any], dtype: torch.dtype | None) -> dict[str, Any]:
    """Return columns as tensors: floating point in ``dtype`` (None: as it is), flags as bool, a reward [N, 1] as [N].

    Example:
        >>> columns_of("a.npz", {"reward": np.ones((2, 1)), "terminated": np.array([0.0, 1.0])}, torch.float32)
        {'reward': tensor([1., 1.]), 'terminated': tensor([False,  True])}
    """

    def tensor(name: str, x: Any) -> torch.Tensor:
        try:
            x = np.asarray(x)
            x = x.astype(x.dtype.newbyteorder("="), copy=False)
            y = torch.from_numpy(np.ascontiguousarray(x)) if not isinstance(x, torch.Tensor) else x
        except TypeError:
            y = None
        if y is None or y.dtype not in _NUMBERS:
            raise ValueError(f"{place}: {name}: expected bool, uint8, signed integers or real numbers, got an array of {x.dtype}")
        return y.to(dtype) if dtype is not None and y.is_floating_point() else y

    result = {}
    for name, value in columns.items():
        made = tree.map(lambda x, name=name: tensor(name, x), value)
        if name in ("reward", "terminated", "truncated", "end") and isinstance(made, torch.Tensor):
            made = made.squeeze(-1) if made.ndim == 2 and made.shape[-1] == 1 else made
            if name != "reward":
                made = _flags(f"{place}: {name}", made)
            elif not made.is_floating_point():
                made = made.to(dtype or torch.float32)
        result[name] = made
    return result


def check_rows(place: str, columns: Mapping[str, Any], reward: str = "the reward has") -> None:
    """Raise unless rewards and flags are columns [N] or [N, 1], and all columns have as many rows as ``reward`` says.

    Example:
        >>> check_rows("a.npz", {"reward": np.ones((2, 3))})
        Traceback (most recent call last):
        ...
        ValueError: a.npz: reward: expected a column [N], one number a row, got [2, 3]
    """
    for name in ("reward", "terminated", "truncated", "end"):
        x = columns.get(name)
        if x is not None and (isinstance(x, dict) or not x.shape or tuple(x.shape[1:]) not in ((), (1,))):
            got = f"a group with {sorted(x)}" if isinstance(x, dict) else list(x.shape)
            raise ValueError(f"{place}: {name}: expected a column [N], one number a row, got {got}")
    for name, part in columns.items():
        for path, x in zip(tree.paths(part), tree.leaves(part), strict=True):
            got = len(x) if x.ndim else None
            if got != (size := len(columns["reward"])):
                where = name if path == "(the whole tree)" else name + path
                raise ValueError(f"{place}: {where}: expected {size} rows, as {reward}, got {got}; the file is cut off or mixed")


def _flags(what: str, x: torch.Tensor) -> torch.Tensor:
    wrong = ((x != 0) & (x != 1)).flatten()
    if bool(wrong.any()):
        first = int(wrong.int().argmax())
        raise ValueError(f"{what}: expected 0 or 1 in each row, got {x.flatten()[first].item()} in row {first}; write flags")
    return x != 0


def from_arrays(
    place: str,
    columns: Mapping[str, Any],
    *,
    spaces: Any = None,
    dtype: torch.dtype | None = torch.float32,
    last: bool = True,
) -> Dataset:
    """Make a data set of columns that may lack the successors.

    Without ``next_observation`` the successor of a row is the observation of the next one. It is missing in rows that end an episode:
    a terminated one does not need it, and gets its own observation; one that was truncated, and the last row, are dropped, and the row
    before becomes the last of its piece. With ``next_observation``, and without ``end``, a piece also ends where the next row is not the
    successor, as in files without timeouts.

    Args:
        place: the beginning of messages: the name of a file.
        columns: arrays by the names of a :class:`funrl.env.Transition`.
        spaces: as for :func:`funrl.offline.datasets.from_transitions`.
        dtype: of floating-point columns; None: that of the file.
        last: whether the last row is the last one of the file, whose successor is missing.

    Raises:
        ValueError, TypeError: as for :func:`funrl.offline.datasets.from_transitions`.

    Warns:
        UserWarning: with their number, if rows have another successor than the next row and no flag.

    Example:
        >>> columns = {"observation": np.arange(4.0)[:, None], "action": np.zeros((4, 1)), "reward": np.ones(4),
        ...            "terminated": np.array([0, 1, 0, 0]), "truncated": np.array([0, 0, 0, 1])}
        >>> data = from_arrays("a.hdf5", columns)
        >>> data.transition.next_observation.squeeze(-1), data.end, data.notes
        (tensor([1., 1., 3.]), tensor([False,  True,  True]), ('1 of 4 rows were dropped, as their successors are not in the data',))
    """
    made = columns_of(place, columns, dtype)
    check_rows(place, made)
    reward = made["reward"]
    none = torch.zeros(reward.shape, dtype=torch.bool)
    terminated, truncated = made.get("terminated", none), made.get("truncated", none)
    end = made.pop("end", None)
    parts = {"terminated": terminated, "truncated": truncated, "extras": {}, "place": ()}
    if "next_observation" in made:
        rows = Transition(observation=made["observation"], action=made["action"], reward=reward, **parts,
                          next_observation=made["next_observation"])  # fmt: skip
        notes: tuple[str, ...] = ()
        if end is None and len(reward):
            end = torch.cat([~follows(rows, _close), terminated.new_zeros(1)])
            count = int((end & ~rows.done)[:-1].sum())
            text = f"{count} of {len(reward)} rows have another successor than the next row and no flag; a piece ends at each"
            if count:
                warnings.warn(f"{place}: {text}", UserWarning, stacklevel=2)
                notes = (text,)
        return from_transitions(rows, end=end, spaces=spaces, notes=notes, what=place)
    observation = made["observation"]
    after = tree.map(lambda x: torch.cat([x[1:], x[-1:]]), observation)
    after = tree.where(terminated, observation, after) if len(reward) else after
    ends = (truncated if end is None else truncated | end) & ~terminated
    dropped = ends
    if last and len(reward):
        dropped = torch.cat([ends[:-1], (~terminated)[-1:]])
    rows = Transition(observation=observation, action=made["action"], reward=reward, **parts, next_observation=after)
    kept = (~dropped).nonzero().squeeze(-1)
    # The row before one that was dropped is the last of its piece.
    cut = torch.cat([ends[1:], ends[-1:]]) if len(reward) else ends
    note = f"{int(dropped.sum())} of {len(reward)} rows were dropped, as their successors are not in the data"
    if len(reward) and not len(kept):
        raise ValueError(f"{place}: no row is left: none of {len(reward)} has its successor in the data")
    return from_transitions(
        tree.index(rows, kept), end=(cut | terminated)[kept], spaces=spaces, notes=(note,) * bool(dropped.any()), what=place
    )


def _close(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.isclose(x.double(), y.double(), rtol=1e-4, atol=1e-5)  # rounding in the file is no break
