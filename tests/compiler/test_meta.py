"""Rules for shapes, strides and dtypes (funrl/compiler/_meta.py) beside torch's own meta kernels, on the calls of torch's OpInfo samples."""

import functools
import warnings

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from funrl.compiler import _lowerings, _meta, _trace

pytest.importorskip("expecttest")

DTYPES = [
    torch.float32,
    *(pytest.param(d, marks=pytest.mark.nightly) for d in (torch.bool, torch.int64, torch.float64, torch.uint8, torch.bfloat16)),
]


aten = torch.ops.aten
DIVISIONS = {aten.floor_divide.default, aten.floor_divide.Scalar}


class Calls(TorchDispatchMode):
    """Note the calls of operators that have a rule, with meta tensors of what they are given."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if _meta.known(func) is not None:
            self.calls.append((func, *pytree.tree_map(as_meta, (args, kwargs or {}))))
        return func(*args, **(kwargs or {}))


def as_meta(x):
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta") if isinstance(x, torch.Tensor) else x


def permuted(x):
    """Return a meta tensor of the same shape whose dimensions lie in memory the other way round."""
    if not isinstance(x, torch.Tensor) or x.ndim < 2:
        return x
    return torch.empty_permuted(x.shape, list(reversed(range(x.ndim))), dtype=x.dtype, device="meta")


@functools.cache
def rules():
    lowered = [
        operator for operator in _lowerings.TABLE if isinstance(operator, torch._ops.OpOverload) and _meta.known(operator) is not None
    ]
    return {*_meta.RULES, *lowered}


@functools.cache
def packets():
    return {operator._schema.name.split("::")[1] for operator in rules()}


@functools.cache
def samples(dtype, most=3):
    """Return the calls of OpInfo's operators that a rule is for."""
    from tests.compiler.opinfo import op_db

    mode = Calls()
    for info in op_db:
        names = {info.name, info.name.split(".")[-1], info.aten_name or "", info.name.replace("_refs.", "").replace("special.", "special_")}
        names |= {f"_{name}" for name in names} | {"native_" + name for name in names}
        if not names & packets() or not info.supports_dtype(dtype, "cpu"):
            continue
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _, sample in zip(range(most), info.sample_inputs("cpu", dtype), strict=False):
                with torch.no_grad(), mode:
                    info.op(sample.input, *sample.args, **sample.kwargs)
    return mode.calls


def layout(x):
    """Return what is to be the same: shape, dtype, and the strides of the dimensions in which there is more than one entry."""
    if x is None:
        return None
    return tuple(x.shape), x.dtype, [s for n, s in zip(x.shape, x.stride(), strict=True) if n > 1] if x.numel() else []


