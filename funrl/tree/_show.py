"""Short ``repr`` of dataclasses, as states have thousands of numbers and dozens of nested fields."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

_LINES, _CHARACTERS = 24, 2_000  # a longer text is shortened
_NUMBERS = 1_000
_WIDTH = 100  # characters of a field's value


def shown_short(cls: type, leaves: Callable[[Any], list[Any]]) -> Any:
    """Return ``cls`` as a frozen dataclass whose ``repr``, if it would be long, has a line for each field.

    Args:
        cls: a class with annotated fields; a ``__repr__`` that it defines is not replaced.
        leaves: :func:`funrl.tree.leaves`.

    Example:
        >>> import funrl
        >>> class Pair:
        ...     a: torch.Tensor
        ...     b: dict
        >>> Pair = shown_short(Pair, funrl.tree.leaves)
        >>> Pair(torch.zeros(400, 2), {i: torch.zeros(9, 9) for i in range(70)})
        Pair(
          a=float32 [400, 2],
          b=dict of 70 tensors, 5,670 numbers,
        )
        >>> Pair(torch.zeros(2), {})
        Pair(a=tensor([0., 0.]), b={})
    """
    own = "__repr__" in vars(cls)
    made: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    whole, names = made.__repr__, [field.name for field in dataclasses.fields(made)]

    def text(node: Any) -> str:
        if isinstance(node, torch.Tensor):
            return f"{str(node.dtype).removeprefix('torch.')} {list(node.shape)}"
        tensors = [x for x in leaves(node) if isinstance(x, torch.Tensor)]
        if not tensors:
            plain = repr(node)
            return plain if len(plain) <= _WIDTH and "\n" not in plain else f"{type(node).__name__}"
        numbers = sum(x.numel() for x in tensors)
        plurals = ["" if n == 1 else "s" for n in (len(tensors), numbers)]
        return f"{type(node).__name__} of {len(tensors)} tensor{plurals[0]}, {numbers:,} number{plurals[1]}"

    def __repr__(self: Any) -> str:
        plain = whole(self)
        inside = sum(x.numel() for x in leaves(self) if isinstance(x, torch.Tensor))
        if inside <= _NUMBERS and len(plain) <= _CHARACTERS and plain.count("\n") < _LINES:
            return plain
        lines = [f"  {name}={text(getattr(self, name))},\n" for name in names]
        return f"{type(self).__qualname__}(\n{''.join(lines)})"

    if not own:
        made.__repr__ = __repr__
    return made
