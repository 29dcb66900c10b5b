"""Probability distributions: frozen trees of parameters whose methods are pure functions.

All of them know ``sample(key)``, ``sample_with_log_prob(key)``, ``log_prob(x)``, ``entropy()``, ``mode()``, ``mean()`` and
``kl(other)``; where there is no closed form, the docstring and the error say what there is instead. A distribution
has the batch shape of its parameters; more samples come from :func:`torch.func.vmap` over keys.

The values of parameters (a positive scale) cannot be looked at inside a compiled program, so they are not:
make a scale with ``exp`` or ``softplus``. Shapes and dtypes are checked when a method is called.
"""

from funrl.distributions.continuous import Independent, Normal, TanhNormal
from funrl.distributions.discrete import Categorical

__all__ = ["Categorical", "Independent", "Normal", "TanhNormal"]
