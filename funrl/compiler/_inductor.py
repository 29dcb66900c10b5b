"""Programs on inductor, torch's compiler, which compiles a recorded graph, as torch.fx modules, without Dynamo and AOTAutograd."""

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch

from funrl.compiler import _torch_private as private
from funrl.compiler._cuda_graph import replayed
from funrl.compiler._donation import LARGE
from funrl.compiler._graph import Graph, Loop, Plan
from funrl.compiler._inductor_graph import constants, module, written
from funrl.compiler._inductor_mends import MENDS
from funrl.compiler._inductor_passes import options


def lowers(operator: Any) -> bool:
    """Return True if an aten operator is in the graph without decomposition."""
    return operator not in decompositions() and not private.is_composite(operator)


@functools.cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return the decompositions: inductor's own, and ours of operators that inductor computes differently from torch."""
    table = dict(private.inductor().select_decomp_table())
    for operator, mend in MENDS.items():
        plain = table.get(operator)
        table[operator] = mend if plain is None else _either(mend, plain)
    return table


def _either(first: Callable[..., Any], second: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        out = first(*args, **kwargs)
        return second(*args, **kwargs) if out is NotImplemented else out

    return run


class Executable:
    """A recorded graph, compiled for a device."""

    def __init__(self, plan: Plan) -> None:
        graph, device, groups, captured, _, donated, _, threads, name, note = plan
        self.threads, self.captured, self.device = threads, captured, device
        num_leaves, num_outputs = len(groups), len(graph.outputs)
        in_place = written(graph, {i for i in donated if graph.inputs[i].meta.nbytes >= LARGE})
        self.in_place = list(in_place.items())
        self.computed = [k for k in range(num_outputs) if k not in in_place]
        self.num_outputs = num_outputs
        self.constants = [x.to(device) for x in constants(graph)]
        note("lowering")
        with _LOCK:
            compiled = _compiled(graph, in_place, device, threads, name, note)
        # Tensors that are the same at each call, which a captured graph may read in place.
        stay = [x.device == device and x.is_contiguous() for x in (*captured, *self.constants)]
        held = [*in_place.values(), *(num_leaves + i for i, x in enumerate(stay) if x)]
        self.metas: list[torch.Tensor] | None = [graph.outputs[k].meta for k in self.computed]
        self.name = name
        self.compiled = replayed(compiled, held) if device.type == "cuda" else compiled

    def __call__(self, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        leaves = [x if x.is_contiguous() else x.contiguous() for x in leaves]  # one layout gives one program
        inputs = [*leaves, *(self._present(x) for x in self.captured), *self.constants]
        outside = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.no_grad():
                results = self.compiled(inputs)
        finally:
            torch.set_num_threads(outside)
        if self.metas is not None:
            self._check(results)
        if not self.in_place:
            return list(results)
        outputs: list[Any] = [None] * self.num_outputs
        taken = {leaves[i].untyped_storage().data_ptr() for _, i in self.in_place}
        for k, x in zip(self.computed, results, strict=True):
            # Results that share memory with a tensor that is written in place are returned as copies.
            outputs[k] = x.clone() if x.untyped_storage().data_ptr() in taken else x
        for k, i in self.in_place:
            outputs[k] = leaves[i].detach()
        return outputs

    def _check(self, results: Any) -> None:
        """Check once that the results have the traced dtypes and shapes: an operator of inductor may differ from torch's."""
        for x, meta in zip(results, self.metas or (), strict=True):
            if x.dtype != meta.dtype or x.shape != meta.shape:
                raise RuntimeError(
                    f"{self.name}: torch's inductor gives a {x.dtype} {list(x.shape)} where torch gives a {meta.dtype} {list(meta.shape)}; "
                    "compile this function with backend='xla'"
                )
        self.metas = None

    def _present(self, x: torch.Tensor) -> torch.Tensor:
        x = x.detach()
        if type(x) is not torch.Tensor:
            x = x.as_subclass(torch.Tensor)
        return x.to(self.device).contiguous()


# Inductor and its options are global in the process.
_LOCK = threading.RLock()


def _compiled(
    graph: Graph, in_place: dict[int, int], device: torch.device, threads: int, name: str, note: Callable[[str], Any]
) -> Callable[[list[torch.Tensor]], Any]:
    needed = private.inductor()
    fakes = needed.FakeTensorMode(shape_env=needed.ShapeEnv(), allow_non_fake_inputs=True)
    wrapper = any(isinstance(node.op, Loop) for node in graph.live())
    made, inputs = module(graph, constants(graph), in_place, fakes, device)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(needed.patch(options(threads, wrapper)))
            stack.enter_context(needed.V.set_fake_mode(fakes))
            stack.enter_context(needed.tracing(needed.TracingContext(fakes)))
            stack.enter_context(torch.no_grad())
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # torch's own warnings about its deprecated functions
            made = needed.joint_graph_passes(made, input_device=device)
            note("compiling")
            return needed.compile_fx_inner(made, inputs, cpp_wrapper=wrapper, is_inference=True)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RuntimeError(f"{name}: torch's inductor cannot compile this program ({reason}); compile it with backend='xla'") from error
