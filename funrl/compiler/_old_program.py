"""Whole programs: ``scan``, a loop that compiles, and ``compile``, which makes one graph of a function.

This file and :mod:`funrl.codegen`, which changes the code that is generated, are the only ones that touch private parts of torch. What
they stand on, and why, is said beside it.
"""

import ast
import functools
import importlib.util
import inspect
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]  (a part of C without stubs)
from torch._functorch.utils import enable_single_level_autograd_function
from torch._functorch.vmap import restore_vmap, unwrap_batched, wrap_batched
from torch._higher_order_ops.scan import scan as scan_operator
from torch._higher_order_ops.scan import scan_op
from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode

from funrl import tree
from funrl.codegen import inductor_options
from funrl.replay import replayed

__all__ = ["compile", "scan", "transformed"]

# vmap(scan) slices with an operator that vmap only emulates, but for the sake of shapes alone.
warnings.filterwarnings("ignore", message=".*batching rule for aten::select_copy.*")


def _when_imported(name: str, change: Callable[[Any], None]) -> None:
    """Change a module of torch now, if it is there, or else as soon as it is imported.

    The compilers take as long to import as the rest of torch, and many programs do without.
    """
    if name in sys.modules:
        change(sys.modules[name])
        return

    class Finder:
        @classmethod
        def find_spec(cls, wanted: str, path: Any = None, target: Any = None) -> Any:
            if wanted != name:
                return None
            sys.meta_path.remove(cls)
            spec: Any = importlib.util.find_spec(name)
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                change(module)

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder)


def _wrapping(optimization_flags: Callable) -> Callable:
    """Let integers wrap in generated C++ as they do in torch.

    Overflow of signed integers is undefined in C++, and g++ makes use of that: without the flag, keys and random bits that
    are drawn in one kernel are not those that are drawn eagerly.
    """

    def flags(*args: Any, **kwargs: Any) -> tuple[list[str], list[str]]:
        compiler, linker = optimization_flags(*args, **kwargs)
        return [*compiler, *([] if sys.platform == "win32" else ["fwrapv"])], linker

    return flags


def _let_integers_wrap(cpp_builder: Any) -> None:
    cpp_builder._get_optimization_cflags = _wrapping(cpp_builder._get_optimization_cflags)


_when_imported("torch._inductor.cpp_builder", _let_integers_wrap)

# Caches on disk are keyed by this: change it when _scan_batch_rule or _scan_gradient_rule changes what it computes.
_SCAN_RULE = "funrl-3"

# Bytes from which a donated tensor is written in place. Below, a new tensor costs less than the copy.
_WORTH_DONATING = 1 << 16


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any = None, *, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    """Run ``carry, y = f(carry, x)`` along the first dimension of ``xs``; return the last carry and all ys.

    Equivalent to::

        carry, ys = init, []
        for x in xs:
            carry, y = f(carry, x)
            ys.append(y)
        return carry, tree.stack(ys)

    Eagerly it is that loop. In a compiled program it is one operator, whose compile time does not grow with the number of
    steps. Both forms nest, batch under :func:`torch.func.vmap` even where only some of ``init`` is batched, and are
    differentiable by ``torch.func.grad`` and ``vjp``, inside ``f`` and around the scan. A compiled gradient keeps the carries
    of all steps, and runs each step again on its way back.

    Args:
        f: a pure function ``(carry, x) -> (carry, y)``. The new carry has the structure, shapes and dtypes of the old.
        init: the first carry, any tree of tensors.
        xs: a tree of tensors [T, ...]; ``x`` holds one row of each. ``None``: there is nothing to scan over.
        length: T >= 1; needed where ``xs`` holds no tensor.
        reverse: go from the last row to the first; ``ys`` keep the places of their ``xs``.

    Returns:
        The last carry, and the tree of ys with leaves [T, ...].

    Raises:
        TypeError: if a leaf of ``init`` or ``xs`` is not a tensor (Python numbers would recompile at each value).
        ValueError: if lengths disagree or are missing, or if ``f`` returns a carry unlike ``init``; it names the leaf.

    Example:
        >>> import torch
        >>> total, sums = scan(lambda s, x: (s + x, s + x), torch.tensor(0), torch.arange(1, 5))
        >>> total, sums
        (tensor(10), tensor([ 1,  3,  6, 10]))
    """
    carry, form = _tensors(init, "init")
    columns, xs_form = _tensors(xs, "xs")
    length = _length(columns, xs, length)
    run = _scan_operator if torch.compiler.is_dynamo_compiling() else _scan_loop

    def step(carry: list[torch.Tensor], row: list[torch.Tensor]) -> tuple[list[torch.Tensor], Any]:
        result = f(tree.unflatten(form, carry), tree.unflatten(xs_form, row))
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"scan: f has to return a pair (carry, y), got {type(result).__name__}")
        new, y = result
        tree.check_like(new, init, "scan: the carry that f returned", "init")
        return tree.leaves(new), y

    carry, ys = run(step, carry, columns, length, reverse)
    return tree.unflatten(form, carry), ys


