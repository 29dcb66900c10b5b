"""A ring of rows in which new rows overwrite the oldest: the basis of every buffer of tensors."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, tree
from funrl.buffers._buffer import FRESH, IN_PLACE, RingState, Storage, Write
from funrl.buffers._journal import append_to_files, home, release


def _zeros(example: Any, capacity: int) -> Any:
    return tree.map(lambda x: torch.zeros((capacity, *x.shape), dtype=x.dtype, device=x.device), example)


memory = Storage(_zeros)
"""The memory of the device of the example."""


def start(name: str, example: Any, capacity: int, storage: Storage) -> RingState:
    """Return an empty ring for items with the structure of ``example``."""
    leaves = tree.leaves(example)
    _check.some(f"buffers.{name}: init: example", leaves, "leaf")
    for path, x in zip(tree.paths(example), leaves, strict=True):
        _check.tensor(f"buffers.{name}: init: example: leaf {path}", x, "wrap it in torch.tensor, or use buffers.objects")
    zero = torch.zeros((), dtype=torch.int64, device=leaves[0].device)
    return RingState(storage.create(example, capacity), zero, zero.clone())


def capacity_of(ring: RingState) -> int:
    """Return N."""
    return tree.leaves(ring.data)[0].shape[0]


def check_items(what: str, data: Any, items: Any, leading: int) -> None:
    """Raise unless ``items`` has the leaves of ``data`` [N, ...], with ``leading`` dimensions of a common size instead of N."""
    expected, form = tree.flatten(data)
    values, other = tree.flatten(items)
    if form != other:
        tree.check_like(tree.map(lambda x: 0, items), tree.map(lambda x: 0, data), what, "the buffer")
    for i, (x, y) in enumerate(zip(values, expected, strict=True)):
        if not isinstance(x, torch.Tensor) or x.dtype != y.dtype or x.shape[leading:] != y.shape[1:] or x.ndim != leading + y.ndim - 1:
            shape = ", ".join([*["n"] * leading, *map(str, y.shape[1:])])
            remedy, lead = "", x.ndim - y.ndim + 1 if isinstance(x, torch.Tensor) else leading
            if lead != leading and x.shape[lead:] == y.shape[1:]:
                if leading == 1 and lead > 1:
                    remedy = f"; make one dimension of the first {lead}: tree.reshape(batch, (-1,), batch_dims={lead})"
                elif {leading, lead} == {0, 1}:
                    remedy = f"; for {'a batch take extend' if lead else 'one item take add'}"
            raise ValueError(
                f"{what}: leaf {tree.paths(items)[i]} is {tree.describe_leaf(x)}; "
                f"expected {str(y.dtype).removeprefix('torch.')} [{shape}], as the buffer was made for{remedy}"
            )
        if x.shape[:leading] != values[0].shape[:leading]:
            raise ValueError(
                f"{what}: leaf {tree.paths(items)[i]} has {x.shape[0]} rows; "
                f"expected {values[0].shape[0]}, as leaf {tree.paths(items)[0]} has"
            )


def append(write: Write, ring: RingState, batch: Any) -> RingState:
    """Write rows after the cursor; if there are more than N rows, write only the last N."""
    leaves = tree.leaves(batch)
    n, capacity = leaves[0].shape[0], capacity_of(ring)
    kept = min(n, capacity)
    place = home(ring.data)
    if place == "files":
        if write is FRESH:
            raise TypeError(
                "buffers: extend would copy all files of this buffer into memory; use that of buffers.in_place(buffer), "
                "which writes to the files"
            )
        append_to_files(ring, [x.detach()[n - kept :] for x in leaves], n)
        return ring
    if place == "host" and write is IN_PLACE:
        cursor = int(ring.cursor)
        first = (cursor + n - kept) % capacity
        head = min(kept, capacity - first)
        for x, values in zip(tree.leaves(ring.data), leaves, strict=True):
            values = values.detach() if kept == n else values.detach()[n - kept :]
            if head == kept:
                x[first : first + kept] = values
            else:
                x[first:], x[: kept - head] = values[:head], values[head:]
        ring.cursor.fill_((cursor + n) % capacity)
        ring.size.fill_(min(int(ring.size) + n, capacity))
        return ring
    index = next_slots(ring, n)
    data = tree.map(lambda x, values: write.rows(x, index, values.detach()[n - kept :]), ring.data, batch)
    cursor = write.value(ring.cursor, (ring.cursor + n) % capacity)
    size = write.value(ring.size, (ring.size + n).clamp(max=capacity))
    return RingState(data, cursor, size)


def adding(name: str, data: Callable[[Any], Any], write_rows: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """Return ``add`` and ``extend`` of a buffer: they check items against ``data(state)``, then call ``write_rows(state, batch)``."""

    def add(state: Any, item: Any) -> Any:
        check_items(f"buffers.{name}: add: item", data(state), item, 0)
        return write_rows(state, tree.map(lambda x: x[None], item))

    def extend(state: Any, batch: Any) -> Any:
        check_items(f"buffers.{name}: extend: batch", data(state), batch, 1)
        return write_rows(state, batch)

    return {"add": add, "extend": extend}


def next_slots(ring: RingState, n: int) -> torch.Tensor:
    """Return the slots of n new rows, or of the last N of them: int64 [min(n, N)]."""
    capacity = capacity_of(ring)
    return (torch.arange(n - min(n, capacity), n, device=ring.cursor.device) + ring.cursor) % capacity


def slots(ring: RingState, age: torch.Tensor) -> torch.Tensor:
    """Return the slots of rows by their age: 0 is the newest row, ``size - 1`` the oldest."""
    return (ring.cursor - 1 - age) % capacity_of(ring)


def rows(data: Any, index: torch.Tensor) -> Any:
    """Return ``data[index]``, leaf by leaf, for ``index`` [B]."""
    result = tree.map(lambda x: x.index_select(0, index), data)
    if home(data) == "files":
        release(data)
    return result
