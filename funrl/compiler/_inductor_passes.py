"""Inductor's options for our programs, and a pass over its graphs that correctness needs."""

import functools
from typing import Any

import torch

from funrl.compiler import _torch_private as private

# The key of programs on disk: change it when the result of the code here changes.
_VERSION = "funrl-inductor-1"


@functools.cache
def _pass() -> Any:
    base = private.inductor().CustomGraphPass

    class CopyResultsOfLoops(base):
        def __call__(self, graph: torch.fx.Graph) -> None:
            _copy_results_of_loops(graph)

        def uuid(self) -> str:
            return _VERSION

    return CopyResultsOfLoops()


def _copy_results_of_loops(graph: torch.fx.Graph) -> None:
    """Let the body of a scan return none of its inputs.

    Otherwise inductor removes a ``clone`` at the end of the body, although the loop's result then is the memory of its first carry, and
    uses that memory for later kernels.
    """
    aten = torch.ops.aten
    passing = (aten.reshape.default, aten.clone.default)
    for node in graph.find_nodes(op="call_function", target=torch.ops.higher_order.scan):
        first: Any = node.args[0]
        body: Any = getattr(graph.owning_module, first.target)
        end = body.graph.output_node()
        results = list(end.args[0])
        for i, x in enumerate(results):
            source = x
            while source.op == "call_function" and (getattr(source.target, "is_view", False) or source.target in passing):
                source = source.args[0]
            if source.op == "placeholder" or x in results[:i]:
                with body.graph.inserting_before(end):
                    results[i] = body.graph.call_function(aten.clone.default, (x,))
                results[i].meta["val"] = x.meta["val"]
        end.args = (tuple(results),)
        body.recompile()


def options(threads: int, wrapper: bool) -> dict[str, Any]:
    """Return inductor's options for a program.

    Args:
        threads: the number of CPU threads that it uses.
        wrapper: True if C++ calls its kernels, which takes Python out of loops, but costs some seconds of g++.
    """
    return {
        # Without this, a second process does not find programs with a scan.
        "unsafe_marked_cacheable_functions": {f"torch.ops.higher_order.{name}": _VERSION for name in ("scan", "while_loop")},
        "cpp_wrapper": wrapper,
        "post_grad_custom_post_pass": _pass(),
        "emulate_precision_casts": True,  # x.half().float() rounds, as it does eagerly
        "cpp.threads": threads,
        "cpp.min_chunk_size": 16384,  # shorter loops than this gain nothing from a second thread
    }
