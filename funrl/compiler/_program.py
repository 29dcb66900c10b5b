"""``compile``: which program a call needs, traced and compiled once for each kind of arguments."""

import functools
import math
import os
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch

from funrl import tree
from funrl.compiler import _torch_private as private
from funrl.compiler._arguments import FIXED, as_leaf, changeable, dicts, path, unhashable, what_changes
from funrl.compiler._backends import BACKENDS, STATE, chosen
from funrl.compiler._donation import LARGE, check_usable, mark_donated, matched, own_copies
from funrl.compiler._listening import Timer
from funrl.compiler._numbers import NotATensor
from funrl.compiler._recording import executable, record
from funrl.compiler._trace import current

__all__ = ["clear", "compile", "transformed"]

# A function that is compiled more often than that has a number among its arguments that ought to be a tensor.
MOST_PROGRAMS = 64


def compile(fn: Callable[..., Any], *, donate: int | Sequence[int] = (), threads: int = 1, backend: str = "auto") -> Callable[..., Any]:
    """Compile ``fn`` into one program.

    At the first call ``fn`` runs once, with tensors that have shapes but no values, and the operators that it uses become one program.
    Whatever Python it runs is gone then, as in JAX: a second call with arguments of the same structure, shapes, dtypes, static fields and
    Python numbers runs the program alone. A tensor that ``fn`` closes over is an input: its present values are read at each call; all else
    that it reads from outside (numbers, attributes, which tensor a name stands for) stays as it was. What cannot be in a program (asking
    for a tensor's value, torch's random generator, changing an argument in place) is an error that names the line. A program is found
    again on disk by another process, and by one in which floats that are added, subtracted or multiplied by were edited. Gradients are
    taken in ``fn``, by torch.func: torch.autograd sees nothing of a program.

    Results are those of eager torch up to rounding; XLA takes numbers below the smallest normal one (1e-38 in float32) for 0, and has no
    complex ones. An index out of range, at which torch raises, is no error in a program of XLA: a read gives the nearest row, a write
    is dropped; within ``with funrl.compiler.eager():`` torch says where it is. Tensors that ``fn`` is given, or closes over, count as
    contiguous whatever their strides, so that ``reshape`` of them, or of their clones, is always a view.

    With ``backend="xla"`` the program is compiled by XLA in a second or two, for the CPU; it needs jax (the extra ``xla``).
    ``"inductor"`` is torch's compiler, for the GPU and where jax is missing; there the second call on a GPU records the program, and later
    ones launch it as one CUDA graph. ``"auto"`` is ``FUNRL_BACKEND`` if that is set, else "xla" on the CPU if jax is installed, else
    "inductor" (see :func:`funrl.compiler.backend`).

    A *donated* argument gives its memory to the result: the part of the output that has its structure, shapes and
    dtypes (the output itself, or the first such item of a tuple) is written in place, which for a large replay buffer
    is the difference between writing a few rows and copying them all. The donated tensors must not be used again: use what ``fn``
    returned. A second use in a compiled function is an error, and so is any use of a donated tensor of 64 KiB or more.

    Compile outermost: inside another compiled function, or a transform such as vmap, the result is ``fn`` itself. Its attribute
    ``vmapped(in_dims)`` is ``fn`` mapped and then compiled, once for each ``in_dims``. A compiled function cannot be pickled: compile it
    again in the other process, which finds the program on disk.

    Args:
        fn: a pure function of trees of tensors. NumPy arrays count as tensors. A float that changes becomes an input at its second value;
            other numbers and strings are fixed in a program, and a new value makes another one (64 at most: make it a tensor), and so does
            a dict whose keys come in another order.
        donate: position or positions of the arguments to donate.
        threads: how many of the CPU's threads the program may use, at least 1. One thread gives the same bits on any number of cores.
            With "xla" the number is that of the whole process: jax is started with as many threads as its first program asks for, unless it
            was started before, or ``PJRT_NPROC`` says otherwise.
        backend: "auto", "xla", "inductor"; "aot_eager", which traces and runs the recorded operators one by one, for tests; or "eager",
            which does not trace.

    Returns:
        A function with the signature of ``fn``.

    Raises:
        TypeError: if ``fn`` is not callable or ``donate`` holds something else than positions; when called: if a leaf of a
            donated argument is not a tensor, or a leaf is an object that has no value, only an identity (``self`` of a class of one's own).
        ValueError: if ``threads`` is less than 1 or ``backend`` is none of these; when called: if a donated argument was donated before or
            is not given, if no output is like it, or at the 65th program.
        ImportError: if ``backend`` is "xla" and jax is missing.
        TraceError: when called: if ``fn`` does what a program cannot.

    Example:
        >>> import torch
        >>> @functools.partial(compile, donate=0)
        ... def add(total, x):
        ...     return total + x, x.mean()
        >>> total, mean = add(torch.zeros(3), torch.ones(3))
        >>> total, mean = add(total, torch.ones(3))
        >>> total
        tensor([2., 2., 2.])
    """
    if not callable(fn):
        raise TypeError(f"compile: fn is a {type(fn).__name__}; expected a function")
    positions = (donate,) if isinstance(donate, int) else tuple(donate)
    if not all(isinstance(i, int) and i >= 0 for i in positions):
        raise TypeError(f"compile: donate is {donate!r}; expected positions of arguments, such as 0 or (0, 2)")
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"compile: threads is {threads!r}; expected a whole number of at least 1")
    if backend not in BACKENDS:
        raise ValueError(f"compile: backend is {backend!r}; expected one of {', '.join(map(repr, BACKENDS))}")
    return _Compiled(fn, positions, threads, backend)


