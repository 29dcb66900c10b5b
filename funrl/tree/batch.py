"""Functions of the batch dimensions of a tree, the leading dimensions that all leaves share."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from funrl.tree.nodes import check_like, describe_leaf, leaves, map, paths

__all__ = [
    "batch_shape",
    "cat",
    "expand",
    "flatten_batch",
    "gather",
    "index",
    "permute",
    "reshape",
    "set",
    "split",
    "squeeze",
    "stack",
    "unbind",
    "unsqueeze",
    "where",
]


def batch_shape(tree: Any, batch_dims: int | None = None) -> torch.Size:
    """Return the leading sizes that all leaves share.

    Args:
        tree: leaves [B1, ..., Bn, ...].
        batch_dims: n; by default as many as agree, which for leaves of equal shapes is all dimensions.

    Raises:
        ValueError: if there is no leaf, or if leaves do not share ``batch_dims`` dimensions (the message names the leaf).

    Example:
        >>> import torch
        >>> batch_shape({"a": torch.zeros(5, 3), "b": {"c": torch.zeros(5, 2, 1)}})
        torch.Size([5])
    """
    if batch_dims is not None:
        return _shared(tree, batch_dims, "tree.batch_shape")
    values = leaves(tree)
    shape = _shared(tree, 0, "tree.batch_shape")
    for n in range(1, 1 + min(x.ndim for x in values)):
        if any(x.shape[:n] != values[0].shape[:n] for x in values):
            break
        shape = values[0].shape[:n]
    return shape


def _shared(tree: Any, n: int, what: str) -> torch.Size:
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


def _check_dim(dim: int, what: str) -> None:
    if dim < 0:
        raise ValueError(f"{what}: dim is {dim}; expected a batch dimension, counted from the front: 0 or more")


def stack(trees: Any, dim: int = 0) -> Any:
    """Stack trees of one structure along a new dimension of every leaf.

    Args:
        trees: a sequence of N trees whose leaves agree in shape.
        dim: where the new dimension of size N goes.

    Raises:
        TypeError: if ``trees`` is a dict, which is a single tree.
        ValueError: if there is no tree, or if structures or shapes differ (the message names the leaf).

    Example:
        >>> import torch
        >>> stack([{"a": torch.zeros(3)}, {"a": torch.ones(3)}])["a"].shape
        torch.Size([2, 3])
    """
    if isinstance(trees, dict):
        raise TypeError("tree.stack: trees: expected a list of trees, got a dict, which is one; write tree.stack([first, second])")
    trees = list(trees)
    if not trees:
        raise ValueError("tree.stack: expected at least one tree, got an empty sequence")
    for number, other in enumerate(trees[1:], 1):
        check_like(other, trees[0], f"tree.stack: tree {number}", "tree 0", dtypes=False)
    return map(lambda *xs: torch.stack(xs, dim), trees[0], *trees[1:])


def cat(trees: Any, dim: int = 0) -> Any:
    """Join trees of one structure along a batch dimension.

    Args:
        trees: a sequence of trees whose leaves agree in all sizes but that of ``dim``.
        dim: the batch dimension, 0 or more.

    Raises:
        ValueError: if there is no tree, or if structures or other sizes differ (the message names the leaf).

    Example:
        >>> import torch
        >>> cat([{"a": torch.zeros(3, 2)}, {"a": torch.ones(1, 2)}])["a"].shape
        torch.Size([4, 2])
    """
    trees = list(trees)
    _check_dim(dim, "tree.cat")
    if not trees:
        raise ValueError("tree.cat: expected at least one tree, got an empty sequence")
    for number, part in enumerate(trees):
        _shared(part, dim + 1, f"tree.cat: tree {number}")
        if number:
            one, other = (map(lambda x: x.narrow(dim, 0, 0), t) for t in (part, trees[0]))
            check_like(one, other, f"tree.cat: without dimension {dim}, tree {number}", "tree 0", dtypes=False)
    return map(lambda *xs: torch.cat(xs, dim), trees[0], *trees[1:])


def split(tree: Any, size: int | Sequence[int], dim: int = 0) -> tuple[Any, ...]:
    """Cut a tree into parts along a batch dimension; the parts are views.

    Args:
        tree: leaves [..., N, ...].
        size: of each part (the last one may be smaller), or the sizes of all parts, which add up to N.
        dim: the batch dimension, 0 or more.

    Raises:
        ValueError: if leaves do not share the dimension, or the sizes do not add up to N.

    Example:
        >>> import torch
        >>> first, rest = split({"a": torch.arange(5)}, [2, 3])
        >>> rest
        {'a': tensor([2, 3, 4])}
    """
    _check_dim(dim, "tree.split")
    n = _shared(tree, dim + 1, "tree.split")[dim]
    if isinstance(size, int):
        if size < 1:
            raise ValueError(f"tree.split: size is {size}; expected at least 1")
        sizes = [min(size, n - start) for start in range(0, n, size)]
    else:
        sizes = list(size)
        if sum(sizes) != n or any(part < 0 for part in sizes):
            raise ValueError(f"tree.split: sizes are {sizes}; expected sizes >= 0 that add up to {n}, the size of dimension {dim}")
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple([map(lambda x, a=a, n=n: x.narrow(dim, a, n), tree) for a, n in zip(starts, sizes, strict=True)])


def unbind(tree: Any, dim: int = 0) -> tuple[Any, ...]:
    """Take a batched tree apart: one tree for each place along a batch dimension. The inverse of :func:`stack`.

    Args:
        tree: leaves [..., N, ...].
        dim: the batch dimension, 0 or more.

    Returns:
        N trees without the dimension, which are views.

    Raises:
        ValueError: if leaves do not share the dimension.

    Example:
        >>> import torch
        >>> unbind({"a": torch.tensor([5, 6])})
        ({'a': tensor(5)}, {'a': tensor(6)})
    """
    _check_dim(dim, "tree.unbind")
    n = _shared(tree, dim + 1, "tree.unbind")[dim]
    return tuple([map(lambda x, i=i: x.select(dim, i), tree) for i in range(n)])


def _consumed(i: Any) -> int:
    """Return the number of leading dimensions that an index uses."""
    parts = i if isinstance(i, tuple) else (i,)
    if any(part is Ellipsis for part in parts):
        return 0
    return sum([part.ndim if isinstance(part, torch.Tensor) and part.dtype == torch.bool else int(part is not None) for part in parts])


def index(tree: Any, i: Any) -> Any:
    """Return ``leaf[i]`` for every leaf.

    Args:
        tree: leaves that share the dimensions that ``i`` indexes.
        i: an integer, slice, tensor of integers or mask, or a tuple of such, as for a tensor.

    Raises:
        TypeError: if ``i`` is a string; :func:`get` takes those.
        ValueError: if leaves do not share those dimensions (the message names the leaf).

    Example:
        >>> import torch
        >>> index({"a": torch.arange(6).reshape(3, 2)}, 1)
        {'a': tensor([2, 3])}
    """
    if isinstance(i, str):
        raise TypeError(f"tree.index: i: expected an integer, slice or tensor, got the string {i!r}; tree.get takes the keys of entries")
    if leaves(tree):
        _shared(tree, _consumed(i), "tree.index")
    return map(lambda x: x[i], tree)


def set(tree: Any, i: Any, values: Any) -> Any:
    """Return a copy of ``tree`` with ``leaf[i] = value`` for each leaf of ``values`` (functional assignment).

    Args:
        tree: leaves that share the dimensions that ``i`` indexes.
        i: as for :func:`index`.
        values: a tree of the same structure, whose leaves have the shapes of ``index(tree, i)``; nothing is broadcast. They are
            cast to the dtypes of ``tree``.

    Raises:
        ValueError: if structures differ, or leaves do not share those dimensions, or a value has another shape (the message names the
            leaf).

    Example:
        >>> import torch
        >>> set({"a": torch.zeros(3)}, 1, {"a": torch.tensor(5.0)})
        {'a': tensor([0., 5., 0.])}
    """
    if leaves(tree):
        _shared(tree, _consumed(i), "tree.set")
    check_like(values, map(lambda x: x[i], tree), "tree.set: values", "what they replace", dtypes=False)

    parts = i if isinstance(i, tuple) else (i,)

    def put(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if all(isinstance(part, torch.Tensor) for part in parts):
            return torch.index_put(x, parts, value.to(x.dtype))
        # Under vmap the destination has to be mapped if an index or a value is.
        given = [value, *(part for part in parts if isinstance(part, torch.Tensor))]
        never = torch.stack([torch.zeros_like(part, dtype=torch.bool).any() for part in given]).any()
        x = torch.where(never, x, x)
        x[i] = value
        return x

    return map(put, tree, values)


def reshape(tree: Any, shape: Any, *, batch_dims: int = 1) -> Any:
    """Reshape the first ``batch_dims`` dimensions of every leaf to ``shape``.

    Args:
        tree: leaves [B1, ..., Bn, ...] with n = ``batch_dims``.
        shape: the new leading sizes; one may be -1.
        batch_dims: the number of leading dimensions to replace.

    Raises:
        ValueError: if leaves do not share these dimensions (the message names the leaf), or ``shape`` has another number of items.

    Example:
        >>> import torch
        >>> reshape({"a": torch.zeros(6, 4)}, (2, 3))["a"].shape
        torch.Size([2, 3, 4])
    """
    if not leaves(tree):
        return tree
    old = _shared(tree, batch_dims, "tree.reshape")
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
        ValueError: if leaves do not share these dimensions (the message names the leaf).

    Example:
        >>> import torch
        >>> flatten_batch({"a": torch.zeros(2, 3, 4), "b": torch.zeros(2, 3)})["a"].shape
        torch.Size([6, 4])
    """
    return reshape(tree, (math.prod(_shared(tree, batch_dims, "tree.flatten_batch")),), batch_dims=batch_dims)


