"""What we change in the code that inductor generates: graphs are rewritten before, and parts of its code generator replaced."""

import ctypes
import functools
import itertools
import math
import os
import platform
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["inductor_options"]


class _Rewrite:
    """What we change in a program before inductor generates code."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        _copy_results_of_loops(graph)
        _read_before_write(graph)
        _mend_expm1(graph)
        _quicken_tanh(graph)
        _part_addmm(graph)
        _fuse_small_products(graph)
        _turn_thin_products(graph)
        _write_out_argmax(graph)
        _turn_stacks(graph)
        _store_costly(graph)

    def uuid(self) -> str:
        return "funrl-rewrite-19"


def _copy_results_of_loops(graph: torch.fx.Graph) -> None:
    """Let the body of a scan return none of its inputs.

    Inductor drops a ``clone`` that ends the body, does not know that the loop's result is then the memory of its first carry,
    and gives that memory to later kernels.
    """
    aten = torch.ops.aten
    passing = (aten.reshape.default, aten.clone.default)
    for node in graph.find_nodes(op="call_function", target=torch.ops.higher_order.scan):
        body = getattr(graph.owning_module, node.args[0].target)
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


def _read_before_write(graph: torch.fx.Graph) -> None:
    """Read a donated input before it is overwritten.

    Inductor drops ``clone`` of an input although that input is written later in the program, so that
    ``{"a": new, "b": a.clone()}`` would give the new ``a`` twice.
    """
    writes = graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default)
    written = [node.args[0] for node in writes]
    start = next(node for node in graph.nodes if node.op != "placeholder")
    for node in writes:
        source = node.args[1]
        if source in written and source is not node.args[0]:
            with graph.inserting_before(start):
                saved = graph.call_function(torch.ops.aten.clone.default, (source,))
            saved.meta["val"] = source.meta["val"]
            node.replace_input_with(source, saved)


def _mend_expm1(graph: torch.fx.Graph) -> None:
    """Compute expm1(x) on a CPU as tanh(x / 2) (exp(x) + 1): vectorised, inductor's is exp(x) - 1, which has no digits at 0."""
    aten = torch.ops.aten
    for node in graph.find_nodes(op="call_function", target=aten.expm1.default):
        x, like = node.args[0], node.meta["val"]
        if like.device.type != "cpu" or like.dtype not in (torch.float32, torch.float64):
            continue
        with graph.inserting_before(node):
            half = _call(graph, aten.tanh.default, _call(graph, aten.mul.Tensor, x, 0.5))
            product = _call(graph, aten.mul.Tensor, half, _call(graph, aten.add.Tensor, _call(graph, aten.exp.default, x), 1.0))
        node.replace_all_uses_with(product)
        graph.erase_node(node)


# tanh(x) = x P(x^2) / Q(x^2) for |x| <= 9, fitted to the relative error, which in float32 is at most 3.5e-7.
_TANH_P = (0.9999999794625823, 0.13381032827384542, 0.0034955964544333344, 2.0609210605627585e-05, 1.3354822447237857e-08)
_TANH_Q = (1.0, 0.4671434842856404, 0.025877014426752158, 0.0003285648062473987, 7.776627748039572e-07)


def _quicken_tanh(graph: torch.fx.Graph) -> None:
    """Compute float32 tanh on a CPU by a quotient of polynomials: the vector library's is a quarter of a PPO update."""
    aten = torch.ops.aten
    for node in graph.find_nodes(op="call_function", target=aten.tanh.default):
        like = node.meta["val"]
        if like.dtype != torch.float32 or like.device.type != "cpu":
            continue
        with graph.inserting_before(node):

            def call(op: Any, *args: Any, like: torch.Tensor = like) -> torch.fx.Node:
                made = graph.call_function(op, args)
                made.meta["val"] = like
                return made

            def polynomial(z: torch.fx.Node, coefficients: tuple[float, ...], call: Callable = call) -> torch.fx.Node:
                total: Any = coefficients[-1]
                for c in coefficients[-2::-1]:
                    total = call(aten.add.Tensor, call(aten.mul.Tensor, z, total), c)
                return total

            x = call(aten.clamp_max.default, call(aten.clamp_min.default, node.args[0], -9.0), 9.0)
            z = call(aten.mul.Tensor, x, x)
            y = call(aten.div.Tensor, call(aten.mul.Tensor, x, polynomial(z, _TANH_P)), polynomial(z, _TANH_Q))
            y = call(aten.clamp_max.default, call(aten.clamp_min.default, y, -1.0), 1.0)
        node.replace_all_uses_with(y)
        graph.erase_node(node)


