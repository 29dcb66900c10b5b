"""Calls of Python from programs of XLA, by a pointer to a function: some microseconds each, while a callback of jax takes 0.2 ms.

XLA calls :func:`_handle` with a frame, as the header ``xla/ffi/api/c_api.h`` of jaxlib declares it. Its first buffer has the number of the
call. The second has the number of the run, which each call passes on to the next, so that their order is that of the program.
"""

import ctypes
import functools
import itertools
import weakref
from ctypes import POINTER, c_int, c_int64, c_size_t, c_uint32, c_void_p
from typing import Any

import numpy as np
import torch

from funrl.compiler._effects import Effect, ElementwiseCall
from funrl.compiler._jax import load

_NAME = "funrl_call"


class _Call:
    """A call of ``f`` in a program, with tensors of these shapes and dtypes. ``f`` keeps it, and so the program that has ``f`` does."""

    def __init__(self, f: Effect, metas: list[torch.Tensor]) -> None:
        self.f, self.metas = f, metas
        self.tensors: dict[tuple[int, int], torch.Tensor] = {}  # over the memory of buffers, by its address and the place among metas
        self.number = next(_NUMBERS)
        f.calls.append(self)
        _CALLS[self.number] = self

    def __call__(self, arguments: Any, results: Any, run: "Run") -> None:
        tensors = [self.tensor(arguments[2 + i].contents.data, i) for i in range(len(self.metas))]
        if not isinstance(self.f, ElementwiseCall):
            self.f(*(x.clone() for x in tensors))  # f may keep them
            return
        x, value = tensors[0], None
        try:
            value = None if run.raised else self.f.checked(x)
        finally:
            self.tensor(results[1].contents.data, 0).copy_(torch.zeros_like(x) if value is None else value)

    def tensor(self, address: int, place: int) -> torch.Tensor:
        """Return a tensor over the memory of a buffer, which XLA uses for other things after the call."""
        found = self.tensors.get((address, place))
        if found is None:
            meta = self.metas[place]
            if meta.numel() == 0:
                return torch.empty(meta.shape, dtype=meta.dtype)
            if len(self.tensors) == 100:
                self.tensors.clear()
            memory = (ctypes.c_char * (meta.numel() * meta.dtype.itemsize)).from_address(address)
            found = self.tensors[address, place] = torch.frombuffer(memory, dtype=meta.dtype).view(meta.shape)
        return found


_NUMBERS = itertools.count()
_CALLS: weakref.WeakValueDictionary[int, _Call] = weakref.WeakValueDictionary()


class Run:
    """One run of a program that has calls: the exceptions that they raise in it."""

    def __init__(self) -> None:
        self.raised: list[BaseException] = []
        self.number = next(_NUMBERS)
        _RUNS[self.number] = self

    @property
    def turn(self) -> Any:
        """The turn of the first call."""
        return np.asarray(self.number)


_RUNS: weakref.WeakValueDictionary[int, Run] = weakref.WeakValueDictionary()


def call(f: Effect, metas: list[torch.Tensor], arrays: list[Any], turn: Any) -> list[Any]:
    """Record a call of ``f`` in the program that jax is tracing; return the next turn, and the value if ``f`` has one."""
    jax = load()
    _register()
    number = jax.numpy.asarray(_Call(f, metas).number, "int64")
    made = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (turn, *(arrays if isinstance(f, ElementwiseCall) else ()))]
    return jax.ffi.ffi_call(_NAME, made, has_side_effect=True)(number, turn, *arrays)


def _structure(name: str, **fields: Any) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


_Version = _structure("_Version", size=c_size_t, extension=c_void_p, major=c_int, minor=c_int)
_Api = _structure("_Api", size=c_size_t, extension=c_void_p, version=_Version)
_Buffer = _structure("_Buffer", size=c_size_t, extension=c_void_p, dtype=c_int, data=c_void_p, rank=c_int64, shape=c_void_p)
_Buffers = _structure("_Buffers", size=c_size_t, extension=c_void_p, number=c_int64, kinds=c_void_p, buffers=POINTER(POINTER(_Buffer)))
_Metadata = _structure("_Metadata", size=c_size_t, version=_Version, traits=c_uint32)
_Extension = _structure("_Extension", size=c_size_t, kind=c_int, next=c_void_p, metadata=POINTER(_Metadata))
_Frame = _structure(
    "_Frame",
    size=c_size_t,
    extension=POINTER(_Extension),
    api=POINTER(_Api),
    context=c_void_p,
    stage=c_int,
    arguments=_Buffers,
    results=_Buffers,
)


@ctypes.CFUNCTYPE(c_void_p, POINTER(_Frame))
def _handle(pointer: Any) -> None:
    frame = pointer.contents
    if frame.extension:  # XLA asks for the version of the interface
        version, own = frame.extension.contents.metadata.contents.version, frame.api.contents.version
        version.major, version.minor = own.major, own.minor
        return
    arguments, results = frame.arguments.buffers, frame.results.buffers
    call, run = (c_int64.from_address(arguments[i].contents.data).value for i in range(2))
    c_int64.from_address(results[0].contents.data).value = run
    try:
        _CALLS[call](arguments, results, _RUNS[run])
    except BaseException as error:
        _RUNS[run].raised.append(error)


@functools.cache
def _register() -> None:
    jax = load()
    jax.ffi.register_ffi_target(_NAME, jax.ffi.pycapsule(_handle), platform="cpu")
