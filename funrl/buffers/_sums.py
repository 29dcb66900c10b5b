"""A sum tree over many weights: draws an index with a probability in proportion to its weight, and changes many weights at once.

Each node is the sum of 32 nodes below it. It is recomputed whenever one of them changes, so that rounding errors do not accumulate. The
highest level is searched as a whole.
"""

import numpy as np
import torch

from funrl import tree
from funrl.buffers._buffer import IN_PLACE, Write
from funrl.buffers._journal import home

_FAN = 32
_TOP = 2048
_ONES = np.ones(_FAN)
# A factor that makes a value less than the sum in float64, so that a search for it ends at a weight above 0.
_BELOW = 1 - 2.0**-50


@tree.dataclass
class SumTree:
    """Weights, and the sums of the levels above them.

    Attributes:
        weights: float32 [M], M >= N; 0 beyond N.
        sums: float64 [M / 32], [M / 1024], ...: from the lowest level to the highest.
    """

    weights: torch.Tensor
    sums: tuple[torch.Tensor, ...]


def sum_tree(n: int, device: torch.device | str | None = None) -> SumTree:
    """Return a tree of n weights of 0.

    Example:
        >>> [len(x) for x in sum_tree(1_000_000).sums]
        [31264, 977]
    """
    sizes = [_padded(n)]
    while len(sizes) == 1 or sizes[-1] > _TOP:
        size = sizes[-1] // _FAN
        sizes.append(_padded(size) if size > _TOP else size)
    sums = tuple([torch.zeros(size, dtype=torch.float64, device=device) for size in sizes[1:]])
    return SumTree(torch.zeros(sizes[0], device=device), sums)


def _padded(n: int) -> int:
    return -(-n // _FAN) * _FAN


def put(write: Write, node: SumTree, index: torch.Tensor, weight: torch.Tensor) -> SumTree:
    """Set weights, and all sums above them.

    Args:
        write: FRESH or IN_PLACE.
        node: the tree.
        index: int64 [B]. If an index occurs twice, one of its weights is used: on a CPU the last.
        weight: float32 [B], at least 0 and finite.

    Example:
        >>> from funrl.buffers._buffer import FRESH
        >>> node = put(FRESH, sum_tree(100), torch.tensor([3, 99]), torch.tensor([2.0, 1.0]))
        >>> total(node), find(node, torch.tensor([0.0, 0.5, 0.7], dtype=torch.float64))
        (tensor(3., dtype=torch.float64), tensor([ 3,  3, 99]))
    """
    if write is IN_PLACE and home(node.weights) == "host":
        put_on_host(node, index, weight)
        return node
    level = write.rows(node.weights, index, weight)
    weights, sums = level, []
    for old in node.sums:
        index = index // _FAN
        level = write.rows(old, index, level.view(-1, _FAN).index_select(0, index).sum(-1, dtype=torch.float64))
        sums.append(level)
    return SumTree(weights, tuple(sums))


def put_on_host(node: SumTree, index: torch.Tensor, weight: torch.Tensor) -> None:
    """Set weights as :func:`put` does, in place and with NumPy, whose calls take a third of the time of torch's."""
    place, level = index.numpy(), node.weights.numpy()
    level[place] = weight.numpy()
    for sums in node.sums:
        place = place // _FAN
        above = sums.numpy()
        above[place] = level.reshape(-1, _FAN).take(place, 0).astype(np.float64, copy=False) @ _ONES
        level = above


def total(node: SumTree) -> torch.Tensor:
    """Return the sum of all weights, float64 []. Example: see :func:`put`.

    Example:
        >>> total(sum_tree(10))
        tensor(0., dtype=torch.float64)
    """
    return node.sums[-1].sum()


def find(node: SumTree, u: torch.Tensor) -> torch.Tensor:
    """Return the indices i for which u * total lies between the sum of the weights before i and the sum including i.

    Example: see :func:`put`.

    Args:
        node: the tree.
        u: float64 [B], in [0, 1).

    Returns:
        int64 [B]; the weight at an index is above 0, unless all weights are 0.

    Example:
        >>> find(sum_tree(10), torch.zeros(1, dtype=torch.float64)).shape
        torch.Size([1])
    """
    before = node.sums[-1].cumsum(0)
    u = torch.minimum(u * before[-1], before[-1] * _BELOW)
    index = torch.searchsorted(before, u, right=True).clamp(max=before.shape[0] - 1)
    u = u - torch.where(index > 0, before[(index - 1).clamp(min=0)], 0.0)
    for level in (*reversed(node.sums[:-1]), node.weights):
        before = level.view(-1, _FAN).index_select(0, index).cumsum(-1, dtype=torch.float64)
        # Because of rounding, the remainder may be slightly more than the sum here.
        u = torch.minimum(u, before[:, -1] * _BELOW)
        child = (before <= u[:, None]).sum(-1).clamp(max=_FAN - 1)
        u = u - torch.where(child > 0, before.gather(1, (child - 1).clamp(min=0)[:, None]).squeeze(1), 0.0)
        index = index * _FAN + child
    return index