def _part_addmm(graph: torch.fx.Graph) -> None:
    """Add the bias of a layer in the kernel of its activation: on a CPU addmm copies it in a pass of its own."""
    aten = torch.ops.aten
    for node in graph.find_nodes(op="call_function", target=aten.addmm.default):
        bias, a, b = node.args
        if node.kwargs or node.meta["val"].device.type != "cpu":
            continue
        with graph.inserting_before(node):
            product = graph.call_function(aten.mm.default, (a, b))
            total = graph.call_function(aten.add.Tensor, (product, bias))
        product.meta["val"] = total.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(total)
        graph.erase_node(node)


# Up to so many products, a matrix product costs less in the kernels beside it than in a call of the library.
_FEW_PRODUCTS = 1 << 15


def _fuse_small_products(graph: torch.fx.Graph) -> None:
    """Write small matrix products as sums of products, on a CPU: they are most of what a rollout of few environments costs."""
    aten = torch.ops.aten
    for node in graph.find_nodes(op="call_function", target=aten.mm.default):
        a, b = node.args
        like = node.meta["val"]
        (m, k), n = a.meta["val"].shape, like.shape[1]
        if like.device.type != "cpu" or like.dtype not in (torch.float32, torch.float64) or not 0 < m * k * n <= _FEW_PRODUCTS:
            continue
        with graph.inserting_before(node):
            # What the factors are made by is not to be repeated for each product.
            a, b = (x if x.op == "placeholder" else _call(graph, torch.ops._inductor_test.realize.default, x) for x in (a, b))
            if 1 < n < 16 <= m:  # rows, and turned: columns keep what reads them from being vectorised
                a, b = _call(graph, aten.unsqueeze.default, a, 0), _call(graph, aten.permute.default, b, [1, 0])
                products = _call(graph, aten.mul.Tensor, a, _call(graph, aten.unsqueeze.default, b, 1))
                total = _call(graph, aten.permute.default, _call(graph, aten.sum.dim_IntList, products, [2]), [1, 0])
            else:
                a, b = _call(graph, aten.unsqueeze.default, a, 2), _call(graph, aten.unsqueeze.default, b, 0)
                total = _call(graph, aten.sum.dim_IntList, _call(graph, aten.mul.Tensor, a, b), [1])
        node.replace_all_uses_with(total)
        graph.erase_node(node)


# Up to so many columns, the turned product is the faster one.
_FEW_COLUMNS = 8


def _turn_thin_products(graph: torch.fx.Graph) -> None:
    """Compute a product of few columns as (bᵀ aᵀ)ᵀ, on a CPU: MKL's kernels fill their registers with columns.

    If aᵀ is strided, bᵀ must not be: of two such, MKL takes ten times as long.
    """
    aten = torch.ops.aten
    for target in (aten.mm.default, aten.bmm.default):
        for node in graph.find_nodes(op="call_function", target=target):
            a, b = node.args
            like = node.meta["val"]
            (m, k), n = a.meta["val"].shape[-2:], like.shape[-1]
            least = 2 if target is aten.mm.default else 1  # a matrix times a vector has a kernel of its own
            if like.device.type != "cpu" or not least <= n <= _FEW_COLUMNS or m < 64 or node.kwargs:
                continue
            with graph.inserting_before(node):
                order = [*range(like.ndim - 2), like.ndim - 1, like.ndim - 2]
                columns, rows = (_call(graph, aten.permute.default, x, order) for x in (a, b))
                row_stride, stride = rows.meta["val"].stride()[-2:]
                # BLAS takes rows for strided if they are nearer to each other than they are long.
                if columns.meta["val"].stride(-1) != 1 and (stride != 1 or row_stride < k):
                    rows = _call(graph, aten.clone.default, rows, memory_format=torch.contiguous_format)
                turned = _call(graph, target, rows, columns)
                product = _call(graph, aten.permute.default, turned, order)
            node.replace_all_uses_with(product)
            graph.erase_node(node)


# Up to so many entries, comparing them one after another costs less than a loop over them.
_FEW_ENTRIES = 8


