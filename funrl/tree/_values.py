"""Functions of all leaves at once: cast, copy, compare, measure and show."""

import math
from collections.abc import Callable
from typing import Any

import torch

from funrl.tree._walks import check_like, describe_leaf, flatten, leaves, map, paths, unflatten


def to(tree: Any, target: torch.device | torch.dtype | str) -> Any:
    """Move every leaf to a device, or cast every floating-point leaf to a dtype.

    Integers, booleans and keys keep their dtype.

    Example:
        >>> import torch
        >>> to({"x": torch.ones(1), "n": torch.tensor(3)}, torch.float64)
        {'x': tensor([1.], dtype=torch.float64), 'n': tensor(3)}
    """
    if isinstance(target, torch.dtype):
        return map(lambda x: x.to(target) if x.is_floating_point() else x, tree)
    return map(lambda x: x.to(target), tree)


def ravel(tree: Any) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
    """Join all leaves into one vector, and return it with the inverse function.

    With one long vector an optimiser step is one kernel instead of one for each leaf.

    Args:
        tree: leaves of one dtype, N numbers in all.

    Returns:
        A vector [N], and ``unravel(vector) -> tree``, which returns views.

    Raises:
        ValueError: if there is no leaf, or if the leaves' dtypes differ.

    Example:
        >>> import torch
        >>> vector, unravel = ravel({"a": torch.zeros(2), "b": torch.ones(1, 2)})
        >>> vector, unravel(vector + 1)["b"].shape
        (tensor([0., 0., 1., 1.]), torch.Size([1, 2]))
    """
    values, form = flatten(tree)
    if not values:
        raise ValueError("tree.ravel: expected a tree with at least one leaf, got none")
    dtypes = sorted({str(x.dtype) for x in values})
    if len(dtypes) > 1:
        raise ValueError(f"tree.ravel: expected leaves of one dtype, got {', '.join(dtypes)}; cast with tree.to first")
    shapes = [x.shape for x in values]
    sizes = [math.prod(shape) for shape in shapes]

    def unravel(vector: torch.Tensor) -> Any:
        if vector.shape != (sum(sizes),):
            raise ValueError(f"unravel: expected a vector of shape [{sum(sizes)}], got {list(vector.shape)}")
        parts = vector.split(sizes)
        return unflatten(form, [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)])

    return torch.cat([x.reshape(-1) for x in values]), unravel


def clone(tree: Any) -> Any:
    """Copy every leaf.

    Example:
        >>> import torch
        >>> value = {"a": torch.zeros(2)}
        >>> copy = clone(value)
        >>> copy["a"] is value["a"], equal(copy, value)
        (False, True)
    """
    return map(lambda x: x.clone(), tree)


def contiguous(tree: Any) -> Any:
    """Make every leaf contiguous in memory; contiguous leaves are not copied.

    Example:
        >>> import torch
        >>> contiguous({"a": torch.zeros(3, 2).T})["a"].stride()
        (3, 1)
    """
    return map(lambda x: x.contiguous(), tree)


def zeros_like(tree: Any) -> Any:
    """Return a tree of zeros with the structure, shapes, dtypes and devices of ``tree``.

    Example:
        >>> import torch
        >>> zeros_like({"n": torch.tensor([1, 2])})
        {'n': tensor([0, 0])}
    """
    return map(lambda x: torch.zeros_like(x, memory_format=torch.contiguous_format), tree)


def equal(tree: Any, other: Any) -> bool:
    """Return whether two trees have equal structures, shapes, dtypes and values. It depends on values: not for compiled programs.

    Example:
        >>> import torch
        >>> equal({"a": torch.zeros(2)}, {"a": torch.zeros(2)}), equal({"a": torch.zeros(2)}, {"a": torch.zeros(3)})
        (True, False)
    """
    return _alike(tree, other, torch.equal)


def allclose(tree: Any, other: Any, *, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    """Return whether two trees are :func:`equal` up to ``atol + rtol * |other|`` in floating-point leaves; NaN equals nothing.

    Example:
        >>> import torch
        >>> allclose({"a": torch.ones(2)}, {"a": torch.ones(2) + 1e-6}), allclose(torch.ones(2), torch.ones(2) + 1e-3)
        (True, False)
    """

    def close(x: torch.Tensor, y: torch.Tensor) -> bool:
        return torch.allclose(x, y, rtol=rtol, atol=atol) if x.is_floating_point() or x.is_complex() else torch.equal(x, y)

    return _alike(tree, other, close)


def _alike(tree: Any, other: Any, same: Callable[[torch.Tensor, torch.Tensor], bool]) -> bool:
    try:
        check_like(tree, other, "tree", "other")
    except ValueError:
        return False
    pairs = zip(leaves(tree), leaves(other), strict=True)
    return all(same(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def global_norm(tree: Any) -> torch.Tensor:
    """Return the Euclidean norm [] of all leaves as one vector, in float32 for leaves in half precision. Its gradient at 0 is 0.

    Raises:
        ValueError: if there is no leaf.

    Example:
        >>> import torch
        >>> global_norm({"a": torch.tensor([3.0]), "b": torch.tensor(4.0)})
        tensor(5.)
    """
    values = leaves(tree)
    if not values:
        raise ValueError("global_norm: expected a tree with at least one leaf, got none")
    # The largest float16 number is 65504.
    norms = [torch.linalg.vector_norm(x.to(torch.promote_types(x.dtype, torch.float32))) for x in values]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def nbytes(tree: Any) -> int:
    """Return the number of bytes of all leaves.

    Example:
        >>> import torch
        >>> nbytes({"a": torch.zeros(3, 2), "b": torch.tensor(True)})
        25
    """
    return sum(x.nbytes for x in leaves(tree))


def describe(tree: Any) -> str:
    """Return a table of the leaves: path, dtype, shape, device and kind of shared memory, with a last line of totals.

    After the device follows ``shared`` for shared memory (:func:`share_memory`), or the name of the file for a mapped leaf
    (:func:`memmap`).

    Example:
        >>> import torch
        >>> print(describe({"w": torch.zeros(3, 2), "b": torch.zeros(2).share_memory_()}))
        ['b']  float32 [2]     cpu, shared
        ['w']  float32 [3, 2]  cpu
        2 leaves, 8 numbers, 32 bytes
    """
    values = leaves(tree)
    rows = [
        (path, describe_leaf(x), _place(x)) if isinstance(x, torch.Tensor) else (path, type(x).__name__, "-")
        for path, x in zip(paths(tree), values, strict=True)
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    tensors = [x for x in values if isinstance(x, torch.Tensor)]
    total = f"{len(values)} leaves, {sum(x.numel() for x in tensors)} numbers, {nbytes(tensors)} bytes"
    return "\n".join([*lines, total])


def _place(x: torch.Tensor) -> str:
    if x.device.type != "cpu" or not x.is_shared():
        return str(x.device)
    return f"cpu, {x.untyped_storage().filename or 'shared'}"