def permute(tree: Any, dims: Sequence[int]) -> Any:
    """Permute batch dimensions; the others are not moved.

    Args:
        tree: leaves [B1, ..., Bn, ...].
        dims: a permutation of 0 to n - 1: the new first dimension is the old ``dims[0]``.

    Raises:
        ValueError: if ``dims`` is not a permutation, or leaves do not share the n dimensions (the message names the leaf).

    Example:
        >>> import torch
        >>> permute({"a": torch.zeros(2, 5, 3)}, (1, 0))["a"].shape
        torch.Size([5, 2, 3])
    """
    dims = tuple(dims)
    if sorted(dims) != list(range(len(dims))):
        raise ValueError(f"tree.permute: dims is {dims}; expected a permutation of the batch dimensions 0 to n - 1")
    _shared(tree, len(dims), "tree.permute")
    return map(lambda x: x.permute(*dims, *range(len(dims), x.ndim)), tree)


def expand(tree: Any, shape: Sequence[int], *, batch_dims: int = 1) -> Any:
    """Expand a tree along new batch dimensions or those of size 1, without a copy.

    Args:
        tree: leaves [B1, ..., Bn, ...] with n = ``batch_dims``.
        shape: the new leading sizes; its last n are those of the tree, or replace sizes of 1.
        batch_dims: the number of leading dimensions to replace.

    Raises:
        ValueError: if leaves do not share these dimensions (the message names the leaf), or they do not expand to ``shape``.

    Example:
        >>> import torch
        >>> expand({"a": torch.zeros(2, 5, 1)}, (3, 2, 5), batch_dims=2)["a"].shape
        torch.Size([3, 2, 5, 1])
    """
    shape = tuple(shape)
    old = _shared(tree, batch_dims, "tree.expand")
    new = shape[len(shape) - batch_dims :]
    if len(shape) < batch_dims or any(n not in (1, m) for n, m in zip(old, new, strict=True)):
        raise ValueError(f"tree.expand: the batch dimensions {list(old)} do not expand to {list(shape)}; its last sizes have to equal them")
    fill = (1,) * (len(shape) - batch_dims)
    return map(lambda x: x.reshape(*fill, *x.shape).expand(*shape, *x.shape[batch_dims:]), tree)


