"""CUDA graphs of compiled programs: the kernels are captured once, and later launched as one graph, which saves launch time."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from funrl.compiler import _torch_private as private

__all__ = ["replayed"]

# Each graph has its own memory. A program whose donated tensors are at new addresses in every call is not worth capturing.
_MOST_RECORDINGS = 8


def replayed(program: Callable[[list[torch.Tensor]], Sequence[torch.Tensor]], held: Sequence[int] = ()) -> Callable[..., Any]:
    """Return ``program``, which a GPU runs as a captured CUDA graph after its first run.

    A loop of a hundred steps launches thousands of small kernels, and their separate launches take longer than the kernels themselves. A
    graph is one launch. It reads and writes fixed memory, so that inputs are copied to that memory and outputs are copied from it, except
    for the tensors ``held``, which are read and written in place.

    A program that cannot be captured, on a CPU or because CUDA refuses, runs without a graph.

    Args:
        program: a function of a list of tensors, always of the same shapes and dtypes, that does the same work at each call, and does not
            read values on the host.
        held: positions of tensors with fixed addresses: those that it writes, and those that are the same at each call.

    Returns:
        A function like ``program``.

    Example:
        >>> double = replayed(lambda inputs: [2 * inputs[0]])
        >>> double([torch.ones(2)])
        [tensor([2., 2.])]
    """
    known = False
    recordings: dict[tuple[int, ...], _Recording | None] = {}

    def run(values: list[torch.Tensor]) -> Sequence[torch.Tensor]:
        nonlocal known
        if not _on_one_gpu(values):
            return program(list(values))
        if not known:  # the first call compiles, or finds what its kernels need
            known = True
            return program(list(values))
        key = tuple(values[k].data_ptr() for k in held)
        if key not in recordings:
            if len(recordings) == _MOST_RECORDINGS:
                return program(list(values))
            try:
                recordings[key] = _Recording(program, values, held)
            except RuntimeError:  # not to be captured
                recordings[key] = None
        recording = recordings[key]
        return program(list(values)) if recording is None else recording(values)

    return run


def _on_one_gpu(values: list[torch.Tensor]) -> bool:
    return bool(values) and all(x.is_cuda and x.device == values[0].device for x in values)


class _Recording:
    """The kernels of one call, with their own memory except for the inputs ``held``."""

    def __init__(self, program: Callable[..., Any], values: list[torch.Tensor], held: Sequence[int]) -> None:
        inputs = [x if k in held else x.clone() for k, x in enumerate(values)]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(values[0].device), torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            outputs = program(list(inputs))
        places = {inputs[k].data_ptr(): k for k in held}
        # Which input an output is, where it was written in place. Their memory is the caller's, and is not held here.
        self.passed = [places.get(x.data_ptr()) if x.numel() else None for x in outputs]
        self.copied = [k for k in range(len(inputs)) if k not in held]
        self.inputs = [inputs[k] for k in self.copied]
        self.outputs = [x for x, k in zip(outputs, self.passed, strict=True) if k is None]

    def __call__(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        _copy(self.inputs, [values[k] for k in self.copied])
        self.graph.replay()
        copies = [torch.empty_like(x) for x in self.outputs]
        _copy(copies, self.outputs)
        fresh = iter(copies)
        return [next(fresh) if k is None else values[k] for k in self.passed]


def _copy(places: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    if places:  # torch refuses empty lists
        private.copy_all(places, values)
