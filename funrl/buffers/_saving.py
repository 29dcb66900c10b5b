"""Saving and loading of a buffer's state."""

import os
import warnings
from typing import Any

import torch

from funrl import _check, tree
from funrl.buffers._buffer import Buffer, RingState
from funrl.buffers._journal import flush, home


def save(state: Any, path: str | os.PathLike) -> None:
    """Write the state of a buffer to a file, atomically: items, cursor and priorities. :func:`load` restores it bit for bit.

    Items that are in files (:func:`~funrl.buffers.files`) are flushed to the disk and not copied. For such a queue, a load does not bring
    back items that were taken after the save.

    Args:
        state: of any buffer of tensors.
        path: the file; its folder is created if missing.

    Raises:
        TypeError: if a leaf of the state is not a tensor, as in ``objects``, or ``path`` is not a path.
        OSError: if the file cannot be written; an old file remains.

    Example:
        >>> import tempfile
        >>> from funrl import buffers
        >>> buffer = buffers.uniform(10)
        >>> state = buffer.add(buffer.init(torch.zeros(())), torch.tensor(7.0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(state, f"{folder}/buffer")
        ...     load(f"{folder}/buffer", buffer, torch.zeros(())).data[0]
        tensor(7.)
    """
    _check.path("buffers.save", path)
    named = tree.flatten_keys(state)
    if all(isinstance(x, torch.Tensor) for x in named.values()):
        outside = {name: x for name, x in named.items() if home(x) == "files"}
        written = flush(outside) if outside else -1
        named = {name: x for name, x in named.items() if name not in outside}
        tree.save({"state": tree.unflatten_keys(named), "written": torch.tensor(written)}, path)
        return
    wrong = next(name for name, x in named.items() if not isinstance(x, torch.Tensor))
    raise TypeError(f"buffers.save: state: {wrong} is {tree.describe_leaf(named[wrong])}; expected tensors only")


def load(path: str | os.PathLike, buffer: Buffer, example: Any) -> Any:
    """Read the state of a buffer that :func:`save` wrote.

    If the items are in files, and rows were written or lost after the save, the result has all complete rows of the files with initial
    priorities, and there is a warning.

    Args:
        path: the file.
        buffer: a buffer with the same arguments as the saved one.
        example: as for ``buffer.init``; the state goes to its device.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged, or its state is that of another buffer (the message names the leaf).

    Warns:
        UserWarning: if files of the buffer were written after the state was saved.

    Example: see :func:`save`.

        >>> from funrl import buffers
        >>> load("nowhere", buffers.uniform(10), torch.zeros(()))
        Traceback (most recent call last):
        ...
        FileNotFoundError: [Errno 2] No such file or directory: 'nowhere'
    """
    device = tree.leaves(example)[0].device
    like, form = tree.flatten(buffer.init(tree.to(example, "meta")))
    names = list(tree.flatten_keys(tree.unflatten(form, like)))
    saved, written = _read(path, device)
    expected = dict(zip(names, like, strict=True))
    what = f"{path}: the state in the file"
    if written < 0:
        tree.check_like(saved, expected, what, "this buffer")
        return _checked(tree.unflatten(form, [saved[name] for name in names]), path)
    if buffer.storage.open is None or buffer.storage.read is None:
        raise ValueError(f"{path}: the items of this state are in files; give the buffer storage=buffers.files(folder)")
    tree.check_like(saved, {name: expected[name] for name in names if name in saved}, what, "this buffer")
    now = buffer.storage.read(buffer.kept(example), buffer.capacity)[1]
    state = buffer.restore(buffer.storage.open(buffer.kept(example), buffer.capacity))
    mapped = dict(zip(names, tree.leaves(state), strict=True))
    again = _checked(tree.unflatten(form, [saved.get(name, mapped[name]) for name in names]), path)
    if now != written:
        fault = f"{now - written} rows were written to the files after this state was saved"
    elif int(buffer.size(again)) > int(buffer.size(state)):
        fault = f"{int(buffer.size(again) - buffer.size(state))} items were taken from the files, or lost, after this state was saved"
    else:
        return again
    warnings.warn(f"{path}: {fault}; what is there is taken as it is", stacklevel=2)
    return state


def _read(path: Any, device: torch.device) -> tuple[dict[str, torch.Tensor], int]:
    """Return a dict of the leaves of a state, and the number of rows in files, or -1."""
    content = tree.load(path)
    content = content if isinstance(content, dict) else {}
    written = content.pop("written", None)
    if list(content) != ["state"] or not isinstance(content["state"], dict) or not _is_count(written):
        raise ValueError(f"{path}: it does not hold the state of a buffer; give a file that buffers.save wrote")
    return {name: x.to(device) for name, x in tree.flatten_keys(content["state"]).items()}, int(written)


def _is_count(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.dtype == torch.int64 and x.ndim == 0


def _checked(state: Any, path: Any) -> Any:
    """Return a state, or raise if the cursor or the size of its ring is impossible."""
    ring = getattr(state, "ring", state)
    if isinstance(ring, RingState):
        capacity = tree.leaves(ring.data)[0].shape[0]
        if not 0 <= int(ring.cursor) < capacity or not 0 <= int(ring.size) <= capacity:
            found = f"a cursor of {int(ring.cursor)} and a size of {int(ring.size)}"
            raise ValueError(f"{path}: the state in the file is damaged: it has {found} of {capacity}; restore a copy")
    return state
