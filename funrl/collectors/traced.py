"""Functions recorded as a list of operations, which runs without Python and without ``vmap``.

For a small policy on a few copies of an environment, Python and vmap take nine tenths of the time; recording takes a tenth of a second,
where :func:`funrl.compile` takes many, and gives the same bits.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from funrl import tree


class Traced:
    """A pure function of trees of tensors that is recorded at its first call, for the shapes of that call.

    One that cannot be recorded, as what it does depends on numbers, stays as it is.
    """

    def __init__(self, fn: Callable[..., Any], *, mapped: bool = False):
        self.fn, self.mapped = fn, mapped
        self.vmapped = functools.cache(lambda in_dims: Traced(torch.func.vmap(fn, in_dims), mapped=True))
        self.program: Callable[..., Any] | None = None
        self.form: Any = None

    def __call__(self, *args: Any) -> Any:
        if self.program is None:
            return self._record(args)
        return tree.unflatten(self.form, list(self.program(*tree.leaves(args))))

    def _record(self, args: tuple[Any, ...]) -> Any:
        out = self.fn(*args)
        values, self.form = tree.flatten(out)
        leaves, form = tree.flatten(args)

        def flat(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(tree.leaves(self.fn(*tree.unflatten(form, list(values)))))

        try:
            if not self.mapped:  # vmap refuses a function whose course depends on numbers, and so it does where they are recorded
                torch.func.vmap(self.fn)(*tree.map(lambda x: x[None], args))
            graph = make_fx(flat)(*leaves)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.jit is deprecated
                program: Any = torch.jit.trace(lambda *values: graph(*values), tuple(leaves), check_trace=False)
            same = all(torch.equal(x, y) for x, y in zip(program(*leaves), values, strict=True))
        except Exception:
            same = False
        if same:
            self.program = program
        else:
            self.program, self.form = None, None
            self._record = lambda args: self.fn(*args)
        return out