def unsqueeze(tree: Any, dim: int = 0) -> Any:
    """Insert a batch dimension of size 1 at ``dim``, 0 or more.

    Raises:
        ValueError: if leaves do not share the ``dim`` dimensions before it (the message names the leaf).

    Example:
        >>> import torch
        >>> unsqueeze({"a": torch.zeros(2, 3)}, 1)["a"].shape
        torch.Size([2, 1, 3])
    """
    _check_dim(dim, "tree.unsqueeze")
    _shared(tree, dim, "tree.unsqueeze")
    return map(lambda x: x.unsqueeze(dim), tree)


def squeeze(tree: Any, dim: int = 0) -> Any:
    """Remove the batch dimension ``dim``, which has size 1.

    Raises:
        ValueError: if leaves do not share it (the message names the leaf), or its size is not 1.

    Example:
        >>> import torch
        >>> squeeze({"a": torch.zeros(2, 1, 3), "b": torch.zeros(2, 1)}, 1)["a"].shape
        torch.Size([2, 3])
    """
    _check_dim(dim, "tree.squeeze")
    size = _shared(tree, dim + 1, "tree.squeeze")[dim]
    if size != 1:
        raise ValueError(f"tree.squeeze: batch dimension {dim} has size {size}; expected 1")
    return map(lambda x: x.squeeze(dim), tree)