def difference(func, args, kwargs):
    """Return how the rule and torch differ, or None; where torch has no answer either may say what it wants."""
    try:
        right = func(*args, **({**kwargs, "device": "meta"} if any(a.name == "device" for a in func._schema.arguments) else kwargs))
    except (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError):
        return None
    try:
        got = _meta.known(func)(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    right, got = (tuple(x) if isinstance(x, (tuple, list)) else (x,) for x in (right, got))
    if len(right) != len(got) or not all(alike(func, x, y) for x, y in zip(got, right, strict=True)):
        return f"{[layout(x) for x in got]} and not {[layout(x) for x in right]}"
    return None


def alike(func, got, right):
    """Return whether a result is what torch says. Where dimensions lie in another order in memory, it may be contiguous all the same.

    A tensor that torch says is contiguous has to be, for else it has not the views that it has eagerly.
    """
    if got is None or right is None:
        return got is right
    if func is aten.native_layer_norm.default and right.dtype == torch.float32:
        right = right.to(got.dtype)  # the statistics of half precision: float32 on meta tensors, not on the CPU
    if layout(got) == layout(right):
        return True
    # floor_divide keeps the order of its argument on the CPU, and not on meta tensors.
    return layout(got)[:2] == layout(right)[:2] and ((got.is_contiguous() and not right.is_contiguous()) or func in DIVISIONS)


def wrong(calls):
    found = {}
    for func, args, kwargs in calls:
        for change in (lambda x: x, permuted):
            given = pytree.tree_map(change, (args, kwargs))
            text = difference(func, *given)
            if text:
                shown = pytree.tree_map(lambda x: layout(x) if isinstance(x, torch.Tensor) else x, given)
                found.setdefault(str(func), f"{func}{shown}: {text}")
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_rules_agree_with_torch(dtype):
    found = wrong(samples(dtype))
    assert not found, "\n".join(found.values())


@pytest.mark.nightly
def test_the_samples_reach_the_rules():
    reached = {func for dtype in (torch.float32, torch.int64, torch.bool) for func, _, _ in samples(dtype)}
    lowered = {func for func in rules() if _lowerings.TABLE.get(func)}
    assert len(reached & lowered) > 0.5 * len(lowered), sorted(str(func) for func in lowered - reached)


KINDS = [
    torch.empty(shape, dtype=dtype, device="meta")
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    for shape in ((), (1,), (3,), (2, 3))
]


def refused(func, *args):
    """Return whether torch has an operator for meta tensors alone, such as powers of bools."""
    try:
        func(*[torch.ones(x.shape, dtype=x.dtype) if isinstance(x, torch.Tensor) else x for x in args])
    except NotImplementedError:
        return True
    return False


def test_promotion():
    """Two operands of all kinds: dtypes with and without dimensions, and Python numbers."""
    found = {}
    for a in KINDS:
        for b in KINDS:
            for func in (
                aten.add.Tensor,
                aten.mul.Tensor,
                aten.div.Tensor,
                aten.maximum.default,
                aten.eq.Tensor,
                aten.pow.Tensor_Tensor,
                aten.remainder.Tensor,
                aten.atan2.default,
            ):
                if not refused(func, a, b) and (text := difference(func, (a, b), {})):
                    found[str(func)] = f"{func} {layout(a)} {layout(b)}: {text}"
            condition = torch.empty((3,), dtype=torch.bool, device="meta")
            if text := difference(aten.where.self, (condition, a, b), {}):
                found["where"] = f"where {layout(a)} {layout(b)}: {text}"
        for number in (True, 2, 0.5):
            for func in (
                aten.add.Scalar,
                aten.mul.Scalar,
                aten.div.Scalar,
                aten.pow.Tensor_Scalar,
                aten.lt.Scalar,
                aten.clamp.default,
                aten.pow.Scalar,
                aten.fill.Scalar,
            ):
                args = (number, a) if func is aten.pow.Scalar else (a, number)
                powers = "pow" in str(func) and a.dtype == torch.bool and number is True  # which torch has otherwise on meta tensors
                if not powers and not refused(func, *args) and (text := difference(func, args, {})):
                    found[str(func)] = f"{func} {layout(a)} {number}: {text}"
    assert not found, "\n".join(found.values())


def test_errors_of_rules():
    """Operators that torch refuses to run, where the rule has to raise the error."""
    silent = []
    x, y, z = (torch.empty(shape, device="meta") for shape in ((2, 3), (2, 4), (3,)))
    for func, *args in (
        (aten.add.Tensor, x, y),
        (aten.mm.default, x, y),
        (aten.stack.default, [x, y]),
        (aten.cat.default, [x, y], 0),
        (aten.cat.default, [x, z], 0),
        (aten.sum.dim_IntList, x, [2]),
        (aten.sum.dim_IntList, x, [0, 0]),
        (aten.amax.default, x, [2]),
        (aten.mean.dim, x.long(), [0]),
        (aten.mean.default, x.long()),
        (aten.argmax.default, x, 2),
        (aten.argmax.default, torch.empty(0, device="meta")),
        (aten.max.dim, x, 2),
        (aten.native_layer_norm.default, x, [2], None, None, 1e-5),
        (aten.scatter.src, x, 0, x.long(), x.double()),
        (aten.index_add.default, x, 0, z.long(), x),
        (aten.index_fill.int_Scalar, x, 2, z.long(), 0),
        (aten.addmm.default, z, x, y),
        (aten.index_select.default, x, 2, torch.empty(1, dtype=torch.int64, device="meta")),
        (aten.gather.default, x, 2, torch.empty(1, 1, dtype=torch.int64, device="meta")),
        (aten.gather.default, x, 0, torch.empty(1, dtype=torch.int64, device="meta")),
        (aten.cumsum.default, x, 2),
        (aten._softmax.default, x, 2, False),
        (aten.sort.default, x, 2),
        (aten.where.self, x.bool(), y, x),
        (aten.bitwise_and.Tensor, x, x),
        (aten.logical_and.default, x, y),
        (aten.index.Tensor, x, [torch.empty(2, dtype=torch.int64, device="meta"), torch.empty(3, dtype=torch.int64, device="meta")]),
        (aten.flip.default, x, [2]),
        (aten.tril.default, z),
        (aten.any.dim, x, 3),
        (aten.var.correction, x, [2]),
        (aten.select_scatter.default, x, z, 0, 5),
        (aten.select_scatter.default, x, z, 1, 0),
        (aten.sub.Tensor, x.bool(), x.bool()),
        (aten.neg.default, x.bool()),
    ):
        with pytest.raises((RuntimeError, IndexError, TypeError, ValueError)):
            func(*pytree.tree_map(lambda x: torch.zeros_like(x, device="cpu") if isinstance(x, torch.Tensor) else x, args))
        try:
            _meta.on_meta(func, tuple(args), {})
        except (RuntimeError, IndexError, TypeError, ValueError):
            continue
        silent.append(f"{func} {args}")
    assert not silent, "\n".join(silent)


def test_the_error_of_broadcasting_is_that_of_torch():
    x, y = torch.zeros(2, 3), torch.zeros(2, 4)
    with pytest.raises(RuntimeError) as expected:
        x + y
    with pytest.raises(RuntimeError) as found:
        _meta.on_meta(aten.add.Tensor, (x.to("meta"), y.to("meta")), {})
    assert str(found.value) == str(expected.value)


# What torch refuses for values, or for what a program does not have; and what no one does.
LENIENT = {"masked_fill", "masked_scatter", "as_strided_scatter", "nn.functional.conv1d", "nn.functional.conv2d", "nn.functional.conv3d"}
LENIENT |= {"nn.functional.gelu", "bucketize", "amax", "amin", "kthvalue"}


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(4))
def test_what_torch_refuses_is_refused_when_it_is_traced(part):
    """OpInfo's inputs that are errors: traced for XLA they are errors too, for an executable has no way to complain."""
    pytest.importorskip("jax")
    from funrl.compiler import _xla
    from tests.compiler.opinfo import op_db

    silent, count = [], 0
    for info in op_db[part::4]:
        if info.error_inputs_func is None or info.name in LENIENT:
            continue
        try:
            inputs = list(info.error_inputs("cpu"))
        except RuntimeError:  # without a build of it
            continue
        for wrong_input in inputs:
            sample = wrong_input.sample_input
            leaves, form = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
            if any(
                isinstance(x, torch.Tensor) and (x.dtype.is_complex or x.layout != torch.strided or x.device.type != "cpu") for x in leaves
            ):
                continue

            def run(leaves, form=form, info=info):
                x, args, kwargs = pytree.tree_unflatten(leaves, form)
                return info.op(x, *args, **kwargs)

            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    run(leaves)
                continue
            except Exception as error:
                expected = error
            if "out of bounds" in str(expected):
                continue  # a value
            count += 1
            trace = _trace.Trace(torch.device("cpu"), _xla.lowers, "xla")
            given = [trace.argument(x.shape, x.dtype) if isinstance(x, torch.Tensor) else x for x in leaves]
            try:
                with trace.active(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    run(given)
            except Exception:
                continue
            silent.append(f"{info.name}: {str(expected).splitlines()[0]}")
    assert not silent and count > 100, "\n".join(silent)


def test_every_lowering_has_a_meta_kernel():
    """An operator that goes into a graph as it is needs to say what shape its result has."""
    keys = ("Meta", "CompositeExplicitAutograd", "CompositeImplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    without = []
    for func in _lowerings.TABLE:
        try:
            known = any(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key) for key in keys)
        except RuntimeError:
            continue  # an operator of numbers
        if not known and _meta.known(func) is None and func is not torch.ops.aten.bincount.default:  # refused: its shape depends on values
            without.append(func.name())
    assert not without
