"""The seam: every private name of torch that funrl spells, what it is for, and what happens without it.

Nothing here runs when funrl is imported: :func:`needed` is called at the first trace, and each optional part by its user.

Versions seen: 2.13.0, 2.14.1.

Needed (without one of them the first trace raises an error that names it):

* ``torch.Tensor._make_wrapper_subclass``, ``torch._C._disabled_torch_function_impl``: tensors that record.
* ``torch.utils._python_dispatch.TorchDispatchMode``: receives each aten operator, below torch.func.
* ``torch._C._functorch``: wrappers and levels of vmap and grad: which tensors a loop's body captures, and the rules of the loop.
* ``torch._functorch.{vmap,eager_transforms,utils,pyfunctorch}``: the rules of the loop, and where wrappers are made.
* ``torch._ops.OpOverload.{_schema,_overloadname,_can_decompose}``: schema, name and kind of an operator.
* ``torch.autograd.grad_mode._force_original_view_tracking``: derivatives of writes to views, by the views' own operators.
* ``torch._functorch.eager_transforms.lazy_dynamo_disallow`` (optional): where linearize is refused by a clear error.
* ``torch.autograd.forward_ad``: forward-mode rules of the loop (public, but for ``_make_dual``'s level).
* ``torch._decomp.{core_aten_decompositions,get_decompositions}``: operators without a lowering of their own.
* ``torch._C._dynamo.guards.TensorGuards`` (optional): recognises the arguments of most calls in C++; without it in Python.

Needed by ``backend="inductor"`` alone (:func:`inductor`): ``torch._inductor.{compile_fx.compile_fx_inner,config,decomposition,
virtualized.V,custom_graph_pass}``, fake tensors (``torch._subclasses``), ``torch._guards.tracing``; and ``cpp_builder.
_get_optimization_cflags``, to which ``-fwrapv`` is added, so that integers overflow as in torch. Optional:
``compile_fx._recursive_joint_graph_passes`` (speed), ``ir.WhileLoop.codegen`` (a loop whose results are used up may not compile).
"""

import functools
import importlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode

functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]  (a part of C without stubs)
no_dispatch: Any = torch._C._DisableTorchDispatch  # pyright: ignore[reportAttributeAccessIssue]
no_function_modes: Any = torch._C.DisableTorchFunction
no_torch_function: Any = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAttributeAccessIssue]

_NAMES = {
    "torch._functorch.vmap": ("restore_vmap", "unwrap_batched", "wrap_batched", "_add_batch_dim"),
    "torch._functorch.eager_transforms": ("_autograd_grad", "_unwrap_for_grad", "_wrap_for_grad"),
    "torch.autograd.grad_mode": ("_force_original_view_tracking",),
    "torch._functorch.utils": ("enable_single_level_autograd_function",),
    "torch._functorch.pyfunctorch": ("retrieve_current_functorch_interpreter",),
    "torch._C._functorch": (
        *("TransformType", "_unwrap_for_grad", "_wrap_for_grad", "get_unwrapped", "is_batchedtensor"),
        *("is_functorch_wrapped_tensor", "maybe_get_level", "peek_interpreter_stack"),
    ),
    "torch.autograd.function": ("_SingleLevelFunction",),
}


@functools.cache
def needed() -> Any:
    """Return the private functions that tracing needs, as attributes.

    Raises:
        RuntimeError: that names the first one which this version of torch lacks.
    """
    found = _private(_NAMES, "tracing")
    with _NEEDED:
        _listen_to_wrapping()
    return SimpleNamespace(**found)


def _private(names: dict[str, tuple[str, ...]], user: str, remedy: str = "") -> dict[str, Any]:
    """Return private functions by name, for ``user`` in the message if this version of torch lacks one."""
    found: dict[str, Any] = {}
    for module_name, attributes in names.items():
        module = functorch if module_name == "torch._C._functorch" else importlib.import_module(module_name)
        for name in attributes:
            if not hasattr(module, name):
                raise RuntimeError(
                    f"funrl.compile: torch {torch.__version__} has no {module_name}.{name}, which {user} needs; funrl knows torch 2.13 and "
                    f"2.14: install one of them{remedy}"
                )
            found[name] = getattr(module, name)
    return found


def without_dynamo(mode: type) -> type:
    """Let a dispatch mode be called directly: torch wraps it in a function that imports Dynamo, which takes two seconds."""
    wrapped = mode.__dict__["__torch_dispatch__"]
    mode.__torch_dispatch__ = getattr(wrapped, "__wrapped__", wrapped)
    return mode


def wrapper_tensor(kind: type, meta: torch.Tensor, device: torch.device) -> Any:
    """Return a tensor of class ``kind`` without memory, of the shape, strides and dtype of ``meta``."""
    make: Any = torch.Tensor._make_wrapper_subclass
    return make(kind, meta.shape, strides=meta.stride(), storage_offset=meta.storage_offset(), dtype=meta.dtype, device=device)


def is_transformed(x: Any) -> bool:
    """Return whether a tensor is one that torch.func has wrapped."""
    return functorch.is_functorch_wrapped_tensor(x)


