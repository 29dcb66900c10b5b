"""Keys, new keys made of them, and their plain words."""

import torch

from funrl.random._checks import Shape, check_key, integer
from funrl.random._splitmix import FOLD, SEED, SPLIT, output, words_of


def key(seed: int | torch.Tensor, device: torch.device | str | None = None) -> torch.Tensor:
    """Return the key of a seed; different seeds have different keys.

    Args:
        seed: an integer in [-2**63, 2**63), or an integer tensor [] (so that one can vmap over seeds).
        device: the device of the key and of all numbers drawn from it; by default the tensor's device, or torch's default device.

    Returns:
        A key, int64 [].

    Raises:
        TypeError: if ``seed`` is not an integer.
        ValueError: if ``seed`` does not fit in 64 bits, or has dims.

    Example:
        >>> from funrl import random
        >>> random.key(0)
        tensor(-8790055297342145339)
        >>> bool(random.key(0) == random.key(torch.tensor(0)))
        True
    """
    seed = integer(seed, "key", "seed", device)
    return output(torch.zeros_like(seed), seed, SEED)


def split(key: torch.Tensor, num: Shape = 2) -> torch.Tensor:
    """Return new keys derived from one key, which should not be used again.

    The first keys do not depend on ``num``.

    Args:
        key: int64 [].
        num: the number of keys, or the shape of the tensor of keys.

    Returns:
        Keys, int64 [num] or [*num].

    Raises:
        TypeError, ValueError: if ``key`` is not one key, or a size is below 0.

    Example:
        >>> from funrl import random
        >>> first, second = random.split(random.key(0))
        >>> random.split(first, (8, 2)).shape
        torch.Size([8, 2])
    """
    return words_of(key, num, "split", SPLIT)


def fold_in(key: torch.Tensor, data: int | torch.Tensor) -> torch.Tensor:
    """Return the key derived from a key and an integer, such as a step.

    In a compiled loop give a tensor: a change of a Python integer causes a new compilation.

    Args:
        key: int64 [].
        data: an integer in [-2**63, 2**63), or an integer tensor []; below 2**60 in magnitude to avoid the positions of split and samplers.

    Returns:
        A key, int64 [].

    Raises:
        TypeError: if ``key`` is not a key, or ``data`` is not an integer.
        ValueError: if ``key`` or ``data`` has dims, or ``data`` does not fit in 64 bits.

    Example:
        >>> from funrl import random
        >>> step = torch.tensor(3)
        >>> bool(random.fold_in(random.key(0), step) == random.fold_in(random.key(0), 3))
        True
    """
    check_key(key, "fold_in")
    return output(key, integer(data, "fold_in", "data", key.device), FOLD)


def bits(key: torch.Tensor, shape: Shape = ()) -> torch.Tensor:
    """Return words of 64 random bits.

    Args:
        key: int64 [].
        shape: the shape of the result.

    Returns:
        int64 ``shape``, over the whole range of int64; all words differ.

    Raises:
        TypeError, ValueError: if ``key`` is not one key, or a size is below 0.

    Example:
        >>> from funrl import random
        >>> random.bits(random.key(0), (2,))
        tensor([ 4491245970711880377, -4332282781965847702])
    """
    return words_of(key, shape, "bits")
