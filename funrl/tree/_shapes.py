"""The leading dimensions that all leaves share, in another shape."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from funrl.tree._walks import describe_leaf, leaves, map, paths


def batch_shape(tree: Any, batch_dims: int | None = None) -> torch.Size:
    """Return the leading sizes that all leaves share.

    Args:
        tree: leaves [B1, ..., Bn, ...].
        batch_dims: n; by default as many as agree, which for leaves of equal shapes is all dimensions.

    Raises:
        ValueError: if there is no leaf, or if leaves do not share ``batch_dims`` dimensions (the leaf is named).

    Example:
        >>> import torch
        >>> batch_shape({"a": torch.zeros(5, 3), "b": {"c": torch.zeros(5, 2, 1)}})
        torch.Size([5])
    """
    if batch_dims is not None:
        return shared(tree, batch_dims, "tree.batch_shape")
    values = leaves(tree)
    shape = shared(tree, 0, "tree.batch_shape")
    for n in range(1, 1 + min(x.ndim for x in values)):
        if any(x.shape[:n] != values[0].shape[:n] for x in values):
            break
        shape = values[0].shape[:n]
    return shape


def reshape(tree: Any, shape: Any, *, batch_dims: int = 1) -> Any:
    """Reshape the first ``batch_dims`` dimensions of every leaf to ``shape``.

    Args:
        tree: leaves [B1, ..., Bn, ...] with n = ``batch_dims``.
        shape: the new leading sizes; one may be -1.
        batch_dims: the number of leading dimensions to replace.

    Raises:
        ValueError: if leaves do not share these dimensions (the leaf is named), or ``shape`` holds another number of items.

    Example:
        >>> import torch
        >>> reshape({"a": torch.zeros(6, 4)}, (2, 3))["a"].shape
        torch.Size([2, 3, 4])
    """
    if not leaves(tree):
        return tree
    old = shared(tree, batch_dims, "tree.reshape")
    shape = tuple(shape)
    known = math.prod([n for n in shape if n != -1])
    total = math.prod(old)
    open_sizes = len([n for n in shape if n == -1])
    if open_sizes > 1 or (open_sizes == 0 and known != total) or (open_sizes == 1 and (known == 0 or total % known != 0)):
        raise ValueError(f"tree.reshape: cannot make {list(shape)} of the batch dimensions {list(old)}: that is another number of items")
    new = [total // known if n == -1 else n for n in shape]
    return map(lambda x: x.reshape(*new, *x.shape[batch_dims:]), tree)


def flatten_batch(tree: Any, batch_dims: int = 2) -> Any:
    """Merge the first ``batch_dims`` dimensions of every leaf into one: ``[T, B, ...]`` becomes ``[T * B, ...]``.

    Raises:
        ValueError: if leaves do not share these dimensions (the leaf is named).

    Example:
        >>> import torch
        >>> flatten_batch({"a": torch.zeros(2, 3, 4), "b": torch.zeros(2, 3)})["a"].shape
        torch.Size([6, 4])
    """
    return reshape(tree, (math.prod(shared(tree, batch_dims, "tree.flatten_batch")),), batch_dims=batch_dims)


def permute(tree: Any, dims: Sequence[int]) -> Any:
    """Permute batch dimensions; the others are not moved.

    Args:
        tree: leaves [B1, ..., Bn, ...].
        dims: a permutation of 0 to n - 1: the new first dimension is the old ``dims[0]``.

    Raises:
        ValueError: if ``dims`` is not a permutation, or leaves do not share the n dimensions (the leaf is named).

    Example:
        >>> import torch
        >>> permute({"a": torch.zeros(2, 5, 3)}, (1, 0))["a"].shape
        torch.Size([5, 2, 3])
    """
    dims = tuple(dims)
    if sorted(dims) != list(range(len(dims))):
        raise ValueError(f"tree.permute: dims is {dims}; expected a permutation of the batch dimensions 0 to n - 1")
    shared(tree, len(dims), "tree.permute")
    return map(lambda x: x.permute(*dims, *range(len(dims), x.ndim)), tree)


def expand(tree: Any, shape: Sequence[int], *, batch_dims: int = 1) -> Any:
    """Expand a tree along new batch dimensions or those of size 1, without a copy.

    Args:
        tree: leaves [B1, ..., Bn, ...] with n = ``batch_dims``.
        shape: the new leading sizes; its last n are those of the tree, or replace sizes of 1.
        batch_dims: the number of leading dimensions to replace.

    Raises:
        ValueError: if leaves do not share these dimensions (the leaf is named), or they do not expand to ``shape``.

    Example:
        >>> import torch
        >>> expand({"a": torch.zeros(2, 5, 1)}, (3, 2, 5), batch_dims=2)["a"].shape
        torch.Size([3, 2, 5, 1])
    """
    shape = tuple(shape)
    old = shared(tree, batch_dims, "tree.expand")
    new = shape[len(shape) - batch_dims :]
    if len(shape) < batch_dims or any(n not in (1, m) for n, m in zip(old, new, strict=True)):
        raise ValueError(f"tree.expand: the batch dimensions {list(old)} do not expand to {list(shape)}; its last sizes have to equal them")
    fill = (1,) * (len(shape) - batch_dims)
    return map(lambda x: x.reshape(*fill, *x.shape).expand(*shape, *x.shape[batch_dims:]), tree)


def unsqueeze(tree: Any, dim: int = 0) -> Any:
    """Insert a batch dimension of size 1 at ``dim``, 0 or more.

    Raises:
        ValueError: if leaves do not share the ``dim`` dimensions before it (the leaf is named).

    Example:
        >>> import torch
        >>> unsqueeze({"a": torch.zeros(2, 3)}, 1)["a"].shape
        torch.Size([2, 1, 3])
    """
    check_dim(dim, "tree.unsqueeze")
    shared(tree, dim, "tree.unsqueeze")
    return map(lambda x: x.unsqueeze(dim), tree)


def squeeze(tree: Any, dim: int = 0) -> Any:
    """Remove the batch dimension ``dim``, which has size 1.

    Raises:
        ValueError: if leaves do not share it (the leaf is named), or its size is not 1.

    Example:
        >>> import torch
        >>> squeeze({"a": torch.zeros(2, 1, 3), "b": torch.zeros(2, 1)}, 1)["a"].shape
        torch.Size([2, 3])
    """
    check_dim(dim, "tree.squeeze")
    size = shared(tree, dim + 1, "tree.squeeze")[dim]
    if size != 1:
        raise ValueError(f"tree.squeeze: batch dimension {dim} has size {size}; expected 1")
    return map(lambda x: x.squeeze(dim), tree)


def shared(tree: Any, n: int, what: str) -> torch.Size:
    """Check that the first ``n`` sizes of all leaves agree, and return them."""
    values = leaves(tree)
    if not values:
        raise ValueError(f"{what}: expected a tree with at least one leaf, got none")
    for i, x in enumerate(values):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{what}: leaf {paths(tree)[i]} is {describe_leaf(x)}; expected a tensor")
        if x.ndim < n:
            raise ValueError(f"{what}: leaf {paths(tree)[i]} is {describe_leaf(x)}; expected at least {n} batch dimensions")
        if x.shape[:n] != values[0].shape[:n]:
            raise ValueError(
                f"{what}: leaf {paths(tree)[i]} is {describe_leaf(x)}; expected a shape that begins with "
                f"{list(values[0].shape[:n])}, as that of leaf {paths(tree)[0]} does"
            )
    return values[0].shape[:n]


def check_dim(dim: int, what: str) -> None:
    """Raise a ValueError for a negative dimension, which would count from the end of different shapes."""
    if dim < 0:
        raise ValueError(f"{what}: dim is {dim}; expected a batch dimension, counted from the front: 0 or more")
