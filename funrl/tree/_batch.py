"""Trees along a batch dimension: joined, split, indexed and chosen from."""

from collections.abc import Sequence
from typing import Any

import torch

from funrl.tree._shapes import check_dim, shared
from funrl.tree._walks import check_like, describe_leaf, leaves, map, paths


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
    check_dim(dim, "tree.cat")
    if not trees:
        raise ValueError("tree.cat: expected at least one tree, got an empty sequence")
    for number, part in enumerate(trees):
        shared(part, dim + 1, f"tree.cat: tree {number}")
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
    check_dim(dim, "tree.split")
    n = shared(tree, dim + 1, "tree.split")[dim]
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
    check_dim(dim, "tree.unbind")
    n = shared(tree, dim + 1, "tree.unbind")[dim]
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
        shared(tree, _consumed(i), "tree.index")
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
        shared(tree, _consumed(i), "tree.set")
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
    check_dim(dim, "tree.gather")
    if indices.dtype != torch.int64:
        raise TypeError(f"tree.gather: indices: expected int64, got {indices.dtype}")
    leading = shared(tree, dim + 1, "tree.gather")[:dim]
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


def rows(tree: Any, i: torch.Tensor) -> Any:
    """Return the rows [N..., ...] of every leaf at indices int64 [N...], which may differ between vmapped calls and are never read.

    Example:
        >>> import torch
        >>> rows({"a": torch.tensor([[1, 2], [3, 4]])}, torch.tensor(1))
        {'a': tensor([3, 4])}
    """
    return map(lambda x: x.index_select(0, i.reshape(-1)).reshape((*i.shape, *x.shape[1:])), tree)


def one_hot(i: torch.Tensor, n: int, like: torch.Tensor | None = None) -> torch.Tensor:
    """Return one-hot vectors [N..., n] of whole numbers [N...], bool or in the dtype of ``like``; those outside 0, ..., n - 1 give none.

    Example:
        >>> import torch
        >>> one_hot(torch.tensor([1, 2]), 2, torch.zeros(()))
        tensor([[0., 1.],
                [0., 0.]])
    """
    hot = i.unsqueeze(-1) == torch.arange(n, device=i.device)
    return hot if like is None else hot.to(like.dtype)