def _write_out_argmax(graph: torch.fx.Graph) -> None:
    """Write an argmax over a few entries as comparisons, on a CPU: the loop is not vectorised, and neither is what makes the entries."""
    aten = torch.ops.aten
    for node in graph.find_nodes(op="call_function", target=aten.argmax.default):
        arguments: Any = (*node.args, None)
        x, dim, *keep = arguments[: max(2, len(node.args))]
        like = x.meta["val"]
        if like.device.type != "cpu" or dim is None or any(keep) or node.kwargs or not 1 < like.shape[dim] <= _FEW_ENTRIES:
            continue
        with graph.inserting_before(node):
            greatest, place = _call(graph, aten.select.int, x, dim, 0), None
            for i in range(1, like.shape[dim]):
                entry = _call(graph, aten.select.int, x, dim, i)
                # The first NaN counts as the greatest.
                beats = _call(graph, aten.logical_not.default, _call(graph, aten.le.Tensor, entry, greatest))
                beats = _call(graph, aten.logical_and.default, beats, _call(graph, aten.eq.Tensor, greatest, greatest))
                number = _call(graph, aten.mul.Tensor, _call(graph, torch.ops.prims.convert_element_type.default, beats, torch.int64), i)
                place = number if place is None else _call(graph, aten.maximum.default, place, number)
                greatest = _call(graph, aten.where.self, beats, entry, greatest)
        node.replace_all_uses_with(place)
        graph.erase_node(node)


def _turn_stacks(graph: torch.fx.Graph) -> None:
    """Stack numbers of a batch as rows and turn these, on a CPU: written as columns, they keep what makes them from being vectorised.

    Only floating-point ones: planes of bools are faster as they are.
    """
    aten = torch.ops.aten
    for node in graph.find_nodes(op="call_function", target=aten.cat.default):
        arguments: Any = (*node.args, 0)
        parts, dim = arguments[:2]
        like = node.meta["val"]
        if like.device.type != "cpu" or not like.is_floating_point() or like.ndim < 2 or dim not in (-1, like.ndim - 1):
            continue
        if like.numel() < 16 * len(parts) or any(x.meta["val"].ndim != like.ndim or x.meta["val"].shape[-1] != 1 for x in parts):
            continue
        first, last = [like.ndim - 1, *range(like.ndim - 1)], [*range(1, like.ndim), 0]
        with graph.inserting_before(node):
            rows = _call(graph, aten.cat.default, [_call(graph, aten.permute.default, x, first) for x in parts])
            rows = _call(graph, torch.ops._inductor_test.realize.default, rows)
            turned = _call(graph, aten.permute.default, rows, last)
            columns = _call(graph, aten.clone.default, turned, memory_format=torch.contiguous_format)
        node.replace_all_uses_with(columns)
        graph.erase_node(node)


# What takes many cycles for an entry; float32 tanh is cheap by now.
_COSTLY = {
    *("atan2", "cos", "erf", "exp", "exp2", "fmod", "log", "log10", "log1p", "log2", "pow", "remainder"),
    *("rsqrt", "sigmoid", "sin", "sqrt", "tanh"),
}
# Stored if what reads it has at least so many times as many entries.
_SPREAD = 16


def _store_costly(graph: torch.fx.Graph) -> None:
    """Store costly numbers that are spread over many entries, on a CPU: inductor computes them anew in the loop over these.

    Such are Adam's bias corrections, two for each agent, which were computed for each 16 of its parameters.
    """
    costly: set[torch.fx.Node] = set()
    for node in list(graph.nodes):
        like = node.meta.get("val")
        if node.op != "call_function" or not isinstance(like, torch.Tensor) or like.device.type != "cpu":
            continue
        tags, view = getattr(node.target, "tags", ()), getattr(node.target, "is_view", False)
        if torch.Tag.pointwise not in tags and not view and node.target is not torch.ops.prims.convert_element_type.default:
            continue
        slow = node.target.overloadpacket.__name__ in _COSTLY or node.target is torch.ops.aten.div.Tensor_mode
        if not slow and not any(x in costly for x in node.all_input_nodes):
            continue
        costly.add(node)  # and what is made of it, even of what is stored: to store that too costs nothing that could be measured
        wider = [x for x in node.users if isinstance(x.meta.get("val"), torch.Tensor) and x.meta["val"].numel() >= _SPREAD * like.numel()]
        if wider:
            with graph.inserting_after(node):
                stored = _call(graph, torch.ops._inductor_test.realize.default, node)
            for user in wider:
                user.replace_input_with(node, stored)


def _call(graph: torch.fx.Graph, op: Any, *args: Any, **options: Any) -> torch.fx.Node:
    """Insert a call, and say what it gives."""
    made = graph.call_function(op, args, options)
    made.meta["val"] = op(*torch.fx.map_arg(args, lambda x: x.meta["val"]), **options)
    return made