def _tensors(value: Any, name: str) -> tuple[list[torch.Tensor], Any]:
    values, form = tree.flatten(value)
    for i, x in enumerate(values):
        if not isinstance(x, torch.Tensor):
            raise TypeError(
                f"scan: leaf {tree.paths(value)[i]} of {name} is a {type(x).__name__}; expected tensors only: wrap it in torch.tensor"
            )
    return values, form


def _length(columns: list[torch.Tensor], xs: Any, length: int | None) -> int:
    if not columns and length is None:
        raise ValueError("scan: xs holds no tensor and length is missing; give one of the two")
    for i, x in enumerate(columns):
        if x.ndim == 0:
            raise ValueError(f"scan: leaf {tree.paths(xs)[i]} of xs has shape []; expected a first dimension to scan over")
        if length is None:
            length = x.shape[0]
        elif x.shape[0] != length:
            expected = f"length {length}" if i == 0 else f"{length} as leaf {tree.paths(xs)[0]}"
            raise ValueError(f"scan: leaf {tree.paths(xs)[i]} of xs has {x.shape[0]} rows, expected {expected}")
    if length is None or length < 1:
        raise ValueError(f"scan: length is {length}; expected at least one step")
    return length


def _scan_loop(
    step: Callable, carry: list[torch.Tensor], columns: list[torch.Tensor], length: int, reverse: bool
) -> tuple[list[torch.Tensor], Any]:
    rows = [x.unbind(0) for x in columns]
    ys: list[Any] = [None] * length
    for t in reversed(range(length)) if reverse else range(length):
        carry, ys[t] = step(carry, [row[t] for row in rows])
    _tensors(ys[0], "y")
    return carry, tree.stack(ys)


def _scan_operator(
    step: Callable, carry: list[torch.Tensor], columns: list[torch.Tensor], length: int, reverse: bool
) -> tuple[list[torch.Tensor], Any]:
    # The operator takes and gives flat tensors only. One call outside it shows the structure of y; being unused, it is
    # compiled away. The operator also wants at least one carry and one x: the empty tensors stand in for none.
    no_carry, no_xs = not carry, not columns
    device = next((x.device for x in (*carry, *columns)), None)
    _, y = step(carry, [x[0] for x in columns])
    _, y_form = _tensors(y, "y")

    def body(carry: Any, row: Any) -> tuple[Any, Any]:
        new, y = step([] if no_carry else list(carry), [] if no_xs else list(row))
        return tuple(_fresh(x) for x in (carry if no_carry else new)), tuple(_fresh(x) for x in tree.leaves(y))

    first = tuple(_fresh(x) for x in carry) or (torch.empty(0, device=device),)
    carry, ys = scan_operator(body, first, tuple(columns) or (torch.empty(length, 0, device=device),), reverse=reverse)
    return [] if no_carry else list(carry), tree.unflatten(y_form, list(ys))


def _with_separate_constants(functionalize: Callable) -> Callable:
    """Let what a body closes over share memory, as parameters that are parts of one vector do; the operator refuses it."""

    def separate(mode: Any, body: Callable, init: Any, xs: Any, constants: Any) -> Any:
        seen: set[int] = set()
        apart = []
        for x in constants:
            if isinstance(x, FunctionalTensor):
                memory = torch._from_functional_tensor(x.elem).untyped_storage()._cdata  # pyright: ignore[reportPrivateImportUsage]  (without stubs)
                if memory in seen:
                    with mode:
                        x = _fresh(x)
                seen.add(memory)
            apart.append(x)
        return functionalize(mode, body, init, xs, tuple(apart))

    return separate


scan_op.python_key_table[FunctionalTensorMode] = _with_separate_constants(scan_op.python_key_table[FunctionalTensorMode])


