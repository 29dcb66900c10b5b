"""What a compiled program costs on a GPU: its kernels are recorded once, and from then on launched as one CUDA graph."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from funrl import tree

__all__ = ["replayed"]

# Each holds memory of its own. A program that is called with donated tensors at ever other places is not worth recording.
_MOST_RECORDINGS = 8


def replayed(program: Callable[..., Any], *, donated: Sequence[int] = (), in_place: int = 0) -> Callable[..., Any]:
    """Return ``program``, which a GPU runs from a recording once it has run for shapes and dtypes like these.

    A loop of a hundred steps launches thousands of small kernels, and launching them one by one takes longer than they do. Recorded,
    they are one launch. The recording reads and writes fixed memory, so that what is given is copied there and what it gives is copied
    out, save for large donated tensors, which are written where they are.

    Whatever cannot be recorded runs as it is: a CPU, leaves that are no tensors, and what CUDA refuses to capture.

    Args:
        program: a function of trees of tensors that does the same work at each call, and reads no value on the host.
        donated: positions of arguments that it writes in place.
        in_place: bytes from which on a donated tensor is written in place.

    Returns:
        A function with the signature of ``program``.

    Example:
        >>> double = replayed(lambda x: 2 * x)
        >>> double(torch.ones(2))
        tensor([2., 2.])
    """
    known: set[Any] = set()
    recordings: dict[Any, _Recording | None] = {}

    def run(*args: Any) -> Any:
        values, form = tree.flatten(args)
        if not _on_one_gpu(values):
            return program(*args)
        sizes = [len(tree.leaves(arg)) for arg in args]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        own = [k for i in donated for k in range(starts[i], starts[i] + sizes[i]) if values[k].nbytes >= in_place]
        kind = (form, *((x.shape, x.dtype, x.device) for x in values))
        if kind not in known:  # the first call compiles, or finds what its kernels need
            known.add(kind)
            return program(*args)
        key = (kind, *(values[k].data_ptr() for k in own))
        if key not in recordings:
            if len(recordings) == _MOST_RECORDINGS:
                return program(*args)
            try:
                recordings[key] = _Recording(program, values, form, own)
            except RuntimeError:  # not to be captured
                recordings[key] = None
        recording = recordings[key]
        return program(*args) if recording is None else recording(values)

    return run


def _on_one_gpu(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(x, torch.Tensor) and x.is_cuda and x.device == values[0].device for x in values)


class _Recording:
    """The kernels of one call, on memory of their own but for the inputs ``own``."""

    def __init__(self, program: Callable[..., Any], values: list[torch.Tensor], form: Any, own: list[int]) -> None:
        inputs = [x if k in own else x.clone() for k, x in enumerate(values)]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(values[0].device), torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            out = program(*tree.unflatten(form, inputs))
        outputs, self.form = tree.flatten(out)
        places = {inputs[k].data_ptr(): k for k in own}
        # Which input an output is, where it was written in place. Their memory is the caller's, and is not held here.
        self.passed = [places.get(x.data_ptr()) for x in outputs]
        self.copied = [k for k in range(len(inputs)) if k not in own]
        self.inputs = [inputs[k] for k in self.copied]
        self.outputs = [x for x, k in zip(outputs, self.passed, strict=True) if k is None]

    def __call__(self, values: list[torch.Tensor]) -> Any:
        _copy(self.inputs, [values[k] for k in self.copied])
        self.graph.replay()
        copies = [torch.empty_like(x) for x in self.outputs]
        _copy(copies, self.outputs)
        fresh = iter(copies)
        return tree.unflatten(self.form, [next(fresh) if k is None else values[k] for k in self.passed])


def _copy(places: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    if places:  # torch refuses empty lists
        torch._foreach_copy_(places, values)  # pyright: ignore[reportPrivateImportUsage]  (without stubs)
