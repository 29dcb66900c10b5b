"""Trees of tensors: frozen dataclasses that are pytrees, and functions over every leaf.

A *tree* is a tensor, or a dict, list, tuple, NamedTuple or :func:`dataclass` of trees. Every function
here is pure: it returns a new tree and does not modify its arguments. Other containers, such as a deque,
an OrderedDict or the result of ``torch.max(x, 0)``, are not trees and raise a TypeError, because the registries of
optree and torch disagree on them. An object of any other class is a leaf.

A *batched* tree is one whose leaves share their leading dimensions, as those of ``Transition [T, B, ...]`` do; parts of it may share
more. The functions of shape (:func:`index`, :func:`stack`, :func:`reshape`, ...) work on these *batch dimensions*, which are counted
from the front; their errors name the leaf that does not have them.
"""

from funrl.tree._batch import cat, gather, index, one_hot as one_hot, rows as rows, set, split, stack, unbind, where
from funrl.tree._names import exclude, flatten_keys, get, rename, select, unflatten_keys, update
from funrl.tree._nodes import Replaceable, constant as constant, dataclass, static
from funrl.tree._shapes import batch_shape, expand, flatten_batch, permute, reshape, squeeze, unsqueeze
from funrl.tree._storage import load, load_memmap, memmap, memmap_like, pin_memory, save, share_memory
from funrl.tree._values import allclose, clone, contiguous, describe, equal, global_norm as global_norm, nbytes, ravel, to, zeros_like
from funrl.tree._walks import (
    check_like as check_like,
    describe_leaf as describe_leaf,
    flatten,
    leaves,
    map,
    paths,
    same_rows as same_rows,
    structure,
    unflatten,
)

__all__ = [
    "Replaceable",
    "allclose",
    "batch_shape",
    "cat",
    "clone",
    "contiguous",
    "dataclass",
    "describe",
    "equal",
    "exclude",
    "expand",
    "flatten",
    "flatten_batch",
    "flatten_keys",
    "gather",
    "get",
    "index",
    "leaves",
    "load",
    "load_memmap",
    "map",
    "memmap",
    "memmap_like",
    "nbytes",
    "paths",
    "permute",
    "pin_memory",
    "ravel",
    "rename",
    "reshape",
    "save",
    "select",
    "set",
    "share_memory",
    "split",
    "squeeze",
    "stack",
    "static",
    "structure",
    "to",
    "unbind",
    "unflatten",
    "unflatten_keys",
    "unsqueeze",
    "update",
    "where",
    "zeros_like",
]
