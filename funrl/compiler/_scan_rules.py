"""Rules of torch.func's transforms for a recorded loop: a loop over batches, with its gradient, or with its tangents."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd import forward_ad

from funrl.compiler import _torch_private as private
from funrl.compiler._trace import Trace, current

Body = Callable[..., list[torch.Tensor]]
_STATE = threading.local()


def lowered_levels() -> tuple[int, ...]:
    """Return the levels of the transforms whose rules run in this thread, from the outermost to the innermost."""
    return getattr(_STATE, "lowered", ())


@contextmanager
def lowered(interpreter: Any) -> Iterator[None]:
    """Context below a transform; a transform that begins in it may have the same level."""
    before = lowered_levels()
    _STATE.lowered = (*before, interpreter.level())
    try:
        with interpreter.lower():
            yield
    finally:
        _STATE.lowered = before


def loop(body: Body, carry: Any, columns: Any, constants: Any, length: int, reverse: bool) -> list[torch.Tensor]:
    """Run ``body(*carry, *row, *constants) -> [*carry, *y]`` for each row of the columns; return the last carry and the stacked ys.

    Under a transform of torch.func, its rule is applied, which runs loops below that transform; below all transforms one operator is
    recorded.

    Args:
        body: a function from tensors to tensors; it closes over no tensor that a transform has wrapped.
        carry: a list of tensors.
        columns: a list of tensors [T, ...].
        constants: a list of tensors that are the same at each step.
        length: T.
        reverse: from the last row to the first.
    """
    trace = current()
    assert trace is not None
    needed = private.needed()
    top = needed.peek_interpreter_stack()
    if top is None:
        return trace.loop(body, carry, columns, constants, length, reverse)
    interpreter = needed.retrieve_current_functorch_interpreter()
    rule = {needed.TransformType.Vmap: _batched, needed.TransformType.Grad: _differentiated, needed.TransformType.Jvp: _with_tangents}.get(
        interpreter.key()
    )
    if rule is None:
        raise TypeError(f"scan: torch.func's transform {interpreter.key()} has no rule for a loop in a compiled program")
    return rule(trace, interpreter, body, list(carry), list(columns), list(constants), length, reverse)


def _learns(x: torch.Tensor) -> bool:
    """Return whether a tensor can have a gradient."""
    return x.is_floating_point() or x.is_complex()


def _batched(
    trace: Trace, interpreter: Any, body: Body, carry: Any, columns: Any, constants: Any, length: int, reverse: bool
) -> list[torch.Tensor]:
    """Batch a loop over one level of vmap. A carry is batched from the start if its update is batched; the batch is the first dimension."""
    needed, size = private.needed(), interpreter.batch_size()
    (carry, columns, constants), (carry_dims, column_dims, constant_dims) = needed.unwrap_batched(
        (tuple(carry), tuple(columns), tuple(constants)), interpreter.level()
    )
    columns = [x if dim is None else x.movedim(dim, 1) for x, dim in zip(columns, column_dims, strict=True)]
    row_dims = tuple(None if dim is None else 0 for dim in column_dims)
    batched = [dim is not None for dim in carry_dims]
    with lowered(interpreter):
        while True:
            in_dims = (*(0 if b else None for b in batched), *row_dims, *constant_dims)
            run = needed.restore_vmap(body, in_dims, size, interpreter.randomness()) if in_dims else None
            first = [_batch_first(x, dim, size) if b else x for x, dim, b in zip(carry, carry_dims, batched, strict=True)]
            if run is None:  # without carry, columns and constants nothing can be batched
                outputs = loop(body, [], [], [], length, reverse)
                return list(needed.wrap_batched(tuple(outputs), (None,) * len(outputs), interpreter.level()))
            with trace.inner_frame():
                _, out_dims = run(*first, *(x[0] for x in columns), *constants)
            grown = [b or dim is not None for b, dim in zip(batched, out_dims, strict=False)]
            if grown == batched:
                break
            batched = grown
        batched += [dim is not None for dim in out_dims[len(carry) :]]

        def batched_body(*args: torch.Tensor) -> list[torch.Tensor]:
            outputs, dims = run(*args)
            return [_batch_first(x, dim, size) if b else x for x, dim, b in zip(outputs, dims, batched, strict=True)]

        outputs = loop(batched_body, first, columns, constants, length, reverse)
    dims = tuple((0 if i < len(carry) else 1) if b else None for i, b in enumerate(batched))
    return list(needed.wrap_batched(tuple(outputs), dims, interpreter.level()))


def _batch_first(x: torch.Tensor, dim: int | None, size: int) -> torch.Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _with_tangents(
    trace: Trace, interpreter: Any, body: Body, carry: Any, columns: Any, constants: Any, length: int, reverse: bool
) -> list[torch.Tensor]:
    """Push tangents through a loop: a loop whose carry, rows and ys come with their tangents."""
    level = interpreter.level()
    pairs = [_unpacked(x, level) for x in (*carry, *columns, *constants)]
    num_carries, rows_end = len(carry), len(carry) + len(columns)
    primals = [x for x, _ in pairs]
    # A floating-point carry has a tangent from the start, because its update may have one.
    moving = [i for i, (x, dx) in enumerate(pairs) if dx is not None or (i < num_carries and _learns(x))]
    own = [[i for i in moving if low <= i < high] for low, high in ((0, num_carries), (num_carries, rows_end), (rows_end, len(pairs)))]
    moving_outputs: list[int] = []

    def body_with_tangents(*args: torch.Tensor) -> list[torch.Tensor]:
        given = iter(args)
        values: dict[int, torch.Tensor] = {}
        rates: dict[int, torch.Tensor] = {}
        for low, high, part in ((0, num_carries, own[0]), (num_carries, rows_end, own[1]), (rows_end, len(pairs), own[2])):
            values.update({i: next(given) for i in range(low, high)})
            rates.update({i: next(given) for i in part})
        kinds: list[bool] = []

        def run(*learned: torch.Tensor) -> tuple[Any, Any]:
            mixed = {**values, **dict(zip(moving, learned, strict=True))}
            outputs = body(*(mixed[i] for i in range(len(pairs))))
            kinds[:] = [_learns(x) for x in outputs]
            return tuple(x for x in outputs if _learns(x)), tuple(x for x in outputs if not _learns(x))

        floats, slopes, others = _jvp(run, tuple(values[i] for i in moving), tuple(rates[i] for i in moving))
        floats, others = iter(floats), iter(others)
        outputs = [next(floats) if kind else next(others) for kind in kinds]
        moving_outputs[:] = [i for i, kind in enumerate(kinds) if kind]
        carried = [i for i in moving_outputs if i < num_carries]
        # In torch the product of batched numbers and a Python number has a float64 tangent; a carry must not change its dtype.
        slope = {i: dx.to(outputs[i].dtype) for i, dx in zip(moving_outputs, slopes, strict=True)}
        return [
            *outputs[:num_carries],
            *(slope[i] for i in carried),
            *outputs[num_carries:],
            *(slope[i] for i in moving_outputs if i >= num_carries),
        ]

    with lowered(interpreter):
        tangents = {i: torch.zeros_like(primals[i]) if pairs[i][1] is None else pairs[i][1] for i in moving}
        outputs = loop(
            body_with_tangents,
            [*primals[:num_carries], *(tangents[i] for i in own[0])],
            [*primals[num_carries:rows_end], *(tangents[i] for i in own[1])],
            [*primals[rows_end:], *(tangents[i] for i in own[2])],
            length,
            reverse,
        )
    return _with_slopes(outputs, moving_outputs, num_carries, level)


def _with_slopes(outputs: list[torch.Tensor], moving: list[int], num_carries: int, level: int) -> list[torch.Tensor]:
    """Join carries, the tangents of those that have one, ys, and the tangents of those that have one, to results with tangents."""
    needed = private.needed()
    ys = num_carries + sum(i < num_carries for i in moving)  # where the ys begin
    end = ys + len(outputs) - len(moving) - num_carries  # where they end
    values, slopes = [*outputs[:num_carries], *outputs[ys:end]], [*outputs[num_carries:ys], *outputs[end:]]
    results = [needed._wrap_for_grad(x, level) for x in values]
    for i, slope in zip(moving, slopes, strict=True):
        results[i] = forward_ad.make_dual(results[i], needed._wrap_for_grad(slope, level))
    return results


def _unpacked(x: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return a tensor of a level of jvp as a tensor of the level below, and its tangent."""
    needed = private.needed()
    primal, tangent = forward_ad.unpack_dual(x)
    return needed._unwrap_for_grad(primal, level), None if tangent is None else needed._unwrap_for_grad(tangent, level)


