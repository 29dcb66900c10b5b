"""Shared memory: trees of tensors in an anonymous file, which the system frees when the last process that maps it ends."""

import dataclasses
import fcntl
import mmap
import os
import tempfile
import threading
import weakref
from typing import Any

import torch

from funrl import tree

_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Spec:
    """The shape and dtype of a leaf."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def spec(value: Any, lead: tuple[int, ...] = (), drop: int = 0) -> Any:
    """Return a tree of :class:`Spec`, with the dimensions ``lead`` in place of the first ``drop`` of each leaf."""
    return tree.map(lambda x: Spec((*lead, *x.shape[drop:]), x.dtype), value)


def size(specs: Any) -> int:
    """Return the number of bytes that the tensors of a tree of :class:`Spec` need."""
    return sum(_room(leaf) for leaf in tree.leaves(specs))


def tensor_views(specs: Any, memory: torch.Tensor) -> Any:
    """Return a tree of tensors in ``memory``, uint8 [at least size(specs)]."""
    leaves, form = tree.flatten(specs)
    start, views = 0, []
    for leaf in leaves:
        views.append(memory[start : start + _bytes(leaf)].view(leaf.dtype).reshape(leaf.shape))
        start += _room(leaf)
    return tree.unflatten(form, views)


def write(places: Any, values: Any) -> None:
    """Copy a tree of tensors into another of the same structure."""
    for place, x in zip(tree.leaves(places), tree.leaves(values), strict=True):
        place.copy_(x.detach())


def copies(value: Any, device: torch.device | None) -> Any:
    """Return copies of the tensors of a tree, on a device; None: on their own."""
    return tree.map(lambda x: x.clone() if device is None else x.to(device, copy=True), value)


def _bytes(leaf: Spec) -> int:
    return torch.Size(leaf.shape).numel() * leaf.dtype.itemsize


def _room(leaf: Spec) -> int:
    return -(-_bytes(leaf) // _ALIGNMENT) * _ALIGNMENT


class Shared:
    """Bytes shared between processes. ``handle`` is the descriptor of a file that another process has created."""

    def __init__(self, num_bytes: int, handle: int | None = None):
        num_bytes = max(num_bytes, _ALIGNMENT)
        self.handle = _nameless() if handle is None else handle
        if handle is None:
            os.ftruncate(self.handle, num_bytes)
        self.bytes = torch.frombuffer(mmap.mmap(self.handle, num_bytes), dtype=torch.uint8)
        self._finalizer = weakref.finalize(self, os.close, self.handle)

    def close(self) -> None:
        """Close the file; the memory is freed with the last tensor in it."""
        self._finalizer()


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("funrl")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Published:
    """Parameters that one process writes and others read. A reader never gets a mixture of two versions.

    A file lock excludes such mixtures; the system releases the lock of a process that dies.
    """

    message = None  # requests carry no parameters, as the workers read them from this shared memory

    def __init__(self, specs: Any, handle: int | None = None):
        self.specs = {"version": Spec((), torch.int64), "params": specs}
        self.shared = Shared(size(self.specs), handle)
        self.tensors = tensor_views(self.specs, self.shared.bytes)
        self.threads = threading.Lock()  # the file lock does not separate the threads of one process

    @property
    def version(self) -> int:
        """The version of the latest parameters, read without the lock."""
        return int(self.tensors["version"])

    def write(self, params: Any, version: int) -> None:
        """Publish parameters with their version."""
        with self.threads:
            fcntl.lockf(self.shared.handle, fcntl.LOCK_EX)
            try:
                write(self.tensors["params"], params)
                self.tensors["version"].fill_(version)
            finally:
                fcntl.lockf(self.shared.handle, fcntl.LOCK_UN)

    def renumber(self, version: int) -> None:
        """Give the latest parameters another version."""
        self.write(tree.clone(self.tensors["params"]), version)

    def read(self, device: torch.device | None = None) -> tuple[int, Any]:
        """Return the version of the latest parameters, and a copy of them."""
        fcntl.lockf(self.shared.handle, fcntl.LOCK_SH)
        try:
            return self.version, copies(self.tensors["params"], device)
        finally:
            fcntl.lockf(self.shared.handle, fcntl.LOCK_UN)