@functools.cache
def _quicken_masks() -> None:
    """Load and store bools in generated C++ as vectors of bytes.

    Torch's own way takes them one by one: ten times as long as the rest to load, and a hundred times to store.
    """
    from torch._inductor.codegen import cpp, cpp_utils  # takes most of a second, and only compiling needs it

    load_line, store_line = cpp.CppVecKernel._get_vec_load_line, cpp.CppVecKernel._get_store_line

    def quick_load(self: Any, var: str, index: Any, dtype: torch.dtype, load_mask: Any = None) -> str:
        if dtype != torch.bool or load_mask is not None:
            return load_line(self, var, index, dtype, load_mask)
        floats, mask = self._get_vec_type(torch.float), self._get_mask_type(torch.float)
        place = f"reinterpret_cast<const unsigned char*>({var}) + {cpp_utils.cexpr_index(index)}"
        loaded = f"{self._get_vec_type(torch.uint8)}::loadu({place}, {cpp_utils.cexpr_index(self.num_elems)})"
        return f"{mask}(at::vec::convert<float,{self._get_num_vectors(torch.float)},unsigned char,1>({loaded}) != {floats}(0.0f))"

    def quick_store(self: Any, value: Any, var: str, index: Any, dtype: torch.dtype, accu_store: bool = False) -> Any:
        if dtype == torch.bool:
            number = self._get_num_vectors(torch.int32)
            ints = self._get_vec_type(torch.int32)
            bits = f"{ints}({value}.template cast<int32_t,{number}>()) & {ints}(1)"
            value = f"at::vec::convert<unsigned char,1,int32_t,{number}>({bits})"
        return store_line(self, value, var, index, dtype, accu_store)

    cpp.CppVecKernel._get_vec_load_line = quick_load
    cpp.CppVecKernel._get_store_line = quick_store


@functools.cache
def _keep_results_of_loops() -> None:
    """Let no kernel write over the ys of a scan in place of its input.

    They are the memory that the loop writes to, and have a second name after it. Inductor takes that for something to allocate before
    it is given away, and what it generates declares the name twice.
    """
    from torch._inductor import ir
    from torch._inductor.virtualized import V

    codegen = ir.WhileLoop.codegen

    def keep(self: Any, wrapper: Any) -> None:
        V.graph.never_reuse_buffers.update(out.get_name() for out in self.mutation_outputs)
        codegen(self, wrapper)

    ir.WhileLoop.codegen = keep


# In the code of a loop. ``enter`` begins a step with what the last one left to it; ``take`` does what aoti_torch_empty_strided does.
_LOOP_MEMORY = """
#include <algorithm>
#include <array>
#include <initializer_list>
#include <vector>

class LoopMemory {
  struct Kept { RAIIAtenTensorHandle tensor; char* begin = nullptr; char* end = nullptr; };
  std::vector<std::array<Kept, 2>> sites_;
  std::vector<char*> left_;

 public:
  void enter(std::initializer_list<AtenTensorHandle> carried) {
    left_.clear();
    for (AtenTensorHandle tensor : carried) {
      void* data;
      AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(tensor, &data));
      left_.push_back(static_cast<char*>(data));
    }
  }

  AOTITorchError take(size_t site, int64_t ndim, const int64_t* sizes, const int64_t* strides, int32_t dtype, int32_t device_type,
                      int32_t device_index, AtenTensorHandle* out) {
    if (site >= sites_.size()) sites_.resize(site + 1);
    for (Kept& kept : sites_[site]) {
      if (!kept.begin) {
        AtenTensorHandle fresh;
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(ndim, sizes, strides, dtype, device_type, device_index, &fresh));
        kept.tensor = RAIIAtenTensorHandle(fresh);
        void* data;
        int64_t size;
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(fresh, &data));
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(fresh, &size));
        kept.begin = static_cast<char*>(data);
        kept.end = kept.begin + size;
        return aoti_torch_new_tensor_handle(kept.tensor, out);
      }
      if (std::none_of(left_.begin(), left_.end(), [&](char* data) { return kept.begin <= data && data < kept.end; })) {
        return aoti_torch_new_tensor_handle(kept.tensor, out);
      }
    }
    return aoti_torch_empty_strided(ndim, sizes, strides, dtype, device_type, device_index, out);
  }

  void clear() { sites_.clear(); }
};
"""
# In bytes: what is larger costs far more to fill than to allocate, and is better shared between several uses.
_MOST_KEPT = 64 << 10


