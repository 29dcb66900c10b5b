"""Aten operators as jax functions, by theme. Importing this package imports jax."""

import importlib
import pkgutil

from funrl.compiler._lowerings._table import TABLE, apply, cast, constant, jax_dtype, torch_dtype

for _theme in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_theme.name}")

__all__ = ["TABLE", "apply", "cast", "constant", "jax_dtype", "torch_dtype"]