def _jvp(f: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    if not primals:
        floats, others = f()
        return floats, tuple(torch.zeros_like(x) for x in floats), others
    # torch requires at least one result, and primals that are not expanded.
    primals = tuple(x.clone() for x in primals)
    (_, *floats), (_, *slopes), others = torch.func.jvp(  # pyright: ignore[reportAssignmentType]
        lambda *values: ((values[0], *(out := f(*values))[0]), out[1]), primals, tangents, has_aux=True
    )
    return floats, slopes, others


def _differentiated(
    trace: Trace, interpreter: Any, body: Body, carry: Any, columns: Any, constants: Any, length: int, reverse: bool
) -> list[torch.Tensor]:
    """Differentiate a loop at one level of torch.func.grad or vjp.

    The forward loop also returns the carry before each step. The backward loop goes from the last step to the first, runs each again under
    ``vjp``, passes on the cotangent of the carry, and sums those of the constants.
    """
    needed, level = private.needed(), interpreter.level()
    num_carries, rows_end = len(carry), len(carry) + len(columns)
    operands = (*carry, *columns, *constants)
    plain = [needed._unwrap_for_grad(x, level) for x in operands]
    tracked = next((x for x in operands if x.requires_grad), None)

    def forward_loop(body: Body) -> list[torch.Tensor]:
        return loop(body, plain[:num_carries], plain[num_carries:rows_end], plain[rows_end:], length, reverse)

    if tracked is None:
        with lowered(interpreter):
            outputs = forward_loop(body)
        return [needed._wrap_for_grad(x, level) for x in outputs]

    # From the second step on, a carry may depend on an input of the gradient.
    learned = [i for i, x in enumerate(operands) if _learns(x) and (x.requires_grad or i < num_carries)]

    class Scan(private.single_level_function()):
        @staticmethod
        def forward(*operands: torch.Tensor) -> tuple[torch.Tensor, ...]:
            def body_and_carry(*args: torch.Tensor) -> list[torch.Tensor]:
                return [*body(*args), *args[:num_carries]]

            # Lower levels are differentiated too, but autograd runs this function without gradients.
            with torch.enable_grad(), private.enable_tangents(), lowered(interpreter):
                outputs = forward_loop(body_and_carry)
            return tuple(needed._wrap_for_grad(x, level) for x in outputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, outputs: Any) -> None:
            ctx.kept = [needed._unwrap_for_grad(x, level) for x in outputs[len(outputs) - num_carries :]]
            ctx.mark_non_differentiable(*(x for x in outputs if not _learns(x)))
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
            cotangents = cotangents[: len(cotangents) - num_carries]
            kept = ctx.kept

            def run(cotangents: Any) -> tuple[torch.Tensor | None, ...]:
                return _backward(body, plain, kept, cotangents, num_carries, rows_end, learned, length, reverse)

            # Nothing differentiates the backward loop at this level, only at those below. vjp ends its level before it gets here.
            top = needed.peek_interpreter_stack()
            if needed.maybe_get_level(tracked) != level or top is None or top.level() != level:
                return run(cotangents)
            cotangents = tuple(None if x is None else needed._unwrap_for_grad(x, level) for x in cotangents)
            with lowered(interpreter):
                gradients = run(cotangents)
            return tuple(None if x is None else needed._wrap_for_grad(x, level) for x in gradients)

    operator: Any = Scan  # apply comes from the metaclass
    # A tensor of a lower level may have a tangent there, which this operator ignores.
    given = [x if needed.maybe_get_level(x) == level else needed._wrap_for_grad(x, level) for x in operands]
    with needed.enable_single_level_autograd_function():
        outputs = list(operator.apply(*given))
    return outputs[: len(outputs) - num_carries]


def _backward(
    body: Body,
    operands: list[Any],
    kept: list[Any],
    cotangents: Any,
    num_carries: int,
    rows_end: int,
    learned: list[int],
    length: int,
    reverse: bool,
) -> tuple[torch.Tensor | None, ...]:
    """Return the cotangents of the operands (carries, rows, constants), None for those that are not learned."""
    carries = [i for i in learned if i < num_carries]
    rows = [i for i in learned if num_carries <= i < rows_end]
    constants = [i for i in learned if i >= rows_end]
    ys = [i for i, x in enumerate(cotangents) if i >= num_carries and x is not None]
    last = [torch.zeros_like(operands[i]) if cotangents[i] is None else cotangents[i] for i in carries]
    total = [torch.zeros_like(operands[i]) for i in constants]
    num_sums, num_ys = len(carries) + len(constants), len(ys)

    def step(*args: Any) -> list[torch.Tensor]:
        carry_cotangents, sums = args[: len(carries)], args[len(carries) : num_sums]
        y_cotangents, inputs = args[num_sums : num_sums + num_ys], args[num_sums + num_ys :]

        def run(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            given = dict(zip(learned, values, strict=True))
            outputs = body(*(given.get(i, x) for i, x in enumerate(inputs)))
            return tuple(outputs[i] for i in (*carries, *ys))

        pull: Any = torch.func.vjp(run, *(inputs[i] for i in learned))[1]
        found = dict(zip(learned, pull((*carry_cotangents, *y_cotangents)), strict=True))
        sums = [s + found[i] for s, i in zip(sums, constants, strict=True)]
        return [*(found[i] for i in carries), *sums, *(found[i] for i in rows)]

    columns = [*(cotangents[i] for i in ys), *kept, *operands[num_carries:rows_end]]
    outputs = loop(step, [*last, *total], columns, operands[rows_end:], length, not reverse)
    found = dict(zip((*carries, *constants, *rows), outputs, strict=True))
    return tuple(found.get(i) for i in range(len(operands)))