def is_differentiated(x: torch.Tensor) -> bool:
    """Return whether grad or jvp is among the transforms that have wrapped a tensor."""
    while functorch.is_functorch_wrapped_tensor(x):
        if not functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False


def level() -> int:
    """Return the number of active transforms of torch.func."""
    top = functorch.peek_interpreter_stack()
    return 0 if top is None else top.level()


def of_kinds(like: list[torch.Tensor]) -> Callable[..., bool]:
    """Return a function of as many tensors, true only if each is plain, contiguous, and of the same shape, dtype and device.

    It may be false even so: if a tensor requires a gradient, or a transform or another mode is at work that was not when it was made.
    """
    guards: Any = getattr(getattr(getattr(torch._C, "_dynamo", None), "guards", None), "TensorGuards", None)
    try:
        plain = [torch.empty((), dtype=x.dtype, device=x.device).expand(x.shape) for x in like]
        strides = [list(torch.empty(x.shape, device="meta").stride()) for x in like]
        return guards(*plain, dynamic_dims_sizes=[list(x.shape) for x in like], dynamic_dims_strides=strides).check
    except TypeError:  # this version of torch has none, or another one
        return lambda *tensors: False


def unwrapped(x: torch.Tensor, above: int = 0) -> torch.Tensor:
    """Return ``x`` without the wrappers of transforms above a level."""
    while functorch.is_functorch_wrapped_tensor(x):
        own = functorch.maybe_get_level(x)
        if own is not None and 0 <= own <= above:
            break
        x = functorch.get_unwrapped(x)
    return x


def replayed_views(replayed: bool = True) -> Any:
    """Return a context in which derivatives of a write to a view take the view again as it was taken.

    Otherwise they use as_strided, which has no offset for a row whose index is a tensor.
    """
    return needed()._force_original_view_tracking(replayed)


@functools.cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return torch's table of operators written in terms of simpler ones."""
    from torch._decomp import core_aten_decompositions, get_decompositions

    more = ("_batch_norm_no_update", "_batch_norm_with_update_functional", "_native_batch_norm_legit", "batch_norm_backward")
    more += ("_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training", "native_group_norm", "dist")
    # The `get` of the first table finds nothing.
    return {**core_aten_decompositions(), **get_decompositions([getattr(torch.ops.aten, name) for name in more])}


def enable_tangents() -> Any:
    """Return a context in which tangents of ``torch.func.jvp`` are computed, also within a function with a gradient of its own."""
    from torch.autograd import forward_ad

    return forward_ad._set_fwd_grad_enabled(True)


def single_level_function() -> Any:
    """Return torch's base class of functions with a gradient of their own at one level of torch.func."""
    from torch.autograd.function import _SingleLevelFunction

    return _SingleLevelFunction


def heard(x: torch.Tensor) -> torch.Tensor:
    """Return the replacement of a tensor by the functions of :func:`on_wrapping`."""
    for replace in reversed(getattr(_LISTENERS, "all", ())):
        x = replace(x)
    return x


# Functions of each tensor that torch.func is about to wrap in this thread; they return the tensor to wrap instead.
_LISTENERS = threading.local()