@functools.cache
def _keep_memory_of_loops() -> None:
    """Let the steps of a loop on a CPU take turns at memory, where each would allocate its own: a quarter of the time of small ones.

    Each place of the body where a tensor is made keeps up to two, and takes one in which nothing lies that the last step left. Nor are
    the inputs of a loop's condition handed to it that it does not read.
    """
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu

    generate_loop, generate_graph = CppWrapperCpu.codegen_while_loop, CppWrapperCpu.codegen_subgraph
    generate_inputs, allocate = CppWrapperCpu.codegen_subgraph_prefix, CppWrapperCpu.make_allocation
    bodies: weakref.WeakKeyDictionary[Any, tuple[str, Any]] = weakref.WeakKeyDictionary()  # the name of its memory, and a count of places
    conditions: weakref.WeakSet[Any] = weakref.WeakSet()

    def loop(self: Any, while_loop: Any, *args: Any) -> None:
        if self.device != "cpu":
            generate_loop(self, while_loop, *args)
            return
        memory = f"{while_loop.get_name()}_memory"
        bodies[while_loop.body_subgraph.graph] = memory, itertools.count()
        conditions.add(while_loop.cond_subgraph.graph)
        if "class LoopMemory" not in self.header.getvalue():
            self.header.splice(_LOOP_MEMORY)
        self.writeline(f"LoopMemory {memory};")
        generate_loop(self, while_loop, *args)
        self.writeline(f"{memory}.clear();")

    def graph(self: Any, subgraph: Any, inputs: list[str], outputs: list[str]) -> None:
        if subgraph.graph in bodies:
            self.writeline(f"{bodies[subgraph.graph][0]}.enter({{{', '.join(outputs)}}});")
        generate_graph(self, subgraph, inputs, outputs)

    def inputs(self: Any, subgraph: Any, outer: list[str], outputs: list[str]) -> None:
        inner, places = subgraph.graph.graph_inputs, subgraph.graph.graph.find_nodes(op="placeholder")
        if subgraph.graph in conditions and len(inner) == len(places):
            read = [(item, name) for item, name, place in zip(inner.items(), outer, places, strict=True) if place.users]
            subgraph = types.SimpleNamespace(graph=types.SimpleNamespace(graph_inputs=dict(item for item, _ in read)))
            outer = [name for _, name in read]
        generate_inputs(self, subgraph, outer, outputs)

    def allocation(self: Any, name: str, device: Any, dtype: Any, shape: Any, *args: Any, **kwargs: Any) -> str:
        declared = allocate(self, name, device, dtype, shape, *args, **kwargs)
        memory, places = bodies.get(self.get_codegened_graph(), ("", itertools.count()))
        if memory and self.is_statically_known_list_of_ints(shape):
            lines, plain = self.wrapper_call._lines, "aoti_torch_empty_strided("
            if math.prod(map(int, shape)) * dtype.itemsize <= _MOST_KEPT and plain in lines[-1]:
                lines[-1] = lines[-1].replace(plain, f"{memory}.take({next(places)}, ")
        return declared

    replaced = dict(codegen_while_loop=loop, codegen_subgraph=graph, codegen_subgraph_prefix=inputs, make_allocation=allocation)
    for name, ours in replaced.items():
        setattr(CppWrapperCpu, name, ours)


@functools.cache
def _keep_freed_memory() -> None:
    """Let the process keep up to 256 MiB at the end of its heap for a program's next call: glibc gives it back to the system at once.

    The system then hands out the pages anew, one fault each: up to a third of a training step. Whoever set such an option keeps it.
    """
    named = any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"))
    if platform.libc_ver()[0] != "glibc" or named or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    set_option, trim_threshold, mmap_threshold = ctypes.CDLL(None).mallopt, -1, -3
    set_option(trim_threshold, 256 << 20)
    set_option(mmap_threshold, 32 << 20)  # the most that glibc takes: what is larger is not of the heap, and always given back


def inductor_options(threads: int, scan_rule: str) -> dict[str, Any]:
    """Return inductor's options for a program of :func:`funrl.compile`.

    Args:
        threads: how many threads of a CPU it takes, at least 1.
        scan_rule: what names our rules of scan in caches on disk.

    Example:
        >>> inductor_options(2, "rule")["cpp.threads"]
        2
    """
    from torch._inductor import test_operators  # noqa: F401 (defines the operator "realize")
    from torch._inductor.custom_graph_pass import CustomGraphPass

    CustomGraphPass.register(_Rewrite)
    _quicken_masks()
    _keep_results_of_loops()
    _keep_freed_memory()
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version >= (2, 13):
        _keep_memory_of_loops()
    return {
        # Without this, programs that hold a scan are not found again by a second process.
        "unsafe_marked_cacheable_functions": {f"torch.ops.higher_order.{name}": scan_rule for name in ("scan", "while_loop")},
        # Takes Python out of the loop; breaks on scan before torch 2.13.
        "cpp_wrapper": version >= (2, 13),
        "post_grad_custom_post_pass": _Rewrite(),
        "cpp.threads": threads,
        # Shorter loops than this gain nothing from a second thread.
        "cpp.min_chunk_size": 16384,
    }