# In the place of a float's value, in the key of a program that takes it as an input.
_NUMBER = "a number that changes"


class _Compiled:
    """A compiled function: its programs, one for each kind of arguments."""

    def __init__(self, fn: Callable[..., Any], donated: tuple[int, ...], threads: int, backend: str) -> None:
        functools.update_wrapper(self, fn)
        self.fn, self.donated, self.threads, self.backend = fn, donated, threads, backend
        self.name = getattr(fn, "__name__", type(fn).__name__).replace("<lambda>", "fn")
        self.programs: dict[Any, _Program] = {}
        # For each structure: the value that each float had first, and the places of those that are inputs because they changed.
        self.floats: dict[Any, tuple[dict[int, float], set[int]]] = {}
        self.fixed: set[int] = set()
        self.told = False  # that gradients stop here
        self.lock = threading.RLock()
        self.vmapped = functools.cache(lambda in_dims: compile(torch.func.vmap(fn, in_dims), threads=threads, backend=backend))
        _ALL.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if current() is not None or getattr(STATE, "eager", 0) or "eager" in (self.backend, getattr(STATE, "backend", None)) or _FORKED:
            return _plainly(self.fn, args, kwargs)
        leaves, form = optree.tree_flatten((args, kwargs), namespace="funrl")  # pyright: ignore[reportArgumentType]
        key = self._key(leaves, form, args, kwargs)
        if key is None:
            return self.fn(*args, **kwargs)  # a part of a transform
        try:
            program = self.programs.get(key)
        except TypeError:
            raise unhashable(self.name, args, kwargs, leaves) from None
        if program is None:
            program = self._made(key, args, kwargs, leaves, form)
            if program is None:
                return self(*args, **kwargs)
        return program(leaves)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self.name} is a compiled function, which cannot be pickled: send the function itself and compile it there; "
            "the program is found "
            "again on disk"
        )

    def __repr__(self) -> str:
        return f"<funrl.compile({self.name}), {len(self.programs)} programs>"

    def _key(self, leaves: list[Any], form: Any, args: Any, kwargs: Any) -> Any:
        """Return what a program is found by: structure, shapes, dtypes and fixed values; None under a transform of torch.func.

        Leaves that are not plain tensors are replaced in the list: arrays by tensors, numbers that change by tensors.
        """
        key: list[Any] = [form]
        mapped = private.level() > 0
        inputs = self.floats[form][1] if form in self.floats else ()
        for i, x in enumerate(leaves):
            if type(x) is not torch.Tensor:
                if i in inputs and type(x) is float:
                    leaves[i] = torch.tensor(x, dtype=torch.float64)
                    key.append(_NUMBER)
                    continue
                x = leaves[i] = as_leaf(x)
                if not isinstance(x, torch.Tensor):
                    if type(x).__hash__ is object.__hash__ and not callable(x) and type(x) not in FIXED:
                        raise changeable(self.name, args, kwargs, i)
                    key.append((float, x, math.copysign(1, x)) if isinstance(x, float) and x == 0 else (type(x), x))
                    continue
            if mapped and private.is_transformed(x):
                return None
            if "_funrl_donated" in x.__dict__:
                check_usable(x, self.name, (args, kwargs), i)
            if x.requires_grad and not self.told and torch.is_grad_enabled():  # a parameter is plain by now
                self._tell(args, kwargs, i)
            key.append((x.shape, x.dtype, x.device))
        key.append((torch.get_default_dtype(), torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")))
        if self.backend == "auto":
            key.append((getattr(STATE, "backend", None), os.environ.get("FUNRL_BACKEND")))
        key += [tuple(place((args, kwargs))) for place in dicts(form)]
        return tuple(key)

    def _tell(self, args: Any, kwargs: Any, place: int) -> None:
        self.told = True
        where = path(optree.tree_paths((args, kwargs), namespace="funrl")[place])  # pyright: ignore
        warnings.warn(
            f"{self.name}: {where} requires a gradient, and torch.autograd sees nothing of a compiled function: take the gradient in the "
            "function (torch.func.grad), or hand in .detach()",
            UserWarning,
            stacklevel=4,
        )

    def _made(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any], form: Any) -> "_Program | None":
        """Return a new program; or None where another kind of it is to be found by its key."""
        with self.lock:
            if key in self.programs:
                return self.programs[key]
            if self._has_changed(form, leaves):
                return None
            if len(self.programs) >= MOST_PROGRAMS:
                raise ValueError(
                    f"{self.name} has been compiled {MOST_PROGRAMS} times, each for other arguments; "
                    f"{what_changes(list(self.programs), args, kwargs)}"
                )
            if self.donated and max(self.donated) >= len(args):
                raise ValueError(f"{self.name}: argument {max(self.donated)} is to be donated, but only {len(args)} were given")
            numbers = {i for i, kind in enumerate(key[1:]) if kind is _NUMBER}
            try:
                program = _Program(self, args, leaves, form, numbers)
            except (Exception, NotATensor):
                if not numbers:
                    raise
                # A value is asked for, or a tensor is not taken there: these numbers have to be fixed.
                self.fixed |= numbers
                self.floats[form][1].clear()
                return None
            self.programs[key] = program
            return program

    def _has_changed(self, form: Any, leaves: list[Any]) -> bool:
        """Make inputs of floats that are not what they were at the first call; return whether there are new ones."""
        first, inputs = self.floats.setdefault(form, ({}, set()))
        floats = {i: x for i, x in enumerate(leaves) if type(x) is float and i not in self.fixed}
        new = {i for i, x in floats.items() if first.setdefault(i, x) != x and i not in inputs}
        inputs |= new
        return bool(new)


class _Program:
    """One program: what was traced, and the executable."""

    def __init__(self, owner: _Compiled, args: tuple[Any, ...], leaves: list[Any], form: Any, numbers: set[int]) -> None:
        self.name, self.positions = owner.name, owner.donated
        tensors = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]
        for i in tensors:
            if leaves[i].layout != torch.strided:
                raise TypeError(f"{self.name}: an argument holds a tensor of layout {leaves[i].layout}, which has none; use .to_dense()")
        device = next((leaves[i].device for i in tensors), torch.device("cpu"))
        self.kind, _ = chosen(owner.backend, device)
        groups: list[int] = []
        for position, arg in enumerate((*args, form.unflatten(leaves)[1])):
            groups += [position] * len(optree.tree_leaves(arg, namespace="funrl"))
        self.places = tensors
        donated_leaves = {k for k, group in enumerate(groups) if group in self.positions}
        for i in sorted(donated_leaves):
            if not isinstance(leaves[i], torch.Tensor):
                raise self._no_tensor(args, leaves, groups, i)
        self.donated_leaves = donated_leaves
        timer = Timer(self.name, self.kind)
        timer("tracing")
        recording = record(owner.fn, self.kind, device, leaves, form, numbers)
        trace, values, self.form, self.numbers = recording.trace, recording.values, recording.form, recording.numbers
        nodes = recording.nodes
        whole, taken = matched(self.name, self.positions, recording.args, recording.out)
        parts = list(recording.out) if type(recording.out) is tuple and not whole else [recording.out]
        graph = trace.frame.graph
        # What was read as it lies in memory has to lie there as a contiguous tensor does.
        self.laid_out = [i for i, node in zip(tensors, graph.inputs, strict=False) if node in trace.laid_out]
        self._check_layout(leaves)
        output_groups: list[int] = []
        for k, part in enumerate(parts):
            output_groups += [k] * len(optree.tree_leaves(part, namespace="funrl"))  # pyright: ignore
        self._sort_outputs(nodes, values, {id(node): i for i, node in zip(tensors, graph.inputs, strict=False)})
        graph.outputs = [node for k in self.computed if (node := nodes[k]) is not None]
        kept = {i for _, i in self.passed}
        successors = {
            groups.index(position) + k: output_groups.index(part) + k
            for position, part in zip(self.positions, taken, strict=True)
            for k in range(groups.count(position))
        }
        computed = {k: n for n, k in enumerate(self.computed)}
        donated = {k: computed.get(successors[i]) for k, i in enumerate(tensors) if i in donated_leaves and i not in kept}
        self.executable = executable(self.kind, device)(
            graph,
            [groups[i] for i in tensors],
            [x for x, _ in trace.captured.values()],
            [output_groups[k] for k in self.computed],
            donated,
            owner.threads,
            self.name,
            timer,
        )
        timer("")
        self.large = [k for k, i in enumerate(tensors) if leaves[i].nbytes >= LARGE]
        self.num_outputs = len(values)

    def _sort_outputs(self, nodes: list[Any], values: list[Any], arguments: dict[int, int]) -> None:
        """Note which outputs are computed; what is returned as it was given is handed back, and numbers are what they were at the trace."""
        self.passed: list[tuple[int, int]] = []
        self.fixed: list[tuple[int, Any]] = []
        self.computed: list[int] = []
        for k, (node, x) in enumerate(zip(nodes, values, strict=True)):
            if node is None:
                self.fixed.append((k, x))
            elif id(node) in arguments:
                self.passed.append((k, arguments[id(node)]))
            else:
                self.computed.append(k)

    def _no_tensor(self, args: tuple[Any, ...], leaves: list[Any], groups: list[int], i: int) -> TypeError:
        position = groups[i]
        where = tree.paths(args[position])[i - groups.index(position)]
        return TypeError(
            f"{self.name}: leaf {where} of argument {position}, which is donated, is a {type(leaves[i]).__name__}; make it a tensor"
        )

    def _check_layout(self, leaves: list[Any]) -> None:
        for i in self.laid_out:
            if not leaves[i].is_contiguous():
                raise ValueError(
                    f"{self.name}: as_strided is applied to leaf {i} of the arguments, which is not contiguous; hand in .contiguous()"
                )

    def __call__(self, leaves: list[Any]) -> Any:
        self._check_layout(leaves)
        tensors = [leaves[i] for i in self.places]
        own_copies(tensors, self.large)
        computed = self.executable(tensors)
        values: list[Any] = [None] * self.num_outputs
        for k, x in zip(self.computed, computed, strict=True):
            values[k] = x
        for k, i in self.passed:
            values[k] = leaves[i]
        for k, x in self.fixed:
            values[k] = x
        for k in self.numbers:
            values[k] = values[k].item()
        if self.positions:
            passed = {id(leaves[i]) for _, i in self.passed}
            mark_donated(self.name, [leaves[i] for i in self.donated_leaves if id(leaves[i]) not in passed])
        return optree.tree_unflatten(self.form, values)