def _fresh(x: torch.Tensor) -> torch.Tensor:
    # Outputs of the operator may alias nothing, and carries have to keep their strides, also those that vmap makes.
    return x.clone(memory_format=torch.contiguous_format)


def _scan_batch_rule(interpreter: Any, body: Callable, init: Any, xs: Any, constants: Any) -> Any:
    """Batch the scan operator over one level of vmap, in place of torch's own rule.

    Torch's rule refuses a carry that becomes batched on the way, and puts the batch last, where matrix products of
    batched parameters have to copy. This one batches a carry as soon as its update is, and puts the batch first.
    """
    (init, xs, constants), (init_dims, xs_dims, constant_dims) = unwrap_batched(
        (tuple(init), tuple(xs), tuple(constants)), interpreter.level()
    )
    size = interpreter.batch_size()
    xs = tuple(x if dim is None else x.movedim(dim, 1).contiguous() for x, dim in zip(xs, xs_dims, strict=True))
    row_dims = tuple(None if dim is None else 0 for dim in xs_dims)
    batched = [dim is not None for dim in init_dims]
    with interpreter.lower():
        while True:
            run = restore_vmap(body, (*(0 if b else None for b in batched), *row_dims, *constant_dims), size, interpreter.randomness())
            carry = tuple(_batch_first(x, dim, size) if b else x for x, dim, b in zip(init, init_dims, batched, strict=True))
            _, out_dims = run(*carry, *(x[0] for x in xs), *constants)
            grown = [b or dim is not None for b, dim in zip(batched, out_dims, strict=False)]
            if grown == batched:
                break
            batched = grown
        batched += [dim is not None for dim in out_dims[len(init) :]]

        def batched_body(*args: torch.Tensor) -> list[torch.Tensor]:
            outputs, dims = run(*args)
            return [_batch_first(x, dim, size) if b else x for x, dim, b in zip(outputs, dims, batched, strict=True)]

        outputs = scan_op(batched_body, carry, xs, constants)
    dims = tuple((0 if i < len(init) else 1) if b else None for i, b in enumerate(batched))
    return wrap_batched(tuple(outputs), dims, interpreter.level())


def _batch_first(x: torch.Tensor, dim: int | None, size: int) -> torch.Tensor:
    return _fresh(x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0))


scan_op.functorch_table[functorch.TransformType.Vmap] = _scan_batch_rule


# Differentiating the operator ------------------------------------------------------------------------------------------


def _scan_gradient_rule(interpreter: Any, body: Callable, init: Any, xs: Any, constants: Any) -> Any:
    """Differentiate the scan operator at one level of torch.func.grad or vjp, for which torch has no rule that works.

    The forward loop also returns the carry that each step began with. The backward loop goes from the last step to the first,
    runs each again under ``vjp``, hands on the cotangent of the carry, and sums those of the constants.
    """
    level, num_carries, num_rows = interpreter.level(), len(init), len(xs)
    operands = (*init, *xs, *constants)
    plain = [_below(x, level) for x in operands]
    tracked = next((x for x in operands if isinstance(x, torch.Tensor) and x.requires_grad), None)

    def forward_loop(body: Callable) -> tuple[torch.Tensor, ...]:
        rows_end = num_carries + num_rows
        return scan_op(body, tuple(plain[:num_carries]), tuple(plain[num_carries:rows_end]), tuple(plain[rows_end:]))

    if tracked is None:
        with interpreter.lower():
            outputs = forward_loop(body)
        return tuple(functorch._wrap_for_grad(x, level) for x in outputs)

    def keeping(*args: Any) -> list[torch.Tensor]:
        return [*body(*args), *(_fresh(x) for x in args[:num_carries])]

    # A carry can come to depend on what is differentiated though its first value does not.
    learned = [i for i, x in enumerate(operands) if _is_float(x) and (i < num_carries or x.requires_grad)]
    kept: list[torch.Tensor] = []

    class Scan(torch.autograd.function._SingleLevelFunction):
        @staticmethod
        def forward(*operands: Any) -> tuple[torch.Tensor, ...]:
            with torch.enable_grad(), interpreter.lower():
                outputs = forward_loop(keeping)
            kept[:] = outputs[len(outputs) - num_carries :]
            return tuple(functorch._wrap_for_grad(x, level) for x in outputs[: len(outputs) - num_carries])

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*(x for x in output if not _is_float(x)))

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> tuple[torch.Tensor | None, ...]:
            # Nobody differentiates the backward loop at this level, only at those below. vjp ends its level before it gets here.
            top = functorch.peek_interpreter_stack()
            if functorch.maybe_get_level(tracked) != level or top is None or top.level() != level:
                return _scan_backward(body, plain, kept, cotangents, num_carries, num_rows, learned)
            cotangents = tuple(_below(x, level) for x in cotangents)
            with interpreter.lower():
                gradients = _scan_backward(body, plain, kept, cotangents, num_carries, num_rows, learned)
            return tuple(None if x is None else functorch._wrap_for_grad(x, level) for x in gradients)

    operator: Any = Scan  # apply comes from the metaclass
    with enable_single_level_autograd_function():
        return operator.apply(*operands)


