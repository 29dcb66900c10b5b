"""distrax, optax and rlax, imported without the warnings that they raise about JAX (warnings are errors here)."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import distrax
    import optax
    import rlax

__all__ = ["distrax", "optax", "rlax"]
