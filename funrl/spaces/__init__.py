"""Spaces: which observations and actions an environment takes, as plain frozen values (not pytrees).

Every space has

* ``shape`` and ``dtype`` of one element (dicts of them for :class:`Dict`, tuples for :class:`Tuple`);
* ``sample(key)``, a random element; ``torch.func.vmap`` over keys makes batches;
* ``contains(x)``, whether ``x`` is an element: a bool tensor [], or ``False`` if it is no tensor of that shape and dtype;
* ``project(x)``, the element nearest to ``x``;
* ``check(x, name)``, which raises unless ``x`` has the shape and dtype of an element. It never looks at values, so it
  is free inside a compiled program.

Spaces speak of a single element, without batch dimensions. They live on the CPU and follow the device of what they are given.
"""

from funrl.spaces._box import Binary, Box, picture_layout
from funrl.spaces._discrete import Discrete, MultiDiscrete
from funrl.spaces._nested import Dict, Tuple

__all__ = ["Binary", "Box", "Dict", "Discrete", "MultiDiscrete", "Tuple", "picture_layout"]
