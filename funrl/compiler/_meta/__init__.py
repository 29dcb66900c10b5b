"""Shapes, strides and dtypes of the results of common operators.

torch's own rules for these are written in Python: a quarter of a millisecond each, and their first use imports Dynamo and sympy, which
takes two seconds. The dtypes are those that torch gives for tensors of one entry. An operator
without a rule here takes torch's. The test suite compares the two.
"""

from funrl.compiler._meta import _layers, _shapes  # noqa: F401  (they enter their rules)
from funrl.compiler._meta._table import RULES, known, on_meta, takes_device

__all__ = ["RULES", "known", "on_meta", "takes_device"]
