"""Functions recorded as a list of tensor operations, which runs without Python and without ``vmap``.

For a small policy on a few copies of an environment, Python and vmap take nine tenths of the time of a call. Recording takes a tenth of
a second, while :func:`funrl.compile` takes seconds. A recording whose first results differ by more than rounding is not used.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch

from funrl import tree
from funrl.compiler import operators_of


class Traced:
    """A pure function of trees of tensors that is recorded at its first call, for the shapes of that call.

    A function that cannot be recorded, because its operations depend on values, is called as it is.
    """

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn
        self.vmapped = functools.cache(lambda in_dims: Traced(torch.func.vmap(fn, in_dims)))
        self.program: Callable[..., Any] | None = None
        self.form: Any = None
        self.recordable = True

    def __call__(self, *args: Any) -> Any:
        if self.program is not None:
            return tree.unflatten(self.form, list(self.program(*tree.leaves(args))))
        out = self.fn(*args)
        if self.recordable:
            # A function that checks values cannot be recorded as it is, but vmap skips such checks: as a batch of one it can be
            # recorded. The last bits of its results may then differ.
            self.program = _recorded(self.fn, args, out) or _recorded(functools.partial(_as_one_row, self.fn), args, out)
            self.form, self.recordable = tree.structure(out), self.program is not None
        return out


def _as_one_row(fn: Callable[..., Any], *args: Any) -> Any:
    rows = torch.func.vmap(fn)(*tree.map(lambda x: x[None], args))
    return tree.map(lambda x: x[0], rows)


def _recorded(fn: Callable[..., Any], args: tuple[Any, ...], out: Any) -> Callable[..., Any] | None:
    """Return a program from the leaves of ``args`` to those of ``out``, or None."""
    leaves, form = tree.flatten(args)

    def flat(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tree.leaves(fn(*tree.unflatten(form, list(values)))))

    try:
        if any(x.is_cuda for x in leaves):  # there torch.jit fuses kernels after a while, which changes last bits
            from torch.fx.experimental.proxy_tensor import make_fx

            program: Any = make_fx(flat)(*leaves)
        else:  # not by make_fx, for which torch imports Dynamo and Inductor, two seconds in each worker
            graph = operators_of(flat, *leaves)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.jit is deprecated
                program = torch.jit.trace(lambda *values: tuple(graph(*values)), tuple(leaves), check_trace=False)
        same = tree.allclose(list(program(*leaves)), tree.leaves(out), atol=1e-6)
    except Exception:
        return None
    return program if same else None
