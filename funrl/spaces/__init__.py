"""Spaces: the sets of observations and actions of an environment, as frozen values (not pytrees).

Every space has

* ``shape`` and ``dtype`` of one element (dicts of them for :class:`Dict`, tuples for :class:`Tuple`);
* ``sample(key)``, a random element; ``torch.func.vmap`` over keys makes batches;
* ``contains(x)``, whether ``x`` is an element: a bool tensor [], or ``False`` if it is not a tensor of that shape and dtype;
* ``project(x)``, the element nearest to ``x``;
* ``check(x, name)``, which raises unless ``x`` has the shape and dtype of an element. It does not depend on values, so it
  costs nothing inside a compiled program.

Spaces describe a single element, without batch dimensions. Their tensors are on the CPU, and their functions use the device of the
arguments.
"""

from funrl.spaces._box import Binary, Box, picture_layout
from funrl.spaces._discrete import Discrete, MultiDiscrete
from funrl.spaces._nested import Dict, Tuple

__all__ = ["Binary", "Box", "Dict", "Discrete", "MultiDiscrete", "Tuple", "picture_layout"]
