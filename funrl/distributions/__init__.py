"""Probability distributions: frozen trees of parameters whose methods are pure functions.

All of them have the methods of :class:`Distribution`. A distribution has the batch shape of its parameters; use :func:`torch.func.vmap`
over keys for more samples.

Shapes and dtypes are checked when a method is called. Values (a scale that is not positive, a mask that forbids everything) are checked
where that is cheap: in eager mode on the CPU, but neither inside a compiled program nor under torch.func.
"""

from funrl.distributions._continuous import Normal, TanhNormal
from funrl.distributions._delta import Delta, TanhDelta
from funrl.distributions._discrete import Bernoulli, Categorical, MultiCategorical, OneHotCategorical
from funrl.distributions._distribution import Distribution
from funrl.distributions._params import normal_params
from funrl.distributions._product import Independent, Joint, joint
from funrl.distributions._truncated import TruncatedNormal

__all__ = [
    "Bernoulli",
    "Categorical",
    "Delta",
    "Distribution",
    "Independent",
    "Joint",
    "MultiCategorical",
    "Normal",
    "OneHotCategorical",
    "TanhDelta",
    "TanhNormal",
    "TruncatedNormal",
    "joint",
    "normal_params",
]