def _scan_backward(
    body: Callable, operands: list[Any], kept: list[torch.Tensor], cotangents: Any, num_carries: int, num_rows: int, learned: list[int]
) -> tuple[torch.Tensor | None, ...]:
    """Return the cotangents of the operands (carries, rows, constants), None for those that are not learned."""
    rows_end = num_carries + num_rows
    carries = [i for i in learned if i < num_carries]
    rows = [i for i in learned if num_carries <= i < rows_end]
    constants = [i for i in learned if i >= rows_end]
    ys = [i for i, x in enumerate(cotangents) if i >= num_carries and x is not None]
    last = [torch.zeros_like(operands[i]) if cotangents[i] is None else cotangents[i] for i in carries]
    total = [torch.zeros_like(operands[i]) for i in constants]

    def step(*args: Any) -> list[torch.Tensor]:
        split = iter(args)
        carry_cotangents, sums, y_cotangents = ([next(split) for _ in part] for part in (carries, constants, ys))
        inputs = list(split)

        def run(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            given = dict(zip(learned, values, strict=True))
            outputs = body(*(given.get(i, x) for i, x in enumerate(inputs)))
            return tuple(outputs[i] for i in (*carries, *ys))

        pull: Any = torch.func.vjp(run, *(inputs[i] for i in learned))[1]
        found = dict(zip(learned, pull((*carry_cotangents, *y_cotangents)), strict=True))
        sums = [s + found[i] for s, i in zip(sums, constants, strict=True)]
        return [_fresh(x) for x in (*(found[i] for i in carries), *sums, *(found[i] for i in rows))]

    columns = [torch.flip(x, (0,)) for x in (*(cotangents[i] for i in ys), *kept, *operands[num_carries:rows_end])]
    outputs = scan_op(step, tuple(_fresh(x) for x in (*last, *total)), tuple(columns), tuple(operands[rows_end:]))
    found = dict(zip((*carries, *constants, *rows), outputs, strict=True))
    return tuple(torch.flip(found[i], (0,)) if i in rows else found.get(i) for i in range(len(operands)))


def _below(x: Any, level: int) -> Any:
    return functorch._unwrap_for_grad(x, level) if isinstance(x, torch.Tensor) else x


def _is_float(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


scan_op.functorch_table[functorch.TransformType.Grad] = _scan_gradient_rule


def _let_scans_alias(operators: Any) -> None:
    """Leave out Dynamo's check that a body hands on no memory of its inputs, which breaks on tensors that are differentiated.

    Ours never does, and functionalization checks it again.
    """
    operators.ScanHigherOrderVariable.supports_aliasing = True


_when_imported("torch._dynamo.variables.higher_order_ops", _let_scans_alias)


def transformed(*trees: Any) -> bool:
    """Return whether this is a part of a compiled program, or a leaf is one that torch.func transforms.

    Where it is not, kernels can be chosen that have no rules for it.

    Args:
        *trees: any trees of tensors.

    Example:
        >>> import torch
        >>> transformed(torch.ones(2)), torch.func.vmap(lambda x: x + transformed(x))(torch.zeros(2))
        (False, tensor([1., 1.]))
    """
    if torch.compiler.is_compiling():
        return True
    return any(isinstance(x, torch.Tensor) and functorch.is_functorch_wrapped_tensor(x) for x in tree.leaves(trees))


def compile(fn: Callable, *, donate: int | Sequence[int] = (), threads: int = 1, backend: str = "inductor") -> Callable:
    """Compile ``fn`` into one program.

    There is one graph or an error, never a silent break. Shapes are static: other shapes, dtypes or Python numbers
    compile anew. A program is kept on disk, so that another process finds it again.

    On a GPU the program is recorded at the second call, and from then on launched as one CUDA graph: launching its kernels one by one
    takes most of a rollout's time (see :mod:`funrl.replay`).

    On a CPU a program takes one thread, unless ``threads`` says otherwise: then it gives the same bits on any machine, and runs
    at its speed beside other busy processes. Two threads make a step of 8 SAC agents with 64 units 1.7 times as fast on a quiet
    machine, a PPO update of 64 environments 1.1 times; where another process takes one of the cores, they are slower than one: 3 times
    with funrl's setting of how long threads wait spinning, 50 times without it (torch imported before funrl).

    With glibc a process that compiled for a CPU keeps up to 256 MiB of free memory at the end of its heap for the next call, unless
    ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` or ``GLIBC_TUNABLES`` says what it shall keep.

    A *donated* argument gives its memory to the result: the part of the output that has its structure, shapes and
    dtypes (the output itself, or the first such item of a tuple) is written in place, which for a large replay buffer
    is the difference between writing a few rows and copying them all. The tensors of a donated argument may then hold
    the *new* values: use what ``fn`` returned, never the argument again. A second use in a compiled function is an error;
    uses elsewhere cannot be seen.

    Compile outermost: inside another compiled function, or a transform such as vmap, the result is ``fn`` itself. Its attribute
    ``vmapped(in_dims)`` is ``fn`` mapped and then compiled, once for each ``in_dims``.

    Args:
        fn: a pure function of trees of tensors, positional arguments only.
        donate: position or positions of the arguments to donate.
        threads: how many of the CPU's threads the program may use, at least 1.
        backend: as for :func:`torch.compile`; ``"aot_eager"`` traces without generating code, for tests.

    Returns:
        A function with the signature of ``fn``.

    Raises:
        TypeError: if ``fn`` is not callable or ``donate`` holds something else than positions; when called: if a leaf of a
            donated argument is not a tensor.
        ValueError: if ``threads`` is less than 1; when called: if a donated argument was donated before or is not given, or no
            output is like it.

    Example:
        >>> import torch
        >>> @functools.partial(compile, donate=0, backend="aot_eager")
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
    from torch._dynamo.exc import Unsupported

    options = {"guard_filter_fn": _may_change, **(inductor_options(threads, _SCAN_RULE) if backend == "inductor" else {})}
    name = getattr(fn, "__name__", "fn").replace("<lambda>", "fn")

    def run(*args: Any) -> Any:
        return _with_donation(fn, positions, *args)

    # Torch counts the programs of one code object, and gives up after eight: each function gets a code object of its own.
    run = types.FunctionType(run.__code__.replace(co_name=name), globals(), name, closure=run.__closure__)
    limit: dict[str, Any] = {"recompile_limit": 64} if "recompile_limit" in inspect.signature(torch.compile).parameters else {}
    program = torch.compile(run, fullgraph=True, dynamic=False, backend=backend, options=options, **limit)
    if backend == "inductor":
        program = replayed(program, donated=positions, in_place=_WORTH_DONATING)

    def compiled(*args: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return fn(*args)  # a part of a larger program
        leaves = [tree.leaves(arg) for arg in args]
        for values in leaves:
            for x in values:
                if isinstance(x, torch.Tensor) and functorch.is_functorch_wrapped_tensor(x):
                    return fn(*args)  # a part of a transform
        args = _own_args(name, args, leaves, positions)
        outside = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            out = program(*args)
        except Unsupported as error:
            raise _own_error(error) from None
        finally:
            torch.set_num_threads(outside)
        return _mark_donated(name, [x for i in positions for x in leaves[i]], out) if positions else out

    result: Any = functools.wraps(fn)(compiled)
    result.vmapped = functools.cache(lambda in_dims: compile(torch.func.vmap(fn, in_dims), threads=threads, backend=backend))
    return result


def _may_change(guards: Sequence[Any]) -> list[bool]:
    """Choose the guards that are looked at before each call: not those on funrl's and torch's own modules, which are nine in ten."""
    return [not guard.name.startswith(_FIXED) for guard in guards]


_FIXED = tuple(f"G['__import_{name}{end}" for name in ("funrl", "torch") for end in ("_dot_", "'"))


def _with_donation(fn: Callable, positions: tuple[int, ...], *args: Any) -> Any:
    """Call ``fn`` and write the outputs that match donated arguments into their memory."""
    out = fn(*args)
    values, form = tree.flatten(out)
    whole = any(_alike(out, tree.leaves(args[i]), tree.structure(args[i])) for i in positions)
    parts = list(out) if type(out) is tuple and not whole else [out]
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(tree.leaves(part)))
    taken: list[int] = []
    slots: dict[int, torch.Tensor] = {}
    for i in positions:
        old, old_form = tree.leaves(args[i]), tree.structure(args[i])
        place = next((k for k, part in enumerate(parts) if k not in taken and _alike(part, old, old_form)), None)
        if place is None:
            raise ValueError(
                f"compile: no output has the structure, shapes and dtypes of donated argument {i}; return its successor or do not donate it"
            )
        taken.append(place)
        slots.update({k: x for k, x in enumerate(old, starts[place]) if values[k] is x or x.nbytes >= _WORTH_DONATING})
    # Outputs may not share memory, or the next call would be another program; and whatever is read has to be read before
    # the writes. Inductor drops each of these clones that is not needed.
    inputs = [x for i, arg in enumerate(args) for x in (tree.leaves(arg) if i not in positions else ())]
    values = [x if slots.get(k) is x or any(x is y for y in inputs) else x.clone() for k, x in enumerate(values)]
    for k, x in slots.items():
        if values[k] is not x:
            values[k] = x.copy_(values[k])
    return tree.unflatten(form, values)


def _mark_donated(name: str, donated: list[Any], out: Any) -> Any:
    """Mark the tensors that may have been written over, and return ``out`` with no such tensor in it."""
    passed = {id(x) for x in tree.leaves(out)}.intersection([id(x) for x in donated])
    if any(id(x) in passed and x.nbytes >= _WORTH_DONATING for x in donated):
        # A new tensor over the same memory, so that the donated one can be told from it.
        out = tree.map(lambda x: x.detach() if id(x) in passed else x, out)
        passed = set()
    for x in donated:
        if id(x) not in passed:  # what fn returned as it was is as good as before
            x._funrl_donated = name
    return out


def _alike(part: Any, old: list[torch.Tensor], old_form: Any) -> bool:
    values, form = tree.leaves(part), tree.structure(part)
    return form == old_form and all(x.shape == y.shape and x.dtype == y.dtype for x, y in zip(values, old, strict=True))


def _own_args(name: str, args: tuple[Any, ...], leaves: list[list[Any]], positions: tuple[int, ...]) -> tuple[Any, ...]:
    """Refuse tensors that were donated before; copy leaves that share memory or are strided, for one layout is one program.

    ``leaves`` are those of each argument, and are kept so.
    """
    if positions and max(positions) >= len(args):
        raise ValueError(f"{name}: argument {max(positions)} is to be donated, but only {len(args)} were given")
    memory: set[int] = set()

    def strange(x: Any) -> bool:
        if not isinstance(x, torch.Tensor):
            return False
        place = x.untyped_storage().data_ptr()
        if place in memory or not x.is_contiguous():
            return True
        memory.add(place)
        return False

    owned = list(args)
    for i, values in enumerate(leaves):
        for k, x in enumerate(values):
            if hasattr(x, "_funrl_donated"):
                raise ValueError(
                    f"{name}: leaf {tree.paths(args[i])[k]} of argument {i} was donated to {x._funrl_donated} before, "
                    "which wrote over it; use what that call returned"
                )
            if i in positions and not isinstance(x, torch.Tensor):
                raise TypeError(
                    f"{name}: leaf {tree.paths(args[i])[k]} of argument {i}, which is donated, is a {type(x).__name__}; make it a tensor"
                )
        copies = {id(x) for x in values if strange(x)}
        if copies:
            owned[i] = tree.map(lambda x, copies=copies: x.clone(memory_format=torch.contiguous_format) if id(x) in copies else x, args[i])
            leaves[i] = tree.leaves(owned[i])
    return tuple(owned)


def _own_error(error: Exception) -> Exception:
    """Return the ValueError or TypeError that a check in traced code raised, or ``error`` itself."""
    text = str(error.__cause__).removeprefix("raised exception ")
    for kind in (ValueError, TypeError):
        if text.startswith(f"{kind.__name__}("):
            try:
                return kind(ast.literal_eval(text.removeprefix(kind.__name__)))
            except (SyntaxError, ValueError):
                return error
    return error