_ALL: weakref.WeakSet[_Compiled] = weakref.WeakSet()


def clear() -> None:
    """Forget all programs of this process and give their memory back. Functions compile again at their next call.

    Example:
        >>> clear()
    """
    import ctypes
    import gc
    import sys

    for compiled in _ALL:
        compiled.programs.clear()
    gc.collect()
    jax = sys.modules.get("jax")
    if jax is not None:
        jax.clear_caches()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc keeps for itself what is freed, for it lies in small pieces
        trim(0)


def transformed(*trees: Any) -> bool:
    """Return whether this is a part of a compiled program, or a leaf is one that torch.func transforms.

    Where it is not, values can be looked at, and kernels can be chosen that have no rules for transforms.

    Args:
        *trees: any trees of tensors.

    Example:
        >>> import torch
        >>> transformed(torch.ones(2)), torch.func.vmap(lambda x: x + transformed(x))(torch.zeros(2))
        (False, tensor([1., 1.]))
    """
    if current() is not None:
        return True
    return any(isinstance(x, torch.Tensor) and private.is_transformed(x) for x in tree.leaves(trees))


def _plainly(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function as it is; in a forked process with one thread, as those of its parent are not there."""
    if _FORKED and not _FORKED[0]:
        _FORKED[0] = True
        torch.set_num_threads(1)
        warnings.warn(
            "funrl: this process was forked from one that had compiled programs, whose threads it does not have: "
            "compiled functions run eagerly "
            "here; start it by spawn or forkserver instead",
            RuntimeWarning,
            stacklevel=3,
        )
    return fn(*args, **kwargs)


# In a forked child of a process that had programs: whether it has said so.
_FORKED: list[bool] = []
os.register_at_fork(after_in_child=lambda: _FORKED.append(False) if any(compiled.programs for compiled in _ALL) and not _FORKED else None)
