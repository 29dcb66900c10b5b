"""Probability distributions: frozen trees of parameters whose methods are pure functions.

All of them know ``sample(key)``, ``sample_with_log_prob(key)``, ``log_prob(x)``, ``entropy()``, ``mode()``, ``mean()``, ``stddev()``
and ``kl(other)``; where there is no closed form, the docstring and the error say what there is instead. The methods that
``estimated`` names take a key and a number of samples: ``mean(key, num_samples)``. A distribution has the batch shape of its parameters;
more samples come from :func:`torch.func.vmap` over keys.

Shapes and dtypes are checked when a method is called. So are values (a scale that is not positive, a mask that forbids everything) where
they can be seen for nothing: eagerly, on the CPU. Inside a compiled program or under torch.func they cannot.
"""

from funrl.distributions._bernoulli import Bernoulli
from funrl.distributions.continuous import Normal, TanhNormal
from funrl.distributions.delta import Delta, TanhDelta
from funrl.distributions.discrete import Categorical, MultiCategorical, OneHotCategorical
from funrl.distributions.independent import Independent, kl_divergence
from funrl.distributions.params import normal_params
from funrl.distributions.product import Joint, joint
from funrl.distributions.truncated import TruncatedNormal

__all__ = [
    "Bernoulli",
    "Categorical",
    "Delta",
    "Independent",
    "Joint",
    "MultiCategorical",
    "Normal",
    "OneHotCategorical",
    "TanhDelta",
    "TanhNormal",
    "TruncatedNormal",
    "joint",
    "kl_divergence",
    "normal_params",
]