@contextmanager
def on_wrapping(replace: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Within the context, let vmap and grad wrap ``replace(x)`` where they would wrap ``x``."""
    before = getattr(_LISTENERS, "all", ())
    _LISTENERS.all = (*before, replace)
    try:
        yield
    finally:
        _LISTENERS.all = before


_NEEDED = threading.Lock()


@functools.cache
def _listen_to_wrapping() -> None:
    from torch._functorch import eager_transforms, vmap

    def listening(wrap: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(wrap)
        def replaced(x: torch.Tensor, *args: Any) -> Any:
            return wrap(heard(x), *args)

        return replaced

    original, engine = eager_transforms._autograd_grad, torch.autograd.Variable._execution_engine

    def gradients(
        outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: bool = False, create_graph: bool = True
    ) -> tuple[torch.Tensor, ...]:
        # torch's own function imports Dynamo (two seconds) to disable compiled autograd, which cannot be enabled before that import.
        if "torch._dynamo" in sys.modules:
            return original(outputs, inputs, grad_outputs, retain_graph, create_graph)
        given = [torch.ones_like(x) for x in outputs] if grad_outputs is None else grad_outputs
        pairs = [(x, dx) for x, dx in zip(outputs, given, strict=True) if x.requires_grad]
        if any(x.shape != dx.shape for x, dx in pairs):
            return original(outputs, inputs, grad_outputs, retain_graph, create_graph)  # which says so
        found: Any = [None] * len(inputs)
        if pairs:
            ends, slopes = zip(*pairs, strict=True)  # torch.autograd.grad imports sympy
            found = engine.run_backward(ends, slopes, retain_graph, create_graph, tuple(inputs), True, accumulate_grad=False)
        return tuple(torch.zeros_like(x) if dx is None else dx for dx, x in zip(found, inputs, strict=True))

    unwrap = eager_transforms._unwrap_for_grad  # pyright: ignore

    def unwrapping(x: torch.Tensor, level: int) -> torch.Tensor:
        # A view whose memory was written since learns how it came about when asked; replayed after its level's end it would be of nothing.
        if isinstance(x, torch.Tensor) and x.requires_grad:
            x.grad_fn  # pyright: ignore  # noqa: B018
        return unwrap(x, level)

    vmap_module: Any = vmap
    grad_module: Any = eager_transforms
    vmap_module._add_batch_dim = listening(vmap_module._add_batch_dim)
    grad_module._autograd_grad = functools.wraps(original)(gradients)
    grad_module._unwrap_for_grad = functools.wraps(unwrap)(unwrapping)
    grad_module._wrap_for_grad = listening(grad_module._wrap_for_grad)
    if hasattr(grad_module, "lazy_dynamo_disallow"):  # which linearize alone calls
        grad_module.lazy_dynamo_disallow = _refusing_to_linearize(grad_module.lazy_dynamo_disallow)


def _refusing_to_linearize(first_step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(first_step)
    def refusing(*args: Any, **kwargs: Any) -> Any:
        from funrl.compiler._errors import TraceError, line
        from funrl.compiler._trace import current

        if current() is not None:
            raise TraceError(
                f"{line()}torch.func.linearize makes a graph of its own, which cannot be traced; take tangents by torch.func.jvp: "
                "lambda t: torch.func.jvp(f, (x,), (t,))[1]"
            )
        return first_step(*args, **kwargs)

    return refusing


# Inductor -------------------------------------------------------------------------------------------------------------------

_INDUCTOR = {
    "torch._inductor.compile_fx": ("compile_fx_inner",),
    "torch._inductor.config": ("patch",),
    "torch._inductor.cpp_builder": ("_get_optimization_cflags",),
    "torch._inductor.custom_graph_pass": ("CustomGraphPass",),
    "torch._inductor.decomposition": ("select_decomp_table",),
    "torch._inductor.virtualized": ("V",),
    "torch._guards": ("TracingContext", "tracing"),
    "torch._subclasses": ("FakeTensor", "FakeTensorMode"),
    "torch.fx.experimental.symbolic_shapes": ("ShapeEnv",),
}


@functools.cache
def inductor() -> Any:
    """Return the private functions that the inductor backend needs, as attributes.

    Raises:
        RuntimeError: that names the first one which this version of torch lacks.
    """
    found = _private(_INDUCTOR, "backend='inductor'", ", or compile with backend='xla'")
    _let_integers_wrap(importlib.import_module("torch._inductor.cpp_builder"))
    _keep_results_of_loops(importlib.import_module("torch._inductor.ir"), found["V"])
    passes = getattr(importlib.import_module("torch._inductor.compile_fx"), "_recursive_joint_graph_passes", None)
    return SimpleNamespace(**found, joint_graph_passes=passes or (lambda module, **options: module))


def _let_integers_wrap(cpp_builder: Any) -> None:
    """Let integers wrap in generated C++ as they do in torch.

    Overflow of signed integers is undefined in C++, and g++ relies on that: without the flag, keys and random bits that
    are drawn in one kernel are not those that are drawn eagerly.
    """
    plain = cpp_builder._get_optimization_cflags

    @functools.wraps(plain)
    def flags(*args: Any, **kwargs: Any) -> Any:
        compiler, linker = plain(*args, **kwargs)
        return [*compiler, *([] if sys.platform == "win32" else ["fwrapv"])], linker

    cpp_builder._get_optimization_cflags = flags


def _keep_results_of_loops(ir: Any, V: Any) -> None:
    """Let no kernel write over the ys of a scan in place of its input.

    The loop writes to their memory, which has a second name after the loop. Inductor treats this name as memory to allocate, and its
    generated code declares the name twice.
    """
    loop = getattr(ir, "WhileLoop", None)
    plain = getattr(loop, "codegen", None)
    if plain is None:
        warnings.warn(
            f"torch {torch.__version__} has no torch._inductor.ir.WhileLoop.codegen: some compiled loops may be refused",
            stacklevel=2,
        )
        return

    @functools.wraps(plain)
    def codegen(self: Any, wrapper: Any) -> Any:
        V.graph.never_reuse_buffers.update(out.get_name() for out in getattr(self, "mutation_outputs", ()))
        return plain(self, wrapper)

    loop.codegen = codegen  # pyright: ignore


def schema(operator: Any) -> Any:
    """Return the signature of an operator."""
    return operator._schema


def overload(operator: Any) -> str:
    """Return the name of an operator among those of its packet."""
    return operator._overloadname


@functools.cache
def is_composite(operator: Any) -> bool:
    """Return whether torch itself always decomposes an operator into simpler ones."""
    return operator._can_decompose()


def fake_tensor(mode: Any, meta: torch.Tensor, device: torch.device) -> Any:
    """Return a fake tensor on a device, over the memory of a meta tensor."""
    return inductor().FakeTensor(mode, meta, device)


def memory(x: torch.Tensor) -> int:
    """Return an identifier of the memory of a meta or fake tensor."""
    return x.untyped_storage()._cdata


def copy_all(places: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    """Copy tensors into others, on a GPU by few kernels."""
    many: Any = torch._foreach_copy_  # pyright: ignore
    many(places, values)