def gather(tree: Any, indices: torch.Tensor, dim: int = 0) -> Any:
    """Gather items along a batch dimension, with separate indices for each position of the batch dimensions before it.

    Args:
        tree: leaves [B1, ..., Bd, N, ...] with d = ``dim``.
        indices: int64 [B1, ..., Bd, M], in [0, N).
        dim: the batch dimension, 0 or more.

    Returns:
        Leaves [B1, ..., Bd, M, ...].

    Raises:
        TypeError: if ``indices`` are not int64.
        ValueError: if leaves do not share the dimensions (the message names the leaf), or those of ``indices`` differ.

    Example:
        >>> import torch
        >>> gather({"a": torch.tensor([[1, 2], [3, 4]])}, torch.tensor([[1], [0]]), dim=1)
        {'a': tensor([[2],
                [3]])}
    """
    _check_dim(dim, "tree.gather")
    if indices.dtype != torch.int64:
        raise TypeError(f"tree.gather: indices: expected int64, got {indices.dtype}")
    leading = _shared(tree, dim + 1, "tree.gather")[:dim]
    if indices.ndim != dim + 1 or indices.shape[:dim] != leading:
        raise ValueError(f"tree.gather: indices: expected the shape {[*leading, 'M']}, got {list(indices.shape)}")

    def take(x: torch.Tensor) -> torch.Tensor:
        rest = x.shape[dim + 1 :]
        return x.gather(dim, indices.reshape(*indices.shape, *(1 for _ in rest)).expand(*indices.shape, *rest))

    return map(take, tree)


def where(condition: torch.Tensor, yes: Any, no: Any) -> Any:
    """Select in each leaf: ``yes`` where ``condition`` is True, else ``no``.

    ``condition`` has the leading dimensions that the leaves share; dimensions are added on its right, so that a
    condition [B] selects whole rows of leaves [B, ...].

    Raises:
        ValueError: if structures or shapes differ, or a leaf's leading dimensions are not those of ``condition``.

    Example:
        >>> import torch
        >>> where(torch.tensor([True, False]), {"a": torch.ones(2, 2)}, {"a": torch.zeros(2, 2)})
        {'a': tensor([[1., 1.],
                [0., 0.]])}
    """
    check_like(no, yes, "tree.where: no", "yes", dtypes=False)
    for i, x in enumerate(leaves(yes)):
        if x.shape[: condition.ndim] != condition.shape:
            raise ValueError(
                f"tree.where: leaf {paths(yes)[i]} is {describe_leaf(x)}; expected a shape that begins with that of the condition, "
                f"{list(condition.shape)}"
            )

    def choose(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(condition.reshape(condition.shape + (1,) * (x.ndim - condition.ndim)), x, y)

    return map(choose, yes, no)
