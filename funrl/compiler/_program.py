"""``compile``: choose the program of a call, and trace and compile a new one for each new kind of arguments."""

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
from funrl._check import describe
from funrl.compiler import _arguments as arguments, _torch_private as private
from funrl.compiler._backends import BACKENDS, STATE, chosen
from funrl.compiler._donation import LARGE, MARK, mark_donated, matched, own_copies
from funrl.compiler._graph import Plan
from funrl.compiler._listening import Timer
from funrl.compiler._numbers import NotATensor
from funrl.compiler._recording import record, room_of
from funrl.compiler._trace import current

# The maximum number of programs of a function. If there are more, an argument is a number that should be a tensor.
MOST_PROGRAMS = 64


def compile(fn: Callable[..., Any], *, donate: int | Sequence[int] = (), threads: int = 1, backend: str = "auto") -> Callable[..., Any]:
    """Compile ``fn`` into one program.

    At the first call ``fn`` runs once, with tensors that have shapes but no values, and the operators that it uses become one program. As
    in JAX, the Python code of ``fn`` does not run again: a second call with arguments of the same structure, shapes, dtypes, static fields
    and Python numbers runs only the program. A tensor that ``fn`` closes over is an input: each call reads its present values. Everything
    else from outside (numbers, attributes, the tensor that a name refers to) is fixed at the first call. Operations that a program cannot
    contain (reading a tensor's value, torch's random generator, changing an argument in place) are errors that name the line. Another
    process finds the program on disk. Compute gradients inside ``fn``, with torch.func: torch.autograd does not differentiate a program.

    Results equal those of eager torch up to rounding. XLA replaces numbers below the smallest normal one (1e-38 in float32) by 0, and does
    not support complex numbers. An index out of range, at which torch raises, is no error in a program of XLA: a read returns the nearest
    row, a write has no effect. Use ``with funrl.compiler.eager():`` to find such an index. The arguments of ``fn``, and tensors that it
    closes over, count as contiguous, whatever their strides, so that ``reshape`` of them, or of their clones, is always a view.

    With ``backend="xla"`` XLA compiles the program in a second or two, for the CPU; it needs jax (the extra ``xla``). ``"inductor"`` is
    torch's compiler, for the GPU, and for the CPU without jax. On a GPU its second call records the kernels of the program, and later calls
    launch them as one CUDA graph. ``"auto"`` is ``FUNRL_BACKEND`` if that is set, else "xla" on the CPU if jax is installed, else
    "inductor" (see :func:`funrl.compiler.backend`).

    A *donated* argument gives its memory to the result: the part of the output with the same structure, shapes and dtypes (the output
    itself, or the first such item of a tuple) is written in place. For a large replay buffer this writes a few rows instead of copying all.
    Do not use the donated tensors again; use the result of ``fn``. A second use in a compiled function is an error, and so is any use of a
    donated tensor of 64 KiB or more.

    Compile the outermost function: inside another compiled function, or a transform such as vmap, the result is ``fn`` itself. Its
    attribute ``vmapped(in_dims)`` is ``fn``, first mapped and then compiled, once for each ``in_dims``. A compiled function cannot be
    pickled: compile it again in the other process, which finds the program on disk.

    Args:
        fn: a pure function of trees of tensors. NumPy arrays count as tensors. A float that changes becomes an input at its second value.
            Other numbers and strings are fixed in a program, and each new value makes a new program, at most 64 of them: use a tensor
            instead. A dict with another order of keys also makes a new program.
        donate: position or positions of the arguments to donate.
        threads: number of CPU threads for the program, at least 1. With one thread the bits do not depend on the number of cores. With
            "xla" the first program sets this number for the whole process, unless jax was started before, or ``PJRT_NPROC`` is set.
        backend: "auto", "xla" or "inductor"; "aot_eager", which traces the function and runs the recorded operators one by one, for tests;
            or "eager", which does not trace.

    Returns:
        A function with the signature of ``fn``.

    Raises:
        TypeError: if ``fn`` is not callable or ``donate`` is not one or several positions; when called: if a leaf of a donated argument is
            not a tensor, or a leaf is an object without a value, such as ``self`` of a class of your own.
        ValueError: if ``threads`` is less than 1 or ``backend`` is unknown; when called: if a donated argument was donated before or is
            missing, if no output has its structure, shapes and dtypes, or at the 65th program.
        ImportError: if ``backend`` is "xla" and jax is missing.
        TraceError: when called: if ``fn`` does something that a program cannot contain.

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
        raise TypeError(f"compile: fn is {describe(fn)}; expected a function")
    positions = (donate,) if isinstance(donate, int) else tuple(donate)
    if not all(isinstance(i, int) and i >= 0 for i in positions):
        raise TypeError(f"compile: donate is {donate!r}; expected positions of arguments, such as 0 or (0, 2)")
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"compile: threads is {threads!r}; expected a whole number of at least 1")
    if backend not in BACKENDS:
        raise ValueError(f"compile: backend is {backend!r}; expected one of {', '.join(map(repr, BACKENDS))}")
    return _Compiled(fn, positions, threads, backend)


# Replaces the value of a float in the key of a program that has the float as an input.
_NUMBER = "a number that changes"


class _Compiled:
    """A compiled function: its programs, one for each kind of arguments."""

    def __init__(self, fn: Callable[..., Any], donated: tuple[int, ...], threads: int, backend: str) -> None:
        functools.update_wrapper(self, fn)
        self.fn, self.donated, self.threads, self.backend = fn, donated, threads, backend
        self.name = getattr(fn, "__name__", type(fn).__name__).replace("<lambda>", "fn")
        self.programs: dict[Any, _Program] = {}
        self.last: _Program | None = None
        # For each structure: the first value of each float, and the positions of the floats that are inputs because they have changed.
        self.floats: dict[Any, tuple[dict[int, float], set[int]]] = {}
        self.fixed: set[int] = set()
        self.warned = False  # True after the warning that gradients stop here
        self.lock = threading.RLock()
        self.vmapped = functools.cache(lambda in_dims: compile(torch.func.vmap(fn, in_dims), threads=threads, backend=backend))
        _ALL.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if current() is not None or getattr(STATE, "eager", 0) or "eager" in (self.backend, getattr(STATE, "backend", None)) or _FORKED:
            return _plainly(self.fn, args, kwargs)
        leaves, form = arguments.flatten((args, kwargs))
        program = self.last
        if program is None or program.usual is None or not program.usual(leaves, form):
            program = self._found(leaves, form, args, kwargs)
            if program is None:
                return self.fn(*args, **kwargs)  # inside a transform
            self.last = program
        return program(leaves)

    def _found(self, leaves: list[Any], form: Any, args: Any, kwargs: Any) -> "_Program | None":
        """Return the program of a call, which is made if it is the first of its kind; None under a transform of torch.func."""
        program = None
        while program is None:
            key = self._key(leaves, form)
            if key is None:
                return None
            try:
                program = self.programs.get(key)
            except TypeError:
                raise arguments.unhashable(self.name, form, leaves) from None
            if program is None:
                program = self._made(key, leaves, form)
                leaves[:] = arguments.flatten((args, kwargs))[0] if program is None else leaves
        return program

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self.name} is a compiled function, which cannot be pickled: send the function itself and compile it there; the program is "
            "found again on disk"
        )

    def __repr__(self) -> str:
        return f"<funrl.compile({self.name}), {len(self.programs)} programs>"

    def _key(self, leaves: list[Any], form: Any) -> Any:
        """Return the key of a call's program: structure, shapes, dtypes and fixed values; None under a transform of torch.func.

        Leaves that are not plain tensors are replaced in the list: arrays by tensors, numbers that change by tensors.
        """
        kinds = self._kinds(leaves, form, private.level() > 0)
        return None if kinds is None else (form, *kinds, arguments.settings(self.backend))

    def _kinds(self, leaves: list[Any], form: Any, mapped: bool) -> list[Any] | None:
        """Return the part of the key of each leaf, of whatever type; None under a transform of torch.func."""
        kinds: list[Any] = []
        inputs = self.floats[form][1] if form in self.floats else ()
        for i, x in enumerate(leaves):
            if type(x) is not torch.Tensor:
                if i in inputs and type(x) is float:
                    leaves[i] = torch.tensor(x, dtype=torch.float64)
                    kinds.append(_NUMBER)
                    continue
                x = leaves[i] = arguments.as_leaf(x)
                if not isinstance(x, torch.Tensor):
                    if type(x).__hash__ is object.__hash__ and not callable(x) and type(x) not in arguments.FIXED:
                        raise arguments.changeable(self.name, form, leaves, i)
                    kinds.append((float, x, math.copysign(1, x)) if isinstance(x, float) and x == 0 else (type(x), x))
                    continue
            if mapped and private.is_transformed(x):
                return None
            if MARK in x.__dict__:
                arguments.check_usable(x, self.name, form, i)
            if x.requires_grad and not self.warned and torch.is_grad_enabled():  # a parameter is plain by now
                self._tell(form, i)
            kinds.append((x.shape, x.dtype, x.device))
        return kinds

    def _tell(self, form: Any, i: int) -> None:
        self.warned = True
        where = arguments.place_of(form, i)
        warnings.warn(
            f"{self.name}: {where} requires a gradient, and torch.autograd sees nothing of a compiled function: take the gradient in the "
            "function (torch.func.grad), or hand in .detach()",
            UserWarning,
            stacklevel=6,
        )

    def _made(self, key: Any, leaves: list[Any], form: Any) -> "_Program | None":
        """Return a new program, or None if the program has to be looked up again under another key."""
        with self.lock:
            if key in self.programs:
                return self.programs[key]
            if self._has_changed(form, leaves):
                return None
            if len(self.programs) >= MOST_PROGRAMS:
                why = arguments.what_changes(list(self.programs), form)
                raise ValueError(f"{self.name} has been compiled {MOST_PROGRAMS} times, each for other arguments; {why}")
            if self.donated and max(self.donated) >= (num_given := form.child(0).num_children):
                raise ValueError(f"{self.name}: argument {max(self.donated)} is to be donated, but only {num_given} were given")
            numbers = {i for i, kind in enumerate(key[1:]) if kind is _NUMBER}
            try:
                program = _Program(self, leaves, form, numbers)
            except (Exception, NotATensor):
                if not numbers:
                    raise
                # These numbers have to be fixed: their value is read, or they are used where a tensor is not accepted.
                self.fixed |= numbers
                self.floats[form][1].clear()
                return None
            if all(type(x) is torch.Tensor for x in leaves) and not numbers:
                program.usual = arguments.Usual(leaves, form, self.backend)
            self.programs[key] = program
            return program

    def _has_changed(self, form: Any, leaves: list[Any]) -> bool:
        """Make inputs of floats that differ from their values at the first call; return True if there are new ones."""
        first, inputs = self.floats.setdefault(form, ({}, set()))
        floats = {i: x for i, x in enumerate(leaves) if type(x) is float and i not in self.fixed}
        new = {i for i, x in floats.items() if first.setdefault(i, x) != x and i not in inputs}
        inputs |= new
        return bool(new)


class _Program:
    """One program: the trace and the executable."""

    def __init__(self, owner: _Compiled, leaves: list[Any], form: Any, numbers: set[int]) -> None:
        self.name, self.positions = owner.name, owner.donated
        self.usual: arguments.Usual | None = None
        tensors = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]
        for i in tensors:
            if leaves[i].layout != torch.strided:
                raise TypeError(f"{self.name}: an argument holds a tensor of layout {leaves[i].layout}, which has none; use .to_dense()")
        device = next((leaves[i].device for i in tensors), torch.device("cpu"))
        self.kind, _ = chosen(owner.backend, device)
        groups = _groups((*form.child(0).children(), form.child(1)))
        self.places = tensors
        donated_leaves = {k for k, group in enumerate(groups) if group in self.positions}
        for i in sorted(donated_leaves):
            if not isinstance(leaves[i], torch.Tensor):
                kind = type(leaves[i]).__name__
                raise TypeError(f"{self.name}: {arguments.leaf_of(form, i)}, which is donated, is a {kind}; make it a tensor")
        timer = Timer(self.name, self.kind)
        timer("tracing")
        recording = record(owner.fn, self.kind, device, leaves, form, numbers)
        trace, values, self.form, self.numbers = recording.trace, recording.values, recording.form, recording.numbers
        nodes = recording.nodes
        whole, taken = matched(self.name, self.positions, recording.args, recording.out)
        in_parts = type(recording.out) is tuple and not whole
        graph = trace.frame.graph
        # An input to which as_strided is applied has to be contiguous.
        self.laid_out = [i for i, node in zip(tensors, graph.inputs, strict=False) if node in trace.laid_out]
        self._check_layout(leaves)
        output_groups = _groups(self.form.children() if in_parts else [self.form])
        self._sort_outputs(nodes, values, {id(node): k for k, node in enumerate(graph.inputs[: len(tensors)])})
        graph.outputs = [node for k in self.computed if (node := nodes[k]) is not None]
        kept = {tensors[k] for _, k in self.passed}
        given, made = form.unflatten(range(len(leaves)))[0], self.form.unflatten(range(len(values)))
        pairs = [(given[position], made[part] if in_parts else made) for position, part in zip(self.positions, taken, strict=True)]
        # Not in the order of leaves, as the keys of a dict may have another one in the successor.
        successors = {i: k for old, new in pairs for i, k in zip(tree.leaves(old), tree.leaves(new), strict=True)}
        computed = {k: n for n, k in enumerate(self.computed)}
        donated = {k: computed.get(successors[i]) for k, i in enumerate(tensors) if i in donated_leaves and i not in kept}
        captured = [x for x, _ in trace.captured.values()]
        # Leaves that are returned as they are, such as hyperparameters, are groups of their own: the others come back in one vector.
        leaf_groups = [~groups[i] if i in kept else groups[i] for i in tensors]
        output_groups = [output_groups[k] for k in self.computed]
        returned = {k for k, i in enumerate(tensors) if i in kept and i in donated_leaves}
        plan = Plan(graph, device, leaf_groups, captured, output_groups, donated, returned, owner.threads, self.name, timer)
        self.executable = room_of(self.kind).Executable(plan)
        timer("")
        self.num_outputs = len(values)
        self.passed = [(k, n, n in returned) for k, n in self.passed]
        self.large = [k for k, i in enumerate(tensors) if leaves[i].nbytes >= LARGE]
        gone = sorted(donated_leaves - kept)
        self.gone_large = [i for i in gone if leaves[i].nbytes >= LARGE or leaves[i].numel() == 0]
        self.gone = [i for i in gone if i not in self.gone_large]

    def _sort_outputs(self, nodes: list[Any], values: list[Any], arguments: dict[int, int]) -> None:
        """Find the outputs that are computed; inputs and numbers that are returned unchanged are not outputs of the executable."""
        self.passed: list[Any] = []
        self.fixed: list[tuple[int, Any]] = []
        self.computed: list[int] = []
        for k, (node, x) in enumerate(zip(nodes, values, strict=True)):
            if node is None:
                self.fixed.append((k, x))
            elif id(node) in arguments:
                self.passed.append((k, arguments[id(node)]))
            else:
                self.computed.append(k)

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
        for k, n, is_donated in self.passed:  # the executable may have replaced a donated one
            values[k] = tensors[n] if is_donated else leaves[self.places[n]]
        for k, x in self.fixed:
            values[k] = x
        for k in self.numbers:
            values[k] = values[k].item()
        if self.positions:
            passed = {id(leaves[self.places[n]]) for _, n, _ in self.passed}
            small, large = ([leaves[i] for i in gone if id(leaves[i]) not in passed] for gone in (self.gone, self.gone_large))
            mark_donated(self.name, small, large)
        return optree.tree_unflatten(self.form, values)


def _groups(parts: Sequence[Any]) -> list[int]:
    """Return for each leaf of several structures, one after another, the number of its structure."""
    return [k for k, part in enumerate(parts) for _ in range(part.num_leaves)]


_ALL: weakref.WeakSet[_Compiled] = weakref.WeakSet()


def clear() -> None:
    """Remove all programs of this process and free their memory. Functions compile again at their next call.

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
    if trim is not None:  # glibc does not return small freed blocks to the system by itself
        trim(0)


def _plainly(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function without compiling; in a forked process with one thread, because the threads of the parent do not exist there."""
    if _FORKED and not _FORKED[0]:
        _FORKED[0] = True
        torch.set_num_threads(1)
        warnings.warn(
            "funrl: this process was forked from one that had compiled programs, whose threads it does not have: compiled functions run "
            "eagerly here; start it by spawn or forkserver instead",
            RuntimeWarning,
            stacklevel=3,
        )
    return fn(*args, **kwargs)


# True in a forked child, of a process with programs, that has printed the warning.
_FORKED: list[bool] = []
os.register_at_fork(after_in_child=lambda: _FORKED.append(False) if any(compiled.programs for compiled in _ALL) and not _FORKED else None)
